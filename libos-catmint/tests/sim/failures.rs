//! Peers that die, networks that break, ports that go down: every token meets a clear end, buffers come back, and one can connect again.

use std::time::Duration;

use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::op::Done;
use demi_api::token::QToken;
use demi_libos_catmint::device::Fault;
use demi_libos_catmint::device::ideal::Conditions;

use crate::world::{World, addr, ip};

const SMALL: &str = "receives = 8\nreceive_bytes = 512\nwindow = 4096";
const LIMIT: Duration = Duration::from_secs(60);

/// What is under way at a host: pushes of all kinds, more than are taken, and pops of which not all are served.
fn load(world: &World, host: usize, queues: &[QDesc]) -> Vec<QToken> {
    let demi = &world.hosts[host];
    let mut tokens = Vec::new();
    for (at, qd) in queues.iter().enumerate() {
        for len in [10, 300, 450, 5_000, 70_000, 0, 480, 20] {
            let push = demi.push(*qd, demi.copy_from(&vec![at as u8; len]).unwrap());
            tokens.extend(push.ok());
        }
        tokens.extend((0..1 + at % 12).filter_map(|_| demi.pop(*qd).ok()));
    }
    tokens
}

/// Ends what is left, and looks whether everything is as it was.
fn settle(world: &mut World, host: usize, queues: &[QDesc], tokens: &[QToken], expected: &[Error]) {
    world.wake(host);
    let mut left = tokens.to_vec();
    world.run(LIMIT, |world| {
        world.wake(host);
        left.retain(|token| match world.take(host, *token).map(|done| done.result) {
            None => true,
            Some(Ok(Done::Popped(_) | Done::Pushed(_) | Done::Connected)) => false,
            Some(Err(error)) => {
                assert!(expected.contains(&error), "{error}");
                false
            }
            Some(Ok(other)) => panic!("{other:?}"),
        });
        left.is_empty()
    });
    for qd in queues {
        world.wake(host);
        assert_eq!(
            world.hosts[host]
                .pop(*qd)
                .map(|_| ())
                .or_else(|error| { if error == Error::ConnectionReset { Ok(()) } else { Err(error) } }),
            Ok(())
        );
        world.hosts[host].close(*qd).unwrap();
    }
    world.run(LIMIT, |world| {
        world.wake(host);
        world.counter(host, "connections") == 0
    });
    let mut left = Vec::new();
    while world.hosts[host].wait_next_n(&mut left, 64, Some(Duration::ZERO)).is_ok() {}
    drop(left);
    world.pause(host);
    let counters = world.hosts[host].counters().unwrap();
    assert_eq!((counters.operations_pending, counters.stale_posts), (0, 0));
    let receives = counters.heap.objects_live;
    assert!(receives.is_multiple_of(8) && receives <= 32, "{receives} objects are live beside the receives");
}

/// In every phase: after so many steps of a conversation.
#[test]
fn a_peer_dies_at_any_moment_and_comes_again() {
    for steps in (0..120).step_by(3) {
        let conditions = Conditions { seed: steps, delay: 1_000..=30_000, depth: 8, ..Conditions::default() };
        let mut world = World::new(2, conditions, 8, SMALL);
        let listener = world.listener(1, 80);
        let pairs: Vec<_> = (0..6).map(|_| world.connected(0, 1, listener, 80)).collect();
        let [near, far] = [0, 1].map(|end| pairs.iter().map(|pair| pair[end]).collect::<Vec<_>>());
        world.wake(0);
        world.wake(1);
        let tokens = load(&world, 0, &near);
        load(&world, 1, &far);
        for _ in 0..steps {
            world.step();
        }
        // One connection is being asked for as well.
        world.wake(0);
        let late = world.socket(0);
        let connect = world.hosts[0].connect(late, addr(1, 80)).unwrap();
        world.restart(1);
        let outcome = world.completion(0, connect).result;
        assert!(
            matches!(outcome, Err(Error::ConnectionReset | Error::ConnectionRefused) | Ok(Done::Connected)),
            "{outcome:?}"
        );
        settle(&mut world, 0, &near, &tokens, &[Error::ConnectionReset]);
        // The new one at the same address is somebody else.
        let listener = world.listener(1, 80);
        let [near, far] = world.connected(0, 1, listener, 80);
        world.wake(0);
        world.wake(1);
        let push = world.hosts[0].push(near, world.hosts[0].copy_from(&[7; 3000]).unwrap()).unwrap();
        let pop = world.hosts[1].pop(far).unwrap();
        assert_eq!(world.completion(1, pop).popped().unwrap().to_vec(), [7; 3000]);
        world.completion(0, push).pushed().unwrap();
    }
}

