//! The ring: requests in slots of a fixed table, handed to the kernel together, and what has become of them.
//!
//! Invariant: memory that the kernel may read or write lies in a slot of [`Ring`], unreachable from outside, from before
//! the submission until the last completion for it was taken; dropping the ring waits for what is under way. For
//! io_uring goes on writing after its descriptor is closed.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use demi_api::error::Error;
use demi_api::fd::Fd;
use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FallocateFlags, FlockOperation, flock};
use rustix::io::Errno;

use super::counters::RingCounters;
use super::group::Group;
use super::region::Registered;
use super::slot::{Ended, Held, Slot, Step, error_of};

/// The only file that is registered.
const FILE: types::Fixed = types::Fixed(0);

/// What names the completion of the group's `fdatasync`: no slot has this index.
const SYNC: u64 = u64::MAX;

/// How long a ring that is dropped waits for what is under way, and how long at a time.
const DROP_WAIT: Duration = Duration::from_secs(5);
const DROP_STEP: Duration = Duration::from_millis(50);

/// An io_uring for one file.
pub(super) struct Ring {
    uring: ManuallyDrop<IoUring>,
    /// Never grows: entries point into it.
    slots: ManuallyDrop<Vec<Slot>>,
    free: Vec<u32>,
    group: Group,
    /// Where notifications arrive. Open until the ring is closed.
    event: Fd,
    file: ManuallyDrop<Fd>,
    registered: Registered,
    /// Writes of several segments in registered memory can be had.
    writev_fixed: bool,
    /// Notification was asked for.
    notified: bool,
    /// A durable write is one to the kernel; otherwise it waits for the group.
    each: bool,
    pub(super) counters: RingCounters,
}

