//! Packets on their way out: headers, fragments, loop-back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::BufMut;
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6FragmentHeader, Ipv6Packet,
};

use super::addr::group_mac;
use super::neighbours::{Sending, Waiting};
use super::path::Hop;
use super::{
    ETHERNET, IPV4, IPV6, Ip, LOOP_MTU, Packet, Path, Problem, ProblemKind, QUEUE, UDP, Unreachable,
    checksum, segments,
};
use crate::device::{Checksum, Frame};

/// Bytes of a fragment header: RFC 8200 §4.5.
const FRAGMENT: usize = 8;

/// What differs between the headers of packets of one path.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) protocol: u8,
    pub(super) ecn: u8,
    pub(super) dont_fragment: bool,
    pub(super) hop_limit: u8,
    /// Bytes behind the IP header.
    pub(super) len: usize,
}

/// Where a fragment belongs.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) ident: u32,
    pub(super) offset: u16,
    pub(super) more: bool,
}

impl Ip {
    /// Sends a packet, or lets it wait until the neighbour's Ethernet address is known. What cannot be sent comes back
    /// from [`Ip::next`] as a [`Problem`].
    #[inline]
    pub(crate) fn send(&mut self, cx: &mut Cx<'_>, path: &mut Path, mut packet: Packet) {
        if path.epoch != self.routes.epoch() && self.refresh(cx, path).is_err() {
            self.counters.unroutable += 1;
            return self.problem_of_packet(path, &packet, ProblemKind::Unreachable(Unreachable::Net));
        }
        let len = packet.head.len() - ETHERNET + packet.body.len();
        if len > path.mtu() {
            return self.send_large(cx, path, packet);
        }
        let header = Header {
            protocol: packet.protocol,
            ecn: packet.ecn,
            dont_fragment: packet.dont_fragment,
            hop_limit: self.hop_limit(path),
            len: len + ETHERNET - path.headroom(),
        };
        self.fill(path, &mut packet.head, header);
        self.transmit(cx, path, packet.head, packet.body, packet.checksum);
    }

    /// The same for a packet that is all in one buffer. What may go at once comes back, as a frame for the device.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a packet's fields, in registers")]
    pub(crate) fn send_small(
        &mut self,
        cx: &mut Cx<'_>,
        path: &mut Path,
        mut head: BufMut,
        protocol: u8,
        ecn: u8,
        dont_fragment: bool,
        checksum: Checksum,
    ) -> Option<Frame> {
        let len = head.len() - ETHERNET;
        let current =
            path.epoch == self.routes.epoch() && len <= path.mtu() && head.len() <= self.max_seg_len;
        if current
            && let Hop::Neighbour(place) = path.hop
            && let Some(mac) = self.neighbours.reachable(place, cx.now)
        {
            let len = len + ETHERNET - path.headroom();
            let header = Header { protocol, ecn, dont_fragment, hop_limit: self.hop_limit(path), len };
            self.fill(path, &mut head, header);
            head[..6].copy_from_slice(&mac);
            return Some(Frame { data: head.into(), checksum });
        }
        let packet = Packet { head, body: SgArray::new(), protocol, ecn, dont_fragment, checksum };
        self.send(cx, path, packet);
        None
    }

    #[inline]
    fn hop_limit(&self, path: &Path) -> u8 {
        if path.local.is_ipv4() { self.hop_limit } else { self.hop_limit_v6 }
    }

