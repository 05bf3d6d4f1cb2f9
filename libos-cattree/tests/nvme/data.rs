//! What is written is what is read.

use demi_api::error::Error;
use demi_api::memalloc::Buf;
use demi_api::sga::SgArray;
use demi_libos_cattree::device::{Buffers, Command};
use libtest_mimic::Failed;

use super::host::pattern;
use super::{Host, Place, Test};

pub(super) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("what_is_written_is_read", what_is_written_is_read),
        ("any_gather_is_written_in_order", any_gather_is_written_in_order),
        ("the_last_block_is_within_and_the_next_is_not", the_last_block_is_within_and_the_next_is_not),
        ("discarded_blocks_are_old_or_zero", discarded_blocks_are_old_or_zero),
    ]
}

/// Both namespaces, from one block to the largest transfer, from buffers that begin anywhere.
fn what_is_written_is_read(place: &Place) -> Result<(), Failed> {
    for (namespace, block) in [(1, 512), (2, 4096)] {
        let mut host = Host::open(place, namespace);
        let caps = host.caps();
        assert_eq!((caps.block_size, caps.capacity, caps.read_only), (block, 64 << 20, false));
        assert!(caps.discard && caps.max_transfer == 512 << 10 && caps.depth == 128, "{caps:?}");
        let lens = [block, 2 * block, 4096, 8192, 12288, 65536 + block.max(4096), caps.max_transfer];
        for (at, len) in lens.into_iter().enumerate() {
            for skip in [0, caps.memory_align, 512, 4096 - caps.memory_align] {
                let seed = (len + skip) as u64;
                let offset = (at * caps.max_transfer) as u64 + block as u64;
                let mut bytes = host.buffer(len + skip, seed);
                bytes.advance(skip);
                host.write(offset, bytes.freeze().into(), at % 2 == 0);
                let mut into = host.buffer(len + skip, 0);
                into.advance(skip);
                let (result, buffers) = host.run(Command::Read { offset, into });
                let (Ok(()), Buffers::Read(read)) = (result, buffers) else { panic!("no read") };
                assert!(read[..] == pattern(len + skip, seed)[skip..], "{len} bytes, {skip} into a page");
            }
        }
        assert_eq!(host.run(Command::Flush).0, Ok(()));
        assert_eq!(host.counter("nvme_unknown") + host.counter("nvme_failures"), 0);
    }
    Ok(())
}

/// Segments that meet at pages, in the middle of them, or not at all.
fn any_gather_is_written_in_order(place: &Place) -> Result<(), Failed> {
    for (namespace, block) in [(1, 512), (2, 4096)] {
        let mut host = Host::open(place, namespace);
        let mut random = fastrand::Rng::with_seed(namespace.into());
        for round in 0..40 {
            let segments: Vec<Buf> = (0..random.usize(1..=8))
                .map(|_| {
                    let len = block * random.usize(1..=(16 * 1024 / block));
                    let skip = 512 * random.usize(0..2) + 4 * random.usize(0..2);
                    let mut bytes = host.buffer(len + skip, random.u64(..));
                    bytes.advance(skip);
                    bytes.freeze()
                })
                .collect();
            let data: SgArray = segments.into_iter().collect();
            let wanted = data.to_vec();
            let offset = (random.usize(0..1000) * block) as u64;
            host.write(offset, data, round % 2 == 0);
            assert!(host.read(offset, wanted.len()) == wanted, "round {round} of namespace {namespace}");
        }
        // Slices of one buffer, next to each other, are one command.
        let whole = host.buffer(8 * block, 77).freeze();
        let data: SgArray = (0..8).map(|at| whole.slice(at * block..(at + 1) * block)).collect();
        host.write(0, data, false);
        assert!(host.read(0, 8 * block) == pattern(8 * block, 77));
    }
    Ok(())
}

fn the_last_block_is_within_and_the_next_is_not(place: &Place) -> Result<(), Failed> {
    let mut host = Host::open(place, 1);
    let capacity = host.caps().capacity;
    let last = host.buffer(512, 5).freeze();
    host.write(capacity - 512, last.clone().into(), true);
    assert!(host.read(capacity - 512, 512) == pattern(512, 5));
    let beyond = Command::Write { offset: capacity, data: last.clone().into(), durable: false };
    assert!(matches!(host.run(beyond), (Err(Error::Invalid(_)), Buffers::Written(_))));
    let half = Command::Write { offset: 0, data: last.slice(..256).into(), durable: false };
    assert!(matches!(host.run(half), (Err(Error::Invalid(_)), Buffers::Written(_))));
    let foreign = super::host::heap().copy_from(&[0; 512]).expect("room");
    let foreign = Command::Write { offset: 0, data: foreign.into(), durable: false };
    assert!(matches!(host.run(foreign), (Err(Error::Invalid(_)), Buffers::Written(_))));
    assert_eq!(host.counter("nvme_failures"), 0, "the controller was not bothered");
    Ok(())
}

fn discarded_blocks_are_old_or_zero(place: &Place) -> Result<(), Failed> {
    let mut host = Host::open(place, 2);
    let written = host.buffer(65536, 9).freeze();
    host.write(0, written.clone().into(), true);
    assert_eq!(host.run(Command::Discard { offset: 8192, len: 32768 }).0, Ok(()));
    let after = host.read(0, 65536);
    assert!(after[..8192] == written[..8192] && after[40960..] == written[40960..], "the rest stays");
    let gone = &after[8192..40960];
    assert!(gone.iter().all(|byte| *byte == 0) || *gone == written[8192..40960]);
    assert_eq!(host.run(Command::Discard { offset: 0, len: 64 << 20 }).0, Ok(()), "all of it");
    let beyond = Command::Discard { offset: 4096, len: 64 << 20 };
    assert!(matches!(host.run(beyond).0, Err(Error::Invalid(_))));
    Ok(())
}
