//! Accept and connect.
//!
//! Invariants: a connection that cannot be given a descriptor stays in the backlog, for a later accept. A
//! connect that failed, timed out or was recalled leaves a socket that can be connected again, or closed.

use demi_api::addr::{Addr, SocketKind};
use demi_api::desc::{QDesc, QueueTable};
use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::op::{Done, Step};
use demi_api::token::QToken;

use super::Net;
use super::socket::{Connecting, Socket, State};
use super::stream::Stream;
use crate::catnap::Queue;
use crate::sys::Attempt;
use crate::sys::addr::check;
use crate::sys::epoll::Interest;
use crate::sys::socket::{self, Connect};
use demi_api::slab::Key;

/// Connections accepted from one listener in one turn.
const ACCEPTS_PER_TURN: usize = 64;

impl Net {
    pub(super) fn start_accept(
        &mut self,
        queues: &mut QueueTable<Queue>,
        token: QToken,
        key: Key,
    ) -> Result<Step, Error> {
        let is_first = self.sockets.get(key).is_some_and(|socket| !socket.waits_to_receive());
        if is_first {
            match self.accept(queues, key) {
                Ok(Some((qd, peer))) => return Ok(Step::Done(Ok(Done::Accepted { qd, peer }))),
                Ok(None) => self.register(key, Interest::Read)?,
                Err(error) => return Ok(Step::Done(Err(error))),
            }
        }
        if let Some(Socket { state: State::Listener(accepts), .. }) = self.sockets.get_mut(key) {
            accepts.push_back(token);
        }
        Ok(Step::Pending)
    }

    /// Serves waiting accepts until no connection waits.
    pub(super) fn run_accepts(&mut self, queues: &mut QueueTable<Queue>, cx: &mut Cx<'_>, key: Key) -> usize {
        for done in 0..ACCEPTS_PER_TURN {
            let Some(Socket { state: State::Listener(accepts), .. }) = self.sockets.get(key) else {
                return done;
            };
            let Some(token) = accepts.front().copied() else { return done };
            let result = match self.accept(queues, key) {
                Ok(Some((qd, peer))) => Ok(Done::Accepted { qd, peer }),
                Ok(None) => return done,
                Err(error) => Err(error),
            };
            if let Some(Socket { state: State::Listener(accepts), .. }) = self.sockets.get_mut(key) {
                accepts.pop_front();
            }
            cx.done.post(token, result);
        }
        if let Some(socket) = self.sockets.get_mut(key) {
            self.readiness.put_again(&mut socket.watch, key);
        }
        ACCEPTS_PER_TURN
    }

    /// The next connection as a queue. It has its listener's options: the kernel passes them on.
    fn accept(&mut self, queues: &mut QueueTable<Queue>, key: Key) -> Attempt<(QDesc, Addr)> {
        let Some(listener) = self.sockets.get(key) else { return Ok(None) };
        if queues.len() >= self.max_queues {
            if !socket::is_readable(&listener.fd) {
                return Ok(None);
            }
            return Err(Error::TooManyQueues(self.max_queues));
        }
        let Some((fd, peer)) = socket::accept(&listener.fd)? else { return Ok(None) };
        let mut socket = Socket::new(fd, listener.domain, SocketKind::Stream);
        socket.linger = listener.linger;
        socket.state = State::Stream(Stream::default());
        let key = self.sockets.insert(socket);
        self.io.counters.accepted += 1;
        queues.insert(Queue::Socket(key)).map(|qd| Some((qd, peer)))
    }

    pub(super) fn start_connect(&mut self, token: QToken, key: Key, peer: &Addr) -> Result<Step, Error> {
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        check(peer, socket.domain)?;
        let mut step = socket::connect(&socket.fd, peer, socket.domain);
        if step == Ok(Connect::InProgress) {
            // On the same machine the handshake is over before the first call returns.
            step = socket::connect(&socket.fd, peer, socket.domain);
        }
        match step {
            Ok(Connect::Done) => {
                socket.state = State::Stream(Stream::default());
                self.io.counters.connected += 1;
                return Ok(Step::Done(Ok(Done::Connected)));
            }
            Ok(Connect::InProgress | Connect::Busy) => {}
            Err(error) => return Ok(Step::Done(Err(error))),
        }
        let busy = step == Ok(Connect::Busy);
        socket.state = State::Connecting(Connecting { token, peer: peer.clone(), busy });
        if let Err(error) = self.register(key, Interest::ReadWrite) {
            self.give_up_connect(key);
            return Err(error);
        }
        self.unclocked.push(key);
        Ok(Step::Pending)
    }

    /// Looks how a connect went.
    pub(super) fn run_connect(&mut self, cx: &mut Cx<'_>, key: Key) -> usize {
        let Some(socket) = self.sockets.get_mut(key) else { return 0 };
        let State::Connecting(connecting) = &mut socket.state else { return 0 };
        let token = connecting.token;
        let result = match socket::connect(&socket.fd, &connecting.peer, socket.domain) {
            Ok(Connect::Done) => Ok(Done::Connected),
            Ok(step) => {
                connecting.busy = step == Connect::Busy;
                self.plan_look(key, cx.now);
                return 0;
            }
            Err(error) => Err(error),
        };
        self.io.counters.connected += u64::from(result.is_ok());
        socket.state = if result.is_ok() { State::Stream(Stream::default()) } else { State::Fresh };
        socket.expires = None;
        socket.deadline = None;
        cx.done.post(token, result);
        1
    }

    /// The time for a connect is over.
    pub(super) fn connect_expired(&mut self, cx: &mut Cx<'_>, key: Key) -> usize {
        let Some(Socket { state: State::Connecting(connecting), .. }) = self.sockets.get(key) else {
            return 0;
        };
        let token = connecting.token;
        self.give_up_connect(key);
        cx.done.post(token, Err(Error::TimedOut));
        1
    }

    /// Stops a connect; the socket is as good as new.
    pub(super) fn give_up_connect(&mut self, key: Key) {
        if let Some(socket) = self.sockets.get_mut(key) {
            // Refused only where nothing was under way.
            let _ = socket::disconnect(&socket.fd);
            socket.state = State::Fresh;
            socket.expires = None;
            socket.deadline = None;
        }
    }

    /// Gives a datagram socket its peer; a second call gives it another.
    pub(super) fn connect_datagram(&mut self, key: Key, peer: &Addr) -> Result<Step, Error> {
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        check(peer, socket.domain)?;
        let connected = socket::connect(&socket.fd, peer, socket.domain);
        if connected.is_ok()
            && let State::Datagram(datagram) = &mut socket.state
        {
            datagram.set_connected();
            self.io.counters.connected += 1;
        }
        Ok(Step::Done(connected.map(|_| Done::Connected)))
    }
}