/// The queue pair fails on both sides, which both live on.
#[test]
fn the_network_breaks_at_any_moment() {
    for steps in (0..120).step_by(3) {
        let conditions =
            Conditions { seed: 77 + steps, delay: 1_000..=30_000, depth: 8, ..Conditions::default() };
        let mut world = World::new(2, conditions, 8, SMALL);
        let listener = world.listener(1, 80);
        let pairs: Vec<_> = (0..6).map(|_| world.connected(0, 1, listener, 80)).collect();
        let [near, far] = [0, 1].map(|end| pairs.iter().map(|pair| pair[end]).collect::<Vec<_>>());
        world.wake(0);
        world.wake(1);
        let tokens = [load(&world, 0, &near), load(&world, 1, &far)];
        for _ in 0..steps {
            world.step();
        }
        let why = if steps.is_multiple_of(2) { Fault::Timeout } else { Fault::RemoteOperation };
        world.fabric.cut(ip(0), ip(1), why);
        world.hosts[1].close(listener).unwrap();
        settle(&mut world, 0, &near, &tokens[0], &[Error::ConnectionReset]);
        settle(&mut world, 1, &far, &tokens[1], &[Error::ConnectionReset]);
        assert_eq!(world.counter(0, "peers") + world.counter(1, "peers"), 0);
        let listener = world.listener(1, 81);
        world.connected(0, 1, listener, 81);
    }
}

/// A peer that vanishes without a word while nobody says anything is noticed by the keep-alive.
#[test]
fn a_silent_peer_is_tried() {
    let conditions = Conditions { seed: 3, delay: 1_000..=2_000, ..Conditions::default() };
    let mut world = World::new(2, conditions, 8, "keepalive_ms = 50");
    let listener = world.listener(1, 80);
    let [near, _] = world.connected(0, 1, listener, 80);
    world.wake(0);
    let pop = world.hosts[0].pop(near).unwrap();
    let begin = world.now();
    world.run(LIMIT, |world| world.now().since(begin) > Duration::from_secs(1));
    let tried = world.counter(0, "keepalives");
    assert!((15..=21).contains(&tried), "{tried} times in a second");
    world.wake(0);
    assert!(world.take(0, pop).is_none());
    world.restart(1);
    assert_eq!(world.completion(0, pop).result.map(|_| ()), Err(Error::ConnectionReset));
    world.hosts[0].close(near).unwrap();
    let counters = world.hosts[0].counters().unwrap();
    assert_eq!(counters.operations_pending, 0);
}

/// While the port is down nothing can be connected, and what was is lost; when it is up again, it can.
#[test]
fn a_port_goes_down_and_up() {
    let conditions = Conditions { seed: 4, delay: 1_000..=2_000, ..Conditions::default() };
    let mut world = World::new(2, conditions, 8, SMALL);
    let listener = world.listener(1, 80);
    let [near, far] = world.connected(0, 1, listener, 80);
    let pops = [world.hosts[0].pop(near).unwrap(), world.hosts[1].pop(far).unwrap()];
    world.fabric.set_port(ip(0), false);
    for (host, pop) in pops.into_iter().enumerate() {
        assert_eq!(world.completion(host, pop).result.map(|_| ()), Err(Error::ConnectionReset));
    }
    world.wake(0);
    let again = world.socket(0);
    let connect = world.hosts[0].connect(again, addr(1, 80)).unwrap();
    assert_eq!(world.completion(0, connect).result.map(|_| ()), Err(Error::Unreachable));
    world.fabric.set_port(ip(0), true);
    world.step();
    world.wake(0);
    let connect = world.hosts[0].connect(again, addr(1, 80)).unwrap();
    assert!(matches!(world.completion(0, connect).result, Ok(Done::Connected)));
}

/// Linger ends what a peer that does not read holds up, and takes back what it was offered.
#[test]
fn linger_takes_back_what_is_not_read() {
    let conditions = Conditions { seed: 5, delay: 1_000..=2_000, ..Conditions::default() };
    let mut world = World::new(2, conditions, 8, SMALL);
    let listener = world.listener(1, 80);
    let [near, far] = world.connected(0, 1, listener, 80);
    let before = world.hosts[0].counters().unwrap().heap.objects_live;
    let pushes: Vec<_> = (0..9)
        .map(|_| world.hosts[0].push(near, world.hosts[0].copy_from(&[1; 20_000]).unwrap()).unwrap())
        .collect();
    let linger = demi_api::SocketOption::Linger(Some(Duration::from_millis(30)));
    world.hosts[0].set_option(near, linger).unwrap();
    let begin = world.now();
    world.hosts[0].close(near).unwrap();
    for push in pushes {
        assert_eq!(world.completion(0, push).result.map(|_| ()), Err(Error::TimedOut));
    }
    assert!(world.now().since(begin) < Duration::from_millis(40));
    world.run(LIMIT, |world| world.counter(0, "connections") == 0);
    world.pause(0);
    assert_eq!(world.hosts[0].counters().unwrap().heap.objects_live, before);
    world.wake(1);
    let pop = world.hosts[1].pop(far).unwrap();
    assert_eq!(world.completion(1, pop).result.map(|_| ()), Err(Error::ConnectionReset));
}

