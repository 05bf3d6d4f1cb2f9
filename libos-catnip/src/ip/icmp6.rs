//! ICMPv6 (RFC 4443): echo, errors both ways. What it says of neighbours and routers goes to `ndp` and `autoconf`.

use std::net::{IpAddr, Ipv6Addr};

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::sga::SgArray;
use smoltcp::wire::{IpProtocol, Ipv6Packet};

use super::addr::Cast;
use super::icmp4::{HEADER, beginning};
use super::mtu::LEAST_V6;
use super::neighbours::Waiting;
use super::path::pseudo_sum;
use super::send::{Header, fill_v6};
use super::v4::{first, is_open};
use super::{
    Datagram, ETHERNET, Fault, ICMP6, IPV6, Ip, Packet, Problem, ProblemKind, Received, Unreachable, checksum,
};
use crate::device::Checksum;

const UNREACHABLE: u8 = 1;
const TOO_BIG: u8 = 2;
const TIME_EXCEEDED: u8 = 3;
const PARAMETER_PROBLEM: u8 = 4;
const ECHO: u8 = 128;
const ECHO_REPLY: u8 = 129;
const QUERY: u8 = 130;

/// Codes of parameter problems.
pub(super) struct Parameter {
    pub(super) field: u8,
    pub(super) next_header: u8,
    pub(super) option: u8,
}

pub(super) const PARAMETER: Parameter = Parameter { field: 0, next_header: 1, option: 2 };

impl Ip {
    pub(super) fn receive_icmp6(
        &mut self,
        cx: &mut Cx<'_>,
        mut datagram: Datagram,
        hop_limit: u8,
    ) -> Received {
        let pseudo = pseudo_sum(datagram.remote, datagram.local, ICMP6, datagram.data.len());
        if is_open(datagram.checksum) && !checksum::verify(pseudo, &datagram.data) {
            self.counters.bad_checksum += 1;
            return Received::Nothing;
        }
        let Some(&[kind, code, _, _, a, b, c, d]) = first(&datagram.data) else { return self.malformed() };
        let kind = match (kind, code) {
            (ECHO, _) => {
                if datagram.remote.is_unspecified() {
                    return self.martian();
                }
                // RFC 4443 §4.2: the answer to what came to a group is from one of its members.
                if datagram.cast == Cast::Multicast
                    && let Ok(path) = self.path(cx, None, datagram.remote)
                {
                    datagram.local = path.local();
                }
                self.echo_reply(cx, datagram, ECHO_REPLY);
                return Received::Nothing;
            }
            (QUERY, _) => {
                self.receive_query(cx, datagram.remote, hop_limit);
                return Received::Nothing;
            }
            (133..=137, _) => {
                self.receive_ndp(cx, kind, code, datagram, hop_limit);
                return Received::Nothing;
            }
            (UNREACHABLE, 1 | 5 | 6) => ProblemKind::Unreachable(Unreachable::Prohibited),
            (UNREACHABLE, 0 | 2) => ProblemKind::Unreachable(Unreachable::Net),
            (UNREACHABLE, 4) => ProblemKind::Unreachable(Unreachable::Port),
            (UNREACHABLE, _) => ProblemKind::Unreachable(Unreachable::Host),
            // RFC 8201 §4: what no link carries less of is no news.
            (TOO_BIG, _) => match u32::from_be_bytes([a, b, c, d]) as usize {
                mtu if mtu >= LEAST_V6 => ProblemKind::TooBig(mtu),
                _ => {
                    self.counters.icmp_ignored += 1;
                    return Received::Nothing;
                }
            },
            (TIME_EXCEEDED, _) => ProblemKind::TimeExceeded,
            (PARAMETER_PROBLEM, code) if code == PARAMETER.next_header => {
                ProblemKind::Unreachable(Unreachable::Protocol)
            }
            _ => {
                self.counters.icmp_ignored += 1;
                return Received::Nothing;
            }
        };
        self.counters.errors_received += 1;
        match quoted_v6(&datagram.data, kind) {
            Some(problem) if self.is_local(problem.local) => Received::Problem(problem),
            _ => self.malformed(),
        }
    }

