//! The one wait loop: take what is done; else clock, poll, deadline, arm, sleep.
//!
//! Invariants: only this module sleeps, and it holds no borrow while it does. It asks a libOS to arm before
//! every sleep and sleeps only if that found nothing, so an event between the last poll and the sleep is not
//! missed. An application that is never short of results still has its libOS polled every
//! 32 results.

use std::cell::RefMut;
use std::time::Duration;

use crate::desc::QDesc;
use crate::error::Error;
use crate::instance::{Core, Demikernel};
use crate::libos::LibOs;
use crate::op::{Completion, Done, Position};
use crate::sys;
use crate::time::Instant;
use crate::token::QToken;

/// Results handed out between two polls at the most.
const TAKES_PER_TURN: u32 = 32;

/// How often a busy instance looks whether it was interrupted, in nanoseconds.
const KICK_PERIOD: u64 = 1_000_000;

/// Fruitless polls on one reading of the clock, which takes longer than many a poll.
const POLLS_PER_TURN: usize = 4;

/// The contract of the SOSP'21 system: an application enters its libOS at least this often. In nanoseconds.
const OVERDUE: u64 = 1_000_000;

impl<L: LibOs> Demikernel<L> {
    /// Waits for one operation. `None` waits without limit.
    ///
    /// [`Error::TimedOut`] and [`Error::Interrupted`] leave the token valid; a zero timeout polls once.
    #[inline]
    pub fn wait(&self, token: QToken, timeout: Option<Duration>) -> Result<Completion, Error> {
        let mut core = self.core_as_is()?;
        // That of a push, mostly, which is in hand: a short way for these, with nothing moved for them.
        if core.may_take()
            && let Some((qd, position)) = core.done.take_held_push(token)
        {
            core.policy.takes += 1;
            return Ok(Completion { token, qd, result: Ok(Done::Pushed(position)) });
        }
        self.wait_held(core, token, timeout)
    }

    /// Or that of a pop under way, which is in hand as well, and which one turn completes.
    #[inline(never)]
    fn wait_held(
        &self,
        mut core: RefMut<'_, Core<L>>,
        token: QToken,
        timeout: Option<Duration>,
    ) -> Result<Completion, Error> {
        if core.may_take() && timeout != Some(Duration::ZERO) && core.done.await_held(token) {
            core.turn();
            if let Some(completion) = core.done.take_arrived() {
                return Ok(completion);
            }
        }
        self.wait_for(core, token, timeout)
    }

    /// The end of a push that was done on the spot, as long as nothing else was called: the short way of
    /// [`wait`](Demikernel::wait), for those who can do with less than a [`Completion`]. `None` says nothing; wait then.
    #[inline(always)]
    pub fn take_pushed(&self, token: QToken) -> Option<(QDesc, Position)> {
        let mut core = self.core_if_free()?;
        if !core.may_take() {
            return None;
        }
        let pushed = core.done.take_held_push(token)?;
        core.policy.takes += 1;
        Some(pushed)
    }

