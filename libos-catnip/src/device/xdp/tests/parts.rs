//! Rings over ordinary shared memory, addresses of buffers under way, and what the kernel might say of chunks.

use std::os::fd::{AsFd, OwnedFd};

use demi_api::memalloc::Buf;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::xdp::XdpRingOffset;

use super::net::heap;
use crate::device::xdp::flight::Flight;
use crate::device::xdp::raw::{Desc, SharedRing};
use crate::device::xdp::ring::{Consumer, Producer};
use crate::device::xdp::umem::Umem;
use std::sync::atomic::Ordering::Relaxed;

const LAYOUT: XdpRingOffset = XdpRingOffset { producer: 0, consumer: 64, flags: Some(128), desc: 192 };

/// A file in memory in place of a socket: mapped twice it is both ends of a ring.
fn memory() -> OwnedFd {
    let fd = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, 1 << 16).unwrap();
    fd
}

fn both_ends(start: u32, size: u32) -> (Producer<u64>, Consumer<u64>, SharedRing<u64>) {
    let fd = memory();
    let shared = SharedRing::map(fd.as_fd(), 0, &LAYOUT, size).unwrap();
    shared.producer().store(start, Relaxed);
    shared.consumer().store(start, Relaxed);
    let producer = Producer::map(fd.as_fd(), 0, &LAYOUT, size).unwrap();
    let consumer = Consumer::map(fd.as_fd(), 0, &LAYOUT, size).unwrap();
    (producer, consumer, shared)
}

#[test]
fn a_ring_keeps_order_across_the_end_of_its_indices() {
    for start in [0, 5, u32::MAX - 100] {
        let (mut producer, mut consumer, _) = both_ends(start, 8);
        let (mut sent, mut got, mut step) = (0_u64, 0_u64, 1);
        while got < 1000 {
            step = step * 5 % 9 + 1;
            let room = producer.room_for(step);
            assert!(u64::from(room) <= 8 - (sent - got));
            for _ in 0..room.min(step) {
                producer.put(sent);
                sent += 1;
            }
            assert_eq!(u64::from(consumer.ready()), consumer.ready().into());
            producer.publish();
            assert_eq!(u64::from(producer.untaken()), sent - got);
            for _ in 0..(step / 2).max(1) {
                let Some(entry) = consumer.take() else { break };
                assert_eq!(entry, got);
                got += 1;
            }
            consumer.release();
        }
    }
}

#[test]
fn what_is_not_published_is_not_seen_and_what_is_not_released_not_reused() {
    let (mut producer, mut consumer, _) = both_ends(0, 4);
    assert_eq!(producer.room_for(9), 4);
    (0..4).for_each(|entry| producer.put(entry));
    assert_eq!((consumer.ready(), consumer.take()), (0, None));
    producer.publish();
    assert_eq!((consumer.ready(), producer.room_for(1)), (4, 0));
    assert_eq!(consumer.take(), Some(0));
    assert_eq!(producer.room_for(1), 0);
    consumer.release();
    assert_eq!((producer.room_for(1), producer.untaken()), (1, 3));
}

#[test]
fn indices_that_cannot_be_are_cut_to_the_ring() {
    let (mut producer, mut consumer, shared) = both_ends(10, 4);
    shared.producer().store(10_000, Relaxed);
    assert_eq!(consumer.ready(), 4);
    // However far the index runs ahead, it is four entries that are believed in at a time.
    (0..4).for_each(|_| assert!(consumer.take().is_some()));
    assert!(consumer.ready() <= 4);
    shared.consumer().store(9_000, Relaxed);
    assert!(producer.room_for(1) <= 4);
    assert!(producer.untaken() <= 4);
}

#[test]
fn a_layout_beyond_reason_is_refused() {
    let fd = memory();
    for (layout, size) in [
        (XdpRingOffset { desc: 1 << 40, ..LAYOUT }, 4),
        (XdpRingOffset { producer: 3, ..LAYOUT }, 4),
        (XdpRingOffset { flags: None, ..LAYOUT }, 4),
        (LAYOUT, 5),
        (LAYOUT, 0),
    ] {
        assert!(SharedRing::<Desc>::map(fd.as_fd(), 0, &layout, size).is_err(), "{layout:?}");
    }
}

