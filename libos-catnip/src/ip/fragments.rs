//! Putting fragments together: RFC 791 §3.2, RFC 8200 §4.5, RFC 5722.
//!
//! Invariants: packets under way, and the device buffers that they hold, are bounded; the oldest makes room. Parts of
//! one packet never overlap: a packet of which two do is given up, and what else comes of it is dropped.

use std::net::IpAddr;
use std::time::Duration;

use demi_api::memalloc::{Buf, Heap};
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use demi_api::time::Instant;

use super::config::IpConfig;

/// A part holds a device's buffer, however short it is; this is what such buffers commonly are.
const BUFFER: usize = 2048;
/// Parts of one packet at the most: a large one through links of 576 bytes.
const MAX_PARTS: usize = 128;
/// The largest packet content.
const MOST: usize = 65535;
/// Congestion experienced.
const CE: u8 = 3;

/// What parts of one packet have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    pub(super) ident: u32,
    /// Zero for IPv6, where it does not tell packets apart.
    pub(super) protocol: u8,
}

/// A part.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) offset: usize,
    pub(super) more: bool,
    pub(super) data: SgArray,
    /// What the data of the first part begins with.
    pub(super) protocol: u8,
    pub(super) ecn: u8,
    /// The transport checksum need not be verified, as far as this part goes.
    pub(super) vouched: bool,
}

/// A packet's content; its offset is zero.
pub(super) type Whole = Part;

#[derive(Debug)]
struct Assembly {
    key: Key,
    until: Instant,
    /// In order, without overlaps.
    parts: Vec<Part>,
    /// Known with the last part.
    total: Option<usize>,
    /// Given up: further parts are dropped.
    dead: bool,
}

/// Packets under way.
#[derive(Debug)]
pub(super) struct Fragments {
    under_way: Vec<Assembly>,
    max: usize,
    max_bytes: usize,
    bytes: usize,
    due: Option<Instant>,
    /// Packets put together.
    pub(super) completed: u64,
    /// Packets given up: overlaps, contradictions, time, others in their place.
    pub(super) given_up: u64,
}

impl Fragments {
    pub(super) fn new(config: &IpConfig) -> Fragments {
        Fragments {
            under_way: Vec::new(),
            max: config.fragments_max,
            max_bytes: config.fragments_bytes,
            bytes: 0,
            due: None,
            completed: 0,
            given_up: 0,
        }
    }

    /// Takes a part; gives the packet if this was the last one missing.
    pub(super) fn add(&mut self, heap: &Heap, key: Key, part: Part, now: Instant) -> Option<Whole> {
        let len = part.data.len();
        let end = part.offset + len;
        // Parts are in units of eight bytes, but for the last one.
        if self.max == 0 || len == 0 || end > MOST || (part.more && !len.is_multiple_of(8)) {
            self.given_up += 1;
            return None;
        }
        let index = match self.under_way.iter().position(|assembly| assembly.key == key) {
            Some(index) => index,
            None => self.begin(key, now),
        };
        if self.under_way[index].dead {
            return None;
        }
        let cost = cost(&part);
        match self.under_way[index].insert(part, end) {
            Fit::New => self.bytes += cost,
            Fit::Again => return None,
            Fit::Wrong => {
                self.kill(index);
                return None;
            }
        }
        if self.under_way[index].is_complete() {
            let assembly = self.remove(index);
            self.completed += 1;
            return whole(heap, assembly.parts);
        }
        while self.bytes > self.max_bytes {
            self.drop_oldest();
        }
        None
    }

    /// One that has run out of time: what its first part was, if that came. Call until there is none.
    pub(super) fn expire(&mut self, now: Instant) -> Option<(Key, Option<Part>)> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        let Some(index) = self.under_way.iter().position(|assembly| assembly.until <= now) else {
            self.due = self.under_way.iter().map(|assembly| assembly.until).min();
            return None;
        };
        let mut assembly = self.remove(index);
        if !assembly.dead {
            self.given_up += 1;
        }
        let first = assembly
            .parts
            .first()
            .is_some_and(|part| part.offset == 0)
            .then(|| assembly.parts.swap_remove(0));
        Some((assembly.key, first))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Packets under way, and bytes that they hold.
    pub(super) fn held(&self) -> (usize, usize) {
        (self.under_way.len(), self.bytes)
    }

    fn begin(&mut self, key: Key, now: Instant) -> usize {
        if self.under_way.len() >= self.max {
            self.drop_oldest();
        }
        // RFC 1122 §3.3.2 asks for a fixed time; RFC 8200 §4.5 for 60 s.
        let until = now + Duration::from_secs(if key.local.is_ipv4() { 30 } else { 60 });
        self.due = Some(self.due.map_or(until, |due| due.min(until)));
        self.under_way.push(Assembly { key, until, parts: Vec::new(), total: None, dead: false });
        self.under_way.len() - 1
    }

