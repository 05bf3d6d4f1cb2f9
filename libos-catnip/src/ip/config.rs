//! What is configured about addresses, routes and limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use demi_api::error::Error;
use serde::Deserialize;

use super::addr::Cidr;

/// Keys about the Internet layer, all optional. Without an address, `dhcp` or `slaac`, only loop-back works.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IpConfig {
    /// The interface's own addresses with the lengths of their prefixes, as in `["10.0.0.1/24", "fd00::1/64"]`;
    /// default none, at most 8. Addresses within a prefix are reached directly. An IPv6 address brings a link-local one
    /// with it.
    pub addresses: Vec<String>,
    /// The router for IPv4 destinations that no route names; default none. It must lie within a prefix of `addresses`.
    pub gateway4: Option<Ipv4Addr>,
    /// The router for IPv6 destinations that no route names; default none. It must lie within a prefix of `addresses`,
    /// or be link-local.
    pub gateway6: Option<Ipv6Addr>,
    /// More routes, the longest prefix first; default none, at most 64.
    pub routes: Vec<RouteConfig>,
    /// Ask a DHCP server for an IPv4 address and a router (RFC 2131); default false.
    pub dhcp: bool,
    /// Take IPv6 addresses, prefixes and routers from routers' advertisements (RFC 4862); default false.
    pub slaac: bool,
    /// With a secret, interface identifiers of automatic addresses are stable, but tell nothing about the hardware
    /// (RFC 7217); default empty: they are made from the Ethernet address. Keep it secret, and the same.
    pub slaac_secret: String,
    /// Hops that packets may take, 1 to 255; default 64. A router may advertise another number for IPv6.
    pub hop_limit: u8,
    /// Neighbours remembered at the most, 16 to 65536; default 1024. With more in use at a time, packets to the newest
    /// are dropped.
    pub neighbours_max: usize,
    /// Time for which a neighbour that answered is taken to be there, in ms, 1000 to 3600000; default 30000. After it,
    /// the next packet to it makes it be asked again, while packets go on.
    pub neighbour_timeout_ms: u64,
    /// Packets that wait for one neighbour's address, 1 to 1024; default 32. More drop the oldest.
    pub neighbour_queue: usize,
    /// Bytes of all packets that wait for addresses, 65536 to 1073741824; default 1048576. More are dropped.
    pub neighbour_queue_bytes: usize,
    /// Fragmented packets put together at a time, 0 to 4096; default 64. Another drops the oldest; 0 drops all
    /// fragments.
    pub fragments_max: usize,
    /// Bytes held in fragments, in device buffers, 65536 to 1073741824; default 1048576. More drop the oldest packets.
    pub fragments_bytes: usize,
    /// Destinations whose path MTU is remembered, 1 to 65536; default 256. Another replaces the oldest.
    pub path_mtus_max: usize,
    /// ICMP errors sent in a second, 0 to 1000000; default 100. 0: none, so that peers time out instead.
    pub icmp_errors_per_s: u32,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Destinations, as in `"10.1.0.0/16"`.
    pub to: String,
    /// The router, which must be reached directly.
    pub via: IpAddr,
}

/// Own addresses at the most, configured and automatic.
pub(crate) const MAX_ADDRESSES: usize = 16;

impl Default for IpConfig {
    fn default() -> IpConfig {
        IpConfig {
            addresses: Vec::new(),
            gateway4: None,
            gateway6: None,
            routes: Vec::new(),
            dhcp: false,
            slaac: false,
            slaac_secret: String::new(),
            hop_limit: 64,
            neighbours_max: 1024,
            neighbour_timeout_ms: 30_000,
            neighbour_queue: 32,
            neighbour_queue_bytes: 1 << 20,
            fragments_max: 64,
            fragments_bytes: 1 << 20,
            path_mtus_max: 256,
            icmp_errors_per_s: 100,
        }
    }
}

impl IpConfig {
    /// Checks every value. The text names the key and says what it may be.
    pub fn check(&self) -> Result<(), Error> {
        let range = |key, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::Config(format!("{key} = {value} is out of range: {low} to {high}")))
        };
        range("hop_limit", self.hop_limit.into(), 1, 255)?;
        range("neighbours_max", self.neighbours_max as u64, 16, 1 << 16)?;
        range("neighbour_timeout_ms", self.neighbour_timeout_ms, 1000, 3_600_000)?;
        range("neighbour_queue", self.neighbour_queue as u64, 1, 1024)?;
        range("neighbour_queue_bytes", self.neighbour_queue_bytes as u64, 1 << 16, 1 << 30)?;
        range("fragments_max", self.fragments_max as u64, 0, 4096)?;
        range("fragments_bytes", self.fragments_bytes as u64, 1 << 16, 1 << 30)?;
        range("path_mtus_max", self.path_mtus_max as u64, 1, 1 << 16)?;
        range("icmp_errors_per_s", self.icmp_errors_per_s.into(), 0, 1_000_000)?;
        range("the number of addresses", self.addresses.len() as u64, 0, 8)?;
        range("the number of routes", self.routes.len() as u64, 0, 64)?;
        self.cidrs()?;
        Ok(())
    }

    /// The addresses with their prefixes.
    pub(crate) fn cidrs(&self) -> Result<Vec<Cidr>, Error> {
        let parse = |text: &String| {
            let cidr: Cidr =
                text.parse().map_err(|why| Error::Config(format!("addresses: {text:?} {why}")))?;
            if cidr.is_host() {
                return Ok(cidr);
            }
            Err(Error::Config(format!("addresses: {text:?} is not the address of a host")))
        };
        self.addresses.iter().map(parse).collect()
    }

    pub(crate) fn neighbour_timeout(&self) -> Duration {
        Duration::from_millis(self.neighbour_timeout_ms)
    }
}
