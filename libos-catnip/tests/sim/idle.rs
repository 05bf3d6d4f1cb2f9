//! Connections on which nothing happens, and applications that are away.

use std::net::SocketAddr;
use std::time::Duration;

use demi_api::SocketOption;
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::{Domain, SocketKind};
use demi_libos_catnip::device::fault::Faults;

use crate::raw::{ACK, HOST, PSH, Raw, SYN, Seg};
use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A connection of the raw end's to the second host: its descriptor there, and the next sequence numbers of both.
struct Called {
    server: QDesc,
    ours: u32,
    theirs: u32,
}

impl Called {
    fn new(world: &World, raw: &mut Raw) -> Called {
        let host = &world.hosts[1];
        let listener = host.socket(Domain::Inet, SocketKind::Stream).unwrap();
        host.bind(listener, SocketAddr::new(HOST.into(), 80)).unwrap();
        host.listen(listener, 8).unwrap();
        let accept = host.accept(listener).unwrap();
        raw.send(world, &Seg { ports: (9, 80), seq: 100, flags: SYN, mss: Some(1460), ..Seg::default() });
        let theirs = raw.one().seq.wrapping_add(1);
        let ack = Seg { ports: (9, 80), seq: 101, ack: theirs, flags: ACK, window: 60_000, ..Seg::default() };
        raw.send(world, &ack);
        let server = world.take(1, accept).expect("accepted").accepted().unwrap().0;
        host.close(listener).unwrap();
        Called { server, ours: 101, theirs }
    }

    fn ack(&self) -> Seg {
        Seg { ports: (9, 80), seq: self.ours, ack: self.theirs, flags: ACK, window: 60_000, ..Seg::default() }
    }
}

fn keep_alive(world: &World, qd: QDesc) {
    for option in [
        SocketOption::KeepIdle(10 * SECOND),
        SocketOption::KeepInterval(2 * SECOND),
        SocketOption::KeepCount(3),
        SocketOption::KeepAlive(true),
    ] {
        world.hosts[1].set_option(qd, option).unwrap();
    }
}

fn world() -> World {
    World::over(1, 1500, "", "", |plug, _| Box::new(plug))
}

#[test]
fn what_is_closed_after_an_absence_lingers_from_then_on() {
    let world = world();
    let [near, far] = world.connected(SECOND);
    world.hosts[0].set_option(near, SocketOption::Linger(Some(SECOND))).unwrap();
    world.clock.set(world.now() + 5 * SECOND);
    world.hosts[0].push(near, world.hosts[0].copy_from(b"last words").unwrap()).unwrap();
    world.hosts[0].close(near).unwrap();
    for expected in [&b"last words"[..], b""] {
        let pop = world.hosts[1].pop(far).unwrap();
        let mut popped = None;
        world.run(SECOND, |world| {
            popped = world.take(1, pop);
            popped.is_some()
        });
        assert_eq!(popped.unwrap().popped().unwrap().to_vec(), expected);
    }
    assert_eq!(world.counter(0, "tcp_linger_expired"), 0);
}

#[test]
fn rfc9293_3_8_4_probes_begin_when_they_are_asked_for_and_end_when_they_are_not() {
    let world = world();
    let mut raw = Raw::new(&world);
    let called = Called::new(&world, &mut raw);
    raw.pass(&world, 5 * SECOND);
    keep_alive(&world, called.server);
    raw.pass(&world, 4 * SECOND);
    raw.none();
    raw.pass(&world, 2 * SECOND);
    let probe = raw.one();
    assert_eq!((probe.seq, probe.flags, probe.data.len()), (called.theirs.wrapping_sub(1), ACK, 0));
    raw.send(&world, &called.ack());
    raw.pass(&world, 9 * SECOND);
    raw.none();
    raw.pass(&world, 2 * SECOND);
    raw.one();
    raw.send(&world, &called.ack());
    world.hosts[1].set_option(called.server, SocketOption::KeepAlive(false)).unwrap();
    raw.pass(&world, 100 * SECOND);
    raw.none();
}

