//! Control calls on sockets.
//!
//! Choices that differ from the kernel's defaults: TCP_NODELAY is on (a push is a message to somebody, not a
//! byte of a bulk transfer; `NoDelay(false)` turns it off); SO_REUSEADDR is set by `bind` of a TCP socket unless
//! the application has said otherwise, so that a restarted server gets its port although old connections
//! linger in TIME_WAIT; an IPv6 socket speaks IPv6 only, whatever `net.ipv6.bindv6only` says, so that it means
//! the same over every libOS. The file of a bound UNIX socket is removed when the socket is closed.

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::desc::{QDesc, QueueTable};
use demi_api::error::Error;
use demi_api::libos::{Cx, OptionName, QueueKind, Shutdown, SocketOption};
use std::collections::VecDeque;

use super::Net;
use super::datagram::Datagram;
use super::socket::{Socket, State};
use super::stream::Stream;
use crate::catnap::Queue;
use crate::sys::{Fd, options, socket};
use demi_api::slab::Key;

impl Net {
    pub(crate) fn socket(
        &mut self,
        queues: &mut QueueTable<Queue>,
        domain: Domain,
        kind: SocketKind,
    ) -> Result<QDesc, Error> {
        if queues.len() >= self.max_queues {
            return Err(Error::TooManyQueues(self.max_queues));
        }
        let fd = socket::socket(domain, kind)?;
        let key = self.sockets.insert(Socket::new(fd, domain, kind));
        queues.insert(Queue::Socket(key))
    }

    /// Takes over a socket that somebody else has made. A connected one keeps its file's flags, which others may
    /// share; one that has yet to accept or connect must not block and is made so.
    pub(crate) fn adopt(&mut self, queues: &mut QueueTable<Queue>, fd: Fd) -> Result<QDesc, Error> {
        if queues.len() >= self.max_queues {
            return Err(Error::TooManyQueues(self.max_queues));
        }
        let found = socket::examine(&fd)?;
        let mut socket = Socket::new(fd, found.domain, found.kind);
        // Whoever made it has chosen, if only by leaving it as it was.
        socket.reuse_chosen = true;
        socket.bound = found.bound;
        match (found.kind, found.listening, found.connected) {
            (SocketKind::Datagram, _, true) => {
                socket.state = State::Datagram(Datagram::connected());
            }
            (SocketKind::Datagram, _, false) => {}
            (SocketKind::Stream, _, true) => socket.state = State::Stream(Stream::default()),
            (SocketKind::Stream, true, false) => {
                socket::unblock(&socket.fd)?;
                socket.state = State::Listener(VecDeque::new());
            }
            (SocketKind::Stream, false, false) => socket::unblock(&socket.fd)?,
        }
        let key = self.sockets.insert(socket);
        queues.insert(Queue::Socket(key))
    }

    pub(crate) fn bind(&mut self, key: Key, addr: &Addr) -> Result<(), Error> {
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        if socket.bound || !matches!(socket.state, State::Fresh | State::Datagram(_)) {
            return Err(Error::AlreadyConnected);
        }
        let is_tcp = socket.kind == SocketKind::Stream && socket.domain != Domain::Unix;
        if is_tcp && !socket.reuse_chosen {
            options::set(&socket.fd, SocketOption::ReuseAddr(true))?;
        }
        socket::bind(&socket.fd, addr, socket.domain)?;
        socket.bound = true;
        socket.own_path(addr);
        Ok(())
    }

    pub(crate) fn listen(&mut self, key: Key, backlog: u32) -> Result<(), Error> {
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        match socket.state {
            State::Fresh if socket.bound => {}
            State::Fresh => return Err(Error::Invalid("bind before listen")),
            State::Datagram(_) => return Err(Error::NotSupported("listen on a datagram socket")),
            State::Listener(_) | State::Connecting(_) | State::Stream(_) => {
                return Err(Error::AlreadyConnected);
            }
        }
        socket::listen(&socket.fd, backlog)?;
        socket.state = State::Listener(VecDeque::new());
        Ok(())
    }

    pub(crate) fn shutdown(&mut self, cx: &mut Cx<'_>, key: Key, how: Shutdown) -> Result<(), Error> {
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        match &mut socket.state {
            State::Stream(stream) => stream.shutdown(&socket.fd, cx, how),
            State::Datagram(_) => Err(Error::NotSupported("shutdown of a datagram socket")),
            State::Fresh | State::Listener(_) | State::Connecting(_) => Err(Error::NotConnected),
        }
    }

    pub(crate) fn set_option(&mut self, key: Key, option: SocketOption) -> Result<(), Error> {
        let socket = self.sockets.get_mut(key).ok_or(Error::BadDescriptor)?;
        match option {
            SocketOption::Linger(linger) => socket.linger = linger,
            other => {
                options::set(&socket.fd, other)?;
                socket.reuse_chosen |= matches!(other, SocketOption::ReuseAddr(_));
            }
        }
        Ok(())
    }

    pub(crate) fn option(&self, key: Key, name: OptionName) -> Result<SocketOption, Error> {
        let socket = self.sockets.get(key).ok_or(Error::BadDescriptor)?;
        match name {
            OptionName::Linger => Ok(SocketOption::Linger(socket.linger)),
            other => options::get(&socket.fd, other),
        }
    }

    pub(crate) fn error(&self, key: Key) -> Result<Option<Error>, Error> {
        options::error(&self.sockets.get(key).ok_or(Error::BadDescriptor)?.fd)
    }

    pub(crate) fn local_addr(&self, key: Key) -> Result<Addr, Error> {
        socket::local_addr(&self.sockets.get(key).ok_or(Error::BadDescriptor)?.fd)
    }

    pub(crate) fn peer_addr(&self, key: Key) -> Result<Addr, Error> {
        socket::peer_addr(&self.sockets.get(key).ok_or(Error::BadDescriptor)?.fd)
    }

    pub(crate) fn kind(&self, key: Key) -> Result<QueueKind, Error> {
        Ok(self.sockets.get(key).ok_or(Error::BadDescriptor)?.queue_kind())
    }
}
