//! Two links of one directory.

use std::net::IpAddr;

use demi_api::time::Instant;

use super::super::*;
use crate::soft::link::{FRONT, Packet, Payload};

/// Links in a directory of their own.
pub(super) struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    pub(super) fn new() -> Machine {
        Machine { directory: tempfile::tempdir().unwrap() }
    }

    pub(super) fn config(&self, number: u8) -> ShmConfig {
        ShmConfig {
            directory: self.directory.path().join("in/here"),
            address: address(number),
            ring_log2: 3,
            ..ShmConfig::default()
        }
    }

    pub(super) fn link(&self, number: u8) -> Shm {
        Shm::open(&self.config(number)).unwrap()
    }
}

pub(super) fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

/// Whatever comes in one turn, or, if nothing does but the link has looked at its sockets, in the next: the path, and the packet,
/// whose headers have `headers` bytes.
pub(super) fn turn(link: &mut Shm, headers: usize) -> Vec<(ShmPath, Vec<u8>)> {
    let mut all = once(link, headers);
    if all.is_empty() {
        all = once(link, headers);
    }
    all
}

fn once(link: &mut Shm, headers: usize) -> Vec<(ShmPath, Vec<u8>)> {
    let mut all = Vec::new();
    link.receive(Instant::default() + Duration::from_secs(1), 64, |path, packet| {
        let mut bytes = packet.front()[..headers].to_vec();
        let payload = packet.payload(headers..packet.len());
        let at = bytes.len();
        bytes.resize(at + payload.len(), 0);
        payload.copy(0, &mut bytes[at..]);
        all.push((path, bytes));
    });
    link.look_at = Instant::default();
    all
}

fn packet(number: u32, headers: usize, payload: usize) -> (Vec<u8>, Vec<u8>) {
    let byte = |at: usize| (number as usize * 7 + at * 3) as u8;
    ((0..headers).map(byte).collect(), (headers..headers + payload).map(byte).collect())
}

#[test]
fn packets_of_every_size_arrive_in_order() {
    let machine = Machine::new();
    let (mut a, mut b) = (machine.link(1), machine.link(2));
    let path = a.path(Instant::default(), address(2)).unwrap();
    let sizes = [0, 1, 2, 3, 4, 100, 232, 235, 236, 237, 240, 248, 300, 511, 512, 4095, 4096];
    let all = [12, 16, 28, 40, FRONT].into_iter().flat_map(|headers| sizes.map(|payload| (headers, payload)));
    for (number, (headers, payload)) in (0..).zip(all) {
        let (head, body) = packet(number, headers, payload);
        let (front, back) = body.split_at(payload / 3);
        a.send(path, &head, &[front, back]).unwrap();
        a.flush();
        let got = turn(&mut b, headers);
        let padded = payload.next_multiple_of(4);
        assert_eq!(got.len(), 1, "{headers} and {payload} bytes");
        assert_eq!(got[0].1.len(), headers + padded);
        assert_eq!(got[0].1[..headers + payload], [head, body].concat());
        assert_eq!(b.peer(got[0].0), Some(address(1)));
    }
}

#[test]
fn a_path_leads_back_and_is_one_for_both() {
    let machine = Machine::new();
    let (mut a, mut b) = (machine.link(1), machine.link(2));
    let there = a.path(Instant::default(), address(2)).unwrap();
    assert_eq!(a.path(Instant::default(), address(2)), Ok(there));
    a.send(there, &[1; 12], &[]).unwrap();
    let back = turn(&mut b, 12)[0].0;
    assert_eq!(b.path(Instant::default(), address(1)), Ok(back));
    b.send(back, &[2; 12], &[]).unwrap();
    b.flush();
    assert_eq!(turn(&mut a, 12), [(there, vec![2; 12])]);
    assert_eq!((a.peer(there), b.peer(back)), (Some(address(2)), Some(address(1))));
}

#[test]
fn a_link_reaches_itself_by_two_paths() {
    let machine = Machine::new();
    let mut link = machine.link(1);
    let there = link.path(Instant::default(), address(1)).unwrap();
    link.send(there, &[1; 12], &[]).unwrap();
    let got = turn(&mut link, 12);
    assert_eq!(got.len(), 1);
    assert_ne!(got[0].0, there);
    link.send(got[0].0, &[2; 12], &[]).unwrap();
    assert_eq!(turn(&mut link, 12), [(there, vec![2; 12])]);
}

