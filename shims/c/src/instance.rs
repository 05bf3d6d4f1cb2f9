//! The instance of a thread, and how a call enters it.
//!
//! Invariants: a call without an instance is `ENOSYS`; a panic ends in the call that met it, and the instance is then
//! out of use: `ENOTRECOVERABLE`. No borrow of a cell here is held while a closure of the program runs.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::c_int;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use demi_api::{Completion, Config, Demikernel, Error, Heap, LibOs, SgArray, WaitSet};

use crate::config::CSection;
use crate::errno::Errno;
use crate::memory::Memory;
use crate::raw::{Out, Thread, give_back};
use crate::types::{Args, Callback};
use crate::watch::Watch;

/// An instance with what C needs besides.
pub struct Instance<L: LibOs + 'static> {
    /// Whose it is.
    pub(crate) thread: Thread<L>,
    pub(crate) demi: Demikernel<L>,
    pub(crate) heap: Heap,
    pub(crate) memory: RefCell<Memory>,
    /// Results that could not be handed out for want of memory: they are as if not yet waited for.
    pub(crate) unclaimed: RefCell<VecDeque<Completion>>,
    /// Whether there are any.
    pub(crate) has_unclaimed: Cell<bool>,
    /// What is left of pops of several elements, by token.
    pub(crate) batches: RefCell<HashMap<u64, VecDeque<SgArray>>>,
    /// Kept for the next wait for several results.
    pub(crate) results: Cell<Vec<Completion>>,
    /// Tokens of which the program has not been told.
    pub(crate) untold: OnceCell<WaitSet<L>>,
    pub(crate) limits: Limits,
    pub(crate) watch: Option<RefCell<Watch>>,
    pub(crate) callback: Option<Callback>,
    /// Calls that are under way: several, where a closure calls.
    calls: Cell<u32>,
}

/// How many segments a popped array may have.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) all: Cell<usize>,
    pub(crate) by_queue: RefCell<HashMap<c_int, usize>>,
}

/// Runs a call in the instance of this thread.
#[inline(always)]
pub(crate) fn enter<L: LibOs + 'static>(
    thread: Thread<L>,
    call: impl FnOnce(&Instance<L>) -> Result<(), Errno>,
) -> c_int {
    match thread.with(|instance| instance.run(call)) {
        Some(errno) => errno,
        None => thread.absent(),
    }
}

impl<L: LibOs + 'static> Instance<L> {
    pub(crate) fn new(thread: Thread<L>, args: &Args) -> Result<Instance<L>, Error> {
        let config = Config::from_env()?;
        let section = CSection::load(&config)?;
        let demi = Demikernel::new(&config)?;
        let heap = demi.heap().clone();
        Ok(Instance {
            thread,
            memory: RefCell::new(Memory::new(heap.clone())),
            heap,
            demi,
            unclaimed: RefCell::default(),
            has_unclaimed: Cell::new(false),
            batches: RefCell::default(),
            results: Cell::default(),
            untold: OnceCell::new(),
            limits: Limits { all: Cell::new(section.max_segments), by_queue: RefCell::default() },
            watch: section.check_writes.then(RefCell::default),
            callback: args.callback,
            calls: Cell::new(0),
        })
    }

    /// A descriptor of a pipe: a byte written to it, as from a signal handler, ends the wait of this thread with `EINTR`.
    pub(crate) fn interrupter(&self, fd: Out<'_, c_int>) -> Result<(), Errno> {
        let interrupter = self.demi.interrupter()?;
        fd.set(OwnedFd::from(interrupter).into_raw_fd());
        Ok(())
    }

    /// The descriptor that is readable when an instance that was prepared for sleep has work. It stays the instance's.
    pub(crate) fn wait_fd(&self, fd: Out<'_, c_int>) -> Result<(), Errno> {
        fd.set(self.demi.wait_fd().as_raw_fd());
        Ok(())
    }

    /// Prepares for a sleep of the program's own, and says for how long at the most: below zero, without limit. `EAGAIN`:
    /// there is something to be done.
    pub(crate) fn prepare_sleep(&self, limit: Out<'_, libc::timespec>) -> Result<(), Errno> {
        let prepared = if self.has_unclaimed.get() { None } else { self.demi.prepare_sleep()? };
        let time = prepared.ok_or(Errno(libc::EAGAIN))?;
        let (seconds, nanos) = match i64::try_from(time.as_secs()) {
            Ok(seconds) => (seconds, time.subsec_nanos().into()),
            Err(_) => (-1, 0),
        };
        limit.set(libc::timespec { tv_sec: seconds, tv_nsec: nanos });
        Ok(())
    }

    /// Reports every counter: to `callback`, or to that of `demi_init`.
    pub(crate) fn counters(&self, callback: Option<Callback>) -> Result<(), Errno> {
        let callback = callback.or(self.callback).ok_or(Errno(libc::EINVAL))?;
        let counters = self.demi.counters()?;
        let lent = self.memory.borrow().lent() as u64;
        let own = [
            ("turns", counters.turns),
            ("sleeps", counters.sleeps),
            ("overdue_turns", counters.overdue_turns),
            ("operations_pending", counters.operations_pending as u64),
            ("operations_unreaped", counters.operations_unreaped as u64),
            ("elements_dropped", counters.elements_dropped),
            ("heap_bytes_live", counters.heap.bytes_live as u64),
            ("heap_foreign_copies", counters.heap.foreign_copies),
            ("heap_foreign_bytes", counters.heap.foreign_bytes),
            ("heap_joins", counters.heap.joins),
            ("heap_joined_bytes", counters.heap.joined_bytes),
            ("arrays_lent", lent),
        ];
        for (name, value) in own.into_iter().chain(counters.libos) {
            // The name has no NUL behind it: its length says where it ends.
            callback(name.as_ptr().cast(), name.len() as u32, value);
        }
        Ok(())
    }

    /// Whether a call is under way.
    pub(crate) fn is_inside(&self) -> bool {
        self.calls.get() > 0
    }

    #[inline(always)]
    fn run(&self, call: impl FnOnce(&Instance<L>) -> Result<(), Errno>) -> c_int {
        self.calls.set(self.calls.get() + 1);
        let outcome = catch_unwind(AssertUnwindSafe(|| call(self)));
        self.calls.set(self.calls.get() - 1);
        match outcome {
            Ok(Ok(())) => 0,
            Ok(Err(Errno(errno))) => errno,
            Err(panic) => self.break_off(panic),
        }
    }

    /// A call has met a panic: whatever state that has left behind, nobody looks at it again.
    #[cold]
    #[inline(never)]
    fn break_off(&self, panic: Box<dyn Any + Send>) -> c_int {
        self.thread.leave();
        drop(panic);
        libc::ENOTRECOVERABLE
    }
}

impl<L: LibOs + 'static> Drop for Instance<L> {
    fn drop(&mut self) {
        // What the program has not freed goes with the instance: a thread that ends leaves nothing behind.
        for left in self.memory.get_mut().deallocate_any() {
            give_back(&self.heap, left);
        }
    }
}

impl<L: LibOs + 'static> std::fmt::Debug for Instance<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("demi", &self.demi).finish_non_exhaustive()
    }
}
