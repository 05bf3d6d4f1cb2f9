//! Faults of connections and of what goes over them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use demi_api::{QToken, Shutdown, SocketOption};
use smoltcp::wire::TcpControl;

use super::wire::{DELAY, Net};
use super::{FAR, NEAR, World, pattern};

/// Fault 1: whoever waited for its oldest push waited for ever, because any push could take any acknowledgement.
///
/// Pushes pile up behind a peer that does not read. Then it reads what the oldest pending one ends with, and stops: that
/// one completes, and no later one before its own end is read. With the fault, it is another's token.
#[test]
fn fault_01_waiting_for_the_oldest_push_makes_progress() {
    let world = World::new();
    let [near, far] = world.connected();
    let block = world.host(NEAR).copy_from(&pattern(512 << 10)).unwrap();
    let pushes: Vec<QToken> = (0..24).map(|_| world.host(NEAR).push(near, block.clone()).unwrap()).collect();
    world.pass(Duration::from_secs(2));
    let mut oldest = pushes.iter().position(|push| world.take(NEAR, *push).is_none()).expect("they pile up");
    let mut read = 0;
    while oldest < 20 {
        read += world.read(FAR, far, (oldest + 1) * block.len() - read).len();
        world.wait(NEAR, pushes[oldest]).pushed().unwrap();
        assert!(world.take(NEAR, pushes[23]).is_none(), "all of it was taken, so this says nothing");
        oldest += 1;
    }
    read += world.read(FAR, far, 24 * block.len() - read).len();
    assert_eq!(read, 24 * block.len());
    // From the other side: the newest is waited for, and all before it are done then.
    world.wait(NEAR, pushes[23]).pushed().unwrap();
    for push in &pushes[oldest..23] {
        world.take(NEAR, *push).expect("those before it are done").pushed().unwrap();
    }
    drop(block);
    world.assert_no_leak();
}

/// Fault 3: 32 messages of 1400 bytes outstanding hung, or set off a storm of duplicate acknowledgements.
///
/// An echo of 3000 messages, 32 of them on their way at any time. With the fault a message does not come back, or
/// something is sent twice on a wire that loses nothing.
#[test]
fn fault_03_many_messages_outstanding_are_echoed_once() {
    let world = World::new();
    let [near, far] = world.connected();
    let message = pattern(1400);
    let (mut sent, mut received, mut pushes) = (0, 0, Vec::new());
    let [mut near_pop, mut far_pop] =
        [(NEAR, near), (FAR, far)].map(|(at, qd)| world.host(at).pop(qd).unwrap());
    world.until(|| {
        while sent < 3000 && sent - received / message.len() < 32 {
            pushes.push((NEAR, world.push(NEAR, near, &message)));
            sent += 1;
        }
        while let Some(done) = world.take(FAR, far_pop) {
            let there = done.popped().unwrap();
            pushes.push((FAR, world.host(FAR).push(far, there).unwrap()));
            far_pop = world.host(FAR).pop(far).unwrap();
        }
        while let Some(done) = world.take(NEAR, near_pop) {
            let back = done.popped().unwrap().to_vec();
            let expected = |at: usize| message[(received + at) % message.len()];
            assert!(back.iter().enumerate().all(|(at, byte)| *byte == expected(at)));
            received += back.len();
            near_pop = world.host(NEAR).pop(near).unwrap();
        }
        pushes.retain(|(at, push)| world.take(*at, *push).is_none());
        received == 3000 * message.len() && pushes.is_empty()
    });
    world.assert_calm();
    world.assert_no_leak();
}

