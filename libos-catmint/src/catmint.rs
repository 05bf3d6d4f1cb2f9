//! The libOS as the API sees it: descriptors above, a device below, and one turn that carries messages between them.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::desc::{QDesc, QueueTable};
use demi_api::error::Error;
use demi_api::libos::{Cx, LibOs, OpenOptions, OptionName, QueueKind, SeekTo, Setup, Shutdown, SocketOption};
use demi_api::op::{Done, Op, Position, Step};
use demi_api::slab::{Key, Slab};
use demi_api::time::Instant;
use demi_api::token::QToken;

use crate::config::{CatmintSection, Policy};
use crate::counters::Counters;
use crate::deadlines::{Deadlines, Of};
use crate::device::{BURST, DeviceCx, Event, RdmaDevice};
use crate::peers::{Control, Peers, Receives};
use crate::regions::{Regions, is_request};
use crate::sockets::{Flight, Ports, Socket};

/// How long to sleep at the most while something waits that nothing tells of: credits that peers write, memory that the
/// application lets go of. It doubles from the one to the other while nothing comes.
const IMPATIENT: Duration = Duration::from_micros(50);
const PATIENT: Duration = Duration::from_millis(2);

/// Credit words of windows that are looked at in a turn.
const WORDS_PER_TURN: usize = 64;

/// The RDMA libOS. See the [crate's documentation](crate).
pub struct Catmint {
    // First, so that it is dropped before anything that it works on.
    pub(crate) device: Box<dyn RdmaDevice>,
    pub(crate) id: u128,
    pub(crate) queues: QueueTable<Key>,
    pub(crate) sockets: Slab<Socket>,
    pub(crate) ports: Ports,
    pub(crate) peers: Peers,
    pub(crate) receives: Receives,
    pub(crate) regions: Regions,
    pub(crate) flights: Slab<Flight>,
    pub(crate) deadlines: Deadlines,
    pub(crate) counters: Counters,
    pub(crate) policy: Policy,
    /// Connections of all peers, and what each is granted.
    pub(crate) connections: usize,
    pub(crate) window: u32,
    /// Connections that wait for their window.
    pub(crate) stalled: VecDeque<Key>,
    /// Connections that wait for memory to read into, or for a peer to be let into theirs.
    pub(crate) hungry: Vec<Key>,
    /// When to look again at what nothing tells of.
    retry: Option<Instant>,
    patience: Duration,
    /// Something was posted since the device was flushed; and the round in which it was flushed by a push.
    pub(crate) unflushed: bool,
    round: u32,
    /// The device's port is down.
    pub(crate) down: bool,
    /// What the device copies, and how many reads it has under way.
    pub(crate) inline: usize,
    pub(crate) reads: usize,
    inbox: Vec<Event>,
}

impl Catmint {
    /// Over a device that the caller has made: for tests and simulations, and for devices that are not in the configuration.
    pub fn over(
        setup: &Setup<'_>,
        section: &CatmintSection,
        device: Box<dyn RdmaDevice>,
        rng: &mut fastrand::Rng,
    ) -> Result<Catmint, Error> {
        let linger = Duration::from_millis(setup.config.queues.linger_ms);
        let policy = section.policy(setup.heap, linger);
        let caps = device.caps();
        let (inline, reads) = (caps.inline, caps.reads.max(1));
        Ok(Catmint {
            id: rng.u128(1..),
            queues: QueueTable::new(setup.tag, setup.config.queues.max),
            sockets: Slab::new(),
            ports: Ports::default(),
            peers: Peers::default(),
            receives: Receives::new(policy.receive_bytes),
            regions: Regions::new(policy.regions()),
            flights: Slab::new(),
            deadlines: Deadlines::default(),
            counters: Counters::default(),
            connections: 0,
            window: policy.window(1),
            policy,
            stalled: VecDeque::new(),
            hungry: Vec::new(),
            retry: None,
            patience: IMPATIENT,
            unflushed: false,
            round: 0,
            down: false,
            inline,
            reads,
            inbox: Vec::with_capacity(BURST),
            device,
        })
    }