    /// Fills in the headers of a packet that is not a fragment.
    #[inline(always)]
    pub(super) fn fill(&mut self, path: &Path, head: &mut [u8], header: Header) {
        match (path.local, path.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let ident = if header.dont_fragment { 0 } else { self.idents.next(remote) };
                let part = Part { ident: ident.into(), offset: 0, more: false };
                fill_v4(&self.mac, head, local, remote, path.sum, header, part);
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                fill_v6(&self.mac, head, local, remote, header);
            }
            // A path is within one family.
            _ => {}
        }
    }

    /// Sends what has its IP header.
    #[inline]
    pub(super) fn transmit(
        &mut self,
        cx: &mut Cx<'_>,
        path: &mut Path,
        head: BufMut,
        body: SgArray,
        checksum: Checksum,
    ) {
        let mac = match path.hop {
            Hop::Neighbour(place) => self.neighbours.reachable(place, cx.now),
            Hop::Group => Some(group_mac(path.remote)),
            Hop::Loop => None,
        };
        match mac {
            Some(mac) => self.put(cx, mac, Waiting { head, body, checksum }),
            None => self.transmit_slowly(cx, path, Waiting { head, body, checksum }),
        }
    }

    #[cold]
    #[inline(never)]
    fn transmit_slowly(&mut self, cx: &mut Cx<'_>, path: &mut Path, packet: Waiting) {
        let Hop::Neighbour(place) = path.hop else { return self.loop_back(cx, packet) };
        self.quiet = Default::default();
        match self.neighbours.send(place, cx.now, packet) {
            Sending::To(mac, packet) => self.put(cx, mac, packet),
            Sending::Wait => {}
            Sending::Ask => {
                if let Some(via) = self.routes.route(path.remote) {
                    self.solicit(cx, via, None);
                }
            }
            Sending::Gone(packet) => match self.find_path(cx.now, Some(path.local), path.remote) {
                // The new place is the neighbour's own until another call makes a place for somebody else.
                Ok(found) => {
                    *path = found;
                    self.transmit_slowly(cx, path, packet);
                }
                Err(_) => {
                    self.counters.unroutable += 1;
                    self.problem_of_frame(&packet.head, ProblemKind::Unreachable(Unreachable::Host));
                }
            },
        }
    }

    /// Appends a frame to the outbox.
    #[inline]
    pub(super) fn put(&mut self, cx: &mut Cx<'_>, mac: [u8; 6], packet: Waiting) {
        let Waiting { mut head, body, checksum } = packet;
        head[..6].copy_from_slice(&mac);
        if body.segments().is_empty() && head.len() <= self.max_seg_len {
            return self.outbox.push_back(Frame { data: head.into(), checksum });
        }
        // The length of an empty segment wraps around, and does not fit.
        let fits = |len: usize| len.wrapping_sub(1) < self.max_seg_len;
        let few = body.segments().len() < self.max_segs;
        let frame = if few && fits(head.len()) && body.segments().iter().all(|segment| fits(segment.len())) {
            join(head, body)
        } else {
            self.fit(cx, head, body)
        };
        match frame {
            Ok(data) => self.outbox.push_back(Frame { data, checksum }),
            Err(_) => self.counters.no_memory += 1,
        }
    }

    /// Makes a frame that the device can take: cut, or copied together.
    #[cold]
    fn fit(&self, cx: &mut Cx<'_>, head: BufMut, body: SgArray) -> Result<SgArray, Error> {
        if self.max_segs > 1 && head.len() <= self.max_seg_len {
            let body = segments::fit(cx.heap, body, self.max_segs - 1, self.max_seg_len)?;
            return join(head, body);
        }
        let head = head.freeze();
        let whole = cx.heap.join(std::iter::once(&head).chain(body.segments()))?;
        segments::fit(cx.heap, whole.into(), self.max_segs, self.max_seg_len)
    }

    fn loop_back(&mut self, cx: &mut Cx<'_>, packet: Waiting) {
        let Waiting { mut head, body, .. } = packet;
        head[..6].copy_from_slice(&self.mac);
        let data = if body.segments().len() < MAX_SEGMENTS {
            join(head, body)
        } else {
            body.into_contiguous(cx.heap).and_then(|body| join(head, body.into()))
        };
        match data {
            // The memory vouches for the bytes.
            Ok(data) if self.looped.len() < QUEUE => {
                self.counters.looped += 1;
                self.looped.push_back(Frame { data, checksum: Checksum::Verified });
            }
            Ok(_) | Err(_) => self.counters.no_memory += 1,
        }
    }

    /// Sends what is larger than the path carries: in fragments, if it may be.
    #[cold]
    fn send_large(&mut self, cx: &mut Cx<'_>, path: &mut Path, mut packet: Packet) {
        let headroom = path.headroom();
        let len = packet.head.len() - headroom + packet.body.len();
        let most = if path.local.is_ipv4() { LOOP_MTU - IPV4 } else { LOOP_MTU };
        if packet.dont_fragment || len > most || path.hop == Hop::Loop {
            self.counters.too_big += 1;
            return self.problem_of_packet(path, &packet, ProblemKind::TooBig(path.mtu()));
        }
        self.counters.fragmented += 1;
        complete(&mut packet);
        if self.send_fragments(cx, path, packet).is_err() {
            self.counters.no_memory += 1;
        }
    }

    fn send_fragments(&mut self, cx: &mut Cx<'_>, path: &mut Path, packet: Packet) -> Result<(), Error> {
        let headroom = path.headroom();
        let extra = if path.local.is_ipv4() { 0 } else { FRAGMENT };
        let room = (path.mtu() + ETHERNET - headroom - extra) & !7;
        let ident = match path.remote {
            IpAddr::V4(remote) => self.idents.next(remote).into(),
            // RFC 7739 §5.3.
            IpAddr::V6(_) => cx.rng.u32(..),
        };
        let mut first = packet.head;
        first.advance(headroom);
        let mut rest = packet.body;
        if rest.segments().len() == MAX_SEGMENTS {
            rest = rest.into_contiguous(cx.heap)?.into();
        }
        rest.push_front(first.freeze())?;
        let mut offset = 0;
        while !rest.is_empty() {
            let len = rest.len().min(room);
            let body = rest.split_to(len);
            let mut head = cx.heap.alloc(headroom + extra)?;
            let header = Header {
                protocol: packet.protocol,
                ecn: packet.ecn,
                dont_fragment: false,
                hop_limit: self.hop_limit(path),
                len: len + extra,
            };
            let part = Part { ident, offset, more: !rest.is_empty() };
            match (path.local, path.remote) {
                (IpAddr::V4(local), IpAddr::V4(remote)) => {
                    fill_v4(&self.mac, &mut head, local, remote, path.sum, header, part);
                }
                _ => {
                    self.fill(path, &mut head, Header { protocol: IpProtocol::Ipv6Frag.into(), ..header });
                    let fragment = &mut head[headroom..];
                    fragment[0] = packet.protocol;
                    fragment[1] = 0;
                    let mut fragment = Ipv6FragmentHeader::new_unchecked(&mut fragment[2..]);
                    fragment.clear_reserved();
                    fragment.set_frag_offset(offset / 8);
                    fragment.set_more_frags(part.more);
                    fragment.set_ident(ident);
                }
            }
            offset += len as u16;
            self.transmit(cx, path, head, body, Checksum::Unknown);
        }
        Ok(())
    }

    fn problem_of_packet(&mut self, path: &Path, packet: &Packet, kind: ProblemKind) {
        if self.problems.len() >= QUEUE {
            return;
        }
        let mut quoted = [0; 8];
        let header = packet.head.get(path.headroom()..).unwrap_or_default();
        let some = header.len().min(8);
        quoted[..some].copy_from_slice(&header[..some]);
        let (local, remote) = (path.local, path.remote);
        self.problems.push_back(Problem { local, remote, protocol: packet.protocol, quoted, kind });
    }
}

