//! What others say, and what follows from it.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demi_api::time::Instant;

use super::super::super::wire::{
    Answered, CommId, IpService, Mad, Message, Psn, Reason, Reply, Request, tcp_port,
};
use super::super::connection::{Connection, State};
use super::super::{Agreed, Datagram, Event, code_time, mtu_code};
use super::{Manager, NONE};
use crate::device::{Fault, RequestId};

/// How long a peer whose question has come twice is told to wait for the application: 4.3 s.
const DELAY_CODE: u8 = 20;
/// However long a peer says that its answer will take.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Less than this is not worth a timer.
const LEAST_DELAY: Duration = Duration::from_millis(100);
/// How often a peer may put off saying that it is ready.
const MAX_DELAYS: u8 = 3;

impl Manager {
    /// Takes in what came for queue pair 1 from another's queue pair 1.
    pub fn datagram(
        &mut self,
        now: Instant,
        from: IpAddr,
        to: IpAddr,
        payload: &[u8],
        events: &mut Vec<Event>,
    ) {
        let Ok(Mad { transaction, message }) = Mad::parse(payload) else { return };
        match message {
            Message::Request(request) => self.requested(from, to, transaction, &request, events),
            Message::Reply(reply) => self.accepted(from, to, transaction, &reply, events),
            Message::Ready { local, remote } => {
                if self.named(remote, local, from).is_some() {
                    self.heard(remote, events);
                }
            }
            Message::Reject { local, remote, reason, private, .. } => {
                self.rejected(from, local, remote, reason, private, events);
            }
            Message::Delay { local, remote, timeout, .. } => {
                let Some(connection) = self.named(remote, local, from) else { return };
                let until = now + code_time(timeout).min(MAX_DELAY);
                let waits = match connection.state {
                    // For how long an application may think is said by who waits for it.
                    State::RequestSent { .. } => true,
                    State::ReplySent { .. } => connection.delays < MAX_DELAYS,
                    _ => false,
                };
                if waits && connection.timer.is_none_or(|timer| timer + LEAST_DELAY < until) {
                    connection.attempts = 0;
                    connection.delays = connection.delays.saturating_add(1);
                    connection.timer = Some(until);
                    self.timers.push(Reverse((until, remote)));
                }
            }
            Message::Disconnect { local, remote, .. } => {
                let answer = Message::Disconnected { local: remote, remote: local };
                // Also for a connection that is not known any more.
                let datagram =
                    Datagram { from: to, to: from, mad: Mad { transaction, message: answer }.emit() };
                self.outbox.push_back(datagram);
                let Some(connection) = self.named(remote, local, from) else { return };
                // It says so again, as our answer was lost: the time runs from the first.
                if matches!(connection.state, State::TimeWait) {
                    return;
                }
                if let Some(qp) = connection.qp() {
                    events.push(Event::Gone { qp, why: Fault::Disconnected });
                }
                self.rest(now, remote);
            }
            Message::Disconnected { local, remote } => {
                let Some(connection) = self.named(remote, local, from) else { return };
                if matches!(connection.state, State::DisconnectSent) {
                    self.rest(now, remote);
                }
            }
        }
    }

    fn requested(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        transaction: u64,
        request: &Request<'_>,
        events: &mut Vec<Event>,
    ) {
        if let Some(local) = self.begun.get(&(from, request.local)).copied() {
            self.requested_again(local);
            return;
        }
        let refuse = |reason| {
            let (local, remote) = (NONE, request.local);
            let answered = Answered::Request;
            let message = Message::Reject { local, remote, answered, reason, private: &[] };
            Datagram { from: to, to: from, mad: Mad { transaction, message }.emit() }
        };
        let port = tcp_port(request.service);
        let listener = port.and_then(|port| self.listener(SocketAddr::new(to, port)));
        let Some(listener) = listener else {
            self.outbox.push_back(refuse(Reason::INVALID_SERVICE));
            return;
        };
        let Ok((service, hello)) = IpService::parse(request.private) else {
            self.outbox.push_back(refuse(Reason::UNSUPPORTED));
            return;
        };
        if request.mtu > mtu_code(self.config.mtu) {
            self.outbox.push_back(refuse(Reason::INVALID_MTU));
            return;
        }
        // The peer has begun anew: what stood between the same two ends has ended.
        if let Some(stale) = self.far_ends.get(&(from, request.guid, request.qpn)).copied() {
            match self.find(stale).and_then(|connection| connection.qp()) {
                Some(qp) => events.push(Event::Gone { qp, why: Fault::Disconnected }),
                None => events.push(Event::Withdrawn { id: RequestId(stale.0) }),
            }
            self.remove(stale);
            self.outbox.push_back(refuse(Reason::STALE));
            return;
        }
        if self.pending >= self.config.backlog {
            return;
        }
        let agreed = Agreed {
            remote: request.qpn,
            send_psn: request.psn,
            receive_psn: Psn::default(),
            mtu: 128 << request.mtu,
            initiator_depth: request.responder_resources.min(self.config.reads),
            responder_resources: request.initiator_depth.min(self.config.reads),
        };
        let Some(local) = self.add(Connection {
            state: State::Requested { listener, agreed },
            local: NONE,
            remote: request.local,
            here: to,
            there: from,
            transaction,
            guid: request.guid,
            qpn: request.qpn,
            said: None,
            attempts: 0,
            delays: 0,
            timer: None,
        }) else {
            return;
        };
        self.pending += 1;
        self.begun.insert((from, request.local), local);
        self.far_ends.insert((from, request.guid, request.qpn), local);
        let from = SocketAddr::new(from, service.source_port);
        events.push(Event::Request { listener, id: RequestId(local.0), from, hello: hello.to_vec() });
    }

