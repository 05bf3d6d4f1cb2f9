//! A heap and a device, driven by hand.

use std::time::Duration;

use demi_api::error::Error;
use demi_api::memalloc::{BufMut, Heap, HeapConfig};
use demi_api::sga::SgArray;
use demi_api::time::Clock;
use demi_libos_cattree::device::nvme::{Nvme, NvmeConfig};
use demi_libos_cattree::device::{BlockDevice, Buffers, Caps, Command, Completion, DeviceCx, Request};

use super::Place;

/// What nothing here may take.
const LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Host {
    pub(super) device: Nvme,
    pub(super) heap: Heap,
    clock: Clock,
    tag: u64,
}

pub(super) fn heap() -> Heap {
    Heap::new(&HeapConfig { size: 16 << 20, ..HeapConfig::default() }).expect("there is memory")
}

impl Host {
    pub(super) fn open(place: &Place, namespace: u32) -> Host {
        Host::with(&NvmeConfig { address: place.ours.clone(), namespace, ..NvmeConfig::default() })
    }

    pub(super) fn with(config: &NvmeConfig) -> Host {
        let heap = heap();
        let device = Nvme::open(&heap, config).expect("the controller can be opened");
        Host { device, heap, clock: Clock::start(), tag: 0 }
    }

    pub(super) fn caps(&self) -> Caps {
        self.device.caps().clone()
    }

    /// The request comes back if the device is full.
    pub(super) fn submit(&mut self, command: Command) -> Result<u64, Request> {
        self.tag += 1;
        let cx = DeviceCx { heap: &self.heap, now: self.clock.now() };
        self.device.submit(&cx, Request { tag: self.tag, command }).map(|()| self.tag)
    }

    pub(super) fn poll(&mut self) -> Vec<Completion> {
        let mut done = Vec::new();
        let cx = DeviceCx { heap: &self.heap, now: self.clock.now() };
        assert_eq!(self.device.poll(&cx, &mut done), done.len());
        done
    }

    pub(super) fn arm(&mut self) -> bool {
        self.device.arm(&DeviceCx { heap: &self.heap, now: self.clock.now() })
    }

    pub(super) fn reset(&mut self) {
        self.device.reset(&DeviceCx { heap: &self.heap, now: self.clock.now() });
    }

    /// Polls until so many are complete.
    pub(super) fn wait(&mut self, count: usize) -> Vec<Completion> {
        let begin = std::time::Instant::now();
        let mut done = Vec::new();
        while done.len() < count {
            assert!(begin.elapsed() < LIMIT, "{} of {count} are complete: {:?}", done.len(), self.device);
            done.extend(self.poll());
        }
        assert_eq!(done.len(), count);
        done
    }

    /// Does one thing.
    pub(super) fn run(&mut self, command: Command) -> (Result<(), Error>, Buffers) {
        let tag = self.submit(command).expect("the device has room");
        let Some(Completion { tag: done, result, buffers }) = self.wait(1).pop() else {
            unreachable!("one was waited for")
        };
        assert_eq!(done, tag);
        (result, buffers)
    }

    pub(super) fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let into = self.buffer(len, 0);
        match self.run(Command::Read { offset, into }) {
            (Ok(()), Buffers::Read(bytes)) => bytes.to_vec(),
            other => panic!("reading {len} bytes at {offset}: {other:?}"),
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: SgArray, durable: bool) {
        match self.run(Command::Write { offset, data, durable }) {
            (Ok(()), Buffers::Written(_)) => {}
            other => panic!("writing at {offset}: {other:?}"),
        }
    }

    /// A buffer whose bytes follow from a seed.
    pub(super) fn buffer(&self, len: usize, seed: u64) -> BufMut {
        let mut buffer = self.heap.alloc(len).expect("the heap has room");
        buffer.copy_from_slice(&pattern(len, seed));
        buffer
    }

    pub(super) fn counter(&self, name: &str) -> u64 {
        let mut value = None;
        self.device.counters(&mut |key, count| {
            if key == name {
                value = Some(count);
            }
        });
        value.expect("there is such a counter")
    }
}

pub(super) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}
