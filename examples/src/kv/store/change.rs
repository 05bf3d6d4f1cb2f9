//! Changes to single entries, and what the log asks for: undoing changes, replaying them, going through all keys.

use std::rc::Rc;

use demi_api::Buf;

use super::super::log::Record;
use super::{Entry, Everything, KEY_OVERHEAD, LONGEST, Moment, NoRoom, Store, Undo, Was};

/// Slots that one step of a rewriting looks at, at the most.
const STEP: usize = 4096;

impl Entry {
    #[inline]
    pub(super) fn is_live(&self, now: Moment) -> bool {
        self.deadline == 0 || self.deadline > now
    }

    pub(super) fn was(&self) -> Was {
        Was { value: self.value.clone(), deadline: self.deadline, stamp: self.stamp }
    }
}

/// How far a rewriting has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The slot to go on with; none behind the last.
    pub(crate) next: Option<usize>,
    /// Bytes of records that were written.
    pub(crate) bytes: u64,
}

impl Store {
    pub(super) fn insert_entry(
        &mut self,
        key: Rc<[u8]>,
        value: Buf,
        deadline: Moment,
        stamp: u32,
    ) -> Rc<[u8]> {
        self.keys += key.len() + KEY_OVERHEAD;
        self.live += (LONGEST + key.len() + value.len()) as u64;
        self.move_deadline(&key, 0, deadline);
        let slot = self.slots.insert(&key);
        self.entries.insert(Rc::clone(&key), Entry { value, deadline, slot, stamp });
        key
    }

    pub(super) fn remove_entry(&mut self, key: &[u8]) -> Option<(Rc<[u8]>, Entry)> {
        let (key, entry) = self.entries.remove_entry(key)?;
        self.keys -= key.len() + KEY_OVERHEAD;
        self.live -= (LONGEST + key.len() + entry.value.len()) as u64;
        self.slots.remove(entry.slot);
        self.move_deadline(&key, entry.deadline, 0);
        Some((key, entry))
    }

    /// Gives an entry another deadline; what it was.
    pub(super) fn set_deadline(&mut self, key: &[u8], deadline: Moment) -> Option<(Rc<[u8]>, Was)> {
        let entry = self.entries.get_mut(key)?;
        let was = entry.was();
        entry.deadline = deadline;
        let key = Rc::clone(self.slots.key(entry.slot));
        self.move_deadline(&key, was.deadline, deadline);
        Some((key, was))
    }

    pub(super) fn take_everything(&mut self) -> Everything {
        Everything {
            entries: std::mem::take(&mut self.entries),
            deadlines: std::mem::take(&mut self.deadlines),
            slots: std::mem::take(&mut self.slots),
            keys: std::mem::take(&mut self.keys),
            live: std::mem::take(&mut self.live),
        }
    }

    /// Undoes the newest changes, so many of them.
    pub(crate) fn undo(&mut self, changes: usize) {
        for _ in 0..changes {
            match self.journal.as_mut().and_then(|journal| journal.pop_undo()) {
                Some(Undo::Key(key, was)) => {
                    self.remove_entry(&key);
                    if let Some(Was { value, deadline, stamp }) = was {
                        self.insert_entry(key, value, deadline, stamp);
                    }
                }
                Some(Undo::All(all)) => {
                    let Everything { entries, deadlines, slots, keys, live } = *all;
                    self.entries = entries;
                    self.deadlines = deadlines;
                    self.slots = slots;
                    (self.keys, self.live) = (keys, live);
                }
                None => break,
            }
        }
        self.measure();
    }

    /// Does again what a record of `element` tells. Nothing expires meanwhile: the clock does not go yet.
    pub(crate) fn replay(&mut self, element: &Buf, record: &Record<'_>) -> Result<(), NoRoom> {
        match record {
            Record::Set { key, value, deadline } => {
                self.remove_entry(key);
                self.afford(KEY_OVERHEAD + key.len() + value.len().max(64))?;
                let value = element.slice(value.clone());
                let held = self.heap.find(value.as_ptr()).map_or(0, |object| object.capacity);
                // What was read lies in large pieces, of which no single value should keep the whole.
                let value = match held / 2 <= value.len() {
                    true => value,
                    false => self.heap.copy_from(&value).map_err(|_| NoRoom)?,
                };
                self.insert_entry((*key).into(), value, *deadline, self.stamp);
            }
            Record::Delete { key } => drop(self.remove_entry(key)),
            Record::Expire { key, deadline } => drop(self.set_deadline(key, *deadline)),
            Record::Clear => drop(self.take_everything()),
            Record::Start { .. } => {}
        }
        Ok(())
    }

    /// Bytes of a log that holds every key once.
    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    /// Begins to write all keys to the log once more. Returns the slot behind the last that is to be written.
    pub(crate) fn begin_rewrite(&mut self) -> usize {
        self.stamp = self.stamp.wrapping_add(1);
        self.slots.end()
    }

    /// Writes keys from slot `from` to `end` to the journal, for about so many bytes, but for those that were written
    /// since the rewriting began.
    pub(crate) fn rewrite(&mut self, from: usize, end: usize, budget: u64) -> Progress {
        let (mut next, mut bytes) = (from, 0);
        let end = end.min(self.slots.end());
        let Some(journal) = &mut self.journal else { return Progress { next: None, bytes } };
        for slot in from..end.min(from.saturating_add(STEP)) {
            if bytes >= budget {
                break;
            }
            if let Some(key) = self.slots.get(slot)
                && let Some(entry) = self.entries.get_mut(key)
                && entry.stamp != self.stamp
                && entry.is_live(self.now)
            {
                // Without memory it is tried again.
                if journal.prepare_copy(key.len(), entry.value.len()).is_err() {
                    break;
                }
                journal.set(key, &entry.value, entry.deadline);
                entry.stamp = self.stamp;
                bytes += (LONGEST + key.len() + entry.value.len()) as u64;
            }
            next = slot + 1;
        }
        Progress { next: (next < end).then_some(next), bytes }
    }
}
