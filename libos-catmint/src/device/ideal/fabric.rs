//! What is between the instances: what is posted at one end, in time arrives at the other.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use demi_api::error::Error;
use demi_api::time::Instant;
use rustix::event::{EventfdFlags, eventfd};

use super::super::{Access, Atomic, Caps, Fault, Remote};
use super::Ideal;
use super::memory::Memory;

/// How perfect the hardware is.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// What random choices begin with.
    pub seed: u64,
    /// Nanoseconds that things take from end to end. `0..=0`: none, and then nothing looks at the time, so that instances may have
    /// clocks of their own.
    pub delay: RangeInclusive<u64>,
    /// How many postings a queue pair takes.
    pub depth: usize,
    /// Of so many questions for room, one is told that there is none; 0: none is.
    pub full: u32,
    /// Misuse panics.
    pub strict: bool,
    /// What the devices can do.
    pub caps: Caps,
}

impl Default for Conditions {
    fn default() -> Conditions {
        let caps =
            Caps { inline: 220, max_segs: 8, max_len: 1 << 30, receives: 1 << 16, reads: 16, grant: 0 };
        Conditions { seed: 0, delay: 0..=0, depth: 128, full: 0, strict: true, caps }
    }
}

/// What instances are connected by. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Fabric(Arc<Mutex<Shared>>);

impl Fabric {
    /// With nothing on it.
    pub fn new(conditions: Conditions) -> Fabric {
        let rng = fastrand::Rng::with_seed(conditions.seed);
        Fabric(Arc::new(Mutex::new(Shared {
            conditions,
            rng,
            now: Instant::default(),
            sequence: 0,
            agenda: BinaryHeap::new(),
            ends: Vec::new(),
            memory: Memory::default(),
            requests: HashMap::new(),
            next_request: 0,
        })))
    }

    /// A device that answers at these addresses.
    pub fn plug(&self, ips: &[IpAddr]) -> Result<Ideal, Error> {
        let failed = |errno: rustix::io::Errno| Error::System(errno.raw_os_error());
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let signal = eventfd(0, flags).map_err(failed)?;
        let theirs = signal.try_clone().map_err(|error| Error::System(error.raw_os_error().unwrap_or(0)))?;
        let mut shared = self.lock();
        shared.ends.push(End::new(ips.to_vec(), signal));
        let (end, caps) = (shared.ends.len() - 1, shared.conditions.caps.clone());
        drop(shared);
        Ok(Ideal::new(self.clone(), end, caps, theirs))
    }

    /// Carries out what is due.
    pub fn advance(&self, now: Instant) {
        self.lock().advance(now);
    }

    /// When something will happen next.
    pub fn next(&self) -> Option<Instant> {
        self.lock().agenda.peek().map(|Reverse(due)| due.at)
    }

    /// Whether the device at this address has signalled since it was armed.
    pub fn is_signalled(&self, ip: IpAddr) -> bool {
        let shared = self.lock();
        shared.ends.iter().any(|end| end.ips.contains(&ip) && !end.armed)
    }

    /// Fails every queue pair between two devices, as if the network between them had gone.
    pub fn cut(&self, one: IpAddr, other: IpAddr, why: Fault) {
        let mut shared = self.lock();
        let [Some(one), Some(other)] = [one, other].map(|ip| shared.end_of(ip)) else { return };
        for (qp, pair) in shared.pairs(one) {
            if pair.0 == other {
                shared.fail(one, qp, why);
                shared.fail(other, pair.1, why);
            }
        }
    }

    /// Takes the port of a device down, or up again.
    pub fn set_port(&self, ip: IpAddr, up: bool) {
        let mut shared = self.lock();
        let Some(end) = shared.end_of(ip) else { return };
        if std::mem::replace(&mut shared.ends[end].up, up) == up {
            return;
        }
        shared.tell(end, Ready::Port(up));
        if up {
            return;
        }
        for (qp, pair) in shared.pairs(end) {
            shared.fail(end, qp, Fault::Down);
            shared.fail(pair.0, pair.1, Fault::Timeout);
        }
    }