#[inline]
fn fill_ethernet(mac: &[u8; 6], head: &mut [u8], protocol: EthernetProtocol) {
    let mut ethernet = EthernetFrame::new_unchecked(head);
    ethernet.set_src_addr(EthernetAddress(*mac));
    ethernet.set_ethertype(protocol);
}

#[inline]
pub(super) fn fill_v6(mac: &[u8; 6], head: &mut [u8], local: Ipv6Addr, remote: Ipv6Addr, header: Header) {
    let Some(head) = head.first_chunk_mut::<{ ETHERNET + IPV6 }>() else { return };
    fill_ethernet(mac, head, EthernetProtocol::Ipv6);
    let mut ip = Ipv6Packet::new_unchecked(&mut head[ETHERNET..]);
    ip.set_version(6);
    ip.set_traffic_class(header.ecn);
    ip.set_flow_label(0);
    ip.set_payload_len(header.len as u16);
    ip.set_hop_limit(header.hop_limit);
    ip.set_src_addr(local);
    ip.set_dst_addr(remote);
    head[ETHERNET + 6] = header.protocol;
}

#[inline(always)]
pub(super) fn fill_v4(
    mac: &[u8; 6],
    head: &mut [u8],
    local: Ipv4Addr,
    remote: Ipv4Addr,
    addresses_sum: u32,
    header: Header,
    part: Part,
) {
    let Some(head) = head.first_chunk_mut::<{ ETHERNET + IPV4 }>() else { return };
    let (Header { protocol, ecn, dont_fragment, hop_limit, len }, Part { ident, offset, more }) =
        (header, part);
    let fragment = u32::from(dont_fragment) << 14 | u32::from(more) << 13 | u32::from(offset / 8);
    let len = (IPV4 + len) as u32 & 0xffff;
    let third = u32::from_be_bytes([hop_limit, protocol, 0, 0]);
    // RFC 791 §3.1: the sum of all halves is to be all ones.
    let sum = addresses_sum + 0x4500 + u32::from(ecn) + len + ident + fragment + (third >> 16);
    let third = third | u32::from(!checksum::fold(sum));
    head[6..12].copy_from_slice(mac);
    head[12..14].copy_from_slice(&u16::from(EthernetProtocol::Ipv4).to_be_bytes());
    head[14..18].copy_from_slice(&(0x4500_0000 | u32::from(ecn) << 16 | len).to_be_bytes());
    head[18..22].copy_from_slice(&(ident << 16 | fragment).to_be_bytes());
    head[22..26].copy_from_slice(&third.to_be_bytes());
    head[26..30].copy_from_slice(&local.octets());
    head[30..34].copy_from_slice(&remote.octets());
}

