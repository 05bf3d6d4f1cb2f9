//! Elements become records, records batches, and batches writes.
//!
//! Elements that come in one turn share a batch; the turn hands it to the device. While as many batches are in flight as may be, what
//! comes fills the next one, and then waits in the application's own buffers.

use std::collections::VecDeque;

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::{BufMut, Heap, OutOfMemory};
use demi_api::op::{Op, Position};
use demi_api::sga::SgArray;
use demi_api::token::QToken;

use super::batch::Batch;
use super::{Expecting, InFlight, Log, Sealed, Unacknowledged, Waiting};
use crate::format::{Geometry, HEAD_LEN, HEADER_LEN, Head, Header, Kind, MIN_ROOM};
use crate::store::Space;

/// Most batches of one log in flight.
const MAX_IN_FLIGHT: usize = 8;

/// Least memory that a batch is put together in.
const MIN_STAGING: usize = 64 << 10;

/// What writing needs of its surroundings.
pub(crate) struct WriteCx<'a> {
    pub(crate) heap: &'a Heap,
    pub(crate) geometry: &'a Geometry,
    pub(crate) seed: u32,
    pub(crate) space: &'a mut Space,
    /// Most bytes of a batch.
    pub(crate) max_batch: usize,
    /// Payloads of at least this many bytes are referred to, if they lie as the device needs it.
    pub(crate) refer_from: usize,
    /// What their addresses must be multiples of.
    pub(crate) memory_align: usize,
    /// The newest complete checkpoint.
    pub(crate) checkpoint: u64,
    pub(crate) copied_bytes: &'a mut u64,
}

/// Why an element cannot go on now.
#[derive(Debug)]
pub(crate) enum Stall {
    /// As many batches are in flight as may be.
    Busy,
    /// A checkpoint must set segments aside.
    Space,
    /// The heap has no room, but will have when a batch ends.
    Memory(OutOfMemory),
}

impl Log {
    /// Appends an element. It is acknowledged later.
    pub(crate) fn push(&mut self, cx: &mut WriteCx<'_>, token: QToken, op: &mut Op) -> Result<(), Error> {
        let Op::Push { sga, to } = op else { return Err(Error::NotSupported("this operation on a log")) };
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if to.is_some() {
            return Err(Error::Invalid("a log has no destinations"));
        }
        let total = sga.len();
        if total >= u32::MAX as usize {
            return Err(Error::TooLarge { len: total, limit: u32::MAX as usize - 1 });
        }
        let gross = gross(cx, total);
        let needed = Log::segments_for(cx.geometry, self.gross + gross).saturating_sub(self.promised);
        if !cx.space.promise(needed) {
            return Err(Error::NoSpace);
        }
        self.promised += needed;
        self.gross += gross;
        let waiting = Waiting { token, rest: std::mem::take(sga), total, begun: None, gross };
        self.waiting.push_back(waiting);
        if self.waiting.len() == 1 {
            // What stalls now is taken up again by the turn.
            let _stalled = self.advance(cx);
        }
        Ok(())
    }

    /// Puts elements that wait into batches, for as long as there is room.
    pub(crate) fn advance(&mut self, cx: &mut WriteCx<'_>) -> Option<Stall> {
        while let Some(mut waiting) = self.waiting.pop_front() {
            if waiting.total == usize::MAX {
                let end = self.next;
                self.unacknowledged.push_back(Unacknowledged {
                    token: waiting.token,
                    what: Expecting::Flushed,
                    end,
                });
                continue;
            }
            loop {
                let segments = self.segments.len();
                let placed = self.place(cx, &mut waiting);
                self.promised = self.promised.saturating_sub(self.segments.len() - segments);
                match placed {
                    Ok(false) => {
                        let left = gross(cx, waiting.rest.len()).min(waiting.gross);
                        self.gross -= waiting.gross - left;
                        waiting.gross = left;
                    }
                    Ok(true) => break,
                    Err(stall) => {
                        self.waiting.push_front(waiting);
                        return Some(stall);
                    }
                }
            }
            self.gross -= waiting.gross;
            cx.space.release(self.spare_promises(cx.geometry));
            let position = Position(waiting.begun.expect("its first fragment was placed"));
            let what = Expecting::Pushed(position);
            self.unacknowledged.push_back(Unacknowledged { token: waiting.token, what, end: self.next });
        }
        None
    }