    fn drop_oldest(&mut self) {
        let oldest = self.under_way.iter().enumerate().min_by_key(|(_, assembly)| assembly.until);
        if let Some((index, _)) = oldest {
            self.given_up += u64::from(!self.under_way[index].dead);
            self.remove(index);
        }
    }

    fn kill(&mut self, index: usize) {
        let assembly = &mut self.under_way[index];
        self.bytes -= assembly.parts.drain(..).map(|part| cost(&part)).sum::<usize>();
        assembly.dead = true;
        self.given_up += 1;
    }

    fn remove(&mut self, index: usize) -> Assembly {
        let assembly = self.under_way.swap_remove(index);
        self.bytes -= assembly.parts.iter().map(cost).sum::<usize>();
        assembly
    }
}

/// How a part goes with the others.
enum Fit {
    New,
    Again,
    /// The packet is to be given up.
    Wrong,
}

impl Assembly {
    /// Puts a part in its place.
    fn insert(&mut self, part: Part, end: usize) -> Fit {
        let place = self.parts.partition_point(|other| other.offset < part.offset);
        if let Some(other) = self.parts.get(place)
            && other.offset == part.offset
        {
            // RFC 8200 §4.5: the same once more is no overlap.
            let same = matches!(part.data.segments(), [one] if other.data == one[..]);
            return if same && other.more == part.more { Fit::Again } else { Fit::Wrong };
        }
        let before = place.checked_sub(1).map_or(0, |before| self.parts[before].end());
        let after = self.parts.get(place).map_or(usize::MAX, |after| after.offset);
        let last = self.parts.last().map_or(0, Part::end);
        let fits = match self.total {
            Some(total) => part.more && end <= total,
            None => part.more || end >= last,
        };
        if before > part.offset || end > after || !fits || self.parts.len() >= MAX_PARTS {
            return Fit::Wrong;
        }
        if !part.more {
            self.total = Some(end);
        }
        self.parts.insert(place, part);
        Fit::New
    }

    fn is_complete(&self) -> bool {
        let Some(total) = self.total else { return false };
        let mut next = 0;
        for part in &self.parts {
            if part.offset != next {
                return false;
            }
            next = part.end();
        }
        next == total
    }
}

impl Part {
    fn end(&self) -> usize {
        self.offset + self.data.len()
    }
}

fn cost(part: &Part) -> usize {
    part.data.segments().iter().map(|segment| segment.len().max(BUFFER)).sum()
}

