//! What is under way: requests, and the commands that they have become.
//!
//! Invariants: a request is taken apart into commands from its begin to its end, and is over when none is left to be
//! sent or to come back. A command's identifier names its place and how often that place was used before, so that a
//! completion that comes twice, or late, or from nowhere, names nothing.

use std::collections::VecDeque;

use demi_api::error::Error;
use demi_api::time::Instant;

use super::command::Entry;
use crate::device::{Buffers, Command, Completion, Request};

/// A request that was taken.
#[derive(Debug)]
pub(super) struct Pending {
    tag: u64,
    pub(super) command: Command,
    /// Segments of a write, and their bytes, that have become commands.
    pub(super) segments_sent: usize,
    pub(super) bytes_sent: u64,
    /// Commands under way.
    commands: u16,
    /// Whether more commands are needed.
    pub(super) unsent: bool,
    error: Option<Error>,
}

/// A command that the device has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) request: u16,
    pub(super) entry: Entry,
    pub(super) since: Instant,
    /// How often it was given to the device again.
    pub(super) again: u8,
    /// Whether the device was asked to abort it.
    pub(super) aborted: bool,
}

/// A place for a command.
#[derive(Debug)]
struct Slot {
    uses: u16,
    sent: Option<Sent>,
}

/// All places for requests and commands, of which there are equally many.
#[derive(Debug)]
pub(super) struct Flight {
    requests: Vec<Option<Pending>>,
    free_requests: Vec<u16>,
    slots: Vec<Slot>,
    free_slots: Vec<u16>,
    /// Requests that need more commands than there were places for.
    waiting: VecDeque<u16>,
    /// Requests that are over and not handed out.
    finished: Vec<u16>,
    /// Bits of an identifier that name the place.
    bits: u32,
    /// Whether buffers are kept from use for ever, as the device may write to them at any time.
    leaking: bool,
}

impl Flight {
    /// # Panics
    /// When `depth` is zero or more than 1024: then identifiers had no room for the count of uses.
    pub(super) fn new(depth: usize) -> Flight {
        assert!((1..=1024).contains(&depth), "the configuration's bounds were checked");
        let all = || (0..depth as u16).rev().collect::<Vec<_>>();
        Flight {
            requests: (0..depth).map(|_| None).collect(),
            free_requests: all(),
            slots: (0..depth).map(|_| Slot { uses: 0, sent: None }).collect(),
            free_slots: all(),
            waiting: VecDeque::with_capacity(depth),
            finished: Vec::with_capacity(depth),
            bits: depth.next_power_of_two().trailing_zeros(),
            leaking: false,
        }
    }

    /// Takes a request in.
    #[inline]
    pub(super) fn admit(&mut self, request: Request) -> Result<u16, Request> {
        let Some(at) = self.free_requests.pop() else { return Err(request) };
        let Request { tag, command } = request;
        self.requests[usize::from(at)] = Some(Pending {
            tag,
            command,
            segments_sent: 0,
            bytes_sent: 0,
            commands: 0,
            unsent: true,
            error: None,
        });
        Ok(at)
    }

    #[inline]
    pub(super) fn request(&mut self, at: u16) -> &mut Pending {
        self.requests[usize::from(at)].as_mut().expect("whoever names a request has not handed it out")
    }

    /// The place that the next command will have.
    pub(super) fn next_slot(&self) -> Option<u16> {
        self.free_slots.last().copied()
    }

    /// Notes a command of a request in the [next place](Flight::next_slot); returns the command with its identifier.
    #[inline]
    pub(super) fn send(&mut self, request: u16, entry: Entry, now: Instant) -> Option<Entry> {
        let at = self.free_slots.pop()?;
        self.request(request).commands += 1;
        Some(self.place(at, Sent { request, entry, since: now, again: 0, aborted: false }))
    }

    /// Notes a command that is given to the device again.
    pub(super) fn send_again(&mut self, at: u16, now: Instant) -> Option<Entry> {
        let sent = self.slots[usize::from(at)].sent?;
        Some(self.place(at, Sent { since: now, again: sent.again.saturating_add(1), aborted: false, ..sent }))
    }

    fn place(&mut self, at: u16, mut sent: Sent) -> Entry {
        let slot = &mut self.slots[usize::from(at)];
        slot.uses = slot.uses.wrapping_add(1);
        let entry = sent.entry.with_id(id(at, slot.uses, self.bits));
        sent.entry = entry;
        slot.sent = Some(sent);
        entry
    }

