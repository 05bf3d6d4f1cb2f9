//! Who is bound where. Loopback addresses only, as nothing here leaves the instance.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use demi_api::{Addr, Domain, Error, QDesc, SocketKind};

const FIRST_EPHEMERAL: u16 = 32768;

#[derive(Debug)]
pub(super) struct Names {
    streams: HashMap<Addr, QDesc>,
    datagrams: HashMap<Addr, QDesc>,
    next_port: u16,
}

impl Default for Names {
    fn default() -> Names {
        Names { streams: HashMap::new(), datagrams: HashMap::new(), next_port: FIRST_EPHEMERAL }
    }
}

impl Names {
    /// Binds, and returns the address with its port.
    pub(super) fn bind(
        &mut self,
        kind: SocketKind,
        domain: Domain,
        addr: &Addr,
        qd: QDesc,
    ) -> Result<Addr, Error> {
        check_family(domain, addr)?;
        let addr = match addr {
            Addr::Inet(inet) if !inet.ip().is_loopback() && !inet.ip().is_unspecified() => {
                return Err(Error::AddressNotAvailable);
            }
            Addr::Inet(inet) if inet.port() == 0 => self.ephemeral(kind, inet.ip())?,
            Addr::Inet(_) | Addr::Unix(_) => addr.clone(),
            Addr::Unnamed => return Err(Error::BadAddress),
        };
        let names = self.of(kind);
        let taken = names.contains_key(&addr) || names.contains_key(&wildcard(&addr));
        if taken {
            return Err(Error::AddressInUse);
        }
        names.insert(addr.clone(), qd);
        Ok(addr)
    }

    /// A free address for a socket that was not bound: `None` for UNIX sockets, which have none.
    pub(super) fn ephemeral(&mut self, kind: SocketKind, ip: IpAddr) -> Result<Addr, Error> {
        for _ in FIRST_EPHEMERAL..=u16::MAX {
            let addr = Addr::Inet(SocketAddr::new(ip, self.next_port));
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
            if !self.of(kind).contains_key(&addr) {
                return Ok(addr);
            }
        }
        Err(Error::AddressInUse)
    }

    pub(super) fn find(&self, kind: SocketKind, addr: &Addr) -> Option<QDesc> {
        let names = match kind {
            SocketKind::Stream => &self.streams,
            SocketKind::Datagram => &self.datagrams,
        };
        names.get(addr).or_else(|| names.get(&wildcard(addr))).copied()
    }

    pub(super) fn release(&mut self, kind: SocketKind, addr: &Addr) {
        self.of(kind).remove(addr);
    }

    fn of(&mut self, kind: SocketKind) -> &mut HashMap<Addr, QDesc> {
        match kind {
            SocketKind::Stream => &mut self.streams,
            SocketKind::Datagram => &mut self.datagrams,
        }
    }
}

pub(super) fn check_family(domain: Domain, addr: &Addr) -> Result<(), Error> {
    if Domain::from(addr) == domain { Ok(()) } else { Err(Error::BadAddress) }
}

/// The address of a socket that has none.
pub(super) fn unbound(domain: Domain) -> Addr {
    match domain {
        Domain::Inet => Addr::Inet(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        Domain::Inet6 => Addr::Inet(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        Domain::Unix => Addr::Unnamed,
    }
}

/// The address that stands for every address with this port.
fn wildcard(addr: &Addr) -> Addr {
    match addr {
        Addr::Inet(SocketAddr::V4(v4)) => Addr::Inet(SocketAddr::from((Ipv4Addr::UNSPECIFIED, v4.port()))),
        Addr::Inet(SocketAddr::V6(v6)) => Addr::Inet(SocketAddr::from((Ipv6Addr::UNSPECIFIED, v6.port()))),
        Addr::Unix(_) | Addr::Unnamed => addr.clone(),
    }
}
