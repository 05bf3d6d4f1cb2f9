//! A submission queue and its completion queue (Base 1.4 §4.1), in memory that the device shares.
//!
//! Invariants: an entry is written before the doorbell that makes it the device's. There is a new completion where the
//! phase tag differs from the one of the round before. What the device says of its progress is checked; what is out of
//! bounds counts for nothing.

use std::rc::Rc;

use super::command::{Completed, Entry};
use super::raw::Window;
use super::regs::{CQE, Capabilities, Hardware, SQE};

/// Where the queues lie, and how long they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) submission: usize,
    pub(super) submission_entries: usize,
    pub(super) completion: usize,
    pub(super) completion_entries: usize,
}

/// Both queues of a number.
#[derive(Debug)]
pub(super) struct Pair {
    id: u16,
    memory: Rc<Window>,
    place: Place,
    /// Where the next command is put; how far the device was told; how far it has taken them, as it says.
    tail: usize,
    tail_told: usize,
    head_of_commands: usize,
    /// Where the next completion is looked for, in which phase; how many the device has not been told of.
    head: usize,
    phase: bool,
    untold: usize,
    tail_doorbell: usize,
    head_doorbell: usize,
}

impl Pair {
    pub(super) fn new(id: u16, memory: &Rc<Window>, place: Place, capabilities: &Capabilities) -> Pair {
        Pair {
            id,
            memory: Rc::clone(memory),
            place,
            tail: 0,
            tail_told: 0,
            head_of_commands: 0,
            head: 0,
            phase: true,
            untold: 0,
            tail_doorbell: capabilities.tail_doorbell(id),
            head_doorbell: capabilities.head_doorbell(id),
        }
    }

    /// As when they were made. The device must not know of them at that time.
    pub(super) fn restart(&mut self) {
        for at in 0..self.place.completion_entries {
            self.memory.write64s(self.place.completion + at * CQE, &[0; CQE / 8]);
        }
        (self.tail, self.tail_told, self.head_of_commands) = (0, 0, 0);
        (self.head, self.phase, self.untold) = (0, true, 0);
    }

    /// Whether another command fits: a queue is full when one entry is left (§4.1.2).
    pub(super) fn has_room(&self) -> bool {
        self.after(self.tail) != self.head_of_commands
    }

    /// Writes a command, which the device learns of by [`tell`](Pair::tell). False: there is no room.
    #[inline]
    pub(super) fn push(&mut self, entry: &Entry) -> bool {
        if !self.has_room() {
            return false;
        }
        self.memory.write64s(self.place.submission + self.tail * SQE, &entry.0);
        self.tail = self.after(self.tail);
        true
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.place.submission_entries { 0 } else { at + 1 }
    }

    /// Rings the doorbell for all commands since the last time, if there are any.
    #[inline]
    pub(super) fn tell(&mut self, registers: &impl Hardware) {
        if self.tail != self.tail_told {
            registers.write(self.tail_doorbell, self.tail as u32);
            self.tail_told = self.tail;
        }
    }

    /// Whether there is a completion.
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        Completed::phase(self.memory.read64(self.place.completion + self.head * CQE + 8)) == self.phase
    }

    /// Takes a completion. `Err`: it is none of this queue's.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Result<Completed, Completed>> {
        let half = self.memory.read64(self.place.completion + self.head * CQE + 8);
        if Completed::phase(half) != self.phase {
            return None;
        }
        self.head += 1;
        if self.head == self.place.completion_entries {
            self.head = 0;
            self.phase = !self.phase;
        }
        self.untold += 1;
        let completed = Completed::parse(half);
        if completed.queue != self.id || !self.is_pending(usize::from(completed.head)) {
            return Some(Err(completed));
        }
        self.head_of_commands = usize::from(completed.head);
        Some(Ok(completed))
    }

    /// Whether the device may have got there: from what it has taken already up to what it was told of.
    fn is_pending(&self, head: usize) -> bool {
        let length = self.place.submission_entries;
        let distance = |to: usize| (to + length - self.head_of_commands) % length;
        head < length && distance(head) <= distance(self.tail_told)
    }

    /// Gives the room of taken completions back, when half of what the device can do without is taken.
    #[inline]
    pub(super) fn give_back(&mut self, registers: &impl Hardware) {
        if self.untold * 2 > self.place.completion_entries - self.place.submission_entries {
            self.give_all_back(registers);
        }
    }

    /// Gives the room of all taken completions back.
    pub(super) fn give_all_back(&mut self, registers: &impl Hardware) {
        if self.untold > 0 {
            registers.write(self.head_doorbell, self.head as u32);
            self.untold = 0;
        }
    }
}
