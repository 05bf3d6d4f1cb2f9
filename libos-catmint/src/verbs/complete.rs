//! Completions, and the events that they become.
//!
//! Invariant: a completion that names nothing under way ends nothing. What was kept for a posting goes back, or is let go
//! of, where the posting is done.

use demi_api::time::Instant;

use super::Verbs;
use super::completions::raw::Done;
use super::grants::Grants;
use super::pairs::State;
use super::queue::{Held, SendQueue};
use super::receives::RECEIVE;
use crate::device::{Event, Fault, Qp};

/// What a completion says of its posting (`ibv_wc_status`).
#[inline]
fn result(status: u32) -> Result<(), Fault> {
    use rdma_sys::ibv_wc_status as is;
    Err(match status {
        is::IBV_WC_SUCCESS => return Ok(()),
        is::IBV_WC_WR_FLUSH_ERR => Fault::Flushed,
        is::IBV_WC_REM_ACCESS_ERR => Fault::RemoteAccess,
        is::IBV_WC_REM_INV_REQ_ERR | is::IBV_WC_REM_OP_ERR | is::IBV_WC_BAD_RESP_ERR => {
            Fault::RemoteOperation
        }
        is::IBV_WC_RETRY_EXC_ERR | is::IBV_WC_RESP_TIMEOUT_ERR => Fault::Timeout,
        is::IBV_WC_RNR_RETRY_EXC_ERR => Fault::NotReady,
        is::IBV_WC_FATAL_ERR => Fault::Down,
        _ => Fault::Local,
    })
}

impl Verbs {
    #[inline]
    pub(super) fn complete(&mut self, now: Instant, done: Done, out: &mut Vec<Event>) {
        if done.name & RECEIVE != 0 {
            return self.received(now, done, out);
        }
        let (tag, number) = ((done.name >> 32) as u32, done.name as u32);
        let name = self.pairs.named(tag).unwrap_or(Qp(u32::MAX));
        let pair = self.pairs.get_mut(name);
        let send = pair.and_then(|pair| pair.send.as_mut()).filter(|send| send.is_under_way(number));
        let Some(send) = send else {
            self.counters.unknown += 1;
            return;
        };
        let result = result(done.status).map_err(|fault| match fault {
            // Without a port a device can do nothing, and may not know why.
            Fault::Local if self.is_down => Fault::Down,
            fault => fault,
        });
        let mut is_last = false;
        while let Some((at, held)) = send.take(number.wrapping_add(1)) {
            is_last |= matches!(held, Held::Mark);
            let result = if at == number { result } else { Ok(()) };
            settle(&mut self.grants, name, send, (at, held), result, out);
        }
        if let Err(fault) = result {
            self.counters.failures += u64::from(fault != Fault::Flushed);
            let why = if fault == Fault::Flushed { Fault::Disconnected } else { fault };
            self.fail(now, name, why, out);
        }
        if is_last {
            self.finish(name, out);
        }
    }

    #[inline]
    fn received(&mut self, now: Instant, done: Done, out: &mut Vec<Event>) {
        let name = self.pairs.by_number(done.queue_pair);
        let result = result(done.status);
        if let (Some(qp), Ok(())) = (name, result) {
            // A message may come before the last word of connecting.
            let is_early = self.pairs.get(qp).is_some_and(|pair| matches!(pair.state, State::Accepting));
            if is_early {
                if let Some(pair) = self.pairs.get(qp) {
                    let _ = pair.id.notify_established();
                }
                self.established(qp, Vec::new(), out);
            }
            match self.receives.take(done.name, done.len) {
                Some(message) => out.push(Event::Received { qp, message }),
                None => self.counters.unknown += 1,
            }
            return;
        }
        // The buffer has not been used: it is still the queue's.
        if !self.receives.again(done.name) {
            self.counters.unknown += 1;
        }
        if let (Some(qp), Err(fault)) = (name, result)
            && fault != Fault::Flushed
        {
            self.counters.failures += 1;
            let why = if fault == Fault::Local { Fault::TooLong } else { fault };
            self.fail(now, qp, why, out);
        }
    }
}

/// Ends a posting: tells what is to be told.
#[inline]
pub(super) fn settle(
    grants: &mut Grants,
    qp: Qp,
    send: &SendQueue,
    (number, held): (u32, Held),
    result: Result<(), Fault>,
    out: &mut Vec<Event>,
) {
    let tell = match held {
        Held::Nothing => None,
        Held::Data { data, tell } => {
            drop(data);
            tell
        }
        Held::Read { into, cookie } => return out.push(Event::Read { qp, cookie, into, result }),
        Held::Fetch { cookie } => {
            let result = result.map(|()| send.fetched(number));
            return out.push(Event::Fetched { qp, cookie, result });
        }
        // Otherwise it ends with the queue pair.
        Held::Revoke { grant } if result.is_ok() => {
            let given = grants.remove(grant);
            return out
                .extend(given.and_then(|given| {
                    given.ending.map(|cookie| Event::Revoked { cookie, data: given.data })
                }));
        }
        Held::Revoke { .. } | Held::Mark => return,
    };
    match (tell, result) {
        (Some(_), _) => out.push(Event::Sent { qp, cookie: tell, result }),
        // Of those that are quiet, what has failed by itself is worth a word.
        (None, Err(fault)) if fault != Fault::Flushed => out.push(Event::Sent { qp, cookie: None, result }),
        (None, _) => {}
    }
}
