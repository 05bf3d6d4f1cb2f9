//! The heap by itself: classes, large objects, running out, finding, the account.

use crate::{SUPERBLOCK, heap};
use demi_memalloc::{Heap, HeapConfig, HeapError, HugePages, OutOfMemory, Pages};

#[test]
fn the_region_is_as_configured_and_reported() {
    let heap = Heap::new(&HeapConfig { size: 3 << 20, ..HeapConfig::default() }).unwrap();
    let (region, stats) = (heap.region(), heap.stats());
    assert_eq!((region.len, stats.region_size, stats.superblocks_free), (4 << 20, 4 << 20, 16));
    assert_eq!(region.base.addr() % SUPERBLOCK, 0);
    assert!(region.page_size.is_power_of_two() && region.page_size >= 4096);
    assert_eq!(region.page_size > 4096, stats.pages == Pages::Huge);
    assert!(heap.contains(region.base) && heap.contains(region.base.wrapping_add(region.len - 1)));
    assert!(
        !heap.contains(region.base.wrapping_add(region.len)) && !heap.contains(region.base.wrapping_sub(1))
    );
}

#[test]
fn a_region_that_cannot_be_had_is_an_error() {
    let config = HeapConfig { size: 1 << 40, ..HeapConfig::default() };
    assert!(matches!(Heap::new(&config), Err(HeapError::TooLarge { .. })));
    // More reserved huge pages than any machine that runs tests has set aside.
    let config = HeapConfig { size: 64 << 30, huge_pages: HugePages::Require, lock: false };
    assert!(matches!(Heap::new(&config), Err(HeapError::HugePages { .. })));
}

#[test]
fn objects_are_aligned_to_their_size_or_a_cache_line() {
    let heap = heap(8 << 20);
    for len in (0..22).map(|shift| 1 << shift) {
        let (one, two) = (heap.alloc(len).unwrap(), heap.alloc(len).unwrap());
        for buf in [one, two] {
            assert_eq!(buf.as_ptr().addr() % len.clamp(64, 4096), 0, "{len} B");
            assert!(buf.capacity() >= len && (buf.capacity() == len || !(64..=128 << 10).contains(&len)));
        }
    }
    assert_eq!(heap.alloc(65).unwrap().as_ptr().addr() % 64, 0);
    assert_eq!(heap.alloc(0).unwrap().len(), 0);
    assert_eq!(heap.stats().bytes_live, 0);
}

#[test]
fn running_out_is_an_error_and_passes() {
    let heap = heap(2 << 20);
    // The interpreter would take minutes to use up the small ones.
    let smallest = if cfg!(miri) { 10_000 } else { 64 };
    for len in [smallest, 1500.max(smallest), 100_000, 128 << 10, 2 << 20] {
        let mut bufs = Vec::new();
        let error = loop {
            match heap.alloc(len) {
                Ok(buf) => bufs.push(buf),
                Err(error) => break error,
            }
        };
        let live: usize = bufs.iter().map(|buf| buf.capacity()).sum();
        assert_eq!(error, OutOfMemory { requested: len, free: (2 << 20) - live });
        assert_eq!(heap.stats().bytes_live, live);
        assert_eq!(heap.alloc(len).err(), Some(error), "asking again changes nothing");
        drop(bufs.pop());
        assert!(heap.alloc(len).is_ok());
        drop(bufs);
        assert_eq!((heap.stats().bytes_live, heap.stats().objects_live), (0, 0));
    }
    for len in [(2 << 20) + 1, u32::MAX as usize, usize::MAX] {
        assert_eq!(heap.alloc(len).err(), Some(OutOfMemory { requested: len, free: 2 << 20 }));
    }
}

#[test]
fn empty_superblocks_serve_other_classes() {
    let heap = heap(2 << 20);
    // Each class keeps one, of which there are more than superblocks: they are collected when needed.
    for len in (6..18).map(|shift| 1 << shift) {
        heap.alloc(len).unwrap();
    }
    assert!(heap.stats().superblocks_free < 8);
    let all = heap.alloc(2 << 20).unwrap();
    assert_eq!((all.capacity(), heap.stats().superblocks_free), (2 << 20, 0));
    assert!(heap.alloc(1).is_err());
}

#[test]
fn a_class_keeps_one_empty_superblock() {
    let heap = heap(2 << 20);
    let mut bufs: Vec<_> = (0..8).map(|_| heap.alloc(64 << 10).unwrap()).collect();
    let class = |heap: &Heap| heap.stats().classes.into_iter().find(|class| class.size == 64 << 10).unwrap();
    assert_eq!((class(&heap).live, class(&heap).superblocks), (8, 2));
    bufs.drain(..4);
    assert_eq!((class(&heap).live, class(&heap).superblocks), (4, 2));
    bufs.clear();
    assert_eq!((class(&heap).live, class(&heap).superblocks, class(&heap).high_water), (0, 1, 8));
}

