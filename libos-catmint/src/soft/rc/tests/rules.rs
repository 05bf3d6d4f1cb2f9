//! One rule at a time, packet by packet.

use std::time::Duration;

use demi_api::sga::SgArray;
use demi_api::time::Instant;

use super::super::super::wire::{
    Aeth, AtomicEth, Header, NakCode, Operation, Psn, Qpn, Reth, RnrTimer, Syndrome, Tail,
};
use super::super::{Counters, Host, MAX_LEN, Params};
use super::world::{TestHost, World};
use crate::device::{Access, Atomic, Event, Fault, Qp, Remote, Then};

const ALL: Access = Access { read: true, write: true, atomic: true };

/// One host; the peer is the test.
struct Bench {
    world: World,
    /// Number of the next packet to the host.
    psn: Psn,
}

impl Bench {
    fn new(change: impl Fn(&mut Params)) -> Bench {
        let mut world = World::new(1, 256, change);
        world.wire.log = Some(Vec::new());
        let psn = world.hosts[0].qp.params().receive_psn;
        Bench { world, psn }
    }

    fn host(&mut self) -> &mut TestHost {
        &mut self.world.hosts[0]
    }

    /// Gives the host a packet of this number.
    fn give(&mut self, psn: Psn, operation: Operation, ask: bool, payload: &[u8]) {
        let mut header = Header::new(Qpn::new(1), psn, operation);
        header.ack_request = ask;
        let now = self.world.now;
        let TestHost { qp, receives, memory, events, .. } = self.host();
        qp.packet(now, &header, &payload, &mut Host { receives, memory, events });
    }

    /// The next one, which asks for an acknowledgement.
    fn next(&mut self, operation: Operation, payload: &[u8]) {
        self.give(self.psn, operation, true, payload);
        self.psn += 1;
    }

    /// What the host has to say.
    fn said(&mut self) -> Vec<(Psn, Operation)> {
        self.world.transmit(0);
        let log = self.world.wire.log.as_mut().unwrap();
        log.drain(..).map(|(_, header)| (header.psn, header.operation)).collect()
    }

    /// The same with who asks for an acknowledgement.
    fn asked(&mut self) -> Vec<bool> {
        self.world.transmit(0);
        self.world.wire.log.as_mut().unwrap().drain(..).map(|(_, header)| header.ack_request).collect()
    }

    fn send(&mut self, len: usize, then: Then) {
        let data = self.host().heap.copy_from(&vec![7; len]).unwrap();
        self.host().qp.send(b"", SgArray::from(data), then).unwrap();
    }

    fn start(&mut self) -> Psn {
        self.host().qp.params().send_psn
    }

    fn pass(&mut self, time: Duration) {
        self.world.now = self.world.now + time;
        let now = self.world.now;
        let TestHost { qp, receives, memory, events, .. } = self.host();
        qp.tick(now, &mut Host { receives, memory, events });
    }

    fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.host().events)
    }

    fn region(&mut self, len: usize) -> Remote {
        let region = self.host().memory.region(len, ALL).unwrap();
        self.host().memory.place(region).unwrap()
    }

    fn failed(&mut self) -> Option<Fault> {
        self.host().qp.failed()
    }

    fn deadline(&mut self) -> Option<Instant> {
        self.host().qp.deadline()
    }
}

fn ack(psn: Psn, msn: u32) -> (Psn, Operation) {
    (psn, Operation::Acknowledge(Aeth { syndrome: Syndrome::Ack { credits: 31 }, msn }))
}

fn nak(psn: Psn, code: NakCode, msn: u32) -> (Psn, Operation) {
    (psn, Operation::Acknowledge(Aeth { syndrome: Syndrome::Nak(code), msn }))
}

fn good(msn: u32) -> Aeth {
    Aeth { syndrome: Syndrome::Ack { credits: 31 }, msn }
}

fn only() -> Operation {
    Operation::SendOnly(Tail::Plain)
}

fn reth(at: Remote, len: usize) -> Reth {
    Reth { address: at.addr, key: at.key, len: len as u32 }
}

#[test]
fn many_requests_have_one_acknowledgement_and_none_if_nobody_asks() {
    let mut bench = Bench::new(|_| ());
    bench.host().post_receives(10, 300);
    let first = bench.psn;
    for _ in 0..5 {
        bench.next(only(), b"x");
    }
    assert_eq!(bench.said(), [ack(first + 4, 5)]);
    bench.give(first + 5, only(), false, b"x");
    assert_eq!(bench.said(), []);
    assert!(!bench.host().qp.is_ready());
    assert_eq!(bench.events().len(), 6);
}

