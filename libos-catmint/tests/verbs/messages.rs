//! Messages: whole, in order, with as few calls as there can be.

use demi_api::memalloc::Buf;
use demi_api::sga::SgArray;
use demi_libos_catmint::device::{Event, RdmaDevice, Then};
use libtest_mimic::Failed;

use super::ends::{End, Pair, RECEIVE, pattern};
use super::{Place, Test};

pub(super) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("messages_of_all_sizes_arrive_whole_and_in_order", messages_of_all_sizes_arrive_whole_and_in_order),
        ("a_gather_becomes_one_message", a_gather_becomes_one_message),
        ("what_is_posted_together_rings_once", what_is_posted_together_rings_once),
        ("an_echo_makes_no_more_calls_than_it_must", an_echo_makes_no_more_calls_than_it_must),
        ("memory_comes_back_also_if_nothing_follows", memory_comes_back_also_if_nothing_follows),
        ("a_full_queue_gives_back_and_recovers", a_full_queue_gives_back_and_recovers),
        ("both_sides_talk_for_long", both_sides_talk_for_long),
        ("messages_before_an_end_come_before_it", messages_before_an_end_come_before_it),
        ("what_is_out_of_bounds_is_refused", what_is_out_of_bounds_is_refused),
    ]
}

fn is_told(cookie: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Sent { cookie: Some(told), result: Ok(()), .. } if *told == cookie)
}

fn messages_of_all_sizes_arrive_whole_and_in_order(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    let inline = pair.a.device.caps().inline;
    let sizes = [
        0,
        1,
        7,
        8,
        16,
        64,
        inline - 17,
        inline - 16,
        inline - 15,
        inline,
        inline + 1,
        512,
        4096,
        RECEIVE - 16,
    ];
    pair.b.receives(sizes.len());
    let (qa, qb) = (pair.qa, pair.qb);
    for (at, len) in sizes.into_iter().enumerate() {
        let data = pair.a.filled(len.max(1), at as u64).freeze().slice(..len);
        let head = [at as u8; 16];
        pair.a.send(qa, &head, data.into(), Then::Tell(at as u64));
    }
    for (at, len) in sizes.into_iter().enumerate() {
        let (from, message) = pair.until("a message", |_, b| b.message());
        assert_eq!((from, message.len()), (qb, len + 16));
        assert_eq!(message[..16], [at as u8; 16]);
        assert!(message[16..] == pattern(len.max(1), at as u64)[..len], "{len} bytes");
        pair.until("its end", |a, _| a.find(is_told(at as u64), |_| ()));
    }
    assert!(pair.a.events.is_empty() && pair.b.events.is_empty(), "nothing else has happened");
    assert_eq!(pair.a.heap.stats().bytes_live, 0, "the sender's memory has come back");
    // No head, no data: still a message.
    pair.b.receives(1);
    pair.a.send(qa, b"", SgArray::new(), Then::Quiet);
    let (_, message) = pair.until("a message", |_, b| b.message());
    assert!(message.is_empty());
    assert_eq!(pair.a.counter("verbs_unknown") + pair.b.counter("verbs_unknown"), 0);
    Ok(())
}

fn a_gather_becomes_one_message(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    let mut random = fastrand::Rng::with_seed(8);
    for round in 0..50 {
        let segments: Vec<Buf> = (0..8)
            .map(|at| {
                let len = random.usize(1..=900);
                let skip = random.usize(0..len);
                pair.a.filled(len, round * 8 + at).freeze().slice(skip..)
            })
            .collect();
        let head = pattern(random.usize(0..=256), round);
        let data: SgArray = segments.into_iter().collect();
        let wanted = [head.clone(), data.to_vec()].concat();
        pair.b.receives(1);
        pair.a.send(pair.qa, &head, data, Then::Quiet);
        let (_, message) = pair.until("a message", |_, b| b.message());
        assert!(message[..] == wanted[..], "round {round}");
    }
    Ok(())
}

