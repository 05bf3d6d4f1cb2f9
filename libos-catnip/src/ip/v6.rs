//! IPv6 packets (RFC 8200), through extension headers down to the transport header.

use std::net::{IpAddr, Ipv6Addr};

use demi_api::libos::Cx;
use smoltcp::wire::{Ipv6FragmentHeader, Ipv6Packet};

use super::addr::{ALL_NODES, Cast, is_unicast6};
use super::fragments::{Key, Part};
use super::icmp6::PARAMETER;
use super::v4::{Link, first, is_open};
use super::{
    CONTIGUOUS, Datagram, ETHERNET, Fault, ICMP, ICMP6, IPV6, Ip, Received, TCP, TURN, UDP, segments,
};
use crate::device::{Checksum, Frame};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const NONE: u8 = 59;
const DESTINATION: u8 = 60;

/// Extension headers that are looked at in one packet.
const MOST_HEADERS: usize = 8;

impl Ip {
    #[inline]
    pub(super) fn receive_v6(&mut self, cx: &mut Cx<'_>, frame: Frame, link: Link) -> Received {
        let Frame { mut data, checksum } = frame;
        let packet = data.segments().first().and_then(|first| first.get(ETHERNET..)).unwrap_or_default();
        let Some(header) = packet.first_chunk::<IPV6>() else { return self.malformed() };
        let ip = Ipv6Packet::new_unchecked(header);
        let total = IPV6 + usize::from(ip.payload_len());
        if ip.version() != 6 || total > data.len() - ETHERNET {
            return self.malformed();
        }
        let (remote, local) = (ip.src_addr(), ip.dst_addr());
        let (protocol, ecn, hop_limit) = (header[6], ip.traffic_class() & 3, ip.hop_limit());
        let discovery = protocol == ICMP6 && hop_limit == 255;
        let Some(cast) = self.cast_v6(remote, local, link, discovery) else { return Received::Nothing };
        segments::truncate(&mut data, ETHERNET + total);
        segments::strip(&mut data, ETHERNET + IPV6);
        let (local, remote) = (local.into(), remote.into());
        let datagram = Datagram { local, remote, protocol, ecn, checksum, cast, data };
        match protocol {
            TCP | UDP => self.deliver(cx, datagram),
            _ => self.walk(cx, datagram, hop_limit),
        }
    }

    /// To whom a packet is, if its addresses can be.
    #[inline]
    fn cast_v6(&mut self, remote: Ipv6Addr, local: Ipv6Addr, link: Link, discovery: bool) -> Option<Cast> {
        if !link.looped {
            // RFC 4291 §2.5 and §2.7. Nobody has the unspecified address, but one who looks for his own asks from it.
            let possible = is_unicast6(remote) || remote.is_unspecified() && local.is_multicast();
            // Another that has an address of ours says so from that address.
            let stolen = !discovery && self.routes.is_own6(remote);
            if !possible || stolen || remote.is_loopback() || local.is_loopback() {
                self.martian();
                return None;
            }
        }
        if self.routes.is_own6(local) || local.is_loopback() {
            if link.group {
                self.martian();
                return None;
            }
            return Some(Cast::Unicast);
        }
        let joined = local == ALL_NODES || self.routes.is_solicited(local);
        if joined && self.routes.has_v6() {
            return Some(Cast::Multicast);
        }
        self.counters.foreign += 1;
        None
    }

    /// Goes through extension headers in their order: RFC 8200 §4.1.
    #[cold]
    fn walk(&mut self, cx: &mut Cx<'_>, mut datagram: Datagram, hop_limit: u8) -> Received {
        let mut whole = true;
        for place in 0..MOST_HEADERS {
            if segments::pull_up(cx.heap, &mut datagram.data, CONTIGUOUS).is_err() {
                self.counters.no_memory += 1;
                return Received::Nothing;
            }
            match datagram.protocol {
                HOP_BY_HOP if place > 0 => {
                    self.reject(cx, &datagram, Fault::Parameter { code: 1, pointer: 6 });
                    return Received::Nothing;
                }
                HOP_BY_HOP | DESTINATION | ROUTING => {
                    let Some(&[next, len]) = first(&datagram.data) else { return self.malformed() };
                    let len = 8 + 8 * usize::from(len);
                    if len > datagram.data.len() {
                        return self.malformed();
                    }
                    if segments::pull_up(cx.heap, &mut datagram.data, len).is_err() {
                        self.counters.no_memory += 1;
                        return Received::Nothing;
                    }
                    let header = datagram
                        .data
                        .segments()
                        .first()
                        .and_then(|first| first.get(..len))
                        .unwrap_or_default();
                    let verdict = match datagram.protocol {
                        ROUTING => check_routing(header),
                        _ => check_options(header),
                    };
                    match verdict {
                        Verdict::Go => {}
                        Verdict::Drop => {
                            self.counters.malformed += 1;
                            return Received::Nothing;
                        }
                        Verdict::Say { code, pointer } => {
                            self.counters.source_routed += u64::from(datagram.protocol == ROUTING);
                            self.reject(
                                cx,
                                &datagram,
                                Fault::Parameter { code, pointer: (IPV6 + pointer) as u32 },
                            );
                            return Received::Nothing;
                        }
                    }
                    datagram.data.advance(len);
                    datagram.protocol = next;
                }
                // One packet is not fragmented twice on its way.
                FRAGMENT if !whole => return self.malformed(),
                FRAGMENT => {
                    whole = false;
                    match self.join_v6(cx, datagram) {
                        Some(joined) => datagram = joined,
                        None => return Received::Nothing,
                    }
                }
                NONE => return Received::Nothing,
                // RFC 6980: who asks for a neighbour does not do so in fragments.
                ICMP6 => return self.receive_icmp6(cx, datagram, if whole { hop_limit } else { 0 }),
                TCP | UDP if datagram.remote.is_unspecified() => return self.martian(),
                _ => return self.deliver(cx, datagram),
            }
        }
        self.malformed()
    }

