//! Buffers that the kernel reads, from their submission to their completion.
//!
//! Invariant: a buffer is kept, and so stays unwritten and allocated, until the kernel has completed the address it was
//! submitted under. A completion for an address that is not under way changes nothing.
//!
//! In unaligned mode an address has two parts, which the kernel adds up to find the bytes but gives back as they were:
//! 48 bits and, above them, 16. The upper part carries the place in this table, and as much is taken off the lower one.
//! So a completion finds its buffer in constant time, in whatever order completions come. Kernels that keep the address
//! in a tagged pointer (seen in 6.18) clear its lowest bit on the way: no address is odd here, as what is odd in an
//! offset goes to the upper part.

use demi_api::memalloc::Buf;

/// Bits of an address below its upper part.
const SHIFT: u32 = 48;

/// Most places: what the upper part of an address can tell apart, without its lowest bit.
pub(super) const MAX_PLACES: u32 = 1 << 15;

/// The table of buffers under way.
pub(super) struct Flight {
    places: Vec<Place>,
    free: Vec<u16>,
}

#[derive(Default)]
struct Place {
    addr: u64,
    buf: Option<Buf>,
}

impl Flight {
    /// Room for `count` buffers, [`MAX_PLACES`] at the most.
    pub(super) fn new(count: u32) -> Flight {
        let count = count.min(MAX_PLACES);
        Flight {
            places: (0..count).map(|_| Place::default()).collect(),
            free: (0..count).rev().map(|place| place as u16).collect(),
        }
    }

    #[inline]
    pub(super) fn room(&self) -> usize {
        self.free.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Keeps a buffer whose bytes begin at `offset` of the UMEM; returns the address to submit it under. `None`: full.
    #[inline]
    pub(super) fn launch(&mut self, buf: Buf, offset: u64) -> Option<u64> {
        let place = self.free.pop()?;
        let odd = offset & 1;
        let upper = u64::from(place) << 1 | odd;
        // The very first bytes of the region have too little to take off: their place is searched for.
        let upper = if offset >= upper { upper } else { odd };
        let addr = (offset - upper) | upper << SHIFT;
        self.places[usize::from(place)] = Place { addr, buf: Some(buf) };
        Some(addr)
    }

    /// Lets go of the buffer that was submitted under `addr`. False: there is none.
    #[inline]
    pub(super) fn land(&mut self, addr: u64) -> bool {
        let fits = |place: &Place| place.buf.is_some() && place.addr == addr;
        let named = (addr >> (SHIFT + 1)) as usize;
        let place = if self.places.get(named).is_some_and(fits) {
            named
        } else if named == 0
            && let Some(place) = self.places.iter().position(fits)
        {
            place
        } else {
            return false;
        };
        self.places[place].buf = None;
        self.free.push(place as u16);
        true
    }

    /// Gives up every buffer without releasing it.
    pub(super) fn leak(&mut self) {
        self.places.iter_mut().filter_map(|place| place.buf.take()).for_each(std::mem::forget);
    }
}
