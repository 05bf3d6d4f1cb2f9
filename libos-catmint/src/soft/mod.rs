//! RDMA in user space, for machines without hardware for it: RoCEv2, so that its peers may have some.
//!
//! ```text
//!   RdmaDevice: Soft ── table of queue pairs, receives, memory ── rc: one connection, as plain data
//!        │                                                    └── cm: connections being made, likewise
//!        └── Link: shm (rings between processes), udp (a network)      wire: packets
//! ```
//!
//! A posting goes out in the call that makes it, as far as the link takes it. What arrives is taken in by `poll`, which then sends what is
//! due because of that: acknowledgements, answers, what waited for room. So a small message is copied from
//! the heap into a slot of a ring, and from there into a posted receive, and nothing lies in between.
//!
//! Invariants: a queue pair gets no packet but those for its number that come by its path. The device's name for it ends with one
//! event, after those of all that was posted on it. Of what peers say nothing is kept but what is counted in the
//! configuration: queue pairs, connections being made, paths. A child of fork that drops the device says nothing to anybody.
//!
//! | module | what it is |
//! |---|---|
//! | `config` | what a device is made from |
//! | `table` | the queue pairs |
//! | `turn` | what a poll does |
//! | `connect` | connections that are made, refused and ended |
//! | [`rc`] | reliable connections, without I/O |
//! | [`cm`] | the connection manager, without I/O |
//! | [`wire`] | packets, and the connection manager's messages |
//! | [`link`] | what carries packets |

pub mod cm;
mod config;
mod connect;
pub mod link;
pub mod rc;
mod table;
#[cfg(test)]
mod tests;
mod turn;
pub mod wire;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use demi_api::error::Error;
use demi_api::memalloc::{Buf, BufMut};
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use demi_api::time::Instant;

pub use self::config::{LinkChoice, SoftSection};
use self::connect::Asked;
use self::link::Link;
use self::link::shm::sys::Owner;
use self::rc::Memory;
use self::table::Table;
use self::turn::Counters;
use self::wire::{MAD_LEN, Psn};
use crate::device::{
    Access, Atomic, Caps, DeviceCx, Event, Grant, ListenId, NoRoom, Qp, RdmaDevice, Region, Remote,
    RequestId, Then,
};

/// A device over a link.
#[derive(Debug)]
pub struct Soft<L: Link> {
    caps: Caps,
    settings: Settings,
    link: L,
    cm: cm::Manager,
    /// What it was told and what it has said, between two steps of a turn.
    mads: Vec<(L::Path, [u8; MAD_LEN])>,
    managed: Vec<cm::Event>,
    /// Number of its last packet.
    mad_psn: Psn,
    table: Table<L::Path>,
    /// The shared receive queue. The last given is taken first, as it is the likeliest to lie in a cache.
    receives: VecDeque<BufMut>,
    memory: Memory,
    /// By port.
    listeners: BTreeMap<u16, ListenId>,
    next_listener: u32,
    /// Where the search for a free port begins.
    next_port: u16,
    /// Requests that were told of.
    asked: HashMap<RequestId, Asked<L::Path>>,
    /// What calls other than `poll` have brought about.
    pending: Vec<Event>,
    /// Queue pairs that may have something to send.
    due: Vec<Qp>,
    /// Those of them whose turn it is; empty between turns.
    round: Vec<Qp>,
    /// Some of them could go on at once.
    more: bool,
    /// Queue pairs that have failed by themselves.
    failed: Vec<Qp>,
    /// No queue pair's timer ends before.
    earliest: Option<Instant>,
    /// As the libOS knows.
    is_up: bool,
    rng: fastrand::Rng,
    owner: Owner,
    counters: Counters,
}

/// What a device is made from, beside its link.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most queue pairs, 1 to 65536.
    pub pairs: usize,
    /// Most buffers in the shared receive queue.
    pub receives: usize,
    /// Most postings on a queue pair.
    pub depth: usize,
    /// Most bytes of a message that are copied when it is posted.
    pub inline: usize,
    /// Seeds packet numbers, keys and ports.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { pairs: 4096, receives: 32_768, depth: 128, inline: 256, seed: 0 }
    }
}

impl<L: Link> Soft<L> {
    /// A device that nobody has connected to.
    pub fn new(link: L, settings: Settings) -> Soft<L> {
        let mut rng = fastrand::Rng::with_seed(settings.seed);
        let cm = cm::Config {
            guid: rng.u64(..),
            reads: connect::READS as u8,
            mtu: link.mtu(),
            connections: 2 * settings.pairs.max(1024),
            ..cm::Config::default()
        };
        Soft {
            caps: Caps {
                inline: settings.inline,
                max_segs: MAX_SEGMENTS,
                max_len: rc::MAX_LEN,
                receives: settings.receives,
                reads: connect::READS,
                grant: 0,
            },
            cm: cm::Manager::new(cm, rng.u64(..)),
            mads: Vec::new(),
            managed: Vec::new(),
            mad_psn: Psn::new(rng.u32(..)),
            table: Table::new(settings.pairs),
            receives: VecDeque::new(),
            memory: Memory::new(rng.u64(..)),
            listeners: BTreeMap::new(),
            next_listener: 0,
            next_port: rng.u16(connect::EPHEMERAL),
            asked: HashMap::new(),
            pending: Vec::new(),
            due: Vec::new(),
            round: Vec::new(),
            more: false,
            failed: Vec::new(),
            earliest: None,
            is_up: link.is_up(),
            rng,
            owner: Owner::me(),
            counters: Counters::default(),
            settings,
            link,
        }
    }

    /// The link.
    pub fn link(&self) -> &L {
        &self.link
    }

    /// The same, to be changed.
    pub fn link_mut(&mut self) -> &mut L {
        &mut self.link
    }
}

