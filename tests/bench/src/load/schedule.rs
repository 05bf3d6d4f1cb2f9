//! When messages are due, and on which connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Gives out messages in the order in which they are due.
pub(super) enum Schedule {
    /// Exponential gaps, so that messages come independently of each other and of the answers.
    Open { due: Instant, mean: f64, connections: usize, next: usize, rng: fastrand::Rng },
    /// Each answer makes the next message due on its connection.
    Closed { ready: VecDeque<usize> },
}

impl Schedule {
    /// `rate` messages a second, on one connection after the other. The same every time.
    pub(super) fn open(start: Instant, rate: f64, connections: usize) -> Schedule {
        let rng = fastrand::Rng::with_seed(0x10ad);
        Schedule::Open { due: start, mean: 1.0 / rate, connections, next: 0, rng }
    }

    /// `window` messages outstanding on each connection.
    pub(super) fn closed(window: usize, connections: usize) -> Schedule {
        Schedule::Closed { ready: (0..window).flat_map(|_| 0..connections).collect() }
    }

    /// The next message that is due at `now` and before `end`: its connection, and since when.
    #[inline]
    pub(super) fn next(&mut self, now: Instant, end: Instant) -> Option<(usize, Instant)> {
        match self {
            Schedule::Open { due, mean, connections, next, rng } => {
                if *due > now || *due >= end {
                    return None;
                }
                let (connection, begin) = (*next, *due);
                *next = if connection + 1 == *connections { 0 } else { connection + 1 };
                // Of (0, 1], so that the logarithm is finite.
                let gap = *mean * -(1.0 - rng.f64()).ln();
                *due += Duration::from_secs_f64(gap);
                Some((connection, begin))
            }
            Schedule::Closed { ready } => {
                if now >= end {
                    return None;
                }
                ready.pop_front().map(|connection| (connection, now))
            }
        }
    }

    /// A message has come back.
    #[inline]
    pub(super) fn answered(&mut self, connection: usize) {
        if let Schedule::Closed { ready } = self {
            ready.push_back(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_schedule_keeps_its_rate_whatever_is_answered() {
        let start = Instant::now();
        let end = start + Duration::from_secs(1);
        let mut schedule = Schedule::open(start, 10_000.0, 3);
        let late = end + Duration::from_secs(1);
        let all: Vec<_> = std::iter::from_fn(|| schedule.next(late, end)).collect();
        assert!((9_600..10_400).contains(&all.len()), "{}", all.len());
        assert!(all.is_sorted_by_key(|(_, due)| *due));
        assert!(all.iter().all(|(_, due)| (start..end).contains(due)));
        assert!(all.iter().enumerate().all(|(index, (connection, _))| *connection == index % 3));
    }

    #[test]
    fn nothing_leaves_before_it_is_due() {
        let start = Instant::now();
        let mut schedule = Schedule::open(start, 1000.0, 1);
        let end = start + Duration::from_secs(9);
        assert_eq!(schedule.next(start, end), Some((0, start)));
        assert_eq!(schedule.next(start, end), None, "the gap is not zero");
    }

    #[test]
    fn a_closed_schedule_waits_for_answers() {
        let start = Instant::now();
        let end = start + Duration::from_secs(1);
        let mut schedule = Schedule::closed(2, 2);
        let all: Vec<_> = std::iter::from_fn(|| schedule.next(start, end)).map(|(at, _)| at).collect();
        assert_eq!(all, [0, 1, 0, 1]);
        schedule.answered(1);
        assert_eq!(schedule.next(start, end), Some((1, start)));
        schedule.answered(0);
        assert_eq!(schedule.next(end, end), None, "it is over");
    }
}
