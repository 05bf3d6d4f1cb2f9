//! Waiting: spin, then sleep on the instance's descriptor, the kernel's and what other threads wake us with, all at once.
//!
//! Invariants: nobody sleeps with the lock. A thread sleeps only after it has entered itself where it waits, had the
//! instance prepared for sleep and found nothing, all under one hold of the lock: what happens later is told to it, or
//! makes a descriptor readable. Signals are blocked from the first fruitless look to the end, except in the sleep
//! itself, so that none is missed between the two.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use demi_api::slab::Key;
use libc::{pollfd, sigset_t};
use rustix::io::Errno;

use crate::carrier::Carrier;
use crate::local::{self, Outside};
use crate::shim::Shim;
use crate::state::State;
use crate::sys::{self, Blocked};

/// While spinning the kernel's descriptors are looked at once in so many turns.
const TURNS_PER_LOOK: u32 = 64;

/// Longest sleep of a thread that nobody can wake.
const DEAF: Duration = Duration::from_millis(1);

/// What somebody waits for.
pub(crate) struct Sleep<'a> {
    pub(crate) keys: &'a [Key],
    /// Descriptors of the kernel's that end the sleep.
    pub(crate) kernel: &'a [pollfd],
    pub(crate) until: Option<Instant>,
    /// The signal mask of the sleep, if not the thread's.
    pub(crate) mask: Option<&'a sigset_t>,
}

/// How long to spin before a sleep: it grows when sleeps turn out short, and shrinks when they turn out long, between the
/// bounds of `[wait]`.
pub(crate) struct Spin {
    nanos: AtomicU64,
    /// Somebody spins: nobody else need.
    taken: AtomicBool,
}

impl Spin {
    pub(crate) const fn new() -> Spin {
        Spin { nanos: AtomicU64::new(u64::MAX), taken: AtomicBool::new(false) }
    }

    pub(crate) fn forget(&self) {
        self.taken.store(false, Ordering::Relaxed);
    }

    fn begin(&self) -> bool {
        !self.taken.swap(true, Ordering::Relaxed)
    }

    fn end(&self) {
        self.taken.store(false, Ordering::Relaxed);
    }

    fn time(&self, bounds: (Duration, Duration)) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).clamp(bounds.0, bounds.1)
    }

    fn adapt(&self, slept: Duration, bounds: (Duration, Duration)) {
        let time = self.time(bounds);
        let time = if slept < bounds.1 { time.saturating_mul(2) } else { time / 2 };
        let time = time.max(bounds.0).max(Duration::from_micros(1)).min(bounds.1);
        self.nanos.store(time.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl<C: Carrier> Shim<C> {
    /// Waits until `ready` yields something. It is told whether to look at the kernel's descriptors too. `TIMEDOUT` if
    /// the time is up, `INTR` if a signal came.
    pub(crate) fn wait<T>(
        &'static self,
        sleep: &Sleep<'_>,
        mut ready: impl FnMut(&mut State<C>, bool) -> Option<T>,
    ) -> Result<T, Errno> {
        let blocked = Blocked::new();
        let mask = sleep.mask.unwrap_or(blocked.before());
        let waker = local::waker();
        let mut fds = Vec::with_capacity(sleep.kernel.len() + 2);
        let mut since = Instant::now();
        let spinning = self.spin.begin();
        let mut turns = 0u32;
        let mut interrupted = false;
        let result = loop {
            let mut state = self.lock();
            state.pump();
            let bounds = state.spin_bounds();
            let now = Instant::now();
            let is_over = sleep.until.is_some_and(|until| now >= until);
            let spins = spinning && !interrupted && !is_over && now - since < self.spin.time(bounds);
            turns += 1;
            if let Some(value) = ready(&mut state, !spins || turns % TURNS_PER_LOOK == 1) {
                break Ok(value);
            }
            if interrupted {
                break Err(Errno::INTR);
            }
            if is_over {
                break Err(Errno::TIMEDOUT);
            }
            if spins {
                drop(state);
                std::hint::spin_loop();
                continue;
            }
            let (device, limit) = if state.has_instance() {
                match state.prepare_sleep() {
                    Some(prepared) => prepared,
                    None => continue,
                }
            } else {
                (-1, None)
            };
            let sleeper = state.fall_asleep(sleep.keys, waker, limit);
            drop(state);
            fds.clear();
            for fd in [device, waker.unwrap_or(-1)].into_iter().filter(|fd| *fd >= 0) {
                fds.push(pollfd { fd, events: libc::POLLIN, revents: 0 });
            }
            fds.extend(sleep.kernel.iter().filter(|entry| entry.fd >= 0));
            let deaf = waker.is_none().then(|| now + DEAF);
            let end = [limit, sleep.until, deaf].into_iter().flatten().min();
            let length = end.map(|end| end.saturating_duration_since(now));
            let outcome = {
                // Only here can a signal's handler come in, and nothing of the shim's is held.
                let _outside = Outside::leave();
                sys::poll(&mut fds, length, Some(mask))
            };
            let mut state = self.lock();
            if state.wake_up(sleep.keys, sleeper)
                && let Some(waker) = waker
            {
                sys::drain(waker);
            }
            drop(state);
            match outcome {
                Ok(_) => {}
                Err(Errno::INTR) => interrupted = true,
                // It would not sleep the next time either.
                Err(errno) => break Err(errno),
            }
            let slept = now.elapsed();
            if spinning {
                self.spin.adapt(slept, bounds);
            }
            // A sleep that was worth it is followed by spinning again.
            since = if slept > bounds.1 { now } else { Instant::now() };
        };
        if spinning {
            self.spin.end();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_spin_stays_between_its_bounds_and_can_grow_again() {
        let bounds = (Duration::from_micros(20), Duration::from_micros(1000));
        let spin = Spin::new();
        assert_eq!(spin.time(bounds), bounds.1);
        for _ in 0..20 {
            spin.adapt(Duration::from_secs(1), bounds);
        }
        assert_eq!(spin.time(bounds), bounds.0);
        for _ in 0..20 {
            spin.adapt(Duration::ZERO, bounds);
        }
        assert_eq!(spin.time(bounds), bounds.1);
    }

    #[test]
    fn one_thread_spins_at_a_time() {
        let spin = Spin::new();
        assert!(spin.begin() && !spin.begin());
        spin.end();
        assert!(spin.begin());
    }
}
