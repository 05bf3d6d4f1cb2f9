//! Keys and values.
//!
//! Invariants: `deadlines` holds each key with a deadline once, so the next one to expire is its first. A key past
//! its deadline is gone for every command, whether or not the sweep has come by. Values larger than the threshold
//! are kept in the buffers they came in for as long as memory is plentiful: such a buffer may be much larger.
//! With a journal, every change of a command is recorded in it where it is made; that a key has expired is not.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use demi_api::{Buf, Heap};

use self::slots::Slots;
use super::log::{Journal, LONGEST, Refusal};

mod change;
mod slots;

/// Expired keys that one sweep removes at the most.
const SWEEP: usize = 64;

/// Bytes that a key costs beside itself, its value's buffer aside: an estimate of what lies outside the heap.
const KEY_OVERHEAD: usize = 96;

/// A moment, in ms since 1970; 0 is none.
pub(super) type Moment = u64;

pub(super) struct Store {
    heap: Heap,
    entries: HashMap<Rc<[u8]>, Entry>,
    deadlines: BTreeSet<(Moment, Rc<[u8]>)>,
    now: Moment,
    copy_threshold: usize,
    limit: usize,
    /// Bytes of keys and entries, which lie outside the heap.
    keys: usize,
    /// Bytes that may be used before the heap's account must be looked at again.
    allowance: usize,
    /// Bytes taken off the allowance since it was looked at.
    spent: usize,
    /// For who goes through all keys in steps.
    slots: Slots,
    /// Bytes of a log that holds every key once.
    live: u64,
    /// What changes are stamped with: grows with each rewriting.
    stamp: u32,
    pub(super) journal: Option<Box<Journal>>,
    pub(super) counts: Counts,
}

struct Entry {
    value: Buf,
    deadline: Moment,
    slot: u32,
    /// The stamp at the time when its record was written.
    stamp: u32,
}

/// What a key was before a change.
#[derive(Debug)]
pub(super) struct Was {
    value: Buf,
    deadline: Moment,
    stamp: u32,
}

/// How a change is undone.
pub(super) enum Undo {
    /// The key was this, or was not there.
    Key(Rc<[u8]>, Option<Was>),
    /// There were these keys.
    All(Box<Everything>),
}

/// What is removed when all keys are.
#[derive(Default)]
pub(super) struct Everything {
    entries: HashMap<Rc<[u8]>, Entry>,
    deadlines: BTreeSet<(Moment, Rc<[u8]>)>,
    slots: Slots,
    keys: usize,
    live: u64,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) expired: u64,
    pub(super) kept_in_place: u64,
    pub(super) copied: u64,
    pub(super) refused: u64,
}

/// There is no room for a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// When a key expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    /// As before; never, if the key is new.
    Keep,
    Never,
    At(Moment),
}

impl Store {
    pub(super) fn new(heap: &Heap, limit: usize, copy_threshold: usize) -> Store {
        let mut store = Store {
            heap: heap.clone(),
            entries: HashMap::new(),
            deadlines: BTreeSet::new(),
            now: 1,
            copy_threshold,
            limit,
            keys: 0,
            allowance: 0,
            spent: 0,
            slots: Slots::default(),
            live: 0,
            stamp: 0,
            journal: None,
            counts: Counts::default(),
        };
        store.measure();
        store
    }

    /// Sets the time for the commands to come, and removes some of the keys that have expired.
    pub(super) fn tick(&mut self, now: Moment) {
        self.now = now;
        for _ in 0..SWEEP {
            let Some((deadline, key)) = self.deadlines.first() else { return };
            if *deadline > self.now {
                return;
            }
            let key = Rc::clone(key);
            self.counts.expired += 1;
            self.remove_entry(&key);
        }
    }

    /// How long there is until the next key expires; none, if the last sweep has left some.
    pub(super) fn until_expiry(&self) -> Option<Duration> {
        let (deadline, _) = self.deadlines.first()?;
        Some(Duration::from_millis(deadline.saturating_sub(self.now)))
    }

