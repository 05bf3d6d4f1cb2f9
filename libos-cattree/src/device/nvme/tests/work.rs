//! What a controller does right ends as it should, in whatever order, over any number of rounds of the queues.

use demi_api::error::Error;
use demi_api::memalloc::Buf;
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use fastrand::Rng;

use super::super::command::Status;
use super::simulated::BLOCK;
use super::{BLOCKS, Host};
use crate::device::{Buffers, Command};

/// Requests at places of their own at a time, completed in any order, some of them after failures that pass.
fn play(depth: u16, seed: u64) {
    let mut host = Host::new(depth);
    let mut random = Rng::with_seed(seed);
    let mut oracle = vec![0; BLOCKS * BLOCK];
    host.device.get().wrong.deferred = true;
    for _ in 0..60 {
        let mut expected = Vec::new();
        let mut at = 0;
        for _ in 0..random.u16(1..=depth) {
            let len = random.usize(1..=8) * BLOCK;
            if at + len > oracle.len() {
                break;
            }
            let offset = at as u64;
            let read = match random.u8(0..5) {
                0 | 1 => {
                    let tag = host.submit(host.read_into(at, len)).expect("room");
                    (tag, Some(oracle[at..at + len].to_vec()))
                }
                2 => (host.submit(Command::Flush).expect("room"), None),
                3 => {
                    oracle[at..at + len].fill(0);
                    (host.submit(Command::Discard { offset, len: len as u64 }).expect("room"), None)
                }
                _ => {
                    random.fill(&mut oracle[at..at + len]);
                    let data = gather(&host, &mut random, &oracle[at..at + len]);
                    (
                        host.submit(Command::Write { offset, data, durable: random.bool() }).expect("room"),
                        None,
                    )
                }
            };
            expected.push(read);
            at += len;
        }
        let mut left = expected.len();
        while left > 0 {
            for done in host.poll() {
                assert_eq!(done.result, Ok(()));
                let place = expected.iter().position(|(tag, _)| *tag == done.tag).expect("each ends once");
                let (_, read) = expected.swap_remove(place);
                match (read, done.buffers) {
                    (Some(wanted), Buffers::Read(bytes)) => assert!(bytes[..] == wanted, "seed {seed}"),
                    (None, Buffers::None | Buffers::Written(_)) => {}
                    (_, other) => panic!("{other:?} comes back"),
                }
                left -= 1;
            }
            let mut device = host.device.get();
            if !device.taken.is_empty() {
                if random.u8(0..20) == 0 {
                    device.wrong.ends.push(Status::new(0, 6, false));
                }
                let any = random.usize(0..device.taken.len());
                device.complete(any);
            }
        }
        assert!(host.device.get().disk == oracle, "seed {seed}");
    }
    assert_eq!(host.engine.counters.unknown, 0);
    assert!(host.engine.counters.retries > 0);
}

/// Bytes in pieces of whole blocks, which begin anywhere, and some of none.
fn gather(host: &Host, random: &mut Rng, bytes: &[u8]) -> SgArray {
    let mut data = SgArray::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        if random.u8(0..4) == 0 && data.segments().len() + rest.len() / BLOCK < MAX_SEGMENTS {
            data.push(host.heap.alloc(0).expect("room").freeze()).expect("there is room for it");
        }
        let (piece, behind) = rest.split_at(random.usize(1..=rest.len() / BLOCK) * BLOCK);
        let skip = 4 * random.usize(0..1024);
        let mut buffer = host.heap.alloc(skip + piece.len()).expect("room");
        buffer[skip..].copy_from_slice(piece);
        let buffer: Buf = buffer.freeze().slice(skip..);
        data.push(buffer).expect("there are eight blocks at most");
        rest = behind;
    }
    if data.segments().len() < MAX_SEGMENTS {
        data.push(host.heap.alloc(0).expect("room").freeze()).expect("there is room for it");
    }
    data
}

#[test]
fn requests_end_as_they_should_in_any_order() {
    for (depth, seed) in [(1, 1), (2, 2), (3, 3), (8, 4), (63, 5)] {
        play(depth, seed);
    }
}

#[test]
fn durable_writes_and_flushes_go_through_the_cache_where_there_is_one() {
    let mut host = Host::new(4);
    let bytes = host.heap.copy_from(&[7; 512]).expect("room");
    let write = |durable| Command::Write { offset: 0, data: bytes.clone().into(), durable };
    for command in [write(true), write(false), Command::Flush] {
        host.submit(command).expect("room");
    }
    assert_eq!(host.poll().len(), 3);
    assert_eq!(host.device.get().written, [(1, true), (1, false), (0, false)]);
    let device = host.device.clone();
    drop(host.engine);
    device.get().wrong.volatile_cache = false;
    device.get().written.clear();
    host.engine = super::start(&host.heap, &device, &super::config(4)).expect("it starts");
    host.submit(write(true)).expect("room");
    host.submit(Command::Flush).expect("room");
    assert_eq!(host.poll().len(), 2);
    assert_eq!(device.get().written, [(1, false)], "what is complete is durable");
}

#[test]
fn what_does_not_pass_fails_as_what_it_is() {
    let mut host = Host::new(4);
    for (status, error) in [
        (Status::new(0, 0x81, true), Error::NoSpace),
        (Status::new(1, 0x82, true), Error::ReadOnly),
        (Status::new(2, 0x81, true), Error::Io),
    ] {
        host.device.get().wrong.ends = vec![status];
        host.submit(host.write_of(0, &[1; 512])).expect("room");
        assert_eq!(host.poll()[0].result, Err(error));
    }
    // One that passes is tried three times more, in the turns that follow.
    host.device.get().wrong.ends = vec![Status::new(0, 6, false); 4];
    host.submit(host.read_into(0, 512)).expect("room");
    let done: Vec<_> = (0..8).flat_map(|_| host.poll()).collect();
    assert!(matches!(done[..], [ref one] if one.result == Err(Error::Io)));
    assert_eq!(host.engine.counters.retries, 3);
    // Of several commands one fails: the request does, once, when the last is back.
    host.device.get().wrong.deferred = true;
    host.device.get().wrong.ends = vec![Status::new(2, 0x80, true)];
    host.submit(host.write_in_three()).expect("room");
    for _ in 0..3 {
        assert!(host.poll().is_empty());
        host.device.get().complete(0);
    }
    assert_eq!(host.poll()[0].result, Err(Error::Io));
}

#[test]
fn a_device_that_may_not_be_written_is_not() {
    let mut host = Host::new(2);
    let device = host.device.clone();
    drop(host.engine);
    device.get().wrong.read_only = true;
    host.engine = super::start(&host.heap, &device, &super::config(2)).expect("it starts");
    host.submit(host.write_of(0, &[1; 512])).expect("room");
    host.submit(Command::Discard { offset: 0, len: 512 }).expect("room");
    assert!(host.poll().iter().all(|done| done.result == Err(Error::ReadOnly)));
    assert!(device.get().written.is_empty());
}