#[test]
fn a_gap_is_told_of_once() {
    let mut bench = Bench::new(|_| ());
    bench.host().post_receives(10, 300);
    let first = bench.psn;
    bench.next(only(), b"a");
    for ahead in 2..5 {
        bench.give(first + ahead, only(), true, b"b");
    }
    assert_eq!(bench.said(), [nak(first + 1, NakCode::Sequence, 1)]);
    bench.give(first + 5, only(), true, b"b");
    assert_eq!(bench.said(), []);
    assert_eq!(bench.events().len(), 1);
    bench.next(only(), b"b");
    bench.give(first + 3, only(), true, b"b");
    assert_eq!(bench.said(), [nak(first + 2, NakCode::Sequence, 2)]);
    assert_eq!(bench.host().qp.counters(), Counters { early: 5, ..Counters::default() });
}

#[test]
fn an_acknowledgement_that_is_owed_is_not_forgotten_over_a_gap() {
    let mut bench = Bench::new(|_| ());
    bench.host().post_receives(10, 300);
    let first = bench.psn;
    bench.give(first, only(), true, b"a");
    bench.give(first + 2, only(), false, b"c");
    bench.give(first + 1, only(), false, b"b");
    assert_eq!(bench.said(), [ack(first + 1, 2)]);
}

#[test]
fn what_comes_twice_is_carried_out_once_and_acknowledged_again() {
    let mut bench = Bench::new(|_| ());
    bench.host().post_receives(10, 300);
    let at = bench.region(64);
    let first = bench.psn;
    bench.next(only(), b"a");
    let atomic = AtomicEth { address: at.addr, key: at.key, swap_or_add: 3, compare: 0 };
    bench.next(Operation::FetchAdd(atomic), b"");
    bench.next(Operation::FetchAdd(atomic), b"");
    bench.said();
    bench.give(first, only(), false, b"a");
    assert_eq!(bench.said(), [ack(first + 2, 3)]);
    bench.give(first + 1, Operation::FetchAdd(atomic), false, b"");
    bench.give(first + 1, Operation::FetchAdd(atomic), false, b"");
    bench.give(first + 2, Operation::FetchAdd(atomic), false, b"");
    let answer = |psn, found| (psn, Operation::AtomicAcknowledge(good(3), found));
    assert_eq!(bench.said(), [answer(first + 1, 0), answer(first + 2, 3)]);
    assert_eq!(bench.events().len(), 1);
    assert_eq!(bench.host().memory.read(Qp(7), at, 8), Ok(&6_u64.to_ne_bytes()[..]));
    assert_eq!(bench.host().qp.counters(), Counters { repeated: 4, ..Counters::default() });
}

#[test]
fn without_a_receive_the_peer_waits() {
    let mut bench = Bench::new(|_| ());
    let first = bench.psn;
    bench.give(first, only(), true, b"a");
    bench.give(first + 1, only(), true, b"b");
    let wait = Syndrome::RnrNak(RnrTimer::at_least(Duration::from_micros(640)));
    let told = (first, Operation::Acknowledge(Aeth { syndrome: wait, msn: 0 }));
    assert_eq!(bench.said(), [told]);
    bench.host().post_receives(1, 300);
    bench.give(first, only(), true, b"a");
    bench.give(first + 1, only(), true, b"b");
    assert_eq!(bench.said(), [(first + 1, Operation::Acknowledge(Aeth { syndrome: wait, msn: 1 }))]);
    assert_eq!(bench.host().qp.counters(), Counters { early: 1, not_ready: 2, ..Counters::default() });
    assert_eq!(bench.events().len(), 1);
}

