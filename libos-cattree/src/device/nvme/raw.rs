//! Memory that a device reads and writes, or that is a device: registers, queues, lists.
//!
//! Invariants: every access lies inside the window and is aligned, which is checked each time. No reference into a
//! window ever exists: bytes are copied in and out by volatile accesses, in the order in which they are written here.

use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{Ordering, fence};

use rustix::io::Result;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A mapping of one's own.
#[derive(Debug)]
pub(super) struct Window {
    base: NonNull<u8>,
    len: usize,
}

impl Window {
    /// Fresh memory: zeroes, resident, page by page.
    pub(super) fn of_memory(len: usize) -> Result<Window> {
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice: it takes no memory that anyone uses.
        let base =
            unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        Ok(Window::new(base.cast(), len))
    }

    /// Some of a device's registers.
    pub(super) fn of_device(device: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Window> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: as above.
        let base = unsafe { mmap(ptr::null_mut(), len, access, flags, device, offset) }?;
        Ok(Window::new(base.cast(), len))
    }

    fn new(base: *mut u8, len: usize) -> Window {
        Window { base: NonNull::new(base).expect("a successful mapping is not at zero"), len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where it begins in this process, for the kernel to find it.
    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    /// Reads, before anything that is read later.
    #[inline]
    pub(super) fn read32(&self, at: usize) -> u32 {
        // SAFETY: `place` checks that the four bytes lie in the mapping, aligned; any bytes are a number.
        let value = unsafe { self.place::<u32>(at).read_volatile() };
        fence(Ordering::Acquire);
        value
    }

    /// Writes, after everything that was written before.
    #[inline]
    pub(super) fn write32(&self, at: usize, value: u32) {
        fence(Ordering::Release);
        // SAFETY: as above; nobody holds a reference to them.
        unsafe { self.place::<u32>(at).write_volatile(value) };
    }

    /// Reads, before anything that is read later.
    #[inline]
    pub(super) fn read64(&self, at: usize) -> u64 {
        // SAFETY: as above, with eight bytes.
        let value = unsafe { self.place::<u64>(at).read_volatile() };
        fence(Ordering::Acquire);
        value
    }

    /// Writes some numbers, in no order.
    #[inline]
    pub(super) fn write64s<const N: usize>(&self, at: usize, values: &[u64; N]) {
        let first = self.place::<[u64; N]>(at).cast::<u64>();
        for (index, value) in values.iter().enumerate() {
            // SAFETY: `place` checks that all of them lie in the mapping, aligned; nobody holds a reference to them.
            unsafe { first.add(index).write_volatile(*value) };
        }
    }

    #[inline]
    fn place<T>(&self, at: usize) -> *mut T {
        let fits = self.len.checked_sub(size_of::<T>()).is_some_and(|last| at <= last);
        assert!(fits && at.is_multiple_of(align_of::<T>()), "{at} is no place in a window of {}", self.len);
        // SAFETY: `at` is not beyond the mapping, as just checked.
        unsafe { self.base.as_ptr().add(at) }.cast()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that was made at first; all accesses go through `self`, which ends here. Devices
        // have been kept from it by whoever told them of it.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
