//! A real RDMA device, by libibverbs and librdmacm: RoCE, InfiniBand, or the kernel's soft-RoCE.
//!
//! What is posted is written into a queue pair's chain of work requests and handed over by one call per turn, for sends as
//! for receives; one poll of the one completion queue serves all queue pairs. Small messages are copied as they are
//! posted, and ask for no completion of their own.
//!
//! Invariants: memory that a posting names is kept until its completion, or until its queue pair is destroyed, whichever
//! comes first; a queue pair is destroyed after everything outstanding on it has come back, or a bounded time later.
//! Whatever a completion or an event says is checked against what is under way. Nothing waits but opening and closing, and an
//! operation of [`RdmaDevice::atomic_here`].
//!
//! ## What to know
//!
//! - **The heap is registered for local access.** What a peer may read of it is opened by a memory window of type 2, which
//!   is that peer's queue pair's alone, and closed again before the memory is given back. Whether the device keeps peers inside
//!   of windows is tried out first ([`Windows`]).
//! - **A child of a fork** must not use the device. What it shares of registered memory the kernel copies for it (since Linux
//!   5.12; before, `ibv_fork_init` keeps it from the child).
//! - **The verbs libraries call the C library** to reach the kernel, so this does not suit a preload shim that replaces
//!   its calls.
//!
//! | module | what it is |
//! |---|---|
//! | `config` | [`VerbsConfig`] |
//! | `domain` | device, registrations, windows, completion queue |
//! | `pairs`, `cm` | queue pairs by name; connecting and ending |
//! | `queue` | the send queue of one of them |
//! | `receives` | the shared receive queue |
//! | `complete` | completions |
//! | `grants`, `memory` | what peers may reach: parts of the heap, regions |
//! | `own` | atomic operations on regions of this side |

mod cm;
mod complete;
mod completions;
mod config;
mod counters;
mod domain;
mod grants;
mod memory;
mod own;
mod pairs;
mod queue;
mod receives;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrayvec::ArrayVec;
use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::memalloc::{Buf, BufMut, Heap};
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use demi_api::time::Instant;
use rustix::event::{PollFd, PollFlags, epoll, poll};

pub use self::config::{VerbsConfig, Windows};

use self::cm::raw::{Channel, Id, Shape};
use self::cm::{Unanswered, error};
use self::completions::raw::{CompletionQueue, Done};
use self::counters::Counters;
use self::domain::Attached;
use self::domain::raw::{Domain, Limits};
use self::grants::{By, Grants};
use self::memory::Shared;
use self::own::Own;
use self::pairs::{Pairs, State};
use self::queue::raw::{SEGMENTS, Segment, Work};
use self::queue::{Held, STRIDE, SendQueue, held};
use self::receives::Receives;
use crate::device::{
    Access, Atomic, BURST, Caps, DeviceCx, Event, Fault, Grant, HEAD_MAX, ListenId, NoRoom, Qp, RdmaDevice,
    Region, Remote, RequestId, Then,
};

/// How often the connection manager is asked while nothing sleeps: that takes a system call.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// Completions that are kept for each poll.
const POLL: usize = BURST;
/// How long a drop waits for what is outstanding.
const DROPPING: Duration = Duration::from_millis(500);

/// An RDMA device.
pub struct Verbs {
    // In the order in which they must go: queue pairs, what was lent to them, queues, memory.
    pairs: Pairs,
    unanswered: HashMap<u32, Unanswered>,
    listeners: HashMap<u32, Id>,
    own: Option<Own>,
    grants: Grants,
    receives: Receives,
    regions: HashMap<u32, (Shared, Access)>,
    completions: Rc<CompletionQueue>,
    channel: Rc<Channel>,
    heap: Attached,
    domain: Rc<Domain>,
    epoll: Fd,

    config: VerbsConfig,
    limits: Limits,
    caps: Caps,
    shape: Shape,
    addresses: Vec<IpAddr>,
    next_listener: u32,
    next_request: u32,
    next_region: u32,
    /// What has happened outside of a poll.
    ready: Vec<Event>,
    /// Completions that were found when notification was asked for, and room for those of a poll.
    found: Vec<Done>,
    /// Queue pairs with something to hand over.
    line: Vec<Qp>,
    is_down: bool,
    is_armed: bool,
    look_at: Instant,
    /// When the next queue pair is given up, at the earliest.
    deadline: Option<Instant>,
    counters: Counters,
}

