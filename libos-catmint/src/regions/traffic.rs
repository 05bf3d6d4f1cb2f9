//! What is asked of another instance's region, and what is under way.
//!
//! An operation learns where it goes when it is posted, as the cursor stands then: what is recalled before has not moved it.
//!
//! Devices read and change words in order, and write in order, but what is written may overtake what reads (IBA 10.8.3.3, the
//! table of work request ordering). Where the two overlap the later one is held back until the earlier has ended.

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::BufMut;
use demi_api::op::{Done, Op, Position, Step};
use demi_api::sga::SgArray;
use demi_api::slab::Key;
use demi_api::token::QToken;

use super::hello::Found;
use super::local::word;
use super::remote::{Remote, Stage, error_of};
use super::{Counters, POP_BYTES, Queue, Regions, device_cx};
use crate::device::{self, Atomic, Fault, Qp, RdmaDevice, Then};

/// Something that was asked, and is not posted yet. Without a token nobody waits for it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) token: Option<QToken>,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Push(SgArray),
    Pop(usize),
    Atomic(Position, Atomic),
    Flush,
    Seek(u64),
}

/// Something under way, or done behind something under way.
#[derive(Debug)]
pub(super) struct Flying {
    pub(super) token: Option<QToken>,
    kind: Kind,
    pub(super) outcome: Option<Result<Done, Error>>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Write { at: u64, len: u64 },
    Read { at: u64, len: u64 },
    Atomic { at: u64 },
    Flush,
}

impl Kind {
    /// Whether this must have ended before `later` begins.
    fn precedes(self, later: Kind) -> bool {
        let overlap = |at: u64, len: u64, other: u64, others: u64| at < other + others && other < at + len;
        match (self, later) {
            (Kind::Read { at, len }, Kind::Write { at: other, len: others }) => {
                overlap(at, len, other, others)
            }
            (Kind::Read { at, len }, Kind::Atomic { at: other }) => overlap(at, len, other, 8),
            (Kind::Atomic { at }, Kind::Read { at: other, len } | Kind::Write { at: other, len }) => {
                overlap(at, 8, other, len)
            }
            (Kind::Read { .. }, Kind::Read { .. } | Kind::Flush)
            | (Kind::Atomic { .. }, Kind::Atomic { .. } | Kind::Flush)
            | (Kind::Write { .. } | Kind::Flush, _) => false,
        }
    }
}

/// What a posting has yielded beside its end.
#[derive(Debug)]
pub(super) enum Yield {
    Bytes(BufMut),
    Word(u64),
}

/// What became of posting something.
enum Posted {
    /// It is under way.
    Flying,
    /// Nothing had to be done for it.
    Done(Done),
    /// It cannot be.
    Refused(Error, What),
    NoRoom(What),
    /// Something before it must have ended.
    Fenced(What),
}

impl Flying {
    pub(super) fn is_pop(&self) -> bool {
        matches!(self.kind, Kind::Read { .. })
    }
}

impl What {
    /// Takes an operation in.
    fn take(op: &mut Op) -> Result<What, Error> {
        Ok(match op {
            Op::Push { sga, .. } => What::Push(std::mem::take(sga)),
            Op::Pop { limit } => What::Pop(*limit),
            Op::Atomic { at, change } => What::Atomic(*at, *change),
            Op::Flush => What::Flush,
            Op::Accept | Op::Connect(_) => return Err(Error::NotSupported("a socket operation on a region")),
        })
    }

    /// Gives back what was taken.
    fn give_back(self, op: &mut Op) {
        if let (What::Push(taken), Op::Push { sga, .. }) = (self, op) {
            *sga = taken;
        }
    }
}

impl Regions {
    pub(super) fn start_remote(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &mut Cx<'_>,
        token: QToken,
        key: Key,
        op: &mut Op,
    ) -> Result<Step, Error> {
        let Some(Queue::Remote(remote)) = self.queues.get_mut(key) else { return Err(Error::BadDescriptor) };
        if remote.read_only && matches!(op, Op::Push { .. } | Op::Atomic { .. }) {
            return Err(Error::ReadOnly);
        }
        let ready = match &remote.stage {
            Stage::Lost(error) => return Err(error.clone()),
            Stage::Leaving => return Err(remote.cause.clone().unwrap_or(Error::Revoked)),
            Stage::Found(qp, found) if remote.asked.is_empty() => Some((*qp, *found)),
            Stage::Found(..) | Stage::Finding(_) => None,
        };
        let mut what = What::take(op)?;
        if let Some((qp, found)) = ready {
            match remote.post(device, cx, qp, &found, Some(token), what) {
                Posted::Flying => {
                    self.posted = true;
                    return Ok(Step::Pending);
                }
                Posted::Done(done) => return Ok(Step::Done(Ok(done))),
                Posted::Refused(error, what) => {
                    what.give_back(op);
                    return Err(error);
                }
                Posted::Fenced(refused) => what = refused,
                Posted::NoRoom(refused) => {
                    what = refused;
                    if !std::mem::replace(&mut remote.starved, true) {
                        self.starved.push(key);
                    }
                }
            }
        }
        remote.asked.push_back(Asked { token: Some(token), what });
        Ok(Step::Pending)
    }

