//! What was asked of a device and what it answered, in order.

use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use demi_api::error::Error;
use demi_api::time::Instant;

use super::super::{BlockDevice, Caps, Command, Completion, DeviceCx, Request};

/// Something that happened at a device. Reads are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A write was submitted.
    Write {
        /// Names the request in the trace.
        id: u64,
        /// Where.
        offset: usize,
        /// What.
        bytes: Rc<[u8]>,
        /// Whether it is durable when it completes.
        durable: bool,
    },
    /// A flush was submitted.
    Flush {
        /// Names the request in the trace.
        id: u64,
    },
    /// A discard was submitted.
    Discard {
        /// Names the request in the trace.
        id: u64,
        /// Where.
        offset: usize,
        /// How much.
        len: usize,
    },
    /// A request has ended.
    End {
        /// Which.
        id: u64,
        /// How.
        outcome: Outcome,
    },
}

impl Event {
    /// The request that it concerns.
    pub fn id(&self) -> u64 {
        match self {
            Event::Write { id, .. }
            | Event::Flush { id }
            | Event::Discard { id, .. }
            | Event::End { id, .. } => *id,
        }
    }
}

/// How a request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Done,
    /// Any part of it may have been done.
    Failed,
    /// Nothing of it was done.
    Refused,
}

/// The events of a device from the first on, shared with its [`Recorder`].
#[derive(Clone, Debug, Default)]
pub struct Trace {
    events: Rc<RefCell<Vec<Event>>>,
}

impl Trace {
    /// How many events there are. Noted by a test at the time at which it learns something, it says which cuts come later.
    pub fn len(&self) -> usize {
        self.events.borrow().len()
    }

    /// Whether nothing has happened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The events.
    pub fn events(&self) -> Ref<'_, [Event]> {
        Ref::map(self.events.borrow(), |events| &events[..])
    }

    /// Adds an event, for tests that need no device.
    pub fn push(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }
}

/// A device of type `D` whose events are recorded.
///
/// Outside of a [`Fault`](super::super::fault::Fault), so that failures are in the trace.
#[derive(Debug)]
pub struct Recorder<D> {
    device: D,
    trace: Trace,
    /// The tags of the requests under way by their names, and whether their ends are recorded.
    under_way: BTreeMap<u64, (u64, bool)>,
    next: u64,
}

impl<D: BlockDevice> Recorder<D> {
    /// Records what happens at a device from now on. Nothing may be under way there.
    pub fn new(device: D) -> Recorder<D> {
        Recorder::onto(device, Trace::default())
    }

    /// Goes on with a trace: the same medium is used by another process, after one that died.
    pub fn onto(device: D, trace: Trace) -> Recorder<D> {
        let last = trace.events().iter().map(Event::id).max();
        Recorder { device, trace, under_way: BTreeMap::new(), next: last.map_or(0, |last| last + 1) }
    }

    /// The trace, which grows as long as the device is in use.
    pub fn trace(&self) -> Trace {
        self.trace.clone()
    }

    /// The event that a request is. What the device has to refuse is none.
    fn event(&self, id: u64, command: &Command) -> Option<Event> {
        if self.device.caps().check(command).is_err() {
            return None;
        }
        match command {
            Command::Read { .. } => None,
            Command::Write { offset, data, durable } => Some(Event::Write {
                id,
                offset: *offset as usize,
                bytes: data.to_vec().into(),
                durable: *durable,
            }),
            Command::Flush => Some(Event::Flush { id }),
            Command::Discard { offset, len } => {
                Some(Event::Discard { id, offset: *offset as usize, len: *len as usize })
            }
        }
    }
}

impl<D: BlockDevice> BlockDevice for Recorder<D> {
    fn caps(&self) -> &Caps {
        self.device.caps()
    }

    fn submit(&mut self, cx: &DeviceCx<'_>, request: Request) -> Result<(), Request> {
        let id = self.next;
        let Request { tag, command } = request;
        let event = self.event(id, &command);
        if let Err(refused) = self.device.submit(cx, Request { tag: id, command }) {
            return Err(Request { tag, ..refused });
        }
        self.next += 1;
        self.under_way.insert(id, (tag, event.is_some()));
        if let Some(event) = event {
            self.trace.push(event);
        }
        Ok(())
    }

    fn poll(&mut self, cx: &DeviceCx<'_>, done: &mut Vec<Completion>) -> usize {
        let before = done.len();
        self.device.poll(cx, done);
        for completion in &mut done[before..] {
            let id = completion.tag;
            let Some((tag, recorded)) = self.under_way.remove(&id) else { continue };
            completion.tag = tag;
            if recorded {
                let outcome = match completion.result {
                    Ok(()) => Outcome::Done,
                    Err(Error::Invalid(_) | Error::ReadOnly) => Outcome::Refused,
                    Err(_) => Outcome::Failed,
                };
                self.trace.push(Event::End { id, outcome });
            }
        }
        done.len() - before
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
        visit("crash_events", self.trace.len() as u64);
        self.device.counters(visit);
    }
}