impl Ring {
    /// A ring for at most `depth` requests at once, for the calling thread. With `each`, durable writes are
    /// made so one by one.
    pub(super) fn new(depth: u32, file: Fd, each: bool) -> io::Result<Ring> {
        // One more for the group's own request.
        let uring = set_up(depth + 1)?;
        let event = Fd::from(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let submitter = uring.submitter();
        submitter.register_files(&[file.as_fd().as_raw_fd()])?;
        submitter.register_eventfd(event.as_fd().as_raw_fd())?;
        let mut probe = Probe::new();
        let writev_fixed =
            submitter.register_probe(&mut probe).is_ok() && probe.is_supported(opcode::WritevFixed::CODE);
        let mut ring = Ring {
            uring: ManuallyDrop::new(uring),
            slots: ManuallyDrop::new((0..depth).map(|_| Slot::default()).collect()),
            free: (0..depth).rev().collect(),
            group: Group::new(depth as usize),
            event,
            file: ManuallyDrop::new(file),
            registered: Registered::NONE,
            writev_fixed,
            notified: false,
            each,
            counters: RingCounters::default(),
        };
        ring.uring.completion().disable_eventfd();
        Ok(ring)
    }

    /// What is registered from now on.
    pub(super) fn set_registered(&mut self, registered: Registered) {
        self.registered = registered;
    }

    pub(super) fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a request, to be handed over with the next [`enter`](Ring::enter). The caller has seen to it that fewer
    /// than `depth` are under way.
    #[inline]
    pub(super) fn start(&mut self, tag: u64, offset: u64, held: Held) {
        let index = self.free.pop().expect("the caller counts what is under way");
        self.slots[index as usize].occupy(tag, offset, held);
        self.submit(index);
    }

    /// Whether [`enter`](Ring::enter) has something to do.
    #[inline]
    pub(super) fn has_work(&mut self) -> bool {
        let queue = self.uring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Hands over what was submitted, and has the kernel finish what it has put aside for this thread. Never waits.
    /// What the kernel does not take now it is given again next time.
    pub(super) fn enter(&mut self) {
        self.counters.enters += 1;
        let count = self.uring.submission().len() as u32;
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: there is no argument. What the entries point to lies in `self.slots` and in heap memory that slots hold.
        let entered = unsafe { self.uring.submitter().enter::<()>(count, 0, flags, None) };
        self.counters.enters_failed += u64::from(entered.is_err());
    }

    /// Takes one request that has ended.
    #[inline]
    pub(super) fn reap(&mut self) -> Option<Ended> {
        loop {
            // Those that a sync has made durable, first: it may have been the last completion.
            if let Some((index, result)) = self.group.next_done() {
                return self.release(index, result);
            }
            let entry = self.uring.completion().next()?;
            if entry.user_data() == SYNC {
                self.end_sync(answer(&entry));
                continue;
            }
            let index = entry.user_data() as u32;
            let Some(slot) = self.slots.get_mut(index as usize) else { continue };
            if !slot.is_named(entry.user_data()) {
                continue;
            }
            match slot.advance(answer(&entry)) {
                Step::Done if slot.is_durable() && !self.each => self.group.join(index),
                Step::Done => return self.release(index, Ok(())),
                Step::Failed(error) => return self.release(index, Err(error)),
                Step::Again => {
                    self.counters.continued += 1;
                    self.submit(index);
                }
            }
        }
    }

    /// Begins to make durable what waits for that, unless that is under way. To be called when all was reaped, so that
    /// what came together goes together.
    #[inline]
    pub(super) fn sync_group(&mut self) {
        if self.group.begin() {
            self.push_sync();
        }
    }

    /// Hands over what was submitted, asks for notification, and looks again. False: there is something to reap.
    pub(super) fn arm(&mut self) -> bool {
        self.hush();
        self.notified = true;
        self.uring.completion().enable_eventfd();
        // The kernel looks at the flag after it has completed a request; this thread, at completions after it has set it.
        fence(Ordering::SeqCst);
        self.enter();
        self.uring.completion().is_empty() && !self.has_work()
    }

    /// Asks for notification no more, and forgets what came of it.
    #[inline]
    pub(super) fn hush(&mut self) {
        if self.notified {
            self.notified = false;
            self.uring.completion().disable_eventfd();
            let mut count = [0; 8];
            // Nothing to read is as good.
            let _ = rustix::io::read(&self.event, &mut count);
        }
    }

    /// Waits until nothing is under way, within a bound. False: something still is.
    pub(super) fn settle(&mut self) -> bool {
        let until = Instant::now() + DROP_WAIT;
        let step = types::Timespec::from(DROP_STEP);
        while self.under_way() > 0 {
            self.sync_group();
            // Time runs out, or a signal comes: what counts is what can be reaped.
            let _ = self.uring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&step));
            while self.reap().is_some() {}
            if Instant::now() > until {
                break;
            }
        }
        self.under_way() == 0
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn release(&mut self, index: u32, result: Result<(), Error>) -> Option<Ended> {
        self.free.push(index);
        self.slots[index as usize].vacate(result)
    }

    #[cold]
    fn push_sync(&mut self) {
        self.counters.syncs += 1;
        let entry = opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build();
        self.push(&entry.user_data(SYNC));
    }

    fn end_sync(&mut self, answer: Result<usize, Errno>) {
        match answer {
            // Again; the kernel interrupts for signals that end a process, and so not for ever.
            Err(Errno::INTR | Errno::AGAIN) => self.push_sync(),
            answer => self.group.end(answer.map(drop).map_err(error_of)),
        }
    }

    /// Puts what is left of a slot's request in the queue.
    #[inline]
    fn submit(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.point();
        let (offset, done) = (slot.offset + slot.done as u64, slot.done);
        let name = slot.name(index);
        let flags = if slot.may_wait { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        let entry = match &mut slot.held {
            Some(Held::Read(buf)) => {
                let (start, len) = (buf.as_mut_ptr().wrapping_add(done), buf.len() - done);
                match self.registered.index(start, len) {
                    Some(at) => opcode::ReadFixed::new(FILE, start, len as u32, at).offset(offset).build(),
                    None => {
                        self.counters.unregistered += 1;
                        opcode::Read::new(FILE, start, len as u32).offset(offset).build()
                    }
                }
            }
            Some(Held::Write { durable, .. }) => {
                let durable = if *durable && self.each { libc::RWF_DSYNC } else { 0 };
                let at = self.registered.common_index(&slot.iovecs);
                let (start, count) = (slot.iovecs.as_ptr(), slot.iovecs.len() as u32);
                match (&slot.iovecs[..], at) {
                    ([only], Some(at)) => {
                        let (start, len) = (only.iov_base.cast_const().cast(), only.iov_len as u32);
                        let write = opcode::WriteFixed::new(FILE, start, len, at);
                        write.offset(offset).rw_flags(durable).build()
                    }
                    (_, Some(at)) if self.writev_fixed => {
                        let write = opcode::WritevFixed::new(FILE, start, count, at);
                        write.offset(offset).rw_flags(durable).build()
                    }
                    _ => {
                        self.counters.unregistered += 1;
                        opcode::Writev::new(FILE, start, count).offset(offset).rw_flags(durable).build()
                    }
                }
            }
            Some(Held::Discard { len }) => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let mode = mode.bits().cast_signed();
                opcode::Fallocate::new(FILE, *len).offset(offset).mode(mode).build()
            }
            // All that is complete by now is what the next sync makes durable.
            Some(Held::Flush) | None => return self.group.join(index),
        };
        self.push(&entry.user_data(name).flags(flags));
    }

    #[inline]
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to lies in `self.slots`, which never grows, and in heap memory held there, which
        // does not move; both stay until the completion was taken, or are leaked. The file stays open as long.
        let pushed = unsafe { self.uring.submission().push(entry) };
        pushed.expect("there is an entry for each slot, and one for the group");
    }
}

/// The ring that serves a polling thread best: one that completes when it is asked to, and so never interrupts the thread.
/// Kernels before 6.1 do not have it.
fn set_up(entries: u32) -> io::Result<IoUring> {
    let mut deferring = IoUring::builder();
    deferring.dontfork().setup_submit_all();
    deferring.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    match deferring.build(entries) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().dontfork().build(entries)
        }
        result => result,
    }
}

fn answer(entry: &cqueue::Entry) -> Result<usize, Errno> {
    usize::try_from(entry.result()).map_err(|_| Errno::from_raw_os_error(entry.result().saturating_neg()))
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring's descriptor is open for as long as the ring lives, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.uring.as_raw_fd()) }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring {{ under_way: {} }}", self.under_way())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.under_way() > 0 {
            // Better to lose the memory than to free it under the kernel's hands: a buffer that is never dropped
            // keeps the heap's mapping too.
            return;
        }
        // The kernel takes a ring apart some time after it was closed. The next to open the file shall not meet this one.
        let _ = self.uring.submitter().unregister_files();
        let _ = flock(&*self.file, FlockOperation::Unlock);
        // SAFETY: each is dropped once, here, and not used after; nothing is in flight that refers to the slots.
        unsafe {
            ManuallyDrop::drop(&mut self.slots);
            ManuallyDrop::drop(&mut self.uring);
            ManuallyDrop::drop(&mut self.file);
        }
    }
}
