//! Where an operation begins: the system call first, and only if that would block a place to wait.

use demi_api::desc::QueueTable;
use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::op::{Done, Op, Position, Step};
use demi_api::token::QToken;

use super::Net;
use super::socket::State;
use super::stream::Pushed;
use crate::catnap::Queue;
use crate::receive::element;
use crate::sys::epoll::Interest;
use demi_api::slab::Key;

impl Net {
    #[inline]
    pub(crate) fn start(
        &mut self,
        queues: &mut QueueTable<Queue>,
        cx: &mut Cx<'_>,
        token: QToken,
        key: Key,
        op: &mut Op,
    ) -> Result<Step, Error> {
        let Some(socket) = self.sockets.get_mut(key) else { return Err(Error::BadDescriptor) };
        // What there is most of comes first, so that it is found by comparing.
        if let State::Stream(stream) = &mut socket.state {
            if let Op::Push { sga, to: None } = op {
                return match stream.start_push(&socket.fd, &mut self.io, cx, token, sga) {
                    Ok(Pushed::Done(Ok(()))) => Ok(Step::Done(Ok(Done::Pushed(Position(0))))),
                    Ok(Pushed::Done(Err(error))) => Ok(Step::Done(Err(error))),
                    Ok(Pushed::Blocked) => {
                        self.await_room(key);
                        Ok(Step::Pending)
                    }
                    Ok(Pushed::Gathered) => {
                        if !std::mem::replace(&mut socket.unsent, true) {
                            self.unsent.push(key);
                        }
                        Ok(Step::Pending)
                    }
                    Err(error) => Err(error),
                };
            }
            if let Op::Pop { limit } = op {
                return match stream.start_pop(&socket.fd, &mut self.io, cx.heap, token, *limit) {
                    Ok(Some(Ok(buf))) => Ok(Step::Done(Ok(Done::Popped(element(buf))))),
                    Ok(Some(Err(error))) => Ok(Step::Done(Err(error))),
                    Ok(None) => self.await_bytes(key).map(|()| Step::Pending),
                    Err(error) => Err(error),
                };
            }
        }
        self.start_other(queues, cx, token, key, op)
    }

    #[inline(never)]
    fn start_other(
        &mut self,
        queues: &mut QueueTable<Queue>,
        cx: &mut Cx<'_>,
        token: QToken,
        key: Key,
        op: &mut Op,
    ) -> Result<Step, Error> {
        let Some(socket) = self.sockets.get_mut(key) else { return Err(Error::BadDescriptor) };
        match (&mut socket.state, op) {
            (State::Datagram(datagram), Op::Pop { .. }) => {
                let step = datagram.start_pop(&socket.fd, &mut self.io, cx.heap, token);
                if matches!(step, Step::Pending) {
                    self.await_bytes(key)?;
                }
                Ok(step)
            }
            (State::Datagram(datagram), Op::Push { sga, to }) => {
                let step = datagram.start_push(&socket.fd, &mut self.io, socket.domain, token, sga, to);
                if matches!(step, Ok(Step::Pending)) {
                    self.await_room(key);
                }
                step
            }
            (State::Listener(_), Op::Accept) => self.start_accept(queues, token, key),
            (State::Fresh, Op::Connect(peer)) => self.start_connect(token, key, peer),
            (State::Datagram(_), Op::Connect(peer)) => self.connect_datagram(key, peer),
            (State::Listener(_) | State::Connecting(_) | State::Stream(_), Op::Connect(_)) => {
                Err(Error::AlreadyConnected)
            }
            (_, Op::Accept) => Err(Error::Invalid("accept needs a listening socket")),
            (_, Op::Flush) => Err(Error::NotSupported("flush of a socket")),
            (_, Op::Atomic { .. }) => Err(Error::NotSupported("atomic operations on a socket")),
            (State::Stream(_), Op::Push { to: Some(_), .. }) => {
                Err(Error::Invalid("a stream has one peer: push without an address"))
            }
            (_, Op::Push { .. } | Op::Pop { .. }) => Err(Error::NotConnected),
        }
    }

    /// Recalls an operation; posts it if that is possible.
    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, key: Key) -> Result<(), Error> {
        let Some(socket) = self.sockets.get_mut(key) else { return Err(Error::BadDescriptor) };
        match &mut socket.state {
            State::Fresh => return Err(Error::NotCancellable),
            State::Listener(accepts) => {
                let place = accepts.iter().position(|other| *other == token).ok_or(Error::NotCancellable)?;
                accepts.remove(place);
            }
            State::Connecting(connecting) if connecting.token == token => self.give_up_connect(key),
            State::Connecting(_) => return Err(Error::NotCancellable),
            State::Stream(stream) => stream.cancel(token)?,
            State::Datagram(datagram) => datagram.cancel(token)?,
        }
        cx.done.post(token, Err(Error::Cancelled));
        Ok(())
    }

    /// Finds a pop that has just been queued its place to wait: the spin set, or else the kernel's.
    #[inline]
    fn await_bytes(&mut self, key: Key) -> Result<(), Error> {
        let Some(socket) = self.sockets.get_mut(key) else { return Ok(()) };
        if self.readiness.enter(&mut socket.watch, key) {
            return Ok(());
        }
        if let Some(stale) = self.stale_spinner()
            && self.demote(stale)
        {
            return self.await_bytes(key);
        }
        let registered = self.register(key, Interest::Read);
        if registered.is_err() {
            match self.sockets.get_mut(key).map(|socket| &mut socket.state) {
                Some(State::Stream(stream)) => stream.take_last_pop(),
                Some(State::Datagram(datagram)) => datagram.take_last_pop(),
                Some(State::Fresh | State::Listener(_) | State::Connecting(_)) | None => {}
            }
        }
        registered
    }

    fn stale_spinner(&self) -> Option<Key> {
        (0..self.readiness.spinning()).filter_map(|place| self.readiness.spinner(place)).find(|key| {
            self.sockets
                .get(*key)
                .is_none_or(|socket| !socket.waits_to_receive() || self.readiness.is_stale(&socket.watch))
        })
    }

    /// A push waits: the kernel tells when there is room, or, where it cannot, time does.
    pub(super) fn await_room(&mut self, key: Key) {
        // A socket that cannot be registered continues on every turn.
        let registered = self.register(key, Interest::ReadWrite).is_ok();
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if !registered {
            self.readiness.put_again(&mut socket.watch, key);
        }
        if socket.must_retry() {
            self.unclocked.push(key);
        }
    }
}
