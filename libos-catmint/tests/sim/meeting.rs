//! How instances find each other: one queue pair, however many connections and ports.

use std::time::Duration;

use demi_api::error::Error;
use demi_api::op::Done;
use demi_libos_catmint::device::ideal::Conditions;

use crate::world::{World, addr, ip};

const LIMIT: Duration = Duration::from_secs(60);

fn world(hosts: usize, more: &str) -> World {
    World::new(hosts, Conditions { seed: 9, delay: 2_000..=9_000, ..Conditions::default() }, 8, more)
}

/// Further connections are one message each way, and other ports of the same instance are known for what they are.
#[test]
fn there_is_one_queue_pair_between_two() {
    let mut world = world(3, "receives = 16");
    for port in [80, 81, 82] {
        let listener = world.listener(1, port);
        for _ in 0..5 {
            let before = world.counter(0, "sent");
            world.connected(0, 1, listener, port);
            assert_eq!(world.counter(0, "sent") - before, 1);
        }
    }
    let listener = world.listener(0, 80);
    world.connected(1, 0, listener, 80);
    assert_eq!([0, 1].map(|host| world.fabric.queue_pairs(ip(host))), [1, 1]);
    world.connected(2, 0, listener, 80);
    assert_eq!([0, 1, 2].map(|host| world.fabric.queue_pairs(ip(host))), [2, 1, 1]);
}

/// Two that call each other at the same moment both get through.
#[test]
fn calls_may_cross() {
    let mut world = world(2, "receives = 16");
    let listeners = [world.listener(0, 80), world.listener(1, 80)];
    let sockets = [world.socket(0), world.socket(1)];
    let accepts = [0, 1].map(|host| world.hosts[host].accept(listeners[host]).unwrap());
    let connects = [0, 1].map(|host| world.hosts[host].connect(sockets[host], addr(1 - host, 80)).unwrap());
    for host in [0, 1] {
        assert!(matches!(world.completion(host, connects[host]).result, Ok(Done::Connected)));
        let (far, _) = world.completion(host, accepts[host]).accepted().unwrap();
        world.wake(host);
        world.wake(1 - host);
        let push =
            world.hosts[1 - host].push(sockets[1 - host], world.hosts[1 - host].copy_from(b"x").unwrap());
        let pop = world.hosts[host].pop(far).unwrap();
        assert_eq!(world.completion(host, pop).popped().unwrap().to_vec(), b"x");
        world.completion(1 - host, push.unwrap()).pushed().unwrap();
    }
    assert!(world.fabric.queue_pairs(ip(0)) <= 2);
}

/// Whoever does not listen refuses; what was refused can be tried again; a full backlog refuses too.
#[test]
fn refusals_come_from_all_that_can_refuse() {
    let mut world = world(2, "receives = 16");
    let near = world.socket(0);
    // Nobody listens at all, nobody has the address, nobody listens at that port of a known peer.
    let try_at = |world: &mut World, port| {
        world.wake(0);
        let connect = world.hosts[0].connect(near, addr(1, port)).unwrap();
        world.completion(0, connect).result.map(|_| ())
    };
    assert_eq!(try_at(&mut world, 80), Err(Error::ConnectionRefused));
    world.wake(0);
    let nowhere = world.hosts[0].connect(near, addr(9, 80)).unwrap();
    assert_eq!(world.completion(0, nowhere).result.map(|_| ()), Err(Error::Unreachable));
    let listener = world.listener(1, 80);
    world.connected(0, 1, listener, 80);
    assert_eq!(try_at(&mut world, 81), Err(Error::ConnectionRefused));
    world.wake(1);
    world.hosts[1].close(listener).unwrap();
    assert_eq!(try_at(&mut world, 80), Err(Error::ConnectionRefused));
    world.wake(1);
    let narrow = world.socket(1);
    world.hosts[1].bind(narrow, addr(1, 82)).unwrap();
    world.hosts[1].listen(narrow, 1).unwrap();
    assert_eq!(try_at(&mut world, 82), Ok(()));
    world.wake(0);
    let second = world.socket(0);
    let connect = world.hosts[0].connect(second, addr(1, 82)).unwrap();
    assert_eq!(world.completion(0, connect).result.map(|_| ()), Err(Error::ConnectionRefused));
}

