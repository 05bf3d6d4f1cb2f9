//! Socket calls. Every socket is non-blocking and closed on `exec`; no call raises SIGPIPE.

use std::io::IoSlice;
use std::net::SocketAddr;

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::error::Error;
use demi_api::libos::Shutdown;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{self, Errno};
use rustix::net::{
    self, AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketFlags, SocketType,
    sockopt,
};

use super::addr::{from_kernel, to_kernel, unix};
use super::{Attempt, Fd, attempt, call, translate};

const SEND: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
const NEW: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// Most iovecs of one [`send_vectored`].
pub(crate) const MAX_IOVECS: usize = 64;

/// Connections that `accept` passes over because they died in the backlog, before it comes up for air.
const DEAD_IN_A_ROW: usize = 64;

pub(crate) fn socket(domain: Domain, kind: SocketKind) -> Result<Fd, Error> {
    let family = match domain {
        Domain::Inet => AddressFamily::INET,
        Domain::Inet6 => AddressFamily::INET6,
        Domain::Unix => AddressFamily::UNIX,
    };
    let kind = match kind {
        SocketKind::Stream => SocketType::STREAM,
        SocketKind::Datagram => SocketType::DGRAM,
    };
    let fd: Fd = match io::retry_on_intr(|| net::socket_with(family, kind, NEW, None)) {
        Ok(fd) => fd.into(),
        Err(Errno::AFNOSUPPORT) => return Err(Error::NotSupported("this system lacks the address family")),
        Err(errno) => return Err(translate(errno)),
    };
    if domain == Domain::Inet6 {
        call(|| sockopt::set_ipv6_v6only(&fd, true))?;
    }
    if domain != Domain::Unix && kind == SocketType::STREAM {
        call(|| sockopt::set_tcp_nodelay(&fd, true))?;
    }
    Ok(fd)
}

/// What a socket is that was made elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) domain: Domain,
    pub(crate) kind: SocketKind,
    pub(crate) bound: bool,
    pub(crate) listening: bool,
    pub(crate) connected: bool,
}

/// Looks at a socket that was made elsewhere.
pub(crate) fn examine(fd: &Fd) -> Result<Found, Error> {
    let domain = match call(|| sockopt::socket_domain(fd))? {
        AddressFamily::INET => Domain::Inet,
        AddressFamily::INET6 => Domain::Inet6,
        AddressFamily::UNIX => Domain::Unix,
        _ => return Err(Error::NotSupported("sockets of this family")),
    };
    let kind = match call(|| sockopt::socket_type(fd))? {
        SocketType::STREAM => SocketKind::Stream,
        SocketType::DGRAM => SocketKind::Datagram,
        _ => return Err(Error::NotSupported("sockets of this type")),
    };
    let bound = match local_addr(fd)? {
        Addr::Inet(addr) => addr.port() != 0,
        Addr::Unix(_) => true,
        Addr::Unnamed => false,
    };
    let listening = call(|| sockopt::socket_acceptconn(fd))?;
    let connected = match net::getpeername(fd) {
        Ok(_) => true,
        Err(Errno::NOTCONN) => false,
        Err(errno) => return Err(translate(errno)),
    };
    Ok(Found { domain, kind, bound, listening, connected })
}

/// Makes calls on the socket return at once.
pub(crate) fn unblock(fd: &Fd) -> Result<(), Error> {
    call(|| {
        rustix::fs::fcntl_getfl(fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK))
    })
}

pub(crate) fn bind(fd: &Fd, addr: &Addr, domain: Domain) -> Result<(), Error> {
    let addr = to_kernel(addr, domain)?;
    call(|| net::bind(fd, &addr))
}

pub(crate) fn listen(fd: &Fd, backlog: u32) -> Result<(), Error> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    call(|| net::listen(fd, backlog))
}

/// The next waiting connection. Connections that died while they waited are passed over.
///
/// The kernel takes a descriptor before it looks for a connection: at the limit the call fails even when
/// nobody waits. That case is told apart here, so that only a real connection reports the limit.
pub(crate) fn accept(fd: &Fd) -> Attempt<(Fd, Addr)> {
    for _ in 0..DEAD_IN_A_ROW {
        match net::acceptfrom_with(fd, NEW) {
            Ok((accepted, peer)) => return Ok(Some((accepted.into(), from_kernel(peer)))),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::MFILE | Errno::NFILE) if !is_readable(fd) => return Ok(None),
            Err(
                Errno::INTR
                | Errno::CONNABORTED
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NONET
                | Errno::NETDOWN
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NETUNREACH
                | Errno::PERM,
            ) => {}
            Err(errno) => return Err(translate(errno)),
        }
    }
    Err(Error::ConnectionAborted)
}

pub(crate) fn is_readable(fd: &Fd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(io::retry_on_intr(|| poll(&mut fds, Some(&now))), Ok(1..))
}

