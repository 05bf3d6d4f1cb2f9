//! The engine against a simulated controller, in hand-set time.

mod faults;
mod raw;
mod simulated;
mod start;
mod work;

use std::time::Duration;

use demi_api::error::Error;
use demi_api::memalloc::{Heap, HeapConfig};
use demi_api::time::Instant;

use self::simulated::{HEAP, Simulated};
use super::config::NvmeConfig;
use super::engine::Engine;
use crate::device::{Command, Completion, Request};

/// Blocks of the simulated disk.
const BLOCKS: usize = 256;

struct Host {
    engine: Engine<Simulated>,
    device: Simulated,
    heap: Heap,
    now: Instant,
    tag: u64,
}

fn heap() -> Heap {
    Heap::new(&HeapConfig { size: 4 << 20, lock: false, ..HeapConfig::default() }).expect("there is memory")
}

fn config(depth: u16) -> NvmeConfig {
    NvmeConfig { address: "0000:00:04.0".into(), depth, timeout_ms: 1000, ..NvmeConfig::default() }
}

fn start(heap: &Heap, device: &Simulated, config: &NvmeConfig) -> Result<Engine<Simulated>, Error> {
    Engine::start(device.clone(), config, &heap.region(), HEAP)
}

impl Host {
    fn new(depth: u16) -> Host {
        Host::with(&config(depth))
    }

    fn with(config: &NvmeConfig) -> Host {
        let heap = heap();
        let device = Simulated::new(heap.region(), BLOCKS);
        let engine = start(&heap, &device, config).expect("it starts");
        Host { engine, device, heap, now: Instant::from_nanos(1), tag: 0 }
    }

    fn submit(&mut self, command: Command) -> Result<u64, Request> {
        self.tag += 1;
        self.engine.submit(self.now, Request { tag: self.tag, command }).map(|()| self.tag)
    }

    fn poll(&mut self) -> Vec<Completion> {
        let mut done = Vec::new();
        assert_eq!(self.engine.poll(self.now, &mut done), done.len());
        done
    }

    /// Polls at the times at which the engine asks to be, until something is complete or `limit` is over.
    fn wait(&mut self, limit: Duration) -> Vec<Completion> {
        let end = self.now + limit;
        loop {
            let done = self.poll();
            let Some(due) = self.engine.due.filter(|due| done.is_empty() && *due <= end) else { return done };
            self.now = self.now.max(due);
        }
    }

    fn read_into(&self, offset: usize, len: usize) -> Command {
        Command::Read { offset: offset as u64, into: self.heap.alloc(len).expect("room") }
    }

    /// Three blocks that do not meet, and so need three commands.
    fn write_in_three(&self) -> Command {
        let pieces = (0..3).map(|at| self.heap.copy_from(&[at; 520]).expect("room").slice(4..516));
        Command::Write { offset: 0, data: pieces.collect(), durable: false }
    }

    fn write_of(&self, offset: usize, bytes: &[u8]) -> Command {
        let data = self.heap.copy_from(bytes).expect("room").into();
        Command::Write { offset: offset as u64, data, durable: false }
    }
}
