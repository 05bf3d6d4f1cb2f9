//! Making, naming, connecting and accepting sockets.

use std::net::SocketAddr;

use demi_api::addr::{Domain, SocketKind};
use demi_api::libos::Shutdown;
use demi_api::slab::Key;
use rustix::io::Errno;

use super::{Answer, Patience};
use crate::carrier::Carrier;
use crate::config::Direction;
use crate::shim::Shim;
use crate::state::{Object, Role, Socket};
use crate::sys;
use crate::table::TABLE;

impl<C: Carrier> Shim<C> {
    /// A socket of the kernel's has just been made: it may become ours.
    pub(crate) fn made(&'static self, fd: i32, domain: i32, kind: i32, protocol: i32) -> Result<(), Errno> {
        let domain = match domain {
            libc::AF_INET => Domain::Inet,
            libc::AF_INET6 => Domain::Inet6,
            _ => return Ok(()),
        };
        let nonblock = kind & libc::SOCK_NONBLOCK != 0;
        let kind = match (kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), protocol) {
            (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => SocketKind::Stream,
            (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => SocketKind::Datagram,
            _ => return Ok(()),
        };
        if !TABLE.has_place(fd) || !self.is_ours() {
            return Ok(());
        }
        let mut state = self.lock();
        // What cannot be read claims nothing, and has said so.
        if state.settings().is_ok() {
            let mut socket = Socket::new(domain, kind, nonblock);
            socket.dual = domain == Domain::Inet6 && !sys::is_v6_only(fd);
            state.enter(fd, Object::Socket(Box::new(socket)));
        }
        Ok(())
    }

    /// Whether the address makes the socket ours. If not, the kernel has it from now on.
    fn claims(
        &'static self,
        fd: i32,
        key: Key,
        addr: SocketAddr,
        direction: Direction,
    ) -> Result<bool, Errno> {
        let mut state = self.lock();
        if state.settings()?.section.claims(addr, direction, C::IN_KERNEL) {
            return Ok(true);
        }
        if !matches!(state.socket(key)?.role, Role::Plain { .. }) {
            // It is bound to what is ours already.
            return Ok(true);
        }
        state.give_back(fd, key);
        Ok(false)
    }

    pub(crate) fn bind(&'static self, (fd, key): (i32, Key), addr: Option<SocketAddr>) -> Answer<()> {
        let Some(addr) = addr else { return Ok(None) };
        if !self.claims(fd, key, addr, Direction::In)? || C::IN_KERNEL {
            return Ok(None);
        }
        let mut state = self.lock();
        let socket = state.socket(key)?;
        if addr.is_ipv6() != (socket.domain == Domain::Inet6) {
            return Err(Errno::AFNOSUPPORT);
        }
        if socket.local.is_some() || !matches!(socket.role, Role::Plain { backlog: None }) {
            return Err(Errno::INVAL);
        }
        let kind = socket.kind;
        let mut addr = addr;
        if addr.port() == 0 {
            addr.set_port(sys::reserve_port(fd)?);
        } else if !sys::shares_port(fd) && state.is_taken(kind, addr) {
            return Err(Errno::ADDRINUSE);
        }
        if kind == SocketKind::Stream && C::has_address(&state.settings()?.config, addr.ip()) == Some(false) {
            return Err(Errno::ADDRNOTAVAIL);
        }
        state.socket(key)?.local = Some(addr);
        // Datagrams may come from now on, and nobody sends them twice.
        if kind == SocketKind::Datagram
            && let Err(errno) = state.realize(key, fd)
        {
            state.socket(key)?.local = None;
            return Err(errno);
        }
        Ok(Some(()))
    }

    pub(crate) fn listen(&'static self, (fd, key): (i32, Key), backlog: i32) -> Answer<()> {
        let mut state = self.lock();
        let socket = state.socket(key)?;
        let backlog = u32::try_from(backlog).unwrap_or(0).min(65_535);
        if C::IN_KERNEL {
            if let Role::Plain { backlog: noted } = &mut socket.role {
                *noted = Some(backlog);
            }
            return Ok(None);
        }
        if socket.kind != SocketKind::Stream {
            return Err(Errno::OPNOTSUPP);
        }
        if socket.local.is_none() {
            let any: SocketAddr = if socket.domain == Domain::Inet {
                ([0; 4], sys::reserve_port(fd)?).into()
            } else {
                ([0; 16], sys::reserve_port(fd)?).into()
            };
            socket.local = Some(any);
        }
        match &mut socket.role {
            Role::Plain { backlog: noted } => *noted = Some(backlog),
            Role::Listener(listener) => listener.backlog = backlog,
            Role::Connecting { .. } | Role::Stream(_) | Role::Datagram(_) | Role::Lost => {
                return Err(Errno::INVAL);
            }
        }
        // Without an instance it is left open who is to accept: this process, or children of it.
        if state.has_instance() {
            state.realize(key, fd)?;
        }
        Ok(Some(()))
    }

    /// A connection of the kernel's has just been accepted.
    pub(crate) fn accepted(&'static self, listener: Key, fd: i32, flags: i32) -> Result<(), Errno> {
        let mut state = self.lock();
        let domain = state.socket(listener)?.domain;
        if TABLE.has_place(fd) && self.is_ours() {
            let socket = Socket::new(domain, SocketKind::Stream, flags & libc::SOCK_NONBLOCK != 0);
            state.enter(fd, Object::Socket(Box::new(socket)));
        }
        Ok(())
    }

    /// The next connection: its descriptor and the peer's address, and whether that is to be given as IPv6.
    pub(crate) fn accept(&'static self, at: (i32, Key), flags: i32) -> Answer<(i32, SocketAddr, bool)> {
        if C::IN_KERNEL {
            return Ok(None);
        }
        if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
            return Err(Errno::INVAL);
        }
        {
            let mut state = self.lock();
            let socket = state.socket(at.1)?;
            if !matches!(socket.role, Role::Plain { backlog: Some(_) } | Role::Listener(_)) {
                return Err(if socket.kind == SocketKind::Stream { Errno::INVAL } else { Errno::OPNOTSUPP });
            }
        }
        let Some(connection) = self.blocking(at, Patience::Receive, |state| state.accept_next(at.1))? else {
            return Ok(None);
        };
        let mut state = self.lock();
        let (domain, options, has_options) = match state.socket(at.1) {
            Ok(socket) => {
                let options = [socket.recv_timeout, socket.send_timeout, socket.linger];
                (socket.domain, options, socket.has_options)
            }
            Err(errno) => {
                // Another thread has closed the listener meanwhile: nobody will have the connection.
                state.accept_later(at.1, connection);
                return Err(errno);
            }
        };
        let fd = match sys::placeholder(domain, flags) {
            Ok(fd) if TABLE.has_place(fd) => fd,
            Ok(fd) => {
                sys::close(fd);
                state.accept_later(at.1, connection);
                return Err(Errno::MFILE);
            }
            Err(errno) => {
                state.accept_later(at.1, connection);
                return Err(errno);
            }
        };
        let mut socket = Socket::new(domain, SocketKind::Stream, flags & libc::SOCK_NONBLOCK != 0);
        [socket.recv_timeout, socket.send_timeout, socket.linger] = options;
        let key = state.insert(Object::Socket(Box::new(socket)));
        state.become_stream(key, connection.0, None)?;
        if has_options {
            sys::copy_options(at.0, fd);
            state.pass_options_on(key, fd);
        }
        state.enter_key(fd, key);
        Ok(Some((fd, connection.1, domain == Domain::Inet6)))
    }

