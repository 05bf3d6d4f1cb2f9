//! Instances on one fabric, whose clock jumps to whatever is next.

use std::cell::Cell;
use std::net::IpAddr;

use demi_api::config::Config;
use demi_api::instance::Demikernel;
use demi_api::libos::OpenOptions;
use demi_api::op::{Completion, Done};
use demi_api::time::{Clock, Instant};
use demi_api::token::QToken;
use demi_api::{Error, QDesc, SgArray};

use crate::device::ideal::{Conditions, Fabric};
use crate::{Catmint, CatmintSection};

pub(super) type Demi = Demikernel<Catmint>;

/// Where regions are opened that are exported with an address.
pub(super) const AT: &str = "10.0.0.1:7000";

pub(super) struct World {
    pub(super) fabric: Fabric,
    clock: Clock,
    pub(super) config: Config,
    /// 10.0.0.1, 10.0.0.2 and so on.
    hosts: Vec<Option<Demi>>,
    turns: Cell<usize>,
}

pub(super) fn ip(host: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, host as u8 + 1])
}

impl World {
    pub(super) fn new(hosts: usize) -> World {
        World::with(hosts, Conditions::default(), "")
    }

    pub(super) fn with(hosts: usize, conditions: Conditions, config: &str) -> World {
        let text = format!("[heap]\nsize_mib = 8\nlock = false\nhuge_pages = \"never\"\n{config}");
        let mut world = World {
            fabric: Fabric::new(conditions),
            clock: Clock::manual(Instant::from_nanos(1)),
            config: Config::parse(&text, "test.toml").unwrap(),
            hosts: Vec::new(),
            turns: Cell::new(0),
        };
        for host in 0..hosts {
            let demi = world.plug(host);
            world.hosts.push(Some(demi));
        }
        world
    }

    fn plug(&self, host: usize) -> Demi {
        let device = self.fabric.plug(&[ip(host)]).unwrap();
        let section = CatmintSection::load(&self.config).unwrap();
        let rng = fastrand::Rng::with_seed(host as u64);
        Demi::assemble(&self.config, self.clock.clone(), rng, |setup, rng| {
            Catmint::over(&setup, &section, Box::new(device), rng)
        })
        .unwrap()
    }

    pub(super) fn demi(&self, host: usize) -> &Demi {
        self.hosts[host].as_ref().expect("it was not killed")
    }

    /// An instance is no more.
    pub(super) fn kill(&mut self, host: usize) {
        self.hosts[host] = None;
    }

    /// Another takes its place.
    pub(super) fn revive(&mut self, host: usize) {
        self.hosts[host] = Some(self.plug(host));
    }

    /// Has an instance left alone until it is given back.
    pub(super) fn mute(&mut self, host: usize) -> Demi {
        self.hosts[host].take().expect("it is there")
    }

    pub(super) fn unmute(&mut self, host: usize, demi: Demi) {
        self.hosts[host] = Some(demi);
    }

    /// One turn of everybody, and of the clock.
    pub(super) fn turn(&self) {
        self.hosts.iter().flatten().for_each(|demi| demi.poll().unwrap());
        if let Some(next) = self.fabric.next() {
            self.clock.set(next.max(self.clock.now()));
        }
        self.turns.set(self.turns.get() + 1);
        assert!(self.turns.get() < 1_000_000, "it comes to no end");
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(super) fn settle(&self) {
        for _ in 0..200 {
            self.turn();
        }
    }

    pub(super) fn sleep(&self, millis: u64) {
        self.clock.set(self.clock.now() + std::time::Duration::from_millis(millis));
        self.settle();
    }

    #[track_caller]
    pub(super) fn wait(&self, host: usize, token: QToken) -> Completion {
        for _ in 0..10_000 {
            match self.demi(host).wait(token, Some(std::time::Duration::ZERO)) {
                Ok(completion) => return completion,
                Err(Error::TimedOut) => self.turn(),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("{token} does not complete");
    }

    #[track_caller]
    pub(super) fn outcome(&self, host: usize, token: QToken) -> Result<Done, Error> {
        self.wait(host, token).result
    }

    #[track_caller]
    pub(super) fn error(&self, host: usize, token: QToken) -> Error {
        match self.outcome(host, token) {
            Err(error) => error,
            Ok(done) => panic!("{done:?} where an error was expected"),
        }
    }

    pub(super) fn array(&self, host: usize, bytes: &[u8]) -> SgArray {
        self.demi(host).copy_from(bytes).unwrap()
    }

    /// Writes, and yields the position.
    #[track_caller]
    pub(super) fn push(&self, host: usize, qd: QDesc, bytes: &[u8]) -> u64 {
        let token = self.demi(host).push(qd, self.array(host, bytes)).unwrap();
        self.wait(host, token).pushed().unwrap().0
    }

    /// Reads so many bytes at the most.
    #[track_caller]
    pub(super) fn pop(&self, host: usize, qd: QDesc, limit: usize) -> Vec<u8> {
        let token = self.demi(host).pop_n(qd, limit).unwrap();
        self.wait(host, token).popped().unwrap().to_vec()
    }

    /// Adds to a word, and yields what was there.
    #[track_caller]
    pub(super) fn add(&self, host: usize, qd: QDesc, at: u64, add: u64) -> u64 {
        let token = self.demi(host).fetch_and_add(qd, demi_api::Position(at), add).unwrap();
        self.wait(host, token).fetched().unwrap()
    }

    /// Replaces a word if it is as expected, and yields what was there.
    #[track_caller]
    pub(super) fn swap(&self, host: usize, qd: QDesc, at: u64, expected: u64, new: u64) -> u64 {
        let at = demi_api::Position(at);
        let token = self.demi(host).compare_and_swap(qd, at, expected, new).unwrap();
        self.wait(host, token).fetched().unwrap()
    }

    /// Exports a region at the first instance's address.
    #[track_caller]
    pub(super) fn export(&self, host: usize, what: &str) -> QDesc {
        self.demi(host).open(format!("rdma://{}:7000/{what}", ip(host)), &create()).unwrap()
    }

    /// Opens what the first instance exports.
    #[track_caller]
    pub(super) fn open(&self, host: usize, name: &str) -> QDesc {
        self.demi(host).open(format!("rdma://{AT}/{name}"), &OpenOptions::default()).unwrap()
    }

    /// Opens it, and waits until it is found.
    #[track_caller]
    pub(super) fn find(&self, host: usize, name: &str) -> QDesc {
        let qd = self.open(host, name);
        let found = self.demi(host).flush(qd).unwrap();
        let outcome = self.outcome(host, found);
        assert!(matches!(outcome, Ok(Done::Flushed)), "{outcome:?}");
        qd
    }

    #[track_caller]
    pub(super) fn counter(&self, host: usize, name: &str) -> u64 {
        let counters = self.demi(host).counters().unwrap().libos;
        counters.iter().find(|(known, _)| *known == name).expect("there is such a counter").1
    }

    /// Nothing is outstanding, nothing is held.
    #[track_caller]
    pub(super) fn assert_clean(&self, host: usize) {
        let counters = self.demi(host).counters().unwrap();
        assert_eq!((counters.operations_pending, counters.operations_unreaped), (0, 0));
        assert_eq!(counters.stale_posts, 0);
    }
}

pub(super) fn create() -> OpenOptions {
    OpenOptions { create: true, ..OpenOptions::default() }
}

pub(super) fn read_only() -> OpenOptions {
    OpenOptions { read_only: true, ..OpenOptions::default() }
}
