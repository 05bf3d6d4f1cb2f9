//! The seam to NICs: bursts of frames in owned buffers.
//!
//! Invariants: a frame lies in memory that nobody writes while the device has it. Whatever a device receives it has
//! validated before it hands it on: lengths are those of the buffers. A device never blocks and never sleeps; each call
//! does bounded work.

pub mod fault;
mod kernel;
mod loopback;
pub mod memif;
pub mod packet;
mod passing;
pub mod pcap;
pub mod tap;
pub mod xdp;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

pub use demi_api::libos::DeviceCx;
use demi_api::sga::SgArray;
use demi_api::time::Instant;

pub use self::loopback::{Loopback, Wire};
pub(crate) use self::passing::KEPT;

/// Most frames that one call receives.
pub const BURST: usize = 32;

/// One queue of a network device.
pub trait Queue {
    /// What it can do. Constant.
    fn caps(&self) -> &Caps;

    /// Appends up to [`BURST`] received frames to `inbox`; returns how many. The first segment of each holds at least
    /// the first 128 bytes, or all of the frame.
    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize;

    /// Takes frames from the front of `outbox` for as long as there is room, and lets the device know. What is left, and
    /// in which order, stays the caller's affair. A frame beyond what [`Caps`] allows is a fault of the caller's: it is
    /// dropped and counted.
    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize;

    /// The same with one more frame, behind those of the outbox, of which there are mostly none.
    fn tx_next(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>, next: Frame) -> usize {
        outbox.push_back(next);
        self.tx_burst(cx, outbox)
    }

    /// Lets go of frames that have been transmitted; returns how many. Called every turn.
    fn reclaim(&mut self) -> usize {
        0
    }

    /// When [`rx_burst`](Queue::rx_burst) or [`reclaim`](Queue::reclaim) must be called again although nothing is
    /// signalled.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// A descriptor that polls readable when there may be work. It stays the same and stays open.
    fn wait_fd(&self) -> BorrowedFd<'_>;

    /// Asks for notification, then looks again. False: there is work already.
    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool;

    /// Serves these of an interface's queues and no others, where it is shared and they can be served; what has come by one
    /// that is given up is appended to `inbox`. False: not all of them could be had, which is worth another attempt.
    fn serve(&mut self, _cx: &DeviceCx<'_>, _queues: &[u32], _inbox: &mut Vec<Frame>) -> bool {
        true
    }

    /// Names and values of its counters.
    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64));
}

/// Gives a device what there is to be sent: what waits in the outbox, and one more frame, if there is one.
#[inline(always)]
pub(crate) fn transmit(
    device: &mut dyn Queue,
    cx: &DeviceCx<'_>,
    outbox: &mut VecDeque<Frame>,
    next: Option<Frame>,
) {
    match next {
        Some(next) => device.tx_next(cx, outbox, next),
        None if outbox.is_empty() => 0,
        None => device.tx_burst(cx, outbox),
    };
}

/// A device chosen at run time, so that what stands before a device can stand before this one too.
impl<Q: Queue + ?Sized> Queue for Box<Q> {
    fn caps(&self) -> &Caps {
        (**self).caps()
    }

    #[inline]
    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        (**self).rx_burst(cx, inbox)
    }

    #[inline]
    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        (**self).tx_burst(cx, outbox)
    }

    #[inline]
    fn tx_next(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>, next: Frame) -> usize {
        (**self).tx_next(cx, outbox, next)
    }

    #[inline]
    fn reclaim(&mut self) -> usize {
        (**self).reclaim()
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

    fn serve(&mut self, cx: &DeviceCx<'_>, queues: &[u32], inbox: &mut Vec<Frame>) -> bool {
        (**self).serve(cx, queues, inbox)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        (**self).counters(visit);
    }
}

/// A frame from destination address to payload, without its check sequence.
#[derive(Debug)]
pub struct Frame {
    /// The bytes.
    pub data: SgArray,
    /// How far the checksum of what is in it can be relied on, or is done.
    pub checksum: Checksum,
}

impl Frame {
    /// A frame whose checksums are in place, to be verified.
    pub fn new(data: SgArray) -> Frame {
        Frame { data, checksum: Checksum::Unknown }
    }
}

/// The state of a frame's transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// Received: to be verified. To be transmitted: complete.
    Unknown,
    /// Received: the device, or the peer's memory, vouches for it.
    Verified,
    /// The pseudo-header's sum is in place. Received: the sender left the rest to a device that there never was, which
    /// is as good as verified. To be transmitted: the device sums from `start` and writes at `at`.
    Partial {
        /// Where summing starts, bytes from the frame's beginning.
        start: u16,
        /// Where the checksum is, bytes from the frame's beginning.
        at: u16,
    },
}

/// What a queue can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Largest packet behind the Ethernet header, in bytes, 68 to 65535.
    pub mtu: usize,
    /// Most segments of one frame.
    pub max_segs: usize,
    /// Most bytes of one segment.
    pub max_seg_len: usize,
    /// It completes checksums that are [`Checksum::Partial`].
    pub tx_checksum: bool,
    /// Frames are read where they lie, in the instance's heap; otherwise they are copied on the way out.
    pub zero_copy: bool,
}
