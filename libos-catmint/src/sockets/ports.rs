//! Who is bound where.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use demi_api::error::Error;
use demi_api::slab::Key;

/// The first port that is chosen for who does not choose (RFC 6335 §6).
const FIRST_DYNAMIC: u16 = 49_152;

/// Tries before all ports are taken to be taken.
const TRIES: usize = 256;

/// Bound sockets by port.
#[derive(Debug, Default)]
pub(crate) struct Ports(BTreeMap<u16, Vec<(IpAddr, Key)>>);

impl Ports {
    /// Binds a socket. Port 0 picks one.
    pub(crate) fn take(
        &mut self,
        rng: &mut fastrand::Rng,
        mut addr: SocketAddr,
        key: Key,
    ) -> Result<SocketAddr, Error> {
        if addr.port() == 0 {
            let port = self.pick(rng, addr.ip()).ok_or(Error::AddressInUse)?;
            addr.set_port(port);
        } else if !self.is_free(addr) {
            return Err(Error::AddressInUse);
        }
        self.0.entry(addr.port()).or_default().push((addr.ip(), key));
        Ok(addr)
    }

    /// A port that nobody is bound to at this address.
    pub(crate) fn pick(&self, rng: &mut fastrand::Rng, ip: IpAddr) -> Option<u16> {
        (0..TRIES).map(|_| rng.u16(FIRST_DYNAMIC..)).find(|port| self.is_free(SocketAddr::new(ip, *port)))
    }

    fn is_free(&self, addr: SocketAddr) -> bool {
        let clash = |ip: IpAddr| {
            let any = ip.is_unspecified() || addr.ip().is_unspecified();
            ip == addr.ip() || (any && ip.is_ipv4() == addr.is_ipv4())
        };
        !self.0.get(&addr.port()).is_some_and(|bound| bound.iter().any(|(ip, _)| clash(*ip)))
    }

    /// The socket that an address means: bound to exactly it, or to all of its family.
    pub(crate) fn find(&self, addr: SocketAddr) -> Option<Key> {
        let bound = self.0.get(&addr.port())?;
        let fits = |ip: IpAddr| ip == addr.ip() || (ip.is_unspecified() && ip.is_ipv4() == addr.is_ipv4());
        bound.iter().find(|(ip, _)| fits(*ip)).map(|(_, key)| *key)
    }

    /// A socket goes on under another key.
    pub(crate) fn move_to(&mut self, addr: SocketAddr, from: Key, to: Key) {
        let bound = self.0.get_mut(&addr.port());
        for (_, key) in bound.into_iter().flatten().filter(|(_, key)| *key == from) {
            *key = to;
        }
    }

    pub(crate) fn leave(&mut self, addr: SocketAddr, key: Key) {
        if let Some(bound) = self.0.get_mut(&addr.port()) {
            bound.retain(|(_, other)| *other != key);
            if bound.is_empty() {
                self.0.remove(&addr.port());
            }
        }
    }
}
