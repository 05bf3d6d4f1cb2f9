//! What a packet travels in: IPv4 or IPv6 and UDP to port 4791, and the invariant CRC at its end, which covers all of it
//! that no router changes (InfiniBand Architecture, annex A17.3.3).
//!
//! The checksum is Ethernet's CRC-32, in little-endian order, over eight bytes of ones in the place of a local route header,
//! the IP and UDP headers, the transport headers and the padded payload. Type of service, flow label, hop limit, the
//! checksums and the reserved byte of the base transport header count as ones. The IPv4 identification counts as it is:
//! who sends has to know it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crc_fast::{CrcAlgorithm, Digest};

use super::bytes::{array, get16, put, put16};
use super::{BTH_LEN, WireError, padding};

/// RoCEv2's port.
pub const PORT: u16 = 4791;
/// Bytes of the invariant CRC.
pub const ICRC_LEN: usize = 4;
/// Bytes of the longest IP and UDP headers here.
pub const MAX_ENVELOPE_LEN: usize = IPV6_LEN + UDP_LEN;

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const UDP: u8 = 17;
const DONT_FRAGMENT: u16 = 0x4000;
/// What the CRC's register holds after eight bytes of ones.
const AFTER_ROUTE_HEADER: u64 = 0xDEBB_20E3;

/// The IP and UDP headers of a packet, as far as they matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Who, to whom.
    pub ends: Ends,
    /// The sender chooses it so that a flow keeps its way.
    pub source_port: u16,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// TTL.
    pub hop_limit: u8,
}

/// Both ends of a way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Ends {
    V4 {
        source: Ipv4Addr,
        destination: Ipv4Addr,
        identification: u16,
        /// Flags and fragment offset, as they stand in the header.
        fragment: u16,
    },
    V6 {
        source: Ipv6Addr,
        destination: Ipv6Addr,
    },
}

impl Ends {
    /// Of a packet that must not be fragmented and needs no identification. `None` if the two are not of one family.
    pub fn new(source: IpAddr, destination: IpAddr) -> Option<Ends> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Some(Ends::V4 { source, destination, identification: 0, fragment: DONT_FRAGMENT })
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Ends::V6 { source, destination }),
            _ => None,
        }
    }

    /// The sender.
    pub fn source(&self) -> IpAddr {
        match *self {
            Ends::V4 { source, .. } => source.into(),
            Ends::V6 { source, .. } => source.into(),
        }
    }

    /// The receiver.
    pub fn destination(&self) -> IpAddr {
        match *self {
            Ends::V4 { destination, .. } => destination.into(),
            Ends::V6 { destination, .. } => destination.into(),
        }
    }
}

impl Envelope {
    /// With the usual hop limit.
    pub const fn new(ends: Ends, source_port: u16) -> Envelope {
        Envelope { ends, source_port, traffic_class: 0, hop_limit: 64 }
    }

    /// Whether a router on the way was congested (ECN's CE).
    pub const fn congested(&self) -> bool {
        self.traffic_class & 3 == 3
    }

    /// Opens a whole IP packet. Gives what lies between the UDP header and the invariant CRC, which was right.
    ///
    /// # Errors
    /// When it is not a whole packet of UDP to [`PORT`], has options or is a fragment, or was changed on its way.
    pub fn open(packet: &[u8]) -> Result<(Envelope, &[u8]), WireError> {
        let (ends, traffic_class, hop_limit, rest) = match packet.first().map(|first| first >> 4) {
            Some(4) => {
                let Some((ip, rest)) = packet.split_at_checked(IPV4_LEN) else {
                    return Err(WireError::Short);
                };
                let fragment = get16(ip, 6);
                // No options; neither more fragments nor an offset.
                if ip[0] != 0x45 || fragment & 0x3FFF != 0 || ip[9] != UDP {
                    return Err(WireError::Envelope);
                }
                let Some(len) = usize::from(get16(ip, 2)).checked_sub(IPV4_LEN) else {
                    return Err(WireError::Length);
                };
                let ends = Ends::V4 {
                    source: Ipv4Addr::from(array(ip, 12)),
                    destination: Ipv4Addr::from(array(ip, 16)),
                    identification: get16(ip, 4),
                    fragment,
                };
                (ends, ip[1], ip[8], rest.get(..len).ok_or(WireError::Short)?)
            }
            Some(6) => {
                let Some((ip, rest)) = packet.split_at_checked(IPV6_LEN) else {
                    return Err(WireError::Short);
                };
                if ip[6] != UDP {
                    return Err(WireError::Envelope);
                }
                let ends = Ends::V6 {
                    source: Ipv6Addr::from(array(ip, 8)),
                    destination: Ipv6Addr::from(array(ip, 24)),
                };
                let len = usize::from(get16(ip, 4));
                (ends, ip[0] << 4 | ip[1] >> 4, ip[7], rest.get(..len).ok_or(WireError::Short)?)
            }
            _ => return Err(WireError::Envelope),
        };
        let Some((udp, content)) = rest.split_at_checked(UDP_LEN) else { return Err(WireError::Short) };
        if get16(udp, 2) != PORT {
            return Err(WireError::Envelope);
        }
        if usize::from(get16(udp, 4)) != rest.len() {
            return Err(WireError::Length);
        }
        let envelope = Envelope { ends, source_port: get16(udp, 0), traffic_class, hop_limit };
        Ok((envelope, envelope.check(content)?))
    }

