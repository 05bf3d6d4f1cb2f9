//! Congestion marks: RFC 3168.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use demi_api::desc::QDesc;
use demi_api::sga::SgArray;
use demi_api::time::Instant;
use demi_api::{Domain, SocketKind};
use demi_libos_catnip::device::fault::{Fault, FaultConfig, Faults};
use demi_libos_catnip::device::{Caps, DeviceCx, Frame, Queue};

use crate::raw::{ACK, CWR, ECE, HOST, PSH, Raw, SYN, Seg};
use crate::world::World;

const MS: Duration = Duration::from_millis(1);

/// A router with a narrow link behind it, that marks what would wait too long.
struct Marker<D> {
    behind: D,
    /// Bytes per second.
    rate: u64,
    /// Bytes that wait before it marks.
    threshold: u64,
    free: Instant,
}

impl<D: Queue> Marker<D> {
    fn pass(&mut self, cx: &DeviceCx<'_>, frame: Frame) -> Frame {
        let len = frame.data.len() as u64;
        self.free = self.free.max(cx.now) + Duration::from_nanos(len * 1_000_000_000 / self.rate);
        let waits = (self.free - cx.now).as_nanos() as u64 * self.rate / 1_000_000_000;
        let mut bytes = frame.data.to_vec();
        if waits < self.threshold || bytes[12..14] != [8, 0] || bytes[15] & 3 == 0 {
            return frame;
        }
        bytes[15] |= 3;
        bytes[24..26].fill(0);
        let sum: u32 = bytes[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        Frame { data: SgArray::copy_from(cx.heap, &bytes).unwrap(), checksum: frame.checksum }
    }
}

impl<D: Queue> Queue for Marker<D> {
    fn caps(&self) -> &Caps {
        self.behind.caps()
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        self.behind.rx_burst(cx, inbox)
    }

    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        let mut marked = outbox.drain(..).map(|frame| self.pass(cx, frame)).collect();
        self.behind.tx_burst(cx, &mut marked)
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.behind.next_deadline()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.behind.wait_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        self.behind.arm(cx)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.behind.counters(visit);
    }
}

/// Sends so many bytes from the first host to the second.
fn send(world: &World, [near, far]: [QDesc; 2], bytes: usize) {
    let (mut left, mut got, mut pushes, mut pop) = (bytes, 0, Vec::new(), None);
    world.run(Duration::from_secs(600), |world| {
        pushes.retain(|token| world.take(0, *token).is_none());
        while left > 0 && pushes.len() < 16 {
            let len = left.min(50_000);
            let Ok(sga) = world.hosts[0].copy_from(&vec![5; len]) else { break };
            pushes.push(world.hosts[0].push(near, sga).unwrap());
            left -= len;
        }
        loop {
            let token = *pop.get_or_insert_with(|| world.hosts[1].pop(far).unwrap());
            let Some(done) = world.take(1, token) else { break };
            got += done.popped().unwrap().len();
            pop = None;
        }
        got == bytes
    });
}

#[test]
fn marks_keep_a_queue_from_overflowing() {
    let run = |ecn: &str| {
        let faults = Faults { rate: 2_500_000, queue: 100_000, delay: 10 * MS, ..Faults::default() };
        let world = World::over(1, 1500, &format!("ecn = \"{ecn}\""), "", |plug, seed| {
            let behind = Fault::new(plug, FaultConfig { seed, tx: faults.clone(), ..FaultConfig::default() });
            Box::new(Marker { behind, rate: 2_500_000, threshold: 30_000, free: Instant::default() })
        });
        let ends = world.connected(Duration::from_secs(10));
        let begin = world.now();
        send(&world, ends, 4_000_000);
        let lost = world.counter(0, "fault_tx_rate_dropped");
        let marks = (world.counter(1, "tcp_ecn_marks"), world.counter(0, "tcp_ecn_echoes"));
        (lost, marks, world.now() - begin)
    };
    let (lost, marks, _) = run("off");
    assert!(lost > 0 && marks == (0, 0), "{lost} {marks:?}");
    let (lost, (marks, echoes), took) = run("on");
    assert!(lost == 0 && marks > 0 && echoes > 0, "{lost} lost, {marks} marks, {echoes} echoes");
    assert!(took < Duration::from_millis(2400), "{took:?} where the link needs 1.6 s");
}

fn world(more: &str) -> World {
    World::over(1, 1500, more, "", |plug, _| Box::new(plug))
}

/// A connection of the raw end's to the second host; its answer to the SYN, and the descriptor there.
fn call(world: &World, raw: &mut Raw, flags: u8) -> (Seg, QDesc) {
    let host = &world.hosts[1];
    let listener = host.socket(Domain::Inet, SocketKind::Stream).unwrap();
    host.bind(listener, SocketAddr::new(HOST.into(), 80)).unwrap();
    host.listen(listener, 8).unwrap();
    let accept = host.accept(listener).unwrap();
    raw.send(world, &Seg { ports: (9, 80), seq: 100, flags, mss: Some(1460), ..Seg::default() });
    let answer = raw.one();
    let ack = answer.seq.wrapping_add(1);
    raw.send(world, &Seg { ports: (9, 80), seq: 101, ack, flags: ACK, window: 60_000, ..Seg::default() });
    (answer, world.take(1, accept).expect("accepted").accepted().unwrap().0)
}