#[test]
fn a_full_lane_takes_nothing_until_there_is_room() {
    let machine = Machine::new();
    let (mut a, mut b) = (machine.link(1), machine.link(2));
    let path = a.path(Instant::default(), address(2)).unwrap();
    let (mut sent, mut received) = (0_u32, 0_u32);
    for round in 0..100 {
        while a.send(path, &sent.to_be_bytes().repeat(3), &[]).is_ok() {
            sent += 1;
        }
        assert_eq!(sent - received, 8, "all slots are in use");
        a.flush();
        let most = round % 9;
        b.receive(Instant::default(), most, |_, packet| {
            assert_eq!(packet.front()[..4], received.to_be_bytes());
            received += 1;
        });
    }
    assert!(sent > 300);
}

#[test]
fn nobody_there_is_unreachable_and_an_address_is_taken_once() {
    let machine = Machine::new();
    let mut a = machine.link(1);
    assert_eq!(a.path(Instant::default(), address(9)), Err(Fault::Unreachable));
    assert_eq!(Shm::open(&machine.config(1)).err(), Some(Error::AddressInUse));
    drop(a);
    let again = machine.link(1);
    drop(again);
    assert_eq!(std::fs::read_dir(machine.config(1).directory).unwrap().count(), 0, "the file is gone");
}

#[test]
fn what_was_sent_before_the_end_arrives_and_then_the_end() {
    let machine = Machine::new();
    let (mut a, mut b) = (machine.link(1), machine.link(2));
    let path = a.path(Instant::default(), address(2)).unwrap();
    a.send(path, &[1; 12], &[]).unwrap();
    let back = turn(&mut b, 12)[0].0;
    (2..7).for_each(|number| a.send(path, &[number; 12], &[]).unwrap());
    drop(a);
    let got: Vec<u8> = turn(&mut b, 12).into_iter().map(|(_, bytes)| bytes[0]).collect();
    assert_eq!(got, [2, 3, 4, 5, 6]);
    assert_eq!(b.ended(), None);
    assert!((0..4).map(|_| turn(&mut b, 12)).all(|got| got.is_empty()));
    assert_eq!((b.ended(), b.ended()), (Some(back), None));
    assert_eq!(b.peer(back), None);
    b.send(back, &[1; 12], &[]).expect("a path that is gone swallows");
    // Its place goes to another, under another name.
    let mut a = machine.link(1);
    let path = a.path(Instant::default(), address(2)).unwrap();
    a.send(path, &[9; 12], &[]).unwrap();
    let anew = turn(&mut b, 12)[0].0;
    assert!(anew != back && anew.slot == back.slot);
}

#[test]
fn sleepers_are_woken_by_packets_and_by_room() {
    let readable = |link: &Shm| {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(link.wait_fd(), rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now)) == Ok(1)
    };
    let machine = Machine::new();
    let (mut a, mut b) = (machine.link(1), machine.link(2));
    let now = Instant::default();
    assert!(b.arm(now) && !readable(&b));
    let path = a.path(now, address(2)).unwrap();
    assert!(readable(&b), "a stranger wakes");
    a.send(path, &[1; 12], &[]).unwrap();
    a.flush();
    assert!(!b.arm(now), "there is a packet");
    let back = turn(&mut b, 12)[0].0;
    for round in 0..20 {
        assert!(b.arm(now) && !readable(&b), "round {round}");
        a.send(path, &[2; 12], &[]).unwrap();
        assert!(!readable(&b), "not before it is flushed");
        a.flush();
        assert!(readable(&b) && !b.arm(now));
        assert_eq!(turn(&mut b, 12).len(), 1);
        b.flush();
    }
    assert!(a.counters.wakes <= 21);

    // Who waits for room is woken when there is some, and only then.
    while a.send(path, &[3; 12], &[]).is_ok() {}
    turn(&mut a, 12);
    assert!(a.arm(now) && !readable(&a));
    b.send(back, &[4; 12], &[]).unwrap();
    b.flush();
    assert!(readable(&a));
    assert_eq!(turn(&mut a, 12).len(), 1);
    assert!(a.arm(now) && !readable(&a));
    turn(&mut b, 12);
    b.flush();
    assert!(readable(&a));
    assert!(!a.arm(now), "there is room");
    a.send(path, &[5; 12], &[]).unwrap();
    assert!(a.arm(now));
}
