//! One controller at work: requests become commands (`issue`), completions end them, and what goes wrong is put right
//! (`recover`).
//!
//! Invariants: memory is the device's from the moment that its doorbell is rung until a command's completion is seen,
//! the controller has stopped, or it is kept from memory. Nothing here waits but the start and the end.

mod issue;
mod recover;

use std::rc::Rc;
use std::thread;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::memalloc::RegionInfo;
use demi_api::sga::MAX_SEGMENTS;
use demi_api::time::{Clock, Instant};

use self::issue::Region;
use super::config::NvmeConfig;
use super::controller::{Controller, IOVA, QUEUES};
use super::counters::Counters;
use super::flight::Flight;
use super::prp::ALIGN;
use super::queue::Place;
use super::raw::Window;
use super::regs::{CQE, Hardware, PAGE, SQE, Status};
use crate::device::{Caps, Completion, Request};

/// Most bytes of a transfer: what one page of entries can name, wherever it begins.
const MAX_TRANSFER: usize = PAGE / 8 * PAGE;
/// When to look again at a controller that is being reset.
const STEP: Duration = Duration::from_millis(1);
/// How long the end waits for a volatile cache to be emptied.
const SHUT_DOWN: Duration = Duration::from_secs(5);

/// One controller with its heap.
pub(super) struct Engine<R: Hardware> {
    pub(super) controller: Controller<R>,
    flight: Flight,
    pub(super) caps: Caps,
    pub(super) counters: Counters,
    region: Region,
    /// Where the lists of entries lie, a page for each command.
    lists: usize,
    block_shift: u32,
    volatile_cache: bool,
    config: NvmeConfig,
    /// When to look at the controller, or to go on with its reset.
    pub(super) due: Option<Instant>,
    /// Resets since a command last succeeded.
    fruitless: u8,
}

impl<R: Hardware> Engine<R> {
    /// Starts a controller, and waits until it has started. It reaches the heap, which it knows at `heap_iova`.
    ///
    /// # Errors
    /// Why it did not, and what to do.
    pub(super) fn start(
        mut hardware: R,
        config: &NvmeConfig,
        heap: &RegionInfo,
        heap_iova: u64,
    ) -> Result<Engine<R>, Error> {
        let failed = |what: String| config.failed(what);
        let capabilities = Controller::check(&hardware).map_err(failed)?;
        // A queue is full when one entry is left.
        let depth = usize::from(config.depth).min(capabilities.entries - 1);
        let (place, lists) = layout(depth, capabilities.entries);
        let memory = Window::of_memory(lists + depth * PAGE)
            .map_err(|error| config.failed(format_args!("no memory for its queues: {error}")))?;
        let memory = Rc::new(memory);
        hardware
            .share(&memory, IOVA)
            .and_then(|()| hardware.set_dma(true))
            .map_err(|error| config.failed(format_args!("its queues cannot be mapped for it: {error}")))?;
        let mut controller = Controller::new(hardware, capabilities, &memory, place, config.namespace);

        let clock = Clock::start();
        controller.restart(clock.now());
        while !controller.is_running() && !controller.is_dead() {
            if !controller.drive(clock.now()) {
                thread::sleep(STEP / 10);
            }
        }
        let Some(found) = controller.found().filter(|_| controller.is_running()).cloned() else {
            return Err(config.failed(&controller.reason));
        };
        let shift = found.namespace.block_shift;
        let caps = Caps {
            block_size: 1 << shift,
            capacity: found.namespace.blocks << shift,
            // A block may be larger than the smallest transfer that a controller can be limited to, but then not usable.
            max_transfer: found.controller.max_transfer.map_or(MAX_TRANSFER, |max| max.min(MAX_TRANSFER)),
            max_segments: MAX_SEGMENTS,
            memory_align: ALIGN,
            depth,
            read_only: found.namespace.read_only,
            discard: found.controller.dataset_management,
        };
        if caps.max_transfer < caps.block_size {
            return Err(config.failed("its largest transfer is smaller than a block"));
        }
        Ok(Engine {
            controller,
            flight: Flight::new(depth),
            caps,
            counters: Counters::default(),
            region: Region { base: heap.base.addr(), len: heap.len, iova: heap_iova },
            lists,
            block_shift: shift,
            volatile_cache: found.controller.volatile_cache,
            config: config.clone(),
            due: None,
            fruitless: 0,
        })
    }

