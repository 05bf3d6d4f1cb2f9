//! Frames put together and taken apart, independently of the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Everybody's.
pub const BROADCAST: Mac = [0xff; 6];

/// Ethernet types.
#[allow(missing_docs, reason = "each is what it is called")]
pub mod kind {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const IPV6: u16 = 0x86dd;
}

/// Protocol numbers.
#[allow(missing_docs, reason = "each is what it is called")]
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const FRAGMENT: u8 = 44;
    pub const ICMP6: u8 = 58;
}

/// Bits of a TCP header.
#[allow(missing_docs, reason = "each is what it is called")]
pub mod flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

/// The Internet checksum of `bytes` and what `start` stands for: RFC 1071.
pub fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut sum =
        u64::from(start) + pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum::<u64>();
    sum += rest.first().map_or(0, |last| u64::from(*last) << 8);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> u32 {
    let sum = |octets: &[u8]| -> u32 {
        octets.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum()
    };
    let addrs = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => sum(&from.octets()) + sum(&to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => sum(&from.octets()) + sum(&to.octets()),
        _ => 0,
    };
    addrs + u32::from(protocol) + (len >> 16) as u32 + (len & 0xffff) as u32
}

/// Where the checksum of a transport protocol stands, and whether it covers the pseudo-header.
fn place(protocol: u8) -> Option<(usize, bool)> {
    match protocol {
        protocol::TCP => Some((16, true)),
        protocol::UDP => Some((6, true)),
        protocol::ICMP => Some((2, false)),
        protocol::ICMP6 => Some((2, true)),
        _ => None,
    }
}

/// Writes the checksum of a transport header and what follows it.
pub fn seal(from: IpAddr, to: IpAddr, protocol: u8, packet: &mut [u8]) {
    let Some((at, with_pseudo)) = place(protocol) else { return };
    if packet.len() < at + 2 {
        return;
    }
    packet[at..at + 2].fill(0);
    let start = if with_pseudo { pseudo(from, to, protocol, packet.len()) } else { 0 };
    let sum = match checksum(start, packet) {
        0 if protocol == protocol::UDP => 0xffff,
        sum => sum,
    };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// An Ethernet frame.
pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// An IPv4 packet; `fragment` is the field of flags and offset.
pub fn ipv4(
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    ident: u16,
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend(ident.to_be_bytes());
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(0, &packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// A packet of either version, with its Ethernet type. The transport checksum is made right.
pub fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> (u16, Vec<u8>) {
    let mut payload = payload.to_vec();
    seal(from, to, protocol, &mut payload);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (kind::IPV4, ipv4(from, to, protocol, 1, 0, &payload)),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let hops = if protocol == protocol::ICMP6 { 255 } else { 64 };
            (kind::IPV6, ipv6(from, to, protocol, hops, &payload))
        }
        _ => (0, payload),
    }
}

/// A UDP datagram, to be sealed.
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat()
}

/// A TCP segment, in parts.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "the fields are the header's")]
pub struct Tcp<'a> {
    pub from: u16,
    pub to: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// Padded with zeros to whole words, and cut after ten of these.
    pub options: &'a [u8],
    pub payload: &'a [u8],
}

impl Tcp<'_> {
    /// The segment, to be sealed.
    pub fn emit(&self) -> Vec<u8> {
        let words = self.options.len().div_ceil(4).min(10);
        let mut bytes = Vec::with_capacity(20 + 4 * words + self.payload.len());
        bytes.extend(self.from.to_be_bytes());
        bytes.extend(self.to.to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([((5 + words) << 4) as u8, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.options.iter().take(40));
        bytes.resize(20 + 4 * words, 0);
        bytes.extend(self.payload);
        bytes
    }

    /// Takes a segment apart.
    pub fn parse(bytes: &[u8]) -> Option<Tcp<'_>> {
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        if bytes.len() < 20 {
            return None;
        }
        let header = usize::from(bytes[12] >> 4) * 4;
        Some(Tcp {
            from: half(0),
            to: half(2),
            seq: word(4),
            ack: word(8),
            flags: bytes[13],
            window: half(14),
            options: bytes.get(20..header)?,
            payload: &bytes[header..],
        })
    }

    /// The body of an option.
    pub fn option(&self, wanted: u8) -> Option<&[u8]> {
        let mut rest = self.options;
        loop {
            match rest {
                [1, ..] => rest = &rest[1..],
                [0, ..] | [] | [_] => return None,
                [kind, len, ..] => {
                    let body = rest.get(2..usize::from(*len))?;
                    if *kind == wanted {
                        return Some(body);
                    }
                    rest = &rest[usize::from(*len)..];
                }
            }
        }
    }

    /// Sequence numbers that it occupies.
    pub fn space(&self) -> u32 {
        let bit = |flag| u32::from(self.flags & flag != 0);
        self.payload.len() as u32 + bit(flag::SYN) + bit(flag::FIN)
    }
}

