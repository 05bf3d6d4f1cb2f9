//! The seam to devices that reach memory by themselves: each registers the region once and gets to know its key.
//!
//! Invariant: a device has the region registered from [`Heap::attach`] until [`Heap::detach`], or until the heap goes
//! with its last buffer; it is always told before the region is unmapped. How a buffer is named to a device (its
//! offset plus the key as an IOVA, or the key as an lkey beside its address) is the device's affair.

use super::Heap;
use crate::{DmaError, RegionInfo};

/// Registers memory with one device.
pub trait DmaMap {
    /// Lets the device reach the region, all of it.
    ///
    /// # Errors
    /// What the device or its driver says.
    fn register(&mut self, region: &RegionInfo) -> Result<DmaKey, DmaError>;

    /// Takes the region from the device again. No transfer may be under way when this returns.
    fn unregister(&mut self, key: DmaKey);
}

/// What a device knows a region by: an lkey and rkey, the IOVA of its first byte, a buffer index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DmaKey(pub u64);

/// One attachment of a heap to a device. Never reused, also not after it is detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MapId(u32);

/// How many devices a heap can be attached to at once.
pub const MAX_DMA_MAPS: usize = 4;

struct Attached {
    id: MapId,
    map: Box<dyn DmaMap>,
    key: DmaKey,
}

#[derive(Default)]
pub(super) struct Maps {
    attached: [Option<Attached>; MAX_DMA_MAPS],
    next_id: u32,
}

impl Maps {
    /// Latest first, as scopes end.
    pub(super) fn unregister_all(&mut self) {
        let mut attached: Vec<_> = self.attached.iter_mut().filter_map(Option::take).collect();
        attached.sort_by_key(|attached| attached.id.0);
        for Attached { mut map, key, .. } in attached.into_iter().rev() {
            map.unregister(key);
        }
    }

    fn position(&self, id: MapId) -> Option<usize> {
        self.attached.iter().position(|attached| attached.as_ref().is_some_and(|attached| attached.id == id))
    }
}

impl Heap {
    /// Registers the region with a device.
    ///
    /// # Errors
    /// [`DmaError::TooMany`] beyond [`MAX_DMA_MAPS`], and what the device says.
    pub fn attach(&self, mut map: Box<dyn DmaMap>) -> Result<MapId, DmaError> {
        if self.core().maps.borrow().attached.iter().all(Option::is_some) {
            return Err(DmaError::TooMany(MAX_DMA_MAPS));
        }
        let key = map.register(&self.region())?;
        let mut maps = self.core().maps.borrow_mut();
        let id = MapId(maps.next_id);
        let Some(place) = maps.attached.iter_mut().find(|attached| attached.is_none()) else {
            // `register` itself has attached others.
            drop(maps);
            map.unregister(key);
            return Err(DmaError::TooMany(MAX_DMA_MAPS));
        };
        *place = Some(Attached { id, map, key });
        maps.next_id += 1;
        Ok(id)
    }

    /// The key that a device gave.
    ///
    /// # Panics
    /// When `id` is detached, or another heap's.
    #[inline]
    pub fn key(&self, id: MapId) -> DmaKey {
        let maps = self.core().maps.borrow();
        let attached = maps.attached.iter().flatten().find(|attached| attached.id == id);
        attached.expect("the map is attached to this heap").key
    }

    /// Takes the region from a device, and gives back its map. `None`: it is not attached.
    pub fn detach(&self, id: MapId) -> Option<Box<dyn DmaMap>> {
        let at = self.core().maps.borrow().position(id)?;
        let Attached { mut map, key, .. } = self.core().maps.borrow_mut().attached[at].take()?;
        map.unregister(key);
        Some(map)
    }
}
