//! Buffers that cross threads, and find home.

use crate::heap;
use demi_memalloc::{Heap, RemoteBuf};
use std::sync::mpsc;
use std::thread;

fn remote(heap: &Heap, bytes: &[u8]) -> RemoteBuf {
    heap.copy_from(bytes).unwrap().into_remote().expect("it is the only reference")
}

#[test]
fn a_buffer_released_elsewhere_comes_home() {
    let heap = heap(2 << 20);
    let away = remote(&heap, b"over there");
    let ptr = away.as_ptr();
    assert_eq!((heap.find(ptr), heap.stats().objects_live), (None, 1));
    thread::spawn(move || assert_eq!(&away[..], b"over there")).join().unwrap();
    assert_eq!((heap.stats().bytes_live, heap.stats().remote_frees), (64, 0));
    assert_eq!(heap.drain_remote(), 1);
    let stats = heap.stats();
    assert_eq!(
        (stats.bytes_live, stats.bytes_high_water, stats.remote_frees, heap.drain_remote()),
        (0, 64, 1, 0)
    );
}

#[test]
fn a_buffer_can_come_back_as_it_was() {
    let (heap, other) = (heap(2 << 20), heap(2 << 20));
    let mut buf = heap.copy_from(b"there and back").unwrap();
    buf.advance(6);
    let away = thread::scope(|scope| {
        let away = buf.into_remote().unwrap();
        scope.spawn(move || away).join().unwrap()
    });
    let away = away.into_local(&other).expect_err("it is another heap's");
    let back = away.into_local(&heap).unwrap();
    assert_eq!(&back[..], b"and back");
    assert_eq!(heap.stats().bytes_live, 64);
    assert!(back.clone().into_remote().is_err(), "it is shared");
    drop(back);
    assert_eq!((heap.stats().bytes_live, heap.stats().remote_frees), (0, 0));
}

#[test]
fn allocation_drains_before_it_fails() {
    let heap = heap(2 << 20);
    let pool = heap.pool(64, 1).unwrap();
    let all: Vec<_> = std::iter::from_fn(|| heap.alloc(128 << 10).ok()).collect();
    let all: Vec<_> = all.into_iter().map(|buf| buf.freeze().into_remote().unwrap()).collect();
    let pooled = pool.take().unwrap().freeze().into_remote().unwrap();
    assert!(heap.alloc(1 << 20).is_err() && pool.take().is_none());
    thread::spawn(move || drop((all, pooled))).join().unwrap();
    assert!(heap.alloc(1 << 20).is_ok() && pool.take().is_some());
    assert_eq!(heap.stats().remote_frees, 15);
}

#[test]
fn a_buffer_away_keeps_the_region_not_the_heap() {
    let heap = heap(2 << 20);
    let (one, two) = (remote(&heap, b"one"), remote(&heap, b"two"));
    let local = heap.copy_from(b"local").unwrap();
    drop(heap);
    let reader = thread::spawn(move || one.len() + two.len());
    assert_eq!((&local[..], reader.join().unwrap()), (&b"local"[..], 6));
}

#[test]
fn the_high_water_mark_counts_what_is_away() {
    let heap = heap(2 << 20);
    let away = [remote(&heap, &[1; 64]), remote(&heap, &[2; 64])];
    let _here = heap.alloc(64).unwrap();
    assert_eq!((heap.stats().bytes_live, heap.stats().bytes_high_water), (192, 192));
    drop(away);
    heap.drain_remote();
    assert_eq!((heap.stats().bytes_live, heap.stats().bytes_high_water), (64, 192));
}

#[test]
fn many_threads_release_while_the_owner_allocates() {
    let (threads, rounds) = if cfg!(miri) { (2, 40) } else { (4, 20_000) };
    let heap = heap(2 << 20);
    let pool = heap.pool(2048, 16).unwrap();
    thread::scope(|scope| {
        let senders: Vec<_> = (0..threads)
            .map(|_| {
                let (sender, receiver) = mpsc::sync_channel::<(u8, RemoteBuf)>(32);
                scope.spawn(move || {
                    for (value, buf) in receiver {
                        assert!(buf.iter().all(|&byte| byte == value));
                    }
                });
                sender
            })
            .collect();
        for round in 0..rounds {
            let value = round as u8;
            let mut buf = match pool.take() {
                Some(buf) if round % 3 == 0 => buf,
                _ => heap.alloc(round % 700).expect("what is released comes home"),
            };
            buf.fill(value);
            senders[round % threads].send((value, buf.freeze().into_remote().unwrap())).unwrap();
        }
    });
    heap.drain_remote();
    let stats = heap.stats();
    assert_eq!((stats.bytes_live, stats.objects_live, stats.remote_frees), (0, 0, rounds as u64));
    assert_eq!(pool.available(), 16);
}