    fn requested_again(&mut self, local: CommId) {
        let Some(connection) = self.find(local) else { return };
        match connection.state {
            State::Requested { .. } => {
                let remote = connection.remote;
                let answered = Answered::Request;
                self.say(local, Message::Delay { local, remote, answered, timeout: DELAY_CODE });
            }
            State::ReplySent { .. } | State::TimeWait => self.repeat(local),
            State::RequestSent { .. } | State::Established { .. } | State::DisconnectSent => {}
        }
    }

    fn accepted(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        transaction: u64,
        reply: &Reply<'_>,
        events: &mut Vec<Event>,
    ) {
        let (local, remote) = (reply.remote, reply.local);
        let Some(connection) = self.named(local, remote, from) else {
            let message = Message::Reject {
                local,
                remote,
                answered: Answered::Reply,
                reason: Reason::INVALID_COMM_ID,
                private: &[],
            };
            self.outbox.push_back(Datagram { from: to, to: from, mad: Mad { transaction, message }.emit() });
            return;
        };
        match connection.state {
            State::RequestSent { qp, offer } => {
                connection.state = State::Established { qp };
                connection.remote = remote;
                connection.guid = reply.guid;
                connection.qpn = reply.qpn;
                connection.timer = None;
                let agreed = Agreed {
                    remote: reply.qpn,
                    send_psn: reply.psn,
                    initiator_depth: offer.initiator_depth.min(reply.responder_resources),
                    responder_resources: offer.responder_resources.min(reply.initiator_depth),
                    ..offer
                };
                self.far_ends.insert((from, reply.guid, reply.qpn), local);
                self.tell(local, Message::Ready { local, remote });
                let (agreed, hello) = (Some(agreed), reply.private.to_vec());
                events.push(Event::Connected { qp, agreed, hello });
            }
            State::Established { .. } => self.repeat(local),
            State::Requested { .. } | State::ReplySent { .. } | State::DisconnectSent | State::TimeWait => {}
        }
    }

    fn rejected(
        &mut self,
        from: IpAddr,
        theirs: CommId,
        ours: CommId,
        reason: Reason,
        private: &[u8],
        events: &mut Vec<Event>,
    ) {
        // Who gives up before the first answer does not know our name of it.
        let ours = if ours == NONE && reason == Reason::TIMEOUT {
            self.begun.get(&(from, theirs)).copied().unwrap_or(NONE)
        } else {
            ours
        };
        let Some(connection) = self.find(ours).filter(|connection| connection.there == from) else { return };
        let why = if reason == Reason::TIMEOUT { Fault::Timeout } else { Fault::Disconnected };
        match connection.state {
            State::RequestSent { qp, .. } => {
                let hello = if reason == Reason::CONSUMER { private.to_vec() } else { Vec::new() };
                events.push(Event::Refused { qp, reason, hello });
            }
            State::Requested { .. } => events.push(Event::Withdrawn { id: RequestId(ours.0) }),
            State::ReplySent { qp } | State::Established { qp } if connection.remote == theirs => {
                events.push(Event::Gone { qp, why });
            }
            State::ReplySent { .. } | State::Established { .. } => return,
            State::DisconnectSent => {}
            State::TimeWait => return,
        }
        self.remove(ours);
    }
}