    /// Appends the next fragment of an element, or makes room for it. True: it was the last.
    fn place(&mut self, cx: &mut WriteCx<'_>, waiting: &mut Waiting) -> Result<bool, Stall> {
        let geometry = *cx.geometry;
        let (ordinal, offset) = geometry.split(self.next);
        if offset + MIN_ROOM > geometry.segment_size {
            self.seal(cx);
            self.next = geometry.position(ordinal + 1, 0);
            return Ok(false);
        }
        if offset == 0 {
            self.begin_segment(cx, ordinal)?;
            return Ok(false);
        }
        let rest = waiting.rest.len();
        let referable = self.referable(cx, &waiting.rest, offset);
        if self.filling.is_none() {
            let staged = if referable.is_some() { 0 } else { rest };
            self.filling = Some(Batch::new(self.next, self.staging(cx, staged)?));
        }
        let batch = self.filling.as_ref().expect("it was made if it was missing");
        let limit = batch.room().min(cx.max_batch.saturating_sub(batch.len()));
        let fragment = match referable {
            Some((lead, len)) if HEADER_LEN + lead <= limit => {
                Fragment { len: len.min(cx.max_batch - batch.len() - HEADER_LEN - lead), lead: Some(lead) }
            }
            _ => Fragment {
                len: rest.min(limit.min(geometry.segment_size - offset).saturating_sub(HEADER_LEN)),
                lead: None,
            },
        };
        let whole = fragment.len == rest || fragment.lead.is_some() && fragment.len >= cx.refer_from;
        if batch.records > 0 && (!whole || limit < MIN_ROOM) {
            // An element is not cut because others came before it in the batch.
            self.seal(cx);
            return Ok(false);
        }
        let last = fragment.len == rest;
        if !last && waiting.begun.is_none() && batch.records > 0 {
            // A first fragment is the first of its batch.
            self.seal(cx);
            return Ok(false);
        }
        let kind = match (waiting.begun.is_none(), last) {
            (true, true) => Kind::Whole,
            (true, false) => Kind::First,
            (false, false) => Kind::Middle,
            (false, true) => Kind::Last,
        };
        waiting.begun.get_or_insert(self.next);
        self.append(cx, kind, fragment, waiting, ordinal, offset);
        Ok(last)
    }

    fn append(
        &mut self,
        cx: &mut WriteCx<'_>,
        kind: Kind,
        fragment: Fragment,
        waiting: &mut Waiting,
        ordinal: u64,
        offset: usize,
    ) {
        let sequence = self.segment(ordinal).expect("the segment that is written to is the log's").sequence;
        let header = Header {
            kind,
            ends_batch: false,
            lead: fragment.lead.unwrap_or(0) as u16,
            length: fragment.len as u32,
            total: waiting.total as u32,
            log: self.id,
            sequence,
            offset: offset as u32,
            epoch: self.epoch,
            stable: self.stable,
            payload_crc: 0,
        };
        let batch = self.filling.as_mut().expect("there is a batch to append to");
        let before = batch.len();
        match fragment.lead {
            Some(_) => {
                let part = waiting.rest.split_to(fragment.len);
                let payload = part.into_segments().pop().expect("what is referred to is one segment");
                batch.refer(header, payload, cx.seed);
            }
            None => {
                *cx.copied_bytes += fragment.len as u64;
                batch.copy(header, &mut waiting.rest, cx.seed);
            }
        }
        batch.records += 1;
        batch.splits = matches!(kind, Kind::First | Kind::Middle);
        self.next += (batch.len() - before) as u64;
        let ends = batch.splits || fragment.lead.is_some();
        if ends || offset + (batch.len() - before) + MIN_ROOM > cx.geometry.segment_size {
            self.seal(cx);
        }
    }

    /// How the first bytes of an element can be referred to: the gap before them, and how many.
    fn referable(&self, cx: &WriteCx<'_>, rest: &SgArray, offset: usize) -> Option<(usize, usize)> {
        let first = rest.segments().first().filter(|first| first.len() >= cx.refer_from)?;
        if first.as_ptr().addr() % cx.memory_align != 0 {
            return None;
        }
        let block_size = cx.geometry.block_size;
        let begins = cx.geometry.block_up(offset + HEADER_LEN);
        let room = cx.geometry.segment_size.saturating_sub(begins).min(cx.max_batch - 2 * block_size);
        let len = first.len().min(room) / block_size * block_size;
        (len >= cx.refer_from).then_some((begins - offset - HEADER_LEN, len))
    }

