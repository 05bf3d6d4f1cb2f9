//! A socket that the shim has taken on, and what it has become.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use demi_api::addr::{Domain, SocketKind};
use demi_api::desc::QDesc;
use demi_api::token::QToken;
use rustix::io::Errno;

use super::datagram::Datagram;
use super::epoll::WatchAt;
use super::stream::Stream;
use demi_api::slab::Key;

pub(crate) const IN: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
pub(crate) const OUT: u32 = (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;
pub(crate) const ERR: u32 = libc::EPOLLERR as u32;
pub(crate) const HUP: u32 = libc::EPOLLHUP as u32;
pub(crate) const RDHUP: u32 = libc::EPOLLRDHUP as u32;

/// One socket of the program's, named by one or more of its descriptors.
pub(crate) struct Socket {
    pub(crate) kind: SocketKind,
    pub(crate) domain: Domain,
    /// Descriptors that name it.
    pub(crate) refs: usize,
    pub(crate) nonblock: bool,
    pub(crate) recv_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    /// What the program has asked of its closing.
    pub(crate) linger: Option<Duration>,
    /// An IPv6 socket that speaks IPv4 as well.
    pub(crate) dual: bool,
    /// The program has set an option, which what it accepts here has as well.
    pub(crate) has_options: bool,
    /// What is to be reported, once, by the next call or by SO_ERROR.
    pub(crate) error: Option<Errno>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) watches: Vec<WatchAt>,
    pub(crate) waiters: Vec<Key>,
    pub(crate) role: Role,
}

pub(crate) enum Role {
    /// The kernel's still, or not yet anybody's. It listens, with such a backlog, if it is the libOS's to be.
    Plain {
        backlog: Option<u32>,
    },
    Listener(Listener),
    Connecting {
        qd: QDesc,
    },
    Stream(Stream),
    Datagram(Datagram),
    /// It went with the instance of a parent process, which has it still.
    Lost,
}

/// Connections that have come, and the accepts that are under way: one for each queue.
pub(crate) struct Listener {
    pub(crate) queues: [Option<(QDesc, Option<QToken>)>; 2],
    pub(crate) backlog: u32,
    pub(crate) ready: VecDeque<(QDesc, SocketAddr)>,
}

impl Socket {
    pub(crate) fn new(domain: Domain, kind: SocketKind, nonblock: bool) -> Socket {
        Socket {
            kind,
            domain,
            refs: 1,
            nonblock,
            recv_timeout: None,
            send_timeout: None,
            linger: None,
            dual: domain == Domain::Inet6,
            has_options: false,
            error: None,
            local: None,
            watches: Vec::new(),
            waiters: Vec::new(),
            role: Role::Plain { backlog: None },
        }
    }

    /// The socket's queues in the instance.
    pub(crate) fn queues(&self) -> [Option<QDesc>; 2] {
        match &self.role {
            Role::Plain { .. } | Role::Lost => [None, None],
            Role::Listener(listener) => listener.queues.map(|queue| queue.map(|(qd, _)| qd)),
            Role::Connecting { qd } => [Some(*qd), None],
            Role::Stream(stream) => [Some(stream.qd), None],
            Role::Datagram(datagram) => [Some(datagram.qd), None],
        }
    }

    /// The descriptor that the libOS has of it.
    pub(crate) fn carried(&self) -> Option<i32> {
        match &self.role {
            Role::Stream(stream) => stream.carried,
            Role::Datagram(datagram) => datagram.carried,
            Role::Plain { .. } | Role::Listener(_) | Role::Connecting { .. } | Role::Lost => None,
        }
    }

    /// The first of them.
    pub(crate) fn queue(&self) -> Option<QDesc> {
        self.queues()[0]
    }

    /// Whether the kernel says when it is ready. Of a socket that is to be the libOS's, it would be wrong.
    pub(crate) fn is_kernels(&self, in_kernel: bool) -> bool {
        in_kernel && matches!(self.role, Role::Plain { .. })
    }

    /// What `poll` would say of it.
    pub(crate) fn bits(&self) -> u32 {
        let error = if self.error.is_some() { ERR | IN | OUT } else { 0 };
        error
            | match &self.role {
                Role::Plain { backlog: Some(_) } | Role::Connecting { .. } => 0,
                Role::Plain { backlog: None } => OUT | HUP,
                Role::Lost => IN | OUT | ERR | HUP,
                Role::Listener(listener) => {
                    if listener.ready.is_empty() {
                        0
                    } else {
                        IN
                    }
                }
                Role::Stream(stream) => stream.bits(),
                Role::Datagram(datagram) => datagram.bits(),
            }
    }
}
