use demi_api::memalloc::{HeapConfig, HugePages};
use demi_api::time::Instant;
use demi_api::{Buf, Heap, SgArray};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

fn heap() -> Heap {
    Heap::new(&HeapConfig { size: 4 << 20, huge_pages: HugePages::Never, lock: false }).unwrap()
}

fn cx(heap: &Heap) -> DeviceCx<'_> {
    DeviceCx { heap, now: Instant::default() }
}

fn small() -> MemConfig {
    MemConfig { size: 16 << 12, depth: 8, max_transfer: 4 << 12, max_segments: 2, ..MemConfig::default() }
}

fn write(heap: &Heap, tag: u64, block: u64, byte: u8) -> Request {
    let data = SgArray::copy_from(heap, &[byte; 4096]).unwrap();
    Request { tag, command: Command::Write { offset: block << 12, data, durable: true } }
}

fn read(heap: &Heap, tag: u64, block: u64, blocks: usize) -> Request {
    let into = heap.alloc(blocks << 12).unwrap();
    Request { tag, command: Command::Read { offset: block << 12, into } }
}

fn readable(device: &Mem) -> bool {
    let fd = device.wait_fd();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)).unwrap() == 1
}

#[test]
fn what_is_written_is_read() {
    let heap = heap();
    let mut device = Mem::new(&small()).unwrap();
    device.submit(&cx(&heap), write(&heap, 1, 3, 7)).unwrap();
    device.submit(&cx(&heap), read(&heap, 2, 2, 3)).unwrap();
    let mut done = Vec::new();
    assert_eq!(device.poll(&cx(&heap), &mut done), 2);
    assert!(matches!(done[0], Completion { tag: 1, result: Ok(()), buffers: Buffers::Written(_) }));
    let Completion { tag: 2, result: Ok(()), buffers: Buffers::Read(bytes) } = &done[1] else {
        panic!("{:?}", done[1])
    };
    assert!(bytes[..4096].iter().all(|byte| *byte == 0) && bytes[8192..].iter().all(|byte| *byte == 0));
    assert!(bytes[4096..8192].iter().all(|byte| *byte == 7));
    assert_eq!(device.poll(&cx(&heap), &mut done), 0);
}

#[test]
fn a_full_device_gives_the_request_back() {
    let heap = heap();
    let mut device = Mem::new(&small()).unwrap();
    for tag in 0..8 {
        device.submit(&cx(&heap), Request { tag, command: Command::Flush }).unwrap();
    }
    assert_eq!(device.submit(&cx(&heap), write(&heap, 9, 0, 1)).unwrap_err().tag, 9);
    let mut done = Vec::new();
    assert_eq!(device.poll(&cx(&heap), &mut done), 8);
    device.submit(&cx(&heap), write(&heap, 9, 0, 1)).unwrap();
}

#[test]
fn its_descriptor_is_readable_while_completions_wait() {
    let heap = heap();
    let config = MemConfig { shuffle: Some(Shuffle { seed: 1, delay: 3 }), ..small() };
    let mut device = Mem::new(&config).unwrap();
    assert!(device.arm(&cx(&heap)) && !readable(&device));
    for tag in 0..8 {
        device.submit(&cx(&heap), write(&heap, tag, tag, 1)).unwrap();
    }
    let mut done = Vec::new();
    while done.len() < 8 {
        assert!(!device.arm(&cx(&heap)) && readable(&device));
        device.poll(&cx(&heap), &mut done);
    }
    assert!(device.arm(&cx(&heap)) && !readable(&device));
}

#[test]
fn what_its_capabilities_forbid_is_refused_and_changes_nothing() {
    let heap = heap();
    let block = || heap.copy_from(&[1; 4096]).unwrap();
    let sga = |parts: &[Buf]| parts.iter().cloned().collect::<SgArray>();
    let write = |offset, data| Command::Write { offset, data, durable: false };
    let shifted = heap.copy_from(&[1; 8192]).unwrap().slice(256..4352);
    let short = block().slice(..512);
    let wrong = [
        write(1, sga(&[block()])),
        write(16 << 12, sga(&[block()])),
        write(u64::MAX - 4095, sga(&[block()])),
        write(0, sga(&[])),
        write(0, sga(std::slice::from_ref(&short))),
        write(0, sga(&[short, block().slice(512..)])),
        write(0, sga(&[shifted])),
        write(0, sga(&[block(), block(), block()])),
        write(0, sga(&[heap.copy_from(&[1; 5 << 12]).unwrap()])),
        Command::Read { offset: 15 << 12, into: heap.alloc(8192).unwrap() },
        Command::Read { offset: 0, into: heap.alloc(5 << 12).unwrap() },
        Command::Discard { offset: 512, len: 4096 },
        Command::Discard { offset: 4096, len: u64::MAX - 4095 },
    ];
    let mut device = Mem::new(&small()).unwrap();
    let mut done = Vec::new();
    for (tag, command) in wrong.into_iter().enumerate() {
        let text = format!("{command:?}");
        device.submit(&cx(&heap), Request { tag: tag as u64, command }).unwrap();
        assert_eq!(device.poll(&cx(&heap), &mut done), 1);
        assert!(matches!(done[0].result, Err(Error::Invalid(_))), "{text}: {done:?}");
        done.clear();
    }
    assert!(device.image().bytes().iter().all(|byte| *byte == 0));
}