    fn key(&self, qd: QDesc) -> Result<Key, Error> {
        self.queues.get(qd).copied()
    }

    /// The same of what is no region.
    fn socket_key(&self, qd: QDesc) -> Result<Key, Error> {
        let key = self.key(qd)?;
        match self.region_key(key) {
            None => Ok(key),
            Some(_) => Err(Error::NotSupported("a socket operation on a region")),
        }
    }

    /// The queue on a region that a key stands for.
    fn region_key(&self, key: Key) -> Option<Key> {
        match self.sockets.get(key) {
            Some(Socket::Region(region)) => Some(*region),
            _ => None,
        }
    }

    /// What a connection is granted.
    #[inline]
    pub(crate) fn window(&self) -> u32 {
        self.window
    }

    /// So many connections come, or go; what each is granted follows.
    pub(crate) fn count(&mut self, change: isize) {
        self.connections = self.connections.saturating_add_signed(change);
        self.window = self.policy.window(self.connections);
    }

    /// Something waits that nothing will tell of.
    pub(crate) fn hurry(&mut self, cx: &Cx<'_>) {
        self.patience = IMPATIENT;
        self.retry = Some(cx.now + IMPATIENT);
    }

    /// A connection waits for memory to read into, or for a peer to be let into its own.
    pub(crate) fn starve_connection(&mut self, cx: &Cx<'_>, key: Key) {
        self.hungry.push(key);
        // Who waits already does so with more and more patience.
        if self.retry.is_none() {
            self.hurry(cx);
        }
    }

    /// Hands over what was posted, if it is the first of its round: others may follow, and go together.
    #[inline]
    pub(crate) fn flush_first(&mut self, cx: &Cx<'_>) {
        let round = cx.done.round();
        if self.round == round {
            self.unflushed = true;
            return;
        }
        self.round = round;
        self.flush(cx);
    }

    #[inline]
    fn flush(&mut self, cx: &Cx<'_>) {
        self.unflushed = false;
        self.device.flush(&DeviceCx { heap: cx.heap, now: cx.now });
    }

    /// After a call that may have said something: it goes now.
    fn see_off(&mut self, cx: &mut Cx<'_>) {
        if !self.peers.busy.is_empty() {
            self.pump_all(cx);
        }
        if self.unflushed {
            self.flush(cx);
        }
    }

    fn dispatch(&mut self, cx: &mut Cx<'_>, event: Event) {
        match event {
            // Cookies of regions' queue pairs are names of their own.
            Event::Sent { qp, .. }
            | Event::Read { qp, .. }
            | Event::Fetched { qp, .. }
            | Event::Established { qp, .. }
            | Event::Refused { qp, .. }
            | Event::Gone { qp, .. }
                if self.peers.of_qp(qp).is_none() =>
            {
                self.regions.event(&mut *self.device, cx, event);
            }
            Event::Request { id, hello, .. } if is_request(&hello) => {
                self.regions.asked(&mut *self.device, cx, id, &hello);
            }
            Event::Received { qp, message } => self.received(cx, qp, message),
            Event::Sent { cookie, result, .. } => {
                let flight = cookie.and_then(|cookie| self.flights.remove(Key::from_u64(cookie)));
                if let Some(Flight::Push(connection, number)) = flight {
                    self.push_sent(cx, connection, number, result.is_ok());
                }
            }
            Event::Read { cookie, into, result, .. } => {
                if let Some(Flight::Read { peer, connection, number, part }) =
                    self.flights.remove(Key::from_u64(cookie))
                {
                    let data = result.is_ok().then(|| into.freeze());
                    self.read_done(cx, peer, connection, (number, part), data);
                }
            }
            Event::Revoked { cookie, data } => {
                drop(data);
                if let Some(Flight::Revoke(connection, number)) = self.flights.remove(Key::from_u64(cookie)) {
                    self.revoked(cx, connection, number);
                }
            }
            Event::Fetched { cookie, .. } => drop(self.flights.remove(Key::from_u64(cookie))),
            Event::Request { listener, id, hello, .. } => self.called(cx, listener, id, &hello),
            Event::Established { qp, hello } => self.established(cx, qp, &hello),
            Event::Refused { qp, hello } => self.call_refused(cx, qp, &hello),
            Event::Gone { qp, why } => self.gone(cx, qp, why),
            Event::Down(_) => self.down = true,
            Event::Up => self.down = false,
        }
    }

