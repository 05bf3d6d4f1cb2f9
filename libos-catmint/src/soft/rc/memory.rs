//! Memory that peers may reach: grants, which are parts of the heap, and regions, which lie outside it.
//!
//! Invariant: a peer reads and writes nothing but what a key names that is valid at that moment, allows that, and lets that
//! queue pair. Every packet is checked, not every message, so that a key that is taken away stays without effect from
//! then on. What peers write is a region: the heap's bytes are only ever read.
//!
//! Addresses mean nothing but a place behind a key: each key's bytes begin at an address of its own. Keys hold random bits, so
//! that a stale or guessed one misses.

use demi_api::memalloc::Buf;

use crate::device::{Access, Atomic, Grant, Qp, Region, Remote};

/// Bits of a key that are its place in the table; the others are random.
const PLACE_BITS: u32 = 16;
/// Log2 of the distance of two keys' first addresses.
const SPACING: u32 = 40;
/// Most bytes of a region; keys lie further apart.
const MAX_REGION: usize = 1 << 36;

/// All keys of a device.
#[derive(Debug)]
pub struct Memory {
    places: Vec<Place>,
    free: Vec<u16>,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct Place {
    key: u32,
    holds: Holds,
}

#[derive(Debug)]
enum Holds {
    Nothing,
    Grant {
        qp: Qp,
        data: Buf,
        /// Not after the peer has given it up by itself.
        valid: bool,
    },
    Region {
        bytes: Box<[u8]>,
        access: Access,
    },
}

/// Why a peer does not get at memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// Wrong key, range or right.
    Access,
    /// An atomic operation across words.
    Misaligned,
}

impl Memory {
    /// No memory yet. Keys are drawn from a generator with this seed.
    pub fn new(seed: u64) -> Memory {
        Memory { places: Vec::new(), free: Vec::new(), rng: fastrand::Rng::with_seed(seed) }
    }

    /// Lets one queue pair's peer read `data`. Given back when there are no keys left.
    pub fn grant(&mut self, qp: Qp, data: Buf) -> Result<(Grant, Remote), Buf> {
        let Some(place) = self.vacancy() else { return Err(data) };
        let remote = self.fill(place, Holds::Grant { qp, data, valid: true });
        Ok((Grant(remote.key), remote))
    }

    /// Ends a grant, at once. `None` if there is none of that name.
    pub fn revoke(&mut self, grant: Grant) -> Option<Buf> {
        match self.take(grant.0, |holds| matches!(holds, Holds::Grant { .. }))? {
            Holds::Grant { data, .. } => Some(data),
            Holds::Nothing | Holds::Region { .. } => None,
        }
    }

    /// Takes from a queue pair's peer all that was granted to it. The memory stays until the grants are revoked.
    pub fn abandon(&mut self, qp: Qp) {
        for place in &mut self.places {
            match &mut place.holds {
                Holds::Grant { qp: owner, valid, .. } if *owner == qp => *valid = false,
                Holds::Nothing | Holds::Grant { .. } | Holds::Region { .. } => {}
            }
        }
    }

    /// Makes a region of zeros. `None` if there are no keys left, or it is too long.
    pub fn region(&mut self, len: usize, access: Access) -> Option<Region> {
        if len > MAX_REGION {
            return None;
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).ok()?;
        bytes.resize(len, 0);
        let place = self.vacancy()?;
        let remote = self.fill(place, Holds::Region { bytes: bytes.into_boxed_slice(), access });
        Some(Region(remote.key))
    }

    /// Ends a region, at once.
    pub fn unregion(&mut self, region: Region) {
        self.take(region.0, |holds| matches!(holds, Holds::Region { .. }));
    }

    /// Where peers find a region.
    pub fn place(&self, region: Region) -> Option<Remote> {
        self.bytes(region)?;
        Some(Remote { addr: first_addr(region.0), key: region.0 })
    }