    /// Takes the next segment, and begins it.
    fn begin_segment(&mut self, cx: &mut WriteCx<'_>, ordinal: u64) -> Result<(), Stall> {
        let staging = self.staging(cx, 0)?;
        let segment = match self.segment(ordinal) {
            Some(segment) => segment,
            None => match cx.space.take() {
                Some(segment) => {
                    self.segments.push_back(segment);
                    segment
                }
                None => {
                    self.spare = Some(staging);
                    return Err(Stall::Space);
                }
            },
        };
        let header = Header {
            kind: Kind::Head,
            ends_batch: false,
            lead: 0,
            length: Head::LEN as u32,
            total: Head::LEN as u32,
            log: self.id,
            sequence: segment.sequence,
            offset: 0,
            epoch: self.epoch,
            stable: self.stable,
            payload_crc: 0,
        };
        let head = Head { ordinal, head: self.head, checkpoint: cx.checkpoint };
        let mut batch = Batch::new(self.next, staging);
        batch.copy_bytes(header, &head.emit(), cx.seed);
        self.next += HEAD_LEN as u64;
        self.filling = Some(batch);
        Ok(())
    }

    /// Memory to put a batch together in, for a payload of `rest` bytes.
    fn staging(&mut self, cx: &WriteCx<'_>, rest: usize) -> Result<BufMut, Stall> {
        if self.sealed.len() + self.in_flight.len() >= MAX_IN_FLIGHT {
            return Err(Stall::Busy);
        }
        let block_size = cx.geometry.block_size;
        let wanted = (rest + HEAD_LEN + HEADER_LEN).next_multiple_of(block_size).min(cx.max_batch);
        if let Some(spare) = self.spare.take_if(|spare| spare.len() >= wanted) {
            return Ok(spare);
        }
        let len = wanted.next_power_of_two().max(MIN_STAGING.min(cx.max_batch));
        cx.heap.alloc(len).map_err(Stall::Memory)
    }

    /// Ends the batch that is filled, if there is one: the next record begins at the next block.
    pub(crate) fn seal(&mut self, cx: &WriteCx<'_>) {
        let Some(batch) = self.filling.take() else { return };
        let (start, splits) = (batch.start, batch.splits);
        let (data, rest) = batch.seal(cx.geometry.block_size, cx.seed);
        let len = data.len();
        self.next = start + len as u64;
        self.spare = (rest.len() >= cx.geometry.block_size * 2).then_some(rest);
        self.sealed.push_back(Sealed { start, data, len, splits });
    }

    /// Hands over what is to be written: position, bytes, and the batch's number.
    pub(crate) fn next_write(&mut self, cx: &WriteCx<'_>) -> Option<(u64, SgArray, u64)> {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        if self.sealed.is_empty() {
            self.seal(cx);
        }
        let Sealed { start, data, len, splits } = self.sealed.pop_front()?;
        let number = self.first_in_flight + self.in_flight.len() as u64;
        self.in_flight.push_back(InFlight { end: start + len as u64, splits, ended: false });
        Some((start, data, number))
    }

    /// Fails what waits, and has not begun, for want of memory that nobody will give back.
    pub(crate) fn fail_waiting(&mut self, cx: &mut Cx<'_>, space: &mut Space, error: &Error) {
        if self.waiting.front().is_some_and(|first| first.begun.is_some()) {
            return self.fail(cx, error.clone());
        }
        self.gross = 0;
        space.release(std::mem::take(&mut self.promised));
        let waiting: VecDeque<Waiting> = std::mem::take(&mut self.waiting);
        for Waiting { token, .. } in waiting {
            if !self.is_orphan {
                cx.done.post(token, Err(error.clone()));
            }
        }
    }

    /// Whether anything waits for room.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a batch is in flight, so that there will be room.
    pub(crate) fn will_have_room(&self) -> bool {
        !self.in_flight.is_empty() || !self.sealed.is_empty()
    }
}

/// Bytes of segments that an element of `total` bytes, or what is left of one, takes up at the most.
fn gross(cx: &WriteCx<'_>, total: usize) -> usize {
    let block_size = cx.geometry.block_size;
    if total < block_size {
        // At the end of a segment it becomes two records. What pads the batch in which there was no room for it is not longer than it.
        return 2 * total.next_multiple_of(8) + 4 * HEADER_LEN + MIN_ROOM;
    }
    let per_segment = cx.geometry.segment_size - HEAD_LEN - block_size;
    // Each fragment loses a header and at most two blocks to alignment.
    let fragment = cx.max_batch.min(per_segment) - HEADER_LEN - 2 * block_size;
    total + (total / fragment + 2) * (HEADER_LEN + 2 * block_size)
}

/// How the next bytes of an element are written.
struct Fragment {
    len: usize,
    /// They stay where they lie, behind a gap of so many bytes.
    lead: Option<usize>,
}
