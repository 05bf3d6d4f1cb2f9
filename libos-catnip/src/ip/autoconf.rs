//! What routers advertise (RFC 4861 §6.3, RFC 4862): routers, prefixes, own addresses, the link's MTU.
//!
//! Invariants: routes and addresses from routers are few, whatever they say, and never replace configured ones. An own
//! address does not lose its life to one forged message (RFC 4862 §5.5.3 (e)).

use std::hash::Hasher;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use demi_api::libos::Cx;
use demi_api::time::Instant;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::addr::{ALL_ROUTERS, Cidr, group_mac};
use super::mtu::LEAST_V6;
use super::ndp::{link_address, options};
use super::routes::Origin;
use super::{ANY6, Ip};

/// Routes by routers' words at the most, the routers themselves included.
const MAX_ROUTES: usize = 16;
/// Addresses by routers' words at the most.
const MAX_ADDRESSES: usize = 6;
/// Questions for routers: RFC 4861 §10.
const QUESTIONS: u8 = 3;
const INTERVAL: Duration = Duration::from_secs(4);
/// Attempts to find an address that nobody has: RFC 7217 §7.
const ATTEMPTS: u8 = 3;
const TWO_HOURS: Duration = Duration::from_secs(7200);

/// How addresses are made, and what is still to be asked.
#[derive(Debug)]
pub(super) struct Autoconf {
    /// Take what routers say.
    enabled: bool,
    /// Makes stable, opaque identifiers.
    secret: Option<(u64, u64)>,
    mac: [u8; 6],
    /// Own addresses that turned out to be others'.
    lost: u8,
    questions: u8,
    next: Instant,
}

impl Autoconf {
    pub(super) fn new(enabled: bool, secret: &str, mac: [u8; 6]) -> Autoconf {
        let secret = (!secret.is_empty()).then(|| {
            let mut hasher = SipHasher13::new_with_keys(0, 0);
            hasher.write(secret.as_bytes());
            let hash = hasher.finish128();
            (hash.h1, hash.h2)
        });
        let questions = if enabled { QUESTIONS } else { 0 };
        Autoconf { enabled, secret, mac, lost: 0, questions, next: Instant::default() }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.questions > 0).then_some(self.next)
    }

    /// An address of a prefix of 64 bits: RFC 7217 §5 with a secret, else RFC 4291 §2.5.1.
    pub(super) fn address(&self, prefix: Ipv6Addr) -> Ipv6Addr {
        let prefix = prefix.to_bits() >> 64 << 64;
        let id = match self.secret {
            Some((one, other)) => {
                let mut hasher = SipHasher13::new_with_keys(one, other);
                hasher.write(&prefix.to_be_bytes());
                hasher.write(&self.mac);
                hasher.write_u8(self.lost);
                hasher.finish128().h1
            }
            None => {
                let [a, b, c, d, e, f] = self.mac;
                u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
            }
        };
        Ipv6Addr::from_bits(prefix | u128::from(id))
    }
}

/// The prefix of addresses that are good on the link only.
pub(super) const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);

impl Ip {
    /// Asks for routers, if that is due: RFC 4861 §6.3.7.
    pub(super) fn ask_routers(&mut self, cx: &mut Cx<'_>) -> usize {
        if self.autoconf.questions == 0 || cx.now < self.autoconf.next {
            return 0;
        }
        self.autoconf.questions -= 1;
        self.autoconf.next = cx.now + INTERVAL;
        let Some(IpAddr::V6(own)) = self.routes.source(ALL_ROUTERS.into(), ALL_ROUTERS.into(), cx.now) else {
            return 1;
        };
        let optimistic =
            self.routes.own().iter().any(|known| known.cidr.addr == IpAddr::V6(own) && known.optimistic);
        let mut message = [133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0];
        message[10..].copy_from_slice(&self.mac);
        let message = if optimistic { &message[..8] } else { &message[..] };
        self.put_icmp6(cx, group_mac(ALL_ROUTERS.into()), own, ALL_ROUTERS, message);
        1
    }

    /// Heeds a router: RFC 4861 §6.1.2 and §6.3.4. None: the message is not valid, or not asked for.
    pub(super) fn receive_router(&mut self, cx: &mut Cx<'_>, from: Ipv6Addr, message: &[u8]) -> Option<()> {
        let &[_, _, _, _, hops, _, life_high, life_low, reach @ .., _, _, _, _] =
            message.first_chunk::<16>()?;
        let options = options(message, 16)?;
        if !from.is_unicast_link_local() || !self.autoconf.enabled {
            return None;
        }
        self.quiet = Default::default();
        self.autoconf.questions = 0;
        if hops != 0 {
            self.hop_limit_v6 = hops;
        }
        let reachable = Duration::from_millis(u32::from_be_bytes(reach).into());
        if !reachable.is_zero() {
            self.neighbours.set_reachable(reachable);
        }
        let router = Some(IpAddr::V6(from));
        let default = Cidr { addr: ANY6, len: 0 };
        match u16::from_be_bytes([life_high, life_low]) {
            0 => self.no_router(from),
            life => self.route_by_router(default, router, Some(cx.now + Duration::from_secs(life.into()))),
        }
        if let Some(mac) = link_address(options.clone(), 1) {
            let released = self.neighbours.heard(from.into(), mac, true, cx.now);
            self.put_all(cx, mac, released);
        }
        for (kind, value) in options {
            match (kind, value) {
                (5, &[_, _, a, b, c, d]) => {
                    let mtu = u32::from_be_bytes([a, b, c, d]) as usize;
                    if (LEAST_V6..=self.mtu).contains(&mtu) && mtu != self.mtu_v6 {
                        self.mtu_v6 = mtu;
                        self.routes.change();
                    }
                }
                (3, value) => {
                    if let Some(prefix) = Prefix::read(value) {
                        self.heed_prefix(cx.now, &prefix);
                    }
                }
                _ => {}
            }
        }
        Some(())
    }