    /// As [`wait`](Demikernel::wait), with the result looked at where it lies: it is not moved until somebody moves it out of
    /// there. The instance cannot be called meanwhile.
    ///
    /// [`Error::Reentrant`] also where a panic has ended a wait whose result nobody has asked for since.
    #[inline(always)]
    pub fn wait_in_place(&self, token: QToken, timeout: Option<Duration>) -> Result<Arrived<'_, L>, Error> {
        let mut core = self.core_as_is()?;
        let mut there = false;
        if core.may_take() {
            let waits = timeout != Some(Duration::ZERO);
            if waits && core.done.await_held(token) {
                core.turn();
                there = core.done.has_arrived();
            } else if core.done.bring_held(token) {
                core.policy.takes += 1;
                there = true;
            } else if waits && core.done.await_filed(token) {
                core.turn();
                there = core.done.has_arrived();
            }
        }
        if !there {
            drop(core);
            self.wait_until(timeout, |core| Ok(core.done.bring_or_await(token)?.then_some(())))?;
            core = self.core_as_is()?;
        }
        core.done.next_round();
        Ok(Arrived(core))
    }

    #[inline(never)]
    fn wait_for(
        &self,
        mut core: RefMut<'_, Core<L>>,
        token: QToken,
        timeout: Option<Duration>,
    ) -> Result<Completion, Error> {
        if core.may_take() {
            if let Some(completion) = core.done.take_held(token) {
                core.policy.takes += 1;
                return Ok(completion);
            }
            // An operation under way that one turn completes: what comes of it is moved once.
            if timeout != Some(Duration::ZERO) && core.done.await_filed(token) {
                core.turn();
                if let Some(completion) = core.done.take_arrived() {
                    return Ok(completion);
                }
            }
        }
        drop(core);
        self.wait_until(timeout, |core| core.done.take_or_await(token))
    }

    /// Waits for any of several operations; returns its place in `tokens`.
    ///
    /// Of those that are done already, the one that has been for longest is taken. The array is looked at
    /// once; where it is long and long-lived, [`WaitSet`](crate::waitset::WaitSet) costs nothing per idle token.
    pub fn wait_any(
        &self,
        tokens: &[QToken],
        timeout: Option<Duration>,
    ) -> Result<(usize, Completion), Error> {
        if tokens.is_empty() {
            return Err(Error::NothingOutstanding);
        }
        let mut watching = false;
        self.wait_until(timeout, |core| {
            if watching {
                return Ok(core.done.take_watched());
            }
            watching = true;
            core.done.watch_any(tokens)
        })
    }

    /// Waits until all of several operations are done and appends their results to `results`, in the order of
    /// `tokens`. On [`Error::TimedOut`] nothing is consumed.
    pub fn wait_all(
        &self,
        tokens: &[QToken],
        results: &mut Vec<Completion>,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        let mut pending = None;
        self.wait_until(timeout, |core| {
            let pending = match pending {
                Some(pending) => pending,
                None => *pending.insert(core.done.watch_all(tokens)?),
            };
            Ok((core.done.watch_hits() == pending).then_some(()))
        })?;
        let mut core = self.core()?;
        results.reserve(tokens.len());
        for token in tokens {
            results.extend(core.done.take(*token)?);
        }
        Ok(())
    }

    /// Waits until at least one operation is done, whichever, and appends up to `limit` results to `results`,
    /// oldest first. Returns how many. Operations of wait sets and futures are left to them.
    pub fn wait_next_n(
        &self,
        results: &mut Vec<Completion>,
        limit: usize,
        timeout: Option<Duration>,
    ) -> Result<usize, Error> {
        self.wait_batch(results, limit, timeout, |core| core.done.take_next())
    }

    /// Prepares for a sleep that the caller sleeps itself, among descriptors of its own: on
    /// [`wait_fd`](Demikernel::wait_fd), for as long as is returned at the most, and with a [`poll`](Demikernel::poll) or a wait after it.
    /// `None`: there is work, or a result; do not sleep. Any other call may undo the preparation.
    pub fn prepare_sleep(&self) -> Result<Option<Duration>, Error> {
        let mut core = self.core()?;
        if core.done.has_next() || !core.arm() {
            return Ok(None);
        }
        core.scheduler.wake_up();
        core.policy.sleeps += 1;
        core.policy.away = true;
        let now = core.clock.now();
        Ok(Some(core.next_wake().map_or(Duration::MAX, |wake| wake - now)))
    }

    pub(crate) fn wait_batch(
        &self,
        results: &mut Vec<Completion>,
        limit: usize,
        timeout: Option<Duration>,
        mut next: impl FnMut(&mut Core<L>) -> Option<Completion>,
    ) -> Result<usize, Error> {
        if limit == 0 {
            return Ok(0);
        }
        let first = self.wait_until(timeout, |core| Ok(next(core)))?;
        results.push(first);
        let mut core = self.core()?;
        let mut count = 1;
        while count < limit
            && let Some(result) = next(&mut core)
        {
            results.push(result);
            count += 1;
        }
        core.policy.takes += count as u32 - 1;
        Ok(count)
    }

    /// Turns the loop until `ready` yields something. `ready` runs before each poll and each sleep and must cost
    /// O(1) after its first call.
    pub(crate) fn wait_until<T>(
        &self,
        timeout: Option<Duration>,
        mut ready: impl FnMut(&mut Core<L>) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let mut core = self.core()?;
        if core.policy.takes >= TAKES_PER_TURN {
            core.turn();
        }
        // Before any result, or a busy instance would never hear of it.
        if std::mem::take(&mut core.policy.interrupted) {
            return Err(Error::Interrupted);
        }
        let mut deadline = None;
        let mut entered = false;
        if let Some(value) = ready(&mut core)? {
            core.policy.takes += 1;
            return Ok(value);
        }
        loop {
            let work = core.turn();
            if let Some(value) = ready(&mut core)? {
                return Ok(value);
            }
            if std::mem::take(&mut core.policy.interrupted) {
                return Err(Error::Interrupted);
            }
            let now = core.now;
            if !std::mem::replace(&mut entered, true) {
                core.policy.idle_since = now;
            }
            if let Some(timeout) = timeout {
                let deadline = *deadline.get_or_insert_with(|| now + timeout);
                if now >= deadline {
                    return Err(Error::TimedOut);
                }
            } else if core.is_hopeless() && work == 0 {
                return Err(Error::NothingOutstanding);
            }
            if work > 0 || !core.policy.wants_sleep(now) || !core.arm() {
                continue;
            }
            // Another thread may have woken a task while nobody would have heard a kick. A task that this
            // caller does not run is no reason to stay awake.
            if let Some(result) = ready(&mut core).transpose() {
                core.scheduler.wake_up();
                return result;
            }
            let limit = core.sleep_limit(deadline);
            drop(core);
            self.sleep(limit);
            core = self.core()?;
            core.woke();
        }
    }
}

