use demi_api::memalloc::HeapConfig;
use proptest::prelude::*;

use super::*;

fn heap() -> Heap {
    Heap::new(&HeapConfig { size: 16 << 20, lock: false, ..HeapConfig::default() }).unwrap()
}

fn seq(number: u32) -> SeqNum {
    SeqNum(number)
}

/// A segment in a frame of 2 KiB, as a device would fill it.
fn frame(heap: &Heap, bytes: &[u8]) -> SgArray {
    let mut frame = heap.alloc(2048).unwrap();
    frame[54..54 + bytes.len()].copy_from_slice(bytes);
    frame.freeze().slice(54..54 + bytes.len()).into()
}

/// Offers `len` bytes that say where they begin, where 0 is expected next.
fn put(reassembly: &mut Reassembly, heap: &Heap, at: u32, len: usize) -> usize {
    reassembly.insert(heap, seq(0), seq(at), frame(heap, &vec![at as u8; len]))
}

fn blocks(reassembly: &mut Reassembly) -> Vec<(u32, u32)> {
    reassembly.sack_blocks().iter().map(|&(left, right)| (left.0, right.0)).collect()
}

#[test]
fn rfc2018_4_the_latest_block_comes_first_and_the_others_follow_as_reported() {
    let (heap, mut reassembly) = (heap(), Reassembly::new());
    assert!(!reassembly.has_blocks());
    for at in [1000, 3000, 5000, 7000, 9000] {
        put(&mut reassembly, &heap, at, 500);
    }
    assert_eq!(blocks(&mut reassembly), [(9000, 9500), (7000, 7500), (5000, 5500), (3000, 3500)]);
    put(&mut reassembly, &heap, 3500, 500);
    assert_eq!(blocks(&mut reassembly), [(3000, 4000), (9000, 9500), (7000, 7500), (5000, 5500)]);
    // Between two: they are one.
    put(&mut reassembly, &heap, 5500, 1500);
    assert_eq!(blocks(&mut reassembly), [(5000, 7500), (3000, 4000), (9000, 9500), (1000, 1500)]);
}

#[test]
fn rfc2883_4_a_duplicate_is_reported_once_and_before_the_block_that_holds_it() {
    let (heap, mut reassembly) = (heap(), Reassembly::new());
    put(&mut reassembly, &heap, 1000, 500);
    put(&mut reassembly, &heap, 3000, 500);
    assert_eq!(put(&mut reassembly, &heap, 1000, 500), 0);
    assert_eq!(blocks(&mut reassembly), [(1000, 1500), (1000, 1500), (3000, 3500)]);
    assert_eq!(blocks(&mut reassembly), [(1000, 1500), (3000, 3500)]);
    // The part that is not new, of a segment that is new in part.
    assert_eq!(put(&mut reassembly, &heap, 2800, 400), 200);
    assert_eq!(blocks(&mut reassembly), [(3000, 3200), (2800, 3500), (1000, 1500)]);
    // Below what is expected next.
    assert_eq!(reassembly.insert(&heap, seq(500), seq(400), frame(&heap, &[0; 100])), 0);
    assert_eq!(blocks(&mut reassembly)[0], (400, 500));
    reassembly.note_duplicate(seq(7), seq(7));
    reassembly.note_duplicate(seq(7), seq(6));
    assert_eq!(reassembly.sack_blocks().len(), 2);
}

#[test]
fn what_came_first_is_kept_and_no_byte_is_copied() {
    let (heap, mut reassembly) = (heap(), Reassembly::new());
    put(&mut reassembly, &heap, 2, 1000);
    put(&mut reassembly, &heap, 2001, 1000);
    // Over the gap and both ends of it.
    assert_eq!(put(&mut reassembly, &heap, 900, 1400), 999);
    assert_eq!(reassembly.bytes(), 2999);
    assert!(reassembly.take_ready(seq(0)).is_empty());
    let ready: Vec<_> = reassembly.take_ready(seq(2)).into_iter().collect();
    assert_eq!(
        ready.iter().map(|buf| (buf[0], buf.len())).collect::<Vec<_>>(),
        [(2, 1000), (900u32 as u8, 999), (2001u32 as u8, 1000)]
    );
    assert!(reassembly.is_empty());
    assert_eq!(heap.stats().joins, 0);
}

