//! Two stacks on a wire, frames made by hand, and a clock that jumps.

mod allocation;
mod arp;
mod dhcp;
mod hostile;
mod kernel;
mod sys;
mod v4;
mod v6;

use std::time::Duration;

use demi_api::memalloc::{Heap, HeapConfig};
use demi_api::token::Completions;

use super::*;

pub(super) const MTU: usize = 1500;

/// A stack with all that it needs.
pub(super) struct Host {
    pub(super) ip: Ip,
    pub(super) heap: Heap,
    pub(super) now: Instant,
    rng: fastrand::Rng,
    done: Completions,
}

pub(super) fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

pub(super) fn caps(n: u8) -> Caps {
    Caps { mac: mac(n), mtu: MTU, max_segs: 8, max_seg_len: usize::MAX, tx_checksum: false, zero_copy: true }
}

pub(super) fn config(addresses: &[&str]) -> IpConfig {
    IpConfig { addresses: addresses.iter().map(|addr| addr.to_string()).collect(), ..IpConfig::default() }
}

pub(super) fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn heap() -> Heap {
    Heap::new(&HeapConfig { size: 8 << 20, lock: false, ..HeapConfig::default() }).unwrap()
}

impl Host {
    pub(super) fn with(n: u8, config: &IpConfig, caps: &Caps, heap: &Heap) -> Host {
        let mut rng = fastrand::Rng::with_seed(n.into());
        let ip = Ip::new(config, caps, &mut rng).unwrap();
        let now = Instant::from_nanos(1_000_000_000);
        Host { ip, heap: heap.clone(), now, rng, done: Completions::new(16) }
    }

    pub(super) fn new(n: u8, addresses: &[&str]) -> Host {
        Host::with(n, &config(addresses), &caps(n), &heap())
    }

    /// One that has made its addresses known already, and is silent.
    pub(super) fn settled(n: u8, addresses: &[&str]) -> Host {
        let mut host = Host::new(n, addresses);
        host.settle();
        host
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..10 {
            self.poll();
            self.now = self.now + Duration::from_secs(1);
        }
        self.take();
    }

    pub(super) fn run<R>(&mut self, f: impl FnOnce(&mut Ip, &mut Cx<'_>) -> R) -> R {
        let mut cx = Cx { heap: &self.heap, now: self.now, rng: &mut self.rng, done: &mut self.done };
        f(&mut self.ip, &mut cx)
    }

    pub(super) fn poll(&mut self) -> usize {
        self.run(|ip, cx| ip.poll(cx))
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.poll();
    }

    /// Hands in a frame.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Received {
        let frame = Frame::new(SgArray::copy_from(&self.heap, bytes).unwrap());
        self.run(|ip, cx| ip.receive(cx, frame))
    }

    /// The frames that it wants transmitted.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.ip.outbox).into_iter().map(|frame| frame.data.to_vec()).collect()
    }

    pub(super) fn next(&mut self) -> Received {
        self.run(|ip, cx| ip.next(cx))
    }

    pub(super) fn counter(&self, name: &str) -> u64 {
        let mut found = None;
        self.ip.counters(&mut |counter, value| {
            if counter == name {
                found = Some(value);
            }
        });
        found.unwrap_or_else(|| panic!("there is no counter {name}"))
    }

    pub(super) fn packet(&self, path: &Path, head: &[u8], body: &[u8]) -> Packet {
        let mut buf = self.heap.alloc(path.headroom() + head.len()).unwrap();
        buf[path.headroom()..].copy_from_slice(head);
        let body =
            if body.is_empty() { SgArray::new() } else { SgArray::copy_from(&self.heap, body).unwrap() };
        Packet { head: buf, body, protocol: UDP, ecn: 0, dont_fragment: true, checksum: Checksum::Unknown }
    }

    /// Sends bytes as if they were UDP.
    pub(super) fn send(&mut self, to: &str, bytes: &[u8]) -> Path {
        let mut path = self.run(|ip, cx| ip.path(cx, None, addr(to))).unwrap();
        let packet = self.packet(&path, bytes, &[]);
        self.run(|ip, cx| ip.send(cx, &mut path, packet));
        path
    }
}

/// Carries frames to and fro until nobody has any; what the transports got is the result, for each host in turn.
pub(super) fn exchange(hosts: &mut [&mut Host]) -> Vec<Vec<Received>> {
    let mut got: Vec<Vec<Received>> = hosts.iter().map(|_| Vec::new()).collect();
    for _ in 0..1000 {
        let mut moved = false;
        for from in 0..hosts.len() {
            hosts[from].poll();
            loop {
                match hosts[from].next() {
                    Received::Nothing => break,
                    other => got[from].push(other),
                }
            }
            for frame in hosts[from].take() {
                moved = true;
                for (to, host) in hosts.iter_mut().enumerate().filter(|(to, _)| *to != from) {
                    match host.hear(&frame) {
                        Received::Nothing => {}
                        other => got[to].push(other),
                    }
                }
            }
        }
        if !moved {
            return got;
        }
    }
    panic!("the hosts do not fall silent");
}

pub(super) fn datagram(received: Received) -> Datagram {
    match received {
        Received::Transport(datagram) => datagram,
        other => panic!("not a datagram: {other:?}"),
    }
}

pub(super) fn problem(received: Received) -> Problem {
    match received {
        Received::Problem(problem) => problem,
        other => panic!("not a problem: {other:?}"),
    }
}

/// An Ethernet frame from host `from` to host `to`.
pub(super) fn ethernet(from: u8, to: [u8; 6], protocol: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &mac(from), &protocol.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with a right checksum.
pub(super) fn ipv4(from: [u8; 4], to: [u8; 4], protocol: u8, flags: u16, payload: &[u8]) -> Vec<u8> {
    ipv4_options(from, to, protocol, flags, &[], payload)
}

pub(super) fn ipv4_options(
    from: [u8; 4],
    to: [u8; 4],
    protocol: u8,
    flags: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4));
    let header_len = 20 + options.len();
    let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
    packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(flags.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from);
    packet.extend(to);
    packet.extend(options);
    let sum = !checksum::fold(checksum::sum(&packet));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet.
pub(super) fn ipv6(from: &str, to: &str, protocol: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([protocol, hop_limit]);
    packet.extend(octets(from));
    packet.extend(octets(to));
    packet.extend(payload);
    packet
}

/// An ICMPv6 packet with a right checksum.
pub(super) fn icmpv6(from: &str, to: &str, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let pseudo = path::pseudo_sum(addr(from), addr(to), ICMP6, message.len());
    ipv6(from, to, ICMP6, hop_limit, &summed(message.to_vec(), pseudo))
}

/// Fills in the checksum of an ICMP message.
pub(super) fn summed(mut message: Vec<u8>, pseudo: u32) -> Vec<u8> {
    message[2..4].fill(0);
    let sum = !checksum::fold(pseudo + checksum::sum(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}
