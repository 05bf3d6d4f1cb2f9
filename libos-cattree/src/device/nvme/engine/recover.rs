//! What fails is tried again; what takes too long is aborted, then the controller is reset.
//!
//! Invariant: a command is given to the controller a bounded number of times, and only when the controller has no
//! other claim to its memory: after its completion, or after a reset.

use std::time::Duration;

use demi_api::error::Error;
use demi_api::time::Instant;

use super::super::command::Completed;
use super::super::regs::Hardware;
use super::{Engine, STEP};

/// How often, at least, the controller is looked at while it has commands.
const WATCH: Duration = Duration::from_millis(250);
/// How long a command that the controller was asked to abort may take to end, at most.
const GRACE: Duration = Duration::from_secs(1);
/// Steps of a reset in one call.
const STEPS: usize = 4;

impl<R: Hardware> Engine<R> {
    #[inline]
    pub(super) fn heed(&mut self, completed: Completed, now: Instant) {
        let Some((at, sent)) = self.flight.find(completed.id) else {
            self.counters.unknown += 1;
            return;
        };
        let status = completed.status;
        if status.is_success() {
            self.fruitless = 0;
            return self.flight.end(at, Ok(()));
        }
        self.counters.failures += 1;
        tracing::debug!(address = %self.config.address, ?status, "an NVMe command has failed");
        if !status.is_final() && sent.again < self.config.retries {
            return self.send_again(at, now);
        }
        self.flight.end(
            at,
            Err(match status {
                status if status.is_no_space() => Error::NoSpace,
                status if status.is_read_only() => Error::ReadOnly,
                _ => Error::Io,
            }),
        );
    }

    pub(super) fn send_again(&mut self, at: u16, now: Instant) {
        self.counters.retries += 1;
        match self.flight.send_again(at, now) {
            Some(entry) if self.controller.io.push(&entry) => {}
            _ => self.flight.end(at, Err(Error::Io)),
        }
    }

    /// Looks at the controller, now and then while it has commands.
    #[inline]
    pub(super) fn watch(&mut self, now: Instant) {
        if !self.controller.is_running() {
            return;
        }
        match self.due {
            _ if !self.flight.is_flying() => self.due = None,
            Some(due) if now < due => {}
            Some(_) => {
                self.look(now);
                self.due.get_or_insert(now + self.interval());
            }
            None => self.due = Some(now + self.interval()),
        }
    }

    fn interval(&self) -> Duration {
        WATCH.min(self.config.timeout() / 2)
    }

    fn look(&mut self, now: Instant) {
        self.due = None;
        let status = self.controller.status();
        if status.absent {
            self.controller.die("it is gone: its registers read all ones");
            return self.go_on(now);
        }
        if status.fatal || !status.ready {
            return self.reset(now);
        }
        self.controller.heed_abort();
        let timeout = self.config.timeout();
        let late = |since: Instant| now.since(since).checked_sub(timeout);
        let overdue = self.flight.sent().filter_map(|(at, sent)| Some((at, late(sent.since)?, sent.aborted)));
        let Some((at, by, aborted)) = overdue.max_by_key(|(_, by, _)| *by) else { return };
        if by >= GRACE.min(timeout) {
            self.counters.timeouts += 1;
            return self.reset(now);
        }
        if !aborted && self.controller.abort(self.flight.id(at)) {
            self.counters.aborts += 1;
            self.flight.mark_aborted(at);
        }
    }

    /// Begins a reset of the controller. What is under way is given to it again when that is over.
    pub(in super::super) fn reset(&mut self, now: Instant) {
        if !self.controller.is_running() {
            return;
        }
        self.counters.resets += 1;
        self.fruitless = self.fruitless.saturating_add(1);
        if self.fruitless > self.config.retries.max(1) {
            self.controller.die("it does nothing however often it is reset");
        } else {
            tracing::warn!(address = %self.config.address, "resetting an NVMe controller");
            self.controller.restart(now);
        }
        self.go_on(now);
    }

    /// Goes on with a reset.
    pub(super) fn go_on(&mut self, now: Instant) {
        for _ in 0..STEPS {
            if !self.controller.drive(now) {
                break;
            }
        }
        self.due = Some(now + STEP);
        if self.controller.is_running() {
            self.due = None;
            self.resume(now);
        } else if self.controller.is_dead() {
            self.due = None;
            if self.flight.is_flying() || self.flight.first_waiting().is_some() {
                tracing::error!(address = %self.config.address, reason = %self.controller.reason, "an NVMe controller is lost");
                self.flight.fail_all(&Error::Io, self.controller.cut_off);
            }
        }
    }

    /// Gives the controller again what it had.
    fn resume(&mut self, now: Instant) {
        for at in 0..self.caps.depth as u16 {
            match self.flight.again(at) {
                Some(again) if again < self.config.retries => self.send_again(at, now),
                Some(_) => self.flight.end(at, Err(Error::Io)),
                None => {}
            }
        }
        self.issue_waiting(now);
        self.watch(now);
    }
}
