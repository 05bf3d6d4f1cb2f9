//! How a heap stays alive, what its free memory holds, and how memory that went out as a bare pointer comes back.
//!
//! Invariant: a [`Core`] lives exactly as long as its count of pins is not zero, and every [`Pin`] is one of them.

use super::core::{Core, POISON};
use super::{Heap, Object};
use crate::buf::RawBuf;
use crate::superblock::Loose;
use crate::{Buf, BufMut};
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;

/// Keeps a core alive. Neither `Send` nor `Sync`: the count, like everything in a core, belongs to one thread.
pub(crate) struct Pin(NonNull<Core>);

impl Pin {
    pub(super) fn new(core: Core) -> Self {
        core.pins.set(1);
        Self(NonNull::from(Box::leak(Box::new(core))))
    }

    /// The pin as a pointer, to be given back to [`Pin::from_raw`].
    #[inline]
    pub(crate) fn into_raw(self) -> NonNull<Core> {
        let core = self.0;
        std::mem::forget(self);
        core
    }

    /// The core, for someone who holds another pin.
    #[inline]
    pub(crate) fn as_raw(&self) -> NonNull<Core> {
        self.0
    }

    /// # Safety
    /// `core` came from [`Pin::into_raw`], and comes back only once.
    #[inline]
    pub(crate) unsafe fn from_raw(core: NonNull<Core>) -> Self {
        Self(core)
    }

    #[cold]
    fn destroy(core: NonNull<Core>) {
        // SAFETY: the last pin is gone, so nobody else has a pointer that may be followed; `core` came from a box.
        drop(unsafe { Box::from_raw(core.as_ptr()) });
    }
}

impl Deref for Pin {
    type Target = Core;

    #[inline]
    fn deref(&self) -> &Core {
        // SAFETY: this pin is counted, so the core is alive for as long as the reference, and it is only ever shared.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for Pin {
    #[inline]
    fn clone(&self) -> Self {
        // Each pin is a value or a live object: there is not enough memory for the count to overflow, except by leaks.
        self.pins.set(self.pins.get().checked_add(1).unwrap_or_else(|| std::process::abort()));
        Self(self.0)
    }
}

impl Drop for Pin {
    #[inline]
    fn drop(&mut self) {
        let pins = self.pins.get() - 1;
        self.pins.set(pins);
        if pins == 0 {
            Self::destroy(self.0);
        }
    }
}

impl Heap {
    /// Takes another reference on the live object that contains `len` bytes from `ptr`: how a bare pointer (from C)
    /// is pushed without a copy. `None`: the memory is foreign, or not (all) of one live object.
    ///
    /// # Safety
    /// For as long as the result or a clone of it is alive, nobody writes to these bytes: no [`BufMut`] covers any of
    /// them, and whoever else has the pointer only reads.
    pub unsafe fn share(&self, ptr: *const u8, len: usize) -> Option<Buf> {
        let object = self.find(ptr).filter(|object| len <= object.len)?;
        self.core().slots().add_reference(object.slot);
        // SAFETY: the reference was just added, and the bytes are in the object; that nobody writes is promised.
        Some(unsafe { Buf::from_raw(self.buffer(&object, len)) })
    }

    /// Takes back the reference that [`Buf::into_raw`] or [`BufMut::into_raw`] let go of: `len` bytes from `ptr`, which
    /// may be any address in the same object. `None`: the memory is foreign, or not (all) of one live object.
    ///
    /// # Safety
    /// One such reference is outstanding for each call that succeeds, and what [`Heap::share`] asks holds.
    pub unsafe fn adopt(&self, ptr: *const u8, len: usize) -> Option<Buf> {
        let object = self.find(ptr).filter(|object| len <= object.len)?;
        // SAFETY: the reference is the outstanding one that the caller speaks of, and the bytes are in the object;
        // that nobody writes is promised.
        Some(unsafe { Buf::from_raw(self.buffer(&object, len)) })
    }

    /// Like [`Heap::adopt`], for writing.
    ///
    /// # Safety
    /// One such reference is outstanding for each call that succeeds, and no other buffer covers any of these bytes.
    /// If the result is to grow, none covers any of the object.
    pub unsafe fn adopt_mut(&self, ptr: *const u8, len: usize) -> Option<BufMut> {
        let object = self.find(ptr).filter(|object| len <= object.len)?;
        // SAFETY: as for `adopt`; that the bytes are unique is the caller's promise.
        Some(unsafe { BufMut::from_raw(self.buffer(&object, len)) })
    }

    /// # Safety
    /// The caller owns a reference to `object`, and `len <= object.len`.
    unsafe fn buffer(&self, object: &Object, len: usize) -> RawBuf {
        // SAFETY: as the caller promises; `find` has taken `object` from this heap.
        unsafe {
            RawBuf::from_parts(self.pin(), object.slot, object.offset + object.capacity - object.len, len)
        }
    }
}

/// Poison: in debug builds every byte of the region that is in no live object has one value.
impl Core {
    /// Marks the memory of an object that is about to be free.
    #[inline]
    pub(super) fn poison(&self, object: &Loose) {
        if cfg!(debug_assertions) {
            let (memory, size) = self.memory(object);
            // SAFETY: the memory is in the region, and as the object is loose, nobody has a reference into it.
            unsafe { memory.write_bytes(POISON, size) };
        }
    }

    /// Panics if someone wrote to an object while it was free.
    #[inline]
    pub(super) fn check_poison(&self, object: &Loose) {
        const CLEAN: [u8; 4096] = [POISON; 4096];
        if !cfg!(debug_assertions) {
            return;
        }
        let (memory, size) = self.memory(object);
        // SAFETY: the memory is in the region and initialised; as the object is loose, nobody else uses it.
        let bytes = unsafe { slice::from_raw_parts(memory.as_ptr(), size) };
        // By the page, which is a quick comparison; byte by byte only where it fails.
        let Some(page) = bytes.chunks(CLEAN.len()).position(|chunk| *chunk != CLEAN[..chunk.len()]) else {
            return;
        };
        let start = page * CLEAN.len();
        let within = bytes[start..].iter().position(|&byte| byte != POISON).expect("the page differs");
        let offset = object.slot().offset() + start + within;
        panic!("byte {offset} of the region was written after it was freed, in an object of {size} bytes");
    }

    fn memory(&self, object: &Loose) -> (NonNull<u8>, usize) {
        let offset = object.slot().offset();
        // SAFETY: a slot is an index into the region, so its offset stays within it.
        let memory = unsafe { self.shared.region.base().add(offset) };
        (memory, self.blocks[object.slot().block()].object_size())
    }
}