    /// How many queue pairs are connected at a device.
    pub fn queue_pairs(&self, ip: IpAddr) -> usize {
        let shared = self.lock();
        shared.end_of(ip).map_or(0, |end| shared.pairs(end).len())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        // After a panic of an assertion in here the others may still look.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What an end is told at its next poll.
#[derive(Debug)]
pub(super) enum Ready {
    Message {
        qp: u32,
        bytes: Vec<u8>,
    },
    /// Of a quiet posting it is seen by nobody, unless it makes room that was asked for.
    Ended {
        qp: u32,
        outcome: Outcome,
        seen: bool,
    },
    Revoked {
        grant: u32,
        cookie: u64,
    },
    Request {
        listener: u32,
        id: u32,
        from: SocketAddr,
        hello: Vec<u8>,
    },
    Established {
        qp: u32,
        hello: Vec<u8>,
    },
    Refused {
        qp: u32,
        hello: Vec<u8>,
    },
    Gone {
        qp: u32,
        why: Fault,
    },
    Port(bool),
    Room,
}

/// How a posting has ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    Bytes(Vec<u8>),
    Word(u64),
    Failed(Fault),
}

impl Outcome {
    pub(super) fn result(self) -> Result<Option<u64>, Fault> {
        match self {
            Outcome::Done | Outcome::Bytes(_) => Ok(None),
            Outcome::Word(word) => Ok(Some(word)),
            Outcome::Failed(fault) => Err(fault),
        }
    }
}

/// What is posted, as the other end sees it.
#[derive(Debug)]
pub(super) enum What {
    Message(Vec<u8>),
    Write(Remote, Vec<u8>),
    Read(Remote, usize),
    Atomic(Remote, Atomic),
}

/// End, queue pair and its generation.
type Name = (usize, u32, u32);

#[derive(Debug)]
enum Action {
    /// Something posted by the first arrives at the second.
    Arrive(Name, Name, What, bool),
    /// The oldest posting of a queue pair has ended.
    Back(Name, Outcome, bool),
    /// A request to connect.
    Knock(Name, SocketAddr, Vec<u8>),
    /// The answer to one.
    Welcome(Name, Name, Vec<u8>),
    Turned(Name, Option<Vec<u8>>),
    /// The other side of an accepted request is ready.
    Ready(Name),
    /// The other side has ended it.
    Break(Name, Fault),
    Revoked {
        end: usize,
        key: u32,
        grant: u32,
        cookie: u64,
    },
}

#[derive(Debug)]
struct Due {
    at: Instant,
    sequence: u64,
    action: Action,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Connecting,
    Accepted,
    Up,
    Ended,
}

#[derive(Debug)]
struct Pair {
    generation: u32,
    state: State,
    peer: Option<Name>,
    local: SocketAddr,
    remote: SocketAddr,
    outstanding: usize,
    /// The last arrival at the other end, and the last end of a posting: later ones are no earlier.
    last_out: Instant,
    last_back: Instant,
    wants_room: bool,
}

#[derive(Debug)]
struct End {
    ips: Vec<IpAddr>,
    signal: OwnedFd,
    armed: bool,
    up: bool,
    listeners: Vec<Option<SocketAddr>>,
    pairs: Vec<Pair>,
    ready: VecDeque<Ready>,
    /// Lengths of the receives that are posted.
    receives: VecDeque<usize>,
    /// Keys of grants, by number.
    grants: HashMap<u32, u32>,
    next_port: u16,
}

impl End {
    fn new(ips: Vec<IpAddr>, signal: OwnedFd) -> End {
        End {
            ips,
            signal,
            armed: false,
            up: true,
            listeners: Vec::new(),
            pairs: Vec::new(),
            ready: VecDeque::new(),
            receives: VecDeque::new(),
            grants: HashMap::new(),
            next_port: 49_152,
        }
    }
}

#[derive(Debug)]
struct Request {
    from: Name,
    to: SocketAddr,
    end: usize,
    listener: u32,
}

#[derive(Debug)]
pub(super) struct Shared {
    conditions: Conditions,
    rng: fastrand::Rng,
    now: Instant,
    sequence: u64,
    agenda: BinaryHeap<Reverse<Due>>,
    ends: Vec<End>,
    memory: Memory,
    requests: HashMap<u32, Request>,
    next_request: u32,
}

impl Shared {
    pub(super) fn advance(&mut self, now: Instant) {
        if self.is_timed() {
            self.now = self.now.max(now);
        }
        while let Some(Reverse(due)) = self.agenda.peek()
            && due.at <= self.now
        {
            let Some(Reverse(due)) = self.agenda.pop() else { return };
            self.run(due.action);
        }
    }

    fn is_timed(&self) -> bool {
        *self.conditions.delay.end() > 0
    }