    /// A region's bytes, as long as there is one of that name.
    pub fn bytes(&self, region: Region) -> Option<&[u8]> {
        match &self.find(region.0)?.holds {
            Holds::Region { bytes, .. } => Some(bytes),
            Holds::Nothing | Holds::Grant { .. } => None,
        }
    }

    /// The same, to be written.
    pub fn bytes_mut(&mut self, region: Region) -> Option<&mut [u8]> {
        match &mut self.find_mut(region.0)?.holds {
            Holds::Region { bytes, .. } => Some(bytes),
            Holds::Nothing | Holds::Grant { .. } => None,
        }
    }

    /// An atomic operation of this side. `None`: out of range or misaligned.
    pub fn atomic_here(&mut self, region: Region, offset: usize, op: Atomic) -> Option<u64> {
        if !offset.is_multiple_of(8) {
            return None;
        }
        let end = offset.checked_add(8)?;
        self.bytes_mut(region)?.get_mut(offset..end).map(|word| apply(word, op))
    }

    /// What a peer may read there.
    pub fn read(&self, qp: Qp, from: Remote, len: usize) -> Result<&[u8], Denied> {
        let bytes = match &self.find(from.key).ok_or(Denied::Access)?.holds {
            Holds::Grant { qp: owner, data, valid: true } if *owner == qp => &data[..],
            Holds::Region { bytes, access } if access.read => bytes,
            Holds::Nothing | Holds::Grant { .. } | Holds::Region { .. } => return Err(Denied::Access),
        };
        let at = offset(from).ok_or(Denied::Access)?;
        at.checked_add(len).and_then(|end| bytes.get(at..end)).ok_or(Denied::Access)
    }

    /// What a peer may write there.
    pub fn write(&mut self, _qp: Qp, to: Remote, len: usize) -> Result<&mut [u8], Denied> {
        let at = offset(to).ok_or(Denied::Access)?;
        let bytes = match &mut self.find_mut(to.key).ok_or(Denied::Access)?.holds {
            Holds::Region { bytes, access } if access.write => bytes,
            Holds::Nothing | Holds::Grant { .. } | Holds::Region { .. } => return Err(Denied::Access),
        };
        at.checked_add(len).and_then(|end| bytes.get_mut(at..end)).ok_or(Denied::Access)
    }

    /// A peer's atomic operation. Gives what was there before.
    pub fn atomic(&mut self, _qp: Qp, on: Remote, op: Atomic) -> Result<u64, Denied> {
        let at = offset(on).ok_or(Denied::Access)?;
        let bytes = match &mut self.find_mut(on.key).ok_or(Denied::Access)?.holds {
            Holds::Region { bytes, access } if access.atomic => bytes,
            Holds::Nothing | Holds::Grant { .. } | Holds::Region { .. } => return Err(Denied::Access),
        };
        let word = at.checked_add(8).and_then(|end| bytes.get_mut(at..end)).ok_or(Denied::Access)?;
        if at.is_multiple_of(8) { Ok(apply(word, op)) } else { Err(Denied::Misaligned) }
    }

    /// Takes a grant from the peer that it was made to, at its own wish. The memory stays until the grant is revoked.
    pub fn invalidate(&mut self, qp: Qp, key: u32) -> Result<(), Denied> {
        match &mut self.find_mut(key).ok_or(Denied::Access)?.holds {
            Holds::Grant { qp: owner, valid, .. } if *owner == qp => {
                *valid = false;
                Ok(())
            }
            Holds::Nothing | Holds::Grant { .. } | Holds::Region { .. } => Err(Denied::Access),
        }
    }

    fn find(&self, key: u32) -> Option<&Place> {
        self.places.get(index(key)).filter(|place| place.key == key)
    }

    fn find_mut(&mut self, key: u32) -> Option<&mut Place> {
        self.places.get_mut(index(key)).filter(|place| place.key == key)
    }

    fn take(&mut self, key: u32, is_it: impl Fn(&Holds) -> bool) -> Option<Holds> {
        let place = self.find_mut(key).filter(|place| is_it(&place.holds))?;
        let holds = std::mem::replace(&mut place.holds, Holds::Nothing);
        self.free.push(index(key) as u16);
        Some(holds)
    }