    /// Posts what waits, as far as there is room. Returns how much.
    pub(super) fn advance(&mut self, device: &mut dyn RdmaDevice, cx: &mut Cx<'_>, key: Key) -> usize {
        let mut done = 0;
        let Some(Queue::Remote(remote)) = self.queues.get_mut(key) else { return 0 };
        remote.starved = false;
        let Stage::Found(qp, found) = remote.stage else { return 0 };
        while let Some(Asked { token, what }) = remote.asked.pop_front() {
            match remote.post(device, cx, qp, &found, token, what) {
                Posted::Flying => self.posted = true,
                Posted::Done(result) => remote.finish(cx, token, Ok(result)),
                Posted::Refused(error, _) => remote.finish(cx, token, Err(error)),
                Posted::Fenced(what) => {
                    remote.asked.push_front(Asked { token, what });
                    break;
                }
                Posted::NoRoom(what) => {
                    remote.asked.push_front(Asked { token, what });
                    remote.starved = true;
                    self.starved.push(key);
                    break;
                }
            }
            done += 1;
        }
        self.settle(device, cx, key);
        done
    }

    /// A posting has ended.
    pub(super) fn ended(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &mut Cx<'_>,
        qp: Qp,
        cookie: Option<u64>,
        result: Result<Option<Yield>, Fault>,
    ) {
        let Some(key) = self.queue_of(qp) else { return };
        let Some(Queue::Remote(remote)) = self.queues.get_mut(key) else { return };
        let place = cookie.map(|cookie| cookie.wrapping_sub(remote.first) as usize);
        match (result, place.and_then(|place| remote.flying.get_mut(place))) {
            (Ok(yielded), Some(flying)) => {
                self.counters.note(flying.kind, yielded.as_ref());
                flying.outcome = Some(flying.outcome_of(yielded));
                remote.drain(cx);
                self.advance(device, cx, key);
            }
            (Ok(_), None) => {}
            // With one, all have failed: they are told why when the queue pair has gone.
            (Err(Fault::Flushed), _) => self.leave(device, cx, key, None),
            (Err(fault), _) => self.leave(device, cx, key, Some(error_of(fault))),
        }
    }
}

