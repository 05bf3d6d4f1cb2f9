//! Two ends in one process, hand-made peers, and DPDK.

mod dpdk;
mod hostile;
mod pair;
mod sleeping;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use demi_api::sga::SgArray;
use demi_api::time::Clock;

use super::*;

/// A socket name of the test's own.
fn socket_name() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("@demi-memif-test-{}-{number}", std::process::id()).into()
}

fn config(role: Role, socket: &std::path::Path) -> MemifConfig {
    MemifConfig { role, socket: socket.to_owned(), ..MemifConfig::default() }
}

fn heap(mib: usize) -> Heap {
    Heap::new(&HeapConfig { size: mib << 20, huge_pages: HugePages::Never, lock: false }).unwrap()
}

/// A device with what it needs to be called.
struct End {
    heap: Heap,
    clock: Clock,
    device: Memif,
    inbox: Vec<Frame>,
    outbox: VecDeque<Frame>,
}

impl End {
    fn open(config: &MemifConfig) -> End {
        End {
            heap: heap(16),
            clock: Clock::start(),
            device: Memif::open(config).unwrap(),
            inbox: Vec::new(),
            outbox: VecDeque::new(),
        }
    }

    fn receive(&mut self) -> usize {
        let cx = DeviceCx { heap: &self.heap, now: self.clock.now() };
        self.device.rx_burst(&cx, &mut self.inbox)
    }

    fn send(&mut self) -> usize {
        let cx = DeviceCx { heap: &self.heap, now: self.clock.now() };
        self.device.tx_burst(&cx, &mut self.outbox)
    }

    fn arm(&mut self) -> bool {
        let cx = DeviceCx { heap: &self.heap, now: self.clock.now() };
        self.device.arm(&cx)
    }

    fn push(&mut self, bytes: &[u8]) {
        self.outbox.push_back(Frame::new(SgArray::copy_from(&self.heap, bytes).unwrap()));
    }

    /// The frames that have arrived.
    fn take(&mut self) -> Vec<Vec<u8>> {
        self.inbox.drain(..).map(|frame| frame.data.to_vec()).collect()
    }

    fn counter(&self, name: &str) -> u64 {
        let mut found = None;
        self.device.counters(&mut |this, value| found = if this == name { Some(value) } else { found });
        found.expect("there is such a counter")
    }
}

/// Polls both ends until `done`. Fails after some seconds.
fn until(ends: &mut [&mut End], mut done: impl FnMut(&mut [&mut End]) -> bool) {
    let start = std::time::Instant::now();
    while !done(ends) {
        assert!(start.elapsed().as_secs() < 20, "it does not happen: {:?}", ends[0].device.last_end());
        for end in ends.iter_mut() {
            end.receive();
        }
    }
}

fn both_up(ends: &mut [&mut End]) -> bool {
    ends.iter().all(|end| end.device.is_up())
}

/// A connected pair, server first, with the same settings but for the role.
fn pair(settings: impl Fn(&mut MemifConfig)) -> (End, End) {
    let socket = socket_name();
    let [server, client] = [Role::Server, Role::Client].map(|role| {
        let mut config = config(role, &socket);
        settings(&mut config);
        config
    });
    let (mut server, mut client) = (End::open(&server), End::open(&client));
    until(&mut [&mut server, &mut client], both_up);
    (server, client)
}

/// A frame whose every byte says which frame it is and where the byte stands.
fn pattern(len: usize, number: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ number.wrapping_mul(7)) as u8).collect()
}