    /// The moment of the last tick.
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn with_deadline(&self) -> usize {
        self.deadlines.len()
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The value of a key, counted as a hit or a miss.
    #[inline]
    pub(super) fn get(&mut self, key: &[u8]) -> Option<&Buf> {
        match self.entries.get(key) {
            Some(entry) if entry.is_live(self.now) => {
                self.counts.hits += 1;
                Some(&entry.value)
            }
            _ => {
                self.counts.misses += 1;
                None
            }
        }
    }

    /// Whether a key exists.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.is_live(self.now))
    }

    /// The moment at which an existing key expires; 0 for never.
    pub(super) fn deadline(&self, key: &[u8]) -> Option<Moment> {
        let entry = self.entries.get(key)?;
        entry.is_live(self.now).then_some(entry.deadline)
    }

    /// Sets a key. `value` lies in the request that it came in.
    #[inline]
    pub(super) fn set(&mut self, key: &[u8], value: Buf, expiry: Expiry) -> Result<(), NoRoom> {
        let value = self.keep(key, value)?;
        self.insert(key, value, expiry);
        Ok(())
    }

    /// Sets a key to a text of this program's own.
    pub(super) fn set_text(&mut self, key: &[u8], text: &[u8], expiry: Expiry) -> Result<(), NoRoom> {
        if let Some(entry) = self.entries.get_mut(key)
            && expiry == Expiry::Keep
            && self.journal.is_none()
            && entry.is_live(self.now)
        {
            // Counters stay in their buffer, unless a reply still refers to it.
            match std::mem::take(&mut entry.value).try_into_mut() {
                Ok(mut value) if value.capacity() >= text.len() => {
                    self.live = self.live + text.len() as u64 - value.len() as u64;
                    value.set_len(text.len());
                    value.copy_from_slice(text);
                    entry.value = value.freeze();
                    return Ok(());
                }
                Ok(value) => entry.value = value.freeze(),
                Err(value) => entry.value = value,
            }
        }
        self.afford(KEY_OVERHEAD + key.len() + text.len().max(64))?;
        let value = self.heap.copy_from(text).map_err(|_| self.refuse())?;
        self.insert(key, value, expiry);
        Ok(())
    }

    /// Whether `bytes` more could be stored.
    pub(super) fn has_room_for(&mut self, bytes: usize) -> bool {
        let room = self.afford(bytes).is_ok();
        if room {
            self.allowance += bytes;
        }
        room
    }

    /// Prepares for a command that changes something, whose key and other arguments have so many bytes. One that
    /// names `many` keys changes all of them or none, as far as the log tells.
    #[inline]
    pub(super) fn prepare(
        &mut self,
        key: usize,
        rest: usize,
        many: usize,
        grows: bool,
    ) -> Result<(), Refusal> {
        match &mut self.journal {
            Some(journal) => journal.prepare(key, rest, many, grows),
            None => Ok(()),
        }
    }

    /// What must be settled in the log before a reply may leave that tells of the store as it is.
    #[inline]
    pub(super) fn pending(&self) -> Option<u64> {
        self.journal.as_ref()?.pending()
    }