    fn receive(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut inbox = std::mem::take(&mut self.inbox);
        let count = self.device.poll(&DeviceCx { heap: cx.heap, now: cx.now }, &mut inbox);
        for event in inbox.drain(..) {
            self.dispatch(cx, event);
        }
        self.inbox = inbox;
        count
    }

    /// Looks at what nothing tells of: credits that peers have written, memory that has become free.
    #[inline]
    fn look_about(&mut self, cx: &mut Cx<'_>) -> usize {
        let nothing = self.peers.starved.is_empty()
            && self.peers.owing.is_empty()
            && self.stalled.is_empty()
            && self.hungry.is_empty()
            && !self.receives.is_short();
        if nothing {
            self.retry = None;
            return 0;
        }
        self.look_closely(cx)
    }

    #[inline(never)]
    fn look_closely(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut found = self.pay_debts(cx);
        for index in (0..self.peers.starved.len()).rev() {
            let key = self.peers.starved[index];
            let Some(peer) = self.peers.table.get(key) else { continue };
            let word = self.device.load(peer.region, 0);
            if let Ok(taken) = u32::try_from(word) {
                self.note_taken(key, taken);
                found += usize::from(self.peers.starved.get(index) != Some(&key));
            }
        }
        for _ in 0..self.stalled.len().min(WORDS_PER_TURN) {
            let Some(key) = self.stalled.pop_front() else { break };
            self.stalled.push_back(key);
            found += usize::from(self.look_at_word(key));
        }
        // They come again in this turn if there is not enough yet.
        let hungry = std::mem::take(&mut self.hungry);
        let waits = !hungry.is_empty();
        for key in hungry {
            self.want_reads(key);
            self.list(key);
        }
        // What was found, or not, is told by who is still on a list.
        let waiting = waits
            || !(self.peers.starved.is_empty() && self.peers.owing.is_empty())
            || self.receives.is_short();
        if found > 0 {
            self.patience = IMPATIENT;
        } else if self.retry.is_some_and(|at| at <= cx.now) {
            self.patience = (2 * self.patience).min(PATIENT);
        }
        if !waiting {
            self.retry = None;
        } else if self.retry.is_none_or(|at| at <= cx.now) {
            self.retry = Some(cx.now + self.patience);
        }
        found
    }

    /// The credit word of a connection that waits for its window.
    fn look_at_word(&mut self, key: Key) -> bool {
        let Some(Socket::Connection(conn)) = self.sockets.get_mut(key) else {
            self.stalled.retain(|other| *other != key);
            return false;
        };
        let Some(peer) = self.peers.table.get(conn.peer) else {
            self.stalled.retain(|other| *other != key);
            return false;
        };
        let word = self.device.load(peer.region, 8 * (conn.name.slot() + 1));
        let ours = word >> 32 == u64::from(conn.name.generation());
        if !ours || !conn.send.note_granted(word as u32) {
            return false;
        }
        self.unstall(key);
        true
    }

