//! Reliable connections: queue pairs as plain data.
//!
//! ```text
//!   send, write, read, atomic ─► Requester ─┐                 ┌─► Responder ─► Host: receives, memory, events
//!                                           ├─ packets, Sink ─┤
//!                     events ◄─ Requester ◄─┘                 └─◄ Responder
//! ```
//!
//! Nothing in here does I/O or reads a clock: packets come in as headers with a [`Payload`] and go out to a [`Sink`], `now` is an argument, and what
//! happens is appended to the [`Host`]'s events. Payloads are not copied on their way out but gathered where they lie; on
//! their way in they are copied once, to their destination.
//!
//! | file | what it holds |
//! |---|---|
//! | `requester` | the side that asks: PSNs, window, retransmission, timers |
//! | `responder` | the side that is asked: checks, carries out, acknowledges |
//! | `memory` | what peers may reach |
//! | `work`, `store` | what was posted, and the bytes that were copied for it |
//!
//! Protocol: InfiniBand Architecture Specification, volume 1, chapter 9.7. Not in here: end-to-end credits, as receives are
//! shared; path migration; congestion control.
#![forbid(unsafe_code)]

mod memory;
mod requester;
mod responder;
mod store;
#[cfg(test)]
mod tests;
mod work;

use std::collections::VecDeque;
use std::time::Duration;

use demi_api::memalloc::BufMut;
use demi_api::sga::SgArray;
use demi_api::time::Instant;

pub use self::memory::{Denied, Memory};
use self::requester::Requester;
use self::responder::Responder;
use super::link::Payload;
use super::wire::{Header, Operation, Psn, Qpn, RnrTimer, Tail};
use crate::device::{Atomic, Event, Fault, HEAD_MAX, NoRoom, Qp, Remote, Then};

/// Most bytes of a message, or of what is read at once.
pub const MAX_LEN: usize = 1 << 30;
/// Most answers that one call of [`QueuePair::transmit`] sends, and most requests.
pub const BUDGET: usize = 64;

/// Where packets go.
pub trait Sink {
    /// Takes a packet: its transport headers, and the pieces of its payload, which it pads and seals as the link needs.
    /// False: the link takes none at the moment; it is offered again.
    fn packet(&mut self, header: &[u8], payload: &[&[u8]]) -> bool;
}

/// What a queue pair shares with the others of its device.
#[derive(Debug)]
pub struct Host<'a> {
    /// The shared receive queue.
    pub receives: &'a mut VecDeque<BufMut>,
    /// What peers may reach.
    pub memory: &'a mut Memory,
    /// What has happened.
    pub events: &'a mut Vec<Event>,
}

/// What both sides have agreed on, and how this one goes about it.
#[derive(Clone, Debug)]
pub struct Params {
    /// The queue pair's name, for events and for memory.
    pub qp: Qp,
    /// The peer's queue pair.
    pub remote: Qpn,
    /// Most bytes of payload in a packet: 256, 512, 1024, 2048 or 4096.
    pub mtu: usize,
    /// Number of the first packet that is sent.
    pub send_psn: Psn,
    /// Number of the first packet that is expected.
    pub receive_psn: Psn,
    /// READs and atomic operations that may be under way: what the peer answers at a time.
    pub initiator_depth: usize,
    /// As many that are answered.
    pub responder_resources: usize,
    /// How long to wait for an acknowledgement that was asked for; doubles with each attempt, five times at most.
    pub timeout: Duration,
    /// How long to wait before asking for one.
    pub probe: Duration,
    /// Attempts after which the peer is given up.
    pub retries: u8,
    /// Attempts when the peer has no receive; 7 stands for ever.
    pub rnr_retries: u8,
    /// How long a peer is to wait if there is no receive for it.
    pub rnr_timer: RnrTimer,
    /// Most packets under way.
    pub window: u32,
    /// Most works posted.
    pub depth: usize,
    /// Most bytes of a message that are copied when it is posted.
    pub inline: usize,
    /// After how many messages at most an acknowledgement is asked for.
    pub ask_every: u32,
    /// Bytes of the store for what is copied.
    store: usize,
}

