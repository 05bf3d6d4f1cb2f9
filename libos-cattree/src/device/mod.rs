//! The seam to block devices: requests with owned buffers go down, completions bring the buffers back.
//!
//! Invariants: a buffer lies still from [`submit`](BlockDevice::submit) until its completion is handed out, and nobody
//! writes to it meanwhile but the device. Every request that was taken completes exactly once, in any order. A device
//! never blocks and never sleeps; each call does bounded work. Dropping a device waits, within a bound, until
//! it has let go of all memory; what it does not give back by then is leaked, never freed.
//!
//! | module | what it is |
//! |---|---|
//! | `check` | whether a request is one that a device allows |
//! | [`mem`] | blocks in memory |
//! | [`uring`] | files and block devices, through io_uring |
//! | [`fault`] | failures and delays |
//! | [`crash`] | what a loss of power can leave |
//! | [`nvme`] | an NVMe controller in user space |

mod check;
pub mod crash;
pub mod fault;
pub mod mem;
pub mod nvme;
pub mod uring;

use std::os::fd::BorrowedFd;

use demi_api::error::Error;
pub use demi_api::libos::DeviceCx;
use demi_api::memalloc::BufMut;
use demi_api::sga::SgArray;
use demi_api::time::Instant;

/// Something that keeps blocks.
pub trait BlockDevice {
    /// What it can do. Constant.
    fn caps(&self) -> &Caps;

    /// Takes a request. It is with the device at the latest when the next [`poll`](BlockDevice::poll) or
    /// [`arm`](BlockDevice::arm) returns, so that requests that come together go together. If
    /// [`Caps::depth`] requests are under way it comes back as it was.
    ///
    /// A request beyond what [`Caps`] allows is a fault of the caller's, and completes as [`Error::Invalid`].
    fn submit(&mut self, cx: &DeviceCx<'_>, request: Request) -> Result<(), Request>;

    /// Hands over what was submitted, and appends what is complete to `done`; returns how many.
    fn poll(&mut self, cx: &DeviceCx<'_>, done: &mut Vec<Completion>) -> usize;

    /// When [`poll`](BlockDevice::poll) must be called again although nothing is signalled.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// A descriptor that polls readable when there are completions. It stays the same and stays open.
    fn wait_fd(&self) -> BorrowedFd<'_>;

    /// Hands over what was submitted, asks for notification, then looks again. False: there are completions already.
    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool;

    /// Names and values of its counters.
    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64));
}

/// A device chosen at run time, so that what stands before a device can stand before this one too.
impl<D: BlockDevice + ?Sized> BlockDevice for Box<D> {
    fn caps(&self) -> &Caps {
        (**self).caps()
    }

    fn submit(&mut self, cx: &DeviceCx<'_>, request: Request) -> Result<(), Request> {
        (**self).submit(cx, request)
    }

    fn poll(&mut self, cx: &DeviceCx<'_>, done: &mut Vec<Completion>) -> usize {
        (**self).poll(cx, done)
    }

    fn next_deadline(&self) -> Option<Instant> {
        (**self).next_deadline()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        (**self).wait_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        (**self).arm(cx)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        (**self).counters(visit);
    }
}

/// Something for a device to do.
#[derive(Debug)]
pub struct Request {
    /// Comes back with the completion; means nothing to the device.
    pub tag: u64,
    /// What to do.
    pub command: Command,
}

/// What a device does. Offsets and lengths are in bytes and multiples of [`Caps::block_size`].
#[derive(Debug)]
pub enum Command {
    /// Reads as many bytes as the buffer is long.
    Read {
        /// Where on the device.
        offset: u64,
        /// Where to; at a multiple of [`Caps::memory_align`].
        into: BufMut,
    },
    /// Writes the segments one behind the other.
    Write {
        /// Where on the device.
        offset: u64,
        /// What: at most [`Caps::max_segments`] segments, each at a multiple of [`Caps::memory_align`] and a multiple of
        /// the block size long.
        data: SgArray,
        /// Complete when the bytes would survive a loss of power, not when the device has them.
        durable: bool,
    },
    /// Makes all writes durable that were complete when this was submitted.
    Flush,
    /// The content of a range is needed no more; what is read there later is anything that was there before, or zero.
    Discard {
        /// Where on the device.
        offset: u64,
        /// How much.
        len: u64,
    },
}

/// A request that has ended.
#[derive(Debug)]
pub struct Completion {
    /// The request's.
    pub tag: u64,
    /// Whether all of it was done. After a failed write any part of its range may hold the new bytes.
    pub result: Result<(), Error>,
    /// The request's buffers.
    pub buffers: Buffers,
}

/// What a completion gives back.
#[derive(Debug)]
pub enum Buffers {
    /// The command had none.
    None,
    /// What was read, if it succeeded; otherwise anything.
    Read(BufMut),
    /// What was written.
    Written(SgArray),
}

/// What a device can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Bytes of its logical block: a power of two, 512 at least. A write of one is never torn.
    pub block_size: usize,
    /// Bytes that it holds: a multiple of the block size.
    pub capacity: u64,
    /// Most bytes of one read or write: a multiple of the block size.
    pub max_transfer: usize,
    /// Most segments of one write.
    pub max_segments: usize,
    /// What the address of a buffer must be a multiple of: a power of two.
    pub memory_align: usize,
    /// Most requests under way at once.
    pub depth: usize,
    /// It refuses to write.
    pub read_only: bool,
    /// It has a use for [`Command::Discard`].
    pub discard: bool,
}
