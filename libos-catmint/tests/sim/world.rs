//! Instances on a fabric.
//!
//! Invariants: nothing in here looks at a real clock. An instance that sleeps is left alone until its device signals or its deadline comes,
//! so that a wake-up that is missing is found: time then moves on without it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demi_api::config::Config;
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::instance::Demikernel;
use demi_api::op::Completion;
use demi_api::time::{Clock, Instant};
use demi_api::token::QToken;
use demi_api::{Domain, SocketKind};
use demi_libos_catmint::device::ideal::{Conditions, Fabric};
use demi_libos_catmint::{Catmint, CatmintSection};

pub(crate) type Host = Demikernel<Catmint>;

/// Turns without a step forward in time before a world is taken to be spinning.
const TURNS_PER_INSTANT: usize = 100_000;

pub(crate) struct World {
    config: (u64, usize, String),
    pub(crate) clock: Clock,
    pub(crate) fabric: Fabric,
    pub(crate) hosts: Vec<Host>,
    /// When each has to be woken at the latest, if it sleeps.
    asleep: Vec<Option<Option<Instant>>>,
}

pub(crate) fn ip(host: usize) -> IpAddr {
    [10, 0, 0, 1 + host as u8].into()
}

pub(crate) fn addr(host: usize, port: u16) -> SocketAddr {
    SocketAddr::new(ip(host), port)
}

