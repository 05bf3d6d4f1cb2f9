//! What no safe wrapper offers: two socket options, and io_uring.
//!
//! Invariant of the ring: memory that the kernel may read or write lies in a slot of [`Ring`], unreachable
//! from outside, from before the submission until its completion was taken; dropping the ring waits for
//! what is under way. So it does not matter what becomes of tokens and queues in the meantime.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::memalloc::{Buf, BufMut};
use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;

use super::file::{read_now, sync_now, write_now};
use super::socket::MAX_IOVECS;
use super::translate;

/// How long a ring that is dropped waits for what is under way, and in how many steps.
const DROP_WAIT: Duration = Duration::from_secs(10);
const DROP_STEPS: u32 = 100;

pub(super) fn set_max_segment(fd: &Fd, bytes: u32) -> rustix::io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads four bytes at the address of `value`, a live `c_int` of that size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_setsockopt,
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MAXSEG,
            &raw const value,
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

pub(super) fn max_segment(fd: &Fd) -> rustix::io::Result<u32> {
    let mut value: libc::c_int = 0;
    let mut size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, the size of `value`, to its address, and the size itself.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getsockopt,
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MAXSEG,
            &raw mut value,
            &raw mut size,
        )
    };
    if result == 0 { Ok(value.max(0).cast_unsigned()) } else { Err(last_errno()) }
}

/// As much of the kernel's `struct tcp_info` as there is room for; returns how much that is.
pub(super) fn tcp_info(fd: &Fd, bytes: &mut [u8]) -> rustix::io::Result<usize> {
    let mut size = libc::socklen_t::try_from(bytes.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the kernel writes at most `size` bytes, the size of `bytes`, to its address, and the size itself.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getsockopt,
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(bytes.len().min(size as usize)) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Segments to write in one operation. Reused: an emptied one keeps its room.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    segments: Vec<Buf>,
    iovecs: Vec<libc::iovec>,
}

impl Gather {
    /// Adds a segment; false if there is no room for it.
    pub(crate) fn add(&mut self, segment: Buf) -> bool {
        if self.segments.len() == MAX_IOVECS {
            return false;
        }
        self.segments.push(segment);
        true
    }

    pub(crate) fn clear(&mut self) {
        self.segments.clear();
        self.iovecs.clear();
    }

    fn point(&mut self) {
        self.iovecs.clear();
        let iovec = |segment: &Buf| libc::iovec {
            iov_base: segment.as_ptr().cast_mut().cast(),
            iov_len: segment.len(),
        };
        self.iovecs.extend(self.segments.iter().map(iovec));
    }
}

/// What an operation keeps alive.
#[derive(Debug)]
pub(crate) enum Held {
    Read(BufMut),
    Write(Gather),
    Sync,
}

/// A finished operation: its slot, what it held, how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) slot: usize,
    pub(crate) held: Held,
    /// Bytes read or written. `Ok(None)`: interrupted before it did anything; start it again.
    pub(crate) result: Result<Option<usize>, Error>,
}

/// An io_uring for file operations.
pub(crate) struct Ring {
    uring: ManuallyDrop<IoUring>,
    slots: ManuallyDrop<Vec<Option<Held>>>,
    free: Vec<usize>,
}

impl Ring {
    /// A ring for at most `entries` operations at once, or `None` where io_uring cannot be had.
    pub(crate) fn new(entries: u32) -> Option<Ring> {
        let uring = IoUring::builder().dontfork().build(entries).ok()?;
        let entries = entries as usize;
        let slots = (0..entries).map(|_| None).collect();
        let free = (0..entries).rev().collect();
        Some(Ring { uring: ManuallyDrop::new(uring), slots: ManuallyDrop::new(slots), free })
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Begins what `held` says at `offset` of the file; returns the slot that will name its end.
    /// Must not be called when the ring is full.
    pub(crate) fn submit(&mut self, fd: &Fd, offset: u64, held: Held, durable: bool) -> usize {
        let slot = self.free.pop().expect("the caller has asked is_full");
        let held = self.slots[slot].insert(held);
        let fd = types::Fd(fd.as_fd().as_raw_fd());
        let entry = match held {
            Held::Read(buf) => {
                let len = u32::try_from(buf.len()).unwrap_or(u32::MAX);
                opcode::Read::new(fd, buf.as_mut_ptr(), len).offset(offset).build()
            }
            Held::Write(gather) => {
                gather.point();
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                let count = gather.iovecs.len() as u32;
                opcode::Writev::new(fd, gather.iovecs.as_ptr(), count).offset(offset).rw_flags(flags).build()
            }
            Held::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        };
        self.push(&entry.user_data(slot as u64));
        slot
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // A file keeps its descriptor open while it has an operation here; else the entry might name another file.
        // SAFETY: buffers, segments and iovecs that the entry points to lie in `self.slots` and in heap memory
        // that does not move; they stay until the completion is taken or, in `drop`, waited for.
        let pushed = unsafe { self.uring.submission().push(entry) };
        // There are as many entries as slots, and each slot has at most one entry in the queue.
        pushed.expect("a free slot has a free entry");
        self.flush();
    }

    /// Hands over what the kernel has not taken yet, if it takes it now; the next call tries again.
    fn flush(&mut self) {
        while !self.uring.submission().is_empty() {
            match self.uring.submit() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Takes one finished operation.
    pub(crate) fn reap(&mut self) -> Option<Finished> {
        if self.in_flight() == 0 {
            return None;
        }
        self.flush();
        let entry = self.uring.completion().next()?;
        let slot = entry.user_data() as usize;
        let held = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(Finished { slot, held, result: outcome(entry.result()) })
    }

    /// Most operations at once.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }
}

fn outcome(result: i32) -> Result<Option<usize>, Error> {
    match result {
        count @ 0.. => Ok(Some(count.cast_unsigned() as usize)),
        error => match Errno::from_raw_os_error(-error) {
            Errno::INTR | Errno::AGAIN | Errno::CANCELED => Ok(None),
            errno => Err(translate(errno)),
        },
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring's descriptor is open for as long as the ring lives, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.uring.as_raw_fd()) }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring {{ in_flight: {} }}", self.in_flight())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let step = types::Timespec::from(DROP_WAIT / DROP_STEPS);
        for _ in 0..DROP_STEPS {
            if self.in_flight() == 0 {
                break;
            }
            // Time runs out, or a signal comes: what counts is what was reaped.
            let _ = self.uring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&step));
            while self.reap().is_some() {}
        }
        if self.in_flight() > 0 {
            // Better to lose the memory than to free it under the kernel's hands: a buffer that is never dropped
            // keeps the heap's mapping too.
            return;
        }
        // SAFETY: each is dropped once, here, and not used after; nothing is in flight that refers to the slots.
        unsafe {
            ManuallyDrop::drop(&mut self.slots);
            ManuallyDrop::drop(&mut self.uring);
        }
    }
}

/// The same operation done at once, by a call that may block.
pub(crate) fn run_now(fd: &Fd, offset: u64, held: &mut Held, durable: bool) -> Result<usize, Error> {
    match held {
        Held::Read(buf) => read_now(fd, offset, buf),
        Held::Write(gather) => write_now(fd, offset, &gather.segments, durable),
        Held::Sync => sync_now(fd).map(|()| 0),
    }
}
