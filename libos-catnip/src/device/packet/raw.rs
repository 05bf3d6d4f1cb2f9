//! The receive ring of version 2 (`Documentation/networking/packet_mmap.rst`): frames in memory shared with the kernel.
//!
//! Invariant: a slot is read only while its status word says that it is ours, which the kernel then leaves alone; it
//! goes back by that same word, after the last read. So there is one acquire (in [`Ring::peek`]) and one release (in
//! [`Ring::release`]) and no reference across either.

use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::super::kernel::vnet;

/// Where the `sockaddr_ll` lies in a slot, and where a frame's bytes may begin at the earliest.
const ADDRESS: usize = size_of::<libc::tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);
const BEGIN: usize = ADDRESS + size_of::<libc::sockaddr_ll>();

/// Bytes that a slot needs beside those of the frame: its header, the address, the header of checksum offload, and what
/// is lost to alignment.
pub(super) const OVERHEAD: usize = BEGIN + vnet::LEN + 2 * libc::TPACKET_ALIGNMENT;

/// Bytes of the smallest slot; all lie at multiples of it.
pub(super) const SLOT_MIN: usize = 2048;

/// The mapped ring, and which slot is next.
#[derive(Debug)]
pub(super) struct Ring {
    base: NonNull<u8>,
    stride: usize,
    count: usize,
    next: usize,
}

/// A frame in the ring.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    /// `libc::TP_STATUS_*`.
    pub(super) status: u32,
    /// Bytes of the frame, here or not.
    pub(super) len: usize,
    /// Those of them that are here.
    pub(super) bytes: &'a [u8],
    pub(super) vnet: [u8; vnet::LEN],
    /// The tag that was taken out of the frame, if `TP_STATUS_VLAN_VALID`.
    pub(super) vlan: u16,
    /// Sent by this machine itself.
    pub(super) outgoing: bool,
}

impl Ring {
    /// Maps the ring of `count` slots of `stride` bytes, a power of two of at least [`SLOT_MIN`], that the socket has.
    pub(super) fn map(fd: impl AsFd, stride: usize, count: usize) -> Result<Ring, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps with nothing.
        let base = unsafe { mmap(std::ptr::null_mut(), stride * count, protection, flags, fd, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        Ok(Ring { base, stride, count, next: 0 })
    }

    /// The status word of the next slot.
    fn status(&self) -> &AtomicU32 {
        // SAFETY: the slot lies in the mapping, as `next` is less than `count`; it begins with the word, at a multiple of
        // `SLOT_MIN`, which the kernel too accesses as a whole. The result borrows the mapping's owner.
        unsafe { AtomicU32::from_ptr(self.base.add(self.next * self.stride).as_ptr().cast()) }
    }

    /// Whether a frame is there.
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// The next frame, until it is released.
    #[inline]
    pub(super) fn peek(&self) -> Option<Slot<'_>> {
        let status = self.status().load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the slot's `stride` bytes lie in the mapping. The status, acquired, says that they are ours: the kernel
        // does not write to them until `release`, which takes `self` by a mutable reference and so ends this borrow.
        let slot = unsafe {
            std::slice::from_raw_parts(
                self.base.add(self.next * self.stride).as_ptr().cast_const(),
                self.stride,
            )
        };
        // SAFETY: the slot is longer than the header and lies at a multiple of `SLOT_MIN`; any bytes are a valid header.
        let header = unsafe { &*slot.as_ptr().cast::<libc::tpacket2_hdr>() };
        // SAFETY: so is it longer than this; `ADDRESS` is a multiple of the alignment; any bytes are a valid address.
        let address = unsafe { &*slot.as_ptr().add(ADDRESS).cast::<libc::sockaddr_ll>() };
        let begin = usize::from(header.tp_mac);
        let bytes = begin.checked_add(header.tp_snaplen as usize).and_then(|end| slot.get(begin..end));
        let vnet =
            begin.checked_sub(vnet::LEN).filter(|at| *at >= BEGIN).and_then(|at| slot[at..].first_chunk());
        Some(Slot {
            status,
            len: header.tp_len as usize,
            bytes: bytes.unwrap_or_default(),
            vnet: vnet.copied().unwrap_or_default(),
            vlan: header.tp_vlan_tci,
            outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
        })
    }

    /// Gives the next slot back to the kernel. To be called only when there is a frame in it.
    #[inline]
    pub(super) fn release(&mut self) {
        self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = if self.next + 1 == self.count { 0 } else { self.next + 1 };
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this ring's, of that length, and all references to it were borrowed from it. A failure
        // leaves it mapped, which harms nothing.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.stride * self.count) };
    }
}
