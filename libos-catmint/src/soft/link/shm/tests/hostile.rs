//! A peer that owns the other end, and does what it likes.

use demi_api::fd::Fd;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate};

use super::super::raw::{Area, INLINE, PAGE, Word};
use super::super::*;
use super::pair::{Machine, address, turn};
use crate::soft::link::{Packet, Payload};

/// A peer made by hand: the socket, and both lanes, the one that it writes first.
struct Rogue {
    socket: Fd,
    lanes: [Lane; 2],
}

const LOG2: u8 = 2;

fn greeting() -> Greeting {
    Greeting { log2: LOG2, barriers: true, address: address(66) }
}

fn dial(machine: &Machine, number: u8) -> Fd {
    sys::connect(&machine.config(number).directory.join(address(number).to_string())).unwrap()
}

impl Rogue {
    fn connect(machine: &Machine, number: u8) -> Rogue {
        let socket = dial(machine, number);
        let file = Sealed::create(2 * lane_bytes(LOG2)).unwrap();
        assert!(sys::send(&socket, &greeting().encode(), Some(file.as_fd())));
        Rogue { socket, lanes: Lane::map_pair(&file, LOG2).unwrap() }
    }

    fn is_cut_off(&self) -> bool {
        loop {
            match sys::receive(&self.socket) {
                Received::Closed => return true,
                Received::Nothing => return false,
                Received::Message(..) => {}
            }
        }
    }
}

#[test]
fn lengths_that_cannot_be_end_the_path_and_nothing_else() {
    let machine = Machine::new();
    let mut link = machine.link(1);
    let mut good = machine.link(2);
    let path = good.path(Instant::default(), address(1)).unwrap();
    turn(&mut link, 12);
    for len in [0_u64, 11, 4145, 0xFFFF_FFFF] {
        let rogue = Rogue::connect(&machine, 1);
        rogue.lanes[0].set_mark(0, 1 << 32 | 12);
        rogue.lanes[0].set_mark(1, 2 << 32 | len);
        let got = turn(&mut link, 12).len() + turn(&mut link, 12).len();
        assert_eq!(got, 1, "what came before is received");
        assert!(rogue.is_cut_off() && link.ended().is_some());
    }
    assert_eq!(link.counters.violations, 4);
    good.send(path, &[7; 12], &[]).unwrap();
    assert_eq!(turn(&mut link, 12).len(), 1);
}

#[test]
fn headers_that_lie_about_their_length_read_nothing_outside() {
    let machine = Machine::new();
    let mut link = machine.link(1);
    let rogue = Rogue::connect(&machine, 1);
    for (next, len) in (0_u32..).zip([12, 16, 240, 248, 252, 300, 4096, 4144]) {
        rogue.lanes[0].write(next, Area::Slot, 0, &[0xAA; INLINE]);
        rogue.lanes[0].write(next, Area::Page, 0, &[0xBB; PAGE]);
        rogue.lanes[0].set_mark(next, u64::from(next + 1) << 32 | len);
        let mut seen = false;
        for _ in 0..2 {
            link.receive(Instant::default() + Duration::from_secs(9), 9, |_, packet| {
                seen = true;
                for range in
                    [0..usize::MAX, 12..len as usize, 40..4144, 248..249, 12..12, 4096..4144, 5000..6000]
                {
                    let payload = packet.payload(range);
                    let mut bytes = vec![0; payload.len()];
                    payload.copy(0, &mut bytes);
                    let fill = if len <= INLINE as u64 { 0xAA } else { 0xBB };
                    assert!(bytes.len() <= PAGE && bytes.iter().all(|&byte| byte == fill));
                }
            });
        }
        assert!(seen);
        link.look_at = Instant::default();
    }
}

#[test]
fn taking_what_was_never_sent_ends_the_path() {
    let machine = Machine::new();
    for taken in [1, 5, 1 << 31, u32::MAX] {
        let mut link = machine.link(1);
        let rogue = Rogue::connect(&machine, 1);
        rogue.lanes[0].set_mark(0, 1 << 32 | 12);
        let path = [turn(&mut link, 12), turn(&mut link, 12)].concat()[0].0;
        // The lane has four slots: with all of them full the peer's word is looked at.
        (0..4).for_each(|_| link.send(path, &[0; 12], &[]).unwrap());
        rogue.lanes[1].store(Word::Taken, if taken < 5 { taken + 4 } else { taken });
        link.send(path, &[0; 12], &[]).expect("the path is gone and swallows it");
        assert_eq!(link.ended(), Some(path));
        assert!(rogue.is_cut_off());
    }
}

