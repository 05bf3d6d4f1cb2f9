//! The faults that a stack of one's own can have, on catnip: two hosts on a wire that the test watches and meddles with,
//! on a clock that jumps.
//!
//! What is judged is what is on the wire and what is counted. Times are the world's own, the same in every run.

mod frames;
mod streams;
mod wire;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use demi_api::time::{Clock, Instant};
use demi_api::{Completion, Config, Demikernel, Domain, Error, QDesc, QToken, SocketKind};
use demi_libos_catnip::{Catnip, CatnipSection};

use self::wire::{End, Net};

type Host = Demikernel<Catnip>;

const NEAR: usize = 0;
const FAR: usize = 1;

/// Nothing takes longer, in the world's time, that is meant to happen.
const LIMIT: Duration = Duration::from_secs(120);

/// Turns without a step forward in time before a world is taken to be spinning.
const TURNS_PER_INSTANT: usize = 10_000;

/// Two hosts, 10.0.0.1 and 10.0.0.2. Either may vanish.
struct World {
    clock: Clock,
    hosts: [Option<Host>; 2],
    net: Rc<RefCell<Net>>,
}

impl World {
    fn new() -> World {
        World::with_seeds([1, 2])
    }

    /// Hosts whose secrets and random numbers come from these seeds.
    fn with_seeds(seeds: [u64; 2]) -> World {
        let clock = Clock::manual(Instant::from_nanos(1_000_000_000));
        let net = Rc::new(RefCell::new(Net::default()));
        let host = |place: usize| {
            let text = format!(
                "[heap]\nsize_mib = 16\nlock = false\nhuge_pages = \"never\"\n\
                 [catnip.ip]\naddresses = [\"10.0.0.{}/24\"]\n",
                place + 1
            );
            let config = Config::parse(&text, "faults").unwrap();
            let section = CatnipSection::load(&config).unwrap();
            let device = Box::new(End::new(&net, place));
            let rng = fastrand::Rng::with_seed(seeds[place]);
            let host = Demikernel::assemble(&config, clock.clone(), rng, |setup, rng| {
                Catnip::over(&setup, &section, device, rng)
            });
            Some(host.unwrap())
        };
        World { hosts: [host(NEAR), host(FAR)], clock: clock.clone(), net }
    }

    fn host(&self, place: usize) -> &Host {
        self.hosts[place].as_ref().expect("the host has vanished")
    }

    /// Lets the hosts work until they have nothing left to do, then moves time on. False: nothing will ever happen.
    fn step(&self) -> bool {
        let hosts = || self.hosts.iter().flatten();
        for _ in 0..TURNS_PER_INSTANT {
            hosts().for_each(|host| host.poll().unwrap());
            let deadlines = hosts().filter_map(|host| host.next_deadline().unwrap());
            let Some(next) = deadlines.min() else { return false };
            if next > self.clock.now() {
                self.clock.set(next);
                // What an application does next, it does at the time of its host's last turn.
                hosts().for_each(|host| host.poll().unwrap());
                return true;
            }
        }
        panic!("the hosts never come to rest at {:?}: {:#?}", self.clock.now(), self.counters());
    }

    /// Lets time pass until `done`, within [`LIMIT`].
    #[track_caller]
    fn until(&self, mut done: impl FnMut() -> bool) {
        let end = self.clock.now() + LIMIT;
        while !done() {
            assert!(self.step(), "nothing is left to happen: {:#?}", self.counters());
            assert!(self.clock.now() < end, "it hangs: {:#?}", self.counters());
        }
    }

    /// Lets this much time pass, if something is going on.
    fn pass(&self, time: Duration) {
        let end = self.clock.now() + time;
        while self.clock.now() < end && self.step() {}
    }

    /// The result of an operation, if it is there.
    fn take(&self, place: usize, token: QToken) -> Option<Completion> {
        match self.host(place).wait(token, Some(Duration::ZERO)) {
            Ok(completion) => Some(completion),
            Err(Error::TimedOut) => None,
            Err(error) => panic!("{token}: {error}"),
        }
    }

    /// The result of an operation, which must come.
    #[track_caller]
    fn wait(&self, place: usize, token: QToken) -> Completion {
        let mut found = None;
        self.until(|| {
            found = self.take(place, token);
            found.is_some()
        });
        found.expect("it was waited for")
    }

    /// Pops `count` bytes of a stream, or up to its end.
    #[track_caller]
    fn read(&self, place: usize, qd: QDesc, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let pop = self.host(place).pop_n(qd, count - bytes.len()).unwrap();
            let part = self.wait(place, pop).popped().unwrap();
            if part.is_empty() {
                break;
            }
            bytes.extend(part.to_vec());
        }
        bytes
    }

    fn push(&self, place: usize, qd: QDesc, bytes: &[u8]) -> QToken {
        let host = self.host(place);
        host.push(qd, host.copy_from(bytes).unwrap()).unwrap()
    }

    /// A connection from the near host to the far one.
    #[track_caller]
    fn connected(&self) -> [QDesc; 2] {
        let (near, far) = (self.host(NEAR), self.host(FAR));
        let addr: std::net::SocketAddr = ([10, 0, 0, 2], 80).into();
        let listener = far.socket(Domain::Inet, SocketKind::Stream).unwrap();
        far.bind(listener, addr).unwrap();
        far.listen(listener, 8).unwrap();
        let accept = far.accept(listener).unwrap();
        let client = near.socket(Domain::Inet, SocketKind::Stream).unwrap();
        let connect = near.connect(client, addr).unwrap();
        self.wait(NEAR, connect).result.unwrap();
        let (server, _) = self.wait(FAR, accept).accepted().unwrap();
        far.close(listener).unwrap();
        [client, server]
    }

    /// Checks that nothing was sent twice, and no acknowledgement either.
    #[track_caller]
    fn assert_calm(&self) {
        for place in [NEAR, FAR] {
            let names = ["tcp_retransmitted", "tcp_timeouts", "tcp_tail_loss_probes", "tcp_recoveries"];
            let counts = names.map(|name| (name, self.counter(place, name)));
            assert!(counts.iter().all(|(_, count)| *count == 0), "host {place}: {counts:?}");
        }
        assert_eq!(self.net.borrow().duplicate_acks(), 0, "acknowledgements that say nothing new");
    }

    /// Ends the hosts, and checks that no buffer is left.
    #[track_caller]
    fn assert_no_leak(mut self) {
        self.net.borrow_mut().forget();
        for place in [NEAR, FAR] {
            let Some(host) = self.hosts[place].take() else { continue };
            let heap = host.heap().clone();
            drop(host);
            assert_eq!(heap.stats().objects_live, 0, "host {place} has lost buffers");
        }
    }

    fn counters(&self) -> Vec<Vec<(&'static str, u64)>> {
        let all = self.hosts.iter().flatten().map(|host| host.counters().unwrap().libos);
        all.map(|counters| counters.into_iter().filter(|(_, value)| *value > 0).collect()).collect()
    }

    fn counter(&self, place: usize, name: &str) -> u64 {
        let counters = self.host(place).counters().unwrap().libos;
        counters.iter().find(|(other, _)| *other == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }
}

/// Bytes that show where they stand.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8 ^ (at / 251 % 251) as u8).collect()
}
