//! The heap's region as io_uring knows it: registered pieces of at most 1 GiB.
//!
//! Invariant: an index that this names is that of a piece in which all of the bytes lie; what straddles two pieces, or
//! lies elsewhere, has none and is handed to the kernel by its address alone.

use demi_api::memalloc::{DmaError, DmaKey, DmaMap, RegionInfo};

use super::sys::RingFd;

/// Most bytes that io_uring registers as one buffer.
pub(super) const PIECE: usize = 1 << 30;

/// Which bytes are registered, and as what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registered {
    base: usize,
    len: usize,
    piece: usize,
}

impl Registered {
    /// Nothing is.
    pub(super) const NONE: Registered = Registered { base: 0, len: 0, piece: 1 };

    pub(super) fn new(region: &RegionInfo, piece: usize) -> Registered {
        Registered { base: region.base.addr(), len: region.len, piece }
    }

    /// The index of the piece that holds all of `len` bytes from `start`.
    #[inline]
    pub(super) fn index(&self, start: *const u8, len: usize) -> Option<u16> {
        let offset = start.addr().wrapping_sub(self.base);
        if offset >= self.len || len > self.len - offset {
            return None;
        }
        let index = offset / self.piece;
        (offset % self.piece + len <= self.piece).then_some(index as u16)
    }

    /// The index of the piece that holds all segments.
    #[inline]
    pub(super) fn common_index(&self, segments: &[libc::iovec]) -> Option<u16> {
        let mut indices = segments.iter().map(|segment| self.index(segment.iov_base.cast(), segment.iov_len));
        let first = indices.next()??;
        indices.all(|index| index == Some(first)).then_some(first)
    }
}

/// Registers a heap's region with a ring.
#[derive(Debug)]
pub(super) struct RingMap {
    ring: RingFd,
    piece: usize,
}

impl RingMap {
    pub(super) fn new(ring: RingFd, piece: usize) -> RingMap {
        RingMap { ring, piece }
    }
}

impl DmaMap for RingMap {
    fn register(&mut self, region: &RegionInfo) -> Result<DmaKey, DmaError> {
        self.ring.register(region, self.piece)?;
        Ok(DmaKey(0))
    }

    fn unregister(&mut self, _: DmaKey) {
        self.ring.unregister();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_that_of_the_piece_that_holds_all_bytes() {
        let base = std::ptr::without_provenance::<u8>(0x10_0000);
        let region = RegionInfo { base, len: 0x2800, page_size: 4096 };
        let registered = Registered::new(&region, 0x1000);
        let index = |offset: usize, len| registered.index(base.wrapping_add(offset), len);
        assert_eq!(index(0, 0x1000), Some(0));
        assert_eq!(index(0x1000, 0x1000), Some(1));
        assert_eq!(index(0x2000, 0x800), Some(2));
        assert_eq!(index(0xfff, 2), None, "straddles two pieces");
        assert_eq!(index(0x2000, 0x801), None, "ends behind the region");
        assert_eq!(index(0x2800, 0), None);
        assert_eq!(registered.index(base.wrapping_sub(1), 1), None, "before the region");
        assert_eq!(Registered::NONE.index(base, 1), None);
    }
}
