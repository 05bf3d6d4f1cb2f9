//! Requests become commands.
//!
//! Invariant: what a command names was checked when its request was submitted: whole blocks of the device, aligned
//! bytes of this heap.

use arrayvec::ArrayVec;
use demi_api::error::Error;
use demi_api::memalloc::Buf;
use demi_api::sga::MAX_SEGMENTS;
use demi_api::time::Instant;

use super::super::command::{Entry, MAX_RANGE, MAX_RANGES, range};
use super::super::controller::IOVA;
use super::super::prp::{self, Span};
use super::super::regs::{Hardware, PAGE};
use super::Engine;
use crate::device::Command;

/// The heap as the device sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) base: usize,
    pub(super) len: usize,
    pub(super) iova: u64,
}

impl Region {
    fn span(&self, bytes: &[u8]) -> Option<Span> {
        let offset = bytes.as_ptr().addr().checked_sub(self.base)?;
        let inside = offset.checked_add(bytes.len())? <= self.len;
        inside.then_some(Span { iova: self.iova + offset as u64, len: bytes.len() })
    }
}

impl<R: Hardware> Engine<R> {
    /// Whether there is anything to do for a command; why it cannot be done.
    pub(super) fn check(&self, command: &Command) -> Result<bool, Error> {
        self.caps.check(command)?;
        let is_ours = |bytes: &[u8]| {
            self.region.span(bytes).map(drop).ok_or(Error::Invalid("a buffer is of another heap"))
        };
        match command {
            Command::Read { into, .. } => is_ours(into)?,
            Command::Write { .. } | Command::Discard { .. } if self.caps.read_only => {
                return Err(Error::ReadOnly);
            }
            Command::Write { data, .. } => data.segments().iter().try_for_each(|segment| is_ours(segment))?,
            // Without a volatile cache, what is complete is durable (Base 1.4 §6.6).
            Command::Flush => return Ok(self.volatile_cache),
            Command::Discard { .. } if !self.caps.discard => {
                return Err(Error::Invalid("the controller has no use for discarding"));
            }
            Command::Discard { .. } => {}
        }
        Ok(true)
    }

    /// Makes commands of a request. False: there was no room for all of them.
    pub(super) fn issue(&mut self, at: u16, now: Instant) -> bool {
        while self.flight.request(at).unsent {
            let Some(slot) = self.flight.next_slot() else { return false };
            if !self.controller.io.has_room() {
                return false;
            }
            let list = self.lists + usize::from(slot) * PAGE;
            let entry = self.next_command(at, list);
            if let Some(entry) = self.flight.send(at, entry, now) {
                self.controller.io.push(&entry);
            }
        }
        true
    }

    /// The next command of a request that is not wholly sent; its list is put at `list`.
    fn next_command(&mut self, at: u16, list: usize) -> Entry {
        let list_iova = IOVA + list as u64;
        let memory = &self.controller.memory;
        let set = |index: usize, entry: u64| memory.write64s(list + 8 * index, &[entry]);
        let (namespace, shift) = (self.config.namespace, self.block_shift);
        let region = self.region;
        let pending = self.flight.request(at);
        match &pending.command {
            Command::Read { offset, into } => {
                pending.unsent = false;
                let span = region.span(into).expect("checked when it was submitted");
                let memory = prp::build(&[span], list_iova, set);
                Entry::read(namespace, offset >> shift, into.len() >> shift, memory)
            }
            Command::Write { offset, data, durable } => {
                let rest = &data.segments()[pending.segments_sent..];
                let (spans, count) = run(&region, rest);
                let bytes: usize = spans.iter().map(|span| span.len).sum();
                let block = (offset + pending.bytes_sent) >> shift;
                pending.segments_sent += count;
                pending.bytes_sent += bytes as u64;
                pending.unsent = pending.segments_sent < data.segments().len();
                let memory = prp::build(&spans, list_iova, set);
                let unit_access = *durable && self.volatile_cache;
                Entry::write(namespace, block, bytes >> shift, memory, unit_access)
            }
            Command::Flush => {
                pending.unsent = false;
                Entry::flush(namespace)
            }
            Command::Discard { offset, len } => {
                let mut ranges = 0;
                while pending.bytes_sent < *len && ranges < MAX_RANGES {
                    let blocks = ((len - pending.bytes_sent) >> shift).min(MAX_RANGE);
                    let block = (offset + pending.bytes_sent) >> shift;
                    memory.write64s(list + 16 * ranges, &range(block, blocks));
                    pending.bytes_sent += blocks << shift;
                    ranges += 1;
                }
                pending.unsent = pending.bytes_sent < *len;
                Entry::deallocate(namespace, ranges, list_iova)
            }
        }
    }

    pub(super) fn issue_waiting(&mut self, now: Instant) {
        while let Some(at) = self.flight.first_waiting() {
            if !self.issue(at, now) {
                break;
            }
            self.flight.no_longer_waiting();
        }
        self.controller.io.tell(&self.controller.registers);
        // Places, but no room for their commands and none under way that could make it: it does not tell how far it is.
        if !self.flight.is_flying() && self.flight.first_waiting().is_some() {
            self.reset(now);
        }
    }
}

/// As many spans from the first on as one command can name, and how many segments these are. As a write is of one block
/// at least, there is a span as long as there is something to send; empty segments at its end are sent with it.
fn run(region: &Region, segments: &[Buf]) -> (ArrayVec<Span, MAX_SEGMENTS>, usize) {
    let mut spans = ArrayVec::<Span, MAX_SEGMENTS>::new();
    for (at, segment) in segments.iter().enumerate().filter(|(_, segment)| !segment.is_empty()) {
        let span = region.span(segment).expect("checked when it was submitted");
        if spans.last().is_some_and(|last| !last.meets(span)) {
            return (spans, at);
        }
        spans.push(span);
    }
    (spans, segments.len())
}
