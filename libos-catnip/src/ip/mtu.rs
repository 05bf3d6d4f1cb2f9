//! Learned path MTUs: RFC 1191, RFC 8201.
//!
//! Invariants: bounded; a path MTU is never below the least that IPv4 hosts have to take, or that IPv6 links have to
//! carry; it is forgotten after ten minutes, as the path may have become better.

use std::net::IpAddr;
use std::time::Duration;

use demi_api::time::Instant;
use hashbrown::HashMap;

use super::neighbours::Keyed;

/// Below this a path MTU for IPv4 is not believed.
pub(super) const LEAST_V4: usize = 552;
/// RFC 8200 §5.
pub(super) const LEAST_V6: usize = 1280;
/// RFC 1191 §6.3.
const AGE: Duration = Duration::from_secs(600);

/// The table.
#[derive(Debug)]
pub(super) struct PathMtus {
    known: HashMap<IpAddr, (u16, Instant), Keyed>,
    max: usize,
    /// When the oldest is to be forgotten, or earlier.
    due: Option<Instant>,
}

impl PathMtus {
    pub(super) fn new(max: usize, rng: &mut fastrand::Rng) -> PathMtus {
        PathMtus { known: HashMap::with_hasher(Keyed::new(rng)), max, due: None }
    }

    /// What the path to `remote` carries, at most `link`.
    pub(super) fn get(&self, remote: IpAddr, link: usize) -> usize {
        if self.known.is_empty() {
            return link;
        }
        self.known.get(&remote).map_or(link, |(mtu, _)| link.min((*mtu).into()))
    }

    /// Takes a smaller one for true. False: it is no news.
    pub(super) fn learn(&mut self, remote: IpAddr, mtu: usize, link: usize, now: Instant) -> bool {
        let mtu = mtu.max(if remote.is_ipv4() { LEAST_V4 } else { LEAST_V6 });
        if mtu >= self.get(remote, link) {
            return false;
        }
        if self.known.len() >= self.max && !self.known.contains_key(&remote) {
            let oldest = self.known.iter().min_by_key(|(_, (_, until))| *until).map(|(remote, _)| *remote);
            oldest.and_then(|oldest| self.known.remove(&oldest));
        }
        let until = now + AGE;
        self.known.insert(remote, (mtu as u16, until));
        self.due = Some(self.due.map_or(until, |due| due.min(until)));
        true
    }

    /// Forgets what is too old. True: something was.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        let before = self.known.len();
        self.known.retain(|_, (_, until)| now < *until);
        self.due = self.known.values().map(|(_, until)| *until).min();
        before != self.known.len()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_mtus_shrink_age_and_stay_few() {
        let mut mtus = PathMtus::new(4, &mut fastrand::Rng::with_seed(1));
        let remote = |n: u8| IpAddr::from([10, 0, 0, n]);
        let now = Instant::default();
        assert!(mtus.learn(remote(1), 1400, 1500, now));
        assert!(!mtus.learn(remote(1), 1450, 1500, now), "a path MTU does not grow by an error");
        assert!(mtus.learn(remote(1), 68, 1500, now));
        assert_eq!((mtus.get(remote(1), 1500), mtus.get(remote(2), 1500)), (LEAST_V4, 1500));
        assert!(mtus.learn("fd00::1".parse().unwrap(), 100, 1500, now));
        assert_eq!(mtus.get("fd00::1".parse().unwrap(), 1500), LEAST_V6);
        for n in 10..30 {
            assert!(mtus.learn(remote(n), 1000, 1500, now + Duration::from_secs(n.into())));
            assert!(mtus.known.len() <= 4);
        }
        assert_eq!((mtus.get(remote(29), 1500), mtus.get(remote(1), 1500)), (1000, 1500));
        assert!(
            mtus.expire(now + Duration::from_secs(629)) && mtus.known.is_empty() && mtus.deadline().is_none()
        );
    }
}
