//! Memory that a peer may write at any moment, and the one way to touch it.
//!
//! Invariants: no Rust reference leads to bytes of it, except to the atomics of a ring. It is read and written by atomic
//! operations and by instructions that the compiler cannot look into; what was read is private and does
//! not change between its check and its use. No access leaves the mapping, whatever a peer says: offsets and lengths are
//! checked here against what is mapped, and what is mapped exists for as long as the mapping does, for [`SealedFile`]
//! is the proof that the file cannot shrink.

use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::protocol::MAX_RING_LOG2;
use super::region::SealedFile;

/// Bytes of a region up to which all its pages are made resident when it is mapped: first touches cost microseconds.
/// A peer may announce more, which then becomes resident as it is used.
const POPULATE_BYTES: usize = 32 << 20;

/// A mapped region.
#[derive(Debug)]
pub(super) struct Shared {
    base: NonNull<u8>,
    len: usize,
}

impl Shared {
    /// Maps the whole file.
    pub(super) fn map(file: &SealedFile) -> rustix::io::Result<Shared> {
        let len = file.bytes();
        let mut flags = MapFlags::SHARED;
        if len <= POPULATE_BYTES {
            flags |= MapFlags::POPULATE;
        }
        // SAFETY: a new mapping where the kernel chooses touches no memory of ours.
        let base = unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, file, 0)? };
        let base = NonNull::new(base.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Shared { base, len })
    }

    /// Where `len` bytes at `offset` begin, if all of them are mapped.
    #[inline]
    fn locate(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is at most `self.len`, so the sum stays within the mapping or one past its end.
        Some(unsafe { self.base.add(offset) })
    }

    /// Whether `len` bytes at `offset` are mapped.
    #[inline]
    pub(super) fn holds(&self, offset: usize, len: usize) -> bool {
        self.locate(offset, len).is_some()
    }

    /// Fills `into` from `offset`; false, and nothing done, if it does not lie in the region.
    #[inline]
    #[must_use]
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let Some(from) = self.locate(offset, into.len()) else { return false };
        // SAFETY: `locate` says that `into.len()` bytes are mapped at `from`; `into` is ours alone and elsewhere.
        unsafe { copy::from_shared(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        true
    }

    /// Writes `from` at `offset`; false, and nothing done, if it does not lie in the region.
    #[inline]
    #[must_use]
    pub(super) fn write(&self, offset: usize, from: &[u8]) -> bool {
        let Some(into) = self.locate(offset, from.len()) else { return false };
        // SAFETY: `locate` says that `from.len()` bytes are mapped at `into`; `from` is ours and elsewhere.
        unsafe { copy::to_shared(from.as_ptr(), into.as_ptr(), from.len()) };
        true
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping of this base and length is ours, and whoever refers to it holds the `Rc` around us.
        // Nothing can be done about a failure, and there is none for a mapping that exists.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Which of a ring's two indices. The client writes `Head`, the server `Tail`, on rings of both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Index {
    Head,
    Tail,
}

/// A descriptor, copied out of a ring or to be copied into one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Desc {
    /// Bit 0: the frame goes on in the next descriptor.
    pub(super) flags: u16,
    pub(super) region: u16,
    /// Bytes of the frame in this buffer; in a buffer that is offered, how many there can be.
    pub(super) length: u32,
    /// Where the buffer begins in its region, in bytes.
    pub(super) offset: u32,
    pub(super) metadata: u32,
}

impl Desc {
    #[inline]
    fn words(self) -> [u64; 2] {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[2..4].copy_from_slice(&self.region.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.offset.to_ne_bytes());
        bytes[12..].copy_from_slice(&self.metadata.to_ne_bytes());
        let (low, high) = bytes.split_at(8);
        [low, high].map(|half| u64::from_ne_bytes(half.try_into().expect("half of sixteen bytes")))
    }

