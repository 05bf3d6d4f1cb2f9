//! SYN cookies: RFC 4987 §3.6. A handshake of which this side keeps nothing until it is over.
//!
//! What is to be remembered of a SYN travels in the sequence number and in the timestamp of its answer, both of which the
//! peer's acknowledgement brings back:
//!
//! ```text
//!  sequence number   31     27 26 24 23                             0
//!                   ┌─────────┬─────┬────────────────────────────────┐
//!                   │ period  │ MSS │ a keyed hash of all of it      │
//!                   └─────────┴─────┴────────────────────────────────┘
//!  timestamp         31                          6   5     4   3     0
//!                   ┌──────────────────────────────┬─────┬────┬───────┐
//!                   │ the clock, rounded down      │ ECN │SACK│ shift │
//!                   └──────────────────────────────┴─────┴────┴───────┘
//! ```
//!
//! Invariant: what [`Cookies::open`] yields is what [`Cookies::make`] was given within the last two periods, for the same
//! ends and the same initial sequence number of the peer's, but for one guess in 2^23. Not in here: when to use them.

use std::hash::Hasher;
use std::time::Duration;

use demi_api::time::Instant;
use siphasher::sip::SipHasher13;

use super::demux::{Ends, write_ends};
use super::seq::SeqNum;

/// A cookie is good in the period that it was made in and in the next one.
const PERIOD: Duration = Duration::from_secs(64);

/// For how long a cookie can be good.
pub(super) const LIFETIME: Duration = Duration::from_secs(2 * 64);

/// The segment sizes that there is room for: what a peer says is rounded down to one of these. Those of Ethernet, of
/// Ethernet with tunnels, of jumbo frames; the minima of IPv4 and IPv6; and the least that is taken for true.
const SIZES: [u16; 8] = [super::LEAST_MSS, 536, 1220, 1360, 1440, 1460, 4036, 8940];

/// Bits of a timestamp that are not the clock's.
const LOW: u32 = 0x3f;

/// No window scaling: shifts end at 14.
const UNSCALED: u8 = 15;

/// What a SYN said by options that only a timestamp has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extras {
    pub(super) window_scale: Option<u8>,
    pub(super) sack: bool,
    pub(super) ecn: bool,
}

impl Extras {
    fn bits(self) -> u32 {
        u32::from(self.window_scale.unwrap_or(UNSCALED))
            | u32::from(self.sack) << 4
            | u32::from(self.ecn) << 5
    }

    fn from_bits(bits: u32) -> Extras {
        let shift = (bits & 15) as u8;
        Extras {
            window_scale: (shift != UNSCALED).then_some(shift),
            sack: bits >> 4 & 1 == 1,
            ecn: bits >> 5 & 1 == 1,
        }
    }

    /// The clock with these in its low bits, and not ahead of it: timestamps do not go back (RFC 7323 §5.4).
    pub(super) fn stamp(self, clock: u32) -> u32 {
        let stamp = clock & !LOW | self.bits();
        if self.bits() > clock & LOW { stamp.wrapping_sub(LOW + 1) } else { stamp }
    }
}

/// What a handshake is about, besides what is kept of the peer's SYN.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) ends: &'a Ends,
    /// The peer's initial sequence number.
    pub(super) irs: SeqNum,
    /// The shift that this side has offered: a listener's receive buffer may have been set anew since.
    pub(super) recv_shift: u8,
}

/// The secret of one instance.
#[derive(Debug)]
pub(super) struct Cookies {
    keys: (u64, u64),
}

impl Cookies {
    pub(super) fn new(rng: &mut fastrand::Rng) -> Cookies {
        Cookies { keys: (rng.u64(..), rng.u64(..)) }
    }

    /// The initial sequence number that stands for a SYN.
    pub(super) fn make(&self, about: About<'_>, mss: u16, extras: Option<Extras>, now: Instant) -> SeqNum {
        let size = SIZES.iter().rposition(|&size| size <= mss).unwrap_or(0) as u32;
        let period = period(now);
        SeqNum(period << 27 | size << 24 | self.hash(about, period, size, extras.map(Extras::bits)))
    }