/// A connect that is recalled leaves its socket fresh, and nothing at the peer.
#[test]
fn a_connect_can_be_recalled_at_any_moment() {
    let mut world = world(2, "receives = 16");
    let listener = world.listener(1, 80);
    let near = world.socket(0);
    for steps in 0..40 {
        world.wake(0);
        let connect = world.hosts[0].connect(near, addr(1, 80)).unwrap();
        for _ in 0..steps {
            world.step();
        }
        world.wake(0);
        if world.hosts[0].cancel(connect).is_err() {
            assert!(matches!(world.completion(0, connect).result, Ok(Done::Connected)));
            break;
        }
        assert_eq!(world.completion(0, connect).result.map(|_| ()), Err(Error::Cancelled));
        assert_eq!(world.hosts[0].pop(near), Err(Error::NotConnected));
        world.run(LIMIT, |world| world.counter(0, "connections") == 0);
    }
    world.wake(0);
    world.hosts[0].close(near).unwrap();
    world.wake(1);
    world.hosts[1].close(listener).unwrap();
    world.run(LIMIT, |world| (0..2).all(|host| world.counter(host, "connections") == 0));
}

/// More connections than a side keeps are refused, and come about when others have gone.
#[test]
fn connections_are_bounded() {
    let mut world = world(2, "receives = 16\nconnections = 3");
    let listener = world.listener(1, 80);
    let pairs: Vec<_> = (0..3).map(|_| world.connected(0, 1, listener, 80)).collect();
    world.wake(0);
    let fourth = world.socket(0);
    let connect = world.hosts[0].connect(fourth, addr(1, 80)).unwrap();
    assert_eq!(world.completion(0, connect).result.map(|_| ()), Err(Error::TooManyQueues(3)));
    let [near, far] = pairs[1];
    world.wake(0);
    world.wake(1);
    world.hosts[0].close(near).unwrap();
    world.hosts[1].close(far).unwrap();
    world.run(LIMIT, |world| world.counter(0, "connections") == 2);
    world.wake(0);
    let connect = world.hosts[0].connect(fourth, addr(1, 80)).unwrap();
    assert!(matches!(world.completion(0, connect).result, Ok(Done::Connected)));
}

/// Whoever has met as many as it may, and has no connection with one of them any more, has room for another soon.
#[test]
fn peers_without_connections_make_room() {
    let mut world = world(4, "receives = 16\npeers = 2\nkeepalive_ms = 50");
    let listener = world.listener(0, 80);
    let kept = world.connected(1, 0, listener, 80);
    let [near, far] = world.connected(2, 0, listener, 80);
    world.wake(0);
    world.wake(3);
    let late = world.socket(3);
    let connect = world.hosts[3].connect(late, addr(0, 80)).unwrap();
    assert_eq!(world.completion(3, connect).result.map(|_| ()), Err(Error::ConnectionRefused));
    world.wake(0);
    world.wake(2);
    world.hosts[0].close(far).unwrap();
    world.hosts[2].close(near).unwrap();
    world.run(LIMIT, |world| world.counter(0, "connections") == 1 && world.counter(2, "connections") == 0);
    world.wake(3);
    let connect = world.hosts[3].connect(late, addr(0, 80)).unwrap();
    assert_eq!(world.completion(3, connect).result.map(|_| ()), Err(Error::ConnectionRefused));
    world.run(LIMIT, |world| world.counter(0, "peers") == 1);
    world.wake(3);
    let connect = world.hosts[3].connect(late, addr(0, 80)).unwrap();
    assert!(matches!(world.completion(3, connect).result, Ok(Done::Connected)));
    world.wake(1);
    world.wake(0);
    let push = world.hosts[1].push(kept[0], world.hosts[1].copy_from(b"x").unwrap()).unwrap();
    let pop = world.hosts[0].pop(kept[1]).unwrap();
    assert_eq!(world.completion(0, pop).popped().unwrap().to_vec(), b"x");
    world.completion(1, push).pushed().unwrap();
}
