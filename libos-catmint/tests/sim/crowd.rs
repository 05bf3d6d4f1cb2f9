//! Many connections between two instances, both of which push without popping until nothing more goes: nothing is lost, nothing
//! changes its order, and nothing stands still, however small the credits are.

use std::collections::VecDeque;
use std::time::Duration;

use demi_api::desc::QDesc;
use demi_api::sga::SgArray;
use demi_api::token::QToken;
use demi_libos_catmint::device::ideal::Conditions;

use crate::world::World;

const LIMIT: Duration = Duration::from_secs(3600);

/// One end of one connection, and what is known of it.
struct End {
    host: usize,
    qd: QDesc,
    /// What the other end's messages are made from, and this one's.
    theirs: fastrand::Rng,
    ours: fastrand::Rng,
    left: usize,
    expected: usize,
    pushes: VecDeque<QToken>,
    pop: Option<QToken>,
}

/// The next message of a direction: most are small, some are read, and some are of nothing.
fn message(rng: &mut fastrand::Rng, heap: &demi_api::memalloc::Heap) -> SgArray {
    let len = match rng.u32(..20) {
        0 => 0,
        1..12 => rng.usize(1..200),
        12..18 => rng.usize(200..5000),
        _ => rng.usize(5000..40_000),
    };
    let segments = rng.usize(1..=8);
    let first = rng.u8(..);
    let bytes: Vec<u8> = (0..len).map(|at| first.wrapping_add((at % 251) as u8)).collect();
    let mut sga = SgArray::new();
    for part in 0..segments {
        let [from, to] = [part, part + 1].map(|at| at * len / segments);
        sga.push(heap.copy_from(&bytes[from..to]).unwrap()).unwrap();
    }
    sga
}

impl End {
    /// Pushes as long as there is anything to push and fewer than `most` are pending.
    fn push(&mut self, world: &World, most: usize) {
        let demi = &world.hosts[self.host];
        while let Some(token) = self.pushes.front()
            && let Some(done) = world.take(self.host, *token)
        {
            done.pushed().unwrap();
            self.pushes.pop_front();
        }
        while self.left > 0 && self.pushes.len() < most {
            let sga = message(&mut self.ours, demi.heap());
            self.pushes.push_back(demi.push(self.qd, sga).unwrap());
            self.left -= 1;
        }
    }

    /// Pops what there is, and compares.
    fn pop(&mut self, world: &World) {
        let demi = &world.hosts[self.host];
        while self.expected > 0 {
            let token = *self.pop.get_or_insert_with(|| demi.pop(self.qd).unwrap());
            let Some(done) = world.take(self.host, token) else { break };
            self.pop = None;
            let popped = done.popped().unwrap();
            let expected = message(&mut self.theirs, demi.heap());
            assert!(popped == *expected.to_vec(), "{popped:?} instead of {expected:?}");
            self.expected -= 1;
        }
    }

    fn is_through(&self) -> bool {
        self.left == 0 && self.expected == 0 && self.pushes.is_empty()
    }
}

/// Connections with so many messages each way; both sides push all that goes before they pop at all.
fn crowd(conditions: Conditions, connections: usize, messages: usize, heap_mib: usize, more: &str) {
    let seed = conditions.seed;
    let mut world = World::new(2, conditions, heap_mib, more);
    let listeners = [world.listener(0, 80), world.listener(1, 80)];
    let mut ends = Vec::new();
    for number in 0..connections {
        // From either side.
        let from = number % 2;
        let to = 1 - from;
        let pair = world.connected(from, to, listeners[to], 80);
        for (host, qd) in [from, to].into_iter().zip(pair) {
            let rng = |host: usize| fastrand::Rng::with_seed(seed ^ (number << 1 | host) as u64);
            ends.push(End {
                host,
                qd,
                theirs: rng(1 - host),
                ours: rng(host),
                left: messages,
                expected: messages,
                pushes: VecDeque::new(),
                pop: None,
            });
        }
    }
    // Nobody pops: everything comes to rest, with pushes pending.
    for _ in 0..200 {
        (0..2).for_each(|host| world.wake(host));
        ends.iter_mut().for_each(|end| end.push(&world, 4));
        world.step();
    }
    assert!(ends.iter().any(|end| !end.pushes.is_empty()), "nothing holds up a peer that does not read");
    let mut order = fastrand::Rng::with_seed(seed);
    world.run(LIMIT, |world| {
        for end in &mut ends {
            // Not all of them at a time, and in bursts.
            if order.u32(..8) == 0 {
                world.wake(end.host);
                end.push(world, 4);
                end.pop(world);
            }
        }
        ends.iter().all(End::is_through)
    });
    for host in &world.hosts {
        assert_eq!(host.counters().unwrap().stale_posts, 0);
        assert_eq!(host.counters().unwrap().operations_pending, 0);
    }
    for end in &ends {
        world.wake(end.host);
        world.hosts[end.host].close(end.qd).unwrap();
    }
    world.run(LIMIT, |world| [0, 1].iter().all(|host| world.counter(*host, "connections") == 0));
    for host in [0, 1] {
        assert_eq!(world.counter(host, "peers"), world.fabric.queue_pairs(crate::world::ip(host)) as u64);
        assert_eq!(world.counter(host, "peers_expelled"), 0);
        assert_eq!(world.counter(host, "peers_lost"), 0);
    }
}

#[test]
fn few_connections_with_little_of_everything() {
    for seed in 0..20 {
        let conditions = Conditions { seed, delay: 0..=20_000, depth: 4, full: 5, ..Conditions::default() };
        crowd(conditions, 6, 60, 8, "receives = 4\nreceive_bytes = 256\nwindow = 1024\nkeepalive_ms = 60000");
    }
}

#[test]
fn as_configured_and_without_any_delay() {
    crowd(Conditions { seed: 1, ..Conditions::default() }, 10, 400, 64, "");
}

#[test]
fn a_thousand_connections_with_tiny_credits() {
    let conditions = Conditions { seed: 7, delay: 500..=5_000, depth: 16, ..Conditions::default() };
    crowd(conditions, 1000, 6, 192, "receives = 8\nreceive_bytes = 1024\nwindow = 4096");
}
