//! What requests do, and how they end.

use std::fs::{File, OpenOptions};

use super::*;
use crate::device::uring::Durability;

#[test]
fn what_is_written_is_read_back() {
    let heap = heap(16 << 20);
    for directory in directories() {
        for durability in [Durability::Each, Durability::Group] {
            let config = UringConfig { durability, ..config(&path_in(&directory)) };
            let mut rig = Rig::new(&heap, &config);
            let block = rig.device.caps().block_size;
            let longest = rig.device.caps().max_transfer;
            for (turn, len) in [block, 4096, 64 << 10, longest].into_iter().enumerate() {
                for durable in [false, true] {
                    let seed = turn as u64 * 2 + u64::from(durable);
                    let data = pattern(&heap, seed, len);
                    let offset = SIZE - len as u64 - (turn * block) as u64;
                    rig.write(offset, data.clone(), durable).unwrap();
                    assert_eq!(rig.read(offset, len).unwrap(), data[..]);
                }
            }
            if rig.is_registered() {
                assert_eq!(rig.counter("uring_unregistered"), 0);
            }
            assert_eq!(rig.counter("uring_syncs"), if durability == Durability::Group { 4 } else { 0 });
        }
        // It is in the file, and not only in a cache of the device's own.
        let file = std::fs::read(path_in(&directory)).unwrap();
        assert_eq!(file[SIZE as usize - 512..], pattern(&heap, 1, 512)[..]);
    }
}

#[test]
fn segments_are_gathered() {
    let heap = heap(16 << 20);
    for directory in directories() {
        let mut rig = Rig::new(&heap, &config(&path_in(&directory)));
        let block = rig.device.caps().block_size;
        for count in 1..=rig.device.caps().max_segments {
            let data: SgArray = (0..count).map(|at| pattern(&heap, at as u64, block * (at + 1))).collect();
            let bytes = data.to_vec();
            rig.write(8192, data, count % 2 == 0).unwrap();
            assert_eq!(rig.read(8192, bytes.len()).unwrap(), bytes);
        }
    }
}

#[test]
fn memory_that_is_not_registered_in_one_piece_goes_by_address() {
    let (heap, other) = (heap(16 << 20), heap(2 << 20));
    for directory in directories() {
        let device = Uring::open_in_pieces(&heap, &config(&path_in(&directory)), 64 << 10).unwrap();
        let mut rig = Rig::of(&heap, device);
        if !rig.is_registered() {
            continue;
        }
        // None of them fits in one piece of 64 KiB.
        let wide: Vec<Buf> = (0..3).map(|seed| pattern(&heap, seed, 96 << 10)).collect();
        for data in &wide {
            rig.write(0, data.clone(), false).unwrap();
            assert_eq!(rig.read(0, data.len()).unwrap(), data[..]);
        }
        let straddling = rig.counter("uring_unregistered");
        assert_eq!(straddling, 6);
        // Two segments in different pieces.
        let parts: SgArray = wide.iter().map(|buf| buf.slice(..4096)).collect();
        rig.write(0, parts.clone(), false).unwrap();
        assert_eq!(rig.read(0, parts.len()).unwrap(), parts.to_vec());
        assert!(rig.counter("uring_unregistered") > straddling);
        // Of another heap.
        let foreign = pattern(&other, 9, 4096);
        let before = rig.counter("uring_unregistered");
        rig.write(4096, foreign.clone(), true).unwrap();
        assert_eq!(rig.read(4096, 4096).unwrap(), foreign[..]);
        assert_eq!(rig.counter("uring_unregistered"), before + 1);
    }
}