    /// Sends an error about a datagram, with its IP header as it must have been, and its first bytes where they lie.
    pub(super) fn send_error_v6(
        &mut self,
        cx: &mut Cx<'_>,
        about: &Datagram,
        fault: Fault,
    ) -> Result<(), Error> {
        let (IpAddr::V6(local), IpAddr::V6(remote)) = (about.local, about.remote) else {
            return Err(Error::BadAddress);
        };
        let (kind, code, word) = match fault {
            Fault::Port => (UNREACHABLE, 4, 0),
            // The quoted header is the fixed one; its field for the protocol is the sixth.
            Fault::Protocol => (PARAMETER_PROBLEM, PARAMETER.next_header, 6),
            Fault::Reassembly => (TIME_EXCEEDED, 1, 0),
            Fault::Parameter { code, pointer } => (PARAMETER_PROBLEM, code, pointer),
        };
        let mut path = self.path(cx, Some(local.into()), remote.into())?;
        let headroom = path.headroom();
        let mut head = cx.heap.alloc(headroom + HEADER + IPV6)?;
        let message = &mut head[headroom..];
        message[..4].copy_from_slice(&[kind, code, 0, 0]);
        message[4..HEADER].copy_from_slice(&word.to_be_bytes());
        let mut ip = Ipv6Packet::new_unchecked(&mut message[HEADER..]);
        ip.set_version(6);
        ip.set_traffic_class(0);
        ip.set_flow_label(0);
        ip.set_payload_len(about.data.len() as u16);
        ip.set_next_header(IpProtocol::from(about.protocol));
        ip.set_hop_limit(1);
        ip.set_src_addr(remote);
        ip.set_dst_addr(local);
        let body = beginning(&about.data, LEAST_V6 - 2 * IPV6 - HEADER);
        let pseudo = path.pseudo_sum(ICMP6, message.len() + body.len());
        let sum = pseudo + checksum::sum(message) + checksum::sum_array(&body);
        message[2..4].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        let packet =
            Packet { head, body, protocol: ICMP6, ecn: 0, dont_fragment: false, checksum: Checksum::Unknown };
        self.send(cx, &mut path, packet);
        Ok(())
    }

    /// Sends a message of neighbour discovery to a certain Ethernet address.
    pub(super) fn put_icmp6(
        &mut self,
        cx: &mut Cx<'_>,
        mac: [u8; 6],
        from: Ipv6Addr,
        to: Ipv6Addr,
        message: &[u8],
    ) {
        if self.is_congested() {
            return;
        }
        let Ok(mut head) = cx.heap.alloc_urgent(ETHERNET + IPV6 + message.len()) else {
            self.counters.no_memory += 1;
            return;
        };
        let header =
            Header { protocol: ICMP6, ecn: 0, dont_fragment: false, hop_limit: 255, len: message.len() };
        fill_v6(&self.mac, &mut head, from, to, header);
        let content = &mut head[ETHERNET + IPV6..];
        content.copy_from_slice(message);
        content[2..4].fill(0);
        let sum = pseudo_sum(from.into(), to.into(), ICMP6, message.len()) + checksum::sum(content);
        content[2..4].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        self.put(cx, mac, Waiting { head, body: SgArray::new(), checksum: Checksum::Unknown });
    }
}

/// What an error says about a packet of ours. None: it does not say enough.
fn quoted_v6(data: &SgArray, kind: ProblemKind) -> Option<Problem> {
    /// Bytes of the quoted packet that are looked at.
    const SOME: usize = HEADER + IPV6 + 8 + 8;
    let mut room = [0; SOME];
    let len = data.copy_to(&mut room);
    let (header, mut rest) = room[..len].get(HEADER..)?.split_first_chunk::<IPV6>()?;
    let ip = Ipv6Packet::new_unchecked(header);
    let mut protocol = header[6];
    if ip.version() != 6 {
        return None;
    }
    // The only extension header that we send.
    if protocol == u8::from(IpProtocol::Ipv6Frag) {
        let &[next, _, high, low, ..] = rest.first_chunk::<8>()?;
        if u16::from_be_bytes([high, low]) >> 3 != 0 {
            return None;
        }
        protocol = next;
        rest = &rest[8..];
    }
    if protocol == ICMP6 {
        return None;
    }
    let quoted = *rest.first_chunk()?;
    Some(Problem { local: ip.src_addr().into(), remote: ip.dst_addr().into(), protocol, quoted, kind })
}
