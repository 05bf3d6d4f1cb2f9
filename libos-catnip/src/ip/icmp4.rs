//! ICMP (RFC 792): echo, errors both ways.

use std::net::{IpAddr, Ipv4Addr};

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::sga::SgArray;
use smoltcp::wire::{IpProtocol, Ipv4Packet};

use super::addr::Cast;
use super::v4::{first, is_open};
use super::{
    Datagram, Fault, ICMP, IPV4, Ip, Packet, Problem, ProblemKind, Received, Unreachable, checksum, segments,
};
use crate::device::Checksum;

/// Bytes of an ICMP header.
pub(super) const HEADER: usize = 8;
/// An error, from its IP header on, has at most so many bytes: RFC 1812 §4.3.2.3.
const MOST: usize = 576;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;
const TIME_EXCEEDED: u8 = 11;

/// Path MTUs to try where a router does not tell: RFC 1191 §7.
const PLATEAUS: [usize; 8] = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 552];

impl Ip {
    pub(super) fn receive_icmp4(&mut self, cx: &mut Cx<'_>, datagram: Datagram) -> Received {
        if is_open(datagram.checksum) && !checksum::verify(0, &datagram.data) {
            self.counters.bad_checksum += 1;
            return Received::Nothing;
        }
        let Some(&[kind, code, _, _, _, _, mtu_high, mtu_low]) = first(&datagram.data) else {
            return self.malformed();
        };
        let told = usize::from(u16::from_be_bytes([mtu_high, mtu_low]));
        let kind = match (kind, code) {
            (ECHO, _) => {
                // RFC 1122 §3.2.2.6: nobody gets many answers to one question.
                if datagram.cast == Cast::Unicast {
                    self.echo_reply(cx, datagram, ECHO_REPLY);
                } else {
                    self.counters.icmp_ignored += 1;
                }
                return Received::Nothing;
            }
            (UNREACHABLE, 4) => ProblemKind::TooBig(told),
            (UNREACHABLE, 0 | 5 | 6 | 11) => ProblemKind::Unreachable(Unreachable::Net),
            (UNREACHABLE, 1 | 7 | 8 | 12) => ProblemKind::Unreachable(Unreachable::Host),
            (UNREACHABLE, 2) => ProblemKind::Unreachable(Unreachable::Protocol),
            (UNREACHABLE, 3) => ProblemKind::Unreachable(Unreachable::Port),
            (UNREACHABLE, 9 | 10 | 13 | 14 | 15) => ProblemKind::Unreachable(Unreachable::Prohibited),
            (TIME_EXCEEDED, 0 | 1) => ProblemKind::TimeExceeded,
            _ => {
                self.counters.icmp_ignored += 1;
                return Received::Nothing;
            }
        };
        self.counters.errors_received += 1;
        match quoted_v4(&datagram.data, kind) {
            Some(problem) if self.is_local(problem.local) => Received::Problem(problem),
            _ => self.malformed(),
        }
    }

    /// Answers an echo request; what it carries goes back where it lies.
    pub(super) fn echo_reply(&mut self, cx: &mut Cx<'_>, mut datagram: Datagram, kind: u8) {
        if self.is_congested() {
            return;
        }
        let Ok(mut path) = self.path(cx, Some(datagram.local), datagram.remote) else { return };
        let headroom = path.headroom();
        let Ok(mut head) = cx.heap.alloc(headroom + HEADER) else {
            self.counters.no_memory += 1;
            return;
        };
        let Some(header) = first::<HEADER>(&datagram.data) else { return };
        head[headroom..].copy_from_slice(header);
        datagram.data.advance(HEADER);
        head[headroom..headroom + 4].copy_from_slice(&[kind, 0, 0, 0]);
        let pseudo = if datagram.local.is_ipv4() {
            0
        } else {
            path.pseudo_sum(datagram.protocol, HEADER + datagram.data.len())
        };
        let sum = pseudo + checksum::sum(&head[headroom..]) + checksum::sum_array(&datagram.data);
        head[headroom + 2..headroom + 4].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        self.counters.echoes += 1;
        let packet = Packet {
            head,
            body: datagram.data,
            protocol: datagram.protocol,
            ecn: 0,
            dont_fragment: false,
            checksum: Checksum::Unknown,
        };
        self.send(cx, &mut path, packet);
    }

    /// Tells the sender of a datagram that nobody has its port. Rate limited, and silent about what came to many.
    pub(crate) fn reject_port(&mut self, cx: &mut Cx<'_>, datagram: &Datagram) {
        self.reject(cx, datagram, Fault::Port);
    }