/// Linger holds when Close was said at once, as something had come that nobody read, and the peer never answers.
#[test]
fn linger_ends_what_a_stopped_peer_holds_up() {
    let conditions = Conditions { seed: 6, delay: 1_000..=2_000, ..Conditions::default() };
    let mut world = World::new(2, conditions, 8, SMALL);
    let listener = world.listener(1, 80);
    let [near, far] = world.connected(0, 1, listener, 80);
    world.wake(1);
    world.hosts[1].push(far, world.hosts[1].copy_from(b"unread").unwrap()).unwrap();
    world.run(LIMIT, |world| world.counter(0, "received") > 1);
    world.wake(0);
    let push = world.hosts[0].push(near, world.hosts[0].copy_from(&[1; 20_000]).unwrap()).unwrap();
    let linger = demi_api::SocketOption::Linger(Some(Duration::from_millis(30)));
    world.hosts[0].set_option(near, linger).unwrap();
    world.hosts[0].close(near).unwrap();
    // From here on the peer does nothing.
    let end = world.now() + Duration::from_millis(40);
    while world.now() < end {
        world.clock.set(world.now() + Duration::from_millis(1));
        world.fabric.advance(world.now());
        world.hosts[0].poll().unwrap();
    }
    let done = world.take(0, push).expect("within the linger time");
    assert_eq!(done.result.map(|_| ()), Err(Error::TimedOut));
}

/// The peer closes, and the queue pair fails before the device has told of a push: its name is free by then, or not.
#[test]
fn a_push_under_way_when_the_peer_closes_and_the_network_breaks_meets_its_fate() {
    for steps in 0..40 {
        let conditions = Conditions { seed: steps, delay: 5_000..=50_000, ..Conditions::default() };
        let mut world = World::new(2, conditions, 8, "receives = 16");
        let listener = world.listener(1, 80);
        let [near, far] = world.connected(0, 1, listener, 80);
        world.wake(0);
        world.wake(1);
        world.hosts[1].close(far).unwrap();
        let push = world.hosts[0].push(near, world.hosts[0].copy_from(&[1; 2000]).unwrap()).unwrap();
        for _ in 0..steps {
            world.step();
        }
        world.fabric.cut(ip(0), ip(1), Fault::Timeout);
        let done = world.completion(0, push).result.map(|_| ());
        assert!(matches!(done, Ok(()) | Err(Error::ConnectionReset)), "{done:?}");
        world.wake(0);
        world.hosts[0].close(near).unwrap();
        world.run(LIMIT, |world| world.counter(0, "connections") == 0);
    }
}

/// Reading is shut down while an array of many pieces is being read: what is begun is read, the rest is refused, and all is told.
#[test]
fn offers_are_answered_when_reading_is_shut_down() {
    for steps in 0..30 {
        let conditions = Conditions { seed: steps, delay: 1_000..=20_000, depth: 4, ..Conditions::default() };
        let mut world = World::new(2, conditions, 8, SMALL);
        let listener = world.listener(1, 80);
        let [near, far] = world.connected(0, 1, listener, 80);
        world.wake(0);
        world.wake(1);
        let demi = &world.hosts[0];
        let pushes: Vec<_> = (0..3)
            .map(|_| {
                let pieces = (0..8).map(|_| demi.copy_from(&[1; 400]).unwrap());
                let array: demi_api::SgArray = pieces.flat_map(|piece| piece.segments().to_vec()).collect();
                demi.push(near, array).unwrap()
            })
            .collect();
        world.hosts[1].pop(far).unwrap();
        for _ in 0..steps {
            world.step();
        }
        world.wake(1);
        world.hosts[1].shutdown(far, demi_api::Shutdown::Read).unwrap();
        for push in pushes {
            let done = world.completion(0, push).result.map(|_| ());
            assert!(matches!(done, Ok(()) | Err(Error::ConnectionReset)), "{done:?}");
        }
    }
}
