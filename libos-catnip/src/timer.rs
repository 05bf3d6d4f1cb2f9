//! A hierarchical timing wheel for up to some millions of timers.
//!
//! Time is counted in ticks of 2^16 ns. Eight levels of 64 slots cover the 48 bits that are left of an
//! [`Instant`]: an entry lies at the level of the highest digit (base 64) in which its tick differs from the wheel's, in
//! the slot of its own digit there, and moves to a lower level when the wheel comes to that slot.
//!
//! Invariants: no timer fires early, and none that [`Wheel::expire`] is called for in time fires later than a tick.
//! An entry lies in a slot that begins at or before its time, and no slot that the wheel has passed holds an entry.
//! Inserting, moving and cancelling take constant time; memory grows with the most timers at a time, and is used again.

use std::time::Duration;

use demi_api::time::Instant;

const TICK_BITS: u32 = 16;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = 8;

/// How late a timer may fire.
pub(crate) const TICK: Duration = Duration::from_nanos(1 << TICK_BITS);

/// Most entries that one call of [`Wheel::expire`] fires or moves.
pub(crate) const BATCH: usize = 1024;

/// No entry.
const NIL: u32 = u32::MAX;

/// The slot of an entry that is free.
const FREE: u16 = u16::MAX;

/// Names a timer until it fires or is cancelled. After that it names nothing: the next one in its place has another
/// generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimerId {
    index: u32,
    generation: u32,
}

/// Timers by time; each has a key that says whose it is.
#[derive(Debug)]
pub(crate) struct Wheel<K> {
    entries: Vec<Entry<K>>,
    /// First of the list of free entries.
    free: u32,
    armed: usize,
    /// The tick up to which everything has fired, but for what was inserted since.
    cursor: u64,
    /// The level whose slot at the cursor is being emptied to lower levels; 0: none is.
    pending: usize,
    /// Nothing is due before that; unknown, and zero, after an entry was linked.
    quiet_until: Instant,
    /// One bit for each slot that is not empty.
    occupied: [u64; LEVELS],
    /// The first entry of each slot; from there, a ring.
    heads: [[u32; SLOTS]; LEVELS],
}

#[derive(Debug)]
struct Entry<K> {
    /// When to fire. May lie behind what the slot covers: then it is moved when the wheel comes there.
    tick: u64,
    key: K,
    /// In the ring of the slot, or in the list of free entries.
    next: u32,
    prev: u32,
    generation: u32,
    /// Level and digit, or [`FREE`].
    slot: u16,
}

const _: () = assert!(size_of::<Entry<u64>>() == 32);

impl<K: Copy> Wheel<K> {
    /// An empty wheel that starts at `now`.
    pub(crate) fn new(now: Instant) -> Wheel<K> {
        Wheel {
            entries: Vec::new(),
            free: NIL,
            armed: 0,
            cursor: now.as_nanos() >> TICK_BITS,
            pending: 0,
            quiet_until: Instant::default(),
            occupied: [0; LEVELS],
            heads: [[NIL; SLOTS]; LEVELS],
        }
    }

