//! Bytes both ways over a bad network: exactly once, in order, to the end.

use std::collections::VecDeque;
use std::time::Duration;

use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::token::QToken;
use demi_api::{Shutdown, SocketOption};
use demi_libos_catnip::device::fault::Faults;

use crate::world::World;

/// Virtual time. A third of all frames lost means timeouts in a row, each twice as long as the one before.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Pushes that one end has outstanding.
const PUSHES: usize = 16;

/// One end of a transfer.
struct End {
    host: usize,
    qd: QDesc,
    rng: fastrand::Rng,
    /// Bytes left to push, and how many were.
    left: usize,
    pushed: usize,
    pushes: VecDeque<QToken>,
    shut: bool,
    pop: Option<QToken>,
    popped: usize,
    ended: bool,
}

/// The byte that belongs at a place of a direction's stream.
fn byte(host: usize, at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 16) as u8 ^ host as u8
}

impl End {
    fn new(host: usize, qd: QDesc, len: usize, seed: u64) -> End {
        End {
            host,
            qd,
            rng: fastrand::Rng::with_seed(seed ^ host as u64),
            left: len,
            pushed: 0,
            pushes: VecDeque::new(),
            shut: false,
            pop: None,
            popped: 0,
            ended: false,
        }
    }

    /// Pushes and pops what goes; true: both directions are through.
    fn go_on(&mut self, world: &World) -> bool {
        let demi = &world.hosts[self.host];
        while let Some(token) = self.pushes.front()
            && let Some(done) = world.take(self.host, *token)
        {
            match done.pushed() {
                // Whoever has everything may be gone, after its time in TIME-WAIT, before one of its acknowledgements
                // came through. That it has everything is checked in the end.
                Ok(_) | Err(Error::ConnectionReset) => {}
                Err(error) => panic!("{error} at {:?}: {:#?}", world.now(), world.counters()),
            }
            self.pushes.pop_front();
        }
        while self.pushes.len() < PUSHES {
            if self.left == 0 {
                if !std::mem::replace(&mut self.shut, true) {
                    demi.shutdown(self.qd, Shutdown::Write).unwrap();
                }
                break;
            }
            let len = match self.rng.u32(..10) {
                0..6 => self.rng.usize(1..200),
                6..9 => self.rng.usize(1..5000),
                _ => self.rng.usize(1..100_000),
            };
            let len = len.min(self.left);
            let bytes: Vec<u8> = (self.pushed..self.pushed + len).map(|at| byte(self.host, at)).collect();
            // A heap full of what is on its way gives way in time.
            let Ok(sga) = demi.copy_from(&bytes) else { break };
            self.pushes.push_back(demi.push(self.qd, sga).unwrap());
            self.left -= len;
            self.pushed += len;
        }
        while !self.ended {
            let token =
                *self.pop.get_or_insert_with(|| demi.pop_n(self.qd, 1 + self.rng.usize(..20_000)).unwrap());
            let Some(done) = world.take(self.host, token) else { break };
            self.pop = None;
            let bytes = done.popped().unwrap().to_vec();
            for (place, found) in bytes.iter().enumerate() {
                let expected = byte(1 - self.host, self.popped + place);
                assert_eq!(*found, expected, "byte {} of the stream", self.popped + place);
            }
            self.popped += bytes.len();
            self.ended = bytes.is_empty();
        }
        self.shut && self.pushes.is_empty() && self.ended
    }
}

