//! What happens when nothing is heard: a question, further attempts, and the end.

use std::time::Duration;

use demi_api::time::Instant;

use super::super::Params;
use super::Requester;
use crate::device::Fault;

/// How often the time between two attempts doubles.
const MAX_BACKOFF: u32 = 5;

impl Requester {
    /// Something at `una` is lost: sends from there on, unless that has been done already.
    pub(super) fn go_back_once(&mut self) {
        if !self.went_back {
            self.went_back = true;
            self.go_back();
        }
    }

    pub(super) fn go_back(&mut self) {
        self.next = self.una;
        self.asked = self.una;
        self.cursor = 0;
        self.in_flight = 0;
        self.answers_due = 0;
        (self.since_asked, self.unasked) = (0, 0);
        self.probe = false;
    }

    pub(super) fn arm(&mut self, params: &Params, now: Instant) {
        let wait = if self.is_unasked() { params.probe } else { self.patience(params) };
        self.timer = Some(now + wait);
    }

    /// Whether all that is under way is such that the peer need not acknowledge it.
    fn is_unasked(&self) -> bool {
        self.next > self.una && self.asked <= self.una
    }

    fn patience(&self, params: &Params) -> Duration {
        params.timeout * (1 << self.attempts.min(MAX_BACKOFF))
    }

    /// When [`tick`](Requester::tick) has something to do.
    pub(in super::super) fn deadline(&self) -> Option<Instant> {
        self.paused.or(self.timer)
    }

    /// Looks at the timers. An error is the end of the queue pair.
    pub(in super::super) fn tick(&mut self, params: &Params, now: Instant) -> Result<(), Fault> {
        if let Some(until) = self.paused {
            if now >= until {
                self.paused = None;
            }
            return Ok(());
        }
        if self.timer.is_none_or(|timer| now < timer) {
            return Ok(());
        }
        self.timer = None;
        // One that could not be sent so far counts as one that was not answered.
        if self.is_unasked() && !std::mem::replace(&mut self.probe, true) {
            return Ok(());
        }
        if self.attempts >= params.retries.into() {
            return Err(Fault::Timeout);
        }
        self.counters.timeouts += 1;
        self.attempts += 1;
        self.went_back = false;
        self.go_back();
        Ok(())
    }
}
