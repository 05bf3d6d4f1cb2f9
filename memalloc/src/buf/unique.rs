//! A range of an object's bytes that is nobody else's, and so can be written.
//!
//! Invariant: no other buffer covers any byte of a [`BufMut`]. It may share its *object* with buffers of other ranges,
//! from which it was split; it can grow only while it does not.

use super::raw::RawBuf;
use super::{Buf, hex};
use crate::heap::Pin;
use crate::superblock::Loose;
use std::fmt;
use std::ptr::NonNull;

/// A unique, writable buffer.
///
/// Frozen, it is read-only and can be shared; the compiler knows that it is gone:
///
/// ```compile_fail,E0382
/// # let heap = demi_memalloc::Heap::new(&Default::default()).unwrap();
/// let mut buf = heap.alloc(64).unwrap();
/// let frozen = buf.freeze();
/// buf[0] = 1;
/// ```
pub struct BufMut {
    pub(super) raw: RawBuf,
}

impl BufMut {
    /// The whole of a fresh object, of which `len` bytes are in use.
    #[inline]
    pub(crate) fn claim(pin: &Pin, object: Loose, len: usize) -> Self {
        Self { raw: RawBuf::claim(pin, object, len) }
    }

    /// Read-only and shared, from now on.
    #[inline]
    pub fn freeze(self) -> Buf {
        Buf { raw: self.raw }
    }

    /// How many bytes there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether there are no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How long the buffer can become: up to the end of its object, if it shares that with no other buffer.
    #[inline]
    pub fn capacity(&self) -> usize {
        if self.raw.is_unique() { self.raw.room() } else { self.len() }
    }

    /// Sets the length. What becomes visible by that is unspecified, if initialised.
    ///
    /// # Panics
    /// When `len` is more than the capacity.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        self.raw.set_len(len);
    }

    /// Drops all but the first `len` bytes; they stay within the capacity. Does nothing if there are no more.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.raw.set_len(len.min(self.len()));
    }

    /// Drops the first `count` bytes, for good.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "cannot advance {count} of {} bytes", self.len());
        self.raw.narrow(count, self.len() - count);
    }

    /// Splits off the first `count` bytes, which are then the result's alone. Both keep the object.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn split_to(&mut self, count: usize) -> Self {
        assert!(count <= self.len(), "cannot split {count} of {} bytes", self.len());
        let mut front = self.raw.another();
        front.narrow(0, count);
        self.raw.narrow(count, self.len() - count);
        Self { raw: front }
    }

    /// Where the bytes begin in the region.
    pub fn offset(&self) -> usize {
        self.raw.offset()
    }

    /// The first byte, for a device to write to. No reference to the bytes may be in use while it does.
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.raw.data().as_ptr()
    }

    /// Lets go of the buffer, but not of its object: [`Heap::adopt_mut`](crate::Heap::adopt_mut) takes it back.
    /// An empty buffer at the end of its object points behind it, where another may begin: adopt by an address within.
    pub fn into_raw(self) -> NonNull<u8> {
        self.raw.into_parts().2
    }
}

impl AsRef<[u8]> for BufMut {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for BufMut {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for BufMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, "BufMut", self)
    }
}