#[test]
fn answers_go_out_in_order_and_acknowledgements_behind_them() {
    let mut bench = Bench::new(|_| ());
    bench.host().post_receives(2, 300);
    let at = bench.region(600);
    let first = bench.psn;
    bench.give(first, Operation::ReadRequest(reth(at, 600)), true, b"");
    bench.give(first + 3, only(), true, b"x");
    let atomic = AtomicEth { address: at.addr, key: at.key, swap_or_add: 1, compare: 0 };
    bench.give(first + 4, Operation::FetchAdd(atomic), true, b"");
    bench.give(first + 5, only(), true, b"x");
    assert_eq!(
        bench.said(),
        [
            (first, Operation::ReadFirst(good(1))),
            (first + 1, Operation::ReadMiddle),
            (first + 2, Operation::ReadLast(good(1))),
            (first + 4, Operation::AtomicAcknowledge(good(3), 0)),
            ack(first + 5, 4),
        ]
    );
    // The end of it is asked for again.
    let rest = Remote { addr: at.addr + 256, ..at };
    bench.give(first + 1, Operation::ReadRequest(reth(rest, 344)), true, b"");
    assert_eq!(
        bench.said(),
        [(first + 1, Operation::ReadFirst(good(4))), (first + 2, Operation::ReadLast(good(4)))]
    );
    // No READ was that long.
    bench.give(first + 1, Operation::ReadRequest(reth(at, 5 * 256 + 1)), true, b"");
    assert_eq!(bench.said(), []);
}

#[test]
fn repeated_answers_go_out_in_order_too() {
    let mut bench = Bench::new(|_| ());
    let at = bench.region(600);
    let first = bench.psn;
    let request = Operation::ReadRequest(reth(at, 600));
    for number in 0..3 {
        bench.give(first + 3 * number, request, true, b"");
    }
    assert_eq!(bench.said().len(), 9);
    // They have overtaken each other, and the last one has come again in the middle of things.
    for number in [2, 0, 1, 0] {
        bench.give(first + 3 * number, request, true, b"");
    }
    let psns: Vec<_> = bench.said().into_iter().map(|(psn, _)| psn).collect();
    assert_eq!(psns, (0..9).map(|number| first + number).collect::<Vec<_>>());
}

#[test]
fn a_key_that_is_taken_away_stops_a_read_that_is_under_way() {
    let mut bench = Bench::new(|_| ());
    let data = bench.host().heap.copy_from(&[9; 100 * 256]).unwrap();
    let (grant, at) = bench.host().memory.grant(Qp(7), data).unwrap();
    let first = bench.psn;
    bench.give(first, Operation::ReadRequest(reth(at, 100 * 256)), true, b"");
    assert_eq!(bench.said().len(), 64);
    assert!(bench.host().qp.is_ready());
    assert!(bench.host().memory.revoke(grant).is_some());
    assert_eq!(bench.said(), [nak(first + 64, NakCode::RemoteAccess, 1)]);
    assert_eq!(bench.failed(), Some(Fault::Local));
}

#[test]
fn what_no_key_allows_is_the_end() {
    let denied = NakCode::RemoteAccess;
    let invalid = NakCode::InvalidRequest;
    type Spoil = fn(Remote) -> (Operation, usize);
    let cases: [(Spoil, NakCode, Fault); 14] = [
        (
            |at| (Operation::WriteOnly(reth(Remote { key: at.key ^ 1 << 20, ..at }, 8), None), 8),
            denied,
            Fault::Local,
        ),
        (
            |at| (Operation::WriteOnly(reth(Remote { addr: at.addr - 1, ..at }, 8), None), 8),
            denied,
            Fault::Local,
        ),
        (
            |at| (Operation::WriteOnly(reth(Remote { addr: at.addr + 993, ..at }, 8), None), 8),
            denied,
            Fault::Local,
        ),
        (|at| (Operation::WriteFirst(reth(at, 1001)), 256), denied, Fault::Local),
        (|at| (Operation::WriteFirst(reth(at, 1000)), 255), invalid, Fault::Local),
        (|at| (Operation::WriteOnly(reth(at, 9), None), 8), invalid, Fault::Local),
        (|at| (Operation::ReadRequest(reth(at, 1001)), 0), denied, Fault::Local),
        (|at| (Operation::ReadRequest(reth(at, MAX_LEN + 1)), 0), invalid, Fault::Local),
        (
            |at| {
                let eth = AtomicEth { address: at.addr + 4, key: at.key, swap_or_add: 0, compare: 0 };
                (Operation::CompareSwap(eth), 0)
            },
            invalid,
            Fault::Local,
        ),
        (|_| (Operation::SendMiddle, 256), invalid, Fault::Local),
        (|_| (Operation::WriteLast(None), 5), invalid, Fault::Local),
        (|_| (Operation::SendOnly(Tail::Plain), 257), invalid, Fault::Local),
        (|_| (Operation::SendOnly(Tail::Plain), 201), invalid, Fault::TooLong),
        (|at| (Operation::SendOnly(Tail::Invalidate(at.key)), 1), denied, Fault::Local),
    ];
    for (number, (spoil, code, fault)) in cases.into_iter().enumerate() {
        let mut bench = Bench::new(|_| ());
        bench.host().post_receives(2, 200);
        let at = bench.region(1000);
        bench.next(only(), b"good");
        let (operation, len) = spoil(at);
        bench.next(operation, &vec![1; len]);
        assert_eq!(bench.failed(), Some(fault), "case {number}");
        let wrong = bench.psn - 1;
        assert_eq!(bench.said(), [nak(wrong, code, 1)], "case {number}");
        // Deaf from then on.
        bench.next(only(), b"more");
        assert_eq!(bench.said(), []);
        assert_eq!(bench.events().len(), 1, "case {number}");
        assert_eq!(bench.host().receives.len(), 1, "case {number}: a receive is lost");
        assert_eq!(bench.host().memory.read(Qp(7), at, 1000), Ok(&[0; 1000][..]), "case {number}");
    }
}

