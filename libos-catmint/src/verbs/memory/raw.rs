//! Memory outside the heap that a device, and through it a peer, may read and write at any moment.
//!
//! Invariants: every access lies inside the mapping, which is checked each time. No reference into it ever exists: bytes
//! and words are moved by atomic accesses, so nothing that a peer does at the same time is undefined here.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rustix::io::Result;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// A mapping of one's own.
#[derive(Debug)]
pub(in crate::verbs) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Fresh memory: zeroes, resident, page by page.
    pub(in crate::verbs) fn new(len: usize) -> Result<Mapping> {
        let len = len.max(1).next_multiple_of(4096);
        // SAFETY: a new mapping at an address of the kernel's choice: it takes no memory that anyone uses.
        let base = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::POPULATE,
            )
        }?;
        let base = NonNull::new(base.cast()).expect("a successful mapping is not at zero");
        Ok(Mapping { base, len })
    }

    pub(in crate::verbs) fn len(&self) -> usize {
        self.len
    }

    pub(in crate::verbs) fn base(&self) -> *const u8 {
        self.base.as_ptr()
    }

    /// Where a byte lies in this process, as devices are told.
    #[inline]
    pub(in crate::verbs) fn address(&self, at: usize) -> u64 {
        self.base.as_ptr().expose_provenance() as u64 + at as u64
    }

    /// The aligned word there.
    #[inline]
    pub(in crate::verbs) fn word(&self, at: usize) -> Option<&AtomicU64> {
        let fits = self.len.checked_sub(8).is_some_and(|last| at <= last) && at.is_multiple_of(8);
        // SAFETY: the eight bytes lie in the mapping, which `self` keeps, aligned, as it begins at a page; all accesses to
        // the mapping are atomic.
        fits.then(|| unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) })
    }

    #[inline]
    fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.len, "{at} is no place in a mapping of {}", self.len);
        // SAFETY: the byte lies in the mapping, as just checked; otherwise as above.
        unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(at)) }
    }

    fn has(&self, at: usize, len: usize) -> bool {
        at.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Copies in, aligned words whole. False: out of range.
    #[inline]
    pub(in crate::verbs) fn copy_in(&self, mut at: usize, mut bytes: &[u8]) -> bool {
        if !self.has(at, bytes.len()) {
            return false;
        }
        while let Some((&first, rest)) = bytes.split_first() {
            match (bytes.first_chunk::<8>(), self.word(at)) {
                (Some(chunk), Some(word)) => {
                    word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
                    (at, bytes) = (at + 8, &bytes[8..]);
                }
                _ => {
                    self.byte(at).store(first, Ordering::Relaxed);
                    (at, bytes) = (at + 1, rest);
                }
            }
        }
        true
    }

    /// Copies out, aligned words whole. False: out of range.
    pub(in crate::verbs) fn copy_out(&self, mut at: usize, mut out: &mut [u8]) -> bool {
        if !self.has(at, out.len()) {
            return false;
        }
        while !out.is_empty() {
            let step = match (out.first_chunk_mut::<8>(), self.word(at)) {
                (Some(chunk), Some(word)) => {
                    *chunk = word.load(Ordering::Relaxed).to_ne_bytes();
                    8
                }
                _ => {
                    out[0] = self.byte(at).load(Ordering::Relaxed);
                    1
                }
            };
            at += step;
            out = &mut out[step..];
        }
        true
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that was made at first; all accesses go through `self`, which ends here. Devices
        // have been kept from it by whoever told them of it.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_wherever_they_lie() {
        let mapping = Mapping::new(100).expect("there is memory");
        let bytes: Vec<u8> = (1..=40).collect();
        for at in 0..9 {
            assert!(mapping.copy_in(at, &bytes));
            let mut out = [0; 40];
            assert!(mapping.copy_out(at, &mut out));
            assert_eq!(out[..], bytes[..]);
            assert!(mapping.copy_out(at + 3, &mut out[..5]));
            assert_eq!(out[..5], bytes[3..8]);
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let mapping = Mapping::new(4096).expect("there is memory");
        assert!(
            mapping.copy_in(4095, &[1])
                && !mapping.copy_in(4095, &[1, 2])
                && !mapping.copy_in(usize::MAX, &[1])
        );
        assert!(!mapping.copy_out(4096, &mut [0]) && mapping.copy_out(4096, &mut []));
        assert!(mapping.word(4088).is_some() && mapping.word(4089).is_none() && mapping.word(4096).is_none());
        assert!(mapping.word(4).is_none());
    }
}