    /// Before a sleep: peers whose windows are waited for are to say what they write.
    fn say_blocked(&mut self) {
        for index in 0..self.stalled.len() {
            let key = self.stalled[index];
            if let Some(Socket::Connection(conn)) = self.sockets.get_mut(key)
                && !std::mem::replace(&mut conn.blocked_said, true)
            {
                let peer = conn.peer;
                self.peers.say(peer, Control::Blocked(key));
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn run_timers(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut count = 0;
        while let Some((_, of)) = self.deadlines.take_due(cx.now) {
            count += 1;
            match of {
                Of::Connection(key) => self.connection_due(cx, key),
                Of::Peer(key) => self.look_at_peer(cx, key),
            }
        }
        count
    }

    #[inline(never)]
    fn start_any(&mut self, cx: &mut Cx<'_>, token: QToken, key: Key, op: &mut Op) -> Result<Step, Error> {
        if let Some(region) = self.region_key(key) {
            let step = self.regions.start(&mut *self.device, cx, token, region, op);
            if self.regions.take_posted() {
                self.flush_first(cx);
            }
            return step;
        }
        // Pushes see to their own going, and may wait for those behind them.
        if let Op::Push { sga, to: None } = op {
            return self.push(cx, token, key, sga);
        }
        let step = match op {
            Op::Push { .. } => match self.sockets.get(key) {
                Some(Socket::Connection(conn)) if conn.opening.is_none() => Err(Error::AlreadyConnected),
                _ => Err(Error::NotConnected),
            },
            Op::Pop { .. } => self.pop(cx, token, key),
            Op::Accept => self.accept(cx, token, key),
            Op::Connect(addr) => {
                let to = addr.inet().ok_or(Error::BadAddress)?;
                self.connect(cx, token, key, to)
            }
            Op::Flush => Err(Error::NotSupported("flush of a socket")),
            Op::Atomic { .. } => Err(Error::NotSupported("atomic operations on a socket")),
        };
        self.see_off(cx);
        step
    }
}

impl LibOs for Catmint {
    const NAME: &'static str = "catmint";

    fn create(setup: Setup<'_>) -> Result<Catmint, Error> {
        let section = CatmintSection::load(setup.config)?;
        // What strangers must not guess comes from this. By itself the generator would begin with the time.
        let mut seed = [0; 8];
        let flags = rustix::rand::GetRandomFlags::empty();
        let random = rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut seed, flags));
        random.map_err(|errno| Error::System(errno.raw_os_error()))?;
        let mut rng = fastrand::Rng::with_seed(u64::from_ne_bytes(seed));
        let device = section.open(setup.heap, rng.u64(..))?;
        Catmint::over(&setup, &section, device, &mut rng)
    }

    fn socket(&mut self, _cx: &mut Cx<'_>, domain: Domain, kind: SocketKind) -> Result<QDesc, Error> {
        if domain == Domain::Unix {
            return Err(Error::NotSupported("UNIX sockets: catmint speaks to networks; use catnap"));
        }
        if kind == SocketKind::Datagram {
            return Err(Error::NotSupported("datagrams: catmint has connections, which keep boundaries"));
        }
        self.new_socket(domain)
    }

    fn bind(&mut self, cx: &mut Cx<'_>, qd: QDesc, addr: &Addr) -> Result<(), Error> {
        let key = self.socket_key(qd)?;
        self.bind_socket(cx.rng, key, addr.inet().ok_or(Error::BadAddress)?)
    }

    fn listen(&mut self, cx: &mut Cx<'_>, qd: QDesc, backlog: u32) -> Result<(), Error> {
        let key = self.socket_key(qd)?;
        self.listen_anywhere(cx, key, backlog)
    }

    fn open(&mut self, cx: &mut Cx<'_>, path: &Path, options: &OpenOptions) -> Result<QDesc, Error> {
        let listens = |addr| {
            let socket = self.ports.find(addr).and_then(|key| self.sockets.get(key));
            matches!(socket, Some(Socket::Listener(_)))
        };
        let region = self.regions.open(&mut *self.device, cx, path, options, &listens)?;
        let key = self.sockets.insert(Socket::Region(region));
        let qd = self.queues.insert(key);
        if qd.is_err() {
            self.close_socket(cx, key);
        }
        qd
    }

    fn seek(&mut self, _cx: &mut Cx<'_>, qd: QDesc, to: SeekTo) -> Result<Position, Error> {
        match self.region_key(self.key(qd)?) {
            Some(region) => self.regions.seek(region, to),
            None => Err(Error::NotSupported("seek on a socket")),
        }
    }

    fn truncate(&mut self, _cx: &mut Cx<'_>, qd: QDesc, _position: Position) -> Result<(), Error> {
        self.key(qd)?;
        Err(Error::NotSupported("truncate of a socket"))
    }

    fn shutdown(&mut self, cx: &mut Cx<'_>, qd: QDesc, how: Shutdown) -> Result<(), Error> {
        let key = self.socket_key(qd)?;
        let done = self.shutdown_socket(cx, key, how);
        self.see_off(cx);
        done
    }

    fn close(&mut self, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error> {
        let key = self.queues.remove(qd)?;
        self.close_socket(cx, key);
        self.see_off(cx);
        Ok(())
    }

    fn set_option(&mut self, _cx: &mut Cx<'_>, qd: QDesc, option: SocketOption) -> Result<(), Error> {
        let key = self.socket_key(qd)?;
        self.set_socket_option(key, option)
    }

    fn option(&self, qd: QDesc, name: OptionName) -> Result<SocketOption, Error> {
        self.socket_option(self.socket_key(qd)?, name)
    }

    fn local_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        let key = self.key(qd)?;
        let addr = match self.region_key(key) {
            Some(region) => self.regions.local_addr(region),
            None => self.socket_addr(key),
        };
        addr.map(Addr::Inet)
    }

    fn peer_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        let key = self.key(qd)?;
        let addr = match self.region_key(key) {
            Some(region) => self.regions.peer_addr(region),
            None => self.socket_peer(key),
        };
        addr.map(Addr::Inet)
    }

