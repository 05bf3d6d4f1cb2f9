//! What the devices that the kernel provides have in common: descriptors, network interfaces, and the header by which
//! checksums are left to the other side. No device is in here.
//!
//! | file | what it holds |
//! |---|---|
//! | `link` | interfaces, asked about and set up over rtnetlink |
//! | `vnet` | the header of ten bytes before each frame |
//! | `namespace`, `sys` | networks for tests |

pub(super) mod link;
#[cfg(test)]
pub(super) mod namespace;
#[cfg(test)]
#[allow(unsafe_code, reason = "each block states its proof")]
mod sys;
pub(super) mod vnet;

use std::fmt;

use demi_api::error::Error;
use rustix::io::Errno;

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;

/// An error of setting up the device on `interface`: what failed, why, and what to do about it.
#[cold]
pub(super) fn refused(interface: &str, what: impl fmt::Display, errno: Errno, advice: &str) -> Error {
    match errno {
        Errno::MFILE | Errno::NFILE => Error::TooManyFiles,
        errno => Error::Config(format!("interface {interface:?}: {what}: {errno}; {advice}")),
    }
}

/// Refuses an Ethernet address that cannot be a station's own.
pub(super) fn check_mac(interface: &str, mac: [u8; 6]) -> Result<(), Error> {
    if mac == [0; 6] || mac[0] & 1 == 1 {
        let text = "the configured Ethernet address is zero or a group's: configure one of a single station";
        return Err(Error::Config(format!("interface {interface:?}: {text}")));
    }
    Ok(())
}