#[test]
fn completions_find_their_buffers_in_any_order() {
    let heap = heap(2);
    let mut flight = Flight::new(64);
    let data_of = |addr: u64| (addr & ((1 << 48) - 1)) + (addr >> 48);
    let mut under_way = Vec::new();
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..10_000 {
        if flight.room() > 0 && rng.bool() {
            // The first bytes of the region have no room for a mark.
            let offset = if rng.u8(..) < 64 { rng.u64(..70) } else { rng.u64(64..1 << 30) };
            let addr = flight.launch(heap.copy_from(&[1]).unwrap(), offset).unwrap();
            assert_eq!((data_of(addr), addr % 2), (offset, 0));
            under_way.push(addr);
        } else if !under_way.is_empty() {
            assert!(flight.land(under_way.swap_remove(rng.usize(..under_way.len()))));
        }
        assert_eq!((flight.len(), heap.stats().objects_live), (under_way.len(), under_way.len()));
    }
    for addr in under_way {
        assert!(flight.land(addr));
        assert!(!flight.land(addr), "twice");
    }
    assert!(flight.is_empty() && heap.stats().bytes_live == 0);
    for addr in [0, 63, 64, u64::MAX, 5 << 48, 1 << 47] {
        assert!(!flight.land(addr));
    }
}

#[test]
fn a_full_table_takes_nothing() {
    let heap = heap(2);
    let mut flight = Flight::new(2);
    let addrs: Vec<_> =
        (0..2).map(|at| flight.launch(heap.copy_from(b"x").unwrap(), 64 * at).unwrap()).collect();
    assert_eq!((flight.room(), flight.launch(Buf::empty(), 9)), (0, None));
    assert!(flight.land(addrs[1]) && flight.room() == 1);
}

#[test]
fn only_lent_chunks_come_back_and_only_once() {
    let heap = heap(4);
    for chunk in [2048, 4096] {
        let mut umem = Umem::new(&heap, chunk, 300).unwrap();
        let lent: Vec<u64> = std::iter::from_fn(|| umem.lend(0)).collect();
        assert_eq!(lent.len(), 300);
        let desc = |base: u64, start: u64, len: u32| Desc { addr: base | start << 48, len, options: 0 };
        let size = chunk as u64;
        for base in lent.iter().copied() {
            assert!(base.is_multiple_of(size));
            assert!(umem.received(&desc(base, 256, (size - 256) as u32)).is_some());
            for bad in [
                desc(base, 256, (size - 255) as u32),
                desc(base, size, 1),
                desc(base, 256, 0),
                desc(base, 0, u32::MAX),
                desc(base + 1, 256, 1),
                desc(base, 0xffff, 1),
            ] {
                assert!(umem.received(&bad).is_none(), "{bad:?}");
            }
        }
        for outside in [u64::MAX, 4 << 20, (4 << 20) - size, 1 << 47] {
            let known = lent.contains(&(outside & ((1 << 48) - 1)));
            assert!(known || umem.received(&desc(outside & ((1 << 48) - 1), 256, 64)).is_none());
        }
        let piece = umem.received(&desc(lent[0], 256, 100)).unwrap();
        assert_eq!((umem.bytes(&piece).len(), umem.again(&piece)), (100, Some(lent[0])));
        let buf = umem.hand_out(&piece).unwrap();
        assert_eq!((buf.len(), buf.offset() as u64), (100, lent[0] + 256));
        assert!(umem.received(&desc(lent[0], 256, 100)).is_none(), "it is no longer lent");
        assert!(
            umem.hand_out(&piece).is_none() && umem.bytes(&piece).is_empty() && umem.again(&piece).is_none()
        );
        assert!(umem.lend(0).is_none());
        drop(buf);
        assert_eq!(umem.lend(0), Some(lent[0]));
        drop(umem);
        assert_eq!(heap.stats().bytes_live, 0);
    }
}
