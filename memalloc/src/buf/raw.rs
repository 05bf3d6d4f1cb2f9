//! What [`Buf`] and [`BufMut`] have in common: a counted reference to an object, and a range of its bytes.
//!
//! Invariants: a [`RawBuf`] with a heap owns one reference of the live object at `slot`, which keeps the heap's core
//! alive; `data..data + len` lies in the object. Without a heap it is empty.

use super::{Buf, BufMut};
use crate::heap::{Core, Pin, Shared, let_go, release};
use crate::superblock::{Loose, Slot};
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

pub(crate) struct RawBuf {
    heap: Option<NonNull<Core>>,
    data: NonNull<u8>,
    len: u32,
    slot: Slot,
}

impl RawBuf {
    /// No bytes, of no object.
    pub(super) const EMPTY: Self = Self { heap: None, data: NonNull::dangling(), len: 0, slot: Slot::NONE };

    /// The first reference to an object, and the first `len` of its bytes.
    #[inline]
    pub(super) fn claim(pin: &Pin, object: Loose, len: usize) -> Self {
        let slot = pin.slots.claim(object);
        // SAFETY: `slot` has just become live, with one reference; `len` is at most what was asked of the heap.
        unsafe { Self::from_parts(pin, slot, slot.offset(), len) }
    }

    /// # Safety
    /// The caller owns a reference to the live object at `slot`, which contains `len` bytes from `offset` of the region,
    /// and hands it over.
    #[inline]
    pub(crate) unsafe fn from_parts(pin: &Pin, slot: Slot, offset: usize, len: usize) -> Self {
        debug_assert!(u32::try_from(len).is_ok());
        // SAFETY: the offset is that of a byte of the region, or of its end.
        let data = unsafe { pin.base.add(offset) };
        Self { heap: Some(pin.as_raw()), data, len: len as u32, slot }
    }

    #[inline]
    pub(super) fn core(&self) -> Option<&Core> {
        // SAFETY: the object is live, so its core is, for at least as long as a reference to it is borrowed.
        self.heap.map(|core| unsafe { core.as_ref() })
    }

    #[inline]
    pub(super) fn data(&self) -> NonNull<u8> {
        self.data
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether this is the only reference to its object.
    #[inline]
    pub(super) fn is_unique(&self) -> bool {
        self.core().is_none_or(|core| core.slots.is_unique(self.slot))
    }

    #[inline]
    pub(super) fn object_offset(&self) -> Option<usize> {
        self.heap.map(|_| self.slot.offset())
    }

    pub(super) fn same_object(&self, other: &Self) -> bool {
        self.heap.is_some() && self.heap == other.heap && self.slot == other.slot
    }

    /// Another reference to the same bytes.
    #[inline]
    pub(super) fn another(&self) -> Self {
        if let Some(core) = self.core() {
            core.slots.add_reference(self.slot);
        }
        Self { ..*self }
    }

    /// Keeps `len` bytes from `start`.
    #[inline(always)]
    pub(super) fn narrow(&mut self, start: usize, len: usize) {
        let fits = start.checked_add(len).is_some_and(|end| end <= self.len());
        assert!(fits, "{len} bytes from {start} are not within {}", self.len);
        // SAFETY: `start` is at most `len`, so the sum is in the object or at its end.
        self.data = unsafe { self.data.add(start) };
        self.len = len as u32;
    }

    /// Keeps a range of the bytes.
    #[inline(always)]
    pub(super) fn keep(&mut self, range: Range<usize>) {
        let Range { start, end } = range;
        if start > end || end > self.len() {
            not_within(start, end, self.len());
        }
        // SAFETY: `start` is at most `len`, so the sum is in the object or at its end.
        self.data = unsafe { self.data.add(start) };
        self.len = (end - start) as u32;
    }

    /// Bytes from the first of the range to the end of the object.
    #[inline]
    pub(super) fn room(&self) -> usize {
        let Some(core) = self.core() else { return 0 };
        let end = self.slot.offset() + core.object_size(self.slot);
        end - (self.data.addr().get() - core.base.addr().get())
    }

    /// Changes the length; beyond the present one only as the only reference, and within the object.
    #[inline]
    pub(super) fn set_len(&mut self, len: usize) {
        let fits = len <= self.len() || (self.is_unique() && len <= self.room());
        assert!(fits, "{len} bytes are more than the capacity of a buffer of {} bytes", self.len);
        self.len = u32::try_from(len).expect("an object has at most u32::MAX bytes");
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: the range is in a live object, which is initialised. Nobody writes to it while it is borrowed: a
        // `Buf`'s bytes are only read, and a `BufMut`'s are its own.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.len()) }
    }

    /// The parts, with the reference let go of, as [`RawBuf::from_parts`] takes it back.
    pub(super) fn into_parts(self) -> (Option<NonNull<Core>>, Slot, NonNull<u8>, u32) {
        let this = ManuallyDrop::new(self);
        (this.heap, this.slot, this.data, this.len)
    }

    /// The object as one that leaves this thread, without a reference to it. What is left here may go.
    ///
    /// # Errors
    /// The buffer itself, if there are other references to its object, or it has none.
    pub(super) fn try_send_away(self) -> Result<(Arc<Shared>, Loose, NonNull<u8>, u32), Self> {
        let Some(core) = self.core().filter(|_| self.is_unique()) else { return Err(self) };
        let shared = Arc::clone(&core.shared);
        core.count_sent_away(self.slot);
        let (Some(heap), slot, data, len) = self.into_parts() else { unreachable!("it has a core") };
        // SAFETY: `self` owned the one reference and is gone; `data` is followed only by whoever holds the object.
        let object = unsafe { shared.slots.drop_reference(slot) }.expect("the reference was the only one");
        shared.slots.send_away(&object);
        // SAFETY: the object was live until now, so the core is alive; it is not used any more.
        unsafe { let_go(heap) };
        Ok((shared, object, data, len))
    }
}

/// Apart, and by value: what is only printed need not be kept where it can be pointed to.
#[cold]
#[inline(never)]
fn not_within(start: usize, end: usize, len: usize) -> ! {
    panic!("{start}..{end} is not within {len} bytes");
}

impl Drop for RawBuf {
    #[inline]
    fn drop(&mut self) {
        let Some(heap) = self.heap else { return };
        // SAFETY: the object is live, so the core is alive. This value owns a reference, which ends here, as does its
        // access to the bytes.
        if let Some(object) = unsafe { heap.as_ref().slots.drop_reference(self.slot) } {
            // SAFETY: the object was live until now, and the core is not used any more.
            unsafe { release(heap, object) };
        }
    }
}

impl Buf {
    /// # Safety
    /// No [`BufMut`] covers any byte of the range, and nobody else writes to it.
    pub(crate) unsafe fn from_raw(raw: RawBuf) -> Self {
        Self { raw }
    }
}

impl BufMut {
    /// # Safety
    /// No other buffer covers any byte of the range, and nobody else uses it.
    pub(crate) unsafe fn from_raw(raw: RawBuf) -> Self {
        Self { raw }
    }
}

impl Deref for Buf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.raw.bytes()
    }
}

impl Deref for BufMut {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.raw.bytes()
    }
}

impl DerefMut for BufMut {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range is in a live object, which is initialised. No other buffer covers any of these bytes, for
        // that is what a `BufMut` is, and `self` is borrowed uniquely.
        unsafe { slice::from_raw_parts_mut(self.raw.data.as_ptr(), self.raw.len()) }
    }
}