#[test]
fn what_is_beyond_the_device_is_refused() {
    let heap = heap(16 << 20);
    for directory in directories() {
        let mut rig = Rig::new(&heap, &config(&path_in(&directory)));
        let caps = rig.device.caps().clone();
        let block = caps.block_size;
        let refused =
            |result: Result<(), Error>| assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
        let data = pattern(&heap, 1, 2 * block);
        refused(rig.write(1, data.clone(), false));
        refused(rig.write(0, data.slice(..block + 1), false));
        refused(rig.write(caps.capacity - block as u64, data.clone(), false));
        refused(rig.write(u64::MAX - (block as u64 - 1), data.clone(), false));
        refused(rig.write(0, Buf::empty(), false));
        refused(rig.write(0, SgArray::new(), true));
        refused(rig.read(caps.capacity, block).map(drop));
        refused(rig.read(0, caps.max_transfer + block).map(drop));
        if caps.memory_align > 1 {
            refused(rig.write(0, data.slice(1..=block), false));
        }
        // Together long enough, but not each.
        let uneven: SgArray = [data.slice(..block / 2), data.slice(..block / 2)].into_iter().collect();
        refused(rig.write(0, uneven, false));
        refused(rig.run(Command::Discard { offset: 0, len: caps.capacity + block as u64 }).result);
        assert_eq!(rig.counter("uring_refused"), 10 + u64::from(caps.memory_align > 1));
        assert_eq!(rig.counter("uring_enters"), 0, "the kernel has not been asked");
    }
}

#[test]
fn flushes_and_discards_end() {
    let heap = heap(16 << 20);
    for directory in directories() {
        let config = UringConfig { discard: Some(true), ..config(&path_in(&directory)) };
        let mut rig = Rig::new(&heap, &config);
        assert!(rig.device.caps().discard);
        let data = pattern(&heap, 1, 64 << 10);
        rig.write(0, data.clone(), false).unwrap();
        assert_eq!(rig.run(Command::Flush).result, Ok(()));
        assert_eq!(rig.counter("uring_syncs"), 1);
        assert_eq!(rig.run(Command::Discard { offset: 4096, len: 8192 }).result, Ok(()));
        let read = rig.read(0, 64 << 10).unwrap();
        assert_eq!(read[..4096], data[..4096]);
        assert_eq!(read[4096..12288], [0; 8192], "a hole");
        assert_eq!(read[12288..], data[12288..]);
        assert_eq!(std::fs::metadata(path_in(&directory)).unwrap().len(), SIZE);
    }
}

#[test]
fn many_flushes_and_durable_writes_share_syncs() {
    let heap = heap(16 << 20);
    let Some(directory) = directories().into_iter().next() else { return };
    let config = UringConfig { durability: Durability::Group, ..config(&path_in(&directory)) };
    let mut rig = Rig::new(&heap, &config);
    let tags: Vec<u64> = (0..64)
        .map(|at| match at % 4 {
            0 => rig.submit(Command::Flush),
            _ => {
                let data = pattern(&heap, at, 4096).into();
                rig.submit(Command::Write { offset: at * 4096, data, durable: true })
            }
        })
        .collect();
    for tag in tags {
        assert_eq!(rig.wait(tag).result, Ok(()));
    }
    let syncs = rig.counter("uring_syncs");
    assert!((1..64).contains(&syncs), "{syncs} syncs for 64 requests");
}

#[test]
fn beyond_its_depth_a_request_comes_back() {
    let heap = heap(16 << 20);
    for directory in directories() {
        let mut rig = Rig::new(&heap, &UringConfig { depth: 3, ..config(&path_in(&directory)) });
        assert_eq!(rig.device.caps().depth, 3);
        for round in 0..50 {
            rig.submit(Command::Flush);
            // One that is refused takes a place too, until it is handed out.
            rig.submit(Command::Read { offset: 1, into: heap.alloc(512).unwrap() });
            rig.submit(Command::Write { offset: 0, data: pattern(&heap, round, 4096).into(), durable: true });
            let data = pattern(&heap, 7, 4096);
            let request = Request {
                tag: 77,
                command: Command::Write { offset: 0, data: data.clone().into(), durable: true },
            };
            let back = rig.device.submit(&cx(&heap), request).expect_err("there is no room");
            let Command::Write { offset: 0, data: same, durable: true } = back.command else { panic!() };
            assert_eq!((back.tag, &same.segments()[0][..]), (77, &data[..]));
            let mut ended = 0;
            while ended < 3 {
                ended += rig.poll();
            }
            assert_eq!(rig.done.len(), 3);
            rig.done.clear();
        }
        assert_eq!(rig.poll(), 0);
    }
}

