//! The shim over catnap, called as a program's calls would reach it, with plain sockets of the kernel as peers.
//!
//! What programs see of it is tested in `shims/tests`; here is what threads do to each other.

mod sys;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use sys::{Shimmed, epoll};

const LIMIT: i32 = 10_000;

/// A connection that the shim has, and its peer that it does not know.
fn pair() -> (Shimmed, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = Shimmed::connect(listener.local_addr().unwrap());
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (ours, peer)
}

#[test]
fn what_one_thread_receives_wakes_another_that_waits_for_it() {
    let (first, mut first_peer) = pair();
    let (second, mut second_peer) = pair();
    thread::scope(|scope| {
        let waiting = [&first, &second].map(|ours| {
            scope.spawn(move || {
                let mut byte = [0];
                for _ in 0..500 {
                    assert_eq!(ours.read(&mut byte), Ok(1));
                    assert_eq!(ours.write(&byte), Ok(1));
                }
                byte[0]
            })
        });
        for turn in 0..500u32 {
            for peer in [&mut first_peer, &mut second_peer] {
                let mut byte = [turn as u8];
                peer.write_all(&byte).unwrap();
                peer.read_exact(&mut byte).unwrap();
                assert_eq!(byte, [turn as u8]);
            }
        }
        assert_eq!(waiting.map(|thread| thread.join().unwrap()), [243, 243]);
    });
}

#[test]
fn a_read_ends_when_another_thread_closes() {
    let (ours, _peer) = pair();
    thread::scope(|scope| {
        let reading = scope.spawn(|| ours.read(&mut [0]));
        thread::sleep(Duration::from_millis(50));
        ours.close();
        assert_eq!(reading.join().unwrap(), Err(libc::EBADF));
    });
}

#[test]
fn every_event_of_one_set_goes_to_one_of_many_threads() {
    const CONNECTIONS: usize = 8;
    let set = epoll();
    let (ours, peers): (Vec<_>, Vec<_>) = (0..CONNECTIONS).map(|_| pair()).unzip();
    for one in &ours {
        set.add(one, libc::EPOLLIN | libc::EPOLLONESHOT);
    }
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let (events, fd) = set.wait(LIMIT).expect("something comes, if only the end");
                    let one = ours.iter().find(|one| one.number() == fd).expect("one of ours");
                    let mut byte = [0];
                    match one.read(&mut byte) {
                        Ok(1) if byte == *b"q" => return,
                        Ok(1) => assert_eq!(one.write(&byte), Ok(1)),
                        other => panic!("{other:?} after {events:#x}"),
                    }
                    set.again(one, libc::EPOLLIN | libc::EPOLLONESHOT);
                }
            });
        }
        for turn in 0..50u8 {
            for mut peer in &peers {
                peer.write_all(&[turn]).unwrap();
            }
            for mut peer in &peers {
                let mut byte = [0];
                peer.read_exact(&mut byte).unwrap();
                assert_eq!(byte, [turn]);
            }
        }
        for mut peer in peers.iter().take(4) {
            peer.write_all(b"q").unwrap();
        }
    });
}

#[test]
fn an_edge_is_told_once_and_a_level_until_it_is_gone() {
    let (ours, mut peer) = pair();
    let [edge, level] = [epoll(), epoll()];
    edge.add(&ours, libc::EPOLLIN | libc::EPOLLET);
    level.add(&ours, libc::EPOLLIN);
    assert_eq!(edge.wait(0), None);
    peer.write_all(b"ab").unwrap();
    assert!(edge.wait(LIMIT).is_some());
    assert_eq!(edge.wait(0), None);
    for _ in 0..3 {
        assert!(level.wait(LIMIT).is_some());
    }
    let mut two = [0; 2];
    assert_eq!(ours.read(&mut two), Ok(2));
    assert_eq!(level.wait(0), None);
    peer.write_all(b"c").unwrap();
    assert!(edge.wait(LIMIT).is_some());
    assert_eq!(ours.read(&mut two), Ok(1));
    // What is closed leaves its sets.
    peer.write_all(b"d").unwrap();
    assert!(level.wait(LIMIT).is_some());
    ours.close();
    assert_eq!((level.wait(0), edge.wait(0)), (None, None));
}

#[test]
fn a_wait_takes_as_long_as_it_may() {
    let (ours, _peer) = pair();
    let set = epoll();
    set.add(&ours, libc::EPOLLIN);
    let since = Instant::now();
    assert_eq!(set.wait(60), None);
    assert!((Duration::from_millis(60)..Duration::from_secs(5)).contains(&since.elapsed()));
}

#[test]
fn while_the_program_computes_what_it_has_written_arrives() {
    let (ours, mut peer) = pair();
    // More than the kernel takes at once: the rest is pushed as there is room, by the guard.
    let bytes: Vec<u8> = (0..8 << 20).map(|at| (at % 251) as u8).collect();
    ours.set_nonblock();
    let mut sent = 0;
    while let Ok(count) = ours.write(&bytes[sent..]) {
        sent += count;
        if sent == bytes.len() {
            break;
        }
    }
    assert!(sent > 0);
    // Nobody calls the shim from here on.
    let mut got = vec![0; sent];
    peer.read_exact(&mut got).unwrap();
    assert!(got == bytes[..sent], "the bytes are others");
    assert!(ours.as_raw_fd() >= 0);
}
