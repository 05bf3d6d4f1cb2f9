//! The lock around the stack, and how calls wait.
//!
//! Invariants: nobody sleeps holding the lock. A virtual clock moves on only when the stack is at rest, everybody who
//! waits has seen that there is nothing for him yet, and everybody for whom there was something has come back with it,
//! which packetdrill shows by asking for the time or by another call. So a call that ends in packetdrill's other thread
//! ends at the time at which it should, however the threads are scheduled.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use demi_api::Error;
use demi_api::time::Instant;

use crate::flags::Flags;
use crate::raw::Confined;
use crate::stack::Stack;

/// Real time for which packetdrill's other threads are waited for before a virtual clock moves on without them.
const PATIENCE: Duration = Duration::from_millis(200);
/// Virtual time after which a call without a limit is given up: nothing will ever happen.
const FOREVER: Duration = Duration::from_secs(1000);
/// Real time between two turns of the stack at the most, and at the least.
const NAP: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(10));

pub(crate) struct Shared {
    inside: Mutex<Confined<Inside>>,
    changed: Condvar,
}

pub(crate) struct Inside {
    stack: Stack,
    /// The thread that runs the script, and with it the virtual clock.
    driver: ThreadId,
    waiting: HashMap<ThreadId, Waiting>,
    /// Threads that have what they waited for, and have not been seen since.
    returning: Vec<ThreadId>,
    /// Changes with everything that somebody may wait for.
    epoch: u64,
    /// Calls so far.
    calls: u64,
}

struct Waiting {
    until: Instant,
    /// The epoch in which there was nothing for it.
    seen: u64,
}

type Guard<'a> = MutexGuard<'a, Confined<Inside>>;

impl Shared {
    pub(crate) fn new(flags: &Flags) -> Result<Shared, Error> {
        let inside = Inside {
            stack: Stack::new(flags)?,
            driver: thread::current().id(),
            waiting: HashMap::new(),
            returning: Vec::new(),
            epoch: 0,
            calls: 0,
        };
        Ok(Shared { inside: Mutex::new(Confined::new(inside)), changed: Condvar::new() })
    }

    /// A call that never waits.
    pub(crate) fn call<T>(&self, call: impl FnOnce(&mut Stack) -> T) -> T {
        let mut inside = self.enter();
        let result = call(&mut inside.stack);
        inside.stack.pump();
        self.tell(&mut inside);
        result
    }

    /// A call that gives the stack nothing to do.
    pub(crate) fn glance<T>(&self, call: impl FnOnce(&mut Stack) -> T) -> T {
        call(&mut self.enter().stack)
    }

    /// A call that waits until it finds something, or for so long. `None`: it found nothing.
    pub(crate) fn wait<T>(
        &self,
        limit: Option<Duration>,
        mut look: impl FnMut(&mut Stack) -> Option<T>,
    ) -> Option<T> {
        let me = thread::current().id();
        let mut inside = self.enter();
        let limit = limit.or(inside.stack.is_virtual.then_some(FOREVER));
        let until = inside.stack.now() + limit.unwrap_or(Duration::MAX);
        let mut waited = false;
        loop {
            if inside.stack.pump() {
                self.tell(&mut inside);
            }
            let found = look(&mut inside.stack);
            if found.is_some() || inside.stack.now() >= until {
                inside.stack.pump();
                inside.waiting.remove(&me);
                if me == inside.driver {
                    inside = self.settle(inside);
                } else if waited {
                    inside.returning.push(me);
                }
                self.tell(&mut inside);
                return found;
            }
            waited = true;
            inside = self.rest(inside, until);
        }
    }

    fn enter(&self) -> Guard<'_> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let me = thread::current().id();
        inside.calls += 1;
        if inside.returning.contains(&me) {
            inside.returning.retain(|other| *other != me);
            self.changed.notify_all();
        }
        inside
    }

    fn tell(&self, inside: &mut Guard<'_>) {
        inside.epoch += 1;
        self.changed.notify_all();
    }

    /// Lets go of the lock until there may be something new.
    fn rest<'a>(&'a self, mut inside: Guard<'a>, until: Instant) -> Guard<'a> {
        if !inside.stack.is_virtual {
            let now = inside.stack.now();
            let next = inside.stack.deadline().map_or(until, |at| at.min(until));
            return self.sleep(inside, next.since(now).clamp(NAP.0, NAP.1)).0;
        }
        let me = thread::current().id();
        let (epoch, calls) = (inside.epoch, inside.calls);
        let before = inside.waiting.insert(me, Waiting { until, seen: epoch });
        if before.is_none_or(|before| before.seen != epoch) {
            self.changed.notify_all();
        }
        if me != inside.driver {
            let (rested, timed_out) = self.sleep(inside, PATIENCE);
            inside = rested;
            // Whoever drives the clock is busy with something else, or waits for this thread.
            if !timed_out || inside.calls != calls {
                return inside;
            }
        }
        inside = self.settle(inside);
        let ends = inside.waiting.values().map(|waiting| waiting.until);
        let next = ends.min().map_or(until, |end| end.min(until));
        inside.stack.step(next);
        self.tell(&mut inside);
        inside
    }

    /// Waits until a virtual clock may move on.
    fn settle<'a>(&'a self, mut inside: Guard<'a>) -> Guard<'a> {
        let me = thread::current().id();
        let begin = std::time::Instant::now();
        while inside.stack.is_virtual && inside.is_unsettled(me) && begin.elapsed() < PATIENCE {
            self.changed.notify_all();
            inside = self.sleep(inside, PATIENCE / 10).0;
        }
        inside
    }

    fn sleep<'a>(&'a self, inside: Guard<'a>, limit: Duration) -> (Guard<'a>, bool) {
        let (inside, outcome) =
            self.changed.wait_timeout(inside, limit).unwrap_or_else(PoisonError::into_inner);
        (inside, outcome.timed_out())
    }
}

impl Inside {
    /// Whether another thread has not looked since the last change, or has not come back yet.
    fn is_unsettled(&self, me: ThreadId) -> bool {
        let blind = |(thread, waiting): (&ThreadId, &Waiting)| *thread != me && waiting.seen != self.epoch;
        self.waiting.iter().any(blind) || self.returning.iter().any(|thread| *thread != me)
    }
}
