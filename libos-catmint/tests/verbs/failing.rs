//! What happens when something goes wrong: each posting has its end, memory comes back, and connecting again works.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use demi_api::sga::SgArray;
use demi_libos_catmint::device::{Access, Atomic, Event, Fault, Qp, RdmaDevice, Remote, Then};
use demi_libos_catmint::verbs::VerbsConfig;
use libtest_mimic::Failed;

use super::child::Child;
use super::ends::{End, HELLO, Pair, connect, until};
use super::{Place, Test};

pub(super) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        (
            "every_posting_ends_once_when_its_queue_pair_does",
            every_posting_ends_once_when_its_queue_pair_does,
        ),
        (
            "a_peer_without_receives_is_not_waited_for_for_ever",
            a_peer_without_receives_is_not_waited_for_for_ever,
        ),
        ("a_message_too_long_ends_both_ends", a_message_too_long_ends_both_ends),
        ("a_device_that_is_dropped_says_so_to_peers", a_device_that_is_dropped_says_so_to_peers),
        ("a_peer_is_killed_in_any_phase", a_peer_is_killed_in_any_phase),
        ("a_port_goes_down_and_up", a_port_goes_down_and_up),
    ]
}

/// One of each kind is posted, with no receive and no time for them, and the queue pair ended by one side.
fn every_posting_ends_once_when_its_queue_pair_does(place: &Place) -> Result<(), Failed> {
    for by_peer in [false, true] {
        let mut pair = Pair::new(place);
        let (qa, qb) = (pair.qa, pair.qb);
        let region = pair.b.device.region(4096, Access { read: true, write: true, atomic: true })?;
        let remote = pair.b.device.place(region).expect("it was just made");
        // The first finds no receive, so nothing behind it happens.
        let data = pair.a.filled(1000, 1).freeze();
        pair.a.send(qa, b"", data.clone().into(), Then::Tell(0));
        pair.a.send(qa, b"small", SgArray::new(), Then::Tell(1));
        pair.a.send(qa, b"quiet", data.clone().into(), Then::Quiet);
        let into = pair.a.filled(64, 1);
        let (device, cx) = pair.a.both();
        device.write(&cx, qa, remote, data.into(), Then::Tell(2)).expect("there is room");
        device.write_word(&cx, qa, remote, 7, Then::Tell(3)).expect("there is room");
        device.read(&cx, qa, remote, into, 4).expect("there is room");
        device.atomic(&cx, qa, remote, Atomic::FetchAdd(1), 5).expect("there is room");
        device.flush(&cx);
        if by_peer {
            let (device, cx) = pair.b.both();
            device.disconnect(&cx, qb);
        } else {
            device.disconnect(&cx, qa);
        }
        let (why, _) = pair.ended();
        assert_eq!(why, Fault::Disconnected);
        let mut cookies: Vec<_> = pair.a.events.drain(..).map(failed_cookie).collect();
        cookies.sort_unstable();
        assert_eq!(cookies, [0, 1, 2, 3, 4, 5], "ended by the peer: {by_peer}");
        assert_eq!(pair.b.device.load(region, 0), 0);
        assert_eq!(pair.a.heap.stats().bytes_live, 0, "all memory has come back");
        assert_eq!(pair.a.counter("verbs_forced"), 0);
        let (_, addr) = pair.b.listen(SocketAddr::new(place.ip, 0));
        connect(&mut pair.a, &mut pair.b, addr);
    }
    Ok(())
}

fn failed_cookie(event: Event) -> u64 {
    match event {
        Event::Sent { cookie: Some(cookie), result: Err(_), .. }
        | Event::Read { cookie, result: Err(_), .. }
        | Event::Fetched { cookie, result: Err(_), .. } => cookie,
        event => panic!("{event:?} is no failure of a posting"),
    }
}

fn a_peer_without_receives_is_not_waited_for_for_ever(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    pair.a.send(pair.qa, b"nobody takes it", SgArray::new(), Then::Tell(1));
    let begin = Instant::now();
    let (why, _) = pair.ended();
    assert_eq!(why, Fault::NotReady);
    assert!(begin.elapsed() > Duration::from_millis(500), "it was tried for a second");
    let failed =
        |event: &Event| matches!(event, Event::Sent { cookie: Some(1), result: Err(Fault::NotReady), .. });
    assert!(pair.a.find(failed, |_| ()).is_some());
    Ok(())
}

fn a_message_too_long_ends_both_ends(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    let into = pair.b.heap.alloc(100).expect("there is room");
    let (device, cx) = pair.b.both();
    device.receive(&cx, into).expect("there is room");
    device.flush(&cx);
    let data = pair.a.filled(101, 1).freeze();
    pair.a.send(pair.qa, b"", data.into(), Then::Tell(1));
    let (why_a, why_b) = pair.ended();
    assert_eq!(why_b, Fault::TooLong);
    assert!(matches!(why_a, Fault::RemoteOperation | Fault::Disconnected), "{why_a:?}");
    // The receive is still the queue's, and takes the next message.
    let (_, addr) = pair.b.listen(SocketAddr::new(place.ip, 0));
    let (qa, qb) = connect(&mut pair.a, &mut pair.b, addr);
    pair.a.send(qa, b"short enough", SgArray::new(), Then::Quiet);
    let (from, message) = pair.until("a message", |_, b| b.message());
    assert_eq!((from, &message[..]), (qb, &b"short enough"[..]));
    Ok(())
}

