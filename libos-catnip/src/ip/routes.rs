//! Own addresses, and the ways to others'.
//!
//! Invariant: both tables are bounded; they are small and searched from the front. Whoever keeps what was found here
//! keeps the epoch with it, which every change raises.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use demi_api::time::Instant;

use super::addr::{Cidr, solicited_node};
use super::config::MAX_ADDRESSES;

/// Routes at the most, configured and learned.
const MAX_ROUTES: usize = 96;

/// Who says so. What one says replaces only what it said itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Configured,
    Dhcp,
    Router,
}

/// An own address.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) cidr: Cidr,
    pub(super) origin: Origin,
    /// Nobody has objected to it yet: RFC 4429.
    pub(super) optimistic: bool,
    /// No longer for new connections from then on.
    pub(super) preferred: Option<Instant>,
    /// No longer at all from then on.
    pub(super) valid: Option<Instant>,
    /// Questions after it that are still to be sent, or announcements of it.
    pub(super) announce: u8,
    /// When the next is to be.
    pub(super) next: Instant,
}

#[derive(Clone, Debug)]
struct Route {
    to: Cidr,
    via: Option<IpAddr>,
    origin: Origin,
    until: Option<Instant>,
}

/// Addresses and routes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    own: ArrayVec<Own, MAX_ADDRESSES>,
    /// Of those of IPv4, the address and what means all hosts of its prefix: what every packet is compared with.
    own4: ArrayVec<[Ipv4Addr; 2], MAX_ADDRESSES>,
    /// The longest prefixes first.
    routes: Vec<Route>,
    epoch: u32,
}

impl Routes {
    /// Changes whenever what was found before may no longer hold.
    #[inline]
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(super) fn change(&mut self) {
        let own4 = self.own.iter().filter_map(|own| match own.cidr.addr {
            IpAddr::V4(addr) => Some([addr, own.cidr.broadcast().unwrap_or(Ipv4Addr::BROADCAST)]),
            IpAddr::V6(_) => None,
        });
        self.own4 = own4.collect();
        self.epoch = self.epoch.wrapping_add(1);
    }

    pub(super) fn own(&self) -> &[Own] {
        &self.own
    }

    /// To change announcements and lifetimes; whoever changes more also calls [`Routes::change`].
    pub(super) fn own_mut(&mut self) -> &mut [Own] {
        &mut self.own
    }

    #[inline]
    pub(super) fn is_own(&self, addr: IpAddr) -> bool {
        self.own.iter().any(|own| own.cidr.addr == addr)
    }

    #[inline]
    pub(super) fn is_own4(&self, addr: Ipv4Addr) -> bool {
        self.own4.iter().any(|[own, _]| *own == addr)
    }

    #[inline]
    pub(super) fn is_own6(&self, addr: Ipv6Addr) -> bool {
        self.own.iter().any(|own| own.cidr.addr == IpAddr::V6(addr))
    }

    /// Whether an address means all hosts of a prefix of ours.
    #[inline]
    pub(super) fn is_broadcast(&self, addr: Ipv4Addr) -> bool {
        addr.is_broadcast() || self.own4.iter().any(|[_, all]| *all == addr)
    }

    /// Whether an own address listens in a group of solicited nodes.
    pub(super) fn is_solicited(&self, group: Ipv6Addr) -> bool {
        let listens = |own: &Own| matches!(own.cidr.addr, IpAddr::V6(addr) if solicited_node(addr) == group);
        self.own.iter().any(listens)
    }

    /// Whether an address is on the link, by a prefix of ours.
    pub(super) fn on_link(&self, addr: IpAddr) -> bool {
        self.route(addr).is_some_and(|via| via == addr)
    }

    /// The neighbour to send through: the destination itself, or a router.
    pub(super) fn route(&self, to: IpAddr) -> Option<IpAddr> {
        if let IpAddr::V6(addr) = to
            && addr.is_unicast_link_local()
        {
            return self.has_v6().then_some(to);
        }
        let route = self.routes.iter().find(|route| route.to.contains(to))?;
        Some(route.via.unwrap_or(to))
    }

    /// Whether IPv6 is in use.
    pub(super) fn has_v6(&self) -> bool {
        self.own.iter().any(|own| own.cidr.addr.is_ipv6())
    }