#[test]
fn a_message_takes_whole_packets_in_the_right_order() {
    let cases: [&[(Operation, usize)]; 6] = [
        &[(Operation::SendFirst, 255)],
        &[(Operation::SendFirst, 256), (Operation::SendFirst, 256)],
        &[(Operation::SendFirst, 256), (Operation::WriteMiddle, 256)],
        &[(Operation::SendFirst, 256), (Operation::SendMiddle, 100)],
        &[(Operation::SendFirst, 256), (only(), 3)],
        &[(Operation::SendFirst, 256), (Operation::SendMiddle, 256), (Operation::SendLast(Tail::Plain), 200)],
    ];
    for (number, packets) in cases.into_iter().enumerate() {
        let mut bench = Bench::new(|_| ());
        bench.host().post_receives(1, 600);
        for (operation, len) in packets {
            assert_eq!(bench.failed(), None, "case {number}");
            bench.next(*operation, &vec![1; *len]);
        }
        assert!(bench.failed().is_some(), "case {number}");
        assert_eq!(bench.events().len(), 0);
        // What was begun is whole again.
        assert_eq!(bench.host().receives.iter().map(|receive| receive.len()).collect::<Vec<_>>(), [600]);
    }
}

#[test]
fn a_key_can_be_given_back_with_a_message() {
    let mut bench = Bench::new(|_| ());
    bench.host().post_receives(1, 300);
    let data = bench.host().heap.copy_from(&[9; 10]).unwrap();
    let (grant, at) = bench.host().memory.grant(Qp(7), data).unwrap();
    bench.next(Operation::SendOnly(Tail::Invalidate(at.key)), b"thank you");
    assert_eq!(bench.failed(), None);
    assert!(bench.host().memory.read(Qp(7), at, 1).is_err());
    assert!(bench.host().memory.revoke(grant).is_some());
}

#[test]
fn acknowledgements_are_asked_for_seldom_but_in_time() {
    let mut bench = Bench::new(|params| params.ask_every = 8);
    for _ in 0..20 {
        bench.send(10, Then::Quiet);
    }
    let asked = bench.asked();
    let places: Vec<_> = (0..asked.len()).filter(|place| asked[*place]).collect();
    assert_eq!((asked.len(), places), (20, vec![7, 15]));
    bench.send(10, Then::Tell(1));
    assert_eq!(bench.asked(), [true]);
    // A long message asks on its way, before the window is used up.
    bench.send(256 * 200, Then::Quiet);
    let asked = bench.asked();
    assert!(asked.len() < 128 && asked.iter().filter(|ask| **ask).count() >= 1, "{asked:?}");
}

#[test]
fn when_nothing_is_heard_the_last_packet_asks_again() {
    let mut bench = Bench::new(|_| ());
    let first = bench.start();
    bench.send(10, Then::Quiet);
    bench.send(300, Then::Quiet);
    assert_eq!(bench.said().len(), 3);
    assert_eq!(bench.deadline(), Some(bench.world.now + Duration::from_millis(4)));
    bench.pass(Duration::from_millis(4));
    assert_eq!(bench.said(), [(first + 2, Operation::SendLast(Tail::Plain))]);
    bench.give(first + 2, ack(first + 2, 2).1, false, b"");
    assert_eq!(bench.deadline(), None);
    assert_eq!(bench.host().qp.room(), 128);
    assert_eq!(bench.said(), []);
}