    #[inline]
    fn from_words([low, high]: [u64; 2]) -> Desc {
        let ([f0, f1, r0, r1, length @ ..], second) = (low.to_ne_bytes(), high.to_ne_bytes());
        let [o0, o1, o2, o3, metadata @ ..] = second;
        Desc {
            flags: u16::from_ne_bytes([f0, f1]),
            region: u16::from_ne_bytes([r0, r1]),
            length: u32::from_ne_bytes(length),
            offset: u32::from_ne_bytes([o0, o1, o2, o3]),
            metadata: u32::from_ne_bytes(metadata),
        }
    }
}

const COOKIE_AT: usize = 0;
const FLAGS_AT: usize = 4;
const HEAD_AT: usize = 6;
const TAIL_AT: usize = 64;
const DESCS_AT: usize = 128;
const DESC_BYTES: usize = 16;

/// Bytes of a ring of `1 << log2` descriptors.
pub(super) const fn ring_bytes(log2: u8) -> usize {
    DESCS_AT + (DESC_BYTES << log2)
}

/// A ring in a region.
#[derive(Debug)]
pub(super) struct RingMemory {
    base: NonNull<u8>,
    mask: u16,
    /// Keeps the memory mapped.
    _region: Rc<Shared>,
}

impl RingMemory {
    /// The ring of `1 << log2` descriptors at `offset`. `None`: it does not lie in the region, or at no multiple of 8.
    pub(super) fn new(region: &Rc<Shared>, offset: usize, log2: u8) -> Option<RingMemory> {
        if log2 > MAX_RING_LOG2 {
            return None;
        }
        let base = region.locate(offset, ring_bytes(log2))?;
        let mask = (1 << log2) - 1;
        (base.addr().get() % align_of::<AtomicU64>() == 0).then(|| RingMemory {
            base,
            mask,
            _region: region.clone(),
        })
    }

    /// Descriptors in the ring.
    #[inline]
    pub(super) fn size(&self) -> u16 {
        self.mask + 1
    }

    /// An index modulo the size.
    #[inline]
    pub(super) fn slot(&self, index: u16) -> u16 {
        index & self.mask
    }