impl<L: Link> RdmaDevice for Soft<L> {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn listen(&mut self, _cx: &DeviceCx<'_>, addr: SocketAddr) -> Result<(ListenId, SocketAddr), Error> {
        self.listen_at(addr)
    }

    fn unlisten(&mut self, cx: &DeviceCx<'_>, id: ListenId) {
        self.unlisten_at(cx.now, id);
    }

    fn connect(&mut self, cx: &DeviceCx<'_>, to: SocketAddr, hello: &[u8]) -> Result<Qp, Error> {
        self.call(cx.now, to, hello)
    }

    fn accept(&mut self, cx: &DeviceCx<'_>, request: RequestId, hello: &[u8]) -> Result<Qp, Error> {
        self.answer(cx.now, request, hello)
    }

    fn reject(&mut self, cx: &DeviceCx<'_>, request: RequestId, hello: &[u8]) {
        self.refuse(cx.now, request, hello);
    }

    fn disconnect(&mut self, cx: &DeviceCx<'_>, qp: Qp) {
        self.hang_up(cx.now, qp);
    }

    fn addrs(&self, qp: Qp) -> Option<(SocketAddr, SocketAddr)> {
        self.table.get(qp).map(|entry| (entry.local, entry.remote))
    }

    #[inline]
    fn receive(&mut self, _cx: &DeviceCx<'_>, into: BufMut) -> Result<(), BufMut> {
        if self.receives.len() >= self.caps.receives {
            return Err(into);
        }
        self.receives.push_front(into);
        Ok(())
    }

    #[inline]
    fn room(&self, qp: Qp) -> usize {
        self.table.room(qp)
    }

    #[inline]
    fn send(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        head: &[u8],
        data: SgArray,
        then: Then,
    ) -> Result<(), SgArray> {
        let Some(pair) = self.table.up(qp) else { return Err(data) };
        pair.send(head, data, then)?;
        self.posted(cx.now, qp);
        Ok(())
    }

    fn write(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        to: Remote,
        data: SgArray,
        then: Then,
    ) -> Result<(), SgArray> {
        let Some(pair) = self.table.up(qp) else { return Err(data) };
        pair.write(to, data, then)?;
        self.posted(cx.now, qp);
        Ok(())
    }

    fn write_word(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        to: Remote,
        word: u64,
        then: Then,
    ) -> Result<(), NoRoom> {
        self.table.up(qp).ok_or(NoRoom)?.write_word(to, word, then)?;
        self.posted(cx.now, qp);
        Ok(())
    }

    fn read(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        from: Remote,
        into: BufMut,
        cookie: u64,
    ) -> Result<(), BufMut> {
        let Some(pair) = self.table.up(qp) else { return Err(into) };
        pair.read(from, into, cookie)?;
        self.posted(cx.now, qp);
        Ok(())
    }

    fn atomic(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        at: Remote,
        op: Atomic,
        cookie: u64,
    ) -> Result<(), NoRoom> {
        self.table.up(qp).ok_or(NoRoom)?.atomic(at, op, cookie)?;
        self.posted(cx.now, qp);
        Ok(())
    }

    fn grant(&mut self, _cx: &DeviceCx<'_>, qp: Qp, data: Buf) -> Result<(Grant, Remote), Buf> {
        if self.table.up(qp).is_none() {
            return Err(data);
        }
        self.memory.grant(qp, data)
    }

    fn revoke(&mut self, _cx: &DeviceCx<'_>, grant: Grant, cookie: u64) {
        if let Some(data) = self.memory.revoke(grant) {
            self.pending.push(Event::Revoked { cookie, data });
        }
    }

    fn region(&mut self, len: usize, access: Access) -> Result<Region, Error> {
        self.memory.region(len, access).ok_or(Error::NoBuffers)
    }

    fn place(&self, region: Region) -> Option<Remote> {
        self.memory.place(region)
    }

    fn load(&self, region: Region, offset: usize) -> u64 {
        let mut word = [0; 8];
        self.copy_out(region, offset, &mut word);
        u64::from_ne_bytes(word)
    }

    fn copy_out(&self, region: Region, offset: usize, out: &mut [u8]) -> bool {
        let bytes = self.memory.bytes(region).and_then(|bytes| bytes.get(offset..));
        let Some(from) = bytes.and_then(|bytes| bytes.get(..out.len())) else { return false };
        out.copy_from_slice(from);
        true
    }

    fn copy_in(&mut self, region: Region, offset: usize, bytes: &[u8]) -> bool {
        let place = self.memory.bytes_mut(region).and_then(|all| all.get_mut(offset..));
        let Some(into) = place.and_then(|place| place.get_mut(..bytes.len())) else { return false };
        into.copy_from_slice(bytes);
        true
    }

    fn atomic_here(&mut self, region: Region, offset: usize, op: Atomic) -> Option<u64> {
        self.memory.atomic_here(region, offset, op)
    }

    fn unregion(&mut self, region: Region) {
        self.memory.unregion(region);
    }

    #[inline]
    fn flush(&mut self, _cx: &DeviceCx<'_>) {
        self.link.flush();
    }

    #[inline]
    fn poll(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Event>) -> usize {
        self.turn(cx.now, inbox)
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.link.next_deadline(), self.cm.deadline(), self.earliest].into_iter().flatten().min()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.link.wait_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        self.link.flush();
        let work = self.more || !self.pending.is_empty() || !self.failed.is_empty();
        !work && self.link.arm(cx.now)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.counters.visit(visit);
        self.link.counters(visit);
    }
}

impl<L: Link> Drop for Soft<L> {
    /// Tells the peers, as far as the link takes it. They notice without that, later.
    fn drop(&mut self) {
        if self.owner.is_me() {
            self.leave();
        }
    }
}
