//! Connecting and ending: what the connection manager tells of, and what follows.
//!
//! Invariants: every queue pair that was named to the caller ends in exactly one [`Event::Gone`] or [`Event::Refused`], the
//! last thing that is told of it. A request that nobody answers is rejected when its listener goes.

#[allow(unsafe_code, reason = "each block states its proof")]
pub(super) mod raw;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demi_api::error::Error;
use demi_api::time::Instant;
use rustix::io::Errno;

use self::raw::{Id, Kind, Terms};
use super::Verbs;
use super::complete::settle;
use super::domain::raw::PortEvent;
use super::pairs::{Pair, State};
use super::queue::raw::Work;
use super::queue::{Held, SendQueue};
use crate::device::{Event, Fault, HELLO_MAX, ListenId, Qp, Remote, RequestId};

/// How long what is outstanding on an ending queue pair may take to come back.
const CLOSING: Duration = Duration::from_secs(2);
/// Requests that were told of and not answered; more are rejected.
const UNANSWERED: usize = 1024;
/// Requests that the kernel keeps for each listener.
const BACKLOG: i32 = 128;
/// Events that one look takes, so that its work is bounded.
const EVENTS: usize = 64;
/// The statuses of a rejection (InfiniBand specification, CM reasons): by the other side's program; no such listener.
const BY_CONSUMER: i32 = 28;
const NO_LISTENER: i32 = 8;
/// 164 ms (InfiniBand specification, RNR NAK timer field), and how often: a second in all.
const NOT_READY_TIME: u8 = 28;
const NOT_READY_RETRIES: u8 = 6;

/// What a tag of the connection manager names.
const PAIR: u64 = 1 << 32;
const LISTENER: u64 = 2 << 32;
const REQUEST: u64 = 3 << 32;

/// A request that was told of.
pub(super) struct Unanswered {
    id: Id,
    listener: ListenId,
    reads: (u8, u8),
}

impl Verbs {
    pub(super) fn do_listen(&mut self, addr: SocketAddr) -> Result<(ListenId, SocketAddr), Error> {
        let name = ListenId(self.next_listener);
        let id = Id::new(&self.channel, LISTENER | u64::from(name.0)).map_err(error)?;
        id.listen(self.own(addr), BACKLOG).map_err(error)?;
        let local = id.local().ok_or(Error::BadAddress)?;
        self.next_listener = self.next_listener.wrapping_add(1);
        self.listeners.insert(name.0, id);
        Ok((name, local))
    }

    pub(super) fn do_unlisten(&mut self, name: ListenId) {
        self.listeners.remove(&name.0);
        let requests = std::mem::take(&mut self.unanswered);
        for (key, request) in requests {
            if request.listener == name {
                // The identifier's end would do as well.
                let _ = request.id.reject(&[]);
            } else {
                self.unanswered.insert(key, request);
            }
        }
    }

    pub(super) fn do_connect(&mut self, now: Instant, to: SocketAddr, hello: &[u8]) -> Result<Qp, Error> {
        if hello.len() > HELLO_MAX {
            return Err(Error::Invalid("a hello is longer than HELLO_MAX"));
        }
        let name = self.pairs.vacant().ok_or(Error::NoBuffers)?;
        let id = Id::new(&self.channel, PAIR | u64::from(self.pairs.tag(name))).map_err(error)?;
        if let Some(address) = self.config.address.filter(|own| own.is_ipv4() == to.is_ipv4()) {
            id.bind(SocketAddr::new(address, 0)).map_err(error)?;
        }
        let to = self.own(to);
        let limit = i32::try_from(self.config.connect_ms).unwrap_or(i32::MAX);
        let resolving = id.resolve_addr(to, limit);
        let mut deadline = self.connect_deadline(now);
        if let Err(errno) = resolving {
            tracing::debug!(%errno, %to, "no way to a peer");
            deadline = now;
        }
        let way = resolving.map(|()| hello.to_vec()).ok();
        self.insert(Pair::new(id, State::Resolving(way), deadline))
    }

    fn insert(&mut self, pair: Pair) -> Result<Qp, Error> {
        let deadline = pair.deadline;
        let name = self.pairs.insert(pair).map_err(|_| Error::NoBuffers)?;
        self.note_deadline(deadline);
        Ok(name)
    }

