//! The controller as a whole: stopped, started, asked what it is, given its queues (Base 1.4 §7.6.1).
//!
//! ```text
//!            stop                 not ready               ready          one answer after another
//!   any ───────────▶ Stopping ───────────────▶ Starting ─────────▶ Asking ───────────────────────▶ Running
//!    │                  │ late                   │ late             │ late, refused                 │ stop
//!    └──────────────────┴────────── gone ────────┴──────────────────┴──────────▶ Dead ◀─────────────┘
//! ```
//!
//! Invariants: each step ends within a bound that the controller or a constant sets, and no call waits. From Stopping
//! on, when the controller is not ready, it does not touch memory; in Dead it is kept from it. After a reset
//! it must be what it was before.

mod asking;

use std::rc::Rc;
use std::time::Duration;

use demi_api::time::Instant;

use self::asking::Step;
use super::command::Entry;
use super::identify::{self, Namespace};
use super::queue::{Pair, Place};
use super::raw::Window;
use super::regs::{
    ABSENT, ACQ, AQA, ASQ, CAP, CC, CC_ENABLE, CC_SHUT_DOWN, CQE, CSTS, Capabilities, Hardware, PAGE, SQE,
    Status,
};

/// How long an admin command may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the memory of a controller's own is, as the device sees it.
pub(super) const IOVA: u64 = 0x1000_0000;

// The begin of that memory.
const ADMIN: Place =
    Place { submission: 0, submission_entries: PAGE / SQE, completion: PAGE, completion_entries: PAGE / CQE };
const ANSWER: usize = 2 * PAGE;
/// Where the I/O queues begin.
pub(super) const QUEUES: usize = 3 * PAGE;

/// The number of the only I/O queue.
pub(super) const IO: u16 = 1;

/// What the controller and its namespace were found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) controller: identify::Controller,
    pub(super) namespace: Namespace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has been enabled by someone else, and must become ready before it can be disabled (§3.1.5).
    Settling,
    Stopping,
    Starting,
    Asking(Step),
    Running,
    Dead,
}

/// A controller with one I/O queue pair.
pub(super) struct Controller<R> {
    pub(super) registers: R,
    pub(super) capabilities: Capabilities,
    pub(super) memory: Rc<Window>,
    pub(super) io: Pair,
    io_place: Place,
    namespace: u32,
    admin: Pair,
    phase: Phase,
    /// When the phase is over at the latest.
    until: Instant,
    asked: Option<identify::Controller>,
    found: Option<Found>,
    /// Why it is dead.
    pub(super) reason: String,
    /// Whether, being dead, it has been kept from memory.
    pub(super) cut_off: bool,
    /// Whether an [`Entry::abort`] is under way.
    aborting: bool,
}

impl<R: Hardware> Controller<R> {
    /// # Errors
    /// Why this controller cannot be used at all.
    pub(super) fn check(registers: &R) -> Result<Capabilities, String> {
        let cap = registers.read_wide(CAP);
        if registers.read(CSTS) == ABSENT || cap == u64::MAX {
            return Err("it does not answer; was it removed, or is it switched off?".into());
        }
        let capabilities = Capabilities::parse(cap);
        if !capabilities.nvm {
            return Err("it does not have the NVM command set".into());
        }
        if capabilities.smallest_page > PAGE {
            let smallest = capabilities.smallest_page;
            return Err(format!("its smallest memory page is {smallest} bytes; only {PAGE} is supported"));
        }
        if capabilities.head_doorbell(IO) + 4 > registers.len() {
            return Err("the doorbells of its first queue lie beyond its registers".into());
        }
        Ok(capabilities)
    }