    /// Whether commands should wait until some of what was changed is durable.
    #[inline]
    pub(super) fn is_congested(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.is_congested())
    }

    /// Removes a key; its value, if it existed.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Buf> {
        let (key, entry) = self.remove_entry(key)?;
        let Some(journal) = &mut self.journal else { return entry.is_live(self.now).then_some(entry.value) };
        journal.delete(&key);
        journal.changed_key(&key, Some(entry.was()));
        entry.is_live(self.now).then_some(entry.value)
    }

    /// Changes when an existing key expires; false if there is no such key. A moment in the past removes it.
    pub(super) fn expire(&mut self, key: &[u8], deadline: Moment) -> bool {
        if !self.contains(key) {
            return false;
        }
        if deadline != 0 && deadline <= self.now {
            return self.remove(key).is_some();
        }
        if let Some((key, was)) = self.set_deadline(key, deadline)
            && let Some(journal) = &mut self.journal
        {
            journal.expire(&key, deadline);
            journal.changed_key(&key, Some(was));
        }
        true
    }

    pub(super) fn clear(&mut self) {
        let all = self.take_everything();
        if let Some(journal) = &mut self.journal {
            journal.clear();
            journal.changed(Undo::All(Box::new(all)));
        }
        self.measure();
    }

    fn insert(&mut self, key: &[u8], value: Buf, expiry: Expiry) {
        let Some(entry) = self.entries.get_mut(key) else {
            let deadline = if let Expiry::At(deadline) = expiry { deadline } else { 0 };
            if let Some(journal) = &mut self.journal {
                journal.set(key, &value, deadline);
            }
            let key = self.insert_entry(key.into(), value, deadline, self.stamp);
            if let Some(journal) = &mut self.journal {
                journal.changed_key(&key, None);
            }
            return;
        };
        let deadline = match expiry {
            Expiry::Keep if entry.is_live(self.now) => entry.deadline,
            Expiry::Keep | Expiry::Never => 0,
            Expiry::At(deadline) => deadline,
        };
        self.live = self.live + value.len() as u64 - entry.value.len() as u64;
        let was = Was {
            value: std::mem::replace(&mut entry.value, value),
            deadline: std::mem::replace(&mut entry.deadline, deadline),
            stamp: std::mem::replace(&mut entry.stamp, self.stamp),
        };
        let (slot, old) = (entry.slot, was.deadline);
        if let Some(journal) = &mut self.journal {
            journal.set(key, &entry.value, deadline);
            journal.changed_key(self.slots.key(slot), Some(was));
        }
        if old != deadline {
            let key = Rc::clone(self.slots.key(slot));
            self.move_deadline(&key, old, deadline);
        }
    }

    fn move_deadline(&mut self, key: &Rc<[u8]>, old: Moment, new: Moment) {
        if old != 0 {
            self.deadlines.remove(&(old, Rc::clone(key)));
        }
        if new != 0 {
            self.deadlines.insert((new, Rc::clone(key)));
        }
    }

    /// What to store of a value: itself, or a copy of its own size.
    #[inline]
    fn keep(&mut self, key: &[u8], value: Buf) -> Result<Buf, NoRoom> {
        let overhead = KEY_OVERHEAD + key.len();
        if value.len() > self.copy_threshold {
            let held = self.heap.find(value.as_ptr()).map_or(value.len(), |object| object.capacity);
            let fair = held / 2 <= value.len();
            if (fair || self.has_plenty()) && self.afford(overhead + held).is_ok() {
                self.counts.kept_in_place += 1;
                return Ok(value);
            }
        }
        self.afford(overhead + value.len().max(64))?;
        self.counts.copied += 1;
        self.heap.copy_from(&value).map_err(|_| self.refuse())
    }

    /// Whether at least half of the memory is free, as far as is known.
    fn has_plenty(&mut self) -> bool {
        if self.allowance < self.limit / 2 && self.spent >= self.limit / 16 {
            self.measure();
        }
        self.allowance >= self.limit / 2
    }

    /// Takes `bytes` off what may still be used. What is freed meanwhile is not added; the heap's own account is
    /// asked when this estimate runs out.
    #[inline]
    fn afford(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if self.allowance < bytes {
            self.measure();
            if self.allowance < bytes {
                return Err(self.refuse());
            }
        }
        self.allowance -= bytes;
        self.spent += bytes;
        Ok(())
    }

    fn measure(&mut self) {
        let used = self.heap.stats().bytes_live + self.keys;
        self.allowance = self.limit.saturating_sub(used);
        self.spent = 0;
    }

    fn refuse(&mut self) -> NoRoom {
        self.counts.refused += 1;
        NoRoom
    }
}

#[cfg(test)]
mod tests;
