//! Pushes long after the last turn of the wait loop.
//!
//! A push does not read the clock, which would cost more than the rest of its way down: what it sends bears the time of
//! the last turn. Between that turn and the next one the application may have computed for long, and when it pushed is not
//! known. So the next turn notes such a gap, and whoever meets a time at which one began knows what it is worth. A call
//! that reads the clock in between divides the gap: what is pushed after it bears that time.
//!
//! Invariant: of the latest gaps, none is missing that lasted for [`STALE`] or longer and had a push in it.

use std::cmp::Ordering;

use demi_api::time::Instant;

/// Turns follow each other within microseconds while an application waits or answers. A gap below this is as good as
/// none. In nanoseconds.
const STALE: u64 = 20_000;

/// Gaps that are remembered. More of them in one round trip are short compared with it.
const KEPT: usize = 16;

const NEVER: Instant = Instant::from_nanos(u64::MAX);

#[derive(Debug)]
pub(crate) struct Gaps {
    /// The time that pushes since the last turn bear.
    pushed: Instant,
    /// When the newest gap began, and ended.
    newest: Instant,
    newest_end: Instant,
    /// Beginnings and ends.
    kept: [(Instant, Instant); KEPT],
    next: usize,
}

impl Default for Gaps {
    fn default() -> Gaps {
        Gaps {
            pushed: NEVER,
            newest: Instant::default(),
            newest_end: NEVER,
            kept: [(NEVER, NEVER); KEPT],
            next: 0,
        }
    }
}

impl Gaps {
    /// Something is pushed that bears this time.
    #[inline]
    pub(crate) fn push(&mut self, now: Instant) {
        // `NEVER` is later than any time.
        if self.pushed < now {
            self.turn(now);
        }
        self.pushed = now;
    }

    /// A turn begins.
    #[inline]
    pub(crate) fn turn(&mut self, now: Instant) {
        let since = std::mem::replace(&mut self.pushed, NEVER);
        if now.nanos_since(since) >= STALE {
            self.note(since, now);
        }
    }

    #[cold]
    fn note(&mut self, begin: Instant, end: Instant) {
        (self.newest, self.newest_end) = (begin, end);
        self.kept[self.next] = (begin, end);
        self.next = (self.next + 1) % KEPT;
    }

    /// What bears this time was done by the time that is returned. `None`: it was done then.
    #[inline]
    pub(crate) fn end(&self, at: Instant) -> Option<Instant> {
        match at.cmp(&self.newest) {
            Ordering::Greater => None,
            Ordering::Equal if self.newest_end != NEVER => Some(self.newest_end),
            Ordering::Equal | Ordering::Less => self.find(at),
        }
    }

    #[cold]
    fn find(&self, at: Instant) -> Option<Instant> {
        self.kept.iter().find(|(begin, _)| *begin == at).map(|(_, end)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1000)
    }

    #[test]
    fn a_gap_with_a_push_in_it_is_known_by_its_beginning() {
        let mut gaps = Gaps::default();
        gaps.turn(at(100));
        // A wait, or a sleep: nothing was pushed.
        gaps.turn(at(900));
        assert_eq!(gaps.end(at(100)), None);
        gaps.push(at(900));
        gaps.turn(at(905));
        assert_eq!(gaps.end(at(900)), None, "too short to matter");
        gaps.push(at(905));
        gaps.push(at(905));
        gaps.turn(at(2000));
        assert_eq!((gaps.end(at(905)), gaps.end(at(904)), gaps.end(at(2000))), (Some(at(2000)), None, None));
    }

    #[test]
    fn a_gap_that_is_divided_is_two() {
        let mut gaps = Gaps::default();
        gaps.push(at(100));
        gaps.push(at(600));
        gaps.push(at(600));
        gaps.turn(at(1000));
        assert_eq!((gaps.end(at(100)), gaps.end(at(600))), (Some(at(600)), Some(at(1000))));
    }

    #[test]
    fn the_latest_gaps_are_kept() {
        let mut gaps = Gaps::default();
        for begin in 1..=100 {
            gaps.push(at(begin * 1000));
            gaps.turn(at(begin * 1000 + 500));
        }
        let known = (1..=100).filter(|begin| gaps.end(at(begin * 1000)) == Some(at(begin * 1000 + 500)));
        assert!(known.eq(101 - KEPT as u64..=100));
    }
}
