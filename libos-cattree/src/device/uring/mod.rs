//! Files and block devices through io_uring, past the page cache.
//!
//! Requests are put in the ring by [`submit`](BlockDevice::submit), and go to the kernel together with the next
//! [`poll`](BlockDevice::poll), which makes a system call only if there is something to hand over or to complete. The
//! heap's memory and the file are registered, so the kernel neither copies nor looks anything up; where it refuses to
//! register so much (`ulimit -l`), buffers are handed over by address (`uring_unregistered` counts that).
//!
//! The ring completes requests when this thread asks it to, and refuses every other thread: an instance belongs to the
//! thread that opened it, and has to be gone before that thread ends.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | [`UringConfig`] |
//! | `file` | opening, locking and making the file |
//! | `probe` | what it can do |
//! | `raw` | the ring, and the slots that keep memory alive |
//! | `slot` | one request: short transfers go on, errors are translated |
//! | `group` | group commit, for disks whose cache takes long to flush |
//! | `region` | which piece of the heap is registered as what |
//! | `sys` | registration |

mod config;
mod counters;
mod file;
mod group;
mod probe;
#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;
mod region;
mod slot;
#[allow(unsafe_code, reason = "each block states its proof")]
mod sys;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use demi_api::error::Error;
use demi_api::memalloc::{Heap, MapId};
use demi_api::time::Instant;

pub use self::config::{Durability, UringConfig};
use self::counters::Counters;
use self::raw::Ring;
use self::region::{PIECE, Registered, RingMap};
use self::slot::{Ended, Held};
use self::sys::RingFd;
use super::{BlockDevice, Buffers, Caps, Command, Completion, DeviceCx, Request};

/// How long requests are awaited before the processor is offered to others: the kernel's threads that finish a
/// request may be bound to it, and would have to wait for the next tick, for up to 4 ms.
const PATIENCE: Duration = Duration::from_micros(15);

/// A file or block device, through io_uring. As the heap, it belongs to its thread.
#[derive(Debug)]
pub struct Uring {
    ring: Ring,
    caps: Caps,
    /// Requests that have ended without the ring.
    early: VecDeque<Completion>,
    /// When the processor is offered to others, if nothing ends by then: from the first look that finds nothing ended.
    patient_until: Option<Instant>,
    counters: Counters,
    map: Option<MapId>,
    heap: Heap,
}

impl Uring {
    /// Opens, or makes, what `config` says. `heap` is where the buffers of its requests lie; others are good too, but
    /// are not registered.
    ///
    /// # Errors
    /// [`Error::Config`], with what to change.
    pub fn open(heap: &Heap, config: &UringConfig) -> Result<Uring, Error> {
        Uring::open_in_pieces(heap, config, PIECE)
    }

    /// As [`open`](Uring::open), with the heap registered in pieces of `piece` bytes.
    fn open_in_pieces(heap: &Heap, config: &UringConfig, piece: usize) -> Result<Uring, Error> {
        config.check()?;
        let (fd, caps) = file::open(config)?;
        let each = config.durability == Durability::Each;
        let mut ring = Ring::new(config.depth, fd, each).map_err(|error| no_ring(config, &error))?;
        let map = RingFd::duplicate(ring.as_fd()).map_err(|error| no_ring(config, &error))?;
        // Refused beyond `ulimit -l`, or to one device too many: then the kernel looks pages up for each request.
        let map = heap.attach(Box::new(RingMap::new(map, piece))).ok();
        if map.is_some() {
            ring.set_registered(Registered::new(&heap.region(), piece));
        }
        let early = VecDeque::with_capacity(caps.depth);
        Ok(Uring {
            ring,
            caps,
            early,
            patient_until: None,
            counters: Counters::default(),
            map,
            heap: heap.clone(),
        })
    }

    /// Whether the heap is registered with the kernel.
    pub fn is_registered(&self) -> bool {
        self.map.is_some()
    }

    #[cold]
    fn end_early(&mut self, tag: u64, buffers: Buffers, result: Result<(), Error>) {
        self.counters.refused += u64::from(result.is_err());
        self.early.push_back(Completion { tag, result, buffers });
    }