    /// How many timers there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.armed
    }

    /// Fires `key` at `at`, or as soon as possible if that has passed.
    ///
    /// # Panics
    /// With 2^32 - 1 timers, which are 128 GiB.
    #[inline]
    pub(crate) fn insert(&mut self, at: Instant, key: K) -> TimerId {
        let tick = tick_of(at);
        let index = if self.free == NIL { self.grow(key) } else { self.free };
        let entry = &mut self.entries[index as usize];
        self.free = entry.next;
        entry.tick = tick;
        entry.key = key;
        let generation = entry.generation;
        self.armed += 1;
        self.link(index, tick);
        TimerId { index, generation }
    }

    /// One more entry, free.
    #[cold]
    fn grow(&mut self, key: K) -> u32 {
        let index = u32::try_from(self.entries.len()).unwrap_or(NIL);
        assert_ne!(index, NIL, "a timer for every connection that fits into memory");
        self.entries.push(Entry { tick: 0, key, next: NIL, prev: NIL, generation: 0, slot: FREE });
        index
    }

    /// Takes a timer back. False: it has fired or was cancelled before.
    #[inline]
    pub(crate) fn cancel(&mut self, id: TimerId) -> bool {
        if self.armed(id).is_none() {
            return false;
        }
        self.unlink(id.index);
        self.release(id.index);
        true
    }

    /// Moves a timer to another time. False: it has fired or was cancelled before.
    ///
    /// To move one to a later time is a single store: it is looked at again when its old time has come.
    #[inline]
    pub(crate) fn rearm(&mut self, id: TimerId, at: Instant) -> bool {
        let tick = tick_of(at);
        let Some(entry) = self.armed(id) else { return false };
        entry.tick = tick;
        let slot = entry.slot;
        if tick < self.slot_begin(slot) {
            self.unlink(id.index);
            self.link(id.index, tick);
        }
        true
    }

    /// Fires what is due at `now`, in the order of ticks, and moves on. True: a batch of entries was dealt with, and
    /// there may be more.
    #[inline]
    pub(crate) fn expire(&mut self, now: Instant, mut fire: impl FnMut(K)) -> bool {
        let target = now.as_nanos() >> TICK_BITS;
        let mut left = BATCH;
        while let Some((level, digit, begin)) = self.first_slot() {
            if begin > target {
                break;
            }
            self.cursor = self.cursor.max(begin);
            self.pending = level;
            while self.occupied[level] >> digit & 1 == 1 {
                let Some(rest) = left.checked_sub(1) else { return true };
                left = rest;
                let index = self.heads[level][digit];
                self.unlink(index);
                let Entry { tick, key, .. } = self.entries[index as usize];
                if tick > self.cursor || level > 0 {
                    self.link(index, tick);
                } else {
                    self.release(index);
                    fire(key);
                }
            }
            self.pending = 0;
        }
        self.cursor = self.cursor.max(target);
        false
    }

    /// Whether [`expire`](Wheel::expire) is to be called now.
    #[inline]
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        if now < self.quiet_until {
            return false;
        }
        self.quiet_until = self.next_deadline().unwrap_or(Instant::from_nanos(u64::MAX));
        now >= self.quiet_until
    }

    /// When [`expire`](Wheel::expire) is to be called next. It may find nothing to fire then, but not miss anything.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        // The last tick begins at the end of time.
        self.first_slot().map(|(_, _, begin)| Instant::from_nanos(begin << TICK_BITS))
    }

    /// The first slot that is not empty: its level, its digit, and its first tick. All of a lower level comes before all
    /// of a higher one.
    #[inline]
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        if self.pending > 0 {
            let digit = self.digit(self.pending);
            return Some((self.pending, digit, self.slot_begin(slot_name(self.pending, digit))));
        }
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        // Only the wheel's own slot and those ahead of it are occupied.
        let digit = self.occupied[level].trailing_zeros() as usize;
        Some((level, digit, self.slot_begin(slot_name(level, digit))))
    }

    /// The wheel's digit at a level.
    #[inline]
    fn digit(&self, level: usize) -> usize {
        (self.cursor >> (level as u32 * DIGIT_BITS)) as usize % SLOTS
    }

    /// The first tick of a slot in which there is an entry: all digits above are the wheel's.
    #[inline]
    fn slot_begin(&self, slot: u16) -> u64 {
        let (level, digit) = (u32::from(slot) >> DIGIT_BITS, u64::from(slot) % SLOTS as u64);
        let above = (level + 1) * DIGIT_BITS;
        self.cursor >> above << above | digit << (level * DIGIT_BITS)
    }

    #[inline]
    fn armed(&mut self, id: TimerId) -> Option<&mut Entry<K>> {
        self.entries
            .get_mut(id.index as usize)
            .filter(|entry| entry.generation == id.generation && entry.slot != FREE)
    }

    /// Appends an entry to the slot for a tick.
    #[inline]
    fn link(&mut self, index: u32, tick: u64) {
        self.quiet_until = Instant::default();
        let tick = tick.max(self.cursor);
        let level = (63 - ((tick ^ self.cursor) | 1).leading_zeros()) / DIGIT_BITS;
        let (level, digit) = (level as usize, (tick >> (level * DIGIT_BITS)) as usize % SLOTS);
        self.entries[index as usize].slot = slot_name(level, digit);
        let head = self.heads[level][digit];
        if head == NIL {
            self.heads[level][digit] = index;
            self.occupied[level] |= 1 << digit;
            (self.entries[index as usize].next, self.entries[index as usize].prev) = (index, index);
            return;
        }
        let last = std::mem::replace(&mut self.entries[head as usize].prev, index);
        self.entries[last as usize].next = index;
        (self.entries[index as usize].next, self.entries[index as usize].prev) = (head, last);
    }

    /// Takes an entry out of its slot.
    #[inline]
    fn unlink(&mut self, index: u32) {
        let &Entry { next, prev, slot, .. } = &self.entries[index as usize];
        let (level, digit) = (usize::from(slot) / SLOTS, usize::from(slot) % SLOTS);
        if next == index {
            self.heads[level][digit] = NIL;
            self.occupied[level] &= !(1 << digit);
            return;
        }
        self.entries[prev as usize].next = next;
        self.entries[next as usize].prev = prev;
        if self.heads[level][digit] == index {
            self.heads[level][digit] = next;
        }
    }

    /// Makes an entry that lies in no slot free for another timer.
    #[inline]
    fn release(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.slot = FREE;
        entry.next = self.free;
        self.free = index;
        self.armed -= 1;
    }
}

