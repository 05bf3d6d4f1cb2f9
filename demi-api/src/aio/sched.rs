//! A small scheduler for application tasks: a slab of futures, one ready bit each, found by trailing zeros.
//!
//! Protocols never run here. Wakers may fire on any thread: they set a bit, and write to the kick pipe only
//! if the instance is asleep at that moment.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Wake, Waker};

use crate::error::Error;
use crate::fd::Fd;
use crate::sys;
use crate::time::Instant;

/// The future that `block_on` drives has the first bit; spawned tasks have the others.
pub(crate) const MAIN: usize = 0;

/// A spawned future. One allocation per task, none per operation.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks and timers of one instance.
pub(crate) struct Scheduler {
    slots: Vec<Slot>,
    free: Vec<usize>,
    bits: Arc<ReadyBits>,
    timers: BTreeMap<(Instant, u64), Waker>,
    next_timer: u64,
    /// How many `block_on` are under way, one within the other.
    driving: usize,
    main_waker: Waker,
    /// Where the search for a ready bit begins: behind the last one found, so that none has to wait for ever.
    cursor: usize,
}

struct Slot {
    /// Absent while the task runs, and when the slot is free.
    task: Option<Task>,
    waker: Waker,
}

impl Scheduler {
    pub(crate) fn new(max: usize, kick: Fd) -> Scheduler {
        let bits = Arc::new(ReadyBits::new(max + 1, kick));
        let main_waker = bits.waker(MAIN);
        Scheduler {
            slots: Vec::new(),
            free: Vec::new(),
            bits,
            timers: BTreeMap::new(),
            next_timer: 0,
            driving: 0,
            main_waker,
            cursor: 0,
        }
    }

    pub(crate) fn main_waker(&self) -> Waker {
        self.main_waker.clone()
    }

