//! One-sided queues: on regions of memory that this instance exports, and on those that others do.
//!
//! `open("rdma:///name?size=N", create)` makes a region outside the heap, zeroed, that peers may reach by its name until the
//! last of its queues here is closed. `open("rdma://ip:port/name")` opens the one that an instance exports which
//! listens there. On either, a push writes and a pop reads at one cursor, as of a file of bytes, and atomic operations change words.
//!
//! Invariants: each queue on another instance's region has a queue pair of its own, whose hello names the region. No message goes over it. So
//! whatever befalls it, a protection fault above all, befalls this one queue. What was asked of a queue takes effect, and
//! completes, in the order in which it was asked. An operation that is refused or recalled has not moved the cursor.
//! What peers reach of this instance is the bytes of its regions, as each one's access says, and nothing once it is closed.
//!
//! | file | what it holds |
//! |---|---|
//! | `path`, `hello` | what a region is called, how it is asked for |
//! | `export` | regions of this instance: their making, who uses them, their end |
//! | `local` | queues on them |
//! | `remote` | queues on others' regions: how they are found, and lost |
//! | `traffic` | what is asked of those, what is under way |

mod export;
mod hello;
mod local;
mod path;
mod remote;
#[cfg(test)]
mod tests;
mod traffic;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::libos::{Cx, OpenOptions, SeekTo};
use demi_api::op::{Op, Position, Step};
use demi_api::slab::{Key, Slab};
use demi_api::time::Instant;
use demi_api::token::QToken;

use self::export::{Export, Listening};
pub(crate) use self::hello::is_request;
use self::local::Local;
use self::path::RegionPath;
use self::remote::Remote;
use crate::device::{DeviceCx, Event, Qp, RdmaDevice};

/// Bytes that a pop takes which does not say how many: the size of a read that keeps a link busy.
const POP_BYTES: usize = 64 << 10;

/// What the configuration comes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Queues of peers on this instance's regions, at the most.
    pub(crate) users: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) linger: Duration,
    /// How often users are tried whether they are still there.
    pub(crate) watch: Duration,
}

/// All regions, and all queues on regions.
#[derive(Debug)]
pub(crate) struct Regions {
    limits: Limits,
    exports: Slab<Export>,
    by_name: BTreeMap<String, Key>,
    listening: Vec<Listening>,
    /// Queues of peers.
    users: usize,
    queues: Slab<Queue>,
    /// Whose each queue pair is.
    by_qp: Vec<Owner>,
    /// Queues with something to post, for which there was no room.
    starved: Vec<Key>,
    /// No later than anything is due.
    next: Option<Instant>,
    /// When users are tried next, if there are any.
    watch: Option<Instant>,
    /// Something was posted, and not handed over yet.
    posted: bool,
    counters: Counters,
}

#[derive(Debug)]
enum Queue {
    Local(Local),
    Remote(Box<Remote>),
}

/// Whose a queue pair is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Nobody,
    /// A queue of this instance.
    Queue(Key),
    /// A peer's queue on a region of this instance.
    User(Key),
    /// It was, and has not gone yet.
    Leaving,
}

macro_rules! counters {
    ($($name:ident)+) => {
        #[derive(Debug, Default)]
        struct Counters { $($name: u64,)+ }

        impl Counters {
            fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
                $(visit(stringify!($name), self.$name);)+
            }
        }
    };
}

counters! {
    regions_exported regions_revoked region_users region_users_refused regions_found regions_lost
    region_writes region_reads region_atomics region_bytes_written region_bytes_read
}

fn device_cx<'a>(cx: &Cx<'a>) -> DeviceCx<'a> {
    DeviceCx { heap: cx.heap, now: cx.now }
}

