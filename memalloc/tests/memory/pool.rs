//! Pools: buffers set aside, which come back to where they were taken from.

use demi_memalloc::{BufMut, Heap};

use crate::{SUPERBLOCK, heap};

#[test]
fn a_pool_is_exact_and_gets_its_own_back() {
    let heap = heap(2 << 20);
    let pool = heap.pool(2000, 200).unwrap();
    assert_eq!((pool.stride(), pool.capacity(), pool.available()), (2048, 200, 200));
    assert_eq!((heap.stats().pools.superblocks, heap.stats().bytes_live), (2, 0));

    let mut bufs: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!((bufs.len(), pool.available(), heap.stats().pools.live), (200, 0, 200));
    assert!(bufs.iter().all(|buf| buf.len() == 2048 && buf.capacity() == 2048));
    let mut offsets: Vec<_> = bufs.iter().map(|buf| buf.offset()).collect();
    offsets.sort_unstable();
    assert!(offsets.windows(2).all(|pair| pair[1] - pair[0] >= 2048));

    let shared = bufs.pop().unwrap().freeze();
    let slice = shared.slice(5..10);
    drop(shared);
    assert_eq!(pool.available(), 0);
    drop(slice);
    assert_eq!(pool.available(), 1);
    bufs.clear();
    assert_eq!((pool.available(), heap.stats().pools.live, heap.stats().pools.high_water), (200, 0, 200));
    let again: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!(again.len(), 200);
}

#[test]
fn a_pool_does_not_starve_when_the_heap_is_full() {
    let heap = heap(2 << 20);
    let pool = heap.pool(16 << 10, 10).unwrap();
    let fill: Vec<_> = std::iter::from_fn(|| heap.alloc(16 << 10).ok()).collect();
    assert!(fill.len() == 7 * 16 && heap.pool(64, 1).is_err());
    let out: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!(out.len(), 10);
    drop(out);
    assert_eq!(pool.available(), 10);
}

#[test]
fn a_dropped_pool_ends_with_its_last_buffer() {
    let heap = heap(2 << 20);
    let pool = heap.pool(100 << 10, 4).unwrap();
    let mut out = [pool.take().unwrap(), pool.take().unwrap(), pool.take().unwrap()];
    drop(pool);
    out[2].fill(7);
    assert_eq!(heap.stats().superblocks_free, 6);
    let [one, two, three] = out;
    drop((one, two));
    assert_eq!(heap.stats().superblocks_free, 6);
    assert!(three.iter().all(|&byte| byte == 7));
    drop(three);
    assert_eq!((heap.stats().superblocks_free, heap.stats().pools), (8, Default::default()));
    drop(heap.pool(64, 1).unwrap());
    assert_eq!(heap.stats().superblocks_free, 8);
}

#[test]
fn a_buffer_outlives_pool_and_heap() {
    let heap = heap(2 << 20);
    let pool = heap.pool(SUPERBLOCK, 2).unwrap();
    let mut buf = pool.take().unwrap();
    drop(heap);
    drop(pool);
    buf[SUPERBLOCK - 1] = 1;
    assert_eq!(buf.freeze()[SUPERBLOCK - 1], 1);
}

#[test]
fn what_cannot_be_a_pool_is_refused() {
    let heap = heap(2 << 20);
    for (stride, count) in [(SUPERBLOCK + 1, 1), (64, 0), (SUPERBLOCK, 9), (usize::MAX, 1), (64, usize::MAX)]
    {
        let error = heap.pool(stride, count).expect_err("there is no room for it");
        assert_eq!(error.free, 2 << 20);
    }
    assert_eq!(heap.stats().superblocks_free, 8);
}

#[test]
fn addresses_in_a_pool_are_found() {
    let heap = heap(2 << 20);
    let pool = heap.pool(3000, 3).unwrap();
    let bufs = [pool.take().unwrap(), pool.take().unwrap(), pool.take().unwrap()];
    for buf in &bufs {
        let object = heap.find(buf.as_ptr().wrapping_add(3007)).unwrap();
        assert_eq!((object.offset, object.capacity, object.len), (buf.offset(), 3008, 1));
    }
    assert_eq!(heap.find(bufs[0].as_ptr().wrapping_add(3 * 3008)), None, "the pool has three");
}

/// Everything that is left, in buffers of so many bytes.
fn fill(heap: &Heap, len: usize) -> Vec<BufMut> {
    std::iter::from_fn(|| heap.alloc(len).ok()).collect()
}

#[test]
fn the_reserve_is_for_what_is_urgent_and_for_when_there_is_nothing_else() {
    let heap = heap(8 * SUPERBLOCK);
    heap.set_aside(200).unwrap();
    heap.set_aside(4000).unwrap();
    drop(heap.alloc_urgent(200).unwrap());
    assert_eq!(heap.stats().pools.high_water, 0);
    let mut full = fill(&heap, 16 << 10);
    assert_eq!(full.len(), 7 * 16);
    assert!(heap.alloc(200).is_err() && heap.alloc_urgent(257).is_err());
    let urgent: Vec<_> = std::iter::from_fn(|| heap.alloc_urgent(256).ok()).collect();
    assert_eq!(urgent.len(), SUPERBLOCK / 256);
    assert!(heap.alloc(1).is_err());
    drop(urgent);
    assert_eq!(heap.alloc_urgent(90).unwrap().capacity(), 256);
    // As soon as there is other memory again, that is taken.
    full.truncate(6 * 16);
    assert_eq!(heap.alloc_urgent(90).unwrap().capacity(), 128);
}

#[test]
fn without_a_reserve_urgent_is_as_any_other() {
    let heap = heap(8 * SUPERBLOCK);
    assert!(heap.set_aside(SUPERBLOCK + 1).is_err());
    let full = fill(&heap, 128 << 10);
    assert!(heap.alloc_urgent(64).is_err() && heap.set_aside(64).is_err());
    drop(full);
    assert!(heap.alloc_urgent(64).is_ok());
}

#[test]
fn a_heap_is_short_when_an_eighth_is_left_that_no_class_merely_keeps() {
    let heap = heap(16 * SUPERBLOCK);
    let mut full = Vec::new();
    // One superblock of each of four classes, which they keep when it is empty.
    for len in [64, 1024, 4096, 16 << 10] {
        drop(heap.alloc(len).unwrap());
    }
    assert_eq!(heap.stats().superblocks_free, 12);
    while heap.stats().superblocks_free > 3 {
        full.push(heap.alloc(SUPERBLOCK).unwrap());
    }
    assert!(!heap.is_short());
    full.extend((0..4).map(|_| heap.alloc(SUPERBLOCK).unwrap()));
    // Those that were kept are counted as what they are, and there is one more than an eighth.
    assert!(!heap.is_short());
    full.push(heap.alloc(SUPERBLOCK).unwrap());
    assert!(heap.is_short());
    full.pop();
    assert!(!heap.is_short());
}
