//! Addresses of peers: internet and UNIX-domain.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;

use crate::error::Error;

/// Where a socket is bound or connected, or where a datagram came from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Addr {
    /// IPv4 or IPv6 with port.
    Inet(SocketAddr),
    /// A UNIX-domain socket's path.
    Unix(Rc<Path>),
    /// A UNIX-domain socket without a name, as an unbound client has.
    Unnamed,
}

impl Addr {
    /// The internet address, if it is one.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Addr::Inet(addr) => Some(*addr),
            Addr::Unix(_) | Addr::Unnamed => None,
        }
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Addr {
        Addr::Inet(addr)
    }
}

impl From<PathBuf> for Addr {
    fn from(path: PathBuf) -> Addr {
        Addr::Unix(path.into())
    }
}

/// `127.0.0.1:80`, `[::1]:80`, `unix:/run/x.sock`.
impl FromStr for Addr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Addr, Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Addr::Unix(Path::new(path).into()));
        }
        let addr =
            text.parse().map_err(|_| Error::Invalid("an address is IP:PORT, [IPv6]:PORT or unix:PATH"))?;
        Ok(Addr::Inet(addr))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Inet(addr) => addr.fmt(f),
            Addr::Unix(path) => write!(f, "unix:{}", path.display()),
            Addr::Unnamed => f.write_str("unix:(unnamed)"),
        }
    }
}

/// Address family of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
    /// UNIX-domain sockets.
    Unix,
}

impl From<&Addr> for Domain {
    fn from(addr: &Addr) -> Domain {
        match addr {
            Addr::Inet(SocketAddr::V4(_)) => Domain::Inet,
            Addr::Inet(SocketAddr::V6(_)) => Domain::Inet6,
            Addr::Unix(_) | Addr::Unnamed => Domain::Unix,
        }
    }
}

/// What a socket carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketKind {
    /// A byte stream: TCP, or a UNIX stream.
    Stream,
    /// Datagrams: UDP, or UNIX datagrams.
    Datagram,
}
