//! Which connection a segment is for, which local port a new one gets, and where its sequence numbers begin.
//!
//! The table is open to whoever can send packets: it is hashed with a key of this instance's own.

use std::cell::Cell;
use std::hash::Hasher;
use std::net::IpAddr;

use demi_api::slab::Key;
use demi_api::time::Instant;
use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::seq::SeqNum;

/// The first of the dynamic ports: RFC 6335 §6.
const FIRST_PORT: u16 = 49152;

/// Both ends of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
}

#[derive(Debug)]
pub(crate) struct Demux {
    table: HashTable<(Ends, Key)>,
    /// What was found last: segments come in runs.
    last: Cell<Option<(Ends, Key)>>,
    keys: (u64, u64),
    /// RFC 6528's secret, apart from that of the table.
    secret: (u64, u64),
}

impl Demux {
    pub(crate) fn new(rng: &mut fastrand::Rng) -> Demux {
        Demux {
            table: HashTable::new(),
            last: Cell::new(None),
            keys: (rng.u64(..), rng.u64(..)),
            secret: (rng.u64(..), rng.u64(..)),
        }
    }

    #[inline]
    pub(crate) fn find(&self, ends: &Ends) -> Option<Key> {
        match self.last.get() {
            Some((last, key)) if last == *ends => Some(key),
            _ => self.look_up(ends),
        }
    }

    #[inline(never)]
    fn look_up(&self, ends: &Ends) -> Option<Key> {
        let found = self.table.find(hash(self.keys, ends), |(other, _)| other == ends)?;
        self.last.set(Some(*found));
        Some(found.1)
    }

    pub(crate) fn insert(&mut self, ends: Ends, key: Key) {
        let keys = self.keys;
        self.table.insert_unique(hash(keys, &ends), (ends, key), |(ends, _)| hash(keys, ends));
    }

    /// Takes the entry out, if it is this connection's.
    pub(crate) fn remove(&mut self, ends: &Ends, key: Key) {
        self.last.set(None);
        let entry = self.table.find_entry(hash(self.keys, ends), |(other, of)| other == ends && *of == key);
        if let Ok(entry) = entry {
            entry.remove();
        }
    }

    /// RFC 6528 §3: a clock of 4 µs, and a number that only this instance can know for these ends.
    pub(crate) fn initial(&self, ends: &Ends, now: Instant) -> SeqNum {
        let ticks = (now.as_nanos() / 4000) as u32;
        SeqNum(ticks.wrapping_add(hash(self.secret, ends) as u32))
    }

    /// The offset of a connection's timestamps: the same for the same ends, so that they rise from one connection to
    /// the next (RFC 7323 §5.4), and without meaning for others.
    pub(crate) fn timestamp_offset(&self, ends: &Ends) -> u32 {
        (hash(self.secret, ends) >> 32) as u32
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}

/// A local port that `is_free`: RFC 6056 §3.3.1, from a random one on. `None`: there is none.
pub(super) fn pick_port(rng: &mut fastrand::Rng, mut is_free: impl FnMut(u16) -> bool) -> Option<u16> {
    let count = u32::from(u16::MAX - FIRST_PORT) + 1;
    let begin = rng.u32(..count);
    (0..count).map(|step| FIRST_PORT + ((begin + step) % count) as u16).find(|port| is_free(*port))
}

#[inline]
fn hash(keys: (u64, u64), ends: &Ends) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(keys.0, keys.1);
    write_ends(&mut hasher, ends);
    hasher.finish()
}

#[inline]
pub(super) fn write_ends(hasher: &mut SipHasher13, ends: &Ends) {
    hasher.write_u32(u32::from(ends.local_port) << 16 | u32::from(ends.remote_port));
    // The local address adds little: most instances have one.
    for addr in [ends.remote, ends.local] {
        match addr {
            IpAddr::V4(addr) => hasher.write_u32(addr.to_bits()),
            IpAddr::V6(addr) => hasher.write_u128(addr.to_bits()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6056_ports_are_random_and_the_last_one_is_found() {
        let mut rng = fastrand::Rng::with_seed(1);
        let ports: Vec<u16> = (0..1000).filter_map(|_| pick_port(&mut rng, |_| true)).collect();
        let near = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 164).count();
        assert!(ports.len() == 1000 && ports.iter().all(|port| *port >= FIRST_PORT));
        assert!((5..50).contains(&near), "one in fifty is within a hundredth: {near}");
        assert_eq!(pick_port(&mut rng, |port| port == FIRST_PORT), Some(FIRST_PORT));
        assert_eq!(pick_port(&mut rng, |port| port == u16::MAX), Some(u16::MAX));
        assert_eq!(pick_port(&mut rng, |_| false), None);
    }

    #[test]
    fn rfc6528_numbers_rise_for_the_same_ends_and_tell_nothing_of_others() {
        let demux = Demux::new(&mut fastrand::Rng::with_seed(1));
        let ends = |port| Ends {
            local: [10, 0, 0, 1].into(),
            remote: [10, 0, 0, 2].into(),
            local_port: port,
            remote_port: 80,
        };
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let first = demux.initial(&ends(1), at(5));
        assert_eq!(demux.initial(&ends(1), at(9)) - first, 1000, "250 for a millisecond");
        assert!((2..100).all(|port| (demux.initial(&ends(port), at(5)) - first).abs_diff(0) > 1000));
    }

    #[test]
    fn rfc6528_3_initial_numbers_depend_on_the_secret_and_on_all_of_the_ends() {
        let demux = |seed| Demux::new(&mut fastrand::Rng::with_seed(seed));
        let ends = Ends {
            local: IpAddr::from([10, 0, 0, 1]),
            remote: IpAddr::from([10, 0, 0, 2]),
            local_port: 80,
            remote_port: 4000,
        };
        let now = Instant::from_nanos(0);
        let first = demux(1).initial(&ends, now);
        assert_eq!(first, demux(1).initial(&ends, now));
        assert_ne!(first, demux(2).initial(&ends, now), "the secret");
        let others = [
            Ends { local: IpAddr::from([10, 0, 0, 3]), ..ends },
            Ends { remote: IpAddr::from([10, 0, 0, 3]), ..ends },
            Ends { local_port: 81, ..ends },
            Ends { remote_port: 4001, ..ends },
        ];
        for other in others {
            assert_ne!(first, demux(1).initial(&other, now), "{other:?}");
        }
    }
}