fn what_is_posted_together_rings_once(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    let qa = pair.qa;
    let calls = |pair: &Pair| {
        ["verbs_posts", "verbs_doorbells", "verbs_signalled", "verbs_inline_posts"]
            .map(|name| pair.a.counter(name))
    };
    assert_eq!(pair.b.counter("verbs_receive_calls"), 0);
    pair.b.receives(64);
    assert_eq!((pair.b.counter("verbs_receives"), pair.b.counter("verbs_receive_calls")), (64, 2));
    let before = calls(&pair);
    for at in 0..10_u8 {
        pair.a.send(qa, &[at; 64], SgArray::new(), Then::Quiet);
    }
    for at in 0..10_u8 {
        let (_, message) = pair.until("a message", |_, b| b.message());
        assert_eq!(message[..], [at; 64]);
    }
    let after = calls(&pair);
    let made: Vec<_> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(made, [10, 1, 0, 10], "posts, doorbells, completions asked for, copied");
    // At least one in a quarter of the places asks for a completion, so that places become free.
    let before = calls(&pair);
    for at in 0..50_u8 {
        pair.a.send(qa, &[at; 64], SgArray::new(), Then::Quiet);
        pair.until("a message", |_, b| b.message());
    }
    let after = calls(&pair);
    assert!((1..=3).contains(&(after[2] - before[2])), "{} of 50", after[2] - before[2]);
    assert_eq!(after[1] - before[1], 50);
    Ok(())
}

/// As a ping-pong by verbs alone: of each message one send, one receive, each handed over by one call. Completions of sends are
/// asked for by one in 32.
fn an_echo_makes_no_more_calls_than_it_must(place: &Place) -> Result<(), Failed> {
    const COUNT: u64 = 320;
    let mut pair = Pair::new(place);
    let (qa, qb) = (pair.qa, pair.qb);
    pair.a.receives(8);
    pair.b.receives(8);
    let names = ["verbs_posts", "verbs_doorbells", "verbs_receives", "verbs_receive_calls"];
    let calls = |end: &End| names.map(|name| end.counter(name));
    let before = [calls(&pair.a), calls(&pair.b)];
    let signalled = pair.a.counter("verbs_signalled");
    for round in 0..COUNT {
        pair.a.send(qa, &[round as u8; 64], SgArray::new(), Then::Quiet);
        let (_, message) = pair.until("a message", |_, b| b.message());
        let (device, cx) = pair.b.both();
        device.receive(&cx, message.try_into_mut().expect("the device keeps no reference")).expect("room");
        pair.b.send(qb, &[round as u8; 64], SgArray::new(), Then::Quiet);
        let (_, message) = pair.until("its echo", |a, _| a.message());
        assert_eq!(message[..], [round as u8; 64]);
        let (device, cx) = pair.a.both();
        device.receive(&cx, message.try_into_mut().expect("the device keeps no reference")).expect("room");
    }
    pair.a.turn();
    for (end, before) in [&pair.a, &pair.b].into_iter().zip(before) {
        let made: Vec<_> = calls(end).iter().zip(before).map(|(after, before)| after - before).collect();
        assert_eq!(made, [COUNT; 4], "{names:?}");
    }
    assert_eq!(pair.a.counter("verbs_signalled") - signalled, COUNT / 32);
    Ok(())
}

fn memory_comes_back_also_if_nothing_follows(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    pair.b.receives(8);
    for at in 0..5 {
        let data = pair.a.filled(1000, at).freeze();
        pair.a.send(pair.qa, b"", data.into(), Then::Quiet);
    }
    pair.until("no more memory in use", |a, _| (a.heap.stats().bytes_live == 0).then_some(()));
    assert_eq!(pair.a.counter("verbs_signalled"), 1, "for all of them");
    assert!(pair.a.events.is_empty());
    Ok(())
}

fn a_full_queue_gives_back_and_recovers(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    let qa = pair.qa;
    pair.b.receives(256);
    let room = pair.a.device.room(qa);
    assert_eq!(room, 127, "all places but the last");
    for at in 0..room {
        assert_eq!(pair.a.device.room(qa), room - at);
        let data = pair.a.filled(700, at as u64).freeze();
        pair.a.send(qa, b"", data.into(), Then::Quiet);
    }
    let data = pair.a.filled(700, 7).freeze();
    let (device, cx) = pair.a.both();
    let back = device.send(&cx, qa, b"", data.into(), Then::Quiet).expect_err("there is no room");
    assert_eq!(back.len(), 700);
    drop(back);
    for at in 0..room {
        let (_, message) = pair.until("a message", |_, b| b.message());
        assert!(message[..] == pattern(700, at as u64));
    }
    pair.until("room", |a, _| (a.device.room(qa) > 90).then_some(()));
    // What asks for a completion takes along all before it.
    pair.a.send(qa, b"last", SgArray::new(), Then::Tell(1));
    pair.until("its end", |a, _| a.find(is_told(1), |_| ()));
    assert_eq!((pair.a.device.room(qa), pair.a.heap.stats().bytes_live), (room, 0));
    Ok(())
}