    #[inline]
    pub(super) fn submit(&mut self, now: Instant, request: Request) -> Result<(), Request> {
        let verdict = self.check(&request.command);
        let at = self.flight.admit(request)?;
        match verdict {
            Ok(true) if self.controller.is_dead() => self.flight.finish(at, Err(Error::Io)),
            Ok(true) if !self.controller.is_running() || self.flight.first_waiting().is_some() => {
                self.flight.wait(at);
            }
            Ok(true) => {
                if !self.issue(at, now) {
                    self.flight.wait(at);
                }
            }
            Ok(false) => self.flight.finish(at, Ok(())),
            Err(error) => self.flight.finish(at, Err(error)),
        }
        Ok(())
    }

    #[inline]
    pub(super) fn poll(&mut self, now: Instant, done: &mut Vec<Completion>) -> usize {
        let before = done.len();
        if self.controller.is_running() {
            self.controller.io.tell(&self.controller.registers);
            self.take(now);
            self.issue_waiting(now);
            self.watch(now);
        } else {
            self.go_on(now);
        }
        if self.flight.has_finished() {
            self.flight.hand_out(done);
        }
        let count = done.len() - before;
        self.counters.completions += count as u64;
        count
    }

    /// Before a sleep: everything is told to the controller.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.controller.is_running() {
            self.issue_waiting(now);
            self.controller.io.give_all_back(&self.controller.registers);
            self.watch(now);
        } else {
            self.go_on(now);
        }
    }

    /// Whether [`poll`](Engine::poll) would find something.
    pub(super) fn has_work(&self) -> bool {
        self.flight.has_finished() || self.controller.is_running() && self.controller.io.is_ready()
    }

    /// Takes completions: at most as many as there are commands.
    #[inline]
    fn take(&mut self, now: Instant) {
        for _ in 0..self.caps.depth {
            match self.controller.io.take() {
                None => break,
                Some(Ok(completed)) => self.heed(completed, now),
                Some(Err(_)) => self.counters.unknown += 1,
            }
        }
        self.controller.io.give_back(&self.controller.registers);
    }

    /// Requests that were taken and not handed out.
    pub(super) fn under_way(&self) -> usize {
        self.flight.requests_under_way()
    }
}

/// Stops the controller and waits, within a bound, until it has let go of memory; else that is leaked.
impl<R: Hardware> Drop for Engine<R> {
    fn drop(&mut self) {
        let wait = |controller: &Controller<R>, limit: Duration, is_over: fn(Status) -> bool| {
            let begin = std::time::Instant::now();
            while !is_over(controller.status()) && begin.elapsed() < limit {
                thread::sleep(STEP / 10);
            }
            is_over(controller.status()) && !controller.status().absent
        };
        if self.controller.is_running() && !self.flight.is_flying() {
            self.controller.shut_down();
            wait(&self.controller, SHUT_DOWN, |status| status.shut_down || status.absent);
        }
        self.controller.stop();
        let limit = self.controller.capabilities.timeout;
        let stopped = wait(&self.controller, limit, |status| !status.ready);
        // What is not there may be there again, unless it is kept from memory.
        let cut_off = self.controller.registers.set_dma(false).is_ok();
        self.flight.fail_all(&Error::Cancelled, stopped || cut_off);
        self.flight.hand_out(&mut Vec::new());
    }
}

/// Where the I/O queues lie, and the lists.
fn layout(depth: usize, most: usize) -> (Place, usize) {
    let pages = |bytes: usize| bytes.next_multiple_of(PAGE);
    let submission_entries = depth + 1;
    // Twice as many, so that the controller need not be told of each that was taken.
    let completion_entries = (2 * submission_entries).min(most);
    let completion = QUEUES;
    let submission = completion + pages(completion_entries * CQE);
    let lists = submission + pages(submission_entries * SQE);
    (Place { submission, submission_entries, completion, completion_entries }, lists)
}
