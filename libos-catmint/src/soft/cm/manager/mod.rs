//! All connections of a device, and what datagrams do to them.

mod input;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use demi_api::time::Instant;

use super::super::wire::{
    Answered, CommId, IpService, Mad, Message, Psn, Qpn, Reason, Reply, Request, gid, tcp_service,
};
use super::connection::{Connection, State};
use super::{Agreed, Config, Datagram, Event, NotThere, Offer, mtu_code};
use crate::device::{Fault, ListenId, Qp, RequestId};

/// Bits of a name that are its place in the table; the others are random.
const PLACE_BITS: u32 = 16;
/// How long others are told to wait for an answer: about a second.
const RESPONSE_CODE: u8 = 18;
/// How long others are told to wait for an acknowledgement: 134 ms.
const ACK_CODE: u8 = 15;
/// How long we may take to acknowledge: 16 ms.
const ACK_DELAY_CODE: u8 = 12;
const NONE: CommId = CommId(0);

/// The connection manager of a device.
#[derive(Debug)]
pub struct Manager {
    config: Config,
    rng: fastrand::Rng,
    places: Vec<Option<Connection>>,
    free: Vec<u16>,
    listeners: Vec<(ListenId, SocketAddr)>,
    /// Connections that were begun by others: by their address and their name of it.
    begun: HashMap<(IpAddr, CommId), CommId>,
    /// Connections that stand, by what no two of them may share.
    far_ends: HashMap<(IpAddr, u64, Qpn), CommId>,
    /// Those that others have begun and that do not stand yet.
    pending: usize,
    /// When to look at which, the earliest first. Some are out of date.
    timers: BinaryHeap<Reverse<(Instant, CommId)>>,
    outbox: VecDeque<Datagram>,
}

impl Manager {
    /// Without connections. Names are drawn from a generator with this seed.
    pub fn new(config: Config, seed: u64) -> Manager {
        Manager {
            config,
            rng: fastrand::Rng::with_seed(seed),
            places: Vec::new(),
            free: Vec::new(),
            listeners: Vec::new(),
            begun: HashMap::new(),
            far_ends: HashMap::new(),
            pending: 0,
            timers: BinaryHeap::new(),
            outbox: VecDeque::new(),
        }
    }

    /// Requests for this address are told of from now on. An unspecified one stands for all.
    pub fn listen(&mut self, id: ListenId, addr: SocketAddr) {
        self.listeners.push((id, addr));
    }

    /// They are not. Those that were not answered are rejected.
    pub fn unlisten(&mut self, now: Instant, id: ListenId) {
        self.listeners.retain(|(listener, _)| *listener != id);
        let is_its = |connection: &Connection| match connection.state {
            State::Requested { listener, .. } => listener == id,
            _ => false,
        };
        let waiting = self.places.iter().flatten().filter(|connection| is_its(connection));
        let waiting: Vec<_> = waiting.map(|connection| connection.local).collect();
        for local in waiting {
            self.refuse(now, local, Reason::INVALID_SERVICE, &[]);
        }
    }

    /// Asks whoever listens at `to` for a connection to the queue pair `qp`. `None` if there are too many already.
    pub fn connect(
        &mut self,
        now: Instant,
        qp: Qp,
        offer: Offer,
        from: SocketAddr,
        to: SocketAddr,
        hello: &[u8],
    ) -> Option<CommId> {
        let agreed = Agreed {
            remote: Qpn::default(),
            send_psn: Psn::default(),
            receive_psn: offer.psn,
            mtu: self.config.mtu,
            initiator_depth: self.config.reads,
            responder_resources: self.config.reads,
        };
        let transaction = self.rng.u64(..);
        let local = self.add(Connection {
            state: State::RequestSent { qp, offer: agreed },
            local: NONE,
            remote: NONE,
            here: from.ip(),
            there: to.ip(),
            transaction,
            guid: 0,
            qpn: Qpn::default(),
            said: None,
            attempts: 0,
            delays: 0,
            timer: None,
        })?;
        let service = IpService { source: from.ip(), source_port: from.port(), destination: to.ip() };
        let request = Request {
            local,
            service: tcp_service(to.port()),
            guid: self.config.guid,
            qpn: offer.qpn,
            psn: offer.psn,
            responder_resources: self.config.reads,
            initiator_depth: self.config.reads,
            cm_timeouts: [RESPONSE_CODE; 2],
            retry_count: 7,
            rnr_retry_count: 7,
            cm_retries: self.config.attempts.min(15) as u8,
            mtu: mtu_code(self.config.mtu),
            shared_receives: true,
            local_gid: gid(from.ip()),
            remote_gid: gid(to.ip()),
            flow_label: self.rng.u32(..) >> 12,
            rate: 0,
            traffic_class: 0,
            hop_limit: 64,
            ack_timeout: ACK_CODE,
            private: &service.emit(hello),
        };
        self.ask(now, local, Message::Request(request));
        Some(local)
    }

