//! Sockets: made, bound, connected, closed.
//!
//! A call that would have to wait yields `None`, and is made again when there may be more for it.

use std::ffi::c_int;
use std::time::Duration;

use demi_api::libos::{Shutdown, SocketOption};
use demi_api::{Addr, Domain, QueueKind, SocketKind};
use demi_c::errno::Errno;

use crate::stack::{File, Phase, Stack};

/// Connections that may wait for an `accept` at the most.
const BACKLOG: c_int = 4096;

impl Stack {
    pub(crate) fn make(&mut self, domain: c_int, kind: c_int, protocol: c_int) -> Result<c_int, Errno> {
        let domain = match domain {
            libc::AF_INET => Domain::Inet,
            libc::AF_INET6 => Domain::Inet6,
            _ => return Err(Errno(libc::EAFNOSUPPORT)),
        };
        let nonblocking = kind & libc::SOCK_NONBLOCK != 0;
        let (socket, queue) = match (kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), protocol) {
            (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => (SocketKind::Stream, QueueKind::Stream),
            (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => (SocketKind::Datagram, QueueKind::Message),
            (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => return Err(Errno(libc::EPROTONOSUPPORT)),
            _ => return Err(Errno(libc::ESOCKTNOSUPPORT)),
        };
        let qd = self.demi.socket(domain, socket)?;
        self.add(qd, queue, Phase::Fresh, nonblocking)
    }

    pub(crate) fn bind(&mut self, fd: c_int, addr: Addr) -> Result<c_int, Errno> {
        let qd = self.socket(fd)?.qd;
        self.demi.bind(qd, addr)?;
        if self.socket(fd)?.kind == QueueKind::Message {
            self.ask_pop(fd);
        }
        Ok(0)
    }

    pub(crate) fn listen(&mut self, fd: c_int, backlog: c_int) -> Result<c_int, Errno> {
        let qd = self.socket(fd)?.qd;
        self.demi.listen(qd, backlog.clamp(1, BACKLOG) as u32)?;
        self.socket(fd)?.phase = Phase::Listening;
        self.ask_accept(fd);
        Ok(0)
    }

    pub(crate) fn accept(&mut self, fd: c_int) -> Result<Option<(c_int, Addr)>, Errno> {
        let socket = self.socket(fd)?;
        if socket.phase != Phase::Listening {
            return Err(socket.failure.take().unwrap_or(Errno(libc::EINVAL)));
        }
        let Some((qd, peer)) = socket.accepted.pop_front() else { return Ok(None) };
        let accepted = self.add(qd, QueueKind::Stream, Phase::Connected, false)?;
        self.ask_pop(accepted);
        Ok(Some((accepted, peer)))
    }

    /// Begins to connect; what becomes of it is seen by [`Stack::connected`].
    pub(crate) fn connect(&mut self, fd: c_int, addr: Addr) -> Result<(), Errno> {
        let socket = self.socket(fd)?;
        match socket.phase {
            Phase::Fresh => {}
            Phase::Connecting => return Err(Errno(libc::EALREADY)),
            Phase::Connected if socket.kind == QueueKind::Message => {}
            Phase::Connected | Phase::Listening => return Err(Errno(libc::EISCONN)),
            Phase::Failed => return Err(socket.failure.take().unwrap_or(Errno(libc::ECONNABORTED))),
        }
        let qd = socket.qd;
        let token = self.demi.connect(qd, addr)?;
        self.socket(fd)?.phase = Phase::Connecting;
        self.note(token, fd);
        Ok(())
    }

    pub(crate) fn connected(&mut self, fd: c_int) -> Result<Option<c_int>, Errno> {
        let socket = self.socket(fd)?;
        match socket.phase {
            Phase::Connected => Ok(Some(0)),
            Phase::Failed => Err(socket.failure.take().unwrap_or(Errno(libc::ECONNABORTED))),
            _ => Ok(None),
        }
    }

    pub(crate) fn shutdown(&mut self, fd: c_int, how: c_int) -> Result<c_int, Errno> {
        let socket = self.socket(fd)?;
        let how = match how {
            libc::SHUT_RD => Shutdown::Read,
            libc::SHUT_WR => Shutdown::Write,
            libc::SHUT_RDWR => Shutdown::Both,
            _ => return Err(Errno(libc::EINVAL)),
        };
        if !matches!(socket.phase, Phase::Connected | Phase::Connecting) {
            return Err(Errno(libc::ENOTCONN));
        }
        socket.shut_read |= !matches!(how, Shutdown::Write);
        socket.edges += 1;
        let qd = socket.qd;
        self.demi.shutdown(qd, how)?;
        Ok(0)
    }

    pub(crate) fn close(&mut self, fd: c_int) -> Result<c_int, Errno> {
        match self.files.remove(&fd).ok_or(Errno(libc::EBADF))? {
            File::Epoll(_) => {}
            File::Socket(socket) => {
                for (qd, _) in &socket.accepted {
                    self.demi.close(*qd)?;
                }
                // RFC 9293 §3.6.1: whoever closes with data unread tells the peer that it was lost. What is held here
                // the stack takes for read.
                if socket.kind == QueueKind::Stream && !socket.held.is_empty() {
                    self.demi.set_option(socket.qd, SocketOption::Linger(Some(Duration::ZERO)))?;
                }
                self.demi.close(socket.qd)?;
            }
        }
        for file in self.files.values_mut() {
            if let File::Epoll(epoll) = file {
                epoll.forget(fd);
            }
        }
        Ok(0)
    }
}