    pub(super) fn new(
        registers: R,
        capabilities: Capabilities,
        memory: &Rc<Window>,
        io_place: Place,
        namespace: u32,
    ) -> Controller<R> {
        Controller {
            admin: Pair::new(0, memory, ADMIN, &capabilities),
            io: Pair::new(IO, memory, io_place, &capabilities),
            registers,
            capabilities,
            memory: Rc::clone(memory),
            io_place,
            namespace,
            phase: Phase::Dead,
            until: Instant::default(),
            asked: None,
            found: None,
            reason: String::new(),
            cut_off: false,
            aborting: false,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    pub(super) fn is_dead(&self) -> bool {
        self.phase == Phase::Dead
    }

    pub(super) fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }

    pub(super) fn status(&self) -> Status {
        Status::parse(self.registers.read(CSTS))
    }

    /// Begins a reset (§7.3.2): stops it, to start it again.
    pub(super) fn restart(&mut self, now: Instant) {
        self.until = now + self.capabilities.timeout;
        let status = self.status();
        if self.registers.read(CC) & 1 == 1 && !status.ready && !status.fatal {
            self.phase = Phase::Settling;
        } else {
            self.disable(now);
        }
    }

    fn disable(&mut self, now: Instant) {
        self.registers.write(CC, self.registers.read(CC) & !1);
        (self.phase, self.until) = (Phase::Stopping, now + self.capabilities.timeout);
    }

    /// Goes as far as can be without waiting. True: something has changed.
    pub(super) fn drive(&mut self, now: Instant) -> bool {
        if matches!(self.phase, Phase::Running | Phase::Dead) {
            return false;
        }
        let status = self.status();
        if status.absent {
            self.die("it is gone: its registers read all ones");
            return true;
        }
        let late = now > self.until;
        match self.phase {
            Phase::Settling if status.ready || status.fatal || late => self.disable(now),
            Phase::Stopping if !status.ready => self.enable(now),
            Phase::Stopping if late => self.die("it did not stop in the time that it states"),
            Phase::Starting | Phase::Asking(_) if status.fatal => self.die("it failed while it was started"),
            Phase::Starting if status.ready => self.ask(Step::Controller, now),
            Phase::Starting if late => self.die("it did not become ready in the time that it states"),
            Phase::Asking(step) => match self.answer() {
                Some(status) => self.heed(step, status, now),
                None if late => self.die(format!("no answer to an admin command ({step:?})")),
                None => return false,
            },
            Phase::Settling | Phase::Stopping | Phase::Starting | Phase::Running | Phase::Dead => {
                return false;
            }
        }
        true
    }

    /// Keeps it from memory, for good.
    pub(super) fn die(&mut self, reason: impl Into<String>) {
        self.phase = Phase::Dead;
        self.reason = reason.into();
        self.cut_off = match self.registers.set_dma(false) {
            Ok(()) => true,
            Err(error) => {
                self.reason = format!("{}; and it could not be kept from memory: {error}", self.reason);
                false
            }
        };
    }

    fn enable(&mut self, now: Instant) {
        self.admin.restart();
        self.io.restart();
        self.aborting = false;
        // Counts are less by one (§3.1.8).
        let entries = (ADMIN.completion_entries as u32 - 1) << 16 | (ADMIN.submission_entries as u32 - 1);
        self.registers.write(AQA, entries);
        self.registers.write_wide(ASQ, IOVA + ADMIN.submission as u64);
        self.registers.write_wide(ACQ, IOVA + ADMIN.completion as u64);
        self.registers.write(CC, CC_ENABLE);
        (self.phase, self.until) = (Phase::Starting, now + self.capabilities.timeout);
    }

    /// Asks for a command to be aborted (§5.1). False: another such question is under way.
    pub(super) fn abort(&mut self, id: u16) -> bool {
        if self.aborting {
            return false;
        }
        self.aborting = true;
        self.send(Entry::abort(IO, id));
        true
    }

    /// Whether the last one is aborted is seen from its own completion.
    pub(super) fn heed_abort(&mut self) {
        if self.aborting && self.answer().is_some() {
            self.aborting = false;
        }
    }

    /// Begins a normal shutdown (§7.6.2): what is in a volatile cache is made durable.
    pub(super) fn shut_down(&mut self) {
        self.registers.write(CC, CC_SHUT_DOWN);
    }

    /// Stops it, not to be started again.
    pub(super) fn stop(&mut self) {
        self.registers.write(CC, self.registers.read(CC) & !1);
        self.phase = Phase::Dead;
    }
}