    /// Accepts a request for the queue pair `qp`, which has to be ready for packets with what is returned. It may send when
    /// [`Event::Connected`] comes.
    ///
    /// # Errors
    /// When who asked has given up meanwhile.
    pub fn accept(
        &mut self,
        now: Instant,
        request: RequestId,
        qp: Qp,
        offer: Offer,
        hello: &[u8],
    ) -> Result<(CommId, Agreed), NotThere> {
        let connection = self.find(CommId(request.0)).ok_or(NotThere)?;
        let State::Requested { agreed, .. } = connection.state else { return Err(NotThere) };
        connection.state = State::ReplySent { qp };
        let (local, remote) = (connection.local, connection.remote);
        let agreed = Agreed { receive_psn: offer.psn, ..agreed };
        let reply = Reply {
            local,
            remote,
            guid: self.config.guid,
            qpn: offer.qpn,
            psn: offer.psn,
            responder_resources: agreed.responder_resources,
            initiator_depth: agreed.initiator_depth,
            ack_delay: ACK_DELAY_CODE,
            rnr_retry_count: 7,
            shared_receives: true,
            private: hello,
        };
        self.ask(now, local, Message::Reply(reply));
        Ok((local, agreed))
    }

    /// Answers a request with a refusal.
    pub fn reject(&mut self, now: Instant, request: RequestId, hello: &[u8]) {
        self.refuse(now, CommId(request.0), Reason::CONSUMER, hello);
    }

    /// A packet has come for the queue pair: the peer knows that it was accepted.
    pub fn heard(&mut self, local: CommId, events: &mut Vec<Event>) {
        let Some(connection) = self.find(local) else { return };
        let State::ReplySent { qp } = connection.state else { return };
        connection.state = State::Established { qp };
        connection.timer = None;
        self.pending -= 1;
        events.push(Event::Connected { qp, agreed: None, hello: Vec::new() });
    }

    /// Ends a connection, whatever state it is in. No event follows.
    pub fn disconnect(&mut self, now: Instant, local: CommId) {
        let Some(connection) = self.find(local) else { return };
        let (remote, qpn) = (connection.remote, connection.qpn);
        match connection.state {
            State::RequestSent { .. } => {
                self.say_rejection(local, Answered::Request, Reason::TIMEOUT, &[]);
                self.remove(local);
            }
            State::Requested { .. } => self.refuse(now, local, Reason::CONSUMER, &[]),
            State::ReplySent { .. } | State::Established { .. } => {
                self.leave(local);
                let transaction = self.rng.u64(..);
                if let Some(connection) = self.find(local) {
                    connection.state = State::DisconnectSent;
                    connection.transaction = transaction;
                }
                self.ask(now, local, Message::Disconnect { local, remote, qpn });
            }
            State::DisconnectSent | State::TimeWait => {}
        }
    }

    /// The next datagram to be sent: to be asked after each call, until there is none.
    pub fn outgoing(&mut self) -> Option<Datagram> {
        self.outbox.pop_front()
    }

    /// When [`tick`](Manager::tick) is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Looks at the timers.
    pub fn tick(&mut self, now: Instant, events: &mut Vec<Event>) {
        while let Some(Reverse((at, local))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            if self.find(local).is_some_and(|connection| connection.timer == Some(at)) {
                self.expired(now, local, events);
            }
        }
    }

