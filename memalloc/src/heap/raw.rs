//! How a heap stays alive, what its free memory holds, and how memory that went out as a bare pointer comes back.
//!
//! Invariant: a [`Core`] lives exactly as long as there is a [`Pin`] on it, or an object of it that is live on this thread.

use super::core::{Core, POISON};
use super::{Heap, Object};
use crate::buf::RawBuf;
use crate::superblock::{Loose, Superblock};
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

    /// The core, for one of its live objects.
    #[inline]
    pub(crate) fn as_raw(&self) -> NonNull<Core> {
        self.0
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
        // A pin is a value in memory, or was leaked by an instruction: there cannot be 2^64 of either.
        self.pins.set(self.pins.get() + 1);
        Self(self.0)
    }
}

impl Drop for Pin {
    #[inline]
    fn drop(&mut self) {
        self.pins.set(self.pins.get() - 1);
        if self.is_unused() {
            // SAFETY: nobody else has a pointer that may be followed.
            unsafe { destroy(self.0) };
        }
    }
}

/// Puts an object back; if it was the last thing that kept the core alive, the core goes.
///
/// # Safety
/// The object was live in this core until now, and the core is not used after this, except through a [`Pin`] or another
/// live object.
#[inline]
pub(crate) unsafe fn release(core: NonNull<Core>, object: Loose) {
    // SAFETY: as the object was live, so is the core.
    let this = unsafe { core.as_ref() };
    match this.put_quickly(object) {
        Ok(()) if this.counters.nothing_live_here() => {
            // SAFETY: nothing is live, so the core is alive only if there is a pin: that is what this finds out.
            unsafe { let_go(core) }
        }
        Ok(()) => {}
        // SAFETY: as promised by the caller.
        Err(object) => unsafe { release_slowly(core, object) },
    }
}

/// # Safety
/// As for [`release`].
#[cold]
#[inline(never)]
unsafe fn release_slowly(core: NonNull<Core>, object: Loose) {
    // SAFETY: as the object was live, so is the core.
    unsafe { core.as_ref() }.put(object);
    // SAFETY: as promised by the caller.
    unsafe { let_go(core) };
}

/// Ends the core if nothing keeps it alive.
///
/// # Safety
/// The core is alive, and not used after this, except through a [`Pin`] or a live object.
#[inline]
pub(crate) unsafe fn let_go(core: NonNull<Core>) {
    // SAFETY: the core is alive.
    if unsafe { core.as_ref() }.is_unused() {
        // SAFETY: there is no pin and no live object, and the caller does not use it.
        unsafe { destroy(core) };
    }
}

/// # Safety
/// The core is unused, and nobody has a pointer to it that may be followed.
#[cold]
#[inline(never)]
unsafe fn destroy(core: NonNull<Core>) {
    // SAFETY: it came from a box, in `Pin::new`, and nobody else is left.
    drop(unsafe { Box::from_raw(core.as_ptr()) });
}

impl Core {
    #[inline]
    fn is_unused(&self) -> bool {
        self.pins.get() == 0 && self.counters.nothing_live_here()
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
        self.core().slots.add_reference(object.slot);
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
            let size = self.object_size(object.slot());
            // SAFETY: a slot's object lies in the region; as it is loose, nobody has a reference into it.
            unsafe { self.base.add(object.slot().offset()).write_bytes(POISON, size) };
        }
    }

    /// Panics if someone wrote, while it was free, to the object that is taken next. Nothing has changed then.
    #[inline]
    pub(super) fn check_poison(&self, block: &Superblock) {
        const CLEAN: [u8; 4096] = [POISON; 4096];
        if !cfg!(debug_assertions) {
            return;
        }
        let (offset, size) = (block.peek().offset(), block.object_size());
        // SAFETY: a slot's object lies in the region, which is initialised; as it is free, nobody else uses it.
        let bytes = unsafe { slice::from_raw_parts(self.base.add(offset).as_ptr(), size) };
        // By the page, which is a quick comparison; byte by byte only where it fails.
        let Some(page) = bytes.chunks(CLEAN.len()).position(|chunk| *chunk != CLEAN[..chunk.len()]) else {
            return;
        };
        let start = page * CLEAN.len();
        let within = bytes[start..].iter().position(|&byte| byte != POISON).expect("the page differs");
        let at = offset + start + within;
        panic!("byte {at} of the region was written after it was freed, in an object of {size} bytes");
    }
}