#[test]
fn large_objects_are_runs_that_coalesce() {
    let heap = heap(4 << 20);
    let mut bufs: Vec<_> = (0..8).map(|_| heap.alloc(SUPERBLOCK + 1).unwrap()).collect();
    assert!(heap.alloc(SUPERBLOCK + 1).is_err());
    let stats = heap.stats();
    assert_eq!((stats.large.live, stats.large.superblocks, stats.superblocks_free), (8, 16, 0));

    // Every second run: half is free, but no three superblocks in a row.
    for at in (0..4).rev() {
        bufs.remove(2 * at);
    }
    assert_eq!(
        heap.alloc(3 * SUPERBLOCK).err(),
        Some(OutOfMemory { requested: 3 * SUPERBLOCK, free: 2 << 20 })
    );
    bufs.truncate(2);
    let large = heap.alloc(6 * SUPERBLOCK).expect("neighbours have coalesced");
    assert_eq!((large.len(), large.capacity()), (6 * SUPERBLOCK, 6 * SUPERBLOCK));
}

#[test]
fn any_address_finds_its_object() {
    let heap = heap(4 << 20);
    for len in [1, 64, 100, 1536, 6000, 90_000, 128 << 10, SUPERBLOCK, 1 << 20] {
        let mut bufs = [heap.alloc(len).unwrap(), heap.alloc(len).unwrap()];
        for buf in &mut bufs {
            let (head, capacity) = (buf.as_mut_ptr().cast_const(), buf.capacity());
            for at in [0, 1, len / 2, len - 1, capacity - 1] {
                let object = heap.find(head.wrapping_add(at)).expect("it is live");
                assert_eq!(
                    (object.offset, object.capacity, object.len),
                    (buf.offset(), capacity, capacity - at)
                );
            }
        }
        let gone = bufs.map(|mut buf| buf.as_mut_ptr().wrapping_add(len / 2).cast_const());
        assert_eq!(gone.map(|ptr| heap.find(ptr)), [None, None]);
    }
    let foreign = [0u8; 4];
    assert_eq!(heap.find(foreign.as_ptr()), None);
    assert_eq!(heap.find(std::ptr::null()), None);
    assert_eq!(heap.find(heap.region().base.wrapping_add(heap.region().len)), None);
}

#[test]
fn foreign_bytes_are_copied_and_counted() {
    let heap = heap(2 << 20);
    let bufs = [heap.copy_from(b"abc").unwrap(), heap.copy_from(&[7; 5000]).unwrap()];
    assert_eq!((&bufs[0][..], &bufs[1][..]), (&b"abc"[..], &[7; 5000][..]));
    let stats = heap.stats();
    assert_eq!((stats.foreign_copies, stats.foreign_bytes, stats.bytes_live), (2, 5003, 64 + 6144));
    assert!(heap.copy_from(&vec![0; 3 << 20]).is_err());
    assert_eq!(heap.stats().foreign_copies, 2);
}

#[test]
fn the_high_water_mark_stays() {
    let heap = heap(2 << 20);
    let bufs = [heap.alloc(64).unwrap(), heap.alloc(1000).unwrap()];
    drop(bufs);
    let _one = heap.alloc(64).unwrap();
    let stats = heap.stats();
    assert_eq!((stats.bytes_live, stats.bytes_high_water, stats.objects_live), (64, 64 + 1024, 1));
}

#[test]
fn buffers_outlive_the_handle() {
    let heap = heap(2 << 20);
    let (small, large) = (heap.copy_from(b"small").unwrap(), heap.copy_from(&vec![5; 300_000]).unwrap());
    let clone = heap.clone();
    drop((heap, clone));
    let slice = large.slice(1000..1005);
    drop(large);
    assert_eq!((&small[..], &slice[..]), (&b"small"[..], &[5; 5][..]));
}

#[test]
fn a_full_heap_gives_a_larger_object_if_it_is_not_much_larger() {
    let heap = heap(8 * SUPERBLOCK);
    let (one, other) = (heap.alloc(1536).unwrap(), heap.alloc(16 << 10).unwrap());
    let rest: Vec<_> = std::iter::from_fn(|| heap.alloc(SUPERBLOCK).ok()).collect();
    // Neither class has a superblock of its own, nor has any that they could have instead but that of 1536 bytes.
    let small = heap.alloc(700).unwrap();
    assert_eq!((small.capacity(), small.len()), (1536, 700));
    assert_eq!(heap.alloc(200).unwrap_err().requested, 200);
    // Only a power of two is aligned as one.
    assert!(heap.alloc(1024).is_err());
    let aligned = heap.alloc(4096).unwrap();
    assert_eq!((aligned.capacity(), aligned.offset() % 4096), (16 << 10, 0));
    drop((one, other, rest, small, aligned));
    assert_eq!(heap.stats().objects_live, 0);
    assert_eq!(heap.alloc(200).unwrap().capacity(), 256);
}

#[test]
fn the_last_superblocks_are_not_for_the_first_of_its_size() {
    let heap = heap(8 * SUPERBLOCK);
    let one = heap.alloc(1536).unwrap();
    let rest: Vec<_> = (0..6).map(|_| heap.alloc(SUPERBLOCK).unwrap()).collect();
    let other = heap.alloc(700).unwrap();
    assert_eq!((other.capacity(), heap.stats().superblocks_free), (1536, 1));
    // Unless nothing else does.
    let small = heap.alloc(200).unwrap();
    assert_eq!((small.capacity(), heap.stats().superblocks_free), (256, 0));
    drop((one, rest, other, small));
    assert_eq!(heap.alloc(700).unwrap().capacity(), 768);
}
