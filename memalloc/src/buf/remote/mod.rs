//! Buffers that leave their thread: to be read elsewhere, and to come home.
//!
//! Invariant: a [`RemoteBuf`] holds its whole object; the heap at home neither finds it nor counts it as a pin, but as
//! live. Dropped anywhere, it goes on the owner's list of returns. It keeps the region mapped, not the heap alive: a
//! device is told that the region goes when the heap does.

mod raw;

use super::{Buf, RawBuf};
use crate::Heap;
use std::fmt;

pub use raw::RemoteBuf;

impl RemoteBuf {
    pub(super) fn new(buf: RawBuf) -> Result<Self, RawBuf> {
        let (shared, object, data, len) = buf.try_send_away()?;
        Ok(Self::from_parts(shared, object, data, len))
    }

    /// An ordinary buffer again.
    ///
    /// # Errors
    /// The buffer itself, when `heap` is not the one it comes from.
    pub fn into_local(self, heap: &Heap) -> Result<Buf, Self> {
        if !self.is_from(&heap.core().shared) {
            return Err(self);
        }
        Ok(self.into_buf(heap.pin()))
    }
}

impl AsRef<[u8]> for RemoteBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for RemoteBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::hex(f, "RemoteBuf", self)
    }
}