impl Regions {
    pub(crate) fn new(limits: Limits) -> Regions {
        Regions {
            limits,
            exports: Slab::new(),
            by_name: BTreeMap::new(),
            listening: Vec::new(),
            users: 0,
            queues: Slab::new(),
            by_qp: Vec::new(),
            starved: Vec::new(),
            next: None,
            watch: None,
            posted: false,
            counters: Counters::default(),
        }
    }

    /// A new queue. `listens` tells whether the application listens at an address already.
    pub(crate) fn open(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &mut Cx<'_>,
        path: &Path,
        options: &OpenOptions,
        listens: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<Key, Error> {
        let path = RegionPath::parse(path)?;
        if options.durable {
            return Err(Error::NotSupported("a durable region: memory does not outlive its instance"));
        }
        if options.exclusive && !options.create {
            return Err(Error::Invalid("exclusive means nothing without create"));
        }
        match path.at {
            Some(at) if !options.create => self.open_remote(device, cx, &path, at, options),
            _ => self.open_local(device, cx, &path, options, listens),
        }
    }

    /// Begins an operation.
    pub(crate) fn start(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &mut Cx<'_>,
        token: QToken,
        key: Key,
        op: &mut Op,
    ) -> Result<Step, Error> {
        match op {
            Op::Push { to: Some(_), .. } => {
                return Err(Error::Invalid("a region has no addresses to push to"));
            }
            Op::Pop { limit: 0 } => return Err(Error::Invalid("a pop of at most no bytes")),
            Op::Accept | Op::Connect(_) => return Err(Error::NotSupported("a socket operation on a region")),
            Op::Atomic { at, .. } if !at.0.is_multiple_of(8) => {
                return Err(Error::Invalid("a word is at a multiple of eight"));
            }
            Op::Push { .. } | Op::Pop { .. } | Op::Flush | Op::Atomic { .. } => {}
        }
        match self.queues.get_mut(key).ok_or(Error::BadDescriptor)? {
            Queue::Local(local) => {
                let export = self.exports.get(local.export).ok_or(Error::BadDescriptor)?;
                local.start(export, device, cx, op, &mut self.counters).map(Step::Done)
            }
            Queue::Remote(_) => self.start_remote(device, cx, token, key, op),
        }
    }

    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, key: Key) -> Result<(), Error> {
        match self.queues.get_mut(key).ok_or(Error::BadDescriptor)? {
            Queue::Local(_) => Err(Error::NotCancellable),
            Queue::Remote(remote) => {
                remote.recall(token)?;
                cx.done.post(token, Err(Error::Cancelled));
                Ok(())
            }
        }
    }

    pub(crate) fn seek(&mut self, key: Key, to: SeekTo) -> Result<Position, Error> {
        if matches!(to, SeekTo::Position(Position(at)) if at > i64::MAX as u64) {
            return Err(Error::Invalid("a position that no region can have"));
        }
        match self.queues.get_mut(key).ok_or(Error::BadDescriptor)? {
            Queue::Local(local) => {
                let export = self.exports.get(local.export).ok_or(Error::BadDescriptor)?;
                local.cursor = match to {
                    SeekTo::Position(Position(at)) => at,
                    SeekTo::Head => 0,
                    SeekTo::End => export.len as u64,
                };
                Ok(Position(local.cursor))
            }
            Queue::Remote(remote) => remote.seek(to),
        }
    }

    /// Where the region of a queue is listened for, if it was opened with an address.
    pub(crate) fn local_addr(&self, key: Key) -> Result<SocketAddr, Error> {
        match self.queues.get(key).ok_or(Error::BadDescriptor)? {
            Queue::Local(local) => {
                let export = self.exports.get(local.export).ok_or(Error::BadDescriptor)?;
                export
                    .at
                    .ok_or(Error::NotSupported("local_addr of a region that was opened without an address"))
            }
            Queue::Remote(_) => Err(Error::NotSupported("local_addr of a region of another instance")),
        }
    }