impl Verbs {
    /// Opens the device, and registers the whole of `heap` with it.
    ///
    /// # Errors
    /// [`Error::Config`], with what to do.
    pub fn open(heap: &Heap, config: &VerbsConfig) -> Result<Verbs, Error> {
        config.check()?;
        let domain = Domain::open(&config.device).map_err(|errno| {
            config.failed(format_args!(
                "there is no such device with an active port ({errno}); `ibv_devinfo` lists them, `rdma link add NAME type \
                 rxe netdev INTERFACE` makes one"
            ))
        })?;
        let failed = |what: &'static str| move |errno| config.failed(format_args!("{what}: {errno}"));
        let limits = domain.limits().map_err(failed("it does not say what it can do"))?;
        let windows = if limits.windows { config.windows } else { Windows::Off };
        let windows = match windows {
            Windows::Auto => {
                own::try_windows(&domain).map_err(failed("its memory windows cannot be tried out"))?
            }
            chosen => chosen,
        };
        let heap = Attached::new(heap, &domain, windows == Windows::Auto).map_err(|error| {
            config.failed(format_args!("{error}; raise `ulimit -l` above the size of the heap"))
        })?;
        let receives = config.receives.min(limits.receives).min(limits.completions / 2);
        let depth = config.send_depth.min(1 << limits.send_depth.max(1).ilog2());
        let queue_pairs =
            config.queue_pairs.min(limits.queue_pairs).min((limits.completions - receives) / depth);
        let completions = CompletionQueue::new(&domain, receives + queue_pairs * depth)
            .map_err(failed("a completion queue for so many queue pairs and receives is refused"))?;
        let receives = Receives::new(&domain, receives, heap.registration().local())
            .map_err(failed("a shared receive queue is refused"))?;
        let segments = SEGMENTS as u32;
        let shape = [STRIDE as u32, 128, 64, 0]
            .into_iter()
            .map(|inline| Shape { depth, segments, inline })
            .find(|shape| domain.can_make(&completions, &receives.queue, *shape))
            .ok_or_else(|| config.failed("it makes no queue pair of nine segments; lower `send_depth`"))?;
        let channel = Channel::new().map_err(failed("there is no connection manager (modprobe rdma_ucm)"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("no epoll"))?;
        for fd in [completions.fd(), channel.fd(), domain.watch_fd()] {
            let data = epoll::EventData::new_u64(0);
            epoll::add(&epoll, fd, data, epoll::EventFlags::IN).map_err(failed("no epoll"))?;
        }
        let caps = Caps {
            inline: shape.inline as usize,
            max_segs: MAX_SEGMENTS,
            max_len: limits.message,
            receives: receives.depth(),
            reads: limits.reads.into(),
            // To begin and to end it.
            grant: 2,
        };
        let addresses = domain.addresses();
        let is_down = !domain.is_active();
        tracing::info!(device = domain.name(), ?limits, ?caps, ?windows, "an RDMA device is open");
        Ok(Verbs {
            pairs: Pairs::new(queue_pairs),
            unanswered: HashMap::new(),
            listeners: HashMap::new(),
            own: None,
            grants: Grants::new(&domain, windows),
            receives,
            regions: HashMap::new(),
            completions,
            channel,
            heap,
            domain,
            epoll: epoll.into(),
            config: config.clone(),
            limits,
            caps,
            shape,
            addresses,
            next_listener: 0,
            next_request: 0,
            next_region: 0,
            ready: is_down.then_some(Event::Down(Fault::Down)).into_iter().collect(),
            found: Vec::with_capacity(2 * POLL),
            line: Vec::new(),
            is_down,
            is_armed: false,
            look_at: Instant::default(),
            deadline: None,
            counters: Counters::default(),
        })
    }

    /// The IP addresses that the device has.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    fn note_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = [self.deadline, deadline].into_iter().flatten().min();
    }

    /// The send queue of a connected queue pair with room, put in line for the next flush.
    #[inline]
    fn sender(&mut self, qp: Qp) -> Option<(&mut SendQueue, &mut Counters)> {
        let pair = self.pairs.get_mut(qp).filter(|_| !self.is_down)?;
        if !matches!(pair.state, State::Connected) {
            return None;
        }
        let send = pair.send.as_mut().filter(|send| send.room() > 0)?;
        if !pair.in_line {
            pair.in_line = true;
            self.line.push(qp);
        }
        Some((send, &mut self.counters))
    }