fn a_device_that_is_dropped_says_so_to_peers(place: &Place) -> Result<(), Failed> {
    let mut pair = Pair::new(place);
    pair.b.receives(10);
    let (qa, qb) = (pair.qa, pair.qb);
    let heap = pair.b.heap.clone();
    let data = pair.b.filled(1000, 3).freeze();
    pair.b.send(qb, b"finds no receive", data.clone().into(), Then::Tell(1));
    let (device, cx) = pair.b.both();
    device.grant(&cx, qb, data.clone()).expect("there is room");
    drop(data);
    assert!(heap.stats().bytes_live > 0);
    let Pair { mut a, b, .. } = pair;
    drop(b);
    assert_eq!(heap.stats().bytes_live, 0, "receives, postings and grants have gone with it");
    let gone = until("an end", &mut [&mut a], |ends| ends[0].gone());
    assert_eq!(gone, (qa, Fault::Disconnected));
    Ok(())
}

/// Another process is the peer, and dies without a word.
fn a_peer_is_killed_in_any_phase(place: &Place) -> Result<(), Failed> {
    for role in ["listening", "idle", "taking", "sending"] {
        // Its death is told by its kernel, so this is not by the device's own limit.
        let config =
            VerbsConfig { answer_ms: 10_000, connect_ms: 3000, receives: 256, ..VerbsConfig::default() };
        let mut a = End::with(&config);
        let mut child = Child::start(role, place.ip);
        let addr = child.addr();
        let (device, cx) = a.both();
        let qp = device.connect(&cx, addr, HELLO)?;
        let mut posted = 0;
        if role != "listening" {
            let is_established = |event: &Event| matches!(event, Event::Established { .. });
            until("a connection", &mut [&mut a], |ends| ends[0].find(is_established, |_| ()));
            posted = traffic(&mut a, qp, role);
        } else {
            child.line();
        }
        child.kill();
        let begin = Instant::now();
        let is_end = |event: &Event| matches!(event, Event::Gone { .. } | Event::Refused { .. });
        let (name, why) = until("an end", &mut [&mut a], |ends| {
            ends[0].find(is_end, |event| match event {
                Event::Gone { qp, why } => (qp, Some(why)),
                Event::Refused { qp, .. } => (qp, None),
                _ => unreachable!("it is one"),
            })
        });
        assert_eq!(name, qp);
        assert!(begin.elapsed() < Duration::from_secs(4), "{role}: after {:?}", begin.elapsed());
        if role != "listening" {
            assert!(matches!(why, Some(Fault::Disconnected | Fault::Flushed)), "{role}: {why:?}");
        }
        let told =
            a.events.iter().filter(|event| matches!(event, Event::Sent { cookie: Some(_), .. })).count();
        let read = a.events.iter().filter(|event| matches!(event, Event::Read { .. })).count();
        assert_eq!(told + read, posted, "{role}: each posting has its end");
        a.events.clear();
        // And the next one is as good as the first.
        let mut b = End::open();
        let (_, addr) = b.listen(SocketAddr::new(place.ip, 0));
        connect(&mut a, &mut b, addr);
    }
    Ok(())
}

/// Posts what the peer of that role takes or does not take; how many tell of their ends.
fn traffic(a: &mut End, qp: Qp, role: &str) -> usize {
    let mut posted = 0;
    let begin = Instant::now();
    if role == "sending" {
        a.receives(200);
    }
    while begin.elapsed() < Duration::from_millis(500) {
        match role {
            "taking" if posted < 100 => {
                let data = a.filled(4000, 1).freeze();
                a.send(qp, b"take it", data.into(), Then::Tell(posted as u64));
                posted += 1;
            }
            // A region's place comes as the first message.
            "sending" => {
                while let Some((_, message)) = a.message() {
                    let (addr, key) = message.split_at(8);
                    let (Ok(addr), Ok(key)) = (addr.try_into(), key[..4].try_into()) else { continue };
                    let from = Remote { addr: u64::from_ne_bytes(addr), key: u32::from_ne_bytes(key) };
                    let into = a.filled(60_000, 1);
                    let (device, cx) = a.both();
                    if device.read(&cx, qp, from, into, 1).is_ok() {
                        posted += 1;
                    }
                }
            }
            _ => {}
        }
        a.turn();
    }
    posted
}

fn a_port_goes_down_and_up(place: &Place) -> Result<(), Failed> {
    let Some(interface) = &place.interface else { return Ok(()) };
    let set = |state: &str| {
        let status = Command::new("ip").args(["link", "set", interface, state]).status();
        assert!(status.is_ok_and(|status| status.success()), "the interface cannot be set {state}");
    };
    let mut pair = Pair::new(place);
    let (qa, qb) = (pair.qa, pair.qb);
    pair.b.receives(10);
    set("down");
    let is_down = |event: &Event| matches!(event, Event::Down(Fault::Down));
    let (mut at_a, mut at_b) = (None, None);
    pair.until("word of it at both ends", |a, b| {
        at_a = at_a.or_else(|| a.find(is_down, |_| ()));
        at_b = at_b.or_else(|| b.find(is_down, |_| ()));
        at_a.and(at_b)
    });
    assert_eq!((pair.a.device.room(qa), pair.b.device.room(qb)), (0, 0), "nothing can be posted");
    set("up");
    let is_up = |event: &Event| matches!(event, Event::Up);
    pair.until("word of it", |a, _| a.find(is_up, |_| ()));
    pair.until("word of it", |_, b| b.find(is_up, |_| ()));
    // Nothing was on its way, so nothing is lost.
    pair.a.send(qa, b"up again", SgArray::new(), Then::Quiet);
    assert_eq!(pair.until("a message", |_, b| b.message()).1[..], *b"up again");
    Ok(())
}
