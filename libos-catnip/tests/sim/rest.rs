//! Idle connections, which give back the memory of their queues.

use std::time::Duration;

use demi_libos_catnip::device::fault::Faults;

use crate::world::World;

const LIMIT: Duration = Duration::from_secs(60);

/// Sends bytes from one host to the other, and waits until they are acknowledged.
fn send(world: &World, from: usize, qds: [demi_api::QDesc; 2], bytes: &[u8]) {
    let [near, far] = [&world.hosts[from], &world.hosts[1 - from]];
    let push = near.push(qds[from], near.copy_from(bytes).unwrap()).unwrap();
    let mut missing = bytes.len();
    let mut pop = far.pop(qds[1 - from]).unwrap();
    world.run(LIMIT, |world| {
        while missing > 0
            && let Some(done) = world.take(1 - from, pop)
        {
            missing -= done.popped().unwrap().len();
            if missing > 0 {
                pop = far.pop(qds[1 - from]).unwrap();
            }
        }
        missing == 0
    });
    let mut pushed = false;
    world.run(LIMIT, |world| {
        pushed |= world.take(from, push).is_some();
        pushed
    });
}

#[test]
fn an_idle_connection_gives_memory_back_once_and_then_calls_for_nothing() {
    let faults = Faults { delay: Duration::from_micros(20), ..Faults::default() };
    let world = World::new(1, &faults, 1500, "");
    let qds = world.connected(LIMIT);
    for round in 1..4 {
        send(&world, 0, qds, &[7; 100]);
        send(&world, 0, qds, &[7; 20_000]);
        send(&world, 1, qds, &[7; 3000]);
        // Not while it is busy: what the first message takes, the others use.
        assert_eq!([0, 1].map(|host| world.counter(host, "tcp_rests")), [round - 1; 2]);
        world.run(LIMIT, |world| (0..2).all(|host| world.counter(host, "tcp_rests") == round));
        // No timer is left but those of what the hosts know of each other.
        let begin = world.now();
        while world.step() && world.now() - begin < LIMIT {}
        assert_eq!([0, 1].map(|host| world.counter(host, "tcp_rests")), [round; 2]);
    }
}
