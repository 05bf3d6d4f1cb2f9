//! System calls: reserve a range of memory, make it resident, lock it.
//!
//! Invariant: `base..base + len` is owned by the mapping, aligned to a huge page, initialised, readable and writable
//! until the mapping is dropped. No reference into it is made here.

use super::{HUGE_PAGE, Pages};
use crate::{HeapError, HugePages};
use std::io;
use std::ptr::NonNull;

/// A range of memory, resident from the start.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    pages: Pages,
    page_size: usize,
    locked: bool,
    _owner: owner::Owner,
}

// SAFETY: a `Mapping` owns its memory and hands out only a raw pointer; freeing it is not tied to a thread.
unsafe impl Send for Mapping {}
// SAFETY: as above: nothing is read or written through `&Mapping`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves at least `len` bytes, each holding `fill`.
    pub(crate) fn reserve(len: usize, fill: u8, huge: HugePages, lock: bool) -> Result<Self, HeapError> {
        let len = len.max(1).next_multiple_of(HUGE_PAGE);
        let owner::Reserved { base, owner, huge: is_huge, zeroed } = owner::reserve(len, huge)?;
        if fill != 0 || !zeroed {
            // SAFETY: `base` is valid for `len` bytes, and nobody else knows of them yet.
            unsafe { base.write_bytes(fill, len) };
        }
        let locked = lock && owner::lock(base, len);
        let pages = match huge {
            _ if is_huge => Pages::Huge,
            HugePages::Auto if owner::transparent(base, len) => Pages::Transparent,
            _ => Pages::Plain,
        };
        let page_size = if is_huge { HUGE_PAGE } else { owner::page_size() };
        Ok(Self { base, len, pages, page_size, locked, _owner: owner })
    }

    #[inline]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn pages(&self) -> Pages {
        self.pages
    }

    pub(crate) fn page_size(&self) -> usize {
        self.page_size
    }

    pub(crate) fn locked(&self) -> bool {
        self.locked
    }
}

#[cfg(not(miri))]
mod owner {
    use super::{HUGE_PAGE, HeapError, HugePages, NonNull, io};
    use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

    pub(super) type Owner = MmapRaw;

    pub(super) struct Reserved {
        pub(super) base: NonNull<u8>,
        pub(super) owner: Owner,
        pub(super) huge: bool,
        /// Whether the pages are resident already, and so hold zeros.
        pub(super) zeroed: bool,
    }

    pub(super) fn reserve(len: usize, huge: HugePages) -> Result<Reserved, HeapError> {
        let (map, is_huge) = match huge {
            HugePages::Never => (plain(len)?, false),
            HugePages::Auto => {
                reserved_huge(len).map(|map| (map, true)).or_else(|_| Ok((plain(len)?, false)))?
            }
            HugePages::Require => {
                let map = reserved_huge(len).map_err(|source| HeapError::HugePages { size: len, source })?;
                (map, true)
            }
        };
        let owner = MmapRaw::from(map);
        let skip = owner.as_mut_ptr().align_offset(HUGE_PAGE);
        assert!(
            skip + len <= owner.len(),
            "a plain mapping has room to be aligned, and a huge one is aligned"
        );
        if huge == HugePages::Auto && !is_huge {
            // A kernel built without transparent huge pages refuses; plain pages will do.
            let _ = owner.advise_range(Advice::HugePage, skip, len);
        }
        let zeroed = populate(&owner, skip, len)?;
        // SAFETY: `skip + len` is within the mapping, so the sum stays in it and is not null.
        let base = unsafe { NonNull::new_unchecked(owner.as_mut_ptr().add(skip)) };
        Ok(Reserved { base, owner, huge: is_huge, zeroed })
    }

    fn reserved_huge(len: usize) -> io::Result<MmapMut> {
        MmapOptions::new().len(len).huge(Some(HUGE_PAGE.ilog2() as u8)).map_anon()
    }

    /// Plain pages, with room to align their start.
    fn plain(len: usize) -> Result<MmapMut, HeapError> {
        MmapMut::map_anon(len + HUGE_PAGE).map_err(|source| HeapError::Map { size: len, source })
    }

    /// Faults every page in. `false`: the kernel (before 5.14) cannot, and the caller has to touch them.
    fn populate(map: &MmapRaw, offset: usize, len: usize) -> Result<bool, HeapError> {
        match map.advise_range(Advice::PopulateWrite, offset, len) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(source) => Err(HeapError::Populate { size: len, source }),
        }
    }

    pub(super) fn lock(base: NonNull<u8>, len: usize) -> bool {
        // SAFETY: `mlock` reads and writes no memory of ours; the range is mapped.
        unsafe { libc::mlock(base.as_ptr().cast(), len) == 0 }
    }

    pub(super) fn transparent(base: NonNull<u8>, len: usize) -> bool {
        super::super::transparent_bytes(base.addr().get(), len) * 2 >= len
    }

    pub(super) fn page_size() -> usize {
        // SAFETY: `sysconf` has no preconditions.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).expect("the page size is always known")
    }
}

/// The interpreter knows no mappings: the same promises on top of the global allocator.
#[cfg(miri)]
mod owner {
    use super::{HUGE_PAGE, HeapError, HugePages, NonNull, io};
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    pub(super) struct Owner {
        base: NonNull<u8>,
        layout: Layout,
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            // SAFETY: `base` came from `alloc_zeroed` with this layout and is freed once, here.
            unsafe { dealloc(self.base.as_ptr(), self.layout) };
        }
    }

    pub(super) struct Reserved {
        pub(super) base: NonNull<u8>,
        pub(super) owner: Owner,
        pub(super) huge: bool,
        pub(super) zeroed: bool,
    }

    pub(super) fn reserve(len: usize, huge: HugePages) -> Result<Reserved, HeapError> {
        let refused = || io::Error::from(io::ErrorKind::Unsupported);
        if huge == HugePages::Require {
            return Err(HeapError::HugePages { size: len, source: refused() });
        }
        let layout = Layout::from_size_align(len, HUGE_PAGE).expect("a length below 64 GiB, a power of two");
        // SAFETY: `reserve` rounds up to a huge page, so the size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })
            .ok_or_else(|| HeapError::Map { size: len, source: refused() })?;
        Ok(Reserved { base, owner: Owner { base, layout }, huge: false, zeroed: true })
    }

    pub(super) fn lock(_: NonNull<u8>, _: usize) -> bool {
        false
    }

    pub(super) fn transparent(_: NonNull<u8>, _: usize) -> bool {
        false
    }

    pub(super) fn page_size() -> usize {
        4096
    }
}