/// Joins parts: where they lie if they are few, else in one buffer.
fn whole(heap: &Heap, parts: Vec<Part>) -> Option<Whole> {
    let mut parts = parts;
    let vouched = parts.iter().all(|part| part.vouched);
    let congested = parts.iter().any(|part| part.ecn == CE);
    let (protocol, ecn) = (parts.first()?.protocol, parts.first()?.ecn);
    let count: usize = parts.iter().map(|part| part.data.segments().len()).sum();
    let data = if count <= MAX_SEGMENTS {
        parts.drain(..).flat_map(|part| part.data.into_segments()).collect()
    } else {
        let pieces: Vec<&Buf> = parts.iter().flat_map(|part| part.data.segments()).collect();
        heap.join(pieces.iter().copied()).ok()?.into()
    };
    // RFC 3168 §5.3.
    let ecn = if congested { CE } else { ecn };
    Some(Whole { offset: 0, more: false, data, protocol, ecn, vouched })
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::HeapConfig;
    use proptest::prelude::*;

    use super::*;

    fn heap() -> Heap {
        Heap::new(&HeapConfig { size: 4 << 20, lock: false, ..HeapConfig::default() }).unwrap()
    }

    fn fragments(max: usize, bytes: usize) -> Fragments {
        Fragments::new(&IpConfig { fragments_max: max, fragments_bytes: bytes, ..IpConfig::default() })
    }

    fn key(ident: u32) -> Key {
        Key { local: [10, 0, 0, 1].into(), remote: [10, 0, 0, 2].into(), ident, protocol: 17 }
    }

    fn part(heap: &Heap, offset: usize, bytes: &[u8], more: bool) -> Part {
        let data = SgArray::copy_from(heap, bytes).unwrap();
        Part { offset, more, data, protocol: 17, ecn: 0, vouched: false }
    }

    #[test]
    fn few_parts_stay_where_they_lie_and_many_are_copied_once() {
        let heap = heap();
        for count in [1usize, 2, 8, 9, 30] {
            let mut fragments = fragments(4, 1 << 20);
            let joins = heap.stats().joins;
            let mut done = None;
            for n in (0..count).rev() {
                assert!(done.is_none());
                let part = part(&heap, n * 16, &[n as u8; 16], n + 1 < count);
                done = fragments.add(&heap, key(1), part, Instant::default());
            }
            let expected: Vec<u8> = (0..count * 16).map(|n| (n / 16) as u8).collect();
            assert_eq!(done.unwrap().data.to_vec(), expected);
            assert_eq!(heap.stats().joins - joins, u64::from(count > MAX_SEGMENTS));
            assert_eq!(fragments.held(), (0, 0));
        }
        assert_eq!(heap.stats().objects_live, 0);
    }

    #[test]
    fn overlaps_give_up_the_whole_packet_and_what_comes_of_it() {
        let heap = heap();
        let mut fragments = fragments(4, 1 << 20);
        let now = Instant::default();
        assert!(fragments.add(&heap, key(1), part(&heap, 0, &[1; 16], true), now).is_none());
        assert!(fragments.add(&heap, key(1), part(&heap, 8, &[2; 16], true), now).is_none());
        assert_eq!((fragments.given_up, heap.stats().objects_live), (1, 0));
        assert!(fragments.add(&heap, key(1), part(&heap, 0, &[1; 16], true), now).is_none());
        assert!(fragments.add(&heap, key(1), part(&heap, 16, &[1; 16], false), now).is_none());
        assert_eq!((fragments.completed, heap.stats().objects_live), (0, 0));
        // After its time, the number may name another packet.
        let later = now + Duration::from_secs(30);
        assert!(matches!(fragments.expire(later), Some((_, None))) && fragments.expire(later).is_none());
        assert!(fragments.add(&heap, key(1), part(&heap, 0, &[1; 16], false), later).is_some());
    }

    #[test]
    fn the_same_part_twice_is_taken_once() {
        let heap = heap();
        let mut fragments = fragments(4, 1 << 20);
        let now = Instant::default();
        for _ in 0..3 {
            assert!(fragments.add(&heap, key(1), part(&heap, 0, &[1; 16], true), now).is_none());
            assert_eq!(fragments.held(), (1, BUFFER));
        }
        let whole = fragments.add(&heap, key(1), part(&heap, 16, &[2; 3], false), now).unwrap();
        assert_eq!(whole.data.len(), 19);
        assert_eq!((fragments.given_up, fragments.held()), (0, (0, 0)));
        // The same place with other bytes is an overlap.
        fragments.add(&heap, key(2), part(&heap, 0, &[1; 16], true), now);
        fragments.add(&heap, key(2), part(&heap, 0, &[9; 16], true), now);
        assert_eq!(fragments.given_up, 1);
    }

    #[test]
    fn congestion_of_one_part_is_the_packets() {
        let heap = heap();
        let mut fragments = fragments(4, 1 << 20);
        fragments.add(&heap, key(1), Part { ecn: 2, ..part(&heap, 0, &[1; 8], true) }, Instant::default());
        let last = Part { ecn: 3, ..part(&heap, 8, &[1; 8], false) };
        assert_eq!(fragments.add(&heap, key(1), last, Instant::default()).unwrap().ecn, 3);
    }

    proptest! {
        /// Random parts of random packets: bounds hold, and what comes out is what one packet's parts say.
        #[test]
        fn bounds_hold_whatever_comes(
            steps in proptest::collection::vec((0u32..6, 0usize..40, 0usize..5, any::<bool>(), 0u64..3000), 1..400),
        ) {
            let heap = heap();
            let mut fragments = fragments(3, 1 << 16);
            let mut now = Instant::default();
            for (ident, offset, len, more, pause) in steps {
                now = now + Duration::from_millis(pause);
                while fragments.expire(now).is_some() {}
                let whole = fragments.add(&heap, key(ident), part(&heap, offset * 8, &vec![ident as u8; len * 8], more), now);
                if let Some(whole) = whole {
                    prop_assert!(whole.data.to_vec().iter().all(|byte| *byte == ident as u8));
                }
                let (count, bytes) = fragments.held();
                prop_assert!(count <= 3 && bytes <= 1 << 16);
                let real: usize = fragments.under_way.iter().flat_map(|assembly| &assembly.parts).map(cost).sum();
                prop_assert_eq!(real, bytes);
            }
            now = now + Duration::from_secs(60);
            while fragments.expire(now).is_some() {}
            prop_assert_eq!((fragments.held(), heap.stats().objects_live), ((0, 0), 0));
            prop_assert!(fragments.deadline().is_none());
        }

        /// Parts of one packet in any order make that packet.
        #[test]
        fn order_does_not_matter(lens in proptest::collection::vec(1usize..20, 1..20), seed: u64) {
            let heap = heap();
            let bytes: Vec<u8> = (0..lens.iter().sum::<usize>() * 8).map(|n| (n * 7) as u8).collect();
            let mut parts = Vec::new();
            let mut offset = 0;
            for len in &lens {
                let end = offset + len * 8;
                parts.push((offset, end, end < bytes.len()));
                offset = end;
            }
            fastrand::Rng::with_seed(seed).shuffle(&mut parts);
            let mut fragments = fragments(1, 1 << 20);
            let mut done = None;
            for (start, end, more) in parts {
                prop_assert!(done.is_none());
                done = fragments.add(&heap, key(1), part(&heap, start, &bytes[start..end], more), Instant::default());
            }
            prop_assert_eq!(done.unwrap().data.to_vec(), bytes);
        }
    }
}
