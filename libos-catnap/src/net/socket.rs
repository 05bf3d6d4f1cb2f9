//! One socket: its descriptor, what it has become, and what the readiness set knows about it.

use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::error::Error;
use demi_api::libos::{Cx, QueueKind};
use demi_api::time::Instant;
use demi_api::token::QToken;

use super::datagram::Datagram;
use super::stream::Stream;
use crate::readiness::Watch;
use crate::sys::Fd;
use crate::sys::file::{FileId, identify, unlink_if};

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: Fd,
    pub(crate) domain: Domain,
    pub(crate) kind: SocketKind,
    pub(crate) state: State,
    pub(crate) watch: Watch,
    pub(crate) bound: bool,
    /// The socket file that `bind` made, to be removed with the socket.
    pub(crate) path: Option<(Rc<Path>, FileId)>,
    /// `None`: the configured default.
    pub(crate) linger: Option<Duration>,
    /// Whether the application has said what it wants of SO_REUSEADDR.
    pub(crate) reuse_chosen: bool,
    /// Pushes of the present round are gathered; the socket is in the list of those.
    pub(crate) unsent: bool,
    /// The descriptor is gone; what was pushed is still being sent.
    pub(crate) closing: bool,
    /// When a connect, or a closed socket's sending, is given up. Set on the turn after it began.
    pub(crate) expires: Option<Instant>,
    /// When to look at the socket although nothing is reported: the one entry of the deadlines that counts.
    pub(crate) deadline: Option<Instant>,
}

/// What a socket has become. A stream socket begins as `Fresh`, a datagram socket is `Datagram` throughout.
#[derive(Debug)]
pub(crate) enum State {
    Fresh,
    Listener(VecDeque<QToken>),
    Connecting(Connecting),
    Stream(Stream),
    Datagram(Datagram),
}

#[derive(Debug)]
pub(crate) struct Connecting {
    pub(crate) token: QToken,
    pub(crate) peer: Addr,
    /// The listener's backlog was full: the kernel has not begun, and will not tell when it could.
    pub(crate) busy: bool,
}

impl Socket {
    pub(crate) fn new(fd: Fd, domain: Domain, kind: SocketKind) -> Socket {
        let state = match kind {
            SocketKind::Stream => State::Fresh,
            SocketKind::Datagram => State::Datagram(Datagram::default()),
        };
        Socket {
            fd,
            domain,
            kind,
            state,
            watch: Watch::default(),
            bound: false,
            path: None,
            linger: None,
            reuse_chosen: false,
            unsent: false,
            closing: false,
            expires: None,
            deadline: None,
        }
    }

    pub(crate) fn queue_kind(&self) -> QueueKind {
        match self.kind {
            SocketKind::Stream => QueueKind::Stream,
            SocketKind::Datagram => QueueKind::Message,
        }
    }

    /// Whether an operation waits for something to arrive.
    pub(crate) fn waits_to_receive(&self) -> bool {
        match &self.state {
            State::Fresh | State::Connecting(_) => false,
            State::Listener(accepts) => !accepts.is_empty(),
            State::Stream(stream) => stream.has_pops(),
            State::Datagram(datagram) => datagram.has_pops(),
        }
    }

    /// Whether an operation waits for room to send.
    pub(crate) fn waits_to_send(&self) -> bool {
        match &self.state {
            State::Fresh | State::Listener(_) => false,
            State::Connecting(_) => true,
            State::Stream(stream) => stream.has_pushes(),
            State::Datagram(datagram) => datagram.has_pushes(),
        }
    }

    /// Whether the socket waits for something that the kernel gives no notice of.
    pub(crate) fn must_retry(&self) -> bool {
        match &self.state {
            State::Fresh | State::Listener(_) | State::Stream(_) => false,
            State::Connecting(connecting) => connecting.busy,
            State::Datagram(datagram) => datagram.must_retry(self.domain),
        }
    }

    /// Whether pushes wait; a connect does not count.
    pub(crate) fn has_pushes(&self) -> bool {
        !matches!(self.state, State::Connecting(_)) && self.waits_to_send()
    }

    /// Posts everything but pushes as cancelled.
    pub(crate) fn cancel_all_but_pushes(&mut self, cx: &mut Cx<'_>) {
        match &mut self.state {
            State::Fresh => {}
            State::Listener(accepts) => {
                for token in accepts.drain(..) {
                    cx.done.post(token, Err(Error::Cancelled));
                }
            }
            State::Connecting(connecting) => {
                cx.done.post(connecting.token, Err(Error::Cancelled));
                self.state = State::Fresh;
            }
            State::Stream(stream) => stream.cancel_pops(cx),
            State::Datagram(datagram) => datagram.cancel_pops(cx),
        }
    }

    pub(crate) fn fail_pushes(&mut self, cx: &mut Cx<'_>, error: &Error) {
        match &mut self.state {
            State::Fresh | State::Listener(_) | State::Connecting(_) => {}
            State::Stream(stream) => stream.fail_pushes(cx, error),
            State::Datagram(datagram) => datagram.fail_pushes(cx, error),
        }
    }

    /// Notes the socket file that `bind` has just made.
    pub(crate) fn own_path(&mut self, addr: &Addr) {
        if let Addr::Unix(path) = addr
            && let Some(id) = identify(path)
        {
            self.path = Some((Rc::clone(path), id));
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some((path, id)) = self.path.take() {
            unlink_if(&path, id);
        }
    }
}
