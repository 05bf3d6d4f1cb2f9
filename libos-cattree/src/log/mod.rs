//! One log: its segments, its end where elements are appended, and who waits for what.
//!
//! Invariants: what is before `acked` is complete on the device, in whole elements, and never written again. Batches are written side by
//! side and acknowledged in order; so are pushes.

mod batch;
mod reader;
mod writer;

use std::collections::VecDeque;

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::op::{Done, Position};
use demi_api::sga::SgArray;
use demi_api::slab::Key;
use demi_api::token::QToken;

use self::batch::Batch;
pub(crate) use self::reader::{ReadCx, Reader, Wanted};
pub(crate) use self::writer::{Stall, WriteCx};
use crate::format::{Geometry, HEAD_LEN, LogEntry, Segment};

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) id: u32,
    pub(crate) name: Vec<u8>,
    pub(crate) epoch: u32,
    pub(crate) head: u64,
    pub(crate) first_ordinal: u64,
    pub(crate) segments: VecDeque<Segment>,
    /// Where the next record goes.
    pub(crate) next: u64,
    /// Up to where whole elements are written.
    pub(crate) acked: u64,
    /// Up to where they are durable as well.
    pub(crate) stable: u64,
    /// Pushes complete when they are durable.
    pub(crate) durable: bool,
    /// One for each descriptor that names it.
    pub(crate) readers: Vec<Key>,
    /// One of them appends.
    pub(crate) has_writer: bool,
    /// It takes no push until it is opened again.
    pub(crate) failed: Option<Error>,
    /// The instance is going: nobody is told of what becomes of pushes.
    pub(crate) is_orphan: bool,
    /// It is in the store's list of logs to be looked after.
    pub(crate) marked: bool,
    /// Readers at its end.
    pub(crate) at_end: VecDeque<Key>,
    /// It could not go on without the checkpoint that was being written.
    pub(crate) awaits_save: bool,
    /// Elements that are not in a batch yet, or only in part.
    waiting: VecDeque<Waiting>,
    filling: Option<Batch>,
    sealed: VecDeque<Sealed>,
    spare: Option<demi_api::memalloc::BufMut>,
    in_flight: VecDeque<InFlight>,
    /// Number of the oldest batch in flight.
    first_in_flight: u64,
    /// Elements in batches, oldest first, and flushes between them.
    unacknowledged: VecDeque<Unacknowledged>,
    /// Bytes that the elements which wait take up at the most, with all that is around them.
    gross: usize,
    /// Segments that were promised to them together.
    promised: usize,
    /// Segments that were promised to elements which failed.
    pub(crate) unneeded: usize,
    /// A flush is under way that began when this position was acknowledged.
    flushing: Option<u64>,
}

/// An element on its way into batches.
#[derive(Debug)]
struct Waiting {
    token: QToken,
    rest: SgArray,
    total: usize,
    /// Where its first fragment is.
    begun: Option<u64>,
    /// Bytes of segments that what is left of it takes up at the most.
    gross: usize,
}

#[derive(Debug)]
struct Sealed {
    start: u64,
    data: SgArray,
    len: usize,
    splits: bool,
}

#[derive(Debug)]
struct InFlight {
    end: u64,
    splits: bool,
    ended: bool,
}

#[derive(Debug)]
struct Unacknowledged {
    token: QToken,
    what: Expecting,
    /// Done when this is acknowledged.
    end: u64,
}

#[derive(Debug)]
enum Expecting {
    Pushed(Position),
    Flushed,
}

impl Log {
    /// A log as a checkpoint, and what was found behind it, describe it.
    pub(crate) fn new(entry: &LogEntry, epoch: u32) -> Log {
        Log {
            id: entry.id,
            name: entry.name.clone(),
            epoch,
            head: entry.head,
            first_ordinal: entry.first_ordinal,
            segments: entry.segments.iter().copied().collect(),
            next: entry.tail,
            acked: entry.tail,
            stable: entry.tail,
            durable: true,
            readers: Vec::new(),
            has_writer: false,
            failed: None,
            is_orphan: false,
            marked: false,
            at_end: VecDeque::new(),
            awaits_save: false,
            waiting: VecDeque::new(),
            filling: None,
            sealed: VecDeque::new(),
            spare: None,
            in_flight: VecDeque::new(),
            first_in_flight: 0,
            unacknowledged: VecDeque::new(),
            gross: 0,
            promised: 0,
            unneeded: 0,
            flushing: None,
        }
    }

    /// What a checkpoint says of it.
    pub(crate) fn entry(&self) -> LogEntry {
        LogEntry {
            id: self.id,
            name: self.name.clone(),
            head: self.head,
            tail: self.stable,
            epoch: self.epoch,
            first_ordinal: self.first_ordinal,
            segments: self.segments.iter().copied().collect(),
        }
    }

    pub(crate) fn segment(&self, ordinal: u64) -> Option<Segment> {
        let place = ordinal.checked_sub(self.first_ordinal)?;
        self.segments.get(usize::try_from(place).ok()?).copied()
    }

