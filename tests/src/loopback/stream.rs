//! Stream sockets: how connections begin, and how they end.
//!
//! Invariants: a connection exists, and can be pushed to, from when its listener has room for it in the backlog; a
//! caller for which there is none waits. A socket that is closed with bytes unread resets its connection.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use demi_api::libos::Cx;
use demi_api::{Addr, Domain, Done, Error, QDesc, QToken, SocketKind};

use super::pipe::{Finished, Pipe, PipeId};
use super::{Loopback, Queue, State, Turn};

#[derive(Debug)]
pub(super) struct Listener {
    backlog: usize,
    /// Connections that nobody has accepted yet.
    waiting: VecDeque<Ends>,
    /// Sockets that connect, and for which there was no room.
    callers: VecDeque<QDesc>,
    pub(super) accepts: VecDeque<QToken>,
}

impl Listener {
    pub(super) fn new(backlog: u32) -> Listener {
        Listener {
            backlog: (backlog as usize).max(1),
            waiting: VecDeque::new(),
            callers: VecDeque::new(),
            accepts: VecDeque::new(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Connecting {
    pub(super) token: QToken,
    pub(super) peer: Addr,
}

/// A connection as one of its sockets sees it.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) incoming: PipeId,
    pub(super) outgoing: PipeId,
    pub(super) local: Addr,
    pub(super) peer: Addr,
}

impl<const TURNS: u64> Loopback<TURNS> {
    pub(super) fn visit_pipe(&mut self, turn: &mut Turn<'_, '_>, id: PipeId) {
        let Some(pipe) = self.pipes.end_schedule(id) else { return };
        let mut finished = Vec::new();
        pipe.run((TURNS > 1).then_some(&mut *turn.cx.rng), |end| finished.push(end));
        for (token, result) in finished {
            turn.post(token, result);
        }
        self.pipes.release(id);
    }

    pub(super) fn visit_connecting(&mut self, turn: &mut Turn<'_, '_>, qd: QDesc) {
        let Ok(Queue { state: State::Connecting(connecting), .. }) = self.queues.get(qd) else { return };
        let token = connecting.token;
        let found = self.names.find(SocketKind::Stream, &connecting.peer);
        let listener = found.and_then(|found| match &mut self.queues.get_mut(found).ok()?.state {
            State::Listener(listener) => Some((found, listener)),
            _ => None,
        });
        let result = match listener {
            None => Err(Error::ConnectionRefused),
            Some((_, listener)) if listener.waiting.len() >= listener.backlog => {
                listener.callers.push_back(qd);
                return;
            }
            Some((found, _)) => self.establish(turn, qd, found),
        };
        if result.is_err()
            && let Ok(queue) = self.queues.get_mut(qd)
        {
            queue.state = State::Fresh;
        }
        turn.post(token, result.map(|()| Done::Connected));
    }

    fn establish(&mut self, turn: &mut Turn<'_, '_>, caller: QDesc, callee: QDesc) -> Result<(), Error> {
        let Queue { domain, bound, options, state, .. } = self.queues.get(caller)?;
        let State::Connecting(Connecting { peer, .. }) = state else { return Err(Error::NotConnected) };
        let peer = peer.clone();
        let there = self.pipes.insert(Pipe::new(options.send_buffer()));
        let back = self.pipes.insert(Pipe::new(self.queues.get(callee)?.options.send_buffer()));
        let local = match (bound, domain) {
            (Some(bound), _) => bound.clone(),
            (None, Domain::Inet) => self.names.ephemeral(SocketKind::Stream, Ipv4Addr::LOCALHOST.into())?,
            (None, Domain::Inet6) => {
                self.names.ephemeral(SocketKind::Stream, IpAddr::from(Ipv6Addr::LOCALHOST))?
            }
            (None, Domain::Unix) => Addr::Unnamed,
        };
        let near = Ends { incoming: back, outgoing: there, local: local.clone(), peer: peer.clone() };
        self.queues.get_mut(caller)?.state = State::Stream(near);
        if let State::Listener(listener) = &mut self.queues.get_mut(callee)?.state {
            listener.waiting.push_back(Ends { incoming: there, outgoing: back, local: peer, peer: local });
        }
        self.schedule_queue(turn.cx, callee);
        Ok(())
    }

    pub(super) fn visit_listener(&mut self, turn: &mut Turn<'_, '_>, qd: QDesc) {
        while let Ok(Queue { domain, options, state: State::Listener(listener), .. }) =
            self.queues.get_mut(qd)
            && !listener.waiting.is_empty()
            && let Some(token) = listener.accepts.pop_front()
        {
            let (domain, linger) = (*domain, options.linger());
            let mut queue = Queue::new(domain, State::Fresh);
            if linger.is_some() {
                queue.options.set(demi_api::SocketOption::Linger(linger));
            }
            let result = self.queues.insert(queue).and_then(|accepted| self.hand_over(qd, accepted));
            turn.post(token, result);
        }
        let Ok(Queue { state: State::Listener(listener), .. }) = self.queues.get_mut(qd) else { return };
        let room = listener.backlog.saturating_sub(listener.waiting.len());
        let callers: Vec<QDesc> = listener.callers.drain(..room.min(listener.callers.len())).collect();
        for caller in callers {
            self.schedule_queue(turn.cx, caller);
        }
    }

    /// Gives the oldest waiting connection to the fresh socket `accepted`.
    fn hand_over(&mut self, listener: QDesc, accepted: QDesc) -> Result<Done, Error> {
        let State::Listener(listener) = &mut self.queues.get_mut(listener)?.state else {
            return Err(Error::NotConnected);
        };
        let ends = listener.waiting.pop_front().ok_or(Error::NotConnected)?;
        let peer = ends.peer.clone();
        self.queues.get_mut(accepted)?.state = State::Stream(ends);
        Ok(Done::Accepted { qd: accepted, peer })
    }

    pub(super) fn close_queue(&mut self, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error> {
        if let Ok(Queue { state: State::Datagram(_) | State::Log(_), .. }) = self.queues.get(qd) {
            self.finish_pushes(cx, qd);
        }
        let Queue { bound, options, state, .. } = self.queues.remove(qd)?;
        if let Some(bound) = &bound {
            let datagram = matches!(state, State::Datagram(_));
            self.names.release(if datagram { SocketKind::Datagram } else { SocketKind::Stream }, bound);
        }
        match state {
            State::Fresh => {}
            State::Connecting(connecting) => cx.done.post(connecting.token, Err(Error::Cancelled)),
            State::Listener(listener) => {
                for token in listener.accepts {
                    cx.done.post(token, Err(Error::Cancelled));
                }
                for ends in listener.waiting {
                    self.hang_up(cx, &ends, true);
                }
                for caller in listener.callers {
                    self.schedule_queue(cx, caller);
                }
            }
            State::Stream(ends) => self.close_stream(cx, &ends, options.linger()),
            State::Datagram(datagram) => datagram.close(cx),
            State::Log(handle) => handle.close(cx),
        }
        Ok(())
    }

    fn close_stream(&mut self, cx: &mut Cx<'_>, ends: &Ends, linger: Option<std::time::Duration>) {
        self.hang_up(cx, ends, linger.is_some_and(|linger| linger.is_zero()));
        if self.pipes.find(ends.outgoing).is_some_and(|outgoing| outgoing.has_pushes()) {
            self.lingering.insert((cx.now + linger.unwrap_or(self.linger), ends.outgoing));
        }
    }

    /// Closes both directions, the outgoing one by force if asked to or if bytes are left unread.
    fn hang_up(&mut self, cx: &mut Cx<'_>, ends: &Ends, force: bool) {
        let mut post = |(token, result): Finished| cx.done.post(token, result);
        let unread = self.pipes.get_mut(ends.incoming).close_receiver(&mut post);
        let outgoing = self.pipes.get_mut(ends.outgoing);
        outgoing.close_sender();
        if force || unread {
            outgoing.abort(&Error::ConnectionAborted, &mut post);
        }
        for id in [ends.incoming, ends.outgoing] {
            self.pipes.release(id);
            self.schedule_pipe(cx, id);
        }
    }

    /// Fails what closed sockets could not deliver in time.
    pub(super) fn expire_lingering(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut expired = 0;
        while let Some((at, id)) = self.lingering.first().copied()
            && at <= cx.now
        {
            self.lingering.pop_first();
            // The number may be another direction's by now, whose sender is not closed or has nothing to send.
            if let Some(pipe) = self.pipes.find(id)
                && pipe.sender_gone
                && pipe.has_pushes()
            {
                pipe.abort(&Error::TimedOut, |(token, result)| cx.done.post(token, result));
                self.pipes.release(id);
                self.schedule_pipe(cx, id);
                expired += 1;
            }
        }
        expired
    }
}
