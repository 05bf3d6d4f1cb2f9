//! Frames on their way from the ring into the heap, and from the heap into the socket.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};

use arrayvec::ArrayVec;
use demi_api::fd::Fd;
use demi_api::memalloc::Heap;
use demi_api::sga::MAX_SEGMENTS;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    MMsgHdr, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmmsg,
};

use super::super::kernel::{ETHERNET, vnet};
use super::super::passing::copy_of_passing;
use super::super::{Caps, Frame};
use super::raw::Slot;

/// Frames handed to the kernel by one call.
const BATCH: usize = 16;

/// Longest frame taken: the longest IP packet behind its Ethernet header.
const LONGEST: usize = ETHERNET + 65535;

/// Why a frame that arrived is not handed out.
pub(super) enum Dropped {
    Memory,
    Truncated,
    Vlan,
    Aggregate,
    Outgoing,
}

/// The frame in a slot, copied out.
#[inline]
pub(super) fn take(fd: &Fd, slot: &Slot<'_>, heap: &Heap, astray: &mut bool) -> Result<Frame, Dropped> {
    let wanted = if slot.outgoing {
        Err(Dropped::Outgoing)
    } else if slot.is_tagged() {
        Err(Dropped::Vlan)
    } else if (ETHERNET..=LONGEST).contains(&slot.len) {
        Ok(slot.len)
    } else {
        Err(Dropped::Truncated)
    };
    if slot.status & libc::TP_STATUS_COPY != 0 {
        return take_large(fd, wanted, heap, astray);
    }
    let len = wanted?;
    if slot.bytes.len() != len {
        return Err(Dropped::Truncated);
    }
    let checksum = vnet::parse(&slot.vnet, len).ok_or(Dropped::Aggregate)?;
    let fill = |data: &mut [u8]| data.copy_from_slice(slot.bytes);
    let data = match heap.alloc(len) {
        Ok(mut data) => {
            fill(&mut data);
            data
        }
        Err(_) => copy_of_passing(heap, len, |data| {
            fill(data);
            true
        })
        .ok_or(Dropped::Memory)?,
    };
    Ok(Frame { data: data.into(), checksum })
}

impl Slot<'_> {
    /// Whether the frame belongs to a VLAN, which is another network. The kernel has taken its tag out, so that nothing
    /// else tells. Number 0 is no VLAN but a priority (IEEE 802.1Q §9.6).
    fn is_tagged(&self) -> bool {
        self.status & libc::TP_STATUS_VLAN_VALID != 0 && self.vlan & 0xfff != 0
    }
}

/// The frame, of that length, that a slot was too short for. It leaves the socket's buffer even if it is not wanted.
#[cold]
fn take_large(
    fd: &Fd,
    wanted: Result<usize, Dropped>,
    heap: &Heap,
    astray: &mut bool,
) -> Result<Frame, Dropped> {
    let mut buffer = wanted.and_then(|len| heap.alloc(len).map_err(|_| Dropped::Memory));
    let read = read_large(fd, buffer.as_mut().map_or(&mut [], |buffer| &mut buffer[..]));
    *astray |= read.is_err();
    let data = buffer?;
    match read {
        Ok((header, len)) if len == data.len() => {
            let checksum = vnet::parse(&header, len).ok_or(Dropped::Aggregate)?;
            Ok(Frame { data: data.into(), checksum })
        }
        Ok(_) => {
            *astray = true;
            Err(Dropped::Truncated)
        }
        Err(_) => Err(Dropped::Truncated),
    }
}

/// Takes a frame out of the socket's buffer, as far as there is room; returns its header and its true length.
pub(super) fn read_large(fd: &Fd, into: &mut [u8]) -> Result<([u8; vnet::LEN], usize), Errno> {
    let mut header = [0; vnet::LEN];
    let mut attempt = || {
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut *into)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        recvmsg(fd, &mut parts, &mut RecvAncillaryBuffer::default(), flags).map(|message| message.bytes)
    };
    let len = match attempt() {
        Err(Errno::AGAIN) => return Err(Errno::AGAIN),
        // An error that the interface has left behind is told once and then gone.
        Err(_) => attempt()?,
        Ok(len) => len,
    };
    Ok((header, len.checked_sub(vnet::LEN).ok_or(Errno::BADMSG)?))
}

/// Hands frames from the front of `outbox` to the kernel; returns how many it took. None: the first is beyond what the
/// device can do.
pub(super) fn transmit(fd: &Fd, caps: &Caps, outbox: &VecDeque<Frame>) -> Result<usize, Errno> {
    let headers: ArrayVec<[u8; vnet::LEN], BATCH> =
        outbox.iter().take(BATCH).map_while(|frame| vnet::for_frame(frame, caps)).collect();
    let mut parts: ArrayVec<ArrayVec<IoSlice<'_>, { MAX_SEGMENTS + 1 }>, BATCH> = ArrayVec::new();
    for (header, frame) in headers.iter().zip(outbox) {
        let mut part = ArrayVec::new();
        part.push(IoSlice::new(header));
        part.extend(frame.data.segments().iter().map(|segment| IoSlice::new(segment)));
        parts.push(part);
    }
    if parts.is_empty() {
        return Ok(0);
    }
    let mut nothing: [_; BATCH] = std::array::from_fn(|_| SendAncillaryBuffer::default());
    let mut messages: ArrayVec<MMsgHdr<'_>, BATCH> =
        parts.iter().zip(&mut nothing).map(|(part, nothing)| MMsgHdr::new(part, nothing)).collect();
    retry_on_intr(|| sendmmsg(fd, &mut messages, SendFlags::DONTWAIT))
}
