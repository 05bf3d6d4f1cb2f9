//! Two hosts on a wire with faults.
//!
//! Invariant: nothing in here looks at a real clock. The world's time stands while hosts work, and jumps to the next
//! deadline of any of them when all have nothing to do.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use demi_api::config::Config;
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::instance::Demikernel;
use demi_api::op::Completion;
use demi_api::time::{Clock, Instant};
use demi_api::token::QToken;
use demi_api::{Domain, SocketKind};
use demi_libos_catnip::device::fault::{Fault, FaultConfig, Faults};
use demi_libos_catnip::device::{Caps, DeviceCx, Frame, Loopback, Queue, Wire};
use demi_libos_catnip::{Catnip, CatnipSection};

pub(crate) type Host = Demikernel<Catnip>;

/// Turns without a step forward in time before a world is taken to be spinning.
const TURNS_PER_INSTANT: usize = 10_000;

pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) hosts: [Host; 2],
    pub(crate) wire: Wire,
}

impl World {
    /// Two hosts, 10.0.0.1 and 10.0.0.2, whose frames meet `faults` on their way out.
    pub(crate) fn new(seed: u64, faults: &Faults, mtu: usize, more: &str) -> World {
        World::over(seed, mtu, more, "", |plug, seed| {
            Box::new(Fault::new(plug, FaultConfig { seed, tx: faults.clone(), ..FaultConfig::default() }))
        })
    }

    /// The same, with something put before the device of each host.
    pub(crate) fn with(
        seed: u64,
        faults: &Faults,
        mtu: usize,
        more: &str,
        before: impl Fn(usize, Box<dyn Queue>) -> Box<dyn Queue>,
    ) -> World {
        World::over(seed, mtu, more, "", |plug, seed| {
            let faults = FaultConfig { seed, tx: faults.clone(), ..FaultConfig::default() };
            before((seed & 0xff) as usize - 1, Box::new(Fault::new(plug, faults)))
        })
    }

    /// Two hosts whose devices `device` makes, each from an end of the wire, with more keys for `[catnip]` and
    /// `[catnip.ip]`.
    pub(crate) fn over(
        seed: u64,
        mtu: usize,
        more: &str,
        ip: &str,
        mut device: impl FnMut(Loopback, u64) -> Box<dyn Queue>,
    ) -> World {
        let clock = Clock::manual(Instant::from_nanos(1_000_000_000));
        let wire = Wire::new();
        let mut host = |number: u8| {
            let text = format!(
                "[heap]\nsize_mib = 16\nlock = false\nhuge_pages = \"never\"\n\
                 [catnip]\ntime_wait_ms = 240000\n{more}\n[catnip.ip]\naddresses = [\"10.0.0.{number}/24\"]\n{ip}\n"
            );
            let config = Config::parse(&text, "sim").unwrap();
            let section = CatnipSection::load(&config).unwrap();
            let plug = wire.plug([2, 0, 0, 0, 0, number], mtu).unwrap();
            let seed = seed << 8 | u64::from(number);
            let device = device(plug, seed);
            let rng = fastrand::Rng::with_seed(seed);
            Demikernel::assemble(&config, clock.clone(), rng, |setup, rng| {
                Catnip::over(&setup, &section, device, rng)
            })
            .unwrap()
        };
        World { clock: clock.clone(), hosts: [host(1), host(2)], wire }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Lets both hosts work until they have nothing left to do, then moves time on. False: nothing will ever happen.
    pub(crate) fn step(&self) -> bool {
        self.step_with(&mut |_| {})
    }

    /// The same with `other`, who has something on the wire as well and takes what has arrived there.
    pub(crate) fn step_with(&self, other: &mut dyn FnMut(Instant)) -> bool {
        for _ in 0..TURNS_PER_INSTANT {
            for host in &self.hosts {
                host.poll().unwrap();
            }
            other(self.now());
            if self.wire.waiting() > 0 {
                continue;
            }
            let deadlines = self.hosts.iter().filter_map(|host| host.next_deadline().unwrap());
            let Some(next) = deadlines.min() else { return false };
            if next > self.now() {
                self.clock.set(next);
                // What an application does next, it does at the time of its host's last turn.
                for host in &self.hosts {
                    host.poll().unwrap();
                }
                return true;
            }
        }
        panic!("the hosts never come to rest at {:?}", self.now());
    }

    /// Lets time pass until `done`, at most `limit`.
    #[track_caller]
    pub(crate) fn run(&self, limit: Duration, mut done: impl FnMut(&World) -> bool) {
        let end = self.now() + limit;
        let mut idle = 0;
        while !done(self) {
            // The applications may have something to do with what the last step brought.
            idle = if self.step() { 0 } else { idle + 1 };
            assert!(idle < 3, "nothing is left to happen: {:#?}", self.counters());
            assert!(self.now() < end, "not done after {limit:?}: {:#?}", self.counters());
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

    /// A connection from the first host to the second.
    pub(crate) fn connected(&self, limit: Duration) -> [QDesc; 2] {
        let [near, far] = &self.hosts;
        let listener = far.socket(Domain::Inet, SocketKind::Stream).unwrap();
        far.bind(listener, "10.0.0.2:80".parse::<std::net::SocketAddr>().unwrap()).unwrap();
        far.listen(listener, 8).unwrap();
        let accept = far.accept(listener).unwrap();
        let client = near.socket(Domain::Inet, SocketKind::Stream).unwrap();
        let start = || near.connect(client, "10.0.0.2:80".parse::<std::net::SocketAddr>().unwrap()).unwrap();
        let mut connect = start();
        let (mut server, mut connected) = (None, false);
        self.run(limit, |world| {
            if !connected && let Some(done) = world.take(0, connect) {
                connected = done.result.is_ok();
                if !connected {
                    // Every SYN was lost, which happens.
                    connect = start();
                }
            }
            if server.is_none()
                && let Some(done) = world.take(1, accept)
            {
                server = Some(done.accepted().unwrap().0);
            }
            connected && server.is_some()
        });
        far.close(listener).unwrap();
        [client, server.unwrap()]
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

/// A device whose frames are looked at on their way out, and may be taken away.
pub(crate) struct Watched<F> {
    device: Box<dyn Queue>,
    watch: F,
}

impl<F: FnMut(&mut VecDeque<Frame>) + 'static> Watched<F> {
    pub(crate) fn before(device: Box<dyn Queue>, watch: F) -> Box<dyn Queue> {
        Box::new(Watched { device, watch })
    }
}

impl<F: FnMut(&mut VecDeque<Frame>)> Queue for Watched<F> {
    fn caps(&self) -> &Caps {
        self.device.caps()
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        self.device.rx_burst(cx, inbox)
    }

    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        let count = outbox.len();
        // The wire has room for all there is, so none is seen twice.
        (self.watch)(outbox);
        self.device.tx_burst(cx, outbox);
        assert!(outbox.is_empty());
        count
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.device.next_deadline()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.device.wait_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        self.device.arm(cx)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.device.counters(visit);
    }
}