/// A packet that an instance has sent.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields are the header's")]
pub struct Sent<'a> {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: u8,
    pub fragment: bool,
    pub payload: &'a [u8],
}

/// Takes apart what an instance has sent.
///
/// # Panics
/// If no stack should send such a frame: lengths that do not fit, wrong checksums, more than the MTU. `None`: it is no IP
/// packet, or one whose extension headers are in the way.
#[track_caller]
pub fn sound(frame: &[u8], mtu: usize) -> Option<Sent<'_>> {
    assert!((14..=14 + mtu).contains(&frame.len()), "a frame of {} bytes", frame.len());
    let packet = &frame[14..];
    let (from, to, protocol, fragment, payload) = match u16::from_be_bytes([frame[12], frame[13]]) {
        kind::IPV4 => {
            assert!(packet.len() >= 20 && packet[0] >> 4 == 4, "{packet:x?}");
            let header = usize::from(packet[0] & 15) * 4;
            assert_eq!(checksum(0, &packet[..header]), 0, "the header's checksum");
            assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
            let addr = |at: usize| IpAddr::from([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
            let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
            (addr(12), addr(16), packet[9], fragment, &packet[header..])
        }
        kind::IPV6 => {
            assert!(packet.len() >= 40 && packet[0] >> 4 == 6, "{packet:x?}");
            assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), packet.len() - 40);
            let addr = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&packet[at..at + 16]);
                IpAddr::from(octets)
            };
            (addr(8), addr(24), packet[6], packet[6] == protocol::FRAGMENT, &packet[40..])
        }
        kind::ARP => {
            assert!(packet.len() >= 28, "{packet:x?}");
            return None;
        }
        other => panic!("a frame of type {other:#06x}"),
    };
    if let Some((at, with_pseudo)) = place(protocol).filter(|_| !fragment) {
        assert!(payload.len() >= at + 2, "{payload:x?}");
        let start = if with_pseudo { pseudo(from, to, protocol, payload.len()) } else { 0 };
        assert_eq!(checksum(start, payload), 0, "the transport checksum of {payload:x?}");
    }
    Some(Sent { from, to, protocol, fragment, payload })
}

/// Makes the checksums of a frame right, as far as its headers can be followed.
pub fn mend(frame: &mut [u8]) {
    if frame.len() < 34 {
        return;
    }
    let (head, packet) = frame.split_at_mut(14);
    match u16::from_be_bytes([head[12], head[13]]) {
        kind::IPV4 => {
            let header = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
            packet[10..12].fill(0);
            let sum = checksum(0, &packet[..header]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            let total = usize::from(u16::from_be_bytes([packet[2], packet[3]])).clamp(header, packet.len());
            let addr = |at: usize| IpAddr::from([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
            let (from, to, protocol) = (addr(12), addr(16), packet[9]);
            if u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff == 0 {
                seal(from, to, protocol, &mut packet[header..total]);
            }
        }
        kind::IPV6 if packet.len() >= 40 => {
            let addr = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&packet[at..at + 16]);
                IpAddr::from(octets)
            };
            let (from, to) = (addr(8), addr(24));
            let total = (40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))).min(packet.len());
            let (mut next, mut at) = (packet[6], 40);
            // Hop-by-hop, routing, destination options.
            while matches!(next, 0 | 43 | 60) && at + 8 <= total {
                let len = 8 + 8 * usize::from(packet[at + 1]);
                next = packet[at];
                at = (at + len).min(total);
            }
            seal(from, to, next, &mut packet[at..total]);
        }
        _ => {}
    }
}