fn both_sides_talk_for_long(place: &Place) -> Result<(), Failed> {
    const COUNT: u64 = 3000;
    let mut pair = Pair::new(place);
    let names = [pair.qa, pair.qb];
    pair.a.receives(128);
    pair.b.receives(128);
    let (mut sent, mut told, mut received) = ([0; 2], [0; 2], [0; 2]);
    let mut random = fastrand::Rng::with_seed(3);
    pair.until("all messages", |a, b| {
        for (side, end) in [a, b].into_iter().enumerate() {
            // Each side keeps 128 receives for the other, and both take part in the same turn.
            while sent[side] < COUNT
                && sent[side] < received[1 - side] + 100
                && end.device.room(names[side]) > 0
            {
                let data = end.filled(random.usize(1..2000), sent[side]).freeze();
                let then = if sent[side] % 7 == 0 { Then::Tell(sent[side]) } else { Then::Quiet };
                end.send(names[side], &sent[side].to_le_bytes(), data.into(), then);
                sent[side] += 1;
            }
            let mut new = 0;
            while let Some((_, message)) = end.message() {
                assert_eq!(message[..8], received[side].to_le_bytes(), "in order");
                assert!(message[8..] == pattern(message.len() - 8, received[side])[..]);
                received[side] += 1;
                new += 1;
            }
            end.receives(new);
            while let Some(event) = end.events.pop_front() {
                let Event::Sent { cookie: Some(cookie), result: Ok(()), .. } = event else {
                    panic!("{event:?}")
                };
                assert_eq!(cookie, told[side]);
                told[side] += 7;
            }
        }
        (received == [COUNT; 2] && told.iter().all(|told| *told >= COUNT)).then_some(())
    });
    assert_eq!(pair.a.counter("verbs_unknown") + pair.a.counter("verbs_failures"), 0);
    Ok(())
}

fn messages_before_an_end_come_before_it(place: &Place) -> Result<(), Failed> {
    for round in 0..5 {
        let mut pair = Pair::new(place);
        pair.b.receives(20);
        for at in 0..20_u8 {
            pair.a.send(pair.qa, &[at; 64], SgArray::new(), Then::Tell(at.into()));
        }
        pair.until("the last one's end", |a, _| a.find(is_told(19), |_| ()));
        let qa = pair.qa;
        let (device, cx) = pair.a.both();
        device.disconnect(&cx, qa);
        assert_eq!(device.room(qa), 0);
        pair.ended();
        let order: Vec<_> =
            pair.b.events.iter().map(|event| matches!(event, Event::Received { .. })).collect();
        assert_eq!(order, [true; 20], "round {round}");
    }
    Ok(())
}

fn what_is_out_of_bounds_is_refused(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    let (qa, qb) = (pair.qa, pair.qb);
    let head = [0; 257];
    let data = pair.a.filled(10, 1).freeze();
    let (device, cx) = pair.a.both();
    assert!(device.send(&cx, qa, &head, data.clone().into(), Then::Quiet).is_err(), "a head too long");
    let nobody = demi_libos_catmint::device::Qp(qa.0 + 1);
    assert!(device.send(&cx, nobody, &[], data.into(), Then::Quiet).is_err(), "nobody's name");
    assert_eq!(device.room(nobody), 0);
    device.disconnect(&cx, nobody);
    let count = pair.b.device.caps().receives;
    pair.b.receives(count);
    let one = pair.b.heap.alloc(64).expect("there is room");
    let (device, cx) = pair.b.both();
    assert_eq!(device.receive(&cx, one).map_err(|back| back.len()), Err(64), "as many receives as there are");
    assert!(device.room(qb) > 0);
    Ok(())
}