    /// Tells the sender of a datagram what is wrong with it.
    pub(super) fn reject(&mut self, cx: &mut Cx<'_>, datagram: &Datagram, fault: Fault) {
        // RFC 1122 §3.2.2, RFC 4443 §2.4 (e): not about what came to many, or not from one.
        if datagram.cast != Cast::Unicast
            || datagram.remote.is_unspecified()
            || !self.errors.allow(cx.now)
            || self.is_congested()
        {
            self.counters.errors_limited += 1;
            return;
        }
        let sent = match (datagram.local, datagram.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let kind = match fault {
                    Fault::Port => [UNREACHABLE, 3],
                    Fault::Protocol | Fault::Parameter { .. } => [UNREACHABLE, 2],
                    Fault::Reassembly => [TIME_EXCEEDED, 1],
                };
                self.send_error_v4(cx, local, remote, kind, datagram)
            }
            _ => self.send_error_v6(cx, datagram, fault),
        };
        match sent {
            Ok(()) => self.counters.errors_sent += 1,
            Err(_) => self.counters.unroutable += 1,
        }
    }

    /// Sends an error about a datagram, with its IP header as it must have been, and its first bytes where they lie.
    fn send_error_v4(
        &mut self,
        cx: &mut Cx<'_>,
        local: Ipv4Addr,
        remote: Ipv4Addr,
        kind: [u8; 2],
        about: &Datagram,
    ) -> Result<(), Error> {
        let mut path = self.path(cx, Some(local.into()), remote.into())?;
        let headroom = path.headroom();
        let mut head = cx.heap.alloc(headroom + HEADER + IPV4)?;
        let message = &mut head[headroom..];
        message[..HEADER].copy_from_slice(&[kind[0], kind[1], 0, 0, 0, 0, 0, 0]);
        let quoted = &mut message[HEADER..];
        quoted.fill(0);
        let mut ip = Ipv4Packet::new_unchecked(&mut quoted[..]);
        ip.set_version(4);
        ip.set_header_len(IPV4 as u8);
        ip.set_total_len((IPV4 + about.data.len()) as u16);
        ip.set_hop_limit(1);
        ip.set_next_header(IpProtocol::from(about.protocol));
        ip.set_src_addr(remote);
        ip.set_dst_addr(local);
        let sum = !checksum::fold(checksum::sum(quoted));
        Ipv4Packet::new_unchecked(quoted).set_checksum(sum);
        let body = beginning(&about.data, MOST - 2 * IPV4 - HEADER);
        let sum = checksum::sum(message) + checksum::sum_array(&body);
        message[2..4].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        let packet =
            Packet { head, body, protocol: ICMP, ecn: 0, dont_fragment: false, checksum: Checksum::Unknown };
        self.send(cx, &mut path, packet);
        Ok(())
    }
}

/// At most `len` bytes from the front, where they lie.
pub(super) fn beginning(data: &SgArray, len: usize) -> SgArray {
    let mut body = data.clone();
    segments::truncate(&mut body, len);
    body.set_peer(None);
    body
}

/// What an error says about a packet of ours. None: it does not say enough, or what it quotes cannot be one.
fn quoted_v4(data: &SgArray, kind: ProblemKind) -> Option<Problem> {
    let mut room = [0; HEADER + 60 + 8];
    let len = data.copy_to(&mut room);
    let packet = room[..len].get(HEADER..)?;
    let ip = Ipv4Packet::new_unchecked(packet.first_chunk::<IPV4>()?);
    let header_len = usize::from(ip.header_len());
    // RFC 1122 §3.2.2: a fragment other than the first has no transport header.
    if ip.version() != 4 || header_len < IPV4 || ip.frag_offset() != 0 || ip.next_header() == IpProtocol::Icmp
    {
        return None;
    }
    let quoted = *packet.get(header_len..)?.first_chunk::<8>()?;
    let size = usize::from(ip.total_len());
    let kind = match kind {
        ProblemKind::TooBig(0) => {
            ProblemKind::TooBig(PLATEAUS.into_iter().find(|plateau| *plateau < size).unwrap_or(552))
        }
        // RFC 1191 §6.1 says "size" where it means the header as well: nothing is gained by a larger one.
        ProblemKind::TooBig(told) if told >= size => return None,
        other => other,
    };
    let (local, remote): (IpAddr, IpAddr) = (ip.src_addr().into(), ip.dst_addr().into());
    let protocol = ip.next_header().into();
    Some(Problem { local, remote, protocol, quoted, kind })
}