    /// What the SYN said that `cookie` stands for, where `echo` came back in the timestamps option. `None`: it is no
    /// cookie of ours, or too old.
    pub(super) fn open(
        &self,
        about: About<'_>,
        cookie: SeqNum,
        echo: Option<u32>,
        now: Instant,
    ) -> Option<(u16, Option<Extras>)> {
        let current = period(now);
        let age = current.wrapping_sub(cookie.0 >> 27) & 31;
        if age > 1 {
            return None;
        }
        let size = cookie.0 >> 24 & 7;
        let bits = echo.map(|echo| echo & LOW);
        if self.hash(about, current.wrapping_sub(age), size, bits) != cookie.0 & 0xff_ffff {
            return None;
        }
        Some((SIZES[size as usize], bits.map(Extras::from_bits)))
    }

    fn hash(&self, about: About<'_>, period: u32, size: u32, extras: Option<u32>) -> u32 {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        write_ends(&mut hasher, about.ends);
        hasher.write_u32(about.irs.0);
        hasher.write_u32(period);
        hasher.write_u32(extras.unwrap_or(u32::MAX) << 16 | size << 8 | u32::from(about.recv_shift));
        hasher.finish() as u32 & 0xff_ffff
    }
}

fn period(now: Instant) -> u32 {
    (now.as_nanos() / PERIOD.as_nanos() as u64) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(port: u16) -> Ends {
        Ends { local: [10, 0, 0, 1].into(), remote: [10, 0, 0, 2].into(), local_port: 80, remote_port: port }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    prop_compose! {
        fn extras()(shift in prop::option::of(0..=14u8), sack: bool, ecn: bool) -> Extras {
            Extras { window_scale: shift, sack, ecn }
        }
    }

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(
            seed: u64, port: u16, irs: u32, mss: u16, clock: u32, extras in prop::option::of(extras()),
            recv_shift in 0..=14u8, made in 0..1u64 << 34, later in 0..64u64,
        ) {
            let cookies = Cookies::new(&mut fastrand::Rng::with_seed(seed));
            let ends = ends(port);
            let about = About { ends: &ends, irs: SeqNum(irs), recv_shift };
            let cookie = cookies.make(about, mss, extras, at(made));
            let stamp = extras.map(|extras| extras.stamp(clock));
            let (size, found) = cookies.open(about, cookie, stamp, at(made + later)).unwrap();
            prop_assert!(size <= mss.max(SIZES[0]));
            prop_assert!(SIZES.iter().all(|&other| other <= size || other > mss), "{} for {}", size, mss);
            prop_assert_eq!(found, extras);
            if let Some(stamp) = stamp {
                prop_assert!(clock.wrapping_sub(stamp) < 128, "behind the clock, and not by much");
            }
        }
    }

    #[test]
    fn another_peer_number_option_or_secret_opens_nothing() {
        let cookies = Cookies::new(&mut fastrand::Rng::with_seed(1));
        let mut wrong = 0;
        for port in 1..2000 {
            let (ends, other) = (ends(port), ends(port + 1));
            let about = About { ends: &ends, irs: SeqNum(77), recv_shift: 5 };
            let cookie = cookies.make(about, 1460, None, at(1000));
            let opened = [
                cookies.open(About { ends: &other, ..about }, cookie, None, at(1000)),
                cookies.open(About { irs: SeqNum(78), ..about }, cookie, None, at(1000)),
                cookies.open(About { recv_shift: 4, ..about }, cookie, None, at(1000)),
                cookies.open(about, cookie, Some(0), at(1000)),
                cookies.open(about, cookie + (1 << 24), None, at(1000)),
                Cookies::new(&mut fastrand::Rng::with_seed(2)).open(about, cookie, None, at(1000)),
            ];
            wrong += opened.iter().flatten().count();
        }
        assert!(wrong <= 1, "{wrong} of 12,000 guesses among 2^24");
    }

    #[test]
    fn a_cookie_is_good_for_one_to_two_periods() {
        let cookies = Cookies::new(&mut fastrand::Rng::with_seed(1));
        let ends = ends(1);
        let about = About { ends: &ends, irs: SeqNum(u32::MAX), recv_shift: 0 };
        for made in [0, 63, 64, 64 * 31 + 63, 64 * 32] {
            let cookie = cookies.make(about, 536, None, at(made));
            let good = |later| cookies.open(about, cookie, None, at(made + later)).is_some();
            assert!(good(0) && good(64), "made at {made}");
            assert!(!good(LIFETIME.as_secs()) && !good(64 * 33), "made at {made}");
        }
    }
}