impl Params {
    /// The usual ones, between two queue pairs that answer sixteen READs each.
    pub fn new(qp: Qp, remote: Qpn, mtu: usize, send_psn: Psn, receive_psn: Psn) -> Params {
        let mut params = Params {
            qp,
            remote,
            mtu,
            send_psn,
            receive_psn,
            initiator_depth: 16,
            responder_resources: 16,
            timeout: Duration::from_millis(67),
            probe: Duration::from_millis(4),
            retries: 7,
            rnr_retries: 7,
            rnr_timer: RnrTimer::at_least(Duration::from_micros(640)),
            window: 128,
            depth: 128,
            inline: 256,
            ask_every: 16,
            store: 0,
        };
        params.set_depth(128, 256);
        params
    }

    /// How much can be posted, and what of it is copied.
    pub fn set_depth(&mut self, depth: usize, inline: usize) {
        (self.depth, self.inline) = (depth, inline);
        // One more, as the end of the ring may be left unused.
        self.store = (depth + 1) * inline.max(HEAD_MAX);
    }

    /// How many packets so many bytes make.
    #[inline]
    fn packets(&self, len: usize) -> u32 {
        // A power of two.
        (len.saturating_sub(1) >> self.mtu.trailing_zeros()) as u32 + 1
    }

    /// So that the queue never fills without an acknowledgement being asked for.
    #[inline]
    fn ask_every(&self) -> u32 {
        self.ask_every.min(self.depth as u32 / 4)
    }
}

/// What has happened that need not have, in packets unless otherwise said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Sent again.
    pub resent: u64,
    /// Times that an answer did not come in time.
    pub timeouts: u64,
    /// Times that the peer had no receive.
    pub peer_not_ready: u64,
    /// Requests that had been carried out before.
    pub repeated: u64,
    /// Requests that came before others which belong before them.
    pub early: u64,
    /// Requests for which there was no receive.
    pub not_ready: u64,
}

/// One end of a reliable connection.
#[derive(Debug)]
pub struct QueuePair {
    params: Params,
    requester: Requester,
    responder: Responder,
    failed: Option<Fault>,
}

impl QueuePair {
    /// A queue pair that may send and receive.
    pub fn new(params: Params) -> QueuePair {
        let (requester, responder) = (Requester::new(&params), Responder::new(&params));
        QueuePair { params, requester, responder, failed: None }
    }

    /// What it was made with.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// How many more works can be posted.
    pub fn room(&self) -> usize {
        if self.failed.is_some() { 0 } else { self.requester.room(&self.params) }
    }

    /// Posts a message, `head` of at most [`HEAD_MAX`] bytes before `data`.
    pub fn send(&mut self, head: &[u8], data: SgArray, then: Then) -> Result<(), SgArray> {
        self.send_tail(Tail::Plain, head, data, then)
    }

    /// Posts a message that ends with immediate data, or takes a key from the peer that the peer had handed out.
    pub fn send_tail(&mut self, tail: Tail, head: &[u8], data: SgArray, then: Then) -> Result<(), SgArray> {
        if self.failed.is_some() {
            return Err(data);
        }
        self.requester.send(&self.params, tail, head, data, then)
    }

    /// Posts a write to the peer's memory.
    pub fn write(&mut self, to: Remote, data: SgArray, then: Then) -> Result<(), SgArray> {
        if self.failed.is_some() {
            return Err(data);
        }
        self.requester.write(&self.params, to, data, then)
    }

    /// Posts a write of eight bytes in the processor's order.
    pub fn write_word(&mut self, to: Remote, word: u64, then: Then) -> Result<(), NoRoom> {
        if self.failed.is_some() {
            return Err(NoRoom);
        }
        self.requester.write_word(&self.params, to, word, then)
    }