#[inline]
fn slot_name(level: usize, digit: usize) -> u16 {
    (level * SLOTS + digit) as u16
}

/// The first tick that begins at `at` or later. What is less than a tick from the end of time is the last tick.
#[inline]
fn tick_of(at: Instant) -> u64 {
    let nanos = at.as_nanos();
    (nanos >> TICK_BITS)
        + u64::from(nanos & (TICK.as_nanos() as u64 - 1) != 0 && nanos >> TICK_BITS != u64::MAX >> TICK_BITS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn nanos(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn expire(wheel: &mut Wheel<u64>, now: u64) -> Vec<u64> {
        let mut fired = Vec::new();
        while wheel.expire(nanos(now), |key| fired.push(key)) {}
        fired
    }

    #[test]
    fn timers_fire_in_order_not_early_and_at_most_a_tick_late() {
        let mut wheel = Wheel::new(nanos(0));
        let times = [1, 1 << 17, (1 << 22) + 1, 3_000_000_000, 60_000_000_000, 1 << 45, 1 << 62];
        for &at in times.iter().rev() {
            wheel.insert(nanos(at), at);
        }
        for &at in &times {
            assert_eq!(expire(&mut wheel, at - 1), [0; 0], "before {at}");
            assert_eq!(expire(&mut wheel, at + TICK.as_nanos() as u64 - 1), [at]);
        }
        assert_eq!((wheel.len(), wheel.next_deadline()), (0, None));
    }

    #[test]
    fn what_is_past_fires_at_once_and_the_end_of_time_has_a_tick() {
        let mut wheel = Wheel::new(nanos(10_000_000_000));
        wheel.insert(nanos(5), 1);
        wheel.insert(nanos(u64::MAX), 2);
        assert!(wheel.next_deadline().unwrap() <= nanos(10_000_000_000));
        assert_eq!(expire(&mut wheel, 10_000_000_000), [1]);
        // A clock that goes back does no harm.
        assert_eq!(expire(&mut wheel, 0), [0; 0]);
        wheel.insert(nanos(7), 3);
        assert_eq!(expire(&mut wheel, 10_000_000_000), [3]);
        assert_eq!(expire(&mut wheel, u64::MAX), [2]);
    }

    #[test]
    fn a_stale_name_names_nothing() {
        let mut wheel = Wheel::new(nanos(0));
        let first = wheel.insert(nanos(100), 'a');
        assert!(wheel.cancel(first));
        let second = wheel.insert(nanos(100), 'b');
        assert_eq!((first.index, wheel.len()), (second.index, 1));
        assert!(!wheel.cancel(first) && !wheel.rearm(first, nanos(0)));
        assert!(!wheel.expire(nanos(1 << 20), |key| assert_eq!(key, 'b')));
        assert!(!wheel.rearm(second, nanos(0)) && !wheel.cancel(second));
        assert!(!wheel.cancel(TimerId { index: 77, generation: 0 }));
    }

    #[test]
    fn one_call_deals_with_a_batch_and_entries_recycle() {
        let mut wheel = Wheel::new(nanos(0));
        for round in 1..4u64 {
            // All lie in one slot of a high level, which is emptied a batch at a time as well.
            for key in 0..5000 {
                wheel.insert(nanos((round << 40) + 4), key);
            }
            assert_eq!(wheel.entries.len(), 5000);
            let (mut fired, mut calls) = (Vec::new(), 1);
            while wheel.expire(nanos((round << 40) + (1 << 20)), |key| fired.push(key)) {
                calls += 1;
                assert!(fired.len() <= calls * BATCH);
            }
            assert!(calls >= 5000 / BATCH, "{calls} calls");
            assert!(fired.into_iter().eq(0..5000), "in the order in which they were set");
        }
    }

    #[test]
    fn a_slot_that_is_emptied_in_batches_keeps_the_order_of_ticks() {
        let mut wheel = Wheel::new(nanos(0));
        let tick = |n: u64| nanos((1 << 40) + (n << TICK_BITS));
        for n in (0..4000).rev() {
            wheel.insert(tick(n), n);
        }
        let (mut fired, mut calls) = (Vec::new(), 0);
        while wheel.expire(tick(5000), |key| fired.push(key)) {
            calls += 1;
            assert!(wheel.next_deadline().unwrap() <= tick(5000));
            // One more that is the first of all by now.
            wheel.insert(tick(0), 0);
        }
        assert_eq!(fired.len(), 4000 + calls);
        fired.retain(|&key| key > 0);
        assert!(fired.into_iter().eq(1..4000));
    }

    #[test]
    fn a_timer_that_is_put_forward_by_a_tick_fires_a_tick_earlier() {
        for at in [1u64 << 17, 1 << 22, 1 << 30, (1 << 30) + (1 << 16)] {
            let mut wheel = Wheel::new(nanos(0));
            let id = wheel.insert(nanos(at), 1);
            assert!(wheel.rearm(id, nanos(at - (1 << TICK_BITS))));
            assert_eq!(expire(&mut wheel, at - 1), [1], "before {at}");
        }
    }

    #[test]
    fn a_timer_that_is_put_off_all_the_time_wakes_seldom_and_fires_once() {
        let mut wheel = Wheel::new(nanos(0));
        let rto = 200_000_000;
        let id = wheel.insert(nanos(rto), 1);
        let mut woken = 0;
        for now in (0..10_000_000_000).step_by(50_000) {
            wheel.rearm(id, nanos(now + rto));
            if wheel.next_deadline().unwrap() <= nanos(now) {
                woken += 1;
                assert_eq!(expire(&mut wheel, now), [0; 0]);
            }
        }
        assert!(woken <= 10_000_000_000 / rto * 3 + 3, "woken {woken} times");
        assert_eq!(expire(&mut wheel, 10_000_000_000 + rto + (1 << TICK_BITS)), [1]);
    }

    #[derive(Clone, Debug)]
    enum Do {
        Insert(u64),
        Cancel(usize),
        Rearm(usize, u64),
        Pass(u64),
        /// As a wait loop does: to the next deadline.
        Sleep,
    }

    fn spans() -> impl Strategy<Value = u64> {
        (any::<u64>(), 16..64u32).prop_map(|(nanos, shift)| nanos >> shift)
    }

    fn steps() -> impl Strategy<Value = Do> {
        prop_oneof![
            4 => spans().prop_map(Do::Insert),
            1 => any::<usize>().prop_map(Do::Cancel),
            2 => (any::<usize>(), spans()).prop_map(|(which, at)| Do::Rearm(which, at)),
            2 => spans().prop_map(|span| Do::Pass(span >> 8)),
            2 => Just(Do::Sleep),
        ]
    }

    proptest! {
        /// The oracle is a sorted list.
        #[test]
        fn the_wheel_fires_what_a_sorted_list_does(start in spans(), steps in prop::collection::vec(steps(), 1..300)) {
            let tick = TICK.as_nanos() as u64;
            let mut now = start;
            let mut wheel = Wheel::new(nanos(now));
            // By key: name and time.
            let mut armed: BTreeMap<u64, (TimerId, u64)> = BTreeMap::new();
            let mut gone: Vec<TimerId> = Vec::new();
            for (key, step) in steps.into_iter().enumerate() {
                let key = key as u64;
                let pick = |which: usize| armed.keys().copied().nth(which % armed.len().max(1));
                match step {
                    Do::Insert(span) => {
                        let at = now.saturating_add(span).saturating_sub(1 << 20);
                        armed.insert(key, (wheel.insert(nanos(at), key), at));
                    }
                    Do::Cancel(which) => {
                        if let Some((id, _)) = pick(which).and_then(|key| armed.remove(&key)) {
                            prop_assert!(wheel.cancel(id));
                            gone.push(id);
                        }
                    }
                    Do::Rearm(which, span) => {
                        if let Some(key) = pick(which) {
                            let at = now.saturating_add(span).saturating_sub(1 << 20);
                            let (id, old) = armed.get_mut(&key).unwrap();
                            *old = at;
                            prop_assert!(wheel.rearm(*id, nanos(at)));
                        }
                    }
                    Do::Pass(span) => now = now.saturating_add(span),
                    Do::Sleep => {
                        let first = armed.values().map(|(_, at)| *at).min();
                        prop_assert_eq!(first.is_some(), wheel.next_deadline().is_some());
                        if let (Some(first), Some(next)) = (first, wheel.next_deadline()) {
                            prop_assert!(next.as_nanos() < first.max(now).saturating_add(tick), "never late");
                            now = now.max(next.as_nanos());
                        }
                    }
                }
                for fired in expire(&mut wheel, now) {
                    let (id, at) = armed.remove(&fired).expect("fires once");
                    prop_assert!(at <= now || now >> TICK_BITS == u64::MAX >> TICK_BITS, "fired {} early", at - now);
                    gone.push(id);
                }
                for (_, at) in armed.values() {
                    prop_assert!(now < at.saturating_add(tick), "{} is late at {}", at, now);
                }
                prop_assert_eq!(wheel.len(), armed.len());
                for &id in &gone {
                    prop_assert!(!wheel.cancel(id));
                }
            }
        }
    }
}