    /// How many connections there are, in whatever state.
    pub fn connections(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn expired(&mut self, now: Instant, local: CommId, events: &mut Vec<Event>) {
        let attempts = self.config.attempts;
        let Some(connection) = self.find(local) else { return };
        let answered = match connection.state {
            State::TimeWait => {
                self.remove(local);
                return;
            }
            State::RequestSent { .. } => Answered::Request,
            State::Requested { .. } | State::ReplySent { .. } => Answered::Reply,
            State::Established { .. } | State::DisconnectSent => Answered::Other,
        };
        if connection.attempts < attempts {
            connection.attempts += 1;
            self.repeat(local);
            self.set_timer(now, local);
            return;
        }
        if let Some(qp) = connection.qp() {
            events.push(Event::Gone { qp, why: Fault::Timeout });
            self.say_rejection(local, answered, Reason::TIMEOUT, &[]);
        }
        self.remove(local);
    }

    /// Rejects a request, and remembers that in case it comes again.
    fn refuse(&mut self, now: Instant, local: CommId, reason: Reason, hello: &[u8]) {
        if self.find(local).is_some_and(|connection| matches!(connection.state, State::Requested { .. })) {
            self.say_rejection(local, Answered::Request, reason, hello);
            self.rest(now, local);
        }
    }

    fn say_rejection(&mut self, local: CommId, answered: Answered, reason: Reason, private: &[u8]) {
        let Some(connection) = self.find(local) else { return };
        let remote = connection.remote;
        self.tell(local, Message::Reject { local, remote, answered, reason, private });
    }

    /// Sends what is to be answered: it is repeated until it is.
    fn ask(&mut self, now: Instant, local: CommId, message: Message<'_>) {
        if let Some(connection) = self.find(local) {
            connection.attempts = 0;
        }
        self.tell(local, message);
        self.set_timer(now, local);
    }

    fn set_timer(&mut self, now: Instant, local: CommId) {
        let timeout = self.config.timeout;
        let Some(connection) = self.find(local) else { return };
        let at = now + timeout * (1 << connection.attempts.min(8));
        connection.timer = Some(at);
        self.timers.push(Reverse((at, local)));
    }

    /// Sends a datagram, and keeps it.
    fn tell(&mut self, local: CommId, message: Message<'_>) {
        let Some(connection) = self.find(local) else { return };
        connection.said = Some(Box::new(Mad { transaction: connection.transaction, message }.emit()));
        self.repeat(local);
    }

    fn repeat(&mut self, local: CommId) {
        let Some(connection) = self.find(local) else { return };
        let Some(mad) = connection.said.as_deref().copied() else { return };
        let datagram = Datagram { from: connection.here, to: connection.there, mad };
        self.outbox.push_back(datagram);
    }

    fn say(&mut self, local: CommId, message: Message<'_>) {
        let Some(connection) = self.find(local) else { return };
        let mad = Mad { transaction: connection.transaction, message }.emit();
        let datagram = Datagram { from: connection.here, to: connection.there, mad };
        self.outbox.push_back(datagram);
    }

    fn listener(&self, addr: SocketAddr) -> Option<ListenId> {
        let is_it = |at: &SocketAddr| {
            at.port() == addr.port()
                && (at.ip() == addr.ip() || at.ip().is_unspecified() && at.is_ipv4() == addr.is_ipv4())
        };
        self.listeners.iter().find(|(_, at)| is_it(at)).map(|(id, _)| *id)
    }

    fn find(&mut self, local: CommId) -> Option<&mut Connection> {
        let place = self.places.get_mut(index(local))?.as_mut();
        place.filter(|connection| connection.local == local)
    }

    /// The connection that both sides name so.
    fn named(&mut self, local: CommId, remote: CommId, from: IpAddr) -> Option<&mut Connection> {
        self.find(local).filter(|connection| {
            connection.there == from && (connection.remote == remote || connection.remote == NONE)
        })
    }

    fn add(&mut self, connection: Connection) -> Option<CommId> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() >= self.config.connections => return None,
            None => {
                let place = u16::try_from(self.places.len()).ok()?;
                self.places.push(None);
                place
            }
        };
        // Never zero.
        let local = CommId(self.rng.u32(1..1 << (32 - PLACE_BITS)) << PLACE_BITS | u32::from(place));
        self.places[usize::from(place)] = Some(Connection { local, ..connection });
        Some(local)
    }

    /// No more of use, but remembered for a while.
    fn rest(&mut self, now: Instant, local: CommId) {
        self.leave(local);
        let time = self.config.time_wait;
        let Some(connection) = self.find(local) else { return };
        connection.state = State::TimeWait;
        let at = now + time;
        connection.timer = Some(at);
        self.timers.push(Reverse((at, local)));
    }

    fn remove(&mut self, local: CommId) {
        self.leave(local);
        let Some(connection) = self.places.get_mut(index(local)).and_then(Option::take) else { return };
        let key = (connection.there, connection.remote);
        if self.begun.get(&key) == Some(&local) {
            self.begun.remove(&key);
        }
        self.free.push(index(local) as u16);
    }

    /// It does not stand any more, and nobody waits for it to.
    fn leave(&mut self, local: CommId) {
        let Some(connection) = self.find(local) else { return };
        let is_pending = matches!(connection.state, State::Requested { .. } | State::ReplySent { .. });
        let (guid, qpn) = connection.far_end();
        let key = (connection.there, guid, qpn);
        self.pending -= usize::from(is_pending);
        if self.far_ends.get(&key) == Some(&local) {
            self.far_ends.remove(&key);
        }
    }
}

fn index(local: CommId) -> usize {
    (local.0 & ((1 << PLACE_BITS) - 1)) as usize
}
