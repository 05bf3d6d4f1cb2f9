//! What the peer answers, and which work ends by that.

use demi_api::time::Instant;

use super::super::super::link::Payload;
use super::super::super::wire::{Header, NakCode, Operation, Psn, RnrTimer, Syndrome};
use super::super::Params;
use super::super::work::{Kind, Work};
use super::Requester;
use crate::device::{Event, Fault};

impl Requester {
    /// Takes an answer in. An error is the end of the queue pair.
    pub(in super::super) fn answer(
        &mut self,
        params: &Params,
        now: Instant,
        header: &Header,
        payload: &impl Payload,
        events: &mut Vec<Event>,
    ) -> Result<(), Fault> {
        let psn = header.psn;
        // What was not asked for, or was answered before.
        if psn < self.una || psn >= self.top {
            return Ok(());
        }
        let before = self.una;
        match header.operation {
            Operation::Acknowledge(aeth) => match aeth.syndrome {
                Syndrome::Ack { .. } => {
                    if !self.complete_until(params, psn + 1, events) {
                        self.go_back_once();
                    }
                }
                Syndrome::RnrNak(timer) => {
                    if self.complete_until(params, psn, events) {
                        self.pause(params, now, timer)?;
                    } else {
                        self.go_back_once();
                    }
                }
                Syndrome::Nak(NakCode::Sequence) => {
                    self.complete_until(params, psn, events);
                    self.go_back_once();
                }
                Syndrome::Nak(code) => {
                    self.complete_until(params, psn, events);
                    return Err(match code {
                        NakCode::RemoteAccess => Fault::RemoteAccess,
                        NakCode::Sequence | NakCode::InvalidRequest | NakCode::RemoteOperation => {
                            Fault::RemoteOperation
                        }
                    });
                }
            },
            Operation::ReadFirst(aeth) | Operation::ReadLast(aeth) | Operation::ReadOnly(aeth) => {
                if !matches!(aeth.syndrome, Syndrome::Ack { .. }) {
                    return Err(Fault::RemoteOperation);
                }
                self.take_read(params, psn, payload, events)?;
            }
            Operation::ReadMiddle => self.take_read(params, psn, payload, events)?,
            Operation::AtomicAcknowledge(_, found) => self.take_atomic(params, psn, found, events)?,
            Operation::SendFirst
            | Operation::SendMiddle
            | Operation::SendLast(_)
            | Operation::SendOnly(_)
            | Operation::WriteFirst(_)
            | Operation::WriteMiddle
            | Operation::WriteLast(_)
            | Operation::WriteOnly(..)
            | Operation::ReadRequest(_)
            | Operation::CompareSwap(_)
            | Operation::FetchAdd(_)
            | Operation::Datagram(_) => {}
        }
        if self.una != before {
            self.timer = None;
            if self.una != self.end {
                self.arm(params, now);
            }
        }
        Ok(())
    }

    /// Part of what is read.
    fn take_read(
        &mut self,
        params: &Params,
        psn: Psn,
        payload: &impl Payload,
        events: &mut Vec<Event>,
    ) -> Result<(), Fault> {
        if !self.complete_until(params, psn, events) {
            // Parts before it are missing.
            self.go_back_once();
            return Ok(());
        }
        let Some(Work { kind: Kind::Read { into, .. }, len, first, packets, .. }) = self.works.front_mut()
        else {
            return Err(Fault::RemoteOperation);
        };
        let at = psn.since(*first) as usize * params.mtu;
        let part = params.mtu.min(*len - at);
        if payload.len() != part {
            return Err(Fault::RemoteOperation);
        }
        payload.copy(0, &mut into[at..at + part]);
        let is_last = psn.since(*first) + 1 == *packets;
        self.advance(psn + 1);
        if is_last {
            self.end_answered(params, events, None);
        }
        Ok(())
    }

    fn take_atomic(
        &mut self,
        params: &Params,
        psn: Psn,
        found: u64,
        events: &mut Vec<Event>,
    ) -> Result<(), Fault> {
        if !self.complete_until(params, psn, events) {
            self.go_back_once();
            return Ok(());
        }
        let Some(Work { kind: Kind::Atomic { .. }, .. }) = self.works.front() else {
            return Err(Fault::RemoteOperation);
        };
        self.advance(psn + 1);
        self.end_answered(params, events, Some(found));
        Ok(())
    }

    /// Takes the first work off, whose answer is complete.
    fn end_answered(&mut self, params: &Params, events: &mut Vec<Event>, found: Option<u64>) {
        if self.cursor > 0 {
            self.cursor -= 1;
            self.answers_due -= 1;
        }
        let Some(work) = self.works.pop_front() else { return };
        match found {
            Some(found) => {
                let cookie = work.cookie();
                events.push(Event::Fetched { qp: params.qp, cookie, result: Ok(found) });
            }
            None => events.extend(work.end(params.qp, Ok(()), &mut self.store)),
        }
    }

    /// Everything before `until` has arrived. False if an answer is missing in between, which then is at `una`.
    #[inline]
    fn complete_until(&mut self, params: &Params, until: Psn, events: &mut Vec<Event>) -> bool {
        while self.una < until {
            let Some(work) = self.works.front() else { return false };
            if work.is_answered() {
                return false;
            }
            let after = work.last() + 1;
            let reached = if until < after { until } else { after };
            let sent = if self.next < reached { self.next } else { reached };
            self.in_flight -= if sent > self.una { sent.since(self.una) } else { 0 };
            self.advance(reached);
            if reached == after {
                let Some(work) = self.works.pop_front() else { return false };
                events.extend(work.end(params.qp, Ok(()), &mut self.store));
                self.cursor = self.cursor.saturating_sub(1);
            }
        }
        true
    }

    /// All before `una` has arrived, and need not be sent again.
    #[inline]
    fn advance(&mut self, una: Psn) {
        self.una = una;
        if self.next < una {
            self.next = una;
        }
        (self.attempts, self.rnr_attempts, self.went_back) = (0, 0, false);
    }

    /// The peer has no receive.
    fn pause(&mut self, params: &Params, now: Instant, timer: RnrTimer) -> Result<(), Fault> {
        // Once for each time that it was sent.
        if self.next == self.una {
            return Ok(());
        }
        self.counters.peer_not_ready += 1;
        self.rnr_attempts += 1;
        if params.rnr_retries < 7 && self.rnr_attempts > params.rnr_retries.into() {
            return Err(Fault::NotReady);
        }
        self.attempts = 0;
        self.timer = None;
        self.paused = Some(now + timer.duration());
        self.go_back();
        Ok(())
    }
}