    /// Takes a task in, runnable. A refused one is given back, to be dropped outside the borrow.
    pub(crate) fn spawn(&mut self, task: Task) -> Result<(), (Error, Task)> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() + 1 < self.bits.capacity => {
                self.slots.push(Slot { task: None, waker: self.bits.waker(self.slots.len() + 1) });
                self.slots.len() - 1
            }
            None => return Err((Error::TooManyTasks(self.bits.capacity - 1), task)),
        };
        self.slots[index].task = Some(task);
        self.bits.set(index + 1);
        Ok(())
    }

    /// The next ready bit, cleared. A bit whose task has gone is skipped by the caller.
    pub(crate) fn next_ready(&mut self) -> Option<usize> {
        let bit = self.bits.take_next(self.cursor)?;
        self.cursor = bit + 1;
        Some(bit)
    }

    pub(crate) fn has_ready(&self) -> bool {
        self.bits.any()
    }

    /// Takes a task out to run it, with its waker.
    pub(crate) fn check_out(&mut self, bit: usize) -> Option<(Task, Waker)> {
        let slot = self.slots.get_mut(bit - 1)?;
        Some((slot.task.take()?, slot.waker.clone()))
    }

    /// Puts a task back after it has run; `None` if it is finished.
    pub(crate) fn check_in(&mut self, bit: usize, task: Option<Task>) {
        match task {
            Some(task) => self.slots[bit - 1].task = Some(task),
            None => self.free.push(bit - 1),
        }
    }

    /// Tasks alive.
    pub(crate) fn tasks(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes every task out, but the one that is running.
    pub(crate) fn take_all(&mut self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(task) = slot.task.take() {
                self.free.push(index);
                tasks.push(task);
            }
        }
        tasks
    }

    /// Whether something may still wake a waiting caller without an operation: a timer, or another thread that
    /// has the waker of a task or of what `block_on` drives.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.timers.is_empty() || self.tasks() > 0 || self.driving > 0
    }

    /// Notes that a `block_on` has begun, or ended.
    pub(crate) fn count_driving(&mut self, change: isize) {
        self.driving = self.driving.saturating_add_signed(change);
    }

    pub(crate) fn add_timer(&mut self, at: Instant, waker: Waker) -> (Instant, u64) {
        let key = (at, self.next_timer);
        self.next_timer += 1;
        self.timers.insert(key, waker);
        key
    }

    /// Renews a timer's waker; false if it has fired.
    pub(crate) fn renew_timer(&mut self, key: (Instant, u64), waker: &Waker) -> bool {
        let Some(old) = self.timers.get_mut(&key) else { return false };
        old.clone_from(waker);
        true
    }

    pub(crate) fn remove_timer(&mut self, key: (Instant, u64)) {
        self.timers.remove(&key);
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Wakes whoever waits for a time that has come.
    #[inline]
    pub(crate) fn fire_timers(&mut self, now: Instant) -> usize {
        if self.timers.is_empty() { 0 } else { self.fire_due(now) }
    }

    #[inline(never)]
    fn fire_due(&mut self, now: Instant) -> usize {
        let mut fired = 0;
        while let Some(timer) = self.timers.first_entry()
            && timer.key().0 <= now
        {
            timer.remove().wake();
            fired += 1;
        }
        fired
    }

    /// From now on a waker writes to the kick pipe. The caller looks for ready bits once more after this.
    pub(crate) fn fall_asleep(&self) {
        self.bits.asleep.store(true, Ordering::SeqCst);
    }

    pub(crate) fn wake_up(&self) {
        self.bits.asleep.store(false, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("tasks", &self.tasks()).field("timers", &self.timers.len()).finish()
    }
}

/// One bit per task, and one bit per 64 of these.
struct ReadyBits {
    capacity: usize,
    summary: Box<[AtomicU64]>,
    words: Box<[AtomicU64]>,
    asleep: AtomicBool,
    kick: Fd,
}

impl ReadyBits {
    fn new(capacity: usize, kick: Fd) -> ReadyBits {
        let zeroed = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        let words = capacity.div_ceil(64);
        ReadyBits {
            capacity,
            summary: zeroed(words.div_ceil(64)),
            words: zeroed(words),
            asleep: AtomicBool::new(false),
            kick,
        }
    }

    fn waker(self: &Arc<ReadyBits>, bit: usize) -> Waker {
        Arc::new(TaskWaker { bits: Arc::clone(self), bit }).into()
    }

    fn set(&self, bit: usize) {
        let word = bit / 64;
        // SeqCst pairs with the sleeper's store to `asleep` and its second look at the bits.
        if self.words[word].fetch_or(1 << (bit % 64), Ordering::SeqCst) & 1 << (bit % 64) == 0 {
            self.summary[word / 64].fetch_or(1 << (word % 64), Ordering::SeqCst);
        }
        if self.asleep.load(Ordering::SeqCst) {
            sys::kick(self.kick.as_fd(), sys::WAKE);
        }
    }

    fn any(&self) -> bool {
        self.summary.iter().any(|bits| bits.load(Ordering::SeqCst) != 0)
    }

    /// Clears a bit and returns it: the next one set from `from` on, else from the first on.
    fn take_next(&self, from: usize) -> Option<usize> {
        let word = from / 64;
        let rest =
            self.words.get(word).map_or(0, |bits| bits.load(Ordering::Acquire) & u64::MAX << (from % 64));
        if rest != 0 {
            return Some(self.take(word, rest.trailing_zeros()));
        }
        self.take_from_word(word + 1).or_else(|| self.take_from_word(0))
    }

    fn take(&self, word: usize, bit: u32) -> usize {
        self.words[word].fetch_and(!(1 << bit), Ordering::SeqCst);
        word * 64 + bit as usize
    }

    fn take_from_word(&self, first: usize) -> Option<usize> {
        for (at, summary) in self.summary.iter().enumerate().skip(first / 64) {
            let allowed = if at == first / 64 { u64::MAX << (first % 64) } else { u64::MAX };
            loop {
                let bits = summary.load(Ordering::Acquire) & allowed;
                if bits == 0 {
                    break;
                }
                let word = at * 64 + bits.trailing_zeros() as usize;
                let ready = self.words[word].load(Ordering::Acquire);
                if ready == 0 {
                    // Clear first, look again after: a bit set in between sets its summary bit anew.
                    summary.fetch_and(!(1 << (word % 64)), Ordering::SeqCst);
                    if self.words[word].load(Ordering::SeqCst) != 0 {
                        summary.fetch_or(1 << (word % 64), Ordering::SeqCst);
                    }
                    continue;
                }
                return Some(self.take(word, ready.trailing_zeros()));
            }
        }
        None
    }
}

struct TaskWaker {
    bits: Arc<ReadyBits>,
    bit: usize,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<TaskWaker>) {
        self.bits.set(self.bit);
    }

    fn wake_by_ref(self: &Arc<TaskWaker>) {
        self.bits.set(self.bit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(capacity: usize) -> Arc<ReadyBits> {
        Arc::new(ReadyBits::new(capacity, sys::pipe().unwrap().1))
    }

    #[test]
    fn every_bit_that_was_set_is_found_once() {
        let bits = bits(10_000);
        let set = [0, 1, 63, 64, 65, 4095, 4096, 9_999];
        for bit in set {
            bits.set(bit);
            bits.set(bit);
        }
        let mut found: Vec<_> = std::iter::from_fn(|| bits.take_next(0)).collect();
        found.sort_unstable();
        assert_eq!(found, set);
        assert!(!bits.any());
    }

    #[test]
    fn a_bit_that_is_set_again_at_once_lets_the_others_go_first() {
        let mut scheduler = Scheduler::new(10_000, sys::pipe().unwrap().1);
        let set = [MAIN, 1, 64, 5_000, 10_000];
        set.iter().for_each(|bit| scheduler.bits.set(*bit));
        for bit in set.into_iter().chain(set) {
            assert_eq!(scheduler.next_ready(), Some(bit));
            scheduler.bits.set(bit);
        }
    }

    #[test]
    fn wakers_of_other_threads_lose_no_bit() {
        const TASKS: usize = 300;
        const ROUNDS: usize = 200;
        let bits = bits(TASKS);
        let (send, receive) = std::sync::mpsc::sync_channel::<usize>(1);
        let wakers: Vec<_> = (0..TASKS).map(|bit| bits.waker(bit)).collect();
        let waking = std::thread::spawn(move || {
            for round in 0..ROUNDS {
                wakers.iter().for_each(|waker| waker.wake_by_ref());
                send.send(round).unwrap();
            }
        });
        for _ in 0..ROUNDS {
            receive.recv().unwrap();
        }
        waking.join().unwrap();
        let mut seen = vec![false; TASKS];
        while let Some(bit) = bits.take_next(0) {
            seen[bit] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
    }
}
