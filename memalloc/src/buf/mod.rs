//! Buffers: references to ranges of objects. [`BufMut`] is unique and writable, [`Buf`] shared and read-only.
//!
//! Invariant: bytes that a `Buf` covers do not change while it lives; an object is freed with the last buffer that
//! refers to it, whichever that is. A buffer is 24 bytes; cloning and slicing it change one word beside.
//!
//! | file | what it holds |
//! |---|---|
//! | `raw` | the counted reference that both kinds are |
//! | `unique` | `BufMut` |
//! | `pool` | buffers set aside for a device |
//! | `remote` | buffers on their way through other threads |

mod pool;
mod raw;
mod remote;
mod unique;

use std::fmt;
use std::ops::{Bound, Range, RangeBounds};
use std::ptr::NonNull;

pub use pool::Pool;
pub(crate) use raw::RawBuf;
pub use remote::RemoteBuf;
pub use unique::BufMut;

/// A shared, read-only buffer.
///
/// It cannot be written:
///
/// ```compile_fail,E0594
/// # let heap = demi_memalloc::Heap::new(&Default::default()).unwrap();
/// let mut buf = heap.copy_from(b"in flight").unwrap();
/// buf[0] = b'X';
/// ```
///
/// and does not leave its thread, except as a [`RemoteBuf`]:
///
/// ```compile_fail,E0277
/// # let heap = demi_memalloc::Heap::new(&Default::default()).unwrap();
/// let buf = heap.copy_from(b"at home").unwrap();
/// std::thread::spawn(move || drop(buf));
/// ```
pub struct Buf {
    raw: RawBuf,
}

const _: () = {
    assert!(size_of::<Buf>() == 24 && size_of::<BufMut>() == 24);
    assert!(size_of::<Option<Buf>>() == 24 && size_of::<Option<BufMut>>() == 24);
};

impl Buf {
    /// No bytes, of no heap.
    #[inline]
    pub const fn empty() -> Self {
        Self { raw: RawBuf::EMPTY }
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

    /// Some of the bytes, as a buffer that keeps the object just as well.
    ///
    /// # Panics
    /// When the range is not within the buffer.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len(),
        };
        assert!(start <= end && end <= self.len(), "{start}..{end} is not within {} bytes", self.len());
        let mut slice = self.clone();
        slice.raw.narrow(start, end - start);
        slice
    }

    /// Splits off the first `count` bytes. Both parts keep the object.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn split_to(&mut self, count: usize) -> Self {
        let front = self.slice(..count);
        self.advance(count);
        front
    }

    /// Drops the first `count` bytes.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "cannot advance {count} of {} bytes", self.len());
        self.raw.narrow(count, self.len() - count);
    }

    /// Drops all but some of the bytes.
    ///
    /// # Panics
    /// When the range is not within the buffer.
    #[inline(always)]
    pub fn keep(&mut self, range: Range<usize>) {
        self.raw.keep(range);
    }

    /// Drops all but the first `len` bytes. Does nothing if there are no more.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.raw.set_len(len.min(self.len()));
    }

    /// Writable again.
    ///
    /// # Errors
    /// The buffer itself, when others refer to its object.
    pub fn try_into_mut(self) -> Result<BufMut, Self> {
        if self.raw.is_unique() { Ok(BufMut { raw: self.raw }) } else { Err(self) }
    }

    /// Ready to go to another thread.
    ///
    /// # Errors
    /// The buffer itself, when others refer to its object, or when it is [`Buf::empty`].
    pub fn into_remote(self) -> Result<RemoteBuf, Self> {
        RemoteBuf::new(self.raw).map_err(|raw| Self { raw })
    }

    /// Where the bytes begin in the region; 0 for [`Buf::empty`].
    #[inline]
    pub fn offset(&self) -> usize {
        self.raw.offset()
    }

    /// Where the object begins in the region that the bytes lie in; `None` for [`Buf::empty`]. Of a buffer without bytes,
    /// too, for which an address would not tell.
    #[inline]
    pub fn object_offset(&self) -> Option<usize> {
        self.raw.object_offset()
    }

    /// Whether both refer to the same object, with whatever ranges.
    pub fn shares_object_with(&self, other: &Self) -> bool {
        self.raw.same_object(&other.raw)
    }

    /// Lets go of the buffer, but not of its reference: [`Heap::adopt`](crate::Heap::adopt) takes it back.
    /// An empty buffer at the end of its object points behind it, where another may begin: adopt by an address within.
    pub fn into_raw(self) -> NonNull<u8> {
        self.raw.into_parts().2
    }
}

impl RawBuf {
    #[inline]
    fn offset(&self) -> usize {
        self.core().map_or(0, |core| self.data().addr().get() - core.base.addr().get())
    }
}

impl Clone for Buf {
    #[inline]
    fn clone(&self) -> Self {
        Self { raw: self.raw.another() }
    }
}

impl Default for Buf {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<BufMut> for Buf {
    fn from(buf: BufMut) -> Self {
        buf.freeze()
    }
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, "Buf", self)
    }
}

/// The length and the first bytes.
fn hex(f: &mut fmt::Formatter<'_>, name: &str, bytes: &[u8]) -> fmt::Result {
    let shown = &bytes[..bytes.len().min(16)];
    write!(f, "{name}({} B: {}", bytes.len(), shown.escape_ascii())?;
    f.write_str(if shown.len() < bytes.len() { "…)" } else { ")" })
}