    /// `addr` is `None` for a family that is not the internet's, such as that which undoes a connect.
    pub(crate) fn connect(&'static self, (fd, key): (i32, Key), addr: Option<SocketAddr>) -> Answer<()> {
        let Some(addr) = addr else {
            self.lock().disconnect_datagram(key);
            return Ok(None);
        };
        if !self.claims(fd, key, addr, Direction::Out)? {
            return Ok(None);
        }
        let mut state = self.lock();
        let socket = state.socket(key)?;
        let kind = socket.kind;
        if C::IN_KERNEL {
            // A connect of what is adopted already must be known to the libOS.
            if let Role::Datagram(_) = socket.role {
                return state.connect_datagram(key, addr).map(Some);
            }
            return Ok(None);
        }
        if kind == SocketKind::Datagram {
            state.realize(key, fd)?;
            return state.connect_datagram(key, addr).map(Some);
        }
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        state.connect_now(key, fd, addr)?;
        if state.socket(key)?.nonblock {
            // How it has gone, if it has, is asked for later.
            return Err(Errno::INPROGRESS);
        }
        if let Some(outcome) = state.connect_outcome(key) {
            return outcome.map(Some);
        }
        drop(state);
        match self.blocking((fd, key), Patience::Send, |state| {
            state.connect_outcome(key).unwrap_or(Err(Errno::AGAIN))
        }) {
            Err(Errno::AGAIN) => Err(Errno::INPROGRESS),
            outcome => outcome,
        }
    }

