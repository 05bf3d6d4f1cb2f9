//! Memory that the peer may write at any moment, and the one way to touch it.
//!
//! Invariants: no Rust reference leads to bytes of it, except to the atomic words of a lane. It is read and written by
//! atomic operations and by instructions that the compiler cannot look into; what was read is private and does not
//! change between its check and its use. No access leaves the mapping: every place here is computed from an index
//! modulo the number of slots and from a range that is checked against its slot, and what is mapped exists for as long
//! as the mapping, for [`Sealed`] is the proof that the file cannot shrink.

use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::super::FRONT;
use super::sealed::Sealed;
use super::sys::Owner;

/// A mapped file.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
    owner: Owner,
}

impl Mapping {
    fn new(file: &Sealed) -> rustix::io::Result<Mapping> {
        let (len, flags) = (file.bytes(), MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a new mapping where the kernel chooses touches no memory of ours.
        let base = unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, file, 0)? };
        let mapping = NonNull::new(base.cast()).map(|base| Mapping { base, len, owner: Owner::me() });
        let mapping = mapping.ok_or(rustix::io::Errno::NOMEM)?;
        // A child of this process would speak to the peer in its parent's name.
        // SAFETY: the advice changes nothing for this process.
        unsafe { madvise(base, len, Advice::LinuxDontFork)? };
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.owner.is_me() {
            // SAFETY: the mapping of this base and length is ours, and whoever refers to it holds the `Rc` around us.
            // In a child of fork it is not there, for which reason it is left alone. There is no failure to heed.
            let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}

/// Which of a lane's words, each on cache lines of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    /// How many packets were taken out. Written by who receives.
    Taken = 0,
    /// Who receives sleeps. Set by itself, cleared by either.
    Sleeps = 128,
    /// Who sends sleeps, and waits for room. Set by itself, cleared by either.
    Waits = 256,
}

const SLOTS_AT: usize = 512;
const SLOT_BYTES: usize = 256;
/// The word in front of a slot.
const MARK_BYTES: usize = 8;

/// Bytes of a packet that lie in its slot.
pub(super) const INLINE: usize = SLOT_BYTES - MARK_BYTES;
/// Bytes of the page that goes with each slot, where the payload of longer packets lies.
pub(super) const PAGE: usize = 4096;

/// Bytes of a lane of `1 << log2` slots.
pub(super) const fn lane_bytes(log2: u8) -> usize {
    pages_at(log2) + (PAGE << log2)
}

const fn pages_at(log2: u8) -> usize {
    (SLOTS_AT + (SLOT_BYTES << log2)).next_multiple_of(PAGE)
}

/// Where in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Area {
    /// In the slot itself, [`INLINE`] bytes.
    Slot,
    /// In its page, [`PAGE`] bytes.
    Page,
}

/// The memory of one direction: words, slots, and a page for each slot.
#[derive(Debug)]
pub(super) struct Lane {
    base: NonNull<u8>,
    /// From the base to the pages.
    pages_at: usize,
    mask: u32,
    /// Keeps the memory mapped.
    _mapping: Rc<Mapping>,
}

impl Lane {
    /// Maps a file of two lanes.
    pub(super) fn map_pair(file: &Sealed, log2: u8) -> rustix::io::Result<[Lane; 2]> {
        if file.bytes() != 2 * lane_bytes(log2) {
            return Err(rustix::io::Errno::INVAL);
        }
        let mapping = Rc::new(Mapping::new(file)?);
        Ok([0, lane_bytes(log2)].map(|at| Lane {
            // SAFETY: the file has two lanes, so both begin within the mapping.
            base: unsafe { mapping.base.add(at) },
            pages_at: pages_at(log2),
            mask: (1 << log2) - 1,
            _mapping: mapping.clone(),
        }))
    }

    /// How many slots there are.
    #[inline]
    pub(super) fn slots(&self) -> u32 {
        self.mask + 1
    }

