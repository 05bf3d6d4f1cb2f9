//! Changes on their way into the log: their records, gathered into elements, and what would undo them.
//!
//! Invariants: `undo` holds the changes of all elements that are not settled, oldest first, and nothing else. Elements
//! are numbered in the order in which they are settled. The records of one command are in one element, so a crash leaves
//! all of them or none.
//!
//! Not in here: pushing, which `log` does.

use std::collections::VecDeque;
use std::rc::Rc;

use demi_api::sga::MAX_SEGMENTS;
use demi_api::{Buf, BufMut, Error, Heap, SgArray};

use super::super::store::{NoRoom, Undo};
use super::record::{ELEMENT_HEADER, Head, LONGEST};

/// Bytes of a buffer that records are gathered in.
const ROOM: usize = 64 << 10;

/// An element of this many bytes takes no further command.
const LARGE: usize = 128 << 10;

/// Values of at least this many bytes go into the log from where they lie.
const REFER: usize = 4 << 10;

/// What an element takes in the log beside its bytes, at the most that is usual: a header, and the rest of a block.
pub(crate) const ELEMENT_OVERHEAD: u64 = 4096 + 48;

/// Of the heap, what is on its way to the log takes one part of so many before commands must wait.
const SHARE: usize = 16;

/// More than any number has digits.
const DIGITS: usize = 32;

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No memory for its record.
    NoRoom,
    /// The log is full, or would be too full to be compacted.
    Full,
    /// The log takes nothing any more.
    Failed(Error),
}

/// Records that are pushed together.
#[derive(Debug)]
pub(crate) struct Element {
    pub(crate) number: u64,
    pub(crate) array: SgArray,
    /// How many changes it holds.
    pub(crate) changes: usize,
}

pub(crate) struct Journal {
    heap: Heap,
    /// Not part of an element yet; the first `filled` bytes are written.
    room: BufMut,
    filled: usize,
    /// The element that is being gathered.
    array: SgArray,
    bytes: usize,
    changes: usize,
    /// What the command has to say is to stay in one element, all of it in `room`.
    whole: bool,
    ready: VecDeque<Element>,
    undo: VecDeque<Undo>,
    /// Of the element that is being gathered; the first is 1.
    number: u64,
    /// Of the newest element with a change in it.
    touched: u64,
    /// All elements up to this one are durable, or have failed.
    settled: u64,
    /// Bytes of elements that are not settled, each with its number.
    weights: VecDeque<(u64, usize)>,
    weight: usize,
    /// Bytes that may be added to what is stored.
    allowance: u64,
    failed: Option<Error>,
    /// Bytes put into elements so far, with what elements take beside them.
    pub(crate) appended: u64,
}

impl Journal {
    pub(crate) fn new(heap: &Heap) -> Result<Journal, Error> {
        Ok(Journal {
            heap: heap.clone(),
            room: heap.alloc(ROOM)?,
            filled: 0,
            array: SgArray::new(),
            bytes: 0,
            changes: 0,
            whole: false,
            ready: VecDeque::new(),
            undo: VecDeque::new(),
            number: 1,
            touched: 0,
            settled: 0,
            weights: VecDeque::new(),
            weight: 0,
            allowance: u64::MAX,
            failed: None,
            appended: 0,
        })
    }

    /// The element that must be settled before it may be told what the store holds.
    #[inline]
    pub(crate) fn pending(&self) -> Option<u64> {
        (self.touched > self.settled).then_some(self.touched)
    }

    /// Whether so much is on its way to the log that nothing should be added.
    #[inline]
    pub(crate) fn is_congested(&self) -> bool {
        self.weight + self.bytes > self.heap.region().len / SHARE
    }

    /// Prepares for a command that changes something: of `key` bytes, and `rest` beside that. `many` keys are changed
    /// together or not at all.
    #[inline]
    pub(crate) fn prepare(
        &mut self,
        key: usize,
        rest: usize,
        many: usize,
        grows: bool,
    ) -> Result<(), Refusal> {
        if let Some(error) = &self.failed {
            return Err(Refusal::Failed(error.clone()));
        }
        let bytes = (key + rest + many.max(1) * (LONGEST + DIGITS)) as u64;
        if grows {
            self.allowance = self.allowance.checked_sub(bytes).ok_or(Refusal::Full)?;
        }
        self.whole = many > 1;
        let room = match self.whole {
            true => self.make_room(bytes as usize, 0),
            false => self.make_room(LONGEST + DIGITS + key + rest.min(REFER), 1),
        };
        room.map_err(|NoRoom| Refusal::NoRoom)
    }

    /// Prepares for a record that is no change.
    pub(crate) fn prepare_copy(&mut self, key: usize, value: usize) -> Result<(), NoRoom> {
        self.whole = false;
        self.make_room(LONGEST + key + value.min(REFER), 1)
    }

