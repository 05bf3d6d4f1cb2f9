//! Receive buffers: one spare for streams and one for datagrams, used again until something large lies in it.
//!
//! Invariant: bytes that the kernel has handed over are never lost for want of memory. The spare is there
//! before the receive; if a copy to size finds no room, the spare itself is handed out.

use demi_api::error::Error;
use demi_api::memalloc::{Buf, BufMut, Heap, OutOfMemory};
use demi_api::sga::SgArray;
use rustix::net::SocketAddrAny;

use crate::counters::Counters;
use crate::sys::socket::{recv, recv_from};
use crate::sys::{Attempt, Fd};

/// Room for a datagram: the largest of UDP, and as much of UNIX sockets.
const DATAGRAM_ROOM: usize = 64 << 10;

/// A datagram that fills less of the spare than this is copied, so that it does not hold 64 KiB.
const DATAGRAM_KEEP: usize = DATAGRAM_ROOM / 4;

#[derive(Debug)]
pub(crate) struct Receiver {
    recv_bytes: usize,
    copy_threshold: usize,
    stream_spare: Option<BufMut>,
    datagram_spare: Option<BufMut>,
}

impl Receiver {
    pub(crate) fn new(recv_bytes: usize, copy_threshold: usize) -> Receiver {
        Receiver { recv_bytes, copy_threshold, stream_spare: None, datagram_spare: None }
    }

    /// What one receive from a stream yields, 1 to `limit` bytes; an empty buffer is its end.
    #[inline]
    pub(crate) fn stream(
        &mut self,
        heap: &Heap,
        counters: &mut Counters,
        fd: &Fd,
        limit: usize,
    ) -> Attempt<Buf> {
        let spare = spare(&mut self.stream_spare, heap, self.recv_bytes)?;
        let room = limit.min(spare.len());
        let Some(count) = recv(fd, &mut spare[..room])? else {
            counters.recv_again += 1;
            return Ok(None);
        };
        counters.recv += 1;
        counters.bytes_in += count as u64;
        if count == 0 {
            return Ok(Some(Buf::empty()));
        }
        Ok(Some(hand_out(&mut self.stream_spare, heap, counters, count, self.copy_threshold)))
    }

    /// A whole datagram and the kernel's form of its sender. One that exceeds [`DATAGRAM_ROOM`], which only
    /// UNIX sockets can carry, is gone and reported as [`Error::TooLarge`].
    #[inline]
    pub(crate) fn datagram(
        &mut self,
        heap: &Heap,
        counters: &mut Counters,
        fd: &Fd,
    ) -> Attempt<(Buf, Option<SocketAddrAny>)> {
        let spare = spare(&mut self.datagram_spare, heap, DATAGRAM_ROOM)?;
        let Some((length, sender)) = recv_from(fd, spare)? else {
            counters.recv_again += 1;
            return Ok(None);
        };
        counters.recv += 1;
        counters.bytes_in += length as u64;
        if length > DATAGRAM_ROOM {
            return Err(Error::TooLarge { len: length, limit: DATAGRAM_ROOM });
        }
        let keep = self.copy_threshold.max(DATAGRAM_KEEP);
        let empty = length == 0;
        let buf = if empty {
            Buf::empty()
        } else {
            hand_out(&mut self.datagram_spare, heap, counters, length, keep)
        };
        Ok(Some((buf, sender)))
    }
}

/// What a received buffer pops as: bytes are one segment, none are none.
#[inline]
pub(crate) fn element(buf: Buf) -> SgArray {
    if buf.is_empty() { SgArray::new() } else { buf.into() }
}

#[inline]
fn spare<'a>(slot: &'a mut Option<BufMut>, heap: &Heap, len: usize) -> Result<&'a mut BufMut, OutOfMemory> {
    match slot {
        Some(spare) => Ok(spare),
        None => Ok(slot.insert(heap.alloc(len)?)),
    }
}

/// The first `count` bytes of the spare: copied if they are few, else in the spare itself.
#[inline]
fn hand_out(
    slot: &mut Option<BufMut>,
    heap: &Heap,
    counters: &mut Counters,
    count: usize,
    copy_up_to: usize,
) -> Buf {
    if count <= copy_up_to
        && let Some(spare) = slot
        && let Ok(mut copy) = heap.alloc(count)
    {
        copy.copy_from_slice(&spare[..count]);
        counters.copied_receives += 1;
        counters.copied_bytes += count as u64;
        return copy.freeze();
    }
    let mut spare = slot.take().expect("the caller has received into it");
    spare.truncate(count);
    spare.freeze()
}
