//! What a libOS makes of a program's socket.

use std::net::IpAddr;

use demi_api::config::Config;
use demi_api::libos::LibOs;

/// A libOS under a program.
///
/// Every socket of the program is a socket of the kernel too, which is what its descriptor names. The question is what
/// that one is for.
pub trait Carrier: Sized + 'static {
    /// What carries.
    type LibOs: LibOs;

    /// Whether the kernel's socket *is* the socket. It is then bound, connected, listened and accepted on as ever, and
    /// a connection becomes a queue when its data is first asked for: the libOS adopts a duplicate of the descriptor.
    ///
    /// Otherwise the kernel's socket only holds the number and the options, and everything
    /// else is the libOS's.
    const IN_KERNEL: bool;

    /// Whether an instance with this configuration will have an address; `None` if that is not known before there is
    /// one.
    fn has_address(config: &Config, ip: IpAddr) -> Option<bool>;
}
