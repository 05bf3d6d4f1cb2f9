//! What a link over a network is made from.

use std::net::{IpAddr, Ipv4Addr};

use demi_api::error::Error;
use serde::Deserialize;

/// `[catmint.soft.udp]`
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UdpConfig {
    /// The instance's address, which an interface must have, and where nobody else uses port 4791; a kernel with an rxe device does, on
    /// all addresses. Default `127.0.0.1`.
    pub address: IpAddr,
    /// Bytes of payload in a packet: 256, 512, 1024 (default), 2048 or 4096. The interface's MTU must hold that and 80 more: they are not
    /// fragmented. The smaller one of two peers counts.
    pub mtu: u16,
    /// How IPv4 packets come in. `"auto"` (default): through a raw socket if permitted (CAP_NET_RAW), so that peers of any make are
    /// understood; their checksum covers a field that other sockets do not show. `"never"`: through a UDP socket, which understands this
    /// implementation alone. `"require"`: fail without permission. IPv6 needs none.
    pub raw: RawChoice,
}

/// Values of `catmint.soft.udp.raw`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "described at the key")]
pub enum RawChoice {
    #[default]
    Auto,
    Never,
    Require,
}

impl Default for UdpConfig {
    fn default() -> UdpConfig {
        UdpConfig { address: IpAddr::V4(Ipv4Addr::LOCALHOST), mtu: 1024, raw: RawChoice::Auto }
    }
}

impl UdpConfig {
    pub(super) fn check(&self) -> Result<(), Error> {
        if !matches!(self.mtu, 256 | 512 | 1024 | 2048 | 4096) {
            return Err(Error::Invalid("catmint.soft.udp.mtu: 256, 512, 1024, 2048 or 4096"));
        }
        if self.address.is_unspecified() || self.address.is_multicast() {
            return Err(Error::Invalid("catmint.soft.udp.address: give an address that an interface has"));
        }
        Ok(())
    }
}