    /// Posts a read of as many bytes as `into` has.
    pub fn read(&mut self, from: Remote, into: BufMut, cookie: u64) -> Result<(), BufMut> {
        if self.failed.is_some() {
            return Err(into);
        }
        self.requester.read(&self.params, from, into, cookie)
    }

    /// Posts an atomic operation on eight bytes of the peer's memory.
    pub fn atomic(&mut self, on: Remote, op: Atomic, cookie: u64) -> Result<(), NoRoom> {
        if self.failed.is_some() {
            return Err(NoRoom);
        }
        self.requester.atomic(&self.params, on, op, cookie)
    }

    /// Takes a packet in that came from the peer's address and was sound.
    pub fn packet(&mut self, now: Instant, header: &Header, payload: &impl Payload, host: &mut Host<'_>) {
        if self.failed.is_some() {
            return;
        }
        let result = match header.operation {
            Operation::SendFirst
            | Operation::SendMiddle
            | Operation::SendLast(_)
            | Operation::SendOnly(_)
            | Operation::WriteFirst(_)
            | Operation::WriteMiddle
            | Operation::WriteLast(_)
            | Operation::WriteOnly(..)
            | Operation::ReadRequest(_)
            | Operation::CompareSwap(_)
            | Operation::FetchAdd(_) => self.responder.request(&self.params, header, payload, host),
            Operation::ReadFirst(_)
            | Operation::ReadMiddle
            | Operation::ReadLast(_)
            | Operation::ReadOnly(_)
            | Operation::Acknowledge(_)
            | Operation::AtomicAcknowledge(..) => {
                self.requester.answer(&self.params, now, header, payload, host.events)
            }
            // Connection managers' own.
            Operation::Datagram(_) => Ok(()),
        };
        if let Err(fault) = result {
            self.fail(fault, host);
        }
    }

    /// Whether [`transmit`](QueuePair::transmit) would send something.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.responder.is_ready() || (self.failed.is_none() && self.requester.is_ready(&self.params))
    }

    /// Sends what is to be sent: answers and acknowledgements first, then requests. At most [`BUDGET`] packets of either, and as
    /// many as the link takes: while it [is ready](QueuePair::is_ready) afterwards there is more.
    pub fn transmit(&mut self, now: Instant, sink: &mut impl Sink, host: &mut Host<'_>) {
        if let Err(fault) = self.responder.transmit(&self.params, host.memory, sink, BUDGET) {
            self.fail(fault, host);
        }
        if self.failed.is_none() {
            self.requester.transmit(&self.params, now, sink, BUDGET);
        }
    }

    /// When [`tick`](QueuePair::tick) is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.requester.deadline()
    }

    /// Looks at the timers. What is to be sent goes out with the next [`transmit`](QueuePair::transmit).
    pub fn tick(&mut self, now: Instant, host: &mut Host<'_>) {
        if let Err(fault) = self.requester.tick(&self.params, now) {
            self.fail(fault, host);
        }
    }

    /// What has happened to it.
    pub fn counters(&self) -> Counters {
        let (asking, asked) = (self.requester.counters, self.responder.counters);
        Counters { repeated: asked.repeated, early: asked.early, not_ready: asked.not_ready, ..asking }
    }

    /// Why nothing can be posted any more, if so. A last word to the peer may still be [ready](QueuePair::is_ready).
    pub fn failed(&self) -> Option<Fault> {
        self.failed
    }

    /// Ends all work that was posted, each with an event as the [device](crate::device) promises, and takes no more.
    pub fn fail(&mut self, fault: Fault, host: &mut Host<'_>) {
        if self.failed.is_none() {
            self.failed = Some(fault);
            self.requester.fail(&self.params, fault, host.events);
            self.responder.fail(host);
        }
    }
}