    #[inline]
    fn atomic_u16(&self, at: usize) -> &AtomicU16 {
        debug_assert!(at + 2 <= DESCS_AT);
        // SAFETY: `at` is even and one of the header's, so the two bytes lie in the ring, which is mapped for as long
        // as `self`, and are aligned; all access to them in this process is atomic.
        unsafe { AtomicU16::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    #[inline]
    fn index(&self, which: Index) -> &AtomicU16 {
        self.atomic_u16(match which {
            Index::Head => HEAD_AT,
            Index::Tail => TAIL_AT,
        })
    }

    /// The peer's index; what it wrote before it is visible after this.
    #[inline]
    pub(super) fn load(&self, which: Index) -> u16 {
        self.index(which).load(Ordering::Acquire)
    }

    /// Sets an index; whoever sees it sees what was written before.
    #[inline]
    pub(super) fn store(&self, which: Index, value: u16) {
        self.index(which).store(value, Ordering::Release);
    }

    /// As [`load`](RingMemory::load), and in one order with flags and indices that are stored in order.
    pub(super) fn load_in_order(&self, which: Index) -> u16 {
        self.index(which).load(Ordering::SeqCst)
    }

    /// As [`store`](RingMemory::store), and in one order with flags and indices that are loaded in order.
    #[inline]
    pub(super) fn store_in_order(&self, which: Index, value: u16) {
        self.index(which).store(value, Ordering::SeqCst);
    }

    #[inline]
    pub(super) fn flags(&self) -> u16 {
        self.atomic_u16(FLAGS_AT).load(Ordering::SeqCst)
    }

    #[inline]
    pub(super) fn set_flags(&self, flags: u16) {
        self.atomic_u16(FLAGS_AT).store(flags, Ordering::SeqCst);
    }

    fn cookie_place(&self) -> &AtomicU32 {
        // SAFETY: the ring begins with the cookie, is aligned to 8 and mapped for as long as `self`; all access to
        // these four bytes in this process is atomic.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(COOKIE_AT).cast()) }
    }

    pub(super) fn cookie(&self) -> u32 {
        self.cookie_place().load(Ordering::Relaxed)
    }

    pub(super) fn set_cookie(&self, cookie: u32) {
        self.cookie_place().store(cookie, Ordering::Relaxed);
    }

    /// The halves of a descriptor. Any index names one: it counts modulo the size.
    #[inline]
    fn halves(&self, index: u16) -> [&AtomicU64; 2] {
        let at = DESCS_AT + usize::from(self.slot(index)) * DESC_BYTES;
        // SAFETY: the slot is below the size, so the sixteen bytes lie in the ring, which is mapped for as long as
        // `self`, and are aligned to 8 as the ring is; all access to them in this process is atomic.
        unsafe {
            let first = self.base.as_ptr().add(at).cast::<u64>();
            [AtomicU64::from_ptr(first), AtomicU64::from_ptr(first.add(1))]
        }
    }

    /// A copy of a descriptor.
    #[inline]
    pub(super) fn desc(&self, index: u16) -> Desc {
        Desc::from_words(self.halves(index).map(|half| half.load(Ordering::Relaxed)))
    }

    /// Replaces a descriptor.
    #[inline]
    pub(super) fn set_desc(&self, index: u16, desc: Desc) {
        for (half, word) in self.halves(index).into_iter().zip(desc.words()) {
            half.store(word, Ordering::Relaxed);
        }
    }

    /// Replaces flags, region and length; where the buffer lies in its region stays as it is.
    #[inline]
    pub(super) fn set_desc_filling(&self, index: u16, desc: Desc) {
        let [first, _] = self.halves(index);
        first.store(desc.words()[0], Ordering::Relaxed);
    }
}

/// Copies whose shared side the compiler neither repeats nor presumes anything about.
#[cfg(target_arch = "x86_64")]
mod copy {
    use std::arch::asm;
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};

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

    const CHUNK: usize = size_of::<__m128i>();
    const LINE: usize = 4 * CHUNK;

    /// # Safety
    /// `len` bytes can be read at `from` and written at `into`, and the two do not overlap.
    #[inline]
    pub(super) unsafe fn from_shared(from: *const u8, into: *mut u8, len: usize) {
        let put = |at: usize, chunk: __m128i| {
            // SAFETY: called below with places of whole chunks within `len` bytes, which the caller vouches for.
            unsafe { _mm_storeu_si128(into.add(at).cast(), chunk) }
        };
        // SAFETY: every place is one of a whole line, chunk or byte within `len` bytes, which the caller vouches for.
        unsafe {
            if len < CHUNK {
                (0..len).for_each(|at| into.add(at).write(from.add(at).read_volatile()));
                return;
            }
            let mut at = 0;
            while at + LINE < len {
                let [a, b, c, d] = load_line(from.add(at));
                put(at, a);
                put(at + CHUNK, b);
                put(at + 2 * CHUNK, c);
                put(at + 3 * CHUNK, d);
                at += LINE;
            }
            while at + CHUNK < len {
                put(at, load(from.add(at)));
                at += CHUNK;
            }
            // The last chunk may overlap the one before it.
            put(len - CHUNK, load(from.add(len - CHUNK)));
        }
    }

    /// # Safety
    /// `len` bytes can be read at `from` and written at `into`, and the two do not overlap.
    #[inline]
    pub(super) unsafe fn to_shared(from: *const u8, into: *mut u8, len: usize) {
        let take = |at: usize| {
            // SAFETY: called below with places of whole chunks within `len` bytes, which the caller vouches for.
            unsafe { _mm_loadu_si128(from.add(at).cast()) }
        };
        // SAFETY: every place is one of a whole line, chunk or byte within `len` bytes, which the caller vouches for.
        unsafe {
            if len < CHUNK {
                (0..len).for_each(|at| into.add(at).write_volatile(from.add(at).read()));
                return;
            }
            let mut at = 0;
            while at + LINE < len {
                let line = [take(at), take(at + CHUNK), take(at + 2 * CHUNK), take(at + 3 * CHUNK)];
                store_line(into.add(at), line);
                at += LINE;
            }
            while at + CHUNK < len {
                store(into.add(at), take(at));
                at += CHUNK;
            }
            store(into.add(len - CHUNK), take(len - CHUNK));
        }
    }

    /// # Safety
    /// Sixteen bytes can be read at `from`.
    #[inline]
    unsafe fn load(from: *const u8) -> __m128i {
        let chunk;
        // SAFETY: the instruction reads the sixteen bytes that the caller vouches for, at any alignment, and writes
        // the register.
        unsafe {
            asm!(movdqu!("{chunk}, xmmword ptr [{from}]"), chunk = lateout(xmm_reg) chunk, from = in(reg) from,
                options(nostack, preserves_flags, readonly));
        }
        chunk
    }

    /// # Safety
    /// Sixty-four bytes can be read at `from`.
    #[inline]
    unsafe fn load_line(from: *const u8) -> [__m128i; 4] {
        let (a, b, c, d);
        // SAFETY: as in `load`, for four times sixteen bytes.
        unsafe {
            asm!(
                movdqu!("{a}, xmmword ptr [{from}]"),
                movdqu!("{b}, xmmword ptr [{from} + 16]"),
                movdqu!("{c}, xmmword ptr [{from} + 32]"),
                movdqu!("{d}, xmmword ptr [{from} + 48]"),
                a = out(xmm_reg) a, b = out(xmm_reg) b, c = out(xmm_reg) c, d = out(xmm_reg) d,
                from = in(reg) from, options(nostack, preserves_flags, readonly));
        }
        [a, b, c, d]
    }

    /// # Safety
    /// Sixteen bytes can be written at `into`.
    #[inline]
    unsafe fn store(into: *mut u8, chunk: __m128i) {
        // SAFETY: the instruction writes the sixteen bytes that the caller vouches for, at any alignment.
        unsafe {
            asm!(movdqu!("xmmword ptr [{into}], {chunk}"), chunk = in(xmm_reg) chunk, into = in(reg) into,
                options(nostack, preserves_flags));
        }
    }

    /// # Safety
    /// Sixty-four bytes can be written at `into`.
    #[inline]
    unsafe fn store_line(into: *mut u8, [a, b, c, d]: [__m128i; 4]) {
        // SAFETY: as in `store`, for four times sixteen bytes.
        unsafe {
            asm!(
                movdqu!("xmmword ptr [{into}], {a}"),
                movdqu!("xmmword ptr [{into} + 16], {b}"),
                movdqu!("xmmword ptr [{into} + 32], {c}"),
                movdqu!("xmmword ptr [{into} + 48], {d}"),
                a = in(xmm_reg) a, b = in(xmm_reg) b, c = in(xmm_reg) c, d = in(xmm_reg) d,
                into = in(reg) into, options(nostack, preserves_flags));
        }
    }
}

/// Copies by volatile words.
#[cfg(not(target_arch = "x86_64"))]
mod copy {
    const WORD: usize = size_of::<u64>();

