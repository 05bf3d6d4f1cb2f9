use demi_api::{Done, Error, Position};

use super::world::{AT, World, ip};
use crate::device::Fault;
use crate::device::ideal::Conditions;

fn slow() -> Conditions {
    Conditions { delay: 10_000..=20_000, ..Conditions::default() }
}

/// A connection of the second host with the first, to be looked at later: both ends.
fn connection(world: &World) -> [(usize, demi_api::QDesc); 2] {
    let addr: demi_api::Addr = "10.0.0.1:80".parse().unwrap();
    let stream = demi_api::SocketKind::Stream;
    let listener = world.demi(0).socket(demi_api::Domain::Inet, stream).unwrap();
    world.demi(0).bind(listener, addr.clone()).unwrap();
    world.demi(0).listen(listener, 1).unwrap();
    let near = world.demi(1).socket(demi_api::Domain::Inet, stream).unwrap();
    let connect = world.demi(1).connect(near, addr).unwrap();
    let accept = world.demi(0).accept(listener).unwrap();
    assert!(matches!(world.outcome(1, connect), Ok(Done::Connected)));
    let (far, _) = world.wait(0, accept).accepted().unwrap();
    world.demi(0).close(listener).unwrap();
    [(1, near), (0, far)]
}

#[track_caller]
fn is_alive(world: &World, [near, far]: [(usize, demi_api::QDesc); 2]) {
    for ((from, near), (to, far)) in [(near, far), (far, near)] {
        world.push(from, near, b"alive");
        let pop = world.demi(to).pop(far).unwrap();
        assert_eq!(world.wait(to, pop).popped().unwrap().to_vec(), b"alive");
    }
}

#[test]
fn a_revoked_region_fails_what_is_under_way_and_no_connection() {
    let world = World::with(2, slow(), "");
    let connection = connection(&world);
    let here = world.export(0, "table?size=1000000");
    let _other = world.export(0, "other?size=64");
    let there = world.find(1, "table");
    let still = world.find(1, "other");
    let demi = world.demi(1);
    let free = demi.counters().unwrap().heap;
    let tokens = [
        demi.push(there, world.array(1, &[7; 100_000])).unwrap(),
        demi.pop_n(there, 200_000).unwrap(),
        demi.fetch_and_add(there, Position(0), 1).unwrap(),
        demi.flush(there).unwrap(),
    ];
    world.demi(0).close(here).unwrap();
    for token in tokens {
        assert_eq!(world.error(1, token), Error::Revoked);
    }
    assert_eq!(demi.pop(there), Err(Error::Revoked), "and so it stays");
    let refused =
        demi.push(there, world.array(1, b"back")).map_err(|refused| (refused.error, refused.sga.to_vec()));
    assert_eq!(refused, Err((Error::Revoked, b"back".to_vec())));
    assert_eq!(demi.counters().unwrap().heap.bytes_live, free.bytes_live, "all buffers are back");
    is_alive(&world, connection);
    assert_eq!(world.add(1, still, 0, 1), 0, "nor does another region suffer");
    demi.close(there).unwrap();
    // Made again it is another, with nothing in it, and found again.
    let again = world.open(1, "table");
    let pop = demi.pop(again).unwrap();
    assert_eq!(world.error(1, pop), Error::NotFound);
    let _here = world.export(0, "table?size=8");
    let again = world.find(1, "table");
    assert_eq!(world.add(1, again, 0, 1), 0);
    is_alive(&world, connection);
}

#[test]
fn a_region_revoked_while_it_is_being_found_is_lost_or_not_found() {
    // At whatever moment.
    for seed in 0..40 {
        let conditions = Conditions { seed, ..slow() };
        let world = World::with(2, conditions, "");
        let here = world.export(0, "table?size=64");
        let there = world.open(1, "table");
        let pop = world.demi(1).pop_n(there, 8).unwrap();
        for _ in 0..seed / 4 {
            world.turn();
        }
        world.demi(0).close(here).unwrap();
        match world.outcome(1, pop) {
            Ok(Done::Popped(sga)) => assert_eq!(sga.len(), 8, "before it was revoked"),
            Err(Error::Revoked | Error::NotFound | Error::ConnectionRefused | Error::ConnectionReset) => {}
            other => panic!("{other:?}"),
        }
        world.settle();
        assert_eq!((world.fabric.queue_pairs(ip(0)), world.fabric.queue_pairs(ip(1))), (0, 0), "seed {seed}");
        world.demi(1).close(there).unwrap();
        world.assert_clean(1);
    }
}

