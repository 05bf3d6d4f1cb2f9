//! The rings' memory, which the kernel maps into this process.
//!
//! Invariants: every access lies inside the mapping, for offsets are checked once, when it is made, and indices are
//! masked. No reference to an entry is ever made: entries are copied in and out, the two indices and the flags are
//! atomics.

use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use rustix::io::{self, Errno};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::xdp::XdpRingOffset;

/// What a ring may hold.
///
/// # Safety
/// Any bytes are a valid value, and there is no padding.
pub(super) unsafe trait Entry: Copy {}

// SAFETY: any eight bytes are a number.
unsafe impl Entry for u64 {}

/// `struct xdp_desc`: some bytes of the UMEM.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Desc {
    /// Low 48 bits: the address that the buffer was given by. High 16 bits: how far behind it the bytes begin.
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) options: u32,
}

// SAFETY: three numbers of 8, 4 and 4 bytes, in this order, without padding.
unsafe impl Entry for Desc {}

/// One ring: two indices, flags, and a power of two of entries.
pub(super) struct SharedRing<T> {
    base: NonNull<u8>,
    len: usize,
    producer: usize,
    consumer: usize,
    flags: usize,
    entries: usize,
    mask: u32,
    _entry: PhantomData<T>,
}

impl<T: Entry> SharedRing<T> {
    /// Maps a ring of `size` entries, which `fd` has at `page_offset`, laid out as `layout` says.
    ///
    /// # Errors
    /// What the kernel says; [`Errno::INVAL`] for a layout or size that makes no sense.
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        page_offset: u64,
        layout: &XdpRingOffset,
        size: u32,
    ) -> io::Result<SharedRing<T>> {
        let at = |offset: u64, align: usize| {
            usize::try_from(offset)
                .ok()
                .filter(|at| *at < 1 << 20 && at.is_multiple_of(align))
                .ok_or(Errno::INVAL)
        };
        let word = align_of::<AtomicU32>();
        let (producer, consumer) = (at(layout.producer, word)?, at(layout.consumer, word)?);
        // A kernel without flags (before 5.4) has no need-wakeup either; binding with it fails there.
        let flags = at(layout.flags.ok_or(Errno::INVAL)?, word)?;
        let entries = at(layout.desc, align_of::<T>())?;
        if !size.is_power_of_two() || size > 1 << 24 {
            return Err(Errno::INVAL);
        }
        let len =
            [producer, consumer, flags].map(|at| at + size_of::<AtomicU32>()).into_iter().max().unwrap_or(0);
        let len = len.max(entries + size as usize * size_of::<T>());
        // SAFETY: a new mapping at an address of the kernel's choice: it takes no memory that anyone uses.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                fd,
                page_offset,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        Ok(SharedRing { base, len, producer, consumer, flags, entries, mask: size - 1, _entry: PhantomData })
    }

    pub(super) fn size(&self) -> u32 {
        self.mask + 1
    }

    #[inline]
    pub(super) fn producer(&self) -> &AtomicU32 {
        self.word(self.producer)
    }

    #[inline]
    pub(super) fn consumer(&self) -> &AtomicU32 {
        self.word(self.consumer)
    }

    #[inline]
    pub(super) fn flags(&self) -> &AtomicU32 {
        self.word(self.flags)
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `at` is one of the three offsets, aligned and inside the mapping, which lives as long as `self`; both
        // sides use the word as an atomic only.
        unsafe { AtomicU32::from_ptr(self.base.add(at).as_ptr().cast()) }
    }

    /// A copy of the entry that `index`, which counts on without end, falls on.
    #[inline]
    pub(super) fn read(&self, index: u32) -> T {
        // SAFETY: the masked index is below the size, so the entry lies in the mapping; any bytes are a `T`. If the
        // kernel broke its word and wrote at this moment, the copy would hold a mixture: a value, to be checked.
        unsafe { self.entry(index).read_volatile() }
    }

    /// Writes the entry that `index` falls on.
    #[inline]
    pub(super) fn write(&mut self, index: u32, value: T) {
        // SAFETY: as in `read`, and `self` is borrowed uniquely.
        unsafe { self.entry(index).write_volatile(value) }
    }

    #[inline]
    fn entry(&self, index: u32) -> *mut T {
        self.base.as_ptr().wrapping_add(self.entries).cast::<T>().wrapping_add((index & self.mask) as usize)
    }
}

impl<T> Drop for SharedRing<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` with this length, and no reference into it outlives `self`.
        // Its failure would leave it mapped, which harms nobody.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