#[test]
fn rfc9293_3_8_4_a_peer_that_answers_no_probe_is_given_up() {
    let world = world();
    let mut raw = Raw::new(&world);
    let called = Called::new(&world, &mut raw);
    // It has been silent for long already: that alone proves nothing.
    raw.pass(&world, 1000 * SECOND);
    keep_alive(&world, called.server);
    let pop = world.hosts[1].pop(called.server).unwrap();
    raw.pass(&world, 5 * SECOND);
    assert_eq!(raw.seen.drain(..).filter(|seg| seg.flags == ACK).count(), 3);
    raw.pass(&world, 2 * SECOND);
    assert_eq!(world.take(1, pop).expect("it ended").result.unwrap_err(), Error::TimedOut);
}

#[test]
fn rfc5482_data_without_an_answer_is_given_up_after_the_user_timeout() {
    let world = world();
    let mut raw = Raw::new(&world);
    let called = Called::new(&world, &mut raw);
    world.hosts[1].set_option(called.server, SocketOption::UserTimeout(5 * SECOND)).unwrap();
    raw.pass(&world, SECOND);
    let sga = world.hosts[1].copy_from(&[7; 1000]).unwrap();
    let push = world.hosts[1].push(called.server, sga).unwrap();
    raw.pass(&world, 4900 * MS);
    assert!(world.take(1, push).is_none());
    raw.pass(&world, 200 * MS);
    assert_eq!(world.take(1, push).expect("given up").result.unwrap_err(), Error::TimedOut);
}

#[test]
fn a_push_long_after_the_last_turn_is_not_taken_for_lost() {
    for away in [MS, 30 * MS, 250 * MS, 3 * SECOND] {
        let world = world();
        let mut raw = Raw::new(&world);
        let called = Called::new(&world, &mut raw);
        let host = &world.hosts[1];
        let mut called = Called { ..called };
        // A round-trip time of 100 µs is known.
        let answer = |raw: &mut Raw, called: &mut Called, bytes: u32| {
            raw.pass(&world, MS / 10);
            called.theirs = called.theirs.wrapping_add(bytes);
            raw.seen.clear();
            raw.send(&world, &called.ack());
        };
        for _ in 0..30 {
            host.push(called.server, host.copy_from(&[1; 100]).unwrap()).unwrap();
            answer(&mut raw, &mut called, 100);
        }
        let before = [("tcp_timeouts"), ("tcp_tail_loss_probes"), "tcp_retransmitted"]
            .map(|name| world.counter(1, name));
        for _ in 0..10 {
            // The application computes, and nobody turns the loop.
            world.clock.set(world.now() + away);
            host.push(called.server, host.copy_from(&[1; 5000]).unwrap()).unwrap();
            answer(&mut raw, &mut called, 5000);
        }
        let after = [("tcp_timeouts"), ("tcp_tail_loss_probes"), "tcp_retransmitted"]
            .map(|name| world.counter(1, name));
        assert_eq!(before, after, "away for {away:?}");
        // What is really lost is noticed as soon as ever: the estimate did not grow.
        host.push(called.server, host.copy_from(&[1; 100]).unwrap()).unwrap();
        raw.pass(&world, MS);
        raw.seen.clear();
        raw.pass(&world, 260 * MS);
        assert!(!raw.seen.is_empty(), "away for {away:?}");
    }
}

#[test]
fn what_arrived_while_the_application_was_away_is_not_sent_again() {
    let world = world();
    let mut raw = Raw::new(&world);
    let called = Called::new(&world, &mut raw);
    let host = &world.hosts[1];
    let push = host.push(called.server, host.copy_from(&[1; 60_000]).unwrap()).unwrap();
    raw.settle(&world);
    // Acknowledgements wait in the device, and so does much else, when the loop turns again.
    let sent: u32 = raw.seen.drain(..).map(|seg| seg.data.len() as u32).sum();
    let ack = Seg { ack: called.theirs.wrapping_add(sent), ..called.ack() };
    for _ in 0..100 {
        raw.send_from(world.now(), crate::raw::RAW, &Seg { ports: (10, 81), flags: ACK, ..ack.clone() });
    }
    raw.send_from(world.now(), crate::raw::RAW, &ack);
    world.clock.set(world.now() + 2 * SECOND);
    raw.settle(&world);
    assert_eq!(world.counter(1, "tcp_retransmitted"), 0);
    assert!(world.take(1, push).is_none(), "more was to be sent");
}