#[test]
fn marks_of_other_packets_are_none() {
    let machine = Machine::new();
    let mut link = machine.link(1);
    let rogue = Rogue::connect(&machine, 1);
    for mark in [0, 12, 2 << 32 | 12, u64::MAX, 1 << 63] {
        rogue.lanes[0].set_mark(0, mark);
        assert!(turn(&mut link, 12).is_empty() && link.ended().is_none());
    }
    // All words set at random make no difference but bells.
    for word in [Word::Taken, Word::Sleeps, Word::Waits] {
        rogue.lanes[0].store(word, 0xDEAD_BEEF);
    }
    rogue.lanes[1].store(Word::Sleeps, u32::MAX);
    rogue.lanes[0].set_mark(0, 1 << 32 | 12);
    let path = turn(&mut link, 12)[0].0;
    link.send(path, &[1; 12], &[]).unwrap();
    link.flush();
    assert_eq!(link.counters.wakes, 1);
}

#[test]
fn who_does_not_greet_is_forgotten_and_who_greets_badly_refused() {
    let machine = Machine::new();
    let mut link = machine.link(1);
    let size = 2 * lane_bytes(LOG2) as u64;
    let good = greeting().encode();
    let memfd = |size: u64, seals: SealFlags| {
        let fd = rustix::fs::memfd_create("rogue", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, size).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        Fd::from(fd)
    };
    let attached = [
        Some(memfd(size, SealFlags::GROW)),
        Some(memfd(size - 1, SealFlags::SHRINK)),
        Some(memfd(size + 4096, SealFlags::SHRINK)),
        Some(memfd(size, SealFlags::SHRINK | SealFlags::WRITE)),
        Some(memfd(size, SealFlags::SHRINK | SealFlags::FUTURE_WRITE)),
        None,
    ];
    for memory in attached {
        let socket = dial(&machine, 1);
        assert!(sys::send(&socket, &good, memory.as_ref().map(AsFd::as_fd)));
        turn(&mut link, 12);
        assert!(matches!(sys::receive(&socket), Received::Closed), "{memory:?}");
    }
    let memory = memfd(size, SealFlags::SHRINK);
    for bytes in [&good[..31], &[0; 32], &[7; 64], &good[..1]] {
        let socket = dial(&machine, 1);
        assert!(sys::send(&socket, bytes, Some(memory.as_fd())));
        turn(&mut link, 12);
        assert!(matches!(sys::receive(&socket), Received::Closed));
    }
    assert_eq!(link.counters.refused, 10);

    let silent: Vec<Fd> = (0..100).map(|_| dial(&machine, 1)).collect();
    turn(&mut link, 12);
    assert_eq!(link.strangers.len(), MAX_STRANGERS);
    // They are forgotten one after the other, and who greets has his turn.
    let mut late = machine.link(2);
    let path = late.path(Instant::default(), address(1)).unwrap();
    late.send(path, &[1; 12], &[]).unwrap();
    let mut now = Instant::default() + Duration::from_secs(1);
    let mut got = 0;
    for _ in 0..100 {
        now = link.next_deadline().unwrap_or(now).max(now) + Duration::from_millis(1);
        got += link.receive(now, 9, |_, _| {});
    }
    assert_eq!((got, link.strangers.len()), (1, 0));
    drop(silent);
}

#[test]
fn there_are_no_more_paths_than_configured() {
    let machine = Machine::new();
    let mut link = Shm::open(&ShmConfig { peers: 3, ..machine.config(1) }).unwrap();
    let rogues: Vec<Rogue> = (0..5)
        .map(|_| {
            let rogue = Rogue::connect(&machine, 1);
            turn(&mut link, 12);
            rogue
        })
        .collect();
    assert_eq!(rogues.iter().filter(|rogue| rogue.is_cut_off()).count(), 2);
    drop(rogues);
    (0..9).for_each(|_| drop(turn(&mut link, 12)));
    assert_eq!(std::iter::from_fn(|| link.ended()).count(), 3);
    let _fourth = Rogue::connect(&machine, 1);
    turn(&mut link, 12);
    assert_eq!(link.counters.paths_opened, 4);
}

#[test]
fn a_flood_of_bells_costs_no_more_than_a_few_reads_a_look() {
    let machine = Machine::new();
    let mut link = machine.link(1);
    let rogue = Rogue::connect(&machine, 1);
    turn(&mut link, 12);
    let mut bells = 0;
    while sys::send(&rogue.socket, &[0; 32], None) {
        bells += 1;
    }
    assert!(bells > 16);
    turn(&mut link, 12);
    let mut again = 0;
    while sys::send(&rogue.socket, &[0; 32], None) {
        again += 1;
    }
    assert!(again < bells, "{again} of {bells} were read in one look");
    assert!(link.ended().is_none());
}
