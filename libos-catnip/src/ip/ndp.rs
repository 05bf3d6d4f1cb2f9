//! Neighbour discovery (RFC 4861): questions, answers, and whether an address is somebody else's (RFC 4862 §5.4).
//!
//! Own addresses are optimistic at first (RFC 4429): they are used at once, but do not replace anybody's entry, and are
//! given up if somebody else has them.

use std::net::{IpAddr, Ipv6Addr};

use demi_api::libos::Cx;

use super::addr::{ALL_NODES, Cast, group_mac, solicited_node};
use super::neighbours::Advert;
use super::{Datagram, Ip, segments};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

const SOURCE: u8 = 1;
const TARGET: u8 = 2;
/// Flags of an advertisement.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

impl Ip {
    pub(super) fn receive_ndp(
        &mut self,
        cx: &mut Cx<'_>,
        kind: u8,
        code: u8,
        mut datagram: Datagram,
        hop_limit: u8,
    ) {
        let len = datagram.data.len();
        if segments::pull_up(cx.heap, &mut datagram.data, len).is_err() {
            self.counters.no_memory += 1;
            return;
        }
        let (IpAddr::V6(from), IpAddr::V6(to)) = (datagram.remote, datagram.local) else { return };
        let message = datagram.data.segments().first().map(|first| &first[..]).unwrap_or_default();
        // RFC 4861 §7.1: who is not on the link cannot send with the highest hop limit.
        let heeded = hop_limit == 255
            && code == 0
            && match kind {
                SOLICITATION => self.receive_solicitation(cx, from, to, message).is_some(),
                ADVERTISEMENT => self.receive_advertisement(cx, to, message, datagram.cast).is_some(),
                ROUTER_ADVERTISEMENT => self.receive_router(cx, from, message).is_some(),
                ROUTER_SOLICITATION => true,
                // Redirects: the routers known are left to find better ways by themselves.
                _ => false,
            };
        if !heeded {
            self.counters.neighbour_refused += 1;
        }
    }

    /// RFC 4861 §7.1.1 and §7.2.3. None: not valid.
    fn receive_solicitation(
        &mut self,
        cx: &mut Cx<'_>,
        from: Ipv6Addr,
        to: Ipv6Addr,
        message: &[u8],
    ) -> Option<()> {
        let target = target(message)?;
        let source = link_address(options(message, 24)?, SOURCE);
        if target.is_multicast() {
            return None;
        }
        let own = self.routes.own().iter().find(|own| own.cidr.addr == IpAddr::V6(target));
        let optimistic = own.map(|own| own.optimistic);
        if from.is_unspecified() {
            // Somebody wants to know whether he can have the address.
            if to != solicited_node(target) || source.is_some() {
                return None;
            }
            match optimistic {
                Some(true) => self.lose_address(target),
                Some(false) => self.advertise(cx, group_mac(ALL_NODES.into()), target, ALL_NODES, OVERRIDE),
                None => {}
            }
            return Some(());
        }
        self.quiet = Default::default();
        if let Some(mac) = source {
            let released = self.neighbours.heard(from.into(), mac, optimistic.is_some(), cx.now);
            self.put_all(cx, mac, released);
        }
        let Some(optimistic) = optimistic else { return Some(()) };
        let flags = SOLICITED | if optimistic { 0 } else { OVERRIDE };
        let known = source.or_else(|| {
            let place = self.neighbours.place(from.into(), cx.now)?;
            self.neighbours.reachable(place, cx.now)
        });
        match known {
            Some(mac) => self.advertise(cx, mac, target, from, flags),
            // He has not said where he is. RFC 4861 §7.2.4: to all, as an answer that nobody waits for.
            None => self.advertise(cx, group_mac(ALL_NODES.into()), target, ALL_NODES, flags & OVERRIDE),
        }
        Some(())
    }