    fn connect_deadline(&self, now: Instant) -> Instant {
        now + Duration::from_millis(self.config.connect_ms.into())
    }

    /// The loop-back address stands for the device's own, which has no other name for itself.
    fn own(&self, addr: SocketAddr) -> SocketAddr {
        if !addr.ip().is_loopback() {
            return addr;
        }
        let fits = |ip: &IpAddr| ip.is_ipv4() == addr.is_ipv4();
        let own = self.config.address.into_iter().chain(self.addresses.iter().copied()).find(fits);
        own.map_or(addr, |ip| SocketAddr::new(ip, addr.port()))
    }

    pub(super) fn do_accept(&mut self, now: Instant, request: RequestId, hello: &[u8]) -> Result<Qp, Error> {
        let Unanswered { mut id, reads, .. } =
            self.unanswered.remove(&request.0).ok_or(Error::Invalid("no such request"))?;
        if hello.len() > HELLO_MAX {
            return Err(Error::Invalid("a hello is longer than HELLO_MAX"));
        }
        let name = self.pairs.vacant().ok_or(Error::NoBuffers)?;
        id.set_tag(PAIR | u64::from(self.pairs.tag(name)));
        let send = self.make_queue_pair(&mut id, name).map_err(error)?;
        let ours = self.limits.reads;
        let terms =
            Terms { reads: (reads.0.min(ours), reads.1.min(ours)), not_ready_retries: NOT_READY_RETRIES };
        id.accept(hello, terms).map_err(error)?;
        let mut pair = Pair::new(id, State::Accepting, self.connect_deadline(now));
        pair.send = Some(send);
        let name = self.insert(pair)?;
        self.note_number(name);
        Ok(name)
    }

    pub(super) fn do_reject(&mut self, request: RequestId, hello: &[u8]) {
        let Some(request) = self.unanswered.remove(&request.0) else { return };
        if let Err(errno) = request.id.reject(&hello[..hello.len().min(HELLO_MAX)]) {
            tracing::debug!(%errno, "a request to connect has gone before it was rejected");
        }
    }

    fn make_queue_pair(&mut self, id: &mut Id, name: Qp) -> rustix::io::Result<SendQueue> {
        id.create_queue_pair(&self.domain, &self.completions, &self.receives.queue, self.shape)?;
        // A kernel that cannot be told so has a limit of its own.
        if let Err(errno) = id.set_answer_limit(self.config.answer_exponent()) {
            tracing::debug!(%errno, "the device's own limit for answers is used");
        }
        SendQueue::new(&self.domain, self.shape.depth, self.pairs.tag(name))
    }

    fn note_number(&mut self, name: Qp) {
        if let Some(number) = self.pairs.get(name).and_then(|pair| pair.id.number()) {
            self.pairs.set_number(name, number);
        }
    }

    /// Takes what the connection manager and the port have to say.
    pub(super) fn look(&mut self, now: Instant, out: &mut Vec<Event>) {
        let mut left = EVENTS;
        while left > 0
            && let Some(event) = self.channel.next()
        {
            left -= 1;
            let name = event.tag as u32;
            match event.tag & !u64::from(u32::MAX) {
                PAIR => {
                    if let Some(name) = self.pairs.named(name) {
                        self.pair_event(now, name, event, out);
                    }
                }
                LISTENER if event.kind == Kind::Request => self.request_event(ListenId(name), event, out),
                // A request that has gone is found so when it is answered.
                _ => {}
            }
        }
        while let Some(event) = self.domain.port_event() {
            match event {
                PortEvent::Down if !self.is_down => {
                    self.is_down = true;
                    out.push(Event::Down(Fault::Down));
                }
                PortEvent::Up if self.is_down => {
                    self.is_down = false;
                    self.addresses = self.domain.addresses();
                    out.push(Event::Up);
                }
                PortEvent::Fatal => self.all_gone(now, out),
                PortEvent::Down | PortEvent::Up => {}
                PortEvent::Other => self.addresses = self.domain.addresses(),
            }
        }
    }

