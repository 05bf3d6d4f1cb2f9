//! The device over files on a disk and in memory, and over a loop device.

mod loop_device;
mod opening;
mod requests;
mod waiting;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use demi_api::error::Error;
use demi_api::memalloc::{Buf, Heap, HeapConfig, HugePages};
use demi_api::sga::SgArray;
use demi_api::time::{Clock, Instant};
use tempfile::TempDir;

use super::{Uring, UringConfig};
use crate::device::{BlockDevice, Buffers, Command, Completion, DeviceCx, Request};

/// Bytes of the files.
const SIZE: u64 = 4 << 20;

/// Longest that any request takes here.
const PATIENCE: Duration = Duration::from_secs(20);

fn heap(size: usize) -> Heap {
    Heap::new(&HeapConfig { size, huge_pages: HugePages::Never, lock: false }).unwrap()
}

/// One directory on a disk, as far as the temporary directory is on one, and one in memory. None at all, and a line that
/// says so, where io_uring is not permitted.
fn directories() -> Vec<TempDir> {
    if let Err(error) = io_uring::IoUring::new(1) {
        skipped("io_uring", &error.to_string());
        return Vec::new();
    }
    vec![tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()]
}

fn skipped(test: &str, why: &str) {
    let _ = std::io::stderr().write_all(format!("SKIPPED {test}: {why}\n").as_bytes());
}

fn config(path: &Path) -> UringConfig {
    UringConfig { path: path.to_path_buf(), size: Some(SIZE), ..UringConfig::default() }
}

fn cx(heap: &Heap) -> DeviceCx<'_> {
    DeviceCx { heap, now: Instant::from_nanos(0) }
}

/// A device, and what has come out of it.
struct Rig {
    // Before the heap that it is registered with.
    device: Uring,
    heap: Heap,
    done: Vec<Completion>,
    tags: u64,
}

impl Rig {
    fn new(heap: &Heap, config: &UringConfig) -> Rig {
        Rig::of(heap, Uring::open(heap, config).unwrap())
    }

    fn of(heap: &Heap, device: Uring) -> Rig {
        Rig { device, heap: heap.clone(), done: Vec::new(), tags: 0 }
    }

    /// Whether the heap is registered. A line says so if it is not: what a user may lock can be less.
    fn is_registered(&self) -> bool {
        if !self.device.is_registered() {
            skipped("registered memory", "raise `ulimit -l`");
        }
        self.device.is_registered()
    }

    fn submit(&mut self, command: Command) -> u64 {
        self.tags += 1;
        self.device.submit(&cx(&self.heap), Request { tag: self.tags, command }).expect("there is room");
        self.tags
    }

    fn poll(&mut self) -> usize {
        self.device.poll(&cx(&self.heap), &mut self.done)
    }

    /// Polls until the request is complete.
    fn wait(&mut self, tag: u64) -> Completion {
        let clock = Clock::start();
        loop {
            if let Some(place) = self.done.iter().position(|completion| completion.tag == tag) {
                return self.done.remove(place);
            }
            self.poll();
            assert!(clock.now().since(Instant::default()) < PATIENCE, "request {tag} does not end");
        }
    }

    fn run(&mut self, command: Command) -> Completion {
        let tag = self.submit(command);
        self.wait(tag)
    }

    fn write(&mut self, offset: u64, data: impl Into<SgArray>, durable: bool) -> Result<(), Error> {
        let data = data.into();
        let lens: Vec<usize> = data.segments().iter().map(|segment| segment.len()).collect();
        let completion = self.run(Command::Write { offset, data, durable });
        let Buffers::Written(back) = completion.buffers else { panic!("{:?}", completion.buffers) };
        let back: Vec<usize> = back.segments().iter().map(|segment| segment.len()).collect();
        assert_eq!(back, lens, "a write gives back what it was given");
        completion.result
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let mut into = self.heap.alloc(len).unwrap();
        into.fill(0xee);
        let completion = self.run(Command::Read { offset, into });
        let Buffers::Read(buf) = completion.buffers else { panic!("{:?}", completion.buffers) };
        assert_eq!(buf.len(), len);
        completion.result.map(|()| buf.to_vec())
    }

    fn counter(&self, name: &str) -> u64 {
        let mut value = None;
        self.device.counters(&mut |each, count| {
            if each == name {
                value = Some(count);
            }
        });
        value.expect("there is such a counter")
    }
}

/// Bytes that differ from block to block and from seed to seed.
fn pattern(heap: &Heap, seed: u64, len: usize) -> Buf {
    let mut buf = heap.alloc(len).unwrap();
    for (at, word) in buf.chunks_mut(8).enumerate() {
        let value = (seed << 32 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        word.copy_from_slice(&value[..word.len()]);
    }
    buf.freeze()
}

fn path_in(directory: &TempDir) -> PathBuf {
    directory.path().join("image")
}