    /// Checks what UDP carried. Gives it without its invariant CRC.
    ///
    /// # Errors
    /// When it is too short, or was changed on its way.
    pub fn check<'a>(&self, content: &'a [u8]) -> Result<&'a [u8], WireError> {
        let Some(len) = content.len().checked_sub(ICRC_LEN).filter(|len| *len >= BTH_LEN) else {
            return Err(WireError::Short);
        };
        let (packet, sum) = content.split_at(len);
        let (bth, rest) = packet.split_at(BTH_LEN);
        if self.icrc(bth, [rest]) == sum { Ok(packet) } else { Err(WireError::Checksum) }
    }

    /// The invariant CRC of a packet: its transport headers, of at least [`BTH_LEN`] bytes, and the pieces of its payload,
    /// to which the padding is added that it needs.
    ///
    /// # Panics
    /// When there is no base transport header.
    pub fn icrc<'a>(
        &self,
        header: &'a [u8],
        payload: impl IntoIterator<Item = &'a [u8]> + Clone,
    ) -> [u8; ICRC_LEN] {
        let bytes: usize = payload.clone().into_iter().map(<[u8]>::len).sum();
        let pad = padding(bytes);
        let (bth, extended) = header.split_at(BTH_LEN);

        let mut start = [0; MAX_ENVELOPE_LEN + BTH_LEN];
        let ip = self.emit(header.len() + bytes + pad + ICRC_LEN, &mut start);
        match self.ends {
            Ends::V4 { .. } => {
                start[1] = 0xFF;
                start[8] = 0xFF;
                start[10..12].fill(0xFF);
            }
            Ends::V6 { .. } => {
                start[0] |= 0x0F;
                start[1..4].fill(0xFF);
                start[7] = 0xFF;
            }
        }
        start[ip - 2..ip].fill(0xFF);
        put(&mut start, ip, bth);
        start[ip + 4] = 0xFF;

        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32IsoHdlc, AFTER_ROUTE_HEADER);
        digest.update(&start[..ip + BTH_LEN]);
        for piece in std::iter::once(extended).chain(payload).filter(|piece| !piece.is_empty()) {
            digest.update(piece);
        }
        if pad > 0 {
            digest.update(&[0; 3][..pad]);
        }
        (digest.finalize() as u32).to_le_bytes()
    }

    /// Writes the headers of a packet whose UDP content is `content` bytes long to the front of `out`. Gives their length.
    /// The IPv4 header's checksum is left to the kernel, and UDP's is left out, as the invariant CRC covers more.
    ///
    /// # Panics
    /// When `out` is shorter than the headers: [`MAX_ENVELOPE_LEN`] bytes always suffice.
    pub fn emit(&self, content: usize, out: &mut [u8]) -> usize {
        let udp_len = UDP_LEN + content;
        let ip = match self.ends {
            Ends::V4 { source, destination, identification, fragment } => {
                out[0] = 0x45;
                out[1] = self.traffic_class;
                put16(out, 2, (IPV4_LEN + udp_len) as u16);
                put16(out, 4, identification);
                put16(out, 6, fragment);
                out[8] = self.hop_limit;
                out[9] = UDP;
                put16(out, 10, 0);
                put(out, 12, &source.octets());
                put(out, 16, &destination.octets());
                IPV4_LEN
            }
            Ends::V6 { source, destination } => {
                out[0] = 0x60 | self.traffic_class >> 4;
                out[1] = self.traffic_class << 4;
                put16(out, 2, 0);
                put16(out, 4, udp_len as u16);
                out[6] = UDP;
                out[7] = self.hop_limit;
                put(out, 8, &source.octets());
                put(out, 24, &destination.octets());
                IPV6_LEN
            }
        };
        put16(out, ip, self.source_port);
        put16(out, ip + 2, PORT);
        put16(out, ip + 4, udp_len as u16);
        put16(out, ip + 6, 0);
        ip + UDP_LEN
    }
}
