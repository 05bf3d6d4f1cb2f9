//! Addresses with prefixes, and what kinds of addresses there are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// To whom a packet was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cast {
    Unicast,
    Broadcast,
    Multicast,
}

/// An address and the length of its prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cidr {
    pub(crate) addr: IpAddr,
    pub(crate) len: u8,
}

impl Cidr {
    /// Whether an address is of the same prefix.
    #[inline]
    pub(crate) fn contains(&self, other: IpAddr) -> bool {
        match (self.addr, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - u32::from(self.len)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - u32::from(self.len)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// The prefix's own broadcast address, which those of 31 and 32 bits have not (RFC 3021).
    pub(crate) fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.addr {
            IpAddr::V4(own) if self.len < 31 => {
                Some(Ipv4Addr::from_bits(own.to_bits() | u32::MAX.checked_shr(self.len.into()).unwrap_or(0)))
            }
            _ => None,
        }
    }

    /// The prefix without the host's part.
    pub(crate) fn network(&self) -> Cidr {
        let addr = match self.addr {
            IpAddr::V4(own) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                Ipv4Addr::from_bits(own.to_bits() & mask).into()
            }
            IpAddr::V6(own) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                Ipv6Addr::from_bits(own.to_bits() & mask).into()
            }
        };
        Cidr { addr, len: self.len }
    }

    /// Whether a host can have the address.
    pub(crate) fn is_host(&self) -> bool {
        match self.addr {
            IpAddr::V4(own) => {
                let network = self.len < 31 && self.network().addr == self.addr;
                is_unicast4(own) && !own.is_loopback() && self.broadcast() != Some(own) && !network
            }
            IpAddr::V6(own) => is_unicast6(own) && !own.is_loopback(),
        }
    }
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Cidr, &'static str> {
        let (addr, len) = text.split_once('/').ok_or("lacks the length of its prefix, as in 10.0.0.1/24")?;
        let addr: IpAddr = addr.parse().map_err(|_| "is not an address")?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let len = len.parse().ok().filter(|len| *len <= most).ok_or("has a prefix of no possible length")?;
        Ok(Cidr { addr, len })
    }
}

/// Whether packets may come from an address, or go to it alone: RFC 1122 §3.2.1.3.
#[inline]
pub(crate) fn is_unicast4(addr: Ipv4Addr) -> bool {
    let first = addr.octets()[0];
    first != 0 && first < 224
}

/// Whether packets may come from an address, or go to it alone: RFC 4291 §2.
#[inline]
pub(crate) fn is_unicast6(addr: Ipv6Addr) -> bool {
    !addr.is_multicast() && !addr.is_unspecified() && addr.to_ipv4_mapped().is_none()
}

/// The Ethernet address of a group: RFC 1112 §6.4, RFC 2464 §7. Everyone's for a broadcast.
pub(crate) fn group_mac(addr: IpAddr) -> [u8; 6] {
    match addr {
        IpAddr::V4(addr) if addr.is_multicast() => {
            let [_, b, c, d] = addr.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V4(_) => [0xff; 6],
        IpAddr::V6(addr) => {
            let [.., a, b, c, d] = addr.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// The group in which the owner of an address listens for solicitations: RFC 4291 §2.7.1.
pub(crate) fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let prefix = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).to_bits();
    Ipv6Addr::from_bits(prefix | (addr.to_bits() & 0xff_ffff))
}

/// All nodes of the link.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All routers of the link.
pub(crate) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_every_length() {
        for len in 0..=32 {
            let cidr: Cidr = format!("10.1.2.3/{len}").parse().unwrap();
            for bit in 0..32 {
                let other = Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 2, 3).to_bits() ^ 1 << (31 - bit));
                assert_eq!(cidr.contains(other.into()), bit >= len, "bit {bit} of /{len}");
            }
        }
        for len in 0..=128 {
            let cidr: Cidr = format!("fd00::1/{len}").parse().unwrap();
            let own = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).to_bits();
            for bit in 0..128 {
                let other = Ipv6Addr::from_bits(own ^ 1 << (127 - bit));
                assert_eq!(cidr.contains(other.into()), bit >= len, "bit {bit} of /{len}");
            }
        }
        for text in ["10.0.0.1", "10.0.0.1/33", "fd00::1/129", "x/1", "10.0.0.1/-1", "/"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn broadcast_addresses_and_networks() {
        let of = |text: &str| text.parse::<Cidr>().unwrap();
        assert_eq!(of("10.0.0.1/24").broadcast(), Some(Ipv4Addr::new(10, 0, 0, 255)));
        assert_eq!(of("10.0.0.1/0").broadcast(), Some(Ipv4Addr::BROADCAST));
        assert_eq!(of("10.0.0.1/31").broadcast(), None);
        assert_eq!(of("10.0.0.1/24").network().addr, Ipv4Addr::new(10, 0, 0, 0));
        assert!(of("10.0.0.1/24").is_host() && of("10.0.0.0/31").is_host() && of("fd00::1/64").is_host());
        for text in [
            "10.0.0.0/24",
            "10.0.0.255/24",
            "127.0.0.1/8",
            "224.0.0.1/4",
            "0.0.0.0/0",
            "::1/128",
            "ff02::1/16",
        ] {
            assert!(!of(text).is_host(), "{text}");
        }
    }

    #[test]
    fn groups_on_ethernet() {
        assert_eq!(group_mac("239.129.2.3".parse().unwrap()), [1, 0, 0x5e, 1, 2, 3]);
        assert_eq!(group_mac("10.0.0.255".parse().unwrap()), [0xff; 6]);
        let group = solicited_node("fd00::1:2233:4455".parse().unwrap());
        assert_eq!(group, "ff02::1:ff33:4455".parse::<Ipv6Addr>().unwrap());
        assert_eq!(group_mac(group.into()), [0x33, 0x33, 0xff, 0x33, 0x44, 0x55]);
    }
}