impl<L: LibOs> Core<L> {
    /// Whether a result may be handed out without a turn before it.
    #[inline]
    fn may_take(&self) -> bool {
        self.policy.takes < TAKES_PER_TURN && !self.policy.interrupted
    }

    /// One turn: read the clock, wake whoever waits for a time, poll the libOS until something is found, but not
    /// for long, and run the operators that have something to do.
    pub(crate) fn turn(&mut self) -> usize {
        let now = self.clock.now();
        self.policy.begin_turn(now.nanos_since(self.turned));
        self.done.next_round();
        (self.now, self.turned) = (now, now);
        if now.nanos_since(self.policy.kick_seen) >= KICK_PERIOD {
            self.look_for_kick();
        }
        let fired = self.scheduler.fire_timers(now);
        let woken = self.done.woken();
        let (libos, graph, mut cx) = self.parts();
        let mut work = 0;
        for _ in 0..POLLS_PER_TURN {
            work = libos.poll(&mut cx);
            if graph.wants_turn(&cx) {
                work += graph.drain(libos, &mut cx);
            }
            if work > 0 {
                break;
            }
        }
        let work = work + fired + self.done.woken().wrapping_sub(woken);
        if work > 0 {
            self.policy.idle_since = now;
        }
        work
    }

    #[cold]
    #[inline(never)]
    fn look_for_kick(&mut self) {
        self.policy.kick_seen = self.now;
        self.policy.interrupted |= sys::drain(self.kick_fd());
    }

    /// Whether waiting without limit could not end: nothing is under way and no timer or task is alive.
    fn is_hopeless(&self) -> bool {
        self.done.pending() == 0 && !self.scheduler.is_waiting()
    }

    fn arm(&mut self) -> bool {
        self.scheduler.fall_asleep();
        let posted = self.done.posted();
        let (libos, graph, mut cx) = self.parts();
        let quiet = graph.is_idle() && libos.arm(&mut cx);
        // Arming may reap the last completions and post them: those are work, whatever it says.
        if !quiet || self.done.posted() != posted {
            self.scheduler.wake_up();
            return false;
        }
        true
    }

    fn sleep_limit(&mut self, deadline: Option<Instant>) -> Option<Duration> {
        self.policy.sleeps += 1;
        [deadline, self.next_wake()].into_iter().flatten().min().map(|wake| wake - self.now)
    }