/// Fault 5: `close` hung in FIN_WAIT_2 when the peer had exited.
///
/// The peer's machine vanishes before it has acknowledged the end, or after that, or the peer stays and never closes.
/// With the fault the connection, and what it holds, is there for ever.
#[test]
fn fault_05_a_closed_connection_ends_without_its_peer() {
    for fate in ["vanishes", "vanishes in FIN_WAIT_2", "never closes"] {
        let mut world = World::new();
        let [near, _far] = world.connected();
        world.host(NEAR).set_option(near, SocketOption::Linger(Some(Duration::from_secs(20)))).unwrap();
        if fate == "vanishes" {
            world.hosts[FAR] = None;
        }
        let push = world.push(NEAR, near, b"farewell");
        let pop = world.host(NEAR).pop(near).unwrap();
        world.host(NEAR).close(near).unwrap();
        let _ = world.wait(NEAR, pop).popped().unwrap_err();
        if fate != "vanishes" {
            world.pass(4 * DELAY);
            let fin = world.net.borrow().segments(NEAR).filter(|s| s.control == TcpControl::Fin).count();
            assert_eq!(fin, 1, "the end was sent, and acknowledged");
        }
        if fate == "vanishes in FIN_WAIT_2" {
            world.hosts[FAR] = None;
        }
        let _ = world.wait(NEAR, push);
        // Within the world's limit: a minute of FIN_WAIT_2, or the linger time.
        world.until(|| world.counter(NEAR, "tcp_connections") == 0);
        // What may still be waiting for an answer of the neighbour.
        world.pass(Duration::from_secs(10));
        let counters = world.host(NEAR).counters().unwrap();
        assert_eq!((counters.operations_pending, counters.heap.objects_live), (0, 0), "a peer that {fate}");
        world.assert_no_leak();
    }
}

/// Fault 6: what arrived after the own end was sent was dropped.
///
/// The peer answers when it has seen the end, with more than a window, and before it, on its way at the same time. With
/// the fault the answer is missing, in part or as a whole.
#[test]
fn fault_06_what_arrives_in_fin_wait_is_delivered() {
    let answer = pattern(3 << 20);
    for waits_for_the_end in [true, false] {
        let world = World::new();
        let [near, far] = world.connected();
        world.push(NEAR, near, b"question");
        world.host(NEAR).shutdown(near, Shutdown::Write).unwrap();
        if waits_for_the_end {
            assert_eq!(world.read(FAR, far, 100), b"question", "and then the end");
        }
        let push = world.push(FAR, far, &answer);
        world.host(FAR).shutdown(far, Shutdown::Write).unwrap();
        let received = world.read(NEAR, near, usize::MAX);
        assert!(received == answer, "{} of {} bytes arrived", received.len(), answer.len());
        world.wait(FAR, push).pushed().unwrap();
        world.assert_calm();
        world.assert_no_leak();
    }
}

/// Fault 9: without window scaling, no more than 64 KiB were ever on their way.
///
/// Both SYNs offer a scale above zero, and a transfer over a path with a delay makes use of it.
#[test]
fn fault_09_more_than_64_kib_are_on_their_way() {
    let world = World::new();
    let [near, far] = world.connected();
    for place in [NEAR, FAR] {
        let syn = world.net.borrow().segments(place).find(|segment| segment.control == TcpControl::Syn);
        let scale = syn.expect("each has sent a SYN").scale;
        assert!(scale.is_some_and(|scale| (1..=14).contains(&scale)), "host {place} offers {scale:?}");
    }
    let bytes = pattern(8 << 20);
    let push = world.push(NEAR, near, &bytes);
    assert!(world.read(FAR, far, bytes.len()) == bytes);
    world.wait(NEAR, push).pushed().unwrap();
    let most = flights(&world.net.borrow()).into_iter().map(|(_, flight)| flight).max();
    assert!(most > Some(256 << 10), "at most {most:?} bytes were on their way at once");
    world.assert_calm();
}

/// Beside fault 9: the scale cuts off what it cannot say, and what was offered once is good for ever (RFC 7323 §2.4).
///
/// A reader falls behind, and the window closes, over a path that lets the acknowledgements come one by one. An edge that
/// crept back would have the receiver refuse what was sent in its sight.
#[test]
fn fault_09_a_scaled_window_does_not_shrink() {
    let world = World::new();
    let [near, far] = world.connected();
    let scale = |net: &Net| net.segments(FAR).find_map(|segment| segment.scale).expect("a SYN with a scale");
    let scale = scale(&world.net.borrow());
    let bytes = pattern(3 << 20);
    let mut turn = 0;
    world.net.borrow_mut().room = Some(Box::new(move || {
        turn += 1;
        turn % 2
    }));
    let push = world.push(NEAR, near, &bytes);
    world.pass(Duration::from_secs(1));
    assert!(world.read(FAR, far, bytes.len()) == bytes);
    world.wait(NEAR, push).pushed().unwrap();
    let net = world.net.borrow();
    let acks = net.segments(FAR).filter(|segment| segment.control == TcpControl::None);
    let edges =
        acks.filter_map(|segment| Some(segment.ack?.wrapping_add(u32::from(segment.window) << scale)));
    let edges: Vec<u32> = edges.collect();
    let mut furthest = edges[0];
    for edge in &edges {
        let back = furthest.wrapping_sub(*edge).cast_signed();
        assert!(back < 1 << scale, "the window's edge moved back by {back}");
        if back < 0 {
            furthest = *edge;
        }
    }
    assert!(edges.len() > 100, "{} acknowledgements say too little", edges.len());
}