    /// The device has ended.
    fn all_gone(&mut self, now: Instant, out: &mut Vec<Event>) {
        self.is_down = true;
        out.push(Event::Down(Fault::Down));
        for name in self.pairs.names().collect::<Vec<_>>() {
            self.fail(now, name, Fault::Down, out);
        }
    }

    fn request_event(&mut self, listener: ListenId, event: raw::Event, out: &mut Vec<Event>) {
        let Some(mut id) = event.id else { return };
        let from = id.addrs().map(|(_, remote)| remote);
        let (Some(from), true, true) = (from, id.is_on(&self.domain), self.unanswered.len() < UNANSWERED)
        else {
            self.counters.rejected += 1;
            let _ = id.reject(&[]);
            return;
        };
        let name = self.next_request;
        self.next_request = name.wrapping_add(1);
        id.set_tag(REQUEST | u64::from(name));
        self.unanswered.insert(name, Unanswered { id, listener, reads: event.reads });
        out.push(Event::Request { listener, id: RequestId(name), from, hello: hello_of(event.private) });
    }

    fn pair_event(&mut self, now: Instant, name: Qp, event: raw::Event, out: &mut Vec<Event>) {
        let Some(pair) = self.pairs.get_mut(name) else { return };
        match (event.kind, &pair.state) {
            (Kind::AddrResolved, State::Resolving(_)) => {
                let limit = i32::try_from(self.config.connect_ms).unwrap_or(i32::MAX);
                let is_here = pair.id.is_on(&self.domain);
                if !is_here || pair.id.resolve_route(limit).is_err() {
                    self.end_unconnected(name, Event::Gone { qp: name, why: Fault::Unreachable }, out);
                }
            }
            (Kind::RouteResolved, State::Resolving(_)) => {
                if let Err(errno) = self.ask(name) {
                    tracing::debug!(%errno, "a peer could not be asked to connect");
                    self.end_unconnected(name, Event::Gone { qp: name, why: Fault::Local }, out);
                }
            }
            (Kind::Established, State::Connecting) => self.established(name, hello_of(event.private), out),
            (Kind::Established, State::Accepting) => self.established(name, Vec::new(), out),
            (Kind::Rejected, State::Connecting) => {
                let end = match event.status {
                    BY_CONSUMER => Event::Refused { qp: name, hello: hello_of(event.private) },
                    NO_LISTENER => Event::Refused { qp: name, hello: Vec::new() },
                    _ => Event::Gone { qp: name, why: Fault::Disconnected },
                };
                self.end_unconnected(name, end, out);
            }
            (Kind::Failed | Kind::Rejected, State::Resolving(_) | State::Connecting | State::Accepting) => {
                let is_late = event.status.abs() == Errno::TIMEDOUT.raw_os_error();
                let why = if is_late { Fault::Timeout } else { Fault::Unreachable };
                self.end_unconnected(name, Event::Gone { qp: name, why }, out);
            }
            (Kind::Disconnected | Kind::Failed | Kind::Rejected, _) => {
                self.fail(now, name, Fault::Disconnected, out);
            }
            (Kind::Removed, _) => self.fail(now, name, Fault::Down, out),
            _ => {}
        }
    }

    /// The way to the peer is known.
    fn ask(&mut self, name: Qp) -> rustix::io::Result<()> {
        let Some(mut pair) = self.pairs.take(name) else { return Ok(()) };
        let made = self.make_queue_pair(&mut pair.id, name);
        let asked = made.and_then(|send| {
            pair.send = Some(send);
            let State::Resolving(Some(hello)) = std::mem::replace(&mut pair.state, State::Connecting) else {
                return Ok(());
            };
            let reads = (self.limits.reads, self.limits.reads);
            pair.id.connect(&hello, Terms { reads, not_ready_retries: NOT_READY_RETRIES })
        });
        self.pairs.put_back(name, pair);
        self.note_number(name);
        asked
    }

    /// Both sides may send.
    pub(super) fn established(&mut self, name: Qp, hello: Vec<u8>, out: &mut Vec<Event>) {
        let Some(pair) = self.pairs.get_mut(name) else { return };
        pair.state = State::Connected;
        pair.deadline = None;
        pair.addrs = pair.id.addrs();
        if let Err(errno) = pair.id.set_not_ready_time(NOT_READY_TIME) {
            tracing::debug!(%errno, "the device's own time between attempts is used");
        }
        self.counters.connected += 1;
        out.push(Event::Established { qp: name, hello });
    }