    /// What the connection manager says, if anything, without a wait.
    fn has_control_events(&self) -> bool {
        let (channel, watch) = (self.channel.fd(), self.domain.watch_fd());
        let mut fds = [PollFd::new(&channel, PollFlags::IN), PollFd::new(&watch, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
    }

    fn take_completions(&mut self) -> usize {
        self.counters.polls += 1;
        let count = self.completions.poll::<POLL>(&mut self.found);
        self.counters.empty_polls += u64::from(count == 0);
        self.counters.completions += count as u64;
        count
    }
}

/// Where the segments of an array lie, those without bytes left out.
fn segments_of(data: &SgArray, key: u32) -> impl Iterator<Item = Segment> {
    let full = data.segments().iter().filter(|segment| !segment.is_empty());
    full.map(move |segment| Segment {
        addr: segment.as_ptr().expose_provenance() as u64,
        len: segment.len() as u32,
        key,
    })
}

impl RdmaDevice for Verbs {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn listen(&mut self, _cx: &DeviceCx<'_>, addr: SocketAddr) -> Result<(ListenId, SocketAddr), Error> {
        self.do_listen(addr)
    }

    fn unlisten(&mut self, _cx: &DeviceCx<'_>, id: ListenId) {
        self.do_unlisten(id);
    }

    fn connect(&mut self, cx: &DeviceCx<'_>, to: SocketAddr, hello: &[u8]) -> Result<Qp, Error> {
        self.do_connect(cx.now, to, hello)
    }

    fn accept(&mut self, cx: &DeviceCx<'_>, request: RequestId, hello: &[u8]) -> Result<Qp, Error> {
        self.do_accept(cx.now, request, hello)
    }

    fn reject(&mut self, _cx: &DeviceCx<'_>, request: RequestId, hello: &[u8]) {
        self.do_reject(request, hello);
    }

    fn disconnect(&mut self, cx: &DeviceCx<'_>, qp: Qp) {
        let mut out = std::mem::take(&mut self.ready);
        self.fail(cx.now, qp, Fault::Disconnected, &mut out);
        self.ready = out;
    }

    fn addrs(&self, qp: Qp) -> Option<(SocketAddr, SocketAddr)> {
        // Who was called knows them before both may send.
        let pair = self.pairs.get(qp)?;
        pair.addrs.or_else(|| pair.id.addrs())
    }

    #[inline]
    fn receive(&mut self, _cx: &DeviceCx<'_>, into: BufMut) -> Result<(), BufMut> {
        self.receives.give(into)
    }

    #[inline]
    fn room(&self, qp: Qp) -> usize {
        let pair = self.pairs.get(qp).filter(|pair| matches!(pair.state, State::Connected) && !self.is_down);
        pair.and_then(|pair| pair.send.as_ref()).map_or(0, SendQueue::room)
    }

    #[inline]
    fn send(
        &mut self,
        _cx: &DeviceCx<'_>,
        qp: Qp,
        head: &[u8],
        data: SgArray,
        then: Then,
    ) -> Result<(), SgArray> {
        let (inline, max_len) = (self.caps.inline, self.caps.max_len);
        let key = self.heap.registration().local();
        let len = head.len() + data.len();
        if head.len() > HEAD_MAX || len > max_len {
            return Err(data);
        }
        let Some((send, counters)) = self.sender(qp) else { return Err(data) };
        if len <= inline {
            let parts = data.segments().iter().map(|segment| &segment[..]);
            let staged = send.stage(std::iter::once(head).chain(parts));
            let Some(staged) = staged else { return Err(data) };
            let staged = Some(staged).filter(|staged| staged.len > 0);
            send.write(Work::Send, staged.into_iter(), true, held(SgArray::new(), then), counters);
            return Ok(());
        }
        let Some(staged) = send.stage(std::iter::once(head)) else { return Err(data) };
        let staged = Some(staged).filter(|staged| staged.len > 0);
        let segments: ArrayVec<Segment, SEGMENTS> =
            staged.into_iter().chain(segments_of(&data, key)).collect();
        send.write(Work::Send, segments.into_iter(), false, held(data, then), counters);
        Ok(())
    }

    fn write(
        &mut self,
        _cx: &DeviceCx<'_>,
        qp: Qp,
        to: Remote,
        data: SgArray,
        then: Then,
    ) -> Result<(), SgArray> {
        let max_len = self.caps.max_len;
        let key = self.heap.registration().local();
        if data.len() > max_len {
            return Err(data);
        }
        let Some((send, counters)) = self.sender(qp) else { return Err(data) };
        let segments: ArrayVec<Segment, SEGMENTS> = segments_of(&data, key).collect();
        send.write(Work::Write(to), segments.into_iter(), false, held(data, then), counters);
        Ok(())
    }

    #[inline]
    fn write_word(
        &mut self,
        _cx: &DeviceCx<'_>,
        qp: Qp,
        to: Remote,
        word: u64,
        then: Then,
    ) -> Result<(), NoRoom> {
        let inline = self.caps.inline >= 8;
        let (send, counters) = self.sender(qp).ok_or(NoRoom)?;
        let staged = send.stage(std::iter::once(&word.to_ne_bytes()[..])).ok_or(NoRoom)?;
        send.write(Work::Write(to), [staged].into_iter(), inline, held(SgArray::new(), then), counters);
        Ok(())
    }

    fn read(
        &mut self,
        _cx: &DeviceCx<'_>,
        qp: Qp,
        from: Remote,
        mut into: BufMut,
        cookie: u64,
    ) -> Result<(), BufMut> {
        let max_len = self.caps.max_len;
        let key = self.heap.registration().local();
        if into.len() > max_len {
            return Err(into);
        }
        let Some((send, counters)) = self.sender(qp) else { return Err(into) };
        let addr = into.as_mut_ptr().expose_provenance() as u64;
        let segment = Some(Segment { addr, len: into.len() as u32, key }).filter(|segment| segment.len > 0);
        send.write(Work::Read(from), segment.into_iter(), false, Held::Read { into, cookie }, counters);
        Ok(())
    }

    fn atomic(
        &mut self,
        _cx: &DeviceCx<'_>,
        qp: Qp,
        at: Remote,
        op: Atomic,
        cookie: u64,
    ) -> Result<(), NoRoom> {
        if !self.limits.atomics.0 {
            return Err(NoRoom);
        }
        let (send, counters) = self.sender(qp).ok_or(NoRoom)?;
        let work = match op {
            Atomic::CompareSwap { expected, new } => Work::CompareSwap { at, expected, new },
            Atomic::FetchAdd(add) => Work::FetchAdd { at, add },
        };
        let result = send.word();
        send.write(work, [result].into_iter(), false, Held::Fetch { cookie }, counters);
        Ok(())
    }

    fn grant(&mut self, _cx: &DeviceCx<'_>, qp: Qp, data: Buf) -> Result<(Grant, Remote), Buf> {
        // Its end needs a place as well.
        if data.is_empty() || self.room(qp) < 2 {
            return Err(data);
        }
        let by = match self.grants.make(&data, self.heap.registration()) {
            Ok(by) => by,
            Err(errno) => {
                tracing::warn!(%errno, "a device opens no more memory to peers");
                return Err(data);
            }
        };
        let (addr, len) = (data.as_ptr().expose_provenance() as u64, data.len() as u64);
        let (key, work) = match &by {
            By::Registration(made) => (made.remote(), None),
            By::Window { window, key, bound_to } => {
                let (window, registration) = (Rc::clone(window), Rc::clone(bound_to));
                (*key, Some(Work::Bind { window, key: *key, registration, addr, len }))
            }
        };
        let name = self.grants.insert(data, by, qp.0)?;
        if let Some(work) = work {
            let Some((send, counters)) = self.sender(qp) else { unreachable!("there was room") };
            send.write(work, std::iter::empty(), false, Held::Nothing, counters);
            send.reserve();
        }
        Ok((Grant(name), Remote { addr, key }))
    }

    fn revoke(&mut self, _cx: &DeviceCx<'_>, grant: Grant, cookie: u64) {
        let Some(given) = self.grants.get(grant.0).filter(|given| given.ending.is_none()) else { return };
        given.ending = Some(cookie);
        let to = Qp(given.to);
        if let Some(By::Window { key, .. }) = &given.by {
            let key = *key;
            // One that is closing takes the window with it.
            let Some(pair) = self.pairs.get_mut(to) else { return };
            let (State::Connected, Some(send)) = (&pair.state, &mut pair.send) else { return };
            send.unreserve();
            let held = Held::Revoke { grant: grant.0 };
            send.write(Work::Invalidate { key }, std::iter::empty(), false, held, &mut self.counters);
            if !pair.in_line {
                pair.in_line = true;
                self.line.push(to);
            }
            return;
        }
        let Some(given) = self.grants.remove(grant.0) else { return };
        // Nobody reaches it any more, then it is given back.
        drop(given.by);
        self.ready.push(Event::Revoked { cookie, data: given.data });
    }

    fn region(&mut self, len: usize, access: Access) -> Result<Region, Error> {
        if access.atomic && !self.limits.atomics.0 {
            return Err(Error::NotSupported("this RDMA device has no atomic operations"));
        }
        let shared = Shared::new(&self.domain, len, access).map_err(error)?;
        let name = self.next_region;
        self.next_region = name.wrapping_add(1);
        self.regions.insert(name, (shared, access));
        Ok(Region(name))
    }

    fn place(&self, region: Region) -> Option<Remote> {
        self.regions.get(&region.0).map(|(shared, _)| shared.remote(0))
    }

    #[inline]
    fn load(&self, region: Region, offset: usize) -> u64 {
        let word = self.regions.get(&region.0).and_then(|(shared, _)| shared.mapping.word(offset));
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn copy_out(&self, region: Region, offset: usize, out: &mut [u8]) -> bool {
        self.regions.get(&region.0).is_some_and(|(shared, _)| shared.mapping.copy_out(offset, out))
    }

    fn copy_in(&mut self, region: Region, offset: usize, bytes: &[u8]) -> bool {
        self.regions.get(&region.0).is_some_and(|(shared, _)| shared.mapping.copy_in(offset, bytes))
    }

    fn atomic_here(&mut self, region: Region, offset: usize, op: Atomic) -> Option<u64> {
        let (shared, access) = self.regions.get(&region.0)?;
        shared.mapping.word(offset)?;
        if self.limits.atomics.1 || !access.atomic {
            return shared.atomic(offset, op);
        }
        let at = shared.remote(offset);
        if self.own.is_none() {
            self.own = Own::new(&self.domain)
                .inspect_err(|errno| tracing::warn!(%errno, "a device cannot be connected to itself"))
                .ok();
        }
        let result = self.own.as_mut()?.atomic(at, op);
        if result.is_err() {
            self.own = None;
        }
        result.ok()
    }

    fn unregion(&mut self, region: Region) {
        self.regions.remove(&region.0);
    }

    #[inline]
    fn flush(&mut self, cx: &DeviceCx<'_>) {
        if self.receives.has_news() {
            self.receives.flush(&mut self.counters);
        }
        while let Some(name) = self.line.pop() {
            let Some(pair) = self.pairs.get_mut(name) else { continue };
            pair.in_line = false;
            let (Some(send), Some(qp)) = (&mut pair.send, pair.id.queue_pair()) else { continue };
            if !send.has_news() || !matches!(pair.state, State::Connected) {
                continue;
            }
            if let Err(errno) = send.post(qp, &mut self.counters) {
                tracing::warn!(%errno, "a device has refused a posting");
                let mut out = std::mem::take(&mut self.ready);
                self.fail(cx.now, name, Fault::Local, &mut out);
                self.ready = out;
            }
        }
    }

    #[inline]
    fn poll(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Event>) -> usize {
        let before = inbox.len();
        inbox.append(&mut self.ready);
        if self.found.is_empty() {
            self.take_completions();
        }
        let mut found = std::mem::take(&mut self.found);
        for done in found.drain(..) {
            self.complete(cx.now, done, inbox);
        }
        self.found = found;
        let woken = std::mem::take(&mut self.is_armed);
        if woken {
            self.completions.take_notices();
        }
        if woken || cx.now >= self.look_at {
            self.look_at = cx.now + LOOK_EVERY;
            if self.has_control_events() {
                self.look(cx.now, inbox);
            }
        }
        if self.deadline.is_some_and(|deadline| deadline <= cx.now) {
            self.give_up(cx.now, inbox);
        }
        // Buffers that came back unused.
        if self.receives.has_news() {
            self.receives.flush(&mut self.counters);
        }
        inbox.len() - before
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        self.flush(cx);
        self.completions.take_notices();
        self.counters.notifications += 1;
        if let Err(errno) = self.completions.notify() {
            tracing::warn!(%errno, "a device gives no notice of completions");
            return false;
        }
        self.is_armed = true;
        if self.found.is_empty() {
            self.take_completions();
        }
        self.found.is_empty() && self.ready.is_empty()
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.counters.visit(visit);
    }
}

impl Drop for Verbs {
    fn drop(&mut self) {
        let begin = std::time::Instant::now();
        let mut events = Vec::new();
        for name in self.pairs.names().collect::<Vec<_>>() {
            self.fail(Instant::default(), name, Fault::Disconnected, &mut events);
        }
        while self.pairs.names().next().is_some() && begin.elapsed() < DROPPING {
            self.take_completions();
            let mut found = std::mem::take(&mut self.found);
            for done in found.drain(..) {
                self.complete(Instant::default(), done, &mut events);
            }
            self.found = found;
            events.clear();
        }
        // What has not come back goes with its queue pair, which is destroyed first.
        for name in self.pairs.names().collect::<Vec<_>>() {
            self.finish(name, &mut events);
        }
    }
}

impl std::fmt::Debug for Verbs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verbs")
            .field("device", &self.domain.name())
            .field("caps", &self.caps)
            .field("queue_pairs", &self.pairs.names().count())
            .field("heap", &self.heap.heap().region().len)
            .finish_non_exhaustive()
    }
}
