//! Bytes that the program points at, and objects that it has by a bare pointer.

use std::slice;

use demi_api::{Buf, Heap};

use crate::errno::Errno;
use crate::memory::{Allocated, Memory};
use crate::types::Segment;

/// Where segments without bytes point: somewhere that is not NULL.
pub static NOTHING: u8 = 0;

/// References the bytes of a segment that lies in the heap. `None`: they are not all of one object that the program
/// has in hand.
#[inline]
pub(crate) fn share(heap: &Heap, memory: &Memory, segment: &Segment) -> Option<Buf> {
    let first = segment.buf.cast_const().cast();
    memory.object(first)?;
    // SAFETY: the program has the object in hand, as was just looked at, so no `BufMut` of the instance covers bytes that
    // were handed to it. That it does not write to what is in flight is the contract of `demi_push`.
    unsafe { heap.share(first, segment.len as usize) }
}

/// Copies a segment that lies elsewhere into the heap.
#[cold]
pub(crate) fn copy_in(heap: &Heap, segment: &Segment) -> Result<Buf, Errno> {
    let (first, len) = (segment.buf.cast_const().cast::<u8>(), segment.len as usize);
    if first.is_null() || first.addr().checked_add(len).is_none() {
        return Err(Errno(libc::EFAULT));
    }
    // SAFETY: not NULL, and not around the end of the address space; that it is mapped, and stays as it is during the
    // call, is the contract of `demi_push`.
    let bytes = unsafe { slice::from_raw_parts(first, len) };
    heap.copy_from(bytes).map_err(|_| Errno(libc::ENOMEM))
}

/// Takes back the reference that the program had with the address.
pub(crate) fn give_back(heap: &Heap, object: Allocated) {
    // SAFETY: there is such a reference for each `Allocated`, which is used up here. The result covers no byte.
    drop(unsafe { heap.adopt(object.ptr(), 0) });
}