    /// The address to send from to `to`, by way of the neighbour `via`.
    pub(super) fn source(&self, to: IpAddr, via: IpAddr, now: Instant) -> Option<IpAddr> {
        match to {
            IpAddr::V4(_) => {
                // RFC 1122 §3.3.4.3: that of the prefix through which the packet leaves.
                let mut v4 = self.own.iter().filter(|own| own.cidr.addr.is_ipv4());
                let first = v4.clone().next();
                let found = v4.find(|own| own.cidr.contains(via)).or(first)?;
                Some(found.cidr.addr)
            }
            IpAddr::V6(to) => {
                // RFC 6724 §5: rules 2 (scope), 3 (deprecated ones last) and 8 (longest match).
                let local = scope(to) == LINK;
                let v6 = self.own.iter().filter_map(|own| match own.cidr.addr {
                    IpAddr::V6(addr) => Some((own, addr)),
                    IpAddr::V4(_) => None,
                });
                let rank = |(own, addr): &(&Own, Ipv6Addr)| {
                    let fits = addr.is_unicast_link_local() == local;
                    let fresh = own.preferred.is_none_or(|until| now < until);
                    let common = (addr.to_bits() ^ to.to_bits()).leading_zeros();
                    (fits, fresh, common)
                };
                let (_, best) = v6.max_by_key(rank)?;
                // What is only valid on the link is no source for what lies beyond it.
                (local || !best.is_unicast_link_local()).then_some(best.into())
            }
        }
    }

    /// Takes an address, or notes that it lives longer. False: there is no room for another.
    pub(super) fn add_address(&mut self, own: Own) -> bool {
        if let Some(known) = self.own.iter_mut().find(|known| known.cidr.addr == own.cidr.addr) {
            known.preferred = own.preferred;
            known.valid = own.valid;
            return true;
        }
        self.change();
        self.own.try_push(own).is_ok()
    }

    pub(super) fn remove_address(&mut self, addr: IpAddr) {
        self.own.retain(|own| own.cidr.addr != addr);
        self.change();
    }

    /// Takes a route, or notes that it lives longer. False: there is no room for another.
    pub(super) fn add_route(
        &mut self,
        to: Cidr,
        via: Option<IpAddr>,
        origin: Origin,
        until: Option<Instant>,
    ) -> bool {
        let to = to.network();
        if let Some(known) =
            self.routes.iter_mut().find(|known| known.to == to && known.via == via && known.origin == origin)
        {
            known.until = until;
            return true;
        }
        if self.routes.len() >= MAX_ROUTES {
            return false;
        }
        let place = self.routes.partition_point(|known| known.to.len >= to.len);
        self.routes.insert(place, Route { to, via, origin, until });
        self.change();
        true
    }

    /// Forgets routes of an origin that satisfy a condition.
    pub(super) fn remove_routes(&mut self, origin: Origin, forget: impl Fn(&Cidr, Option<IpAddr>) -> bool) {
        let before = self.routes.len();
        self.routes.retain(|route| route.origin != origin || !forget(&route.to, route.via));
        if self.routes.len() != before {
            self.change();
        }
    }

    /// Whether there is a route by an origin.
    pub(super) fn has_route(&self, to: Cidr, via: Option<IpAddr>, origin: Origin) -> bool {
        let to = to.network();
        self.routes.iter().any(|known| known.to == to && known.via == via && known.origin == origin)
    }

    /// Whether an origin knows another router to a prefix.
    pub(super) fn has_other_router(&self, to: Cidr, than: IpAddr, origin: Origin) -> bool {
        let other = |via: IpAddr| via != than;
        self.routes
            .iter()
            .any(|known| known.to == to && known.origin == origin && known.via.is_some_and(other))
    }

    /// How many routes there are of an origin.
    pub(super) fn count(&self, origin: Origin) -> usize {
        self.routes.iter().filter(|route| route.origin == origin).count()
    }

    /// Forgets what has expired.
    pub(super) fn expire(&mut self, now: Instant) {
        let before = self.own.len() + self.routes.len();
        let alive = |until: Option<Instant>| until.is_none_or(|until| now < until);
        self.own.retain(|own| alive(own.valid));
        self.routes.retain(|route| alive(route.until));
        if self.own.len() + self.routes.len() != before {
            self.change();
        }
    }

    /// When something expires, or is to be announced.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let announced = self.own.iter().filter(|own| own.announce > 0 || own.optimistic).map(|own| own.next);
        let valid = self.own.iter().filter_map(|own| own.valid);
        announced.chain(valid).chain(self.routes.iter().filter_map(|route| route.until)).min()
    }
}

/// Scope of the link: RFC 4291 §2.7.
const LINK: u8 = 2;

fn scope(addr: Ipv6Addr) -> u8 {
    match addr.octets() {
        [0xff, flags, ..] => flags & 0xf,
        _ if addr.is_unicast_link_local() => LINK,
        _ => 14,
    }
}