    /// RFC 4861 §6.3.4 for what is on the link, RFC 4862 §5.5.3 for own addresses.
    fn heed_prefix(&mut self, now: Instant, prefix: &Prefix) {
        let at = |life: Option<Duration>| life.map(|life| now + life);
        let to = Cidr { addr: prefix.addr.into(), len: prefix.len };
        if prefix.addr.is_unicast_link_local() || prefix.addr.is_multicast() {
            return;
        }
        if prefix.on_link {
            if prefix.valid == Some(Duration::ZERO) {
                let gone = to.network();
                self.routes.remove_routes(Origin::Router, |to, via| *to == gone && via.is_none());
            } else {
                self.route_by_router(to, None, at(prefix.valid));
            }
        }
        // No life is without end: it is longer than any that has one.
        let longer =
            prefix.valid.is_some_and(|valid| prefix.preferred.is_none_or(|preferred| preferred > valid));
        if !prefix.autonomous || prefix.len != 64 || longer {
            return;
        }
        let addr = IpAddr::V6(self.autoconf.address(prefix.addr));
        let (preferred, valid) = (at(prefix.preferred), at(prefix.valid));
        match self.routes.own_mut().iter_mut().find(|own| own.cidr.addr == addr) {
            Some(own) if own.origin != Origin::Router => {}
            Some(own) => {
                own.preferred = preferred;
                let left = own.valid.map(|until| until.since(now));
                own.valid = match (prefix.valid, left) {
                    (None, _) => None,
                    (Some(told), left) if told > TWO_HOURS || left.is_some_and(|left| told > left) => valid,
                    (_, Some(left)) if left <= TWO_HOURS => own.valid,
                    _ => Some(now + TWO_HOURS),
                };
            }
            None => {
                let count = self.routes.own().iter().filter(|own| own.origin == Origin::Router).count();
                if prefix.valid != Some(Duration::ZERO) && count < MAX_ADDRESSES {
                    self.adopt(Cidr { addr, len: 64 }, Origin::Router, preferred, valid);
                }
            }
        }
    }

    fn route_by_router(&mut self, to: Cidr, via: Option<IpAddr>, until: Option<Instant>) {
        if self.routes.count(Origin::Router) < MAX_ROUTES || self.routes.has_route(to, via, Origin::Router) {
            self.routes.add_route(to, via, Origin::Router, until);
        }
    }

    /// Somebody is no router any more.
    pub(super) fn no_router(&mut self, addr: Ipv6Addr) {
        self.routes.remove_routes(Origin::Router, |_, via| via == Some(IpAddr::V6(addr)));
    }

    /// A neighbour does not answer: if it is a router, others are better, until it advertises itself again
    /// (RFC 4861 §6.3.6). The only one stays.
    pub(super) fn prefer_others(&mut self, addr: IpAddr) {
        let default = Cidr { addr: ANY6, len: 0 };
        if self.routes.has_other_router(default, addr, Origin::Router) {
            self.routes.remove_routes(Origin::Router, |to, via| *to == default && via == Some(addr));
        }
    }

    /// Tries another address in place of one that somebody else has: RFC 7217 §6. Those made from the Ethernet address
    /// have no other.
    pub(super) fn another_address(&mut self, lost: Ipv6Addr) {
        if self.autoconf.secret.is_none()
            || self.autoconf.lost >= ATTEMPTS
            || self.autoconf.address(lost) != lost
        {
            return;
        }
        self.autoconf.lost += 1;
        if lost.is_unicast_link_local() {
            let addr = self.autoconf.address(lost).into();
            self.adopt(Cidr { addr, len: 64 }, Origin::Configured, None, None);
        }
        // Others come with the next advertisement, which is asked for.
        self.autoconf.questions = if self.autoconf.enabled { QUESTIONS } else { 0 };
    }
}

/// A prefix information option: RFC 4861 §4.6.2. Lifetimes of `None` do not end.
struct Prefix {
    addr: Ipv6Addr,
    len: u8,
    on_link: bool,
    autonomous: bool,
    valid: Option<Duration>,
    preferred: Option<Duration>,
}

impl Prefix {
    fn read(value: &[u8]) -> Option<Prefix> {
        let value: &[u8; 30] = value.try_into().ok()?;
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|n| value[at + n]));
        let life =
            |at| Some(word(at)).filter(|secs| *secs != u32::MAX).map(|secs| Duration::from_secs(secs.into()));
        let octets: [u8; 16] = *value[14..].first_chunk()?;
        let [len, flags, ..] = *value;
        let prefix = Prefix {
            addr: octets.into(),
            len,
            on_link: flags & 0x80 != 0,
            autonomous: flags & 0x40 != 0,
            valid: life(2),
            preferred: life(6),
        };
        (len <= 128).then_some(prefix)
    }
}
