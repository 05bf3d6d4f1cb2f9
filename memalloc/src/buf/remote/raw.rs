//! The object behind a [`RemoteBuf`], and why it may cross threads.

use crate::Buf;
use crate::buf::RawBuf;
use crate::heap::{Pin, Shared};
use crate::superblock::Loose;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

/// A read-only buffer that can be sent to other threads; made by [`Buf::into_remote`].
pub struct RemoteBuf {
    shared: Arc<Shared>,
    object: ManuallyDrop<Loose>,
    /// `data..data + len` lies in the object.
    data: NonNull<u8>,
    len: u32,
}

// SAFETY: it is the only reference to its object, whose bytes nobody writes; the mapping and the slot words are shared
// behind an `Arc`, and the object goes home through an atomic list.
unsafe impl Send for RemoteBuf {}
// SAFETY: through `&RemoteBuf`, the bytes can only be read.
unsafe impl Sync for RemoteBuf {}

impl RemoteBuf {
    pub(super) fn from_parts(shared: Arc<Shared>, object: Loose, data: NonNull<u8>, len: u32) -> Self {
        Self { shared, object: ManuallyDrop::new(object), data, len }
    }

    pub(super) fn is_from(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// The buffer at home again, on the heap that `pin` pins and that it comes from.
    pub(super) fn into_buf(self, pin: &Pin) -> Buf {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped, so each of its fields that need it is taken out once, here.
        let (object, shared) =
            unsafe { (ManuallyDrop::take(&mut this.object), std::ptr::read(&this.shared)) };
        let start = this.data.addr().get() - shared.region.base().addr().get() - object.slot().offset();
        pin.count_back(object.slot());
        let mut raw = RawBuf::claim(pin, object, start + this.len as usize);
        raw.narrow(start, this.len as usize);
        // SAFETY: the object is held by this reference alone.
        unsafe { Buf::from_raw(raw) }
    }
}

impl Deref for RemoteBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the range is in the object, which is initialised and mapped for as long as `shared` is held; this
        // value is the only one that refers to it, and does not write.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }
}

impl Drop for RemoteBuf {
    fn drop(&mut self) {
        // SAFETY: taken once, here: `into_buf` keeps this from being run.
        let object = unsafe { ManuallyDrop::take(&mut self.object) };
        self.shared.returns.push(&self.shared.slots, object);
    }
}