    #[inline]
    fn complete(&mut self, ended: Ended) -> Completion {
        let Ended { tag, held, result } = ended;
        let counters = &mut self.counters;
        counters.failed += u64::from(result.is_err());
        let buffers = match held {
            Held::Read(buf) => {
                counters.reads += 1;
                counters.bytes_read += buf.len() as u64;
                Buffers::Read(buf)
            }
            Held::Write { data, .. } => {
                counters.writes += 1;
                counters.bytes_written += data.len() as u64;
                Buffers::Written(data)
            }
            Held::Discard { .. } => {
                counters.discards += 1;
                Buffers::None
            }
            Held::Flush => Buffers::None,
        };
        Completion { tag, result, buffers }
    }
}

impl BlockDevice for Uring {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn submit(&mut self, _: &DeviceCx<'_>, request: Request) -> Result<(), Request> {
        if self.ring.under_way() + self.early.len() >= self.caps.depth {
            return Err(request);
        }
        let Request { tag, command } = request;
        let writes = matches!(command, Command::Write { .. } | Command::Discard { .. });
        let mut checked = self.caps.check(&command);
        if checked.is_ok() && writes && self.caps.read_only {
            checked = Err(Error::ReadOnly);
        }
        let (offset, held) = match command {
            Command::Read { offset, into } => (offset, Held::Read(into)),
            Command::Write { offset, data, durable } => (offset, Held::Write { data, durable }),
            Command::Flush => (0, Held::Flush),
            Command::Discard { offset, len } => (offset, Held::Discard { len }),
        };
        if checked.is_err() || matches!(held, Held::Discard { .. } if !self.caps.discard) {
            let buffers = match held {
                Held::Read(buf) => Buffers::Read(buf),
                Held::Write { data, .. } => Buffers::Written(data),
                Held::Flush | Held::Discard { .. } => Buffers::None,
            };
            self.end_early(tag, buffers, checked);
            return Ok(());
        }
        self.ring.start(tag, offset, held);
        Ok(())
    }

    fn poll(&mut self, cx: &DeviceCx<'_>, done: &mut Vec<Completion>) -> usize {
        let before = done.len();
        self.ring.hush();
        done.extend(self.early.drain(..));
        if self.ring.under_way() == 0 {
            self.patient_until = None;
            return done.len() - before;
        }
        self.ring.sync_group();
        if self.ring.has_work() {
            self.ring.enter();
        }
        // Bounded by the slots: nothing is begun meanwhile but the rest of what was begun, and that is not handed over.
        while let Some(ended) = self.ring.reap() {
            let completion = self.complete(ended);
            done.push(completion);
        }
        self.ring.sync_group();
        // Rests and syncs go on at once.
        if self.ring.has_work() {
            self.ring.enter();
        }
        let count = done.len() - before;
        if count > 0 {
            self.patient_until = None;
        } else if cx.now >= *self.patient_until.get_or_insert(cx.now + PATIENCE) {
            self.patient_until = None;
            rustix::thread::sched_yield();
        }
        count
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.ring.event()
    }

    fn arm(&mut self, _: &DeviceCx<'_>) -> bool {
        if self.ring.under_way() == 0 {
            return self.early.is_empty();
        }
        self.ring.sync_group();
        self.early.is_empty() && self.ring.arm()
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.counters.visit(visit);
        self.ring.counters.visit(visit);
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if !self.ring.settle() {
            let left = self.ring.under_way();
            let said =
                "requests do not end: their buffers, the ring and the file's lock are never given back";
            // Nobody is left to be told otherwise; and who has closed its standard error does not want to know.
            let _ = writeln!(io::stderr(), "io_uring: {left} {said}");
        } else if let Some(map) = self.map.take() {
            self.heap.detach(map);
        }
    }
}

/// Why there is no ring.
fn no_ring(config: &UringConfig, error: &io::Error) -> Error {
    let advice = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            ": allow it (`kernel.io_uring_disabled` = 0, and the container's seccomp profile), or choose another device"
        }
        Some(libc::ENOSYS) => ": the kernel has none; choose another device",
        Some(libc::ENOMEM) => ": raise `ulimit -l`, or choose a smaller `depth`",
        Some(libc::EMFILE | libc::ENFILE) => ": raise `ulimit -n`",
        _ => "",
    };
    config.refuse(format_args!("no io_uring can be had ({error}){advice}"))
}
