//! Addresses in the kernel's form and in the API's.
//!
//! A UNIX path that begins with a NUL byte stands for a name in Linux's abstract namespace, so that the
//! sender of a datagram can be answered whatever it is called.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use demi_api::addr::{Addr, Domain};
use demi_api::error::Error;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix};

/// The address for a socket of `domain`.
pub(crate) fn to_kernel(addr: &Addr, domain: Domain) -> Result<SocketAddrAny, Error> {
    check(addr, domain)?;
    match addr {
        Addr::Inet(addr) => Ok((*addr).into()),
        Addr::Unix(path) => unix(path).map(Into::into),
        Addr::Unnamed => Err(Error::BadAddress),
    }
}

/// Whether a socket of `domain` can use the address. An IPv6 socket speaks IPv6 only: IPv4 in disguise is
/// refused.
pub(crate) fn check(addr: &Addr, domain: Domain) -> Result<(), Error> {
    let disguised = matches!(addr, Addr::Inet(SocketAddr::V6(v6)) if v6.ip().to_ipv4_mapped().is_some());
    if Domain::from(addr) != domain || disguised || *addr == Addr::Unnamed {
        return Err(Error::BadAddress);
    }
    Ok(())
}

/// A UNIX-domain address.
pub(super) fn unix(path: &Path) -> Result<SocketAddrUnix, Error> {
    let made = match path.as_os_str().as_bytes() {
        [] => return Err(Error::BadAddress),
        [0, name @ ..] => SocketAddrUnix::new_abstract_name(name),
        bytes if bytes.contains(&0) => return Err(Error::BadAddress),
        bytes => SocketAddrUnix::new(bytes),
    };
    made.map_err(|_| Error::BadAddress)
}

/// What the kernel reports; a socket without a name is [`Addr::Unnamed`].
pub(crate) fn from_kernel(addr: Option<SocketAddrAny>) -> Addr {
    let Some(addr) = addr else { return Addr::Unnamed };
    if addr.address_family() != AddressFamily::UNIX {
        return SocketAddr::try_from(addr).map_or(Addr::Unnamed, Addr::Inet);
    }
    let Ok(unix) = SocketAddrUnix::try_from(addr) else { return Addr::Unnamed };
    if let Some(path) = unix.path_bytes() {
        return Addr::Unix(Path::new(OsStr::from_bytes(path)).into());
    }
    let Some(name) = unix.abstract_name() else { return Addr::Unnamed };
    let mut bytes = Vec::with_capacity(1 + name.len());
    bytes.push(0);
    bytes.extend_from_slice(name);
    Addr::Unix(Path::new(OsStr::from_bytes(&bytes)).into())
}