impl Remote {
    /// Posts an operation at the cursor. What is known to be out of bounds is not posted.
    fn post(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &Cx<'_>,
        qp: Qp,
        found: &Found,
        token: Option<QToken>,
        what: What,
    ) -> Posted {
        let cx = device_cx(cx);
        let cookie = self.first.wrapping_add(self.flying.len() as u64);
        let left = found.len.saturating_sub(self.cursor);
        let place =
            |at: u64| device::Remote { addr: found.place.addr.wrapping_add(at), key: found.place.key };
        let max_len = device.caps().max_len;
        let kind = match what {
            What::Push(sga) => {
                let (at, len) = (self.cursor, sga.len());
                if !found.access.write {
                    return Posted::Refused(Error::ReadOnly, What::Push(sga));
                }
                if len as u64 > left {
                    return Posted::Refused(Error::NoSpace, What::Push(sga));
                }
                if len > max_len {
                    return Posted::Refused(Error::TooLarge { len, limit: max_len }, What::Push(sga));
                }
                let kind = Kind::Write { at, len: len as u64 };
                if self.is_fenced(kind) {
                    return Posted::Fenced(What::Push(sga));
                }
                if let Err(sga) = device.write(&cx, qp, place(at.min(found.len)), sga, Then::Tell(cookie)) {
                    return Posted::NoRoom(What::Push(sga));
                }
                self.cursor += len as u64;
                kind
            }
            What::Pop(limit) => {
                if !found.access.read {
                    return Posted::Refused(Error::PermissionDenied, What::Pop(limit));
                }
                let most = if limit == usize::MAX { POP_BYTES } else { limit }.min(max_len);
                let len = left.min(most as u64) as usize;
                if len == 0 {
                    let kind = Kind::Read { at: 0, len: 0 };
                    return self.behind(token, kind, Done::Popped(SgArray::new()));
                }
                let kind = Kind::Read { at: self.cursor, len: len as u64 };
                if self.is_fenced(kind) {
                    return Posted::Fenced(What::Pop(limit));
                }
                let into = match cx.heap.alloc(len) {
                    Ok(into) => into,
                    Err(error) => return Posted::Refused(error.into(), What::Pop(limit)),
                };
                if device.read(&cx, qp, place(self.cursor), into, cookie).is_err() {
                    return Posted::NoRoom(What::Pop(limit));
                }
                self.cursor += len as u64;
                kind
            }
            What::Atomic(position, change) => {
                if !found.access.atomic {
                    return Posted::Refused(Error::ReadOnly, What::Atomic(position, change));
                }
                let at = match word(position, found.len) {
                    Ok(at) => at,
                    Err(error) => return Posted::Refused(error, What::Atomic(position, change)),
                };
                let kind = Kind::Atomic { at };
                if self.is_fenced(kind) {
                    return Posted::Fenced(What::Atomic(position, change));
                }
                if device.atomic(&cx, qp, place(at), change, cookie).is_err() {
                    return Posted::NoRoom(What::Atomic(position, change));
                }
                kind
            }
            // A write of no bytes is done when everything before it is.
            What::Flush => {
                if device.write(&cx, qp, place(0), SgArray::new(), Then::Tell(cookie)).is_err() {
                    return Posted::NoRoom(What::Flush);
                }
                Kind::Flush
            }
            What::Seek(at) => {
                self.cursor = at;
                return Posted::Flying;
            }
        };
        self.flying.push_back(Flying { token, kind, outcome: None });
        Posted::Flying
    }

    /// Whether something under way must have ended before this begins.
    fn is_fenced(&self, later: Kind) -> bool {
        self.flying.iter().any(|flying| flying.outcome.is_none() && flying.kind.precedes(later))
    }

    /// Something that needs no posting is done behind what is under way.
    fn behind(&mut self, token: Option<QToken>, kind: Kind, done: Done) -> Posted {
        if self.flying.is_empty() {
            return Posted::Done(done);
        }
        self.flying.push_back(Flying { token, kind, outcome: Some(Ok(done)) });
        Posted::Flying
    }

    /// The same with whatever result, for what has waited.
    fn finish(&mut self, cx: &mut Cx<'_>, token: Option<QToken>, result: Result<Done, Error>) {
        if !self.flying.is_empty() {
            return self.flying.push_back(Flying { token, kind: Kind::Flush, outcome: Some(result) });
        }
        if let Some(token) = token {
            cx.done.post(token, result);
        }
    }

    /// Tells of what is done, in order.
    fn drain(&mut self, cx: &mut Cx<'_>) {
        while let Some(Flying { outcome: Some(_), .. }) = self.flying.front() {
            self.first = self.first.wrapping_add(1);
            if let Some(Flying { token: Some(token), outcome: Some(outcome), .. }) = self.flying.pop_front() {
                cx.done.post(token, outcome);
            }
        }
    }
}

impl Counters {
    fn note(&mut self, kind: Kind, yielded: Option<&Yield>) {
        match (kind, yielded) {
            (Kind::Write { len, .. }, _) => {
                self.region_writes += 1;
                self.region_bytes_written += len;
            }
            (Kind::Read { .. }, Some(Yield::Bytes(into))) => {
                self.region_reads += 1;
                self.region_bytes_read += into.len() as u64;
            }
            (Kind::Atomic { .. }, _) => self.region_atomics += 1,
            (Kind::Read { .. } | Kind::Flush, _) => {}
        }
    }
}

impl Flying {
    fn outcome_of(&self, yielded: Option<Yield>) -> Result<Done, Error> {
        Ok(match (self.kind, yielded) {
            (Kind::Write { at, .. }, None) => Done::Pushed(Position(at)),
            (Kind::Flush, None) => Done::Flushed,
            (Kind::Read { .. }, Some(Yield::Bytes(into))) => Done::Popped(into.into()),
            (Kind::Atomic { .. }, Some(Yield::Word(word))) => Done::Fetched(word),
            // An event of another kind than what was posted.
            (_, _) => return Err(Error::Io),
        })
    }
}