    /// Where the region of a queue was opened, if that is at another instance.
    pub(crate) fn peer_addr(&self, key: Key) -> Result<SocketAddr, Error> {
        match self.queues.get(key).ok_or(Error::BadDescriptor)? {
            Queue::Local(_) => Err(Error::NotConnected),
            Queue::Remote(remote) => Ok(remote.at),
        }
    }

    /// The descriptor is gone. Pops are cancelled; what else is under way is finished within the linger time.
    pub(crate) fn close(&mut self, device: &mut dyn RdmaDevice, cx: &mut Cx<'_>, key: Key) {
        match self.queues.get_mut(key) {
            Some(Queue::Local(local)) => {
                let export = local.export;
                self.queues.remove(key);
                self.release(device, cx, export);
            }
            Some(Queue::Remote(_)) => self.close_remote(device, cx, key),
            None => {}
        }
    }

    /// Something has happened on a queue pair that is nobody else's.
    pub(crate) fn event(&mut self, device: &mut dyn RdmaDevice, cx: &mut Cx<'_>, event: Event) {
        match event {
            Event::Sent { qp, cookie, result } => self.ended(device, cx, qp, cookie, result.map(|()| None)),
            Event::Read { qp, cookie, into, result } => {
                self.ended(device, cx, qp, Some(cookie), result.map(|()| Some(traffic::Yield::Bytes(into))));
            }
            Event::Fetched { qp, cookie, result } => {
                let result = result.map(|word| Some(traffic::Yield::Word(word)));
                self.ended(device, cx, qp, Some(cookie), result);
            }
            Event::Established { qp, hello } => self.established(device, cx, qp, &hello),
            Event::Refused { qp, hello } => self.refused(cx, qp, &hello),
            Event::Gone { qp, why } => self.gone(cx, qp, why),
            Event::Received { .. }
            | Event::Revoked { .. }
            | Event::Request { .. }
            | Event::Down(_)
            | Event::Up => {}
        }
    }

    /// What waited for room, and what is due.
    #[inline]
    pub(crate) fn poll(&mut self, device: &mut dyn RdmaDevice, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        if !self.starved.is_empty() {
            for key in std::mem::take(&mut self.starved) {
                done += self.advance(device, cx, key);
            }
        }
        if self.next_deadline().is_some_and(|next| next <= cx.now) {
            done += self.look(device, cx);
        }
        done
    }

    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match (self.next, self.watch) {
            (Some(next), Some(watch)) => Some(next.min(watch)),
            (next, watch) => next.or(watch),
        }
    }

    /// Whether something was posted since this was asked before: it is to be flushed.
    #[inline]
    pub(crate) fn take_posted(&mut self) -> bool {
        std::mem::take(&mut self.posted)
    }

    /// Looks at everything that may be due.
    fn look(&mut self, device: &mut dyn RdmaDevice, cx: &mut Cx<'_>) -> usize {
        if self.watch.is_some_and(|at| at <= cx.now) {
            self.try_users(device, cx);
        }
        let deadlines = self.queues.entries_mut().filter_map(|(key, queue)| match queue {
            Queue::Remote(remote) => Some((key, remote.deadline?)),
            Queue::Local(_) => None,
        });
        let (due, later): (Vec<_>, Vec<_>) = deadlines.partition(|(_, at)| *at <= cx.now);
        self.next = later.into_iter().map(|(_, at)| at).min();
        due.iter().for_each(|(key, _)| self.give_up(device, cx, *key));
        due.len()
    }

    fn due_by(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    fn owner(&self, qp: Qp) -> Owner {
        self.by_qp.get(qp.0 as usize).copied().unwrap_or(Owner::Nobody)
    }

    fn own(&mut self, qp: Qp, owner: Owner) {
        let index = qp.0 as usize;
        if self.by_qp.len() <= index {
            self.by_qp.resize(index + 1, Owner::Nobody);
        }
        self.by_qp[index] = owner;
    }

    pub(crate) fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.counters.visit(visit);
    }
}