    fn next_wake(&self) -> Option<Instant> {
        [self.libos.next_deadline(), self.scheduler.next_timer()].into_iter().flatten().min()
    }

    fn woke(&mut self) {
        self.scheduler.wake_up();
        let now = self.clock.now();
        let slept = now - self.now;
        (self.now, self.turned) = (now, now);
        self.policy.adapt(slept);
        self.look_for_kick();
    }
}

/// A result in its place. What is left of it in the end is dropped.
pub struct Arrived<'a, L: LibOs>(RefMut<'a, Core<L>>);

impl<L: LibOs> Arrived<'_, L> {
    /// The result.
    #[inline(always)]
    pub fn completion(&mut self) -> &mut Completion {
        self.0.done.arrived().expect("it is there until this is dropped")
    }
}

impl<L: LibOs> Drop for Arrived<'_, L> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.done.leave_arrived();
    }
}

impl<L: LibOs> std::fmt::Debug for Arrived<'_, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrived").finish_non_exhaustive()
    }
}

/// When to sleep, and what was seen of the application's own pace.
#[derive(Debug)]
pub(crate) struct Policy {
    spin_min: Duration,
    spin_max: Duration,
    /// Time to spin at present, between the two bounds.
    spin: Duration,
    pub(crate) idle_since: Instant,
    /// Results handed out since the last turn.
    pub(crate) takes: u32,
    pub(crate) interrupted: bool,
    /// The time since the last turn was slept by the caller, by its leave.
    away: bool,
    kick_seen: Instant,
    pub(crate) turns: u64,
    pub(crate) sleeps: u64,
    pub(crate) overdue: u64,
    pub(crate) longest_gap: Duration,
}

impl Policy {
    pub(crate) fn new((spin_min, spin_max): (Duration, Duration)) -> Policy {
        Policy {
            spin_min,
            spin_max,
            spin: spin_max,
            idle_since: Instant::default(),
            takes: 0,
            interrupted: false,
            away: false,
            kick_seen: Instant::default(),
            turns: 0,
            sleeps: 0,
            overdue: 0,
            longest_gap: Duration::ZERO,
        }
    }

    #[inline]
    fn begin_turn(&mut self, gap: u64) {
        self.turns += 1;
        self.takes = 0;
        if gap > OVERDUE && !std::mem::take(&mut self.away) {
            self.note_gap(gap);
        }
    }

    #[cold]
    fn note_gap(&mut self, gap: u64) {
        if self.turns > 1 {
            self.overdue += 1;
            self.longest_gap = self.longest_gap.max(Duration::from_nanos(gap));
        }
    }

    fn wants_sleep(&self, now: Instant) -> bool {
        now - self.idle_since >= self.spin
    }

    /// A sleep that a little more spinning would have spared lets the spin grow; a long one lets it shrink.
    fn adapt(&mut self, slept: Duration) {
        let spin = if slept < self.spin_max { self.spin.saturating_mul(2) } else { self.spin / 2 };
        // What is halved must be able to grow again, unless no spinning is asked for.
        let least = self.spin_min.max(Duration::from_micros(1));
        self.spin = spin.max(least).min(self.spin_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_of_the_callers_own_is_not_overdue() {
        let mut policy = Policy::new((Duration::ZERO, Duration::ZERO));
        policy.begin_turn(0);
        policy.away = true;
        policy.begin_turn(2 * OVERDUE);
        assert_eq!(policy.overdue, 0);
        policy.begin_turn(2 * OVERDUE);
        assert_eq!(policy.overdue, 1);
    }

    #[test]
    fn the_time_to_spin_stays_between_its_bounds() {
        for (min, max) in [(0, 0), (0, 50), (20, 20), (20, 1000)] {
            let [min, max] = [min, max].map(Duration::from_micros);
            let mut policy = Policy::new((min, max));
            for slept in [0, 10, 1_000_000, 1_000_000, 1_000_000, 0, 0, 0] {
                policy.adapt(Duration::from_micros(slept));
                assert!((min..=max).contains(&policy.spin), "{policy:?}");
            }
        }
    }
}