    fn vacancy(&mut self) -> Option<u16> {
        if let Some(place) = self.free.pop() {
            return Some(place);
        }
        let place = u16::try_from(self.places.len()).ok()?;
        self.places.push(Place { key: place.into(), holds: Holds::Nothing });
        Some(place)
    }

    fn fill(&mut self, place: u16, holds: Holds) -> Remote {
        let entry = &mut self.places[usize::from(place)];
        // Never the one that was there before.
        let mut key = entry.key;
        while key == entry.key {
            key = self.rng.u32(..) << PLACE_BITS | u32::from(place);
        }
        *entry = Place { key, holds };
        Remote { addr: first_addr(key), key }
    }
}

fn index(key: u32) -> usize {
    (key & ((1 << PLACE_BITS) - 1)) as usize
}

fn first_addr(key: u32) -> u64 {
    (index(key) as u64 + 1) << SPACING
}

/// How far an address is behind its key's first one.
fn offset(remote: Remote) -> Option<usize> {
    usize::try_from(remote.addr.checked_sub(first_addr(remote.key))?).ok()
}

/// On exactly eight bytes.
fn apply(word: &mut [u8], op: Atomic) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(word);
    let found = u64::from_ne_bytes(bytes);
    let put = match op {
        Atomic::CompareSwap { expected, new } => (found == expected).then_some(new),
        Atomic::FetchAdd(more) => Some(found.wrapping_add(more)),
    };
    if let Some(put) = put {
        word.copy_from_slice(&put.to_ne_bytes());
    }
    found
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::{Heap, HeapConfig, HugePages};

    use super::*;

    const ALL: Access = Access { read: true, write: true, atomic: true };
    const US: Qp = Qp(1);
    const OTHER: Qp = Qp(2);

    fn heap() -> Heap {
        Heap::new(&HeapConfig { size: 2 << 20, huge_pages: HugePages::Never, lock: false }).unwrap()
    }

    fn beyond(remote: Remote, by: i64) -> Remote {
        Remote { addr: remote.addr.wrapping_add_signed(by), ..remote }
    }

    #[test]
    fn a_grant_is_read_by_its_queue_pair_alone_and_only_within() {
        let heap = heap();
        let mut memory = Memory::new(1);
        let data = heap.copy_from(b"0123456789").unwrap();
        let (grant, at) = memory.grant(US, data.slice(2..7)).unwrap();
        assert_eq!(memory.read(US, at, 5), Ok(&b"23456"[..]));
        assert_eq!(memory.read(US, beyond(at, 4), 1), Ok(&b"6"[..]));
        assert_eq!(memory.read(US, beyond(at, 5), 0), Ok(&b""[..]));
        assert_eq!(memory.read(OTHER, at, 5), Err(Denied::Access));
        assert_eq!(memory.read(US, at, 6), Err(Denied::Access));
        assert_eq!(memory.read(US, beyond(at, -1), 1), Err(Denied::Access));
        assert_eq!(memory.read(US, beyond(at, 5), 1), Err(Denied::Access));
        assert_eq!(memory.read(US, beyond(at, i64::MIN), usize::MAX), Err(Denied::Access));
        assert!(memory.write(US, at, 1).is_err());
        assert!(memory.atomic(US, at, Atomic::FetchAdd(1)).is_err());
        for bit in 0..32 {
            assert!(memory.read(US, Remote { key: at.key ^ 1 << bit, ..at }, 1).is_err());
        }

        assert!(memory.invalidate(OTHER, at.key).is_err());
        assert_eq!(memory.invalidate(US, at.key), Ok(()));
        assert_eq!(memory.read(US, at, 5), Err(Denied::Access));
        assert_eq!(memory.revoke(grant).as_deref(), Some(&b"23456"[..]));
        assert!(memory.revoke(grant).is_none());
    }

    #[test]
    fn grants_end_with_their_queue_pair_and_the_memory_stays() {
        let heap = heap();
        let mut memory = Memory::new(1);
        let data = heap.copy_from(b"0123456789").unwrap();
        let (ours, at) = memory.grant(US, data.clone()).unwrap();
        let (_, other) = memory.grant(OTHER, data).unwrap();
        memory.abandon(US);
        assert_eq!(memory.read(US, at, 5), Err(Denied::Access));
        assert!(memory.read(OTHER, other, 5).is_ok());
        assert_eq!(memory.revoke(ours).as_deref(), Some(&b"0123456789"[..]));
    }

    #[test]
    fn a_key_that_was_taken_away_never_comes_back() {
        let heap = heap();
        let mut memory = Memory::new(2);
        let data = heap.copy_from(b"abc").unwrap();
        let (mut grant, mut at) = memory.grant(US, data.clone()).unwrap();
        for _ in 0..1000 {
            memory.revoke(grant).unwrap();
            assert!(memory.read(US, at, 1).is_err());
            let stale = at;
            (grant, at) = memory.grant(US, data.clone()).unwrap();
            assert!(memory.read(US, stale, 1).is_err() && memory.read(US, at, 3).is_ok());
        }
    }

    #[test]
    fn a_region_allows_what_it_was_made_for() {
        let mut memory = Memory::new(3);
        for (read, write, atomic) in (0..8).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0)) {
            let region = memory.region(64, Access { read, write, atomic }).unwrap();
            let at = memory.place(region).unwrap();
            assert_eq!(memory.read(US, at, 64).is_ok(), read);
            assert_eq!(memory.write(OTHER, at, 64).is_ok(), write);
            assert_eq!(memory.atomic(US, at, Atomic::FetchAdd(1)).is_ok(), atomic);
            assert!(memory.read(US, at, 65).is_err() && memory.write(US, at, 65).is_err());
            assert!(memory.atomic(US, beyond(at, 64), Atomic::FetchAdd(1)).is_err());
            assert!(memory.atomic(US, beyond(at, 60), Atomic::FetchAdd(1)).is_err());
            memory.unregion(region);
            assert!(memory.read(US, at, 1).is_err() && memory.place(region).is_none());
        }
        assert!(memory.region(usize::MAX, ALL).is_none());
    }

    #[test]
    fn words_change_as_asked() {
        let mut memory = Memory::new(4);
        let region = memory.region(24, ALL).unwrap();
        let at = beyond(memory.place(region).unwrap(), 8);
        let swap = |expected, new| Atomic::CompareSwap { expected, new };
        assert_eq!(memory.atomic(US, at, Atomic::FetchAdd(u64::MAX)), Ok(0));
        assert_eq!(memory.atomic(US, at, Atomic::FetchAdd(3)), Ok(u64::MAX));
        assert_eq!(memory.atomic(US, at, swap(3, 9)), Ok(2));
        assert_eq!(memory.atomic_here(region, 8, swap(2, 7)), Some(2));
        assert_eq!(memory.bytes(region).unwrap()[8..16], 7_u64.to_ne_bytes());
        assert_eq!(memory.atomic(US, beyond(at, 4), swap(0, 1)), Err(Denied::Misaligned));
        assert_eq!(memory.atomic_here(region, 20, swap(0, 1)), None);
        assert_eq!(memory.atomic_here(region, usize::MAX - 7, swap(0, 1)), None);
    }

    #[test]
    fn there_are_65536_keys_and_then_the_memory_comes_back() {
        let heap = heap();
        let mut memory = Memory::new(5);
        let data = heap.copy_from(b"x").unwrap();
        let first = memory.grant(US, data.clone()).unwrap().0;
        for _ in 1..1 << 16 {
            memory.grant(US, data.clone()).unwrap();
        }
        assert_eq!(memory.grant(US, data.clone()).unwrap_err()[..], b"x"[..]);
        assert!(memory.region(8, ALL).is_none());
        memory.revoke(first).unwrap();
        assert!(memory.grant(US, data).is_ok());
    }
}