    fn later(&mut self, floor: Instant) -> Instant {
        if !self.is_timed() {
            return self.now;
        }
        let delay = self.rng.u64(self.conditions.delay.clone());
        (self.now + std::time::Duration::from_nanos(delay)).max(floor)
    }

    fn schedule(&mut self, at: Instant, action: Action) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.agenda.push(Reverse(Due { at, sequence, action }));
        if !self.is_timed() {
            self.advance(self.now);
        }
    }

    /// Takes note of the time before anything is done at it.
    fn at(&mut self, now: Instant) {
        self.advance(now);
    }

    fn tell(&mut self, end: usize, ready: Ready) {
        self.ends[end].ready.push_back(ready);
        self.signal(end);
    }

    fn signal(&mut self, end: usize) {
        let end = &mut self.ends[end];
        if std::mem::replace(&mut end.armed, false) {
            let _ = rustix::io::write(&end.signal, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn take_ready(&mut self, end: usize) -> Option<Ready> {
        self.ends[end].ready.pop_front()
    }

    pub(super) fn arm(&mut self, end: usize) -> bool {
        let end = &mut self.ends[end];
        if end.ready.iter().any(|ready| !matches!(ready, Ready::Ended { seen: false, .. })) {
            return false;
        }
        let _ = rustix::io::read(end.signal.as_fd(), &mut [0_u8; 8]);
        end.armed = true;
        true
    }

    fn pair(&mut self, name: Name) -> Option<&mut Pair> {
        let pair = self.ends[name.0].pairs.get_mut(name.1 as usize)?;
        (pair.generation == name.2 && pair.state != State::Free).then_some(pair)
    }

    fn name(&self, end: usize, qp: u32) -> Name {
        (end, qp, self.ends[end].pairs.get(qp as usize).map_or(0, |pair| pair.generation))
    }

    fn end_of(&self, ip: IpAddr) -> Option<usize> {
        self.ends.iter().rposition(|end| end.ips.contains(&ip))
    }

    /// The connected queue pairs of an end, and who is at their other end.
    fn pairs(&self, end: usize) -> Vec<(u32, Name)> {
        let pairs = self.ends[end].pairs.iter().enumerate();
        let up = pairs.filter(|(_, pair)| matches!(pair.state, State::Up | State::Accepted));
        up.filter_map(|(qp, pair)| Some((qp as u32, pair.peer?))).collect()
    }

    pub(super) fn ips(&self, end: usize) -> Vec<IpAddr> {
        self.ends[end].ips.clone()
    }

    // --- connecting

    pub(super) fn listen(
        &mut self,
        now: Instant,
        end: usize,
        mut addr: SocketAddr,
    ) -> Result<(u32, SocketAddr), Error> {
        self.at(now);
        if !addr.ip().is_unspecified() && !self.ends[end].ips.contains(&addr.ip()) {
            return Err(Error::AddressNotAvailable);
        }
        if addr.port() == 0 {
            addr.set_port(self.ends[end].next_port);
            self.ends[end].next_port = self.ends[end].next_port.checked_add(1).unwrap_or(49_152);
        }
        let clash = |other: &SocketAddr| {
            let same = other.ip() == addr.ip() || other.ip().is_unspecified() || addr.ip().is_unspecified();
            other.port() == addr.port() && same
        };
        if self.ends[end].listeners.iter().flatten().any(clash) {
            return Err(Error::AddressInUse);
        }
        self.ends[end].listeners.push(Some(addr));
        Ok((self.ends[end].listeners.len() as u32 - 1, addr))
    }

    pub(super) fn unlisten(&mut self, now: Instant, end: usize, id: u32) {
        self.at(now);
        let listener = self.ends[end].listeners.get_mut(id as usize);
        assert!(listener.is_some_and(|listener| listener.take().is_some()), "unlisten without listen");
        let asked: Vec<u32> = self
            .requests
            .iter()
            .filter(|(_, request)| request.end == end && request.listener == id)
            .map(|(id, _)| *id)
            .collect();
        for id in asked {
            self.turn_away(id, Some(Vec::new()));
        }
        self.ends[end]
            .ready
            .retain(|ready| !matches!(ready, Ready::Request { listener, .. } if *listener == id));
    }

    fn new_pair(&mut self, end: usize, state: State, local: SocketAddr, remote: SocketAddr) -> Name {
        let pairs = &mut self.ends[end].pairs;
        let free = pairs.iter().position(|pair| pair.state == State::Free);
        let qp = free.unwrap_or(pairs.len());
        let generation = pairs.get(qp).map_or(0, |pair| pair.generation + 1);
        let zero = Instant::default();
        let pair = Pair {
            generation,
            state,
            peer: None,
            local,
            remote,
            outstanding: 0,
            last_out: zero,
            last_back: zero,
            wants_room: false,
        };
        if qp < pairs.len() {
            pairs[qp] = pair
        } else {
            pairs.push(pair)
        }
        (end, qp as u32, generation)
    }

    pub(super) fn connect(&mut self, now: Instant, end: usize, to: SocketAddr, hello: &[u8]) -> u32 {
        self.at(now);
        let ips = &self.ends[end].ips;
        let same = ips.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
        let from = same.or(ips.first()).copied().unwrap_or(IpAddr::V4([127, 0, 0, 1].into()));
        let port = self.rng.u16(1024..);
        let name = self.new_pair(end, State::Connecting, SocketAddr::new(from, port), to);
        let at = self.later(now);
        self.schedule(at, Action::Knock(name, to, hello.to_vec()));
        name.1
    }

    fn knock(&mut self, from: Name, to: SocketAddr, hello: Vec<u8>) {
        let Some(local) =
            self.pair(from).filter(|pair| pair.state == State::Connecting).map(|pair| pair.local)
        else {
            return;
        };
        let at = self.later(self.now);
        let Some(end) = self.end_of(to.ip()).filter(|end| self.ends[*end].up && self.ends[from.0].up) else {
            return self.schedule(at, Action::Turned(from, None));
        };
        let listening = self.ends[end].listeners.iter().position(|listener| {
            listener.is_some_and(|addr| {
                addr.port() == to.port() && (addr.ip() == to.ip() || addr.ip().is_unspecified())
            })
        });
        let Some(listener) = listening else {
            return self.schedule(at, Action::Turned(from, Some(Vec::new())));
        };
        let (id, listener) = (self.next_request, listener as u32);
        self.next_request += 1;
        self.requests.insert(id, Request { from, to, end, listener });
        self.tell(end, Ready::Request { listener, id, from: local, hello });
    }

    pub(super) fn accept(&mut self, now: Instant, end: usize, request: u32, hello: &[u8]) -> Option<u32> {
        self.at(now);
        let Request { from, to, .. } = self.requests.remove(&request)?;
        let remote = self.pair(from).filter(|pair| pair.state == State::Connecting)?.local;
        let name = self.new_pair(end, State::Accepted, to, remote);
        let pair = self.pair(name)?;
        pair.peer = Some(from);
        let at = self.later(now);
        self.schedule(at, Action::Welcome(from, name, hello.to_vec()));
        Some(name.1)
    }

    pub(super) fn reject(&mut self, now: Instant, request: u32, hello: &[u8]) {
        self.at(now);
        self.turn_away(request, Some(hello.to_vec()));
    }

    fn turn_away(&mut self, request: u32, hello: Option<Vec<u8>>) {
        let Some(Request { from, .. }) = self.requests.remove(&request) else { return };
        let at = self.later(self.now);
        self.schedule(at, Action::Turned(from, hello));
    }

    fn welcome(&mut self, name: Name, by: Name, hello: Vec<u8>) {
        if self.pair(by).is_none_or(|pair| pair.state != State::Accepted) {
            return;
        }
        match self.pair(name).filter(|pair| pair.state == State::Connecting) {
            Some(pair) => {
                pair.state = State::Up;
                pair.peer = Some(by);
            }
            None => {
                let at = self.later(self.now);
                return self.schedule(at, Action::Break(by, Fault::Disconnected));
            }
        }
        // What the one sends from now on comes behind this.
        let at = self.later(self.now);
        if let Some(pair) = self.pair(name) {
            pair.last_out = at;
        }
        self.tell(name.0, Ready::Established { qp: name.1, hello });
        self.schedule(at, Action::Ready(by));
    }

    pub(super) fn disconnect(&mut self, now: Instant, end: usize, qp: u32) {
        self.at(now);
        let name = self.name(end, qp);
        let peer = self.pair(name).and_then(|pair| pair.peer);
        self.fail(end, qp, Fault::Disconnected);
        if let Some(peer) = peer {
            let at = self.later(self.now);
            self.schedule(at, Action::Break(peer, Fault::Disconnected));
        }
    }

    /// A queue pair fails at one of its ends.
    fn fail(&mut self, end: usize, qp: u32, why: Fault) {
        let name = self.name(end, qp);
        let Some(pair) = self.pair(name).filter(|pair| pair.state != State::Ended) else { return };
        pair.state = State::Ended;
        for count in 0..std::mem::take(&mut pair.outstanding) {
            let fault = if count == 0 { why } else { Fault::Flushed };
            self.tell(end, Ready::Ended { qp, outcome: Outcome::Failed(fault), seen: true });
        }
        self.tell(end, Ready::Gone { qp, why });
    }

    pub(super) fn release(&mut self, end: usize, qp: u32) {
        if let Some(pair) = self.ends[end].pairs.get_mut(qp as usize) {
            pair.state = State::Free;
        }
    }

    pub(super) fn unplug(&mut self, end: usize) {
        for (_, peer) in self.pairs(end) {
            let at = self.later(self.now);
            self.schedule(at, Action::Break(peer, Fault::Timeout));
        }
        let gone = &mut self.ends[end];
        gone.ips.clear();
        gone.listeners.clear();
        gone.up = false;
        gone.pairs.iter_mut().for_each(|pair| pair.state = State::Free);
        let asked = self.requests.iter().filter(|(_, request)| request.end == end).map(|(id, _)| *id);
        for id in asked.collect::<Vec<u32>>() {
            self.turn_away(id, None);
        }
        self.memory.remove_all(end);
    }

    pub(super) fn addrs(&self, end: usize, qp: u32) -> Option<(SocketAddr, SocketAddr)> {
        let pair = self.ends[end].pairs.get(qp as usize)?;
        (pair.state != State::Free).then_some((pair.local, pair.remote))
    }

    // --- posting

    pub(super) fn receive(&mut self, now: Instant, end: usize, len: usize) {
        self.at(now);
        self.ends[end].receives.push_back(len);
    }

    /// As many as are told to there being room for: now and then, none.
    pub(super) fn room(&mut self, end: usize, qp: u32) -> usize {
        let full = self.conditions.full;
        if full > 0 && self.rng.u32(..full) == 0 {
            self.tell(end, Ready::Room);
            return 0;
        }
        self.free(end, qp)
    }

    pub(super) fn free(&self, end: usize, qp: u32) -> usize {
        match self.ends[end].pairs.get(qp as usize) {
            Some(pair) if pair.state == State::Up => self.conditions.depth.saturating_sub(pair.outstanding),
            _ => 0,
        }
    }

    pub(super) fn want_room(&mut self, end: usize, qp: u32) {
        if let Some(pair) = self.ends[end].pairs.get_mut(qp as usize) {
            pair.wants_room = true;
        }
    }

    pub(super) fn post(&mut self, now: Instant, end: usize, qp: u32, what: What, tell: bool) {
        self.at(now);
        let name = self.name(end, qp);
        let floor = self.pair(name).map_or(now, |pair| pair.last_out);
        let at = self.later(floor);
        match self.pair(name) {
            Some(Pair { state: State::Up, peer: Some(peer), outstanding, last_out, .. }) => {
                *outstanding += 1;
                *last_out = at;
                let peer = *peer;
                self.schedule(at, Action::Arrive(name, peer, what, tell));
            }
            // It has ended between the question for room and this.
            _ => self.tell(end, Ready::Ended { qp, outcome: Outcome::Failed(Fault::Flushed), seen: true }),
        }
    }

    fn arrive(&mut self, from: Name, to: Name, what: What, tell: bool) {
        let outcome = match self.pair(to).filter(|pair| matches!(pair.state, State::Up | State::Accepted)) {
            Some(_) => self.take_effect(from, to, what),
            // Nobody answers any more.
            None => Err(Fault::Timeout),
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(fault) => {
                assert!(!self.conditions.strict || matches!(fault, Fault::Timeout), "misuse: {fault}");
                // Either may have gone meanwhile, and its name be another's.
                for end in [from, to] {
                    if self.pair(end).is_some() {
                        self.fail(end.0, end.1, fault);
                    }
                }
                return;
            }
        };
        let now = self.now;
        let floor = self.pair(from).map_or(now, |pair| pair.last_back);
        let at = self.later(floor);
        if let Some(pair) = self.pair(from) {
            pair.last_back = at;
        }
        self.schedule(at, Action::Back(from, outcome, tell));
    }

    fn take_effect(&mut self, from: Name, to: Name, what: What) -> Result<Outcome, Fault> {
        match what {
            What::Message(bytes) => {
                let len = self.ends[to.0].receives.pop_front().ok_or(Fault::NotReady)?;
                if bytes.len() > len {
                    return Err(Fault::TooLong);
                }
                self.tell(to.0, Ready::Message { qp: to.1, bytes });
                Ok(Outcome::Done)
            }
            What::Write(at, bytes) => self.memory.write(to.0, from, at, &bytes).map(|()| Outcome::Done),
            What::Read(at, len) => self.memory.read(to.0, from, at, len).map(Outcome::Bytes),
            What::Atomic(at, op) => self.memory.atomic(to.0, from, at, op).map(Outcome::Word),
        }
    }

    fn back(&mut self, name: Name, outcome: Outcome, tell: bool) {
        let Some(pair) = self.pair(name).filter(|pair| pair.state == State::Up) else { return };
        pair.outstanding -= 1;
        let seen = tell | std::mem::take(&mut pair.wants_room);
        self.ends[name.0].ready.push_back(Ready::Ended { qp: name.1, outcome, seen });
        if seen {
            self.signal(name.0);
        }
    }

    fn run(&mut self, action: Action) {
        match action {
            Action::Arrive(from, to, what, tell) => self.arrive(from, to, what, tell),
            Action::Back(name, outcome, tell) => self.back(name, outcome, tell),
            Action::Knock(from, to, hello) => self.knock(from, to, hello),
            Action::Welcome(name, by, hello) => self.welcome(name, by, hello),
            Action::Turned(name, hello) => {
                let Some(pair) = self.pair(name).filter(|pair| pair.state == State::Connecting) else {
                    return;
                };
                pair.state = State::Ended;
                let qp = name.1;
                self.tell(
                    name.0,
                    match hello {
                        Some(hello) => Ready::Refused { qp, hello },
                        None => Ready::Gone { qp, why: Fault::Unreachable },
                    },
                );
            }
            Action::Ready(name) => {
                if let Some(pair) = self.pair(name).filter(|pair| pair.state == State::Accepted) {
                    pair.state = State::Up;
                    self.tell(name.0, Ready::Established { qp: name.1, hello: Vec::new() });
                }
            }
            Action::Break(name, why) => {
                if self.pair(name).is_some() {
                    self.fail(name.0, name.1, why);
                }
            }
            Action::Revoked { end, key, grant, cookie } => {
                self.memory.remove(key);
                self.tell(end, Ready::Revoked { grant, cookie });
            }
        }
    }

    // --- memory

    pub(super) fn grant(&mut self, end: usize, qp: u32, grant: u32, data: &[u8]) -> Option<Remote> {
        let name = self.name(end, qp);
        let reader = self.pair(name)?.peer?;
        let access = Access { read: true, ..Access::default() };
        let (key, remote) = self.memory.add(&mut self.rng, end, data.to_vec(), access, Some(reader));
        self.ends[end].grants.insert(grant, key);
        Some(remote)
    }

    pub(super) fn revoke(&mut self, now: Instant, end: usize, grant: u32, cookie: u64) {
        self.at(now);
        let key = self.ends[end].grants.remove(&grant).expect("revoked what was not granted");
        let at = self.later(self.now);
        self.schedule(at, Action::Revoked { end, key, grant, cookie });
    }

    pub(super) fn region(&mut self, end: usize, len: usize, access: Access) -> u32 {
        self.memory.add(&mut self.rng, end, vec![0; len], access, None).0
    }

    pub(super) fn place(&self, key: u32) -> Option<Remote> {
        self.memory.place(key)
    }

    pub(super) fn copy_out(&mut self, key: u32, offset: usize, out: &mut [u8]) -> bool {
        let bytes = self.memory.own(key, offset, out.len());
        bytes.is_some_and(|bytes| {
            out.copy_from_slice(bytes);
            true
        })
    }

    pub(super) fn copy_in(&mut self, key: u32, offset: usize, bytes: &[u8]) -> bool {
        let place = self.memory.own(key, offset, bytes.len());
        place.is_some_and(|place| {
            place.copy_from_slice(bytes);
            true
        })
    }

    pub(super) fn atomic_at(&mut self, key: u32, offset: usize, op: Atomic) -> Option<u64> {
        self.memory.own_atomic(key, offset, op)
    }

    pub(super) fn forget(&mut self, key: u32) {
        self.memory.remove(key);
    }
}