#[test]
fn the_receive_window_follows_what_the_application_takes() {
    for takes in [true, false] {
        let world = World::over(1, 1500, "recv_buffer = 4194304", "", |plug, _| Box::new(plug));
        let mut raw = Raw::new(&world);
        let host = &world.hosts[1];
        let listener = host.socket(Domain::Inet, SocketKind::Stream).unwrap();
        host.bind(listener, SocketAddr::new(HOST.into(), 80)).unwrap();
        host.listen(listener, 8).unwrap();
        let accept = host.accept(listener).unwrap();
        let syn =
            Seg { ports: (9, 80), seq: 100, flags: SYN, mss: Some(1460), shift: Some(0), ..Seg::default() };
        raw.send(&world, &syn);
        let answer = raw.one();
        raw.pass(&world, 20 * MS);
        let ack = Seg { seq: 101, ack: answer.seq.wrapping_add(1), flags: ACK, window: 60_000, ..syn };
        let mut ack = Seg { mss: None, shift: None, ..ack };
        raw.send(&world, &ack);
        let server = world.take(1, accept).expect("accepted").accepted().unwrap().0;
        let shift = answer.shift.unwrap();
        let mut window = 65_535;
        for _ in 0..20 {
            // A round trip in which the peer sends what it may.
            let mut left = window;
            while left > 0 {
                let len = left.min(1460);
                raw.send(&world, &Seg { flags: ACK | PSH, data: vec![3; len], ..ack.clone() });
                ack.seq += len as u32;
                left -= len;
                for _ in 0..if takes { usize::MAX } else { 0 } {
                    let pop = host.pop(server).unwrap();
                    if world.take(1, pop).is_none() {
                        host.cancel(pop).unwrap();
                        world.take(1, pop).unwrap();
                        break;
                    }
                }
            }
            raw.pass(&world, 20 * MS);
            let last = raw.seen.drain(..).next_back().unwrap();
            assert_eq!(last.ack, ack.seq);
            window = usize::from(last.window) << shift;
            if window == 0 || window > 3 << 20 {
                break;
            }
        }
        assert!(
            if takes { window > 3 << 20 } else { window == 0 && ack.seq < 200_000 },
            "{window} {}",
            ack.seq
        );
    }
}

#[test]
fn a_bulk_transfer_over_a_long_path_is_not_held_back_by_its_buffers() {
    let faults = Faults { delay: 25 * MS, ..Faults::default() };
    let world = World::new(1, &faults, 1500, "recv_buffer = 8388608\nsend_buffer = 8388608");
    let [near, far] = world.connected(10 * SECOND);
    // Ten windows of what buffers begin with.
    let total = 20 << 16;
    let mut left = total;
    let begin = world.now();
    let (mut pushes, mut pop, mut got) = (Vec::new(), None, 0);
    world.run(60 * SECOND, |world| {
        pushes.retain(|token| world.take(0, *token).is_none());
        while left > 0 {
            let Ok(sga) = world.hosts[0].copy_from(&[5; 65_536]) else { break };
            pushes.push(world.hosts[0].push(near, sga).unwrap());
            left -= 65_536;
        }
        loop {
            let token = *pop.get_or_insert_with(|| world.hosts[1].pop(far).unwrap());
            let Some(done) = world.take(1, token) else { break };
            got += done.popped().unwrap().len();
            pop = None;
        }
        got == total
    });
    let trips = (world.now() - begin).as_millis() / 50;
    // A window of what buffers begin with would take four for slow start, and ten for the rest.
    assert!(trips <= 11, "{trips} round trips");
}