/// How far a connect has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Connect {
    Done,
    /// Under way; the socket becomes writable.
    InProgress,
    /// The listener's backlog is full (UNIX sockets only): nothing was begun and nothing will tell when to retry.
    Busy,
}

/// Begins to connect, or, called again, says how it went.
pub(crate) fn connect(fd: &Fd, addr: &Addr, domain: Domain) -> Result<Connect, Error> {
    let addr = to_kernel(addr, domain)?;
    match io::retry_on_intr(|| net::connect(fd, &addr)) {
        Ok(()) | Err(Errno::ISCONN) => Ok(Connect::Done),
        Err(Errno::INPROGRESS | Errno::ALREADY) => Ok(Connect::InProgress),
        Err(Errno::AGAIN) if domain == Domain::Unix => Ok(Connect::Busy),
        Err(Errno::AGAIN) => Err(Error::AddressNotAvailable),
        Err(errno) => Err(translate(errno)),
    }
}

/// Gives up a connect, or forgets a datagram socket's peer.
pub(crate) fn disconnect(fd: &Fd) -> Result<(), Error> {
    call(|| net::connect_unspec(fd))
}

#[inline]
pub(crate) fn recv(fd: &Fd, into: &mut [u8]) -> Attempt<usize> {
    attempt(|| net::recv(fd, &mut *into, RecvFlags::DONTWAIT).map(|(got, _)| got))
}

/// A datagram, its true length (which may be more than there was room for) and its sender.
#[inline]
pub(crate) fn recv_from(fd: &Fd, into: &mut [u8]) -> Attempt<(usize, Option<SocketAddrAny>)> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    attempt(|| net::recvfrom(fd, &mut *into, flags).map(|(_, length, from)| (length, from)))
}

#[inline]
pub(crate) fn send(fd: &Fd, bytes: &[u8]) -> Attempt<usize> {
    attempt(|| net::send(fd, bytes, SEND))
}

#[inline]
pub(crate) fn send_vectored(fd: &Fd, bytes: &[IoSlice<'_>]) -> Attempt<usize> {
    attempt(|| net::sendmsg(fd, bytes, &mut SendAncillaryBuffer::default(), SEND))
}

/// Sends a datagram, to `to` if the socket is not connected.
pub(crate) fn send_datagram(fd: &Fd, bytes: &[IoSlice<'_>], to: Option<&Addr>) -> Attempt<usize> {
    let sent = match (to, bytes) {
        (None, [one]) => attempt_sized(|| net::send(fd, one, SEND)),
        (None, many) => attempt_sized(|| net::sendmsg(fd, many, &mut SendAncillaryBuffer::default(), SEND)),
        (Some(Addr::Inet(SocketAddr::V4(addr))), [one]) => attempt_sized(|| net::sendto(fd, one, SEND, addr)),
        (Some(Addr::Inet(addr)), many) => {
            attempt_sized(|| net::sendmsg_addr(fd, addr, many, &mut SendAncillaryBuffer::default(), SEND))
        }
        (Some(Addr::Unix(path)), many) => {
            let addr = unix(path)?;
            attempt_sized(|| net::sendmsg_addr(fd, &addr, many, &mut SendAncillaryBuffer::default(), SEND))
        }
        (Some(Addr::Unnamed), _) => Err(Error::BadAddress),
    };
    sent.map_err(|error| match error {
        Error::TooLarge { limit, .. } => {
            Error::TooLarge { len: bytes.iter().map(|part| part.len()).sum(), limit }
        }
        other => other,
    })
}

/// Like [`attempt`], and a datagram that the kernel finds too long is [`Error::TooLarge`]: its true limit is
/// not told, and lies at or below what UDP can carry.
fn attempt_sized(mut send: impl FnMut() -> io::Result<usize>) -> Attempt<usize> {
    let mut too_large = false;
    let sent = attempt(|| {
        let sent = send();
        too_large = sent == Err(Errno::MSGSIZE);
        sent
    });
    if too_large { Err(Error::TooLarge { len: 0, limit: 65_507 }) } else { sent }
}

pub(crate) fn shutdown(fd: &Fd, how: Shutdown) -> Result<(), Error> {
    let how = match how {
        Shutdown::Read => net::Shutdown::Read,
        Shutdown::Write => net::Shutdown::Write,
        Shutdown::Both => net::Shutdown::Both,
    };
    call(|| net::shutdown(fd, how))
}

pub(crate) fn local_addr(fd: &Fd) -> Result<Addr, Error> {
    call(|| net::getsockname(fd)).map(|addr| from_kernel(Some(addr)))
}

pub(crate) fn peer_addr(fd: &Fd) -> Result<Addr, Error> {
    call(|| net::getpeername(fd)).map(from_kernel)
}