#[test]
fn what_lies_before_the_next_number_is_cut_off() {
    let (heap, mut reassembly) = (heap(), Reassembly::new());
    for at in [1000, 2000, 4000] {
        put(&mut reassembly, &heap, at, 600);
    }
    // The data in between came in segments with other boundaries.
    let ready: usize = reassembly.take_ready(seq(2250)).iter().map(|buf| buf.len()).sum();
    assert_eq!((ready, reassembly.bytes()), (350, 600));
    assert_eq!(blocks(&mut reassembly), [(4000, 4600)]);
    put(&mut reassembly, &heap, 4600, 600);
    assert_eq!(reassembly.take_ready(seq(4600)).len(), 1);
    put(&mut reassembly, &heap, 4000, 600);
    assert!(reassembly.take_ready(seq(5000)).is_empty());
    assert!(reassembly.is_empty());
    assert_eq!(heap.stats().objects_live, 0);
}

#[test]
fn islands_are_bounded_and_what_is_refused_is_not_reported() {
    let (heap, mut reassembly) = (heap(), Reassembly::new());
    for n in 0..1000 {
        let stored = put(&mut reassembly, &heap, 10 + 10 * n, 5);
        assert_eq!(stored, if (n as usize) < MAX_ISLANDS { 5 } else { 0 });
    }
    assert_eq!(reassembly.bytes(), 5 * MAX_ISLANDS);
    assert_eq!(blocks(&mut reassembly)[0], (10 * MAX_ISLANDS as u32, 10 * MAX_ISLANDS as u32 + 5));
    // What fills a gap is taken still, and makes room.
    assert_eq!(put(&mut reassembly, &heap, 15, 5), 5);
    assert_eq!(put(&mut reassembly, &heap, 9_000, 5), 5);
    reassembly.clear();
    assert_eq!(heap.stats().objects_live, 0);
}

#[test]
fn buffers_are_bounded() {
    let heap = Heap::new(&HeapConfig { size: 32 << 20, lock: false, ..HeapConfig::default() }).unwrap();
    let mut reassembly = Reassembly::new();
    for n in 0..MAX_PIECES as u32 + 10 {
        let stored = put(&mut reassembly, &heap, 1 + 1460 * n, 1460);
        assert_eq!(stored, if (n as usize) < MAX_PIECES { 1460 } else { 0 });
    }
    assert_eq!(heap.stats().objects_live, MAX_PIECES);
    assert_eq!(reassembly.take_ready(seq(1)).len(), MAX_PIECES);
}

/// RFC 9293 leaves the size of segments to the sender: a byte each must not pin a frame each.
#[test]
fn small_segments_are_copied_together_in_any_order() {
    let heap = heap();
    let mut orders: Vec<Vec<u32>> = vec![(0..3000).collect(), (0..3000).rev().collect()];
    orders.push((0..3000).map(|n| n / 2 + n % 2 * 1500).collect());
    orders.push((0..3000).map(|n| if n % 2 == 0 { 1500 + n / 2 } else { 1499 - n / 2 }).collect());
    for order in orders {
        let mut reassembly = Reassembly::new();
        for at in order {
            assert_eq!(put(&mut reassembly, &heap, 1 + at, 1), 1);
        }
        assert!(heap.stats().objects_live <= 5, "{}", heap.stats().objects_live);
        let ready: Vec<u8> = reassembly.take_ready(seq(1)).iter().flat_map(|buf| buf.to_vec()).collect();
        assert!(ready.into_iter().eq((0..3000u32).map(|at| (1 + at) as u8)));
    }
}

#[test]
fn when_memory_is_out_a_segment_is_refused() {
    let heap = Heap::new(&HeapConfig { size: 2 << 20, lock: false, ..HeapConfig::default() }).unwrap();
    let mut reassembly = Reassembly::new();
    put(&mut reassembly, &heap, 1, 1000);
    let small = frame(&heap, &[2; 10]);
    let mut hoard = Vec::new();
    for size in [128 << 10, 4096, 2048, 1024] {
        hoard.extend(std::iter::from_fn(|| heap.alloc(size).ok()));
    }
    assert_eq!(reassembly.insert(&heap, seq(0), seq(1001), small.clone()), 0);
    drop(hoard);
    assert_eq!(blocks(&mut reassembly), [(1, 1001)]);
    assert_eq!(reassembly.insert(&heap, seq(0), seq(1001), small), 10);
    assert_eq!(reassembly.take_ready(seq(1)).iter().map(|buf| buf.len()).sum::<usize>(), 1010);
}

