//! Who has which port: found by index, as every datagram and every segment for nobody asks.
//!
//! Instances that share an interface, and so its addresses, choose ports from classes of their own: what one chooses no
//! other has.
//!
//! Invariant: a page of 256 ports exists only once one of them was taken.

use std::net::{IpAddr, SocketAddr};

use demi_api::slab::Key;

use crate::device::xdp::Spread;

const PAGE: usize = 256;

/// The sockets of each port; few share one.
#[derive(Debug)]
pub(crate) struct Ports {
    pages: [Option<Box<[Vec<Key>; PAGE]>>; PAGE],
}

impl Ports {
    pub(crate) fn new() -> Ports {
        Ports { pages: [const { None }; PAGE] }
    }

    /// The sockets of a port, in the order in which they took it.
    #[inline]
    pub(crate) fn get(&self, port: u16) -> &[Key] {
        let [page, place] = port.to_be_bytes();
        match &self.pages[usize::from(page)] {
            Some(page) => &page[usize::from(place)],
            None => &[],
        }
    }

    pub(crate) fn add(&mut self, port: u16, key: Key) {
        let [page, place] = port.to_be_bytes();
        let page =
            self.pages[usize::from(page)].get_or_insert_with(|| Box::new([const { Vec::new() }; PAGE]));
        page[usize::from(place)].push(key);
    }

    /// Without effect if the socket does not have the port.
    pub(crate) fn remove(&mut self, port: u16, key: Key) {
        let [page, place] = port.to_be_bytes();
        if let Some(page) = &mut self.pages[usize::from(page)] {
            page[usize::from(place)].retain(|other| *other != key);
        }
    }
}

/// Which of `count` sockets that share a port hears of a peer: always the same one.
pub(crate) fn share(peer: SocketAddr, count: usize) -> usize {
    let addr = match peer.ip() {
        IpAddr::V4(addr) => addr.to_bits().into(),
        IpAddr::V6(addr) => (addr.to_bits() ^ addr.to_bits() >> 64) as u64,
    };
    let mixed = (addr << 16 ^ u64::from(peer.port())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (((mixed >> 32) * count as u64) >> 32) as usize
}

/// Which ports an instance may choose for itself: all, or those whose remainder by the number of the interface's queues
/// is a queue of its own. Among those, the ones by which a peer's answers come to such a queue, if that is known.
#[derive(Clone, Debug)]
pub(crate) struct PortClass {
    queues: u16,
    own: [bool; PAGE],
    spread: Option<Spread>,
}

impl PortClass {
    /// All ports.
    pub(crate) fn all() -> PortClass {
        PortClass { queues: 1, own: [true; PAGE], spread: None }
    }

    /// Those of the queues `own`, of as many as `queues`.
    pub(crate) fn new(queues: u32, own: &[u32], spread: Option<Spread>) -> PortClass {
        let queues = queues.clamp(1, PAGE as u32) as u16;
        PortClass { queues, own: std::array::from_fn(|queue| own.contains(&(queue as u32))), spread }
    }

    pub(crate) fn has(&self, port: u16) -> bool {
        self.own[usize::from(port % self.queues)]
    }

    /// Whether what `peer` sends to `local` comes to a queue of this instance's, as far as is known.
    pub(crate) fn comes_home(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        let queue = self.spread.as_ref().and_then(|spread| spread.queue(local, peer));
        queue.is_none_or(|queue| self.own.get(queue as usize).is_some_and(|own| *own))
    }
}

#[cfg(test)]
mod tests {
    use demi_api::slab::Slab;

    use super::*;
    use crate::device::xdp::spread::tests::spread;

    #[test]
    fn peers_are_shared_out_evenly() {
        let mut counts = [0; 3];
        for port in 1..30_000 {
            counts[share(SocketAddr::new([10, 0, 0, 1].into(), port), 3)] += 1;
        }
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
        assert_eq!(share(SocketAddr::new([0; 16].into(), u16::MAX), 1), 0);
    }

    #[test]
    fn every_port_is_of_one_class() {
        let parts = [vec![0, 3], vec![1, 4], vec![2]];
        let classes = parts.map(|own| PortClass::new(5, &own, None));
        for port in 0..=u16::MAX {
            assert_eq!(classes.iter().filter(|class| class.has(port)).count(), 1);
            assert!(PortClass::all().has(port));
        }
        assert!(classes[1].has(49_154) && PortClass::new(256, &[255], None).has(u16::MAX));
    }

    #[test]
    fn answers_come_home_by_some_ports_of_every_class() {
        let queues = 8;
        let peer = "10.0.0.2:80".parse().unwrap();
        for own in 0..queues {
            let class = PortClass::new(queues, &[own], Some(spread(queues)));
            let of_class = (49_152..=u16::MAX).filter(|port| class.has(*port));
            let home = of_class
                .filter(|port| class.comes_home(SocketAddr::new([10, 0, 0, 1].into(), *port), peer))
                .count();
            assert!((128..512).contains(&home), "an eighth of 2048: {home}");
            assert!(
                PortClass::new(queues, &[own], None).comes_home(peer, peer),
                "what is not known is no obstacle"
            );
        }
    }

    #[test]
    fn every_port_keeps_its_own_sockets() {
        let mut slab = Slab::new();
        let keys: Vec<_> = (0..4).map(|n| slab.insert(n)).collect();
        let mut ports = Ports::new();
        for port in [0, 255, 256, 65535] {
            assert!(ports.get(port).is_empty());
            keys.iter().for_each(|key| ports.add(port, *key));
        }
        ports.remove(255, keys[1]);
        ports.remove(257, keys[1]);
        assert_eq!(ports.get(255), [keys[0], keys[2], keys[3]]);
        assert_eq!(ports.get(256), keys);
        assert!(ports.get(254).is_empty() && ports.get(257).is_empty());
    }
}
