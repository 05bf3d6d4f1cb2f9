//! Datagram sockets: whole messages with their sender, to whoever is bound there, or to nobody.
//!
//! Invariant: a socket's datagrams leave in order. One that finds its receiver's queue full, or nobody, is gone,
//! and its push complete, as on any network.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};

use demi_api::libos::Cx;
use demi_api::op::Op;
use demi_api::{Addr, Domain, Done, Error, Position, QDesc, QToken, SgArray, SocketKind};

use super::names::check_family;
use super::{Loopback, Queue, State, Turn, take_token};

/// Datagrams that wait at a socket at the most.
const RECEIVE_QUEUE: usize = 512;

/// Most bytes in a datagram: what UDP over IPv4 can carry.
const MAX_BYTES: usize = 65507;

#[derive(Default, Debug)]
pub(super) struct Datagram {
    pub(super) peer: Option<Addr>,
    received: VecDeque<SgArray>,
    pops: VecDeque<QToken>,
    outbox: VecDeque<Letter>,
}

#[derive(Debug)]
struct Letter {
    token: QToken,
    /// Without a message, it is a connect that takes its turn.
    message: Option<(SgArray, Addr)>,
}

impl Datagram {
    pub(super) fn start(&mut self, domain: Domain, token: QToken, op: &mut Op) -> Result<(), Error> {
        match op {
            Op::Pop { .. } => self.pops.push_back(token),
            Op::Connect(peer) => {
                check_family(domain, peer)?;
                self.peer = Some(peer.clone());
                self.outbox.push_back(Letter { token, message: None });
            }
            Op::Push { sga, to } => {
                let len = sga.len();
                if len > MAX_BYTES {
                    return Err(Error::TooLarge { len, limit: MAX_BYTES });
                }
                let to = to.as_ref().or(self.peer.as_ref()).ok_or(Error::NotConnected)?.clone();
                check_family(domain, &to)?;
                self.outbox.push_back(Letter { token, message: Some((std::mem::take(sga), to)) });
            }
            Op::Accept | Op::Flush | Op::Atomic { .. } => {
                return Err(Error::NotSupported("this operation on datagrams"));
            }
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, token: QToken) -> bool {
        if take_token(&mut self.pops, token) {
            return true;
        }
        let place = self.outbox.iter().position(|letter| letter.token == token);
        place.is_some_and(|place| self.outbox.remove(place).is_some())
    }

    pub(super) fn close(self, cx: &mut Cx<'_>) {
        for token in self.pops {
            cx.done.post(token, Err(Error::Cancelled));
        }
    }
}

impl<const TURNS: u64> Loopback<TURNS> {
    pub(super) fn visit_datagram(&mut self, turn: &mut Turn<'_, '_>, qd: QDesc) {
        while let Some(Letter { token, message }) = self.next_letter(qd) {
            let result = match message {
                None => Ok(Done::Connected),
                Some((sga, to)) => self.deliver(turn.cx, qd, sga, &to),
            };
            turn.post(token, result);
        }
        while let Ok(Queue { state: State::Datagram(datagram), .. }) = self.queues.get_mut(qd)
            && !datagram.pops.is_empty()
            && let Some(sga) = datagram.received.pop_front()
            && let Some(token) = datagram.pops.pop_front()
        {
            turn.post(token, Ok(Done::Popped(sga)));
        }
    }

    /// A socket that is closed sends first what it was asked to.
    pub(super) fn finish_pushes(&mut self, cx: &mut Cx<'_>, qd: QDesc) {
        while let Some(Letter { token, message }) = self.next_letter(qd) {
            let result = match message {
                None => Err(Error::Cancelled),
                Some((sga, to)) => self.deliver(cx, qd, sga, &to),
            };
            cx.done.post(token, result);
        }
        self.finish_writes(cx, qd);
    }

    fn next_letter(&mut self, qd: QDesc) -> Option<Letter> {
        match &mut self.queues.get_mut(qd).ok()?.state {
            State::Datagram(datagram) => datagram.outbox.pop_front(),
            _ => None,
        }
    }

    fn deliver(&mut self, cx: &mut Cx<'_>, from: QDesc, mut sga: SgArray, to: &Addr) -> Result<Done, Error> {
        let sender = self.sender(from)?;
        let Some(receiver) = self.names.find(SocketKind::Datagram, to) else {
            return match to {
                Addr::Unix(_) => Err(Error::ConnectionRefused),
                Addr::Inet(_) | Addr::Unnamed => Ok(Done::Pushed(Position::default())),
            };
        };
        if let Ok(Queue { state: State::Datagram(datagram), .. }) = self.queues.get_mut(receiver) {
            let expected = datagram.peer.as_ref().is_none_or(|peer| *peer == sender);
            if expected && datagram.received.len() < RECEIVE_QUEUE {
                sga.set_peer(Some(sender));
                datagram.received.push_back(sga);
                self.schedule_queue(cx, receiver);
            } else {
                self.datagrams_dropped += 1;
            }
        }
        Ok(Done::Pushed(Position::default()))
    }

    /// The address of a socket that sends: a port of its own, if it had none.
    fn sender(&mut self, qd: QDesc) -> Result<Addr, Error> {
        let queue = self.queues.get_mut(qd)?;
        if let Some(bound) = &queue.bound {
            return Ok(bound.clone());
        }
        let any = match queue.domain {
            Domain::Inet => Addr::Inet((Ipv4Addr::LOCALHOST, 0).into()),
            Domain::Inet6 => Addr::Inet((Ipv6Addr::LOCALHOST, 0).into()),
            Domain::Unix => return Ok(Addr::Unnamed),
        };
        let bound = self.names.bind(SocketKind::Datagram, queue.domain, &any, qd)?;
        queue.bound = Some(bound.clone());
        Ok(bound)
    }
}