#[test]
fn what_is_far_ahead_or_long_gone_is_refused() {
    let (heap, mut reassembly) = (heap(), Reassembly::new());
    for at in [REACH, 1 << 31, u32::MAX - 100, (1 << 31) + 1, (1 << 31) - 1] {
        assert_eq!(put(&mut reassembly, &heap, at, 10), 0, "{at}");
    }
    assert!(reassembly.is_empty());
    assert_eq!(put(&mut reassembly, &heap, u32::MAX - 4, 10), 5);
    assert_eq!(reassembly.take_ready(seq(0)).len(), 1);
}

/// One cell for each byte.
struct Bytes {
    cells: Vec<Option<u8>>,
    next: usize,
}

impl Bytes {
    fn runs(&self) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for at in (self.next..self.cells.len()).filter(|&at| self.cells[at].is_some()) {
            match runs.last_mut() {
                Some((_, end)) if *end == at => *end = at + 1,
                _ => runs.push((at, at + 1)),
            }
        }
        runs
    }
}

const SPACE: usize = 6000;

proptest! {
    /// The oracle is an array of bytes.
    #[test]
    fn what_is_given_out_is_what_an_array_of_bytes_holds(
        base in any::<u32>(),
        steps in prop::collection::vec(
            (0..SPACE, prop_oneof![1..20usize, 400..700usize, 1..1400usize], 0..12u8, 1..3usize), 1..80,
        ),
    ) {
        let heap = heap();
        let seq = |at: usize| SeqNum(base.wrapping_add(at as u32));
        let mut oracle = Bytes { cells: vec![None; SPACE + 1400], next: 0 };
        let mut reassembly = Reassembly::new();
        for (tag, (at, len, then, segments)) in steps.into_iter().enumerate() {
            // Each segment with bytes of its own, so that it shows whose are kept; in one or two buffers.
            let bytes: Vec<u8> = (0..len).map(|n| (tag * 31 + n) as u8).collect();
            let data: SgArray = bytes.chunks(len.div_ceil(segments)).map(|part| heap.copy_from(part).unwrap()).collect();
            let mut new = 0;
            for (cell, &byte) in oracle.cells[at..at + len].iter_mut().zip(&bytes).skip(oracle.next.saturating_sub(at)) {
                new += usize::from(cell.is_none());
                cell.get_or_insert(byte);
            }
            let held = reassembly.bytes();
            prop_assert_eq!(reassembly.insert(&heap, seq(oracle.next), seq(at), data), new);
            prop_assert_eq!(reassembly.bytes(), held + new);
            match then {
                0 => {
                    // The missing data arrives by itself, up to somewhere in or behind the first island.
                    let first = oracle.runs().first().map_or(0, |run| run.0 + len % 50);
                    oracle.next = oracle.next.max(first);
                }
                1..4 => {}
                _ => continue,
            }
            let expected: Vec<u8> = oracle.cells[oracle.next..].iter().map_while(|&cell| cell).collect();
            let ready = reassembly.take_ready(seq(oracle.next));
            prop_assert!(ready.iter().all(|buf| !buf.is_empty()));
            let ready: Vec<u8> = ready.iter().flat_map(|buf| buf.to_vec()).collect();
            prop_assert_eq!(&ready, &expected);
            oracle.next += ready.len();
            let runs = oracle.runs();
            prop_assert_eq!(reassembly.bytes(), runs.iter().map(|(begin, end)| end - begin).sum::<usize>());
            prop_assert_eq!(reassembly.is_empty(), runs.is_empty());
            reassembly.dsack = None;
            let blocks = reassembly.sack_blocks();
            prop_assert_eq!(blocks.len(), runs.len().min(4));
            for (n, block) in blocks.iter().enumerate() {
                prop_assert!(runs.iter().any(|&(begin, end)| *block == (seq(begin), seq(end))));
                prop_assert!(!blocks[..n].contains(block));
            }
        }
        drop(reassembly);
        prop_assert_eq!(heap.stats().objects_live, 0);
    }

    /// What a peer pins is in proportion to what it has sent within the window, whatever it does.
    #[test]
    fn memory_is_bounded_whatever_arrives(
        segments in prop::collection::vec((0..20_000u32, prop_oneof![Just(1usize), 1..600usize, 1..1460usize]), 1..400),
    ) {
        let heap = heap();
        let mut reassembly = Reassembly::new();
        for (at, len) in segments {
            put(&mut reassembly, &heap, 1 + at, len);
            let live = heap.stats().objects_live;
            prop_assert!(live <= reassembly.bytes() / 256 + 2 * MAX_ISLANDS, "{} for {}", live, reassembly.bytes());
        }
    }
}