#[test]
fn rfc3168_6_1_1_it_is_agreed_upon_where_the_configuration_allows() {
    for (more, asked, agreed) in [
        ("", SYN | ECE | CWR, true),
        ("", SYN, false),
        ("", SYN | ECE, false),
        ("ecn = \"on\"", SYN, false),
        ("ecn = \"off\"", SYN | ECE | CWR, false),
        ("syn_cookies = \"always\"", SYN | ECE | CWR, false),
    ] {
        let world = world(more);
        let mut raw = Raw::new(&world);
        let (answer, server) = call(&world, &mut raw, asked);
        assert_eq!(answer.flags, SYN | ACK | if agreed { ECE } else { 0 }, "{more} {asked:x}");
        world.hosts[1].push(server, world.hosts[1].copy_from(b"hello").unwrap()).unwrap();
        raw.settle(&world);
        assert_eq!(raw.one().ecn, if agreed { 2 } else { 0 }, "{more} {asked:x}");
    }
}

#[test]
fn rfc3168_6_1_3_a_mark_is_echoed_until_the_sender_has_reacted() {
    let world = world("");
    let mut raw = Raw::new(&world);
    let (answer, _) = call(&world, &mut raw, SYN | ECE | CWR);
    let seg = Seg {
        ports: (9, 80),
        seq: 101,
        ack: answer.seq.wrapping_add(1),
        flags: ACK | PSH,
        window: 60_000,
        ecn: 2,
        data: vec![1; 10],
        ..Seg::default()
    };
    let mut say = |n: u32, flags: u8, ecn: u8| {
        raw.send(&world, &Seg { seq: 101 + 10 * n, flags: seg.flags | flags, ecn, ..seg.clone() });
        let ack = raw.one();
        assert_eq!((ack.ack, ack.ecn), (111 + 10 * n, 0));
        ack.has(ECE)
    };
    let said = [
        say(0, 0, 2),
        say(1, 0, 3),
        say(2, 0, 2),
        say(3, CWR, 2),
        say(4, 0, 2),
        say(5, CWR, 3),
        say(6, 0, 2),
    ];
    assert_eq!(said, [false, true, true, false, false, true, true]);
    assert_eq!(world.counter(1, "tcp_ecn_marks"), 2);
}

#[test]
fn rfc3168_6_1_2_an_echo_reduces_the_window_once_and_nothing_is_marked_that_is_sent_again() {
    let world = world("");
    let mut raw = Raw::new(&world);
    let (answer, server) = call(&world, &mut raw, SYN | ECE | CWR);
    let mut theirs = answer.seq.wrapping_add(1);
    let ack = Seg { ports: (9, 80), seq: 101, flags: ACK, window: 60_000, ..Seg::default() };
    world.hosts[1].push(server, world.hosts[1].copy_from(&[1; 200_000]).unwrap()).unwrap();
    raw.settle(&world);
    let first: Vec<Seg> = raw.seen.drain(..).collect();
    assert_eq!(first.len(), 10, "the initial window");
    raw.pass(&world, 10 * MS);
    let mut sent = Vec::new();
    for seg in &first {
        theirs += seg.data.len() as u32;
        // The echo comes with every acknowledgement.
        raw.send(&world, &Seg { ack: theirs, flags: ACK | ECE, ..ack.clone() });
        sent.extend(raw.seen.drain(..));
    }
    assert!((5..=7).contains(&sent.len()), "seven tenths of a window, once: {}", sent.len());
    assert!(sent[0].has(CWR) && sent[1..].iter().all(|seg| !seg.has(CWR)));
    assert!(sent.iter().all(|seg| seg.ecn == 2));
    // All of it is lost.
    raw.pass(&world, Duration::from_secs(3));
    let behind = sent.last().map_or(0, |seg| seg.seq.wrapping_add(seg.data.len() as u32));
    let old = |seg: &Seg| seg.seq.wrapping_sub(behind).cast_signed() < 0;
    let again: Vec<Seg> = raw.seen.drain(..).filter(old).collect();
    assert!(!again.is_empty() && again.iter().all(|seg| seg.ecn == 0 && !seg.has(CWR)), "{again:#?}");
}

#[test]
fn rfc3168_6_1_1_1_a_syn_that_is_lost_is_sent_again_without() {
    let faults = Faults { drop: vec![1], ..Faults::default() };
    let world = World::new(1, &faults, 1500, "ecn = \"on\"");
    let ends = world.connected(Duration::from_secs(10));
    send(&world, ends, 10_000);
    assert!(world.counter(0, "fault_tx_picked") == 1, "{:#?}", world.counters());
}