#[test]
fn what_is_missing_is_sent_again_from_there_on() {
    let mut bench = Bench::new(|_| ());
    let first = bench.start();
    for cookie in 0..4 {
        bench.send(10, Then::Tell(cookie));
    }
    assert_eq!(bench.said().len(), 4);
    bench.give(first + 2, nak(first + 2, NakCode::Sequence, 2).1, false, b"");
    assert_eq!(bench.events().len(), 2);
    assert_eq!(bench.said(), [(first + 2, only()), (first + 3, only())]);
    // The same word again changes nothing.
    bench.give(first + 2, nak(first + 2, NakCode::Sequence, 2).1, false, b"");
    assert_eq!(bench.said(), []);
    bench.give(first + 3, ack(first + 3, 4).1, false, b"");
    assert_eq!(bench.events().len(), 2);
    // What was never sent cannot be acknowledged.
    bench.send(10, Then::Tell(4));
    bench.give(first + 4, ack(first + 4, 5).1, false, b"");
    assert_eq!(bench.events().len(), 0);
}

#[test]
fn what_is_sent_again_asks_at_its_end_and_a_gap_counts_anew_after_a_while() {
    let mut bench = Bench::new(|_| ());
    let first = bench.start();
    for _ in 0..5 {
        bench.send(10, Then::Quiet);
    }
    assert_eq!(bench.asked(), [false; 5]);
    let missing = nak(first + 1, NakCode::Sequence, 1).1;
    bench.give(first + 1, missing, false, b"");
    assert_eq!(bench.asked(), [false, false, false, true]);
    bench.give(first + 1, missing, false, b"");
    assert_eq!(bench.said(), []);
    // They are lost again, and then the first of them.
    bench.pass(Duration::from_millis(67));
    assert_eq!(bench.said().len(), 4);
    bench.give(first + 1, missing, false, b"");
    assert_eq!(bench.said().len(), 4);
}

#[test]
fn a_peer_that_does_not_answer_is_given_up() {
    let mut bench = Bench::new(|params| params.retries = 3);
    let into = bench.host().heap.alloc(500).unwrap();
    bench.send(10, Then::Tell(1));
    bench.send(10, Then::Quiet);
    bench.host().qp.read(Remote { addr: 0, key: 0 }, into, 2).unwrap();
    bench.host().qp.atomic(Remote { addr: 0, key: 0 }, Atomic::FetchAdd(1), 3).unwrap();
    let start = bench.world.now;
    let mut attempts = 0;
    while bench.failed().is_none() {
        assert_eq!(bench.said().len(), 4);
        attempts += 1;
        let wait = bench.deadline().unwrap().since(bench.world.now);
        bench.pass(wait);
    }
    assert_eq!(attempts, 4);
    let counters = Counters { resent: 12, timeouts: 3, ..Counters::default() };
    assert_eq!(bench.host().qp.counters(), counters);
    assert_eq!(bench.world.now.since(start), Duration::from_millis(67 * (1 + 2 + 4 + 8)));
    let events = bench.events();
    let flushed = Err(Fault::Flushed);
    assert!(matches!(events[0], Event::Sent { cookie: Some(1), result: Err(Fault::Timeout), .. }));
    assert!(matches!(events[1], Event::Sent { cookie: None, result, .. } if result == flushed));
    assert!(matches!(&events[2], Event::Read { cookie: 2, result, .. } if *result == flushed));
    assert!(matches!(events[3], Event::Fetched { cookie: 3, result: Err(Fault::Flushed), .. }));
    assert_eq!(events.len(), 4);
    assert_eq!((bench.host().qp.room(), bench.deadline()), (0, None));
    drop(events);
    assert_eq!(bench.host().heap.stats().objects_live, 0);
    let data = bench.host().heap.copy_from(b"late").unwrap();
    assert!(bench.host().qp.send(b"", data.into(), Then::Quiet).is_err());
}

