//! No wake-up is lost, whichever way a queue is watched and however the instance waits.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use demi_api::addr::{Domain, SocketKind};
use demi_api::config::Config;
use demi_api::error::Error;
use demi_api::op::Done;

use crate::common::*;

const CONNECTIONS: usize = 24;
const MESSAGES: usize = 60;

/// Peers that write and then await the echo, at random moments; every pop is outstanding all the time. One
/// lost wake-up and a peer waits forever.
fn storm(settings: &str) {
    let demi = demi_with(settings);
    let (listening, addr) = listener(&demi, Domain::Inet);
    let addr = inet(&addr);
    let peers: Vec<_> = (0..CONNECTIONS)
        .map(|seed| {
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed as u64);
                let mut stream = TcpStream::connect(addr).unwrap();
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                for _ in 0..MESSAGES {
                    match random.u8(..4) {
                        0 => std::thread::sleep(Duration::from_micros(random.u64(..3000))),
                        1 => std::thread::yield_now(),
                        _ => {}
                    }
                    let message = pattern(random.usize(1..3000));
                    stream.write_all(&message).unwrap();
                    let mut echo = vec![0; message.len()];
                    stream.read_exact(&mut echo).expect("no echo: a wake-up was lost");
                    assert_eq!(echo, message);
                }
            })
        })
        .collect();

    let mut accept = Some(demi.accept(listening).unwrap());
    let (mut accepted, mut ended) = (0, 0);
    let mut pops = HashMap::new();
    let mut results = Vec::new();
    while ended < CONNECTIONS {
        demi.wait_next_n(&mut results, 64, Some(Duration::from_secs(10))).expect("within the limit");
        for result in results.drain(..) {
            match result.result {
                Ok(Done::Accepted { qd, .. }) => {
                    accepted += 1;
                    pops.insert(qd, demi.pop(qd).unwrap());
                    accept = (accepted < CONNECTIONS).then(|| demi.accept(listening).unwrap());
                }
                Ok(Done::Popped(sga)) if sga.is_empty() => {
                    pops.remove(&result.qd);
                    demi.close(result.qd).unwrap();
                    ended += 1;
                }
                Ok(Done::Popped(sga)) => {
                    demi.push(result.qd, sga).unwrap();
                    pops.insert(result.qd, demi.pop(result.qd).unwrap());
                }
                Ok(Done::Pushed(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(accept.is_none() && pops.is_empty());
    for peer in peers {
        peer.join().unwrap();
    }
}

#[test]
fn nothing_is_lost_with_the_defaults() {
    storm("");
}

#[test]
fn nothing_is_lost_when_only_the_kernel_is_asked() {
    storm("[catnap]\nspin_queues = 0\n");
}

#[test]
fn nothing_is_lost_when_queues_come_and_go() {
    storm("[catnap]\nspin_queues = 2\nspin_tries = 16\nprobe_turns = 1000\n");
}

#[test]
fn nothing_is_lost_when_all_are_tried() {
    storm("[catnap]\nspin_queues = 16\n");
}

#[test]
fn a_sleeper_is_woken_by_each_kind_of_event() {
    let demi = demi();
    let (listening, addr) = listener(&demi, Domain::Inet);
    let receiver = demi.socket(Domain::Inet, SocketKind::Datagram).unwrap();
    demi.bind(receiver, local(Domain::Inet)).unwrap();
    let receiver_addr = inet(&demi.local_addr(receiver).unwrap());
    let addr = inet(&addr);
    let nap = || std::thread::sleep(Duration::from_millis(30));
    let thread = std::thread::spawn(move || {
        nap();
        let mut stream = TcpStream::connect(addr).unwrap();
        nap();
        stream.write_all(b"stream").unwrap();
        nap();
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"datagram", receiver_addr).unwrap();
        nap();
    });
    let (server, _) = accept(&demi, listening);
    assert_eq!(pop(&demi, server).unwrap(), b"stream");
    assert_eq!(pop(&demi, receiver).unwrap(), b"datagram");
    assert_eq!(pop(&demi, server).unwrap(), b"");
    thread.join().unwrap();
    assert!(demi.counters().unwrap().sleeps >= 3);
}

#[test]
fn a_sender_without_room_sleeps_until_there_is_some() {
    let demi = demi();
    let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = connect(&demi, &listening.local_addr().unwrap().into()).unwrap();
    let mut peer = listening.accept().unwrap().0;
    let token = demi.push(client, demi.copy_from(&pattern(8 << 20)).unwrap()).unwrap();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        peer.read_exact(&mut vec![0; 8 << 20]).unwrap();
    });
    completion(&demi, token).pushed().unwrap();
    thread.join().unwrap();
    assert!(demi.counters().unwrap().sleeps > 0);
}

#[test]
fn a_busy_receiver_still_learns_that_there_is_room_to_send() {
    let demi = demi();
    let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = connect(&demi, &listening.local_addr().unwrap().into()).unwrap();
    let mut peer = listening.accept().unwrap().0;
    let pushed = demi.push(client, demi.copy_from(&pattern(8 << 20)).unwrap()).unwrap();
    assert!(is_pending(&demi, pushed));
    for _ in 0..600 {
        let token = demi.pop(client).unwrap();
        peer.write_all(b"x").unwrap();
        assert_eq!(completion(&demi, token).popped().unwrap().to_vec(), b"x");
    }
    let thread = std::thread::spawn(move || peer.read_exact(&mut vec![0; 8 << 20]).unwrap());
    completion(&demi, pushed).pushed().unwrap();
    thread.join().unwrap();
}

#[test]
fn idle_queues_are_not_tried() {
    let demi = demi();
    let pairs: Vec<_> = (0..100).map(|_| pair(&demi, Domain::Unix)).collect();
    let pops: Vec<_> = pairs.iter().map(|(_, server)| demi.pop(*server).unwrap()).collect();
    let (client, server) = pair(&demi, Domain::Inet);
    for _ in 0..2000 {
        push(&demi, client, b"busy").unwrap();
        pop(&demi, server).unwrap();
    }
    let before = counter(&demi, "recv_again");
    for _ in 0..1000 {
        push(&demi, client, b"busy").unwrap();
        pop(&demi, server).unwrap();
    }
    let tried = counter(&demi, "recv_again") - before;
    assert!(tried < 10_000, "{tried} fruitless receives for 1000 messages beside 100 idle queues");
    assert!(pops.iter().all(|token| demi.cancel(*token).is_ok()));
}

#[test]
fn an_instance_that_never_spins_goes_on_after_a_sleep() {
    let config = "[heap]\nsize_mib = 16\nlock = false\n[wait]\nspin_min_us = 0\nspin_max_us = 0\n";
    let demi = Demi::new(&Config::parse(config, "test").unwrap()).unwrap();
    let (near, far) = pair(&demi, Domain::Inet);
    for round in 0..3 {
        let token = demi.pop(far).unwrap();
        assert!(is_pending(&demi, token));
        push(&demi, near, &[round]).unwrap();
        assert_eq!(completion(&demi, token).popped().unwrap().to_vec(), [round]);
    }
}

/// Tasks run in `block_on` alone: a wait beside one that could run sleeps all the same.
#[test]
fn a_wait_sleeps_beside_a_task_that_it_does_not_run() {
    let demi = demi();
    let task = demi.spawn(async { 7 }).unwrap();
    let (_near, far) = pair(&demi, Domain::Inet);
    let token = demi.pop(far).unwrap();
    let before = demi.counters().unwrap().sleeps;
    assert!(is_pending(&demi, token));
    assert_ne!(demi.counters().unwrap().sleeps, before);
    assert_eq!(demi.block_on(task).unwrap(), Ok(7));
}

#[test]
fn every_spinning_socket_is_tried_in_every_turn() {
    for count in [1, 8, 9, 16] {
        let demi = demi_with("[catnap]\nspin_queues = 16\n");
        let pairs: Vec<_> = (0..count).map(|_| pair(&demi, Domain::Inet)).collect();
        let pops: Vec<_> = pairs.iter().map(|(_, server)| demi.pop(*server).unwrap()).collect();
        for (client, _) in &pairs {
            push(&demi, *client, b"x").unwrap();
        }
        // Polling alone never arms, which would look at all of them.
        for _ in 0..100_000 {
            demi.poll().unwrap();
        }
        for pop in pops {
            assert_eq!(
                demi.wait(pop, Some(Duration::ZERO)).unwrap().popped().unwrap().to_vec(),
                b"x",
                "of {count}"
            );
        }
    }
}

#[test]
fn results_in_hand_leave_the_libos_its_turns() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    let pop = demi.pop(server).unwrap();
    let before = demi.counters().unwrap().turns;
    for _ in 0..320 {
        push(&demi, client, b"x").unwrap();
    }
    assert!(demi.counters().unwrap().turns - before >= 9, "a turn for every 32 results");
    assert!(!demi.wait(pop, Some(Duration::ZERO)).unwrap().popped().unwrap().is_empty());

    let interrupter = demi.interrupter().unwrap();
    interrupter.interrupt();
    std::thread::sleep(Duration::from_millis(5));
    let interrupted = (0..100).any(|_| {
        let token = demi.push(client, demi.copy_from(b"y").unwrap()).unwrap();
        if let Err(error) = demi.wait(token, Some(Duration::from_secs(1))) {
            assert_eq!(error, Error::Interrupted);
            completion(&demi, token).pushed().unwrap();
            return true;
        }
        false
    });
    assert!(interrupted, "an instance that is never short of results still hears of it");
}