    /// One that has never been connected, so that nothing was posted on it.
    pub(super) fn end_unconnected(&mut self, name: Qp, end: Event, out: &mut Vec<Event>) {
        if self.pairs.remove(name).is_some() {
            self.counters.gone += 1;
            out.push(end);
        }
    }

    /// Ends a queue pair, whatever its state.
    pub(super) fn fail(&mut self, now: Instant, name: Qp, why: Fault, out: &mut Vec<Event>) {
        let Some(pair) = self.pairs.get_mut(name) else { return };
        match pair.state {
            State::Closing(_) => return,
            State::Resolving(_) | State::Connecting | State::Accepting => {
                return self.end_unconnected(name, Event::Gone { qp: name, why }, out);
            }
            State::Connected => {}
        }
        pair.state = State::Closing(why);
        let mut deadline = now + CLOSING;
        if let (Some(send), Some(qp)) = (&mut pair.send, pair.id.queue_pair()) {
            // What was posted before the end goes out if it still can.
            let mut posted = Ok(());
            if send.has_news() {
                posted = send.post(qp, &mut self.counters);
            }
            let disconnected = pair.id.disconnect();
            let nowhere = Work::Write(Remote { addr: 0, key: 0 });
            send.write(nowhere, std::iter::empty(), false, Held::Mark, &mut self.counters);
            posted = posted.and_then(|()| send.post(qp, &mut self.counters));
            if let Err(errno) = disconnected {
                tracing::debug!(%errno, "a queue pair was not disconnected in order");
            }
            if posted.is_err() {
                // The mark will not come.
                deadline = now;
            }
        }
        pair.deadline = Some(deadline);
        self.note_deadline(Some(deadline));
    }

    /// The last of what was outstanding has come back, or it was waited for long enough.
    pub(super) fn finish(&mut self, name: Qp, out: &mut Vec<Event>) {
        let Some(Pair { id, send, state, .. }) = self.pairs.remove(name) else { return };
        let revoked = self.grants.queue_pair_ended(name.0);
        // From here on the device touches nothing of it.
        drop(id);
        if let Some(mut send) = send {
            let end = send.end();
            while let Some((number, held)) = send.take(end) {
                settle(&mut self.grants, name, &send, (number, held), Err(Fault::Flushed), out);
            }
        }
        out.extend(revoked);
        self.counters.gone += 1;
        let State::Closing(why) = state else { return };
        out.push(Event::Gone { qp: name, why });
    }

    /// Gives up what has taken too long.
    pub(super) fn give_up(&mut self, now: Instant, out: &mut Vec<Event>) {
        for name in self.pairs.overdue(now) {
            let Some(pair) = self.pairs.get(name) else { continue };
            if matches!(pair.state, State::Closing(_)) {
                self.counters.forced += 1;
                self.finish(name, out);
            } else {
                let has_no_way = matches!(pair.state, State::Resolving(None));
                let why = if has_no_way { Fault::Unreachable } else { Fault::Timeout };
                self.end_unconnected(name, Event::Gone { qp: name, why }, out);
            }
        }
        self.deadline = self.pairs.next_deadline();
    }
}

/// Some connection managers pad with zeros, beyond what there can be.
fn hello_of(mut private: Vec<u8>) -> Vec<u8> {
    private.truncate(HELLO_MAX);
    private
}

/// What went wrong in the control path.
pub(super) fn error(errno: Errno) -> Error {
    match errno {
        Errno::ADDRINUSE => Error::AddressInUse,
        Errno::ADDRNOTAVAIL | Errno::NODEV => Error::AddressNotAvailable,
        Errno::ACCESS | Errno::PERM => Error::PermissionDenied,
        Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN => Error::NoBuffers,
        Errno::MFILE | Errno::NFILE => Error::TooManyFiles,
        Errno::NETUNREACH | Errno::HOSTUNREACH => Error::Unreachable,
        Errno::CONNRESET | Errno::NOTCONN => Error::ConnectionReset,
        errno => Error::System(errno.raw_os_error()),
    }
}