#[test]
fn a_refusal_is_told_of_the_request_that_it_is_about() {
    let codes = [
        (NakCode::InvalidRequest, Fault::RemoteOperation),
        (NakCode::RemoteAccess, Fault::RemoteAccess),
        (NakCode::RemoteOperation, Fault::RemoteOperation),
    ];
    for (code, fault) in codes {
        let mut bench = Bench::new(|_| ());
        let first = bench.start();
        for cookie in 0..3 {
            bench.send(10, Then::Tell(cookie));
        }
        bench.said();
        bench.give(first + 1, nak(first + 1, code, 1).1, false, b"");
        let results: Vec<_> = bench
            .events()
            .into_iter()
            .map(|event| match event {
                Event::Sent { result, .. } => result,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(results, [Ok(()), Err(fault), Err(Fault::Flushed)]);
        assert_eq!(bench.failed(), Some(fault));
    }
}

#[test]
fn a_peer_without_receives_is_waited_for_as_often_as_agreed() {
    let mut bench = Bench::new(|params| params.rnr_retries = 2);
    let first = bench.start();
    bench.send(10, Then::Tell(1));
    let timer = RnrTimer::at_least(Duration::from_millis(1));
    let wait = Operation::Acknowledge(Aeth { syndrome: Syndrome::RnrNak(timer), msn: 0 });
    for _ in 0..2 {
        assert_eq!(bench.said(), [(first, only())]);
        bench.give(first, wait, false, b"");
        // Only once for each time.
        bench.give(first, wait, false, b"");
        assert_eq!(bench.said(), []);
        assert_eq!(bench.deadline(), Some(bench.world.now + timer.duration()));
        bench.pass(timer.duration());
    }
    assert_eq!(bench.said(), [(first, only())]);
    bench.give(first, wait, false, b"");
    assert_eq!(bench.failed(), Some(Fault::NotReady));
    let counters = Counters { resent: 2, peer_not_ready: 3, ..Counters::default() };
    assert_eq!(bench.host().qp.counters(), counters);
}

#[test]
fn reads_are_limited_asked_for_again_and_checked() {
    let mut bench = Bench::new(|params| params.initiator_depth = 2);
    let first = bench.start();
    let at = Remote { addr: 4096, key: 5 };
    for cookie in 0..3 {
        let into = bench.host().heap.alloc(600).unwrap();
        bench.host().qp.read(at, into, cookie).unwrap();
    }
    let request = |psn, done: usize| {
        let at = Remote { addr: at.addr + done as u64, ..at };
        (psn, Operation::ReadRequest(reth(at, 600 - done)))
    };
    assert_eq!(bench.said(), [request(first, 0), request(first + 3, 0)]);
    bench.give(first, Operation::ReadFirst(good(1)), false, &[1; 256]);
    // The second part is lost.
    bench.give(first + 2, Operation::ReadLast(good(1)), false, &[3; 88]);
    bench.give(first + 3, Operation::ReadFirst(good(2)), false, &[4; 256]);
    assert_eq!(bench.said(), [request(first + 1, 256), request(first + 3, 0)]);
    bench.give(first + 1, Operation::ReadFirst(good(2)), false, &[2; 256]);
    bench.give(first + 2, Operation::ReadLast(good(2)), false, &[3; 88]);
    let [Event::Read { into, cookie: 0, result: Ok(()), .. }] = &bench.events()[..] else {
        panic!("no read")
    };
    assert_eq!(into[..], [vec![1; 256], vec![2; 256], vec![3; 88]].concat());
    assert_eq!(bench.said(), [request(first + 6, 0)]);
    // An acknowledgement for what stands behind an answer says that the answer is lost.
    bench.give(first + 8, ack(first + 8, 3).1, false, b"");
    assert_eq!(bench.said(), [request(first + 3, 0), request(first + 6, 0)]);
    // A part of another length is no answer.
    bench.give(first + 3, Operation::ReadFirst(good(2)), false, &[4; 255]);
    assert_eq!(bench.failed(), Some(Fault::RemoteOperation));
}

#[test]
fn there_is_room_for_as_many_as_promised_whatever_they_carry() {
    let mut bench = Bench::new(|params| params.set_depth(16, 300));
    for round in 0..200 {
        let room = bench.host().qp.room();
        for _ in 0..room {
            let data = bench.host().heap.copy_from(&vec![1; round % 300]).unwrap();
            assert!(bench.host().qp.send(&[1; 256][..round % 257], data.into(), Then::Quiet).is_ok());
        }
        assert_eq!(bench.host().qp.room(), 0);
        let data = bench.host().heap.copy_from(b"x").unwrap();
        assert!(bench.host().qp.send(b"", data.into(), Then::Quiet).is_err());
        // Some are acknowledged.
        while let Some((psn, _)) = bench.said().last().copied() {
            bench.give(psn, ack(psn - round as u32 % 3, 0).1, false, b"");
            if bench.host().qp.room() > 0 {
                break;
            }
        }
    }
}
