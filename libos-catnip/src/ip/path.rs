//! The way to a destination, as a connection keeps it.

use std::net::IpAddr;

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::time::Instant;

use super::neighbours::Place;
use super::{ETHERNET, IPV4, IPV6, Ip, LOOP_MTU};

/// From a local address to a remote one. It stays good by itself: [`Ip::send`] brings it up to date where routes,
/// addresses, neighbours or path MTUs have changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    /// Both addresses' part in checksums, not folded.
    pub(super) sum: u32,
    mtu: u16,
    link_mtu: u16,
    /// Bytes of the headers of Ethernet and IP.
    headroom: u8,
    pub(super) hop: Hop,
    pub(super) epoch: u32,
}

const _: () = assert!(size_of::<Path>() <= 72);

/// The next step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hop {
    /// A router, or the destination itself.
    Neighbour(Place),
    /// A group: its Ethernet address is in its own.
    Group,
    /// Ourselves.
    Loop,
}

impl Path {
    #[inline]
    pub(crate) fn local(&self) -> IpAddr {
        self.local
    }

    #[inline]
    pub(crate) fn remote(&self) -> IpAddr {
        self.remote
    }

    /// Bytes to be left free before the transport header, for Ethernet and IP.
    #[inline]
    pub(crate) fn headroom(&self) -> usize {
        self.headroom.into()
    }

    /// The largest packet, IP header included, as far as is known: see [`Ip::refresh`].
    #[inline]
    pub(crate) fn mtu(&self) -> usize {
        self.mtu.into()
    }

    /// The largest packet that can come along it, IP header included: what the link carries.
    #[inline]
    pub(crate) fn link_mtu(&self) -> usize {
        self.link_mtu.into()
    }

    /// Whether it leads to several hosts.
    pub(crate) fn is_to_group(&self) -> bool {
        self.hop == Hop::Group
    }

    /// The sum of the pseudo-header for `len` bytes of transport header and payload, not folded.
    #[inline]
    pub(crate) fn pseudo_sum(&self, protocol: u8, len: usize) -> u32 {
        self.sum + rest_of_pseudo(protocol, len)
    }
}

fn headroom(local: IpAddr) -> u8 {
    (ETHERNET + if local.is_ipv4() { IPV4 } else { IPV6 }) as u8
}

/// The sum of a pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1), not folded.
#[inline]
pub(crate) fn pseudo_sum(one: IpAddr, other: IpAddr, protocol: u8, len: usize) -> u32 {
    addresses_sum(one, other) + rest_of_pseudo(protocol, len)
}

#[inline]
fn rest_of_pseudo(protocol: u8, len: usize) -> u32 {
    // As one number of two digits.
    u32::from(protocol) + len as u32
}

/// What both addresses add to the sum of a pseudo-header, or of a header of IPv4; not folded.
#[inline]
pub(super) fn addresses_sum(one: IpAddr, other: IpAddr) -> u32 {
    let digits = |bits: u128| (0..8).map(|n| (bits >> (16 * n)) as u32 & 0xffff).sum::<u32>();
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            let both = u64::from(one.to_bits()) + u64::from(other.to_bits());
            (both >> 16) as u32 + (both & 0xffff) as u32
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => digits(one.to_bits()) + digits(other.to_bits()),
        // There is no packet between families.
        _ => 0,
    }
}

impl Ip {
    /// Finds the way to `remote`, from `local` or the address that fits best.
    ///
    /// # Errors
    /// [`Error::BadAddress`]: no packet can go there, or not from an address of that family.
    /// [`Error::AddressNotAvailable`]: `local` is not ours, or there is none of the family.
    /// [`Error::Unreachable`]: no route. [`Error::NoBuffers`]: all neighbours that can be remembered are in use.
    pub(crate) fn path(
        &mut self,
        cx: &mut Cx<'_>,
        local: Option<IpAddr>,
        remote: IpAddr,
    ) -> Result<Path, Error> {
        self.find_path(cx.now, local, remote)
    }

    /// Brings a path up to date, so that [`Path::mtu`] is what is known now. Cheap if nothing changed.
    ///
    /// # Errors
    /// As for [`path`](Ip::path); the path stays as it was.
    pub(crate) fn refresh(&mut self, cx: &mut Cx<'_>, path: &mut Path) -> Result<(), Error> {
        if path.epoch != self.routes.epoch() {
            *path = self.find_path(cx.now, Some(path.local), path.remote)?;
        }
        Ok(())
    }

    /// Notes that the other end has answered what was sent along the path (RFC 4861 §7.3.1), which saves asking its
    /// neighbour. For progress only: neither for what arrives unasked nor for every packet.
    #[inline]
    pub(crate) fn confirm(&mut self, now: Instant, path: &Path) {
        if let Hop::Neighbour(place) = path.hop {
            self.neighbours.confirm(place, now);
        }
    }

    pub(super) fn find_path(
        &mut self,
        now: Instant,
        local: Option<IpAddr>,
        remote: IpAddr,
    ) -> Result<Path, Error> {
        let mapped = matches!(remote, IpAddr::V6(addr) if addr.to_ipv4_mapped().is_some());
        let families = local.is_some_and(|local| local.is_ipv4() != remote.is_ipv4());
        if remote.is_unspecified() || mapped || families {
            return Err(Error::BadAddress);
        }
        let epoch = self.routes.epoch();
        if self.is_local(remote) {
            let local = match (local, remote) {
                (Some(local), _) if !self.is_local(local) => return Err(Error::AddressNotAvailable),
                (Some(local), _) => local,
                (None, IpAddr::V4(addr)) if addr.is_loopback() => std::net::Ipv4Addr::LOCALHOST.into(),
                (None, own) => own,
            };
            return Ok(Path {
                local,
                remote,
                sum: addresses_sum(local, remote),
                headroom: headroom(local),
                mtu: LOOP_MTU as u16,
                link_mtu: LOOP_MTU as u16,
                hop: Hop::Loop,
                epoch,
            });
        }
        if local.is_some_and(|local| !self.routes.is_own(local)) {
            return Err(Error::AddressNotAvailable);
        }
        let group =
            remote.is_multicast() || matches!(remote, IpAddr::V4(addr) if self.routes.is_broadcast(addr));
        let via = if group { remote } else { self.routes.route(remote).ok_or(Error::Unreachable)? };
        let source = || self.routes.source(remote, via, now).ok_or(Error::AddressNotAvailable);
        let local = local.map_or_else(source, Ok)?;
        let hop = if group {
            Hop::Group
        } else {
            Hop::Neighbour(self.neighbours.place(via, now).ok_or(Error::NoBuffers)?)
        };
        let link_mtu = self.link_mtu(remote);
        let mtu = self.mtus.get(remote, link_mtu) as u16;
        let sum = addresses_sum(local, remote);
        Ok(Path { local, remote, sum, headroom: headroom(local), mtu, link_mtu: link_mtu as u16, hop, epoch })
    }
}