    pub(crate) fn shutdown(&'static self, (fd, key): (i32, Key), how: i32) -> Answer<()> {
        let how = match how {
            libc::SHUT_RD => Shutdown::Read,
            libc::SHUT_WR => Shutdown::Write,
            libc::SHUT_RDWR => Shutdown::Both,
            _ => return Err(Errno::INVAL),
        };
        let mut state = self.lock();
        if !state.realize(key, fd)? {
            return if C::IN_KERNEL { Ok(None) } else { Err(Errno::NOTCONN) };
        }
        match state.socket(key)?.role {
            Role::Stream(_) => state.shut_stream(key, how).map(Some),
            Role::Datagram(_) if C::IN_KERNEL => Ok(None),
            Role::Listener(_) => {
                state.stop_listening(key)?;
                Ok(Some(()))
            }
            Role::Plain { .. } | Role::Connecting { .. } | Role::Datagram(_) | Role::Lost => {
                Err(Errno::NOTCONN)
            }
        }
    }

    /// The socket's own address, and whether it is to be given as IPv6.
    pub(crate) fn local_name(&'static self, key: Key) -> Answer<(SocketAddr, bool)> {
        if C::IN_KERNEL {
            return Ok(None);
        }
        let mut state = self.lock();
        let socket = state.socket(key)?;
        let six = socket.domain == Domain::Inet6;
        let any: SocketAddr = if six { ([0; 16], 0).into() } else { ([0; 4], 0).into() };
        let noted = socket.local.unwrap_or(any);
        if matches!(socket.role, Role::Listener(_) | Role::Plain { .. } | Role::Lost) {
            return Ok(Some((noted, six)));
        }
        let Some(qd) = socket.queue() else { return Ok(Some((noted, six))) };
        let addr = state.demi()?.local_addr(qd).ok().and_then(|addr| addr.inet());
        Ok(Some((addr.unwrap_or(noted), six)))
    }

    /// The peer's address.
    pub(crate) fn peer_name(&'static self, key: Key) -> Answer<(SocketAddr, bool)> {
        if C::IN_KERNEL {
            return Ok(None);
        }
        let mut state = self.lock();
        let socket = state.socket(key)?;
        let six = socket.domain == Domain::Inet6;
        let is_connected = match &socket.role {
            Role::Stream(_) => true,
            Role::Datagram(datagram) => datagram.is_connected(),
            _ => false,
        };
        let Some(qd) = socket.queue().filter(|_| is_connected) else { return Err(Errno::NOTCONN) };
        let addr = state.demi()?.peer_addr(qd).ok().and_then(|addr| addr.inet());
        addr.map(|addr| Some((addr, six))).ok_or(Errno::NOTCONN)
    }
}