    fn kind(&self, qd: QDesc) -> Result<QueueKind, Error> {
        Ok(match self.region_key(self.key(qd)?) {
            Some(_) => QueueKind::Stream,
            None => QueueKind::Message,
        })
    }

    #[inline(always)]
    fn start(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc, op: &mut Op) -> Result<Step, Error> {
        let key = *self.queues.get(qd)?;
        // What nearly every push is.
        if let Op::Push { sga, to: None } = op
            && self.push_brief(cx, key, sga)
        {
            return Ok(Step::Done(Ok(Done::Pushed(Position(0)))));
        }
        self.start_any(cx, token, key, op)
    }

    fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc) -> Result<(), Error> {
        // Only pushes outlive their descriptor, and those are on their way.
        let key = self.key(qd).map_err(|_| Error::NotCancellable)?;
        let done = match self.region_key(key) {
            Some(region) => self.regions.cancel(cx, token, region),
            None => self.cancel_op(cx, token, key),
        };
        self.see_off(cx);
        done
    }

    #[inline]
    fn poll(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut done = self.receive(cx);
        done += self.look_about(cx);
        if self.deadlines.next().is_some_and(|at| at <= cx.now) {
            done += self.run_timers(cx);
        }
        if !self.peers.busy.is_empty() {
            done += self.pump_all(cx);
        }
        done += self.regions.poll(&mut *self.device, cx);
        self.unflushed |= self.regions.take_posted();
        if self.unflushed {
            self.flush(cx);
        }
        done
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines =
            [self.deadlines.next(), self.retry, self.regions.next_deadline(), self.device.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.device.wait_fd()
    }

    fn arm(&mut self, cx: &mut Cx<'_>) -> bool {
        // What peers have written since the last turn wakes nobody.
        if self.look_about(cx) > 0 {
            return false;
        }
        self.say_blocked();
        self.see_off(cx);
        self.device.arm(&DeviceCx { heap: cx.heap, now: cx.now })
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.counters.visit(visit);
        visit("peers", self.peers.count as u64);
        visit("connections", self.connections as u64);
        self.regions.counters(visit);
        self.device.counters(visit);
    }
}

impl std::fmt::Debug for Catmint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Catmint {{ connections: {}, peers: {} }}", self.connections, self.peers.count)
    }
}