    /// Whether everything that was pushed has met its fate.
    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.filling.is_none() && self.is_settled()
    }

    /// Whether nothing is with the device, or ready for it.
    pub(crate) fn is_settled(&self) -> bool {
        self.sealed.is_empty() && self.in_flight.is_empty() && self.flushing.is_none()
    }

    /// Moves the head, and gives up the segments before it.
    pub(crate) fn discard(&mut self, geometry: &Geometry, position: u64) -> Vec<Segment> {
        self.head = position.clamp(self.head, self.acked);
        let keep_from = geometry.split(self.head).0.min(self.first_ordinal + self.segments.len() as u64);
        let count = keep_from.saturating_sub(self.first_ordinal) as usize;
        self.first_ordinal += count as u64;
        self.segments.drain(..count).collect()
    }

    /// Cuts the end off, which is a boundary of batches, and gives up the segments behind it. Nothing is in flight.
    pub(crate) fn cut(&mut self, geometry: &Geometry, tail: u64, epoch: u32) -> Vec<Segment> {
        let (ordinal, offset) = geometry.split(tail);
        let keep = ordinal.saturating_sub(self.first_ordinal) as usize + usize::from(offset > 0);
        (self.next, self.acked, self.epoch) = (tail, tail, epoch);
        self.stable = self.stable.min(tail);
        self.head = self.head.min(tail);
        self.failed = None;
        if keep >= self.segments.len() { Vec::new() } else { self.segments.drain(keep..).collect() }
    }

    /// Appends a flush behind everything that was pushed.
    pub(crate) fn flush(&mut self, token: QToken) {
        // What waits for room comes before: the flush waits as an element of no bytes would, and is told by its total.
        if self.waiting.is_empty() {
            self.unacknowledged.push_back(Unacknowledged { token, what: Expecting::Flushed, end: self.next });
        } else {
            let rest = SgArray::new();
            self.waiting.push_back(Waiting { token, rest, total: usize::MAX, begun: None, gross: 0 });
        }
    }

    /// Notes that a batch has ended. True: readers at the end may go on.
    pub(crate) fn batch_ended(&mut self, cx: &mut Cx<'_>, number: u64, result: Result<(), Error>) -> bool {
        let place = number.wrapping_sub(self.first_in_flight) as usize;
        let Some(batch) = self.in_flight.get_mut(place) else { return false };
        batch.ended = true;
        if let Err(error) = result {
            self.fail(cx, error);
        }
        let before = self.acked;
        while let Some(InFlight { end, splits, ended: true }) = self.in_flight.front() {
            if self.failed.is_none() && !splits {
                self.acked = *end;
            }
            self.in_flight.pop_front();
            self.first_in_flight += 1;
        }
        if self.durable {
            self.stable = self.acked;
        }
        if self.acked == before {
            return false;
        }
        self.acknowledge(cx);
        if self.filling.is_none() && self.in_flight.is_empty() {
            self.spare = None;
        }
        true
    }

    /// Notes that a flush has ended.
    pub(crate) fn flush_ended(&mut self, cx: &mut Cx<'_>, result: Result<(), Error>) {
        let Some(began_at) = self.flushing.take() else { return };
        match result {
            Ok(()) => self.stable = self.stable.max(began_at.min(self.acked)),
            Err(error) => self.fail(cx, error),
        }
        self.acknowledge(cx);
    }

    /// Whether the device must flush for the oldest that waits.
    pub(crate) fn wants_flush(&self) -> bool {
        let Some(Unacknowledged { what: Expecting::Flushed, end, .. }) = self.unacknowledged.front() else {
            return false;
        };
        *end <= self.acked && self.stable < *end && self.flushing.is_none()
    }

    /// A flush was submitted.
    pub(crate) fn flush_began(&mut self) {
        self.flushing = Some(self.acked);
    }

    /// Completes what is done, in order.
    pub(crate) fn acknowledge(&mut self, cx: &mut Cx<'_>) {
        while let Some(Unacknowledged { token, what, end }) = self.unacknowledged.front() {
            let done = match what {
                Expecting::Pushed(position) if *end <= self.acked => Done::Pushed(*position),
                Expecting::Flushed if *end <= self.stable => Done::Flushed,
                _ => break,
            };
            if !self.is_orphan {
                cx.done.post(*token, Ok(done));
            }
            self.unacknowledged.pop_front();
        }
    }

    /// Fails everything that is not acknowledged, and what comes, until the log is opened again.
    pub(crate) fn fail(&mut self, cx: &mut Cx<'_>, error: Error) {
        if self.failed.is_some() {
            return;
        }
        self.acknowledge(cx);
        let mut tokens: Vec<QToken> =
            self.unacknowledged.drain(..).map(|unacknowledged| unacknowledged.token).collect();
        tokens.extend(self.waiting.drain(..).map(|waiting| waiting.token));
        self.gross = 0;
        self.unneeded += std::mem::take(&mut self.promised);
        for token in tokens.into_iter().filter(|_| !self.is_orphan) {
            cx.done.post(token, Err(error.clone()));
        }
        self.filling = None;
        self.sealed.clear();
        self.spare = None;
        self.failed = Some(error);
    }

    /// Recalls a push or flush that has not begun; returns how many segments are not needed then.
    pub(crate) fn cancel(&mut self, geometry: &Geometry, token: QToken) -> Option<usize> {
        let place =
            self.waiting.iter().position(|waiting| waiting.token == token && waiting.begun.is_none())?;
        self.gross -= self.waiting.remove(place)?.gross;
        Some(self.spare_promises(geometry))
    }

    /// Segments that what waits takes at the most, wherever in a segment the log is.
    fn segments_for(geometry: &Geometry, gross: usize) -> usize {
        match gross {
            0 => 0,
            _ => gross.div_ceil(geometry.segment_size - HEAD_LEN - geometry.block_size) + 1,
        }
    }

    /// Gives up the promises that what waits has no need of; returns how many.
    fn spare_promises(&mut self, geometry: &Geometry) -> usize {
        let needed = Log::segments_for(geometry, self.gross).min(self.promised);
        std::mem::replace(&mut self.promised, needed) - needed
    }
}