#[test]
fn a_read_only_device_is_read() {
    let heap = heap();
    let mut device = Mem::new(&MemConfig { read_only: true, ..small() }).unwrap();
    device.submit(&cx(&heap), write(&heap, 1, 0, 1)).unwrap();
    device.submit(&cx(&heap), read(&heap, 2, 0, 1)).unwrap();
    let mut done = Vec::new();
    device.poll(&cx(&heap), &mut done);
    assert_eq!(done[0].result, Err(Error::ReadOnly));
    assert_eq!(done[1].result, Ok(()));
}

#[test]
fn a_shuffled_device_completes_all_once_in_an_order_that_its_seed_decides() {
    let order = |seed| {
        let heap = heap();
        let config = MemConfig { depth: 64, shuffle: Some(Shuffle { seed, delay: 5 }), ..small() };
        let mut device = Mem::new(&config).unwrap();
        for tag in 0..64 {
            device.submit(&cx(&heap), write(&heap, tag, tag % 16, tag as u8)).unwrap();
        }
        let mut done = Vec::new();
        for _ in 0..6 {
            device.poll(&cx(&heap), &mut done);
        }
        let order: Vec<u64> = done.iter().map(|completion| completion.tag).collect();
        // The last to complete is what is there.
        for block in 0..16 {
            let last = order.iter().rfind(|tag| **tag % 16 == block).unwrap();
            assert_eq!(u64::from(device.image().bytes()[(block as usize) << 12]), *last);
        }
        order
    };
    let (first, again, other) = (order(1), order(1), order(2));
    assert_eq!(first, again);
    assert_ne!(first, other);
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert!(sorted == (0..64).collect::<Vec<_>>() && sorted != first);
}

#[test]
fn an_image_outlives_its_device_and_is_opened_again() {
    let heap = heap();
    let mut device = Mem::new(&small()).unwrap();
    let image = device.image();
    device.submit(&cx(&heap), write(&heap, 1, 2, 5)).unwrap();
    device.poll(&cx(&heap), &mut Vec::new());
    drop(device);
    image.write(8193, &[6]);
    let mut device = Mem::over(Image::new(image.into_vec()), &small()).unwrap();
    device.submit(&cx(&heap), read(&heap, 1, 2, 1)).unwrap();
    let mut done = Vec::new();
    device.poll(&cx(&heap), &mut done);
    let Buffers::Read(bytes) = &done[0].buffers else { panic!("{done:?}") };
    assert_eq!(bytes[..3], [5, 6, 5]);
}

#[test]
fn impossible_configurations_are_refused() {
    for wrong in [
        MemConfig { size: 0, ..small() },
        MemConfig { size: 4097, ..small() },
        MemConfig { block_size: 256, ..small() },
        MemConfig { block_size: 3 << 10, ..small() },
        MemConfig { max_transfer: 512, ..small() },
        MemConfig { memory_align: 0, ..small() },
        MemConfig { depth: 0, ..small() },
        MemConfig { max_segments: 0, ..small() },
    ] {
        assert!(matches!(Mem::new(&wrong), Err(Error::Invalid(_))), "{wrong:?}");
    }
}

#[test]
fn marks_take_changes_back() {
    let image = Image::new((0..100).collect());
    let mut rng = fastrand::Rng::with_seed(3);
    let mut change = |image: &Image| {
        for _ in 0..20 {
            let start = rng.usize(..100);
            let end = rng.usize(start..=100);
            image.edit(start..end, |range| rng.fill(range));
        }
    };
    change(&image);
    let (outer, at_outer) = (image.mark(), image.to_vec());
    change(&image);
    for _ in 0..3 {
        let (inner, at_inner) = (image.mark(), image.to_vec());
        change(&image);
        assert_ne!(image.to_vec(), at_inner);
        image.rewind(inner);
        assert_eq!(image.to_vec(), at_inner);
    }
    image.rewind(outer);
    assert_eq!(image.to_vec(), at_outer);
}
