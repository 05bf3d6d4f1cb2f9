//! ARP (RFC 826): answers, questions, announcements, conflicts (RFC 5227).
//!
//! What arrives makes an entry only if it asks for an address of ours; what answers is heard only if it was asked.

use std::net::{IpAddr, Ipv4Addr};

use demi_api::libos::Cx;
use smoltcp::wire::{ArpHardware, ArpOperation, ArpPacket, EthernetAddress, EthernetFrame, EthernetProtocol};

use super::addr::is_unicast4;
use super::neighbours::{Advert, Waiting};
use super::{ETHERNET, Ip};
use crate::device::{Checksum, Frame};

/// Bytes of an ARP message for IPv4 over Ethernet.
const ARP: usize = 28;
const BROADCAST: [u8; 6] = [0xff; 6];

impl Ip {
    pub(super) fn receive_arp(&mut self, cx: &mut Cx<'_>, frame: &Frame) {
        let first = frame.data.segments().first();
        let message =
            first.and_then(|first| first.get(ETHERNET..)).and_then(|rest| rest.first_chunk::<ARP>());
        let Some(message) = message else {
            self.counters.malformed += 1;
            return;
        };
        let arp = ArpPacket::new_unchecked(message);
        let fits = arp.hardware_type() == ArpHardware::Ethernet
            && arp.protocol_type() == EthernetProtocol::Ipv4
            && arp.hardware_len() == 6
            && arp.protocol_len() == 4;
        if !fits {
            self.counters.neighbour_refused += 1;
            return;
        }
        let [.., a, b, c, d, _, _, _, _, _, _, e, f, g, h] = *message;
        let (from, about) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
        let mac: [u8; 6] = std::array::from_fn(|n| message[8 + n]);
        let operation = arp.operation();
        let asks = operation == ArpOperation::Request && self.routes.is_own4(about);

        if mac[0] & 1 == 1 || mac == [0; 6] {
            self.counters.neighbour_refused += 1;
            return;
        }
        // RFC 5227 §2.4: somebody else has an address of ours.
        if self.routes.is_own4(from) {
            self.counters.conflicts += 1;
            self.defend(cx, from);
            return;
        }
        // RFC 5227 §2.1.1: a question by one that has no address yet.
        if from.is_unspecified() {
            if asks {
                self.put_arp(cx, mac, ArpOperation::Reply, about, mac, from);
            }
            return;
        }
        if !is_unicast4(from) || self.routes.is_broadcast(from) || !self.routes.on_link(from.into()) {
            self.counters.neighbour_refused += 1;
            return;
        }
        self.quiet = Default::default();
        let released = match operation {
            ArpOperation::Request => self.neighbours.heard(from.into(), mac, asks, cx.now),
            ArpOperation::Reply => {
                let solicited = self.routes.is_own4(about);
                let advert = Advert { mac: Some(mac), solicited, replaces: true };
                self.neighbours.advertised(from.into(), advert, cx.now)
            }
            ArpOperation::Unknown(_) => return,
        };
        self.put_all(cx, mac, released);
        if asks {
            self.put_arp(cx, mac, ArpOperation::Reply, about, mac, from);
        }
    }

    /// Sends what waited for an Ethernet address.
    pub(super) fn put_all(
        &mut self,
        cx: &mut Cx<'_>,
        mac: [u8; 6],
        released: impl IntoIterator<Item = Waiting>,
    ) {
        for packet in released {
            self.put(cx, mac, packet);
        }
    }

    /// Asks a neighbour for its Ethernet address: all, or the one that is known.
    pub(super) fn solicit(&mut self, cx: &mut Cx<'_>, addr: IpAddr, known: Option<[u8; 6]>) {
        self.counters.solicitations += 1;
        match addr {
            IpAddr::V4(addr) => {
                let Some(IpAddr::V4(own)) = self.routes.source(addr.into(), addr.into(), cx.now) else {
                    return;
                };
                self.put_arp(cx, known.unwrap_or(BROADCAST), ArpOperation::Request, own, [0; 6], addr);
            }
            IpAddr::V6(addr) => self.solicit_v6(cx, addr, known),
        }
    }

    /// Tells everyone that an address is ours: RFC 5227 §2.3.
    pub(super) fn announce_v4(&mut self, cx: &mut Cx<'_>, addr: Ipv4Addr) {
        self.put_arp(cx, BROADCAST, ArpOperation::Request, addr, [0; 6], addr);
    }

    /// RFC 5227 §2.4 (c): an address is defended, but not more often than every ten seconds.
    fn defend(&mut self, cx: &mut Cx<'_>, addr: Ipv4Addr) {
        if self.defences.allow(cx.now) {
            self.announce_v4(cx, addr);
        }
    }

    fn put_arp(
        &mut self,
        cx: &mut Cx<'_>,
        to: [u8; 6],
        operation: ArpOperation,
        from: Ipv4Addr,
        mac: [u8; 6],
        about: Ipv4Addr,
    ) {
        if self.is_congested() {
            return;
        }
        let Ok(mut head) = cx.heap.alloc_urgent(ETHERNET + ARP) else {
            self.counters.no_memory += 1;
            return;
        };
        let mut ethernet = EthernetFrame::new_unchecked(&mut head[..]);
        ethernet.set_src_addr(EthernetAddress(self.mac));
        ethernet.set_ethertype(EthernetProtocol::Arp);
        let mut arp = ArpPacket::new_unchecked(&mut head[ETHERNET..]);
        arp.set_hardware_type(ArpHardware::Ethernet);
        arp.set_protocol_type(EthernetProtocol::Ipv4);
        arp.set_hardware_len(6);
        arp.set_protocol_len(4);
        arp.set_operation(operation);
        arp.set_source_hardware_addr(&self.mac);
        arp.set_source_protocol_addr(&from.octets());
        arp.set_target_hardware_addr(&mac);
        arp.set_target_protocol_addr(&about.octets());
        self.put(cx, to, Waiting { head, body: Default::default(), checksum: Checksum::Unknown });
    }
}