#[test]
fn a_killed_exporter_is_a_connection_reset_and_can_be_opened_again() {
    let mut world = World::with(2, slow(), "");
    world.export(0, "table?size=64");
    let there = world.find(1, "table");
    let add = world.demi(1).fetch_and_add(there, Position(0), 1).unwrap();
    let pop = world.demi(1).pop(there).unwrap();
    world.kill(0);
    assert_eq!(world.error(1, add), Error::ConnectionReset);
    assert_eq!(world.error(1, pop), Error::ConnectionReset);
    world.demi(1).close(there).unwrap();
    world.revive(0);
    world.export(0, "table?size=64");
    let there = world.find(1, "table");
    assert_eq!(world.add(1, there, 0, 1), 0);
    world.demi(1).close(there).unwrap();
    world.assert_clean(1);
}

#[test]
fn a_killed_user_is_forgotten_even_if_nothing_tells_of_it() {
    let mut world = World::new(2);
    let here = world.export(0, "table?size=64");
    let _there = world.find(1, "table");
    let watch = world.demi(0).next_deadline().unwrap();
    assert!(watch.is_some_and(|at| at.since(world.now()).as_secs() <= 8), "somebody looks after it");
    let writes = world.counter(0, "ideal_posts");
    world.sleep(8_001);
    assert_eq!(world.counter(0, "ideal_posts"), writes + 1, "it is tried");
    world.kill(1);
    world.settle();
    assert_eq!(world.fabric.queue_pairs(ip(0)), 0);
    assert_eq!(world.demi(0).next_deadline().unwrap(), None, "nobody to look after");
    world.demi(0).close(here).unwrap();
    world.assert_clean(0);
}

#[test]
fn a_cut_network_is_told_of() {
    let world = World::new(2);
    let here = world.export(0, "table?size=64");
    let there = world.find(1, "table");
    world.fabric.cut(ip(0), ip(1), Fault::Timeout);
    world.settle();
    assert_eq!(world.demi(1).pop(there), Err(Error::ConnectionReset));
    assert_eq!(world.push(0, here, b"x"), 0, "it is still here");
    let there = world.find(1, "table");
    assert_eq!(world.pop(1, there, 1), b"x");
}

#[test]
fn an_exporter_that_does_not_answer_is_given_up() {
    // Nobody polls the first instance while the second asks.
    let mut world = World::with(2, slow(), "[catmint]\nconnect_timeout_ms = 50\n");
    world.export(0, "table?size=64");
    let there = world.open(1, "table");
    let pop = world.demi(1).pop(there).unwrap();
    let silent = world.mute(0);
    world.sleep(51);
    assert_eq!(world.error(1, pop), Error::TimedOut);
    assert_eq!(world.demi(1).pop(there), Err(Error::TimedOut));
    world.demi(1).close(there).unwrap();
    world.unmute(0, silent);
    world.settle();
    assert_eq!((world.fabric.queue_pairs(ip(0)), world.fabric.queue_pairs(ip(1))), (0, 0));
    world.assert_clean(1);
}

#[test]
fn what_a_closed_queue_has_pushed_is_given_up_after_the_linger_time() {
    let mut world = World::with(2, slow(), "[queues]\nlinger_ms = 20\n");
    let here = world.export(0, "table?size=64");
    let there = world.open(1, "table");
    let push = world.demi(1).push(there, world.array(1, b"x")).unwrap();
    world.demi(1).close(there).unwrap();
    let silent = world.mute(0);
    world.sleep(21);
    assert_eq!(world.error(1, push), Error::TimedOut);
    world.unmute(0, silent);
    world.settle();
    assert_eq!((world.fabric.queue_pairs(ip(0)), world.fabric.queue_pairs(ip(1))), (0, 0));
    assert_eq!(world.pop(0, here, 1), b"\0");
    world.assert_clean(1);
}

#[test]
fn a_region_has_as_many_users_as_are_allowed() {
    let world = World::with(2, Conditions::default(), "[catmint]\nregion_users = 2\n");
    let _here = world.export(0, "table?size=64");
    let [first, second] = [(), ()].map(|()| world.find(1, "table"));
    let third = world.open(1, "table");
    let pop = world.demi(1).pop(third).unwrap();
    assert!(matches!(world.error(1, pop), Error::InUse(_)));
    assert_eq!(world.counter(0, "region_users_refused"), 1);
    world.demi(1).close(first).unwrap();
    world.settle();
    let third = world.find(1, "table");
    assert_eq!([second, third].map(|qd| world.add(1, qd, 0, 1)), [0, 1]);
    let path = format!("rdma://{AT}/table");
    assert!(world.demi(1).open(path, &Default::default()).is_ok(), "opening itself cannot know");
}