/// Fault 10: congestion control was never switched on.
///
/// The first flight is no more than the initial window of ten segments (RFC 6928), the next ones grow by no more than
/// what was acknowledged (RFC 5681 §3.1), and one loss leaves 7/10 of what the window has grown to when it is found
/// (RFC 9438 §4.6). With the fault, the peer's window is the only limit to each of these.
#[test]
fn fault_10_the_congestion_window_limits_what_is_sent() {
    let world = World::new();
    let [near, far] = world.connected();
    let bytes = pattern(6 << 20);
    let begin = world.clock.now();
    let dropped_at = Rc::new(Cell::new(None));
    let (dropped, mut data) = (Rc::clone(&dropped_at), 0);
    world.net.borrow_mut().loses = Some(Box::new(move |sent| {
        let len = sent.segment().filter(|_| sent.from == NEAR).map_or(0, |segment| segment.len);
        data += usize::from(len > 0);
        let loses = data == 300 && dropped.get().is_none();
        if loses {
            dropped.set(Some(sent.at));
        }
        loses
    }));
    let push = world.push(NEAR, near, &bytes);
    assert!(world.read(FAR, far, bytes.len()) == bytes);
    world.wait(NEAR, push).pushed().unwrap();
    assert_eq!(world.counter(NEAR, "tcp_recoveries"), 1, "{:?}", world.counters());
    let round_trip = 2 * DELAY;
    let lost_at = dropped_at.get().expect("a segment was lost");
    let flights = flights(&world.net.borrow());
    let most = |from: demi_api::time::Instant, time: Duration| {
        let within = flights.iter().filter(|(at, _)| *at >= from && *at < from + time);
        within.map(|(_, flight)| *flight).max().unwrap_or(0)
    };
    let first = most(begin, round_trip);
    assert!((2 * 1460..=10 * 1460).contains(&first), "{first} bytes in the first flight");
    let second = most(begin + round_trip, round_trip);
    assert!(
        second > first && second <= 2 * first,
        "{second} bytes in the second flight, {first} in the first"
    );
    // The loss is found a round trip after it, in which the window grows once more, and repaired one later.
    let before = most(lost_at, round_trip);
    let after = most(lost_at + 3 * round_trip, round_trip);
    assert!(after * 100 <= before * 90, "{after} bytes on their way after a loss, {before} before it");
}

/// How much was on its way when: after each segment with data that the near host has sent.
fn flights(net: &Net) -> Vec<(demi_api::time::Instant, u32)> {
    let mut flights = Vec::new();
    let mut first = None;
    let (mut sent_up_to, mut events) = (0, Vec::new());
    for sent in &net.log {
        let Some(segment) = sent.segment() else { continue };
        if sent.from == NEAR && segment.len > 0 {
            let base = *first.get_or_insert(segment.seq);
            events.push((sent.at, segment.seq.wrapping_sub(base) + segment.len as u32, true));
        } else if let (FAR, Some(base), Some(ack)) = (sent.from, first, segment.ack) {
            events.push((sent.at + DELAY, ack.wrapping_sub(base), false));
        }
    }
    events.sort_by_key(|(at, _, is_data)| (*at, *is_data));
    let mut acked = 0;
    for (at, place, is_data) in events {
        if is_data {
            sent_up_to = sent_up_to.max(place);
            flights.push((at, sent_up_to - acked));
        } else {
            acked = acked.max(place);
        }
    }
    flights
}