/// Sends `len` bytes each way, and says what it took: virtual time and frames, by which runs are compared.
fn transfer(seed: u64, faults: &Faults, mtu: usize, len: usize, more: &str) -> (u64, Vec<u64>) {
    let world = World::new(seed, faults, mtu, more);
    let begin = world.now();
    let [near, far] = world.connected(LIMIT);
    for (host, qd) in [(0, near), (1, far)] {
        world.hosts[host].set_option(qd, SocketOption::UserTimeout(LIMIT)).unwrap();
    }
    let mut ends = [End::new(0, near, len, seed), End::new(1, far, len, seed)];
    world.run(LIMIT, |world| {
        let [near, far] = &mut ends;
        let done = near.go_on(world);
        far.go_on(world) && done
    });
    for end in &ends {
        assert_eq!((end.pushed, end.popped), (len, len), "host {}", end.host);
        world.hosts[end.host].close(end.qd).unwrap();
    }
    let took = (world.now() - begin).as_nanos() as u64;
    world.run(LIMIT, |world| (0..2).all(|host| world.counter(host, "tcp_connections") == 0));
    for host in &world.hosts {
        let counters = host.counters().unwrap();
        assert_eq!((counters.operations_pending, counters.stale_posts), (0, 0));
    }
    if std::env::var_os("DEMI_SEED").is_some() {
        eprintln!("{took} ns: {:?}", world.counters());
    }
    let names = ["tcp_sent", "tcp_received", "tcp_recoveries", "tcp_timeouts"];
    let counts = (0..2).flat_map(|host| names.map(|name| world.counter(host, name))).collect();
    drop(ends);
    let heaps = world.hosts.each_ref().map(|host| host.heap().clone());
    drop(world);
    for heap in heaps {
        assert_eq!(heap.stats().objects_live, 0, "buffers were lost");
    }
    (took, counts)
}

/// Runs a test for many seeds, or for the one that the environment names.
fn seeds(count: u64, test: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let all = match number("DEMI_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DEMI_SEEDS").unwrap_or(count),
    };
    for seed in all {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(seed)));
        if let Err(panic) = run {
            eprintln!("seed {seed} failed; run it alone with DEMI_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_perfect_network_needs_no_recovery() {
    let (_, counts) = transfer(1, &Faults::default(), 1500, 2_000_000, "");
    assert_eq!([counts[2], counts[3], counts[6], counts[7]], [0; 4], "{counts:?}");
}

#[test]
fn loss_of_every_degree() {
    seeds(150, |seed| {
        let loss = [0.001, 0.01, 0.03, 0.1, 0.2, 0.3][seed as usize % 6];
        let faults = Faults { loss, delay: Duration::from_micros(100), ..Faults::default() };
        transfer(seed, &faults, 1500, 60_000, "");
    });
}

#[test]
fn reordering_duplication_and_corruption() {
    seeds(150, |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let faults = Faults {
            loss: rng.f64() * 0.1,
            duplicate: rng.f64() * 0.2,
            corrupt: rng.f64() * 0.1,
            reorder: rng.f64() * 0.3,
            reorder_by: Duration::from_micros(rng.u64(10..5000)),
            delay: Duration::from_micros(rng.u64(..2000)),
            jitter: Duration::from_micros(rng.u64(..500)),
            ..Faults::default()
        };
        let mtu = [576, 1500, 9000][seed as usize % 3];
        let more = if seed % 2 == 0 { "" } else { "congestion = \"newreno\"\nrecv_buffer = 20000" };
        transfer(seed, &faults, mtu, 60_000, more);
    });
}

#[test]
fn a_narrow_link_with_a_short_queue() {
    seeds(20, |seed| {
        let faults =
            Faults { rate: 1_250_000, queue: 20_000, delay: Duration::from_millis(10), ..Faults::default() };
        let (took, _) = transfer(seed, &faults, 1500, 500_000, "");
        let ideal = 500_000.0 / 1_250_000.0;
        let ratio = took as f64 / 1e9 / ideal;
        assert!(ratio < 4.0, "it took {ratio:.2} times as long as the link needs");
    });
}

#[test]
fn the_same_seed_does_the_same() {
    let faults = Faults { loss: 0.05, reorder: 0.1, duplicate: 0.02, ..Faults::default() };
    for seed in 0..5 {
        let first = transfer(seed, &faults, 1500, 100_000, "");
        assert_eq!(first, transfer(seed, &faults, 1500, 100_000, ""));
    }
}