    #[inline]
    fn word(&self, which: Word) -> &AtomicU32 {
        // SAFETY: the words lie in front of the slots, aligned to 128 in a lane that is aligned to pages, and are mapped
        // for as long as `self`; all access to them in this process is atomic.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(which as usize).cast()) }
    }

    /// A word; what the peer wrote before it is visible after this.
    #[inline]
    pub(super) fn load(&self, which: Word) -> u32 {
        self.word(which).load(Ordering::Acquire)
    }

    /// Sets a word; whoever sees it sees what was written before, and all that was read before is done.
    #[inline]
    pub(super) fn store(&self, which: Word, value: u32) {
        self.word(which).store(value, Ordering::Release);
    }

    /// Clears a word; returns what it was.
    pub(super) fn take(&self, which: Word) -> u32 {
        self.word(which).swap(0, Ordering::SeqCst)
    }

    #[inline]
    fn slot(&self, index: u32) -> usize {
        SLOTS_AT + (index & self.mask) as usize * SLOT_BYTES
    }

    #[inline]
    fn mark_of(&self, index: u32) -> &AtomicU64 {
        // SAFETY: a slot begins within the lane, which is mapped for as long as `self`, at a multiple of 256; all access to its
        // first eight bytes in this process is atomic.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(self.slot(index)).cast()) }
    }

    /// The mark of a slot; what the peer wrote before it is visible after this.
    #[inline]
    pub(super) fn mark(&self, index: u32) -> u64 {
        self.mark_of(index).load(Ordering::Acquire)
    }

    /// Marks a slot; whoever sees it sees what was written before.
    #[inline]
    pub(super) fn set_mark(&self, index: u32, mark: u64) {
        self.mark_of(index).store(mark, Ordering::Release);
    }

    /// Where `len` bytes from `at` on are, if all of them lie in the area.
    #[inline]
    fn place(&self, index: u32, area: Area, at: usize, len: usize) -> Option<NonNull<u8>> {
        let (begin, size) = match area {
            Area::Slot => (self.slot(index) + MARK_BYTES, INLINE),
            Area::Page => (self.pages_at + (index & self.mask) as usize * PAGE, PAGE),
        };
        if len > size || at > size - len {
            return None;
        }
        // SAFETY: the area lies in the lane, which is mapped, and `at` is within the area.
        Some(unsafe { self.base.add(begin + at) })
    }

    /// The first bytes of a slot.
    #[inline]
    pub(super) fn front(&self, index: u32) -> [u8; FRONT] {
        const { assert!(FRONT <= INLINE) };
        let mut front = [0; FRONT];
        self.read(index, Area::Slot, 0, &mut front);
        front
    }