    /// # Safety
    /// `len` bytes can be read at `from` and written at `into`, and the two do not overlap.
    pub(super) unsafe fn from_shared(from: *const u8, into: *mut u8, len: usize) {
        // SAFETY: `pieces` names places within `len` bytes, of which the caller vouches for both sides, and says where
        // the shared side is aligned to a word.
        unsafe {
            pieces(from.addr(), len, |at, word| match word {
                true => {
                    into.add(at).cast::<u64>().write_unaligned(from.add(at).cast::<u64>().read_volatile())
                }
                false => into.add(at).write(from.add(at).read_volatile()),
            });
        }
    }

    /// # Safety
    /// `len` bytes can be read at `from` and written at `into`, and the two do not overlap.
    pub(super) unsafe fn to_shared(from: *const u8, into: *mut u8, len: usize) {
        // SAFETY: as in `from_shared`.
        unsafe {
            pieces(into.addr(), len, |at, word| match word {
                true => {
                    into.add(at).cast::<u64>().write_volatile(from.add(at).cast::<u64>().read_unaligned())
                }
                false => into.add(at).write_volatile(from.add(at).read()),
            });
        }
    }

    fn pieces(shared: usize, len: usize, copy: impl Fn(usize, bool)) {
        let mut at = 0;
        while at < len {
            let word = (shared + at) % WORD == 0 && len - at >= WORD;
            copy(at, word);
            at += if word { WORD } else { 1 };
        }
    }
}