#[test]
fn what_is_gone_from_a_file_is_not_read_as_what_was_there() {
    let heap = heap(16 << 20);
    for directory in directories() {
        let mut rig = Rig::new(&heap, &config(&path_in(&directory)));
        rig.write(0, pattern(&heap, 1, 64 << 10), true).unwrap();
        let file = OpenOptions::new().write(true).open(path_in(&directory)).unwrap();
        file.set_len(6144).unwrap();
        assert_eq!(rig.read(0, 4096).unwrap(), pattern(&heap, 1, 64 << 10)[..4096]);
        // Ends inside, at a block's border; ends inside a block; begins behind the end.
        assert_eq!(rig.read(4096, 4096), Err(Error::Io));
        file.set_len(6144 + 100).unwrap();
        assert!(rig.read(4096, 4096).is_err());
        assert_eq!(rig.read(8192, 4096), Err(Error::Io));
    }
}

#[test]
fn buffers_come_back_when_a_device_goes_with_requests_under_way() {
    let heap = heap(16 << 20);
    for directory in directories() {
        for _ in 0..10 {
            let mut rig = Rig::new(&heap, &config(&path_in(&directory)));
            for at in 0..64 {
                let data = pattern(&heap, at, 16 << 10).into();
                rig.submit(Command::Write { offset: at * (16 << 10), data, durable: at % 2 == 0 });
                rig.submit(Command::Read { offset: at * (16 << 10), into: heap.alloc(16 << 10).unwrap() });
            }
            rig.poll();
            rig.submit(Command::Flush);
            drop(rig);
            assert_eq!(heap.stats().bytes_live, 0);
        }
        // The lock is gone with it, and the last writes are there.
        let mut rig = Rig::new(&heap, &config(&path_in(&directory)));
        assert_eq!(rig.read(63 * (16 << 10), 16 << 10).unwrap(), pattern(&heap, 63, 16 << 10)[..]);
    }
}

#[test]
fn a_disk_without_o_direct_is_used_through_the_page_cache() {
    let heap = heap(16 << 20);
    for directory in directories() {
        let config = UringConfig { direct: false, ..config(&path_in(&directory)) };
        let mut rig = Rig::new(&heap, &config);
        assert_eq!(rig.device.caps().memory_align, 1);
        let data = pattern(&heap, 3, 8192);
        rig.write(4096, data.slice(1..4097), true).unwrap();
        assert_eq!(rig.read(4096, 4096).unwrap(), data[1..4097]);
        assert_eq!(File::open(path_in(&directory)).unwrap().metadata().unwrap().len(), SIZE);
    }
}

#[test]
fn holes_are_read_as_zeros_and_filled() {
    let heap = heap(16 << 20);
    for directory in directories() {
        File::create(path_in(&directory)).unwrap().set_len(SIZE).unwrap();
        let mut rig = Rig::new(&heap, &config(&path_in(&directory)));
        assert_eq!(rig.read(8192, 4096).unwrap(), [0; 4096]);
        for durable in [false, true] {
            let tags: Vec<u64> = (0..64)
                .map(|at| {
                    let data = pattern(&heap, at, 4096).into();
                    rig.submit(Command::Write { offset: at * 65536 / 2, data, durable })
                })
                .collect();
            for tag in tags {
                assert_eq!(rig.wait(tag).result, Ok(()));
            }
        }
        assert_eq!(rig.read(63 * 65536 / 2, 4096).unwrap(), pattern(&heap, 63, 4096)[..]);
        assert_eq!(rig.read(4096, 4096).unwrap(), [0; 4096]);
    }
}

#[test]
fn a_heap_larger_than_a_registered_piece_is_registered_whole() {
    let Some(directory) = directories().pop() else { return };
    let heap = heap((1 << 30) + (256 << 20));
    let mut rig = Rig::new(&heap, &config(&path_in(&directory)));
    if !rig.is_registered() {
        return;
    }
    let large: Vec<Buf> = (0..9).map(|seed| pattern(&heap, seed, 128 << 20).slice(..4096)).collect();
    let beyond = large.iter().filter(|buf| buf.offset() >= 1 << 30).count();
    assert!(beyond > 0, "one of them lies behind the first GiB");
    for data in large {
        rig.write(0, data.clone(), false).unwrap();
        assert_eq!(rig.read(0, 4096).unwrap(), data[..]);
    }
    assert_eq!(rig.counter("uring_unregistered"), 0);
}
