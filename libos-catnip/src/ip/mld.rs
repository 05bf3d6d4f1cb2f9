//! Multicast listener reports (MLDv2, RFC 3810): switches that look into them forward solicitations only to who
//! listens.
//!
//! The groups are those of the solicited nodes, one per own address. Nothing is kept: what is reported is what there is.

use std::net::{IpAddr, Ipv6Addr};

use arrayvec::ArrayVec;
use demi_api::libos::Cx;

use super::addr::{group_mac, solicited_node};
use super::config::MAX_ADDRESSES;
use super::neighbours::Waiting;
use super::path::pseudo_sum;
use super::send::{Header, fill_v6};
use super::{ETHERNET, ICMP6, IPV6, Ip, checksum};
use crate::device::Checksum;

/// All routers that understand these reports.
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// A hop-by-hop header with a router alert (RFC 2711) and padding, before ICMPv6.
const ALERT: [u8; 8] = [ICMP6, 0, 5, 2, 0, 0, 1, 0];
const REPORT: u8 = 143;
/// Bytes of a message's header, and of a record without sources.
const HEADER: usize = 8;
const RECORD: usize = 20;

/// Why it is reported: §5.2.12.
#[derive(Clone, Copy)]
pub(super) enum Why {
    /// Somebody asked.
    Asked = 2,
    /// We have begun to listen.
    New = 4,
}

impl Ip {
    /// Reports the groups in which we listen: all, or that of one address.
    pub(super) fn report_groups(&mut self, cx: &mut Cx<'_>, only: Option<Ipv6Addr>, why: Why) {
        let mut groups = ArrayVec::<Ipv6Addr, MAX_ADDRESSES>::new();
        let mut from = Ipv6Addr::UNSPECIFIED;
        for own in self.routes.own() {
            let IpAddr::V6(addr) = own.cidr.addr else { continue };
            // RFC 3590 §4: until an address is known to be ours, reports come from none.
            if addr.is_unicast_link_local() && !own.optimistic {
                from = addr;
            }
            let group = solicited_node(addr);
            if only.is_none_or(|only| only == addr) && !groups.contains(&group) {
                groups.push(group);
            }
        }
        if groups.is_empty() {
            return;
        }
        let len = HEADER + RECORD * groups.len();
        let Ok(mut head) = cx.heap.alloc(ETHERNET + IPV6 + ALERT.len() + len) else {
            self.counters.no_memory += 1;
            return;
        };
        let header =
            Header { protocol: 0, ecn: 0, dont_fragment: false, hop_limit: 1, len: ALERT.len() + len };
        fill_v6(&self.mac, &mut head, from, ROUTERS, header);
        let content = &mut head[ETHERNET + IPV6..];
        content[..ALERT.len()].copy_from_slice(&ALERT);
        let message = &mut content[ALERT.len()..];
        message[..HEADER].copy_from_slice(&[REPORT, 0, 0, 0, 0, 0, 0, groups.len() as u8]);
        for (record, group) in message[HEADER..].chunks_exact_mut(RECORD).zip(&groups) {
            record[..4].copy_from_slice(&[why as u8, 0, 0, 0]);
            record[4..].copy_from_slice(&group.octets());
        }
        let sum = pseudo_sum(from.into(), ROUTERS.into(), ICMP6, len) + checksum::sum(message);
        message[2..4].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        let packet = Waiting { head, body: Default::default(), checksum: Checksum::Unknown };
        self.put(cx, group_mac(ROUTERS.into()), packet);
    }

    /// Answers who asks for listeners: §6.2; at once, but not more often than every second.
    pub(super) fn receive_query(&mut self, cx: &mut Cx<'_>, from: IpAddr, hop_limit: u8) {
        // §5.1.14: it comes from the link.
        let near = matches!(from, IpAddr::V6(from) if from.is_unicast_link_local());
        if near && hop_limit == 1 && self.reports.allow(cx.now) {
            self.report_groups(cx, None, Why::Asked);
        } else {
            self.counters.icmp_ignored += 1;
        }
    }
}
