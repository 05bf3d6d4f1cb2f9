//! What a connection takes.

use demi_libos_catmint::device::ideal::Conditions;

use crate::raw::live;
use crate::world::World;

/// A thousand connections between two instances, all used once: at most a kibibyte each at each end, beside the receives, which do not grow
/// with them. Twice as many take twice as much, not more.
#[test]
fn a_connection_takes_at_most_a_kibibyte() {
    let mut world = World::new(2, Conditions { seed: 1, ..Conditions::default() }, 16, "");
    let listener = world.listener(1, 80);
    world.connected(0, 1, listener, 80);
    let objects = [0, 1].map(|host| world.hosts[host].counters().unwrap().heap.objects_live);
    let begin = live();
    let mut pairs = Vec::with_capacity(1000);
    for _ in 0..1000 {
        pairs.push(world.connected(0, 1, listener, 80));
    }
    for pair in &pairs {
        for (from, to) in [(0, 1), (1, 0)] {
            world.wake(from);
            world.wake(to);
            let push =
                world.hosts[from].push(pair[from], world.hosts[from].copy_from(b"x").unwrap()).unwrap();
            world.completion(from, push).pushed().unwrap();
            // Once waited for, once found there.
            let pop = world.hosts[to].pop(pair[to]).unwrap();
            world.completion(to, pop).popped().unwrap();
        }
    }
    let each = (live() - begin) / 2000;
    println!("{each} bytes for each end of a connection");
    assert!(each <= 1024, "{each} bytes for each end of a connection");
    assert_eq!([0, 1].map(|host| world.hosts[host].counters().unwrap().heap.objects_live), objects);
}