    #[inline]
    pub(crate) fn set(&mut self, key: &[u8], value: &Buf, deadline: u64) {
        self.begin(Head::set(key.len(), value.len(), deadline));
        self.put(key);
        if value.len() < REFER || self.whole {
            return self.put(value);
        }
        self.cut();
        self.bytes += value.len();
        self.segment(value.clone());
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        self.begin(Head::delete(key.len()));
        self.put(key);
    }

    pub(crate) fn expire(&mut self, key: &[u8], deadline: u64) {
        self.begin(Head::expire(key.len(), deadline));
        self.put(key);
    }

    pub(crate) fn clear(&mut self) {
        self.begin(Head::clear());
    }

    /// A record that says nothing, so that there is an element.
    pub(crate) fn mark(&mut self) {
        self.begin(Head::start(0));
    }

    /// Notes what undoes the change whose record was written.
    #[inline]
    pub(crate) fn changed(&mut self, undo: Undo) {
        self.undo.push_back(undo);
        self.changes += 1;
        self.touched = self.number;
    }

    /// As [`Journal::changed`], for one key.
    #[inline]
    pub(crate) fn changed_key(&mut self, key: &Rc<[u8]>, was: Option<super::super::store::Was>) {
        self.changed(Undo::Key(Rc::clone(key), was));
    }

    /// Ends the element that is being gathered. Returns the number of the next.
    pub(crate) fn close(&mut self) -> u64 {
        self.cut();
        if self.bytes > 0 {
            let array = std::mem::take(&mut self.array);
            let changes = std::mem::take(&mut self.changes);
            self.ready.push_back(Element { number: self.number, array, changes });
            self.number += 1;
            let bytes = std::mem::take(&mut self.bytes);
            self.weights.push_back((self.number - 1, bytes));
            self.weight += bytes;
            self.appended += bytes as u64 + ELEMENT_OVERHEAD;
            self.allowance = self.allowance.saturating_sub(ELEMENT_OVERHEAD);
        }
        self.number
    }

    /// The next element that is to be pushed.
    pub(crate) fn take(&mut self) -> Option<Element> {
        self.ready.pop_front()
    }

    /// Whether all elements up to `number` are settled.
    pub(crate) fn has_settled(&self, number: u64) -> bool {
        self.settled >= number
    }

    /// All elements up to `number` are settled, the last of which had so many changes; those are final.
    pub(crate) fn settle(&mut self, number: u64, changes: usize) {
        self.give_up(number);
        self.undo.drain(..changes.min(self.undo.len()));
    }

    /// An element has failed, whose changes are undone.
    pub(crate) fn give_up(&mut self, number: u64) {
        self.settled = number;
        while let Some((_, bytes)) = self.weights.front().filter(|(other, _)| *other <= number) {
            self.weight -= bytes;
            self.weights.pop_front();
        }
    }

    /// The newest change, to be undone.
    pub(crate) fn pop_undo(&mut self) -> Option<Undo> {
        self.undo.pop_back()
    }

    /// How many changes are not settled.
    pub(crate) fn unsettled(&self) -> usize {
        self.undo.len()
    }

    /// No change is taken any more.
    pub(crate) fn fail(&mut self, why: Error) {
        self.failed.get_or_insert(why);
    }

    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Says how many bytes may be added to what is stored.
    pub(crate) fn allow(&mut self, bytes: u64) {
        self.allowance = bytes;
    }

    /// Makes sure of so many bytes in one piece, and of place for so many values that are referred to.
    #[inline]
    fn make_room(&mut self, text: usize, values: usize) -> Result<(), NoRoom> {
        let text = text + ELEMENT_HEADER.len();
        if self.bytes >= LARGE || self.array.segments().len() + 2 * values + 2 > MAX_SEGMENTS {
            self.close();
        }
        if self.room.len() - self.filled < text {
            let room = self.heap.alloc(text.max(ROOM)).map_err(|_| NoRoom)?;
            self.cut();
            self.room = room;
        }
        Ok(())
    }

    #[inline]
    fn begin(&mut self, head: Head) {
        if self.bytes == 0 {
            self.put(&ELEMENT_HEADER);
        }
        self.put(head.bytes());
    }

    /// `make_room` has seen to it that there is room.
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.room[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
        self.bytes += bytes.len();
    }

    fn cut(&mut self) {
        if self.filled > 0 {
            let part = self.room.split_to(self.filled).freeze();
            self.filled = 0;
            self.segment(part);
        }
    }

    fn segment(&mut self, segment: Buf) {
        self.array.push(segment).expect("an element is closed before it has too many segments");
    }
}