impl World {
    /// Hosts 10.0.0.1 and up, with more keys for `[catmint]`.
    pub(crate) fn new(count: usize, conditions: Conditions, heap_mib: usize, more: &str) -> World {
        let clock = Clock::manual(Instant::from_nanos(1_000_000_000));
        let seed = conditions.seed;
        let fabric = Fabric::new(conditions);
        let hosts = (0..count).map(|number| host(&fabric, &clock, number, seed, heap_mib, more)).collect();
        World { config: (seed, heap_mib, more.to_owned()), clock, fabric, hosts, asleep: vec![None; count] }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Has every host that is awake work once, lets those sleep that have nothing to do, and moves time on when all sleep. False:
    /// nothing will ever happen.
    pub(crate) fn step(&mut self) -> bool {
        self.fabric.advance(self.now());
        for (number, host) in self.hosts.iter().enumerate() {
            match self.asleep[number] {
                Some(until) => {
                    let woken =
                        self.fabric.is_signalled(ip(number)) || until.is_some_and(|at| at <= self.now());
                    if woken {
                        self.asleep[number] = None;
                        host.poll().unwrap();
                    }
                }
                None => host.poll().unwrap(),
            }
        }
        for (number, host) in self.hosts.iter().enumerate() {
            if self.asleep[number].is_none()
                && let Some(sleep) = host.prepare_sleep().unwrap()
            {
                self.asleep[number] = Some((sleep < Duration::MAX).then(|| self.now() + sleep));
            }
        }
        // One that has results for its application does not sleep, and looks at its device as time goes by.
        let waits = |number: usize| self.hosts[number].counters().unwrap().operations_unreaped > 0;
        let awake = |(number, state): (usize, &Option<Option<Instant>>)| match state {
            Some(_) => self.fabric.is_signalled(ip(number)),
            None => !waits(number),
        };
        if self.asleep.iter().enumerate().any(awake) {
            return true;
        }
        let awake = self.hosts.iter().zip(&self.asleep).filter(|(_, state)| state.is_none());
        let looks = awake.filter_map(|(host, _)| host.next_deadline().unwrap()).filter(|at| *at > self.now());
        let deadlines = self.asleep.iter().flatten().flatten().copied().chain(looks);
        let Some(next) = deadlines.chain(self.fabric.next()).min() else { return false };
        self.clock.set(next.max(self.now()));
        true
    }

    /// Lets a while pass, in which a host is awake now and then: the device tells it of all that has come back.
    pub(crate) fn pause(&mut self, host: usize) {
        for _ in 0..10 {
            let end = self.now() + Duration::from_micros(100);
            while self.now() < end && self.step() {}
            self.clock.set(self.now().max(end));
            self.asleep[host] = None;
            self.hosts[host].poll().unwrap();
        }
    }

    /// An instance dies, and another begins at its address.
    pub(crate) fn restart(&mut self, number: usize) {
        let (seed, heap_mib, more) = &self.config;
        let again = host(&self.fabric, &self.clock, number, seed + 1000, *heap_mib, more);
        self.hosts[number] = again;
        self.asleep[number] = None;
    }

    /// The application of a host does something: it is awake.
    pub(crate) fn wake(&mut self, host: usize) {
        if self.asleep[host].take().is_some() {
            self.hosts[host].poll().unwrap();
        }
    }

    /// Lets time pass until `done`, at most `limit`.
    #[track_caller]
    pub(crate) fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut World) -> bool) {
        let end = self.now() + limit;
        let (mut idle, mut turns, mut before) = (0, 0, self.now());
        while !done(self) {
            idle = if self.step() { 0 } else { idle + 1 };
            assert!(idle < 3, "nothing is left to happen: {:#?}", self.counters());
            assert!(self.now() < end, "not done after {limit:?}: {:#?}", self.counters());
            turns = if self.now() > before { 0 } else { turns + 1 };
            before = self.now();
            assert!(turns < TURNS_PER_INSTANT, "the hosts never come to rest: {:#?}", self.counters());
        }
    }

    /// The result of an operation, if it is there.
    pub(crate) fn take(&self, host: usize, token: QToken) -> Option<Completion> {
        match self.hosts[host].wait(token, Some(Duration::ZERO)) {
            Ok(completion) => Some(completion),
            Err(Error::TimedOut) => None,
            Err(error) => panic!("{token}: {error}"),
        }
    }

    /// The result of an operation, when it is there.
    #[track_caller]
    pub(crate) fn completion(&mut self, host: usize, token: QToken) -> Completion {
        let mut found = None;
        self.run(Duration::from_secs(100), |world| {
            found = world.take(host, token);
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn socket(&self, host: usize) -> QDesc {
        self.hosts[host].socket(Domain::Inet, SocketKind::Stream).unwrap()
    }

    pub(crate) fn listener(&self, host: usize, port: u16) -> QDesc {
        let qd = self.socket(host);
        self.hosts[host].bind(qd, addr(host, port)).unwrap();
        self.hosts[host].listen(qd, 1 << 15).unwrap();
        qd
    }

    /// A connection from a host to a listener at another's port.
    #[track_caller]
    pub(crate) fn connected(&mut self, from: usize, to: usize, listener: QDesc, port: u16) -> [QDesc; 2] {
        let accept = self.hosts[to].accept(listener).unwrap();
        let near = self.socket(from);
        self.wake(from);
        self.wake(to);
        let connect = self.hosts[from].connect(near, addr(to, port)).unwrap();
        self.completion(from, connect).result.unwrap();
        let (far, _) = self.completion(to, accept).accepted().unwrap();
        [near, far]
    }

    pub(crate) fn counters(&self) -> Vec<Vec<(&'static str, u64)>> {
        let all = self.hosts.iter().map(|host| host.counters().unwrap().libos);
        all.map(|counters| counters.into_iter().filter(|(_, value)| *value > 0).collect()).collect()
    }

    pub(crate) fn counter(&self, host: usize, name: &str) -> u64 {
        let counters = self.hosts[host].counters().unwrap().libos;
        counters.iter().find(|(other, _)| *other == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }
}

/// An instance on a fabric.
fn host(fabric: &Fabric, clock: &Clock, number: usize, seed: u64, heap_mib: usize, more: &str) -> Host {
    let text =
        format!("[heap]\nsize_mib = {heap_mib}\nlock = false\nhuge_pages = \"never\"\n[catmint]\n{more}\n");
    let config = Config::parse(&text, "sim").unwrap();
    let section = CatmintSection::load(&config).unwrap();
    let device = fabric.plug(&[ip(number)]).unwrap();
    let rng = fastrand::Rng::with_seed(seed << 8 | number as u64);
    Demikernel::assemble(&config, clock.clone(), rng, |setup, rng| {
        Catmint::over(&setup, &section, Box::new(device), rng)
    })
    .unwrap()
}
