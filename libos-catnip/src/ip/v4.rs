//! Received frames, and IPv4 packets down to the transport header.

use std::net::Ipv4Addr;

use demi_api::libos::Cx;
use demi_api::sga::SgArray;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, Ipv4Packet};

use super::addr::{Cast, is_unicast4};
use super::dhcp::is_dhcp;
use super::fragments::Key;
use super::{CONTIGUOUS, Datagram, ETHERNET, Fault, ICMP, IPV4, Ip, Received, TCP, UDP, checksum, segments};
use crate::device::{Checksum, Frame};

/// How a packet came.
#[derive(Clone, Copy)]
pub(super) struct Link {
    /// To an Ethernet group.
    pub(super) group: bool,
    /// From ourselves, through memory.
    pub(super) looped: bool,
}

/// All hosts of the link: RFC 1112 §4.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

impl Ip {
    /// Takes a received frame. What is for the Internet layer itself is dealt with.
    #[inline]
    pub(crate) fn receive(&mut self, cx: &mut Cx<'_>, frame: Frame) -> Received {
        let header = frame.data.segments().first().and_then(|first| first.first_chunk::<ETHERNET>());
        let Some(header) = header else {
            self.counters.malformed += 1;
            return Received::Nothing;
        };
        let ethernet = EthernetFrame::new_unchecked(header);
        let EthernetAddress(to) = ethernet.dst_addr();
        let group = to[0] & 1 == 1;
        // What we sent ourselves and a medium gives back says nothing.
        if to != self.mac && !group || ethernet.src_addr().0 == self.mac {
            self.counters.foreign += 1;
            return Received::Nothing;
        }
        let link = Link { group, looped: false };
        match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => self.receive_v4(cx, frame, link),
            EthernetProtocol::Ipv6 => self.receive_v6(cx, frame, link),
            EthernetProtocol::Arp => {
                self.receive_arp(cx, &frame);
                Received::Nothing
            }
            EthernetProtocol::Unknown(_) => {
                self.counters.foreign += 1;
                Received::Nothing
            }
        }
    }

    /// Takes a packet from ourselves.
    pub(super) fn receive_looped(&mut self, cx: &mut Cx<'_>, frame: Frame) -> Received {
        let link = Link { group: false, looped: true };
        let version =
            frame.data.segments().first().and_then(|first| first.get(ETHERNET)).map(|byte| byte >> 4);
        match version {
            Some(4) => self.receive_v4(cx, frame, link),
            _ => self.receive_v6(cx, frame, link),
        }
    }

    #[inline]
    fn receive_v4(&mut self, cx: &mut Cx<'_>, frame: Frame, link: Link) -> Received {
        let Frame { mut data, checksum } = frame;
        let packet = data.segments().first().and_then(|first| first.get(ETHERNET..)).unwrap_or_default();
        let Some(header) = packet.first_chunk::<IPV4>() else { return self.malformed() };
        let ip = Ipv4Packet::new_unchecked(header);
        let (header_len, total) = (usize::from(ip.header_len()), usize::from(ip.total_len()));
        let Some(whole) = packet.get(..header_len) else { return self.malformed() };
        if ip.version() != 4 || header_len < IPV4 || total < header_len || total > data.len() - ETHERNET {
            return self.malformed();
        }
        if !link.looped && checksum::fold(checksum::sum(whole)) != 0xffff {
            self.counters.bad_checksum += 1;
            return Received::Nothing;
        }
        if header_len > IPV4 && has_source_route(&whole[IPV4..]) {
            self.counters.source_routed += 1;
            return Received::Nothing;
        }
        let (remote, local) = (ip.src_addr(), ip.dst_addr());
        let (protocol, ecn) = (header[9], header[1] & 3);
        let fragment = ip.more_frags() || ip.frag_offset() != 0;
        let part = fragment.then(|| (ip.ident(), usize::from(ip.frag_offset()), ip.more_frags()));

        // RFC 1122 §3.2.1.3, RFC 1812 §5.3.7.
        let strange = !is_unicast4(remote)
            || remote.is_loopback()
            || self.routes.is_own4(remote)
            || self.routes.is_broadcast(remote);
        if strange && !link.looped {
            return self.martian();
        }
        if self.dhcp.is_some() && protocol == UDP && part.is_none() && !link.looped {
            let content = packet.get(header_len..).and_then(|content| content.first_chunk());
            if is_dhcp(content) {
                segments::truncate(&mut data, ETHERNET + total);
                segments::strip(&mut data, ETHERNET + header_len);
                self.receive_dhcp(cx, remote, local, data, checksum);
                return Received::Nothing;
            }
        }
        let cast = if self.routes.is_own4(local) {
            // RFC 1122 §3.3.6: what is for one host does not come to all.
            if link.group {
                return self.martian();
            }
            Cast::Unicast
        } else if local.is_loopback() {
            if !link.looped {
                return self.martian();
            }
            Cast::Unicast
        } else if self.routes.is_broadcast(local) {
            Cast::Broadcast
        } else if local == ALL_HOSTS {
            Cast::Multicast
        } else {
            self.counters.foreign += 1;
            return Received::Nothing;
        };
        segments::truncate(&mut data, ETHERNET + total);
        segments::strip(&mut data, ETHERNET + header_len);
        let (local, remote) = (local.into(), remote.into());
        let datagram = Datagram { local, remote, protocol, ecn, checksum, cast, data };
        let Some((ident, offset, more)) = part else { return self.deliver(cx, datagram) };
        let key = Key { local, remote, ident: ident.into(), protocol };
        match self.join(cx, key, datagram, offset, more) {
            Some(whole) => self.deliver(cx, whole),
            None => Received::Nothing,
        }
    }

    /// Gives a packet's content to whom its protocol belongs.
    #[inline]
    pub(super) fn deliver(&mut self, cx: &mut Cx<'_>, mut datagram: Datagram) -> Received {
        if segments::pull_up(cx.heap, &mut datagram.data, CONTIGUOUS).is_err() {
            self.counters.no_memory += 1;
            return Received::Nothing;
        }
        match datagram.protocol {
            TCP | UDP => {
                self.counters.delivered += 1;
                Received::Transport(datagram)
            }
            ICMP if datagram.local.is_ipv4() => self.receive_icmp4(cx, datagram),
            _ => {
                self.reject(cx, &datagram, Fault::Protocol);
                Received::Nothing
            }
        }
    }

    #[cold]
    pub(super) fn malformed(&mut self) -> Received {
        self.counters.malformed += 1;
        Received::Nothing
    }

    #[cold]
    pub(super) fn martian(&mut self) -> Received {
        self.counters.martian += 1;
        Received::Nothing
    }
}

/// Whether options ask for a way of their own (RFC 791 §3.1), which nobody honest does any more (RFC 7126 §4.3). Options
/// that do not add up count as such.
#[cold]
fn has_source_route(mut options: &[u8]) -> bool {
    loop {
        match options {
            [] | [0, ..] => return false,
            [1, rest @ ..] => options = rest,
            [131 | 137, ..] | [_] => return true,
            [_, len, ..] => match options.get(usize::from(*len).max(2)..) {
                Some(rest) => options = rest,
                None => return true,
            },
        }
    }
}

/// Whether a checksum is still to be verified.
pub(super) fn is_open(checksum: Checksum) -> bool {
    checksum == Checksum::Unknown
}

/// The first bytes of a packet's content.
pub(super) fn first<const N: usize>(data: &SgArray) -> Option<&[u8; N]> {
    data.segments().first()?.first_chunk()
}