    /// RFC 4861 §7.1.2 and §7.2.5. None: not valid.
    fn receive_advertisement(
        &mut self,
        cx: &mut Cx<'_>,
        to: Ipv6Addr,
        message: &[u8],
        cast: Cast,
    ) -> Option<()> {
        let target = target(message)?;
        let flags = message[4];
        let mac = link_address(options(message, 24)?, TARGET);
        let solicited = flags & SOLICITED != 0;
        if target.is_multicast() || solicited && (to.is_multicast() || cast != Cast::Unicast) {
            return None;
        }
        if let Some(own) = self.routes.own().iter().find(|own| own.cidr.addr == IpAddr::V6(target)) {
            if own.optimistic {
                self.lose_address(target);
            } else {
                self.counters.conflicts += 1;
            }
            return Some(());
        }
        self.quiet = Default::default();
        if flags & ROUTER == 0 {
            self.no_router(target);
        }
        let advert = Advert { mac, solicited, replaces: flags & OVERRIDE != 0 };
        let released = self.neighbours.advertised(target.into(), advert, cx.now);
        if let Some(mac) = mac {
            self.put_all(cx, mac, released);
        }
        Some(())
    }

    /// Asks for a neighbour: RFC 4861 §7.2.2.
    pub(super) fn solicit_v6(&mut self, cx: &mut Cx<'_>, addr: Ipv6Addr, known: Option<[u8; 6]>) {
        let Some(IpAddr::V6(own)) = self.routes.source(addr.into(), addr.into(), cx.now) else { return };
        let optimistic =
            self.routes.own().iter().any(|own_| own_.cidr.addr == IpAddr::V6(own) && own_.optimistic);
        let to = if known.is_some() { addr } else { solicited_node(addr) };
        let mac = known.unwrap_or(group_mac(to.into()));
        let mut message = [0; 32];
        message[0] = SOLICITATION;
        message[8..24].copy_from_slice(&addr.octets());
        message[24..26].copy_from_slice(&[SOURCE, 1]);
        message[26..].copy_from_slice(&self.mac);
        // RFC 4429 §3.2: what may be somebody else's is not to be remembered.
        let message = if optimistic { &message[..24] } else { &message[..] };
        self.put_icmp6(cx, mac, own, to, message);
    }

    /// Asks whether somebody has an address: RFC 4862 §5.4.2.
    pub(super) fn probe_v6(&mut self, cx: &mut Cx<'_>, addr: Ipv6Addr) {
        let group = solicited_node(addr);
        let mut message = [0; 24];
        message[0] = SOLICITATION;
        message[8..].copy_from_slice(&addr.octets());
        self.put_icmp6(cx, group_mac(group.into()), Ipv6Addr::UNSPECIFIED, group, &message);
    }

    /// Tells everyone that an address is ours: RFC 4861 §7.2.6.
    pub(super) fn announce_v6(&mut self, cx: &mut Cx<'_>, addr: Ipv6Addr) {
        self.advertise(cx, group_mac(ALL_NODES.into()), addr, ALL_NODES, OVERRIDE);
    }

    fn advertise(&mut self, cx: &mut Cx<'_>, mac: [u8; 6], target: Ipv6Addr, to: Ipv6Addr, flags: u8) {
        let mut message = [0; 32];
        message[0] = ADVERTISEMENT;
        message[4] = flags;
        message[8..24].copy_from_slice(&target.octets());
        message[24..26].copy_from_slice(&[TARGET, 1]);
        message[26..].copy_from_slice(&self.mac);
        self.put_icmp6(cx, mac, target, to, &message);
    }

    /// Somebody else has an address that was to be ours: RFC 4862 §5.4.5.
    fn lose_address(&mut self, addr: Ipv6Addr) {
        self.counters.conflicts += 1;
        self.quiet = Default::default();
        self.routes.remove_address(addr.into());
        self.another_address(addr);
    }
}

fn target(message: &[u8]) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = *message.get(8..)?.first_chunk()?;
    Some(octets.into())
}

/// The options from a place on, in type and value, the length left out. None: they do not add up.
pub(super) fn options(message: &[u8], from: usize) -> Option<impl Iterator<Item = (u8, &[u8])> + Clone> {
    let rest = message.get(from..)?;
    let mut check = rest;
    while !check.is_empty() {
        split_option(&mut check)?;
    }
    let mut left = rest;
    Some(std::iter::from_fn(move || split_option(&mut left)))
}

fn split_option<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let &[kind, len, ..] = *rest else { return None };
    let (option, tail) = rest.split_at_checked(8 * usize::from(len))?;
    *rest = tail;
    Some((kind, option.get(2..)?))
}

/// The Ethernet address in an option.
pub(super) fn link_address<'a>(
    mut options: impl Iterator<Item = (u8, &'a [u8])>,
    kind: u8,
) -> Option<[u8; 6]> {
    let (_, value) = options.find(|(found, value)| *found == kind && value.len() == 6)?;
    value.first_chunk().copied().filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6])
}