/// Puts a head before a body of at most seven segments.
#[inline]
fn join(head: BufMut, mut body: SgArray) -> Result<SgArray, Error> {
    if let Some(only) = body.take_single() {
        return Ok(SgArray::pair(head.freeze(), only));
    }
    body.push_front(head.freeze())?;
    Ok(body)
}

/// Does what a device would have done about the checksum.
fn complete(packet: &mut Packet) {
    let Checksum::Partial { start, at } = packet.checksum else { return };
    let (start, at) = (usize::from(start), usize::from(at));
    let Some(covered) = packet.head.get(start..) else { return };
    let odd = covered.len() % 2 == 1;
    let sum = checksum::sum(covered) + checksum::at(checksum::sum_array(&packet.body), odd);
    let mut sum = !checksum::fold(sum);
    // RFC 768: zero would say that there is none.
    if sum == 0 && packet.protocol == UDP {
        sum = 0xffff;
    }
    if let Some(place) = packet.head.get_mut(at..).and_then(|place| place.first_chunk_mut()) {
        *place = sum.to_be_bytes();
    }
    packet.checksum = Checksum::Unknown;
}

/// The problem with a packet that has its IP header, if its transport header is in there as well.
pub(super) fn problem(head: &[u8], kind: ProblemKind) -> Option<Problem> {
    let packet = head.get(ETHERNET..)?;
    match packet.first()? >> 4 {
        4 => {
            let (header, rest) = packet.split_first_chunk::<IPV4>()?;
            let ip = Ipv4Packet::new_unchecked(header);
            let (local, remote) = (ip.src_addr().into(), ip.dst_addr().into());
            let protocol = ip.next_header().into();
            Some(Problem { local, remote, protocol, quoted: *rest.first_chunk()?, kind })
        }
        _ => {
            let (header, rest) = packet.split_first_chunk::<IPV6>()?;
            let ip = Ipv6Packet::new_unchecked(header);
            let (local, remote) = (ip.src_addr().into(), ip.dst_addr().into());
            let protocol = ip.next_header().into();
            Some(Problem { local, remote, protocol, quoted: *rest.first_chunk()?, kind })
        }
    }
}

/// Numbers for packets that may be fragmented: RFC 6864, RFC 7739. Destinations share a few counters in a way that only
/// the secret tells, so that nobody learns from his own how much is sent to others.
#[derive(Debug)]
pub(super) struct Idents {
    counters: [u16; 64],
    secret: u64,
}

impl Idents {
    pub(super) fn new(rng: &mut fastrand::Rng) -> Idents {
        Idents { counters: std::array::from_fn(|_| rng.u16(..)), secret: rng.u64(..) | 1 }
    }

    #[inline]
    pub(super) fn next(&mut self, remote: Ipv4Addr) -> u16 {
        let mixed = (u64::from(remote.to_bits()) ^ self.secret >> 32).wrapping_mul(self.secret);
        let counter = &mut self.counters[(mixed >> 58) as usize];
        *counter = counter.wrapping_add(1);
        *counter
    }
}