    /// The place and the command that an identifier names, if that is under way.
    #[inline]
    pub(super) fn find(&self, id_: u16) -> Option<(u16, &Sent)> {
        let at = id_ & ((1_u32 << self.bits) - 1) as u16;
        let slot = self.slots.get(usize::from(at))?;
        let sent = slot.sent.as_ref()?;
        (id(at, slot.uses, self.bits) == id_).then_some((at, sent))
    }

    /// The identifier of the command in a place.
    pub(super) fn id(&self, at: u16) -> u16 {
        id(at, self.slots[usize::from(at)].uses, self.bits)
    }

    /// All commands under way, with their places.
    pub(super) fn sent(&self) -> impl Iterator<Item = (u16, &Sent)> {
        let numbered = self.slots.iter().enumerate();
        numbered.filter_map(|(at, slot)| Some((at as u16, slot.sent.as_ref()?)))
    }

    /// How often the command in a place was given to the device again.
    pub(super) fn again(&self, at: u16) -> Option<u8> {
        self.slots[usize::from(at)].sent.as_ref().map(|sent| sent.again)
    }

    pub(super) fn mark_aborted(&mut self, at: u16) {
        if let Some(sent) = &mut self.slots[usize::from(at)].sent {
            sent.aborted = true;
        }
    }

    /// Ends a command. The request ends with its last one, and fails if one of them did.
    #[inline]
    pub(super) fn end(&mut self, at: u16, result: Result<(), Error>) {
        let Some(sent) = self.slots[usize::from(at)].sent.take() else { return };
        self.free_slots.push(at);
        let pending = self.request(sent.request);
        pending.commands -= 1;
        if let Err(error) = result {
            pending.error.get_or_insert(error);
            // What is left of it is not worth doing; if it waits, it will be found to need nothing.
            pending.unsent = false;
        }
        if pending.commands == 0 && !pending.unsent {
            self.finished.push(sent.request);
        }
    }

    /// Ends a request that has no commands under way.
    pub(super) fn finish(&mut self, at: u16, result: Result<(), Error>) {
        let pending = self.request(at);
        pending.unsent = false;
        pending.error = result.err();
        self.finished.push(at);
    }

    /// Puts a request with unsent commands last in line.
    pub(super) fn wait(&mut self, at: u16) {
        self.waiting.push_back(at);
    }

    /// The first in line.
    pub(super) fn first_waiting(&self) -> Option<u16> {
        self.waiting.front().copied()
    }

    pub(super) fn no_longer_waiting(&mut self) {
        self.waiting.pop_front();
    }

    /// Hands out what is over.
    #[inline]
    pub(super) fn hand_out(&mut self, done: &mut Vec<Completion>) {
        for index in 0..self.finished.len() {
            let at = self.finished[index];
            let Some(pending) = self.requests[usize::from(at)].take() else { continue };
            self.free_requests.push(at);
            // One that failed while it waited is still in line.
            if pending.error.is_some() {
                self.waiting.retain(|waiting| *waiting != at);
            }
            let buffers = match pending.command {
                command if self.leaking => {
                    std::mem::forget(command);
                    Buffers::None
                }
                Command::Read { into, .. } => Buffers::Read(into),
                Command::Write { data, .. } => Buffers::Written(data),
                Command::Flush | Command::Discard { .. } => Buffers::None,
            };
            done.push(Completion { tag: pending.tag, result: pending.error.map_or(Ok(()), Err), buffers });
        }
        self.finished.clear();
    }

    pub(super) fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Whether the device has any command.
    pub(super) fn is_flying(&self) -> bool {
        self.free_slots.len() < self.slots.len()
    }

    pub(super) fn requests_under_way(&self) -> usize {
        self.requests.len() - self.free_requests.len()
    }

    /// Ends everything. Unless the device is `cut_off` from memory, buffers are given to nobody any more.
    pub(super) fn fail_all(&mut self, error: &Error, cut_off: bool) {
        self.leaking |= !cut_off;
        for at in 0..self.slots.len() {
            self.end(at as u16, Err(error.clone()));
        }
        while let Some(at) = self.waiting.pop_front() {
            if !self.finished.contains(&at) {
                self.finish(at, Err(error.clone()));
            }
        }
    }
}

/// At most 0x7fff, so never the one that means none (§4.2: FFFFh).
fn id(at: u16, uses: u16, bits: u32) -> u16 {
    at | (uses << bits & 0x7fff)
}
