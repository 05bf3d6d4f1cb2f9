//! What the application holds: sockets, and the connections that they become.
//!
//! Invariants: a connection that nobody holds any more, neither descriptor nor listener, stays until its name is free and
//! what it has offered is taken back; then it goes. Every token that was taken in is posted once.
//!
//! | file | what it holds |
//! |---|---|
//! | `conn` | a connection, as plain data: windows, pushes, elements |
//! | `ports` | who is bound where |
//! | `listen`, `connect`, `close` | how connections begin and end |
//! | `push`, `pop`, `offer` | what goes out, what comes in, what is read |

mod close;
mod conn;
mod connect;
mod listen;
mod offer;
mod pop;
mod ports;
mod push;

use std::net::SocketAddr;
use std::time::Duration;

use demi_api::addr::Domain;
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::libos::{OptionName, SocketOption};
use demi_api::slab::Key;

pub(crate) use self::conn::{Conn, Posted};
pub(crate) use self::listen::{Listener, Question};
pub(crate) use self::offer::Reading;
pub(crate) use self::ports::Ports;
use crate::catmint::Catmint;
use crate::wire::Name;

/// What a descriptor names.
#[derive(Debug)]
pub(crate) enum Socket {
    Fresh(Box<Fresh>),
    Listener(Box<Listener>),
    Connection(Box<Conn>),
    /// A queue on a region, which [`Regions`](crate::regions::Regions) has.
    Region(Key),
}

/// A socket that is nothing yet.
#[derive(Clone, Debug)]
pub(crate) struct Fresh {
    pub(crate) qd: Option<QDesc>,
    pub(crate) domain: Domain,
    pub(crate) bound: Option<SocketAddr>,
    /// The port was not the application's choice.
    pub(crate) chosen: bool,
    pub(crate) linger: Option<Duration>,
}

/// What a device will tell of, by the number that it was given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flight {
    /// A push of a connection, by its number.
    Push(Key, u32),
    /// A part of an offer that is read.
    Read { peer: Key, connection: Key, number: u32, part: u8 },
    /// Memory that is taken back, of a push; nobody may be interested any more.
    Revoke(Key, u32),
}

impl Catmint {
    /// A name for a connection with a peer.
    pub(crate) fn take_name(&mut self, peer: Key, occupant: Key) -> Option<Name> {
        let peer = self.peers.table.get_mut(peer)?;
        let name = peer.name(occupant, self.policy.connections)?;
        // Generations run round: what was granted to an earlier connection of that name is not this one's.
        self.device.copy_in(peer.region, 8 * (name.slot() + 1), &[0; 8]);
        Some(name)
    }

    pub(crate) fn new_socket(&mut self, domain: Domain) -> Result<QDesc, Error> {
        let fresh = Fresh { qd: None, domain, bound: None, chosen: false, linger: None };
        let key = self.sockets.insert(Socket::Fresh(Box::new(fresh)));
        let qd = self.queues.insert(key);
        match (&qd, self.sockets.get_mut(key)) {
            (Ok(qd), Some(Socket::Fresh(fresh))) => fresh.qd = Some(*qd),
            _ => drop(self.sockets.remove(key)),
        }
        qd
    }

    pub(crate) fn bind_socket(
        &mut self,
        rng: &mut fastrand::Rng,
        key: Key,
        addr: SocketAddr,
    ) -> Result<(), Error> {
        let Some(Socket::Fresh(fresh)) = self.sockets.get_mut(key) else {
            return Err(Error::AlreadyConnected);
        };
        if fresh.bound.is_some() {
            return Err(Error::AlreadyConnected);
        }
        if (fresh.domain == Domain::Inet) != addr.is_ipv4() {
            return Err(Error::BadAddress);
        }
        fresh.chosen = addr.port() == 0;
        fresh.bound = Some(self.ports.take(rng, addr, key)?);
        Ok(())
    }

    pub(crate) fn set_socket_option(&mut self, key: Key, option: SocketOption) -> Result<(), Error> {
        match option {
            SocketOption::Linger(linger) => match self.sockets.get_mut(key) {
                Some(Socket::Fresh(fresh)) => fresh.linger = linger,
                Some(Socket::Connection(conn)) => conn.linger = linger,
                Some(Socket::Listener(listener)) => listener.linger = linger,
                Some(Socket::Region(_)) | None => return Err(Error::BadDescriptor),
            },
            // So it is, whatever is asked: messages go at once, peers are watched, and nothing stays behind that a new
            // listener could take for its own.
            SocketOption::NoDelay(_) | SocketOption::KeepAlive(_) | SocketOption::ReuseAddr(_) => {}
            _ => return Err(Error::NotSupported("this option means nothing to messages over RDMA")),
        }
        Ok(())
    }

    pub(crate) fn socket_option(&self, key: Key, name: OptionName) -> Result<SocketOption, Error> {
        Ok(match name {
            OptionName::Linger => SocketOption::Linger(match self.sockets.get(key) {
                Some(Socket::Fresh(fresh)) => fresh.linger,
                Some(Socket::Connection(conn)) => conn.linger,
                Some(Socket::Listener(listener)) => listener.linger,
                Some(Socket::Region(_)) | None => return Err(Error::BadDescriptor),
            }),
            OptionName::NoDelay => SocketOption::NoDelay(true),
            OptionName::KeepAlive => SocketOption::KeepAlive(true),
            OptionName::ReuseAddr => SocketOption::ReuseAddr(true),
            _ => return Err(Error::NotSupported("this option means nothing to messages over RDMA")),
        })
    }

    pub(crate) fn socket_addr(&self, key: Key) -> Result<SocketAddr, Error> {
        match self.sockets.get(key) {
            Some(Socket::Fresh(fresh)) => {
                let any = SocketAddr::new(unspecified(fresh.domain), 0);
                Ok(fresh.bound.unwrap_or(any))
            }
            Some(Socket::Listener(listener)) => Ok(listener.addr),
            Some(Socket::Connection(conn)) => Ok(conn.here),
            Some(Socket::Region(_)) | None => Err(Error::BadDescriptor),
        }
    }

    pub(crate) fn socket_peer(&self, key: Key) -> Result<SocketAddr, Error> {
        match self.sockets.get(key) {
            Some(Socket::Connection(conn)) if conn.opening.is_none() => Ok(conn.there),
            Some(_) => Err(Error::NotConnected),
            None => Err(Error::BadDescriptor),
        }
    }
}

/// The address of a family that stands for all of them.
pub(crate) fn unspecified(domain: Domain) -> std::net::IpAddr {
    match domain {
        Domain::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        Domain::Inet | Domain::Unix => std::net::Ipv4Addr::UNSPECIFIED.into(),
    }
}
