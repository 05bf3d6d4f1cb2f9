//! Time as plain data. Whoever runs the wait loop says what time it is: nothing below reads a clock.

#[allow(unsafe_code, reason = "the block states its proof")]
mod raw;

use std::cell::Cell;
use std::ops::{Add, Sub};
use std::rc::Rc;
use std::time::Duration;

/// Nanoseconds since some fixed moment of this instance's clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    /// The moment `nanos` nanoseconds after the clock's zero.
    #[inline]
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// Nanoseconds since the clock's zero.
    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Nanoseconds passed since `earlier`; zero if that lies ahead.
    #[inline]
    pub const fn nanos_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Time passed since `earlier`; zero if that lies ahead.
    #[inline]
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    #[inline]
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    #[inline]
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

/// A clock: the operating system's monotonic one, counted from its creation, or one that is set by hand.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    /// When it was created.
    System(u64),
    Manual(Rc<Cell<Instant>>),
}

impl Clock {
    /// A clock that starts at zero now.
    pub fn start() -> Clock {
        Clock(Source::System(raw::monotonic()))
    }

    /// A clock that stands at `now` until it is [set](Clock::set); its clones stand with it. For simulations.
    pub fn manual(now: Instant) -> Clock {
        Clock(Source::Manual(Rc::new(Cell::new(now))))
    }

    /// Sets a manual clock; without effect on another.
    pub fn set(&self, now: Instant) {
        if let Source::Manual(time) = &self.0 {
            time.set(now);
        }
    }

    /// What time it is. One vDSO call, about 25 ns.
    // By the standard library: rustix's own way to the vDSO does not survive valgrind.
    #[inline]
    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::System(start) => Instant(raw::monotonic() - start),
            Source::Manual(time) => time.get(),
        }
    }
}