    fn join_v6(&mut self, cx: &mut Cx<'_>, mut datagram: Datagram) -> Option<Datagram> {
        let Some(&[next, _, rest @ ..]) = first::<8>(&datagram.data) else {
            self.malformed();
            return None;
        };
        let fragment = Ipv6FragmentHeader::new_unchecked(rest);
        let (offset, more) = (usize::from(fragment.frag_offset()) * 8, fragment.more_frags());
        datagram.data.advance(8);
        datagram.protocol = next;
        // RFC 6946: one that is whole has nothing to do with others of its number.
        if offset == 0 && !more {
            return Some(datagram);
        }
        let key =
            Key { local: datagram.local, remote: datagram.remote, ident: fragment.ident(), protocol: 0 };
        self.join(cx, key, datagram, offset, more)
    }

    /// Takes a fragment; gives the packet if it is whole now.
    pub(super) fn join(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        datagram: Datagram,
        offset: usize,
        more: bool,
    ) -> Option<Datagram> {
        self.counters.fragments += 1;
        self.quiet = Default::default();
        let Datagram { local, remote, protocol, ecn, checksum, cast, data } = datagram;
        let vouched = !is_open(checksum);
        let part = Part { offset, more, data, protocol, ecn, vouched };
        let whole = self.fragments.add(cx.heap, key, part, cx.now)?;
        let checksum = if whole.vouched { Checksum::Verified } else { Checksum::Unknown };
        let Part { protocol, ecn, data, .. } = whole;
        Some(Datagram { local, remote, protocol, ecn, checksum, cast, data })
    }

    /// Fragments whose time has run out, and what their senders are told: RFC 1122 §3.3.2, RFC 8200 §4.5.
    pub(super) fn expire_fragments(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut done = 0;
        for _ in 0..TURN {
            let Some((key, first)) = self.fragments.expire(cx.now) else { break };
            done += 1;
            let Some(part) = first else { continue };
            let cast = match key.local {
                IpAddr::V4(local) if self.routes.is_own4(local) => Cast::Unicast,
                IpAddr::V6(local) if self.routes.is_own6(local) => Cast::Unicast,
                _ => Cast::Broadcast,
            };
            let datagram = Datagram {
                local: key.local,
                remote: key.remote,
                protocol: part.protocol,
                ecn: part.ecn,
                checksum: Checksum::Unknown,
                cast,
                data: part.data,
            };
            if datagram.protocol != ICMP && datagram.protocol != ICMP6 {
                self.reject(cx, &datagram, Fault::Reassembly);
            }
        }
        done
    }
}

enum Verdict {
    Go,
    Drop,
    /// Drop, and say where the problem is, counted from the header's beginning.
    Say {
        code: u8,
        pointer: usize,
    },
}

/// Options of a hop-by-hop or destination header, in type, length, value: RFC 8200 §4.2.
fn check_options(header: &[u8]) -> Verdict {
    let mut at = 2;
    while let Some(&kind) = header.get(at) {
        if kind == 0 {
            at += 1;
            continue;
        }
        let Some(&len) = header.get(at + 1) else { return Verdict::Drop };
        let end = at + 2 + usize::from(len);
        if end > header.len() {
            return Verdict::Drop;
        }
        // Padding, and the router alert, which is meant for routers.
        let known = matches!(kind, 1 | 5);
        match kind >> 6 {
            _ if known => {}
            0 => {}
            1 => return Verdict::Drop,
            _ => return Verdict::Say { code: PARAMETER.option, pointer: at },
        }
        at = end;
    }
    Verdict::Go
}

/// RFC 8200 §4.4, RFC 5095: nobody is sent further by a routing header.
fn check_routing(header: &[u8]) -> Verdict {
    match header.get(3) {
        Some(0) => Verdict::Go,
        Some(_) => Verdict::Say { code: PARAMETER.field, pointer: 2 },
        None => Verdict::Drop,
    }
}