    /// Fills `into` from `at` on. Nothing is done, and false returned, if it does not lie in the area.
    #[inline]
    pub(super) fn read(&self, index: u32, area: Area, at: usize, into: &mut [u8]) -> bool {
        let Some(from) = self.place(index, area, at, into.len()) else { return false };
        // SAFETY: `place` says that `into.len()` bytes are mapped at `from`; `into` is ours alone and elsewhere.
        unsafe { copy::bytes(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        true
    }

    /// Writes `from` at `at`. Nothing is done, and false returned, if it does not lie in the area.
    #[inline]
    pub(super) fn write(&self, index: u32, area: Area, at: usize, from: &[u8]) -> bool {
        let Some(into) = self.place(index, area, at, from.len()) else { return false };
        // SAFETY: `place` says that `from.len()` bytes are mapped at `into`; `from` is ours and elsewhere.
        unsafe { copy::bytes(from.as_ptr(), into.as_ptr(), from.len()) };
        true
    }
}

/// Copies that the compiler neither repeats nor presumes anything about, so that either side may be shared.
#[cfg(target_arch = "x86_64")]
mod copy {
    use std::arch::asm;

    /// Moves sixteen bytes between memory and a register, in the encoding that the rest of the code is in: mixing the
    /// two costs time.
    #[cfg(target_feature = "avx")]
    macro_rules! movdqu {
        ($operands:literal) => {
            concat!("vmovdqu ", $operands)
        };
    }
    #[cfg(not(target_feature = "avx"))]
    macro_rules! movdqu {
        ($operands:literal) => {
            concat!("movdqu ", $operands)
        };
    }

    /// From how many bytes on the processor's own loop is the quickest.
    const LONG: usize = 512;

    /// # Safety
    /// `len` bytes can be read at `from` and written at `into`, and the two do not overlap.
    #[inline]
    pub(super) unsafe fn bytes(from: *const u8, into: *mut u8, len: usize) {
        // SAFETY: every place is one of a whole chunk within `len` bytes, which the caller vouches for. The last chunk may overlap
        // the one before it.
        unsafe {
            if len >= 16 {
                if len >= LONG {
                    return long(from, into, len);
                }
                let mut at = 0;
                while at + 64 < len {
                    sixty_four(from.add(at), into.add(at));
                    at += 64;
                }
                while at + 16 < len {
                    sixteen(from.add(at), into.add(at));
                    at += 16;
                }
                sixteen(from.add(len - 16), into.add(len - 16));
            } else if len >= 8 {
                eight(from, into);
                eight(from.add(len - 8), into.add(len - 8));
            } else if len >= 4 {
                four(from, into);
                four(from.add(len - 4), into.add(len - 4));
            } else {
                (0..len).for_each(|at| into.add(at).write_volatile(from.add(at).read_volatile()));
            }
        }
    }

    /// # Safety
    /// As of [`bytes`].
    #[inline]
    unsafe fn long(from: *const u8, into: *mut u8, len: usize) {
        // SAFETY: the instruction reads and writes what the caller vouches for; the direction flag is clear, as the ABI says.
        unsafe {
            asm!("rep movsb", inout("rsi") from => _, inout("rdi") into => _, inout("rcx") len => _,
                options(nostack, preserves_flags));
        }
    }

    /// # Safety
    /// As of [`bytes`], for 64.
    #[inline]
    unsafe fn sixty_four(from: *const u8, into: *mut u8) {
        // SAFETY: the instructions read and write the bytes that the caller vouches for, at any alignment.
        unsafe {
            asm!(
                movdqu!("{a}, xmmword ptr [{from}]"),
                movdqu!("{b}, xmmword ptr [{from} + 16]"),
                movdqu!("{c}, xmmword ptr [{from} + 32]"),
                movdqu!("{d}, xmmword ptr [{from} + 48]"),
                movdqu!("xmmword ptr [{into}], {a}"),
                movdqu!("xmmword ptr [{into} + 16], {b}"),
                movdqu!("xmmword ptr [{into} + 32], {c}"),
                movdqu!("xmmword ptr [{into} + 48], {d}"),
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                from = in(reg) from, into = in(reg) into, options(nostack, preserves_flags));
        }
    }

    /// # Safety
    /// As of [`bytes`], for 16.
    #[inline]
    unsafe fn sixteen(from: *const u8, into: *mut u8) {
        // SAFETY: as in `sixty_four`.
        unsafe {
            asm!(movdqu!("{a}, xmmword ptr [{from}]"), movdqu!("xmmword ptr [{into}], {a}"),
                a = out(xmm_reg) _, from = in(reg) from, into = in(reg) into, options(nostack, preserves_flags));
        }
    }

    /// # Safety
    /// As of [`bytes`], for 8.
    #[inline]
    unsafe fn eight(from: *const u8, into: *mut u8) {
        // SAFETY: as in `sixty_four`.
        unsafe {
            asm!("mov {a}, qword ptr [{from}]", "mov qword ptr [{into}], {a}",
                a = out(reg) _, from = in(reg) from, into = in(reg) into, options(nostack, preserves_flags));
        }
    }

    /// # Safety
    /// As of [`bytes`], for 4.
    #[inline]
    unsafe fn four(from: *const u8, into: *mut u8) {
        // SAFETY: as in `sixty_four`.
        unsafe {
            asm!("mov {a:e}, dword ptr [{from}]", "mov dword ptr [{into}], {a:e}",
                a = out(reg) _, from = in(reg) from, into = in(reg) into, options(nostack, preserves_flags));
        }
    }
}

/// The same where there are no such instructions: volatile bytes.
#[cfg(not(target_arch = "x86_64"))]
mod copy {
    /// # Safety
    /// `len` bytes can be read at `from` and written at `into`, and the two do not overlap.
    #[inline]
    pub(super) unsafe fn bytes(from: *const u8, into: *mut u8, len: usize) {
        // SAFETY: every place lies within `len` bytes, which the caller vouches for.
        unsafe { (0..len).for_each(|at| into.add(at).write_volatile(from.add(at).read_volatile())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_exact_at_every_length_and_alignment() {
        let source: Vec<u8> = (0..1200_u32).map(|at| (at * 31 % 251) as u8).collect();
        for len in (0..200).chain([511, 512, 513, 1000]) {
            for shift in [0, 1, 7] {
                let mut target = vec![0xEE; len + 32];
                // SAFETY: both ranges lie within their vectors.
                unsafe { copy::bytes(source.as_ptr().add(shift), target.as_mut_ptr().add(9 + shift), len) };
                assert_eq!(target[9 + shift..][..len], source[shift..][..len], "{len} bytes");
                assert!(
                    target[..9 + shift].iter().chain(&target[9 + shift + len..]).all(|&byte| byte == 0xEE)
                );
            }
        }
    }

    #[test]
    fn nothing_lies_outside_its_area_or_over_another() {
        let file = Sealed::create(2 * lane_bytes(2)).unwrap();
        let lanes = Lane::map_pair(&file, 2).unwrap();
        for (number, lane) in lanes.iter().enumerate() {
            for index in 0..4_u32 {
                let fill = (number * 4) as u8 + index as u8 + 1;
                assert!(lane.write(index, Area::Slot, 0, &[fill; INLINE]));
                assert!(
                    lane.write(index.wrapping_sub(4), Area::Page, 0, &[fill | 0x80; PAGE]),
                    "index modulo slots"
                );
                lane.set_mark(index, u64::from(fill) << 40);
            }
            lane.store(Word::Taken, 1);
            lane.store(Word::Sleeps, 2);
            lane.store(Word::Waits, 3);
        }
        for (number, lane) in lanes.iter().enumerate() {
            for index in 0..4_u32 {
                let fill = (number * 4) as u8 + index as u8 + 1;
                let (mut slot, mut page) = ([0; INLINE], [0; PAGE]);
                assert!(
                    lane.read(index, Area::Slot, 0, &mut slot) && lane.read(index, Area::Page, 0, &mut page)
                );
                assert!(slot == [fill; INLINE] && page == [fill | 0x80; PAGE]);
                assert_eq!(lane.mark(index), u64::from(fill) << 40);
                let mut byte = [0];
                for (area, size) in [(Area::Slot, INLINE), (Area::Page, PAGE)] {
                    assert!(lane.read(index, area, size - 1, &mut byte));
                    assert!(
                        !lane.read(index, area, size, &mut byte)
                            && !lane.write(index, area, usize::MAX, &byte)
                    );
                    assert!(lane.write(index, area, size, &[]));
                }
                assert!(!lane.write(index, Area::Slot, 0, &[0; INLINE + 1]));
            }
            assert_eq!([Word::Taken, Word::Sleeps, Word::Waits].map(|word| lane.load(word)), [1, 2, 3]);
            assert_eq!((lane.take(Word::Waits), lane.load(Word::Waits)), (3, 0));
        }
        assert!(Lane::map_pair(&file, 3).is_err());
    }
}
