//! Keys and values.
//!
//! Invariants: `deadlines` holds each key with a deadline once, so the next one to expire is its first. A key past
//! its deadline is gone for every command, whether or not the sweep has come by. Values larger than the threshold
//! are kept in the buffers they came in for as long as memory is plentiful: such a buffer may be much larger.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use demi_api::{Buf, Heap};

/// Expired keys that one sweep removes at the most.
const SWEEP: usize = 64;

/// Bytes that a key costs beside itself, its value's buffer aside: an estimate of what lies outside the heap.
const KEY_OVERHEAD: usize = 96;

/// A moment, in ms since just before the server started; 0 is none.
type Moment = u64;

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
    pub(super) counts: Counts,
}

struct Entry {
    value: Buf,
    deadline: Moment,
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
            counts: Counts::default(),
        };
        store.measure();
        store
    }

    /// Sets the time, counted from the server's start, for the commands to come, and removes some of the keys that
    /// have expired.
    pub(super) fn tick(&mut self, uptime: Duration) {
        self.now = uptime.as_millis() as Moment + 1;
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
            Some(entry) if entry.deadline == 0 || entry.deadline > self.now => {
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
        self.entries.get(key).is_some_and(|entry| entry.deadline == 0 || entry.deadline > self.now)
    }

    /// The moment at which an existing key expires; 0 for never.
    pub(super) fn deadline(&self, key: &[u8]) -> Option<Moment> {
        let entry = self.entries.get(key)?;
        (entry.deadline == 0 || entry.deadline > self.now).then_some(entry.deadline)
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
            && (entry.deadline == 0 || entry.deadline > self.now)
        {
            // Counters stay in their buffer, unless a reply still refers to it.
            match std::mem::take(&mut entry.value).try_into_mut() {
                Ok(mut value) if value.capacity() >= text.len() => {
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

    /// Removes a key; its value, if it existed.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Buf> {
        let entry = self.remove_entry(key)?;
        (entry.deadline == 0 || entry.deadline > self.now).then_some(entry.value)
    }

    /// Changes when an existing key expires; false if there is no such key. A moment in the past removes it.
    pub(super) fn expire(&mut self, key: &[u8], deadline: Moment) -> bool {
        if !self.contains(key) {
            return false;
        }
        if deadline != 0 && deadline <= self.now {
            self.remove_entry(key);
            return true;
        }
        let (key, entry) = self.entries.get_key_value(key).expect("looked at above");
        let (key, old) = (Rc::clone(key), entry.deadline);
        self.move_deadline(&key, old, deadline);
        self.entries.get_mut(&key).expect("looked at above").deadline = deadline;
        true
    }

    pub(super) fn clear(&mut self) {
        self.entries = HashMap::new();
        self.deadlines.clear();
        self.keys = 0;
        self.measure();
    }

    fn insert(&mut self, key: &[u8], value: Buf, expiry: Expiry) {
        if let Some(entry) = self.entries.get_mut(key) {
            let live = entry.deadline == 0 || entry.deadline > self.now;
            let deadline = match expiry {
                Expiry::Keep if live => entry.deadline,
                Expiry::Keep | Expiry::Never => 0,
                Expiry::At(deadline) => deadline,
            };
            let old = std::mem::replace(&mut entry.deadline, deadline);
            entry.value = value;
            if old != deadline {
                let (key, _) = self.entries.get_key_value(key).expect("looked at above");
                let key = Rc::clone(key);
                self.move_deadline(&key, old, deadline);
            }
            return;
        }
        let key: Rc<[u8]> = key.into();
        let deadline = if let Expiry::At(deadline) = expiry { deadline } else { 0 };
        self.keys += key.len() + KEY_OVERHEAD;
        self.move_deadline(&key, 0, deadline);
        self.entries.insert(key, Entry { value, deadline });
    }

    fn remove_entry(&mut self, key: &[u8]) -> Option<Entry> {
        let (key, entry) = self.entries.remove_entry(key)?;
        self.keys -= key.len() + KEY_OVERHEAD;
        self.move_deadline(&key, entry.deadline, 0);
        Some(entry)
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
