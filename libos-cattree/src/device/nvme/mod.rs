//! An NVMe controller in user space: polled, over VFIO, with the instance's heap as its memory.
//!
//! The controller is this instance's alone. Commands are written where it reads them, it reads and writes the heap
//! itself, and completions are found by looking; the kernel has part in none of it. What it was
//! written to is the NVM Express Base Specification 1.4 with the NVM command set, whose sections are cited where they
//! are obeyed. One namespace and one pair of I/O queues are used.
//!
//! Invariants: the heap is the device's for as long as this lives, and a buffer until its request's completion; a
//! completion is handed out only when the controller cannot touch the buffer any more. Whatever the controller says is
//! checked: a completion that names nothing under way ends nothing. Nothing waits but opening and closing.
//!
//! ## What to know
//!
//! - **The device must be given to user space first**: bound to `vfio-pci`, behind an IOMMU. [`Nvme::open`] says how
//!   if it is not; `tests/vm/bind-vfio` does it.
//! - **Any gather is written without a copy.** Segments that meet at page boundaries go in one command, others in commands
//!   of their own, so a device page is the best unit.
//! - **What takes too long** is aborted, and if that does not help the controller is reset, and has what was under way
//!   given to it again, a bounded number of times. A controller that is gone fails everything, then and later.
//! - **Interrupts are off while there is polling.** [`BlockDevice::arm`] switches them on, and they stay on until
//!   polling alone has found enough.
//!
//! | module | what it is |
//! |---|---|
//! | `config` | [`NvmeConfig`] |
//! | `engine` | requests, timeouts, resets |
//! | `flight` | what is under way |
//! | `controller` | from reset to running, and why not |
//! | `regs`, `command`, `identify`, `prp` | registers, queue entries, answers, lists, as the specification draws them |
//! | `queue`, `raw` | rings in memory, and that memory |
//! | `vfio` | the device, its memory and its interrupts |

mod command;
mod config;
mod controller;
mod counters;
mod engine;
mod flight;
mod identify;
mod prp;
mod queue;
mod raw;
mod regs;
#[cfg(test)]
mod tests;
mod vfio;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::memalloc::{Heap, MapId};
use demi_api::time::Instant;
use rustix::event::{EventfdFlags, eventfd};

pub use self::config::NvmeConfig;

use self::engine::Engine;
use self::vfio::{HEAP_IOVA, Vfio};
use super::{BlockDevice, Caps, Completion, DeviceCx, Request};

/// How many completions polling must find, without a sleep in between, for interrupts to be switched off again.
const QUIET_AFTER: usize = 64;
/// When to look again at a controller that cannot interrupt.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

/// One namespace of a controller.
pub struct Nvme {
    // In the order in which they must go: the controller, then its memory.
    engine: Engine<Vfio>,
    heap: Attached,
    event: Fd,
    /// Whether interrupts are on, and how much polling has found since.
    is_interrupting: bool,
    found: usize,
    look_again: Option<Instant>,
}

/// The heap, registered with the controller for as long as this lives.
struct Attached {
    heap: Heap,
    id: MapId,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.heap.detach(self.id);
    }
}

impl Nvme {
    /// Opens the controller, resets it, and gives it the whole of `heap` to read and write.
    ///
    /// # Errors
    /// [`Error::Config`], with what to do.
    pub fn open(heap: &Heap, config: &NvmeConfig) -> Result<Nvme, Error> {
        config.check()?;
        let vfio = Vfio::open(config)?;
        let id = heap.attach(vfio.heap_map()).map_err(|error| {
            config.failed(format_args!("{error}; raise `ulimit -l` above the size of the heap"))
        })?;
        let heap = Attached { heap: heap.clone(), id };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| config.failed(format_args!("no eventfd: {errno}")))?;
        let engine = Engine::start(vfio, config, &heap.heap.region(), HEAP_IOVA)?;
        Ok(Nvme { engine, heap, event: event.into(), is_interrupting: false, found: 0, look_again: None })
    }

    /// Model and serial number, as the controller states them.
    pub fn identity(&self) -> (&str, &str) {
        self.engine
            .controller
            .found()
            .map_or(("", ""), |found| (&found.controller.model, &found.controller.serial))
    }

    /// Resets the controller, as after a timeout: what is under way is given to it again.
    pub fn reset(&mut self, cx: &DeviceCx<'_>) {
        self.engine.reset(cx.now);
    }

    fn set_interrupting(&mut self, on: bool) {
        if on == self.is_interrupting {
            return;
        }
        let event = on.then(|| self.event.as_fd());
        match self.engine.controller.registers.set_interrupt(event) {
            Ok(()) => self.is_interrupting = on,
            Err(errno) => tracing::warn!(%errno, on, "interrupts of an NVMe controller cannot be switched"),
        }
    }
}

impl BlockDevice for Nvme {
    fn caps(&self) -> &Caps {
        &self.engine.caps
    }

    #[inline]
    fn submit(&mut self, cx: &DeviceCx<'_>, request: Request) -> Result<(), Request> {
        self.engine.submit(cx.now, request)
    }

    #[inline]
    fn poll(&mut self, cx: &DeviceCx<'_>, done: &mut Vec<Completion>) -> usize {
        self.look_again = None;
        let count = self.engine.poll(cx.now, done);
        if self.is_interrupting {
            self.found += count;
            if self.found > QUIET_AFTER {
                self.set_interrupting(false);
            }
        }
        count
    }

    fn next_deadline(&self) -> Option<Instant> {
        let soonest = [self.engine.due, self.look_again].into_iter().flatten().min();
        soonest.filter(|_| self.engine.under_way() > 0)
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        self.found = 0;
        // What was signalled is looked for below; what comes after this is signalled again.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        if self.engine.controller.registers.has_interrupts() {
            self.set_interrupting(true);
        }
        self.engine.settle(cx.now);
        self.look_again = (!self.is_interrupting && self.engine.under_way() > 0).then(|| cx.now + LOOK_AGAIN);
        !self.engine.has_work()
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.engine.counters.visit(visit);
    }
}

impl std::fmt::Debug for Nvme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (model, serial) = self.identity();
        f.debug_struct("Nvme")
            .field("model", &model)
            .field("serial", &serial)
            .field("caps", &self.engine.caps)
            .field("under_way", &self.engine.under_way())
            .field("heap", &self.heap.id)
            .finish_non_exhaustive()
    }
}
