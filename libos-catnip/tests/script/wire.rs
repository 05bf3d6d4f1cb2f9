//! Frames: bytes to headers and back, written down once more, so that the stack's own idea of them is not its own judge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const STACK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

const TCP: u8 = 6;
const ICMP4: u8 = 1;
const ICMP6: u8 = 58;

/// The two addresses of a script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addrs {
    pub(crate) stack: IpAddr,
    pub(crate) peer: IpAddr,
}

/// A TCP option, on the wire or in a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opt {
    End,
    Nop,
    Mss(u16),
    Scale(u8),
    SackOk,
    Ts(u32, u32),
    Sack(Vec<(u32, u32)>),
    /// Anything else, with kind and length.
    Raw(Vec<u8>),
}

/// A TCP segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tcp {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// The four bits between data offset and flags.
    pub(crate) reserved: u8,
    pub(crate) flags: u8,
    pub(crate) win: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<Opt>,
    pub(crate) payload: Vec<u8>,
}

/// How to send a segment: what a header may have wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    pub(crate) ecn: u8,
    pub(crate) bad_sum: bool,
    pub(crate) bad_ip_sum: bool,
    /// Data offset in words, if not the true one.
    pub(crate) offset: Option<u8>,
    /// To everybody on the link instead of to the stack.
    pub(crate) broadcast: bool,
    /// From this address instead of the peer's.
    pub(crate) from: Option<IpAddr>,
    /// Options of the IPv4 header.
    pub(crate) ip_options: Vec<u8>,
}

/// What matters of an IP header that the stack has sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) ecn: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) hops: u8,
}

/// What the stack has sent.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Tcp { ip: Header, segment: Tcp },
    Other(String),
}

/// The Internet checksum's sum, not folded.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> u32 {
    sum(&octets(from)) + sum(&octets(to)) + u32::from(protocol) + len as u32
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// An IP packet. `options` are those of an IPv4 header.
fn packet(from: IpAddr, to: IpAddr, protocol: u8, ecn: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = 20 + options.len().next_multiple_of(4);
            out.extend([0x40 | (header / 4) as u8, ecn]);
            out.extend(((header + payload.len()) as u16).to_be_bytes());
            out.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            out.extend(from.octets());
            out.extend(to.octets());
            out.extend(options);
            out.resize(header, 0);
            let check = !fold(sum(&out));
            out[10..12].copy_from_slice(&check.to_be_bytes());
        }
        _ => {
            out.extend([0x60, ecn << 4, 0, 0]);
            out.extend((payload.len() as u16).to_be_bytes());
            let hops = if protocol == ICMP6 { 255 } else { 64 };
            out.extend([protocol, hops]);
            out.extend(octets(from));
            out.extend(octets(to));
        }
    }
    out.extend(payload);
    out
}

fn frame(to: [u8; 6], v6: bool, packet: &[u8]) -> Vec<u8> {
    let mut out = Vec::from(to);
    out.extend(PEER_MAC);
    out.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    out.extend(packet);
    out
}

impl Opt {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Opt::End => out.push(0),
            Opt::Nop => out.push(1),
            Opt::Mss(mss) => {
                out.extend([2, 4]);
                out.extend(mss.to_be_bytes());
            }
            Opt::Scale(shift) => out.extend([3, 3, *shift]),
            Opt::SackOk => out.extend([4, 2]),
            Opt::Sack(blocks) => {
                out.extend([5, 2 + 8 * blocks.len() as u8]);
                for (left, right) in blocks {
                    out.extend(left.to_be_bytes());
                    out.extend(right.to_be_bytes());
                }
            }
            Opt::Ts(value, echo) => {
                out.extend([8, 10]);
                out.extend(value.to_be_bytes());
                out.extend(echo.to_be_bytes());
            }
            Opt::Raw(bytes) => out.extend(bytes),
        }
    }

    /// The options of a header that the stack wrote: anything malformed is a fault of its.
    fn read_all(mut bytes: &[u8]) -> Result<Vec<Opt>, String> {
        let mut all = Vec::new();
        while let Some(&kind) = bytes.first() {
            if kind == 0 && bytes.iter().any(|byte| *byte != 0) {
                return Err("there is more than padding behind the end of its options".into());
            }
            if kind < 2 {
                all.push(if kind == 0 { Opt::End } else { Opt::Nop });
                bytes = &bytes[1..];
                continue;
            }
            let len = bytes.get(1).map_or(0, |len| usize::from(*len));
            if len < 2 || len > bytes.len() {
                return Err(format!("malformed options {bytes:02x?}"));
            }
            let body = &bytes[2..len];
            all.push(match (kind, len) {
                (2, 4) => Opt::Mss(half(body, 0)),
                (3, 3) => Opt::Scale(body[0]),
                (4, 2) => Opt::SackOk,
                (8, 10) => Opt::Ts(word(body, 0), word(body, 4)),
                (5, _) if body.len().is_multiple_of(8) => {
                    Opt::Sack(body.chunks(8).map(|block| (word(block, 0), word(block, 4))).collect())
                }
                _ => Opt::Raw(bytes[..len].to_vec()),
            });
            bytes = &bytes[len..];
        }
        Ok(all)
    }
}

impl Tcp {
    fn bytes(&self, offset: Option<u8>) -> Vec<u8> {
        let mut options = Vec::new();
        self.options.iter().for_each(|option| option.write(&mut options));
        options.resize(options.len().next_multiple_of(4), 0);
        let mut out = Vec::new();
        out.extend(self.from.to_be_bytes());
        out.extend(self.to.to_be_bytes());
        out.extend(self.seq.to_be_bytes());
        out.extend(self.ack.to_be_bytes());
        let words = offset.unwrap_or(5 + (options.len() / 4) as u8);
        out.extend([words << 4 | self.reserved, self.flags]);
        out.extend(self.win.to_be_bytes());
        out.extend([0, 0]);
        out.extend(self.urgent.to_be_bytes());
        out.extend(options);
        out.extend(&self.payload);
        out
    }

    /// A frame from the peer to the stack.
    pub(crate) fn frame(&self, addrs: Addrs, manner: &Manner) -> Vec<u8> {
        let to = match addrs.stack {
            IpAddr::V4(_) if manner.broadcast => Ipv4Addr::BROADCAST.into(),
            IpAddr::V6(_) if manner.broadcast => IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
            addr => addr,
        };
        let mut segment = self.bytes(manner.offset);
        let from = manner.from.unwrap_or(addrs.peer);
        let check = !fold(sum(&segment) + pseudo(from, to, TCP, segment.len()));
        let check = if manner.bad_sum { check ^ 0x0100 } else { check };
        segment[16..18].copy_from_slice(&check.to_be_bytes());
        let mut packet = packet(from, to, TCP, manner.ecn, &manner.ip_options, &segment);
        if manner.bad_ip_sum && addrs.stack.is_ipv4() {
            packet[10] ^= 1;
        }
        let mac = if manner.broadcast { [0xff; 6] } else { STACK_MAC };
        frame(mac, addrs.stack.is_ipv6(), &packet)
    }
}

/// An ICMP error about a packet of the stack's that begins with `quoted`, from the peer.
pub(crate) fn icmp(addrs: Addrs, kind: u8, code: u8, parameter: u32, quoted: &Tcp, size: usize) -> Vec<u8> {
    let (protocol, v6) = if addrs.stack.is_ipv6() { (ICMP6, true) } else { (ICMP4, false) };
    let mut inner = packet(addrs.stack, addrs.peer, TCP, 0, &[], &quoted.bytes(None)[..8]);
    let len = if v6 { size - 40 } else { size } as u16;
    let at = if v6 { 4 } else { 2 };
    inner[at..at + 2].copy_from_slice(&len.to_be_bytes());
    let mut message = vec![kind, code, 0, 0];
    message.extend(parameter.to_be_bytes());
    message.extend(inner);
    let head = if v6 { pseudo(addrs.peer, addrs.stack, protocol, message.len()) } else { 0 };
    let check = !fold(head + sum(&message));
    message[2..4].copy_from_slice(&check.to_be_bytes());
    frame(STACK_MAC, v6, &packet(addrs.peer, addrs.stack, protocol, 0, &[], &message))
}

/// The answer to a question for the peer's Ethernet address. `Some(None)`: no answer, but nothing for a script either.
pub(crate) fn neighbour(frame_in: &[u8], addrs: Addrs) -> Option<Option<Vec<u8>>> {
    let protocol = half(frame_in, 12);
    let body = &frame_in[14..];
    if protocol == 0x0806 {
        let IpAddr::V4(peer) = addrs.peer else { return Some(None) };
        if half(body, 6) != 1 || body[24..28] != peer.octets() {
            return Some(None);
        }
        let mut out = frame_in[6..12].to_vec();
        out.extend(PEER_MAC);
        out.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        out.extend(PEER_MAC);
        out.extend(peer.octets());
        out.extend(&body[8..18]);
        return Some(Some(out));
    }
    // Neighbour discovery, and what tells of groups, with its hop-by-hop header.
    if protocol == 0x86dd && body[6] == 0 {
        return Some(None);
    }
    if protocol == 0x86dd && body[6] == ICMP6 && (133..=143).contains(&body[40]) {
        let IpAddr::V6(peer) = addrs.peer else { return Some(None) };
        if body[40] != 135 || body[48..64] != peer.octets() {
            return Some(None);
        }
        let from: [u8; 16] = body[8..24].try_into().unwrap();
        let to = IpAddr::V6(Ipv6Addr::from(from));
        let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
        message.extend(peer.octets());
        message.extend([2, 1]);
        message.extend(PEER_MAC);
        let check = !fold(sum(&message) + pseudo(addrs.peer, to, ICMP6, message.len()));
        message[2..4].copy_from_slice(&check.to_be_bytes());
        return Some(Some(frame(STACK_MAC, true, &packet(addrs.peer, to, ICMP6, 0, &[], &message))));
    }
    None
}

/// Takes apart what the stack has sent, and checks what every packet must get right.
pub(crate) fn parse(frame: &[u8], addrs: Addrs) -> Result<Seen, String> {
    let body = &frame[14..];
    let v6 = half(frame, 12) == 0x86dd;
    if frame[..6] != PEER_MAC || frame[6..12] != STACK_MAC {
        return Ok(Seen::Other(format!("a frame to {:02x?}", &frame[..6])));
    }
    let (protocol, ip, len, header) = if v6 {
        let ip = Header { ecn: body[1] >> 4 & 3, dont_fragment: true, hops: body[7] };
        (body[6], ip, 40 + usize::from(half(body, 4)), 40)
    } else {
        if fold(sum(&body[..20])) != 0xffff {
            return Err("its IPv4 header's checksum is wrong".into());
        }
        let ip = Header { ecn: body[1] & 3, dont_fragment: body[6] & 0x40 != 0, hops: body[8] };
        (body[9], ip, usize::from(half(body, 2)), 20)
    };
    if len != body.len() {
        return Err(format!("its IP header says {len} bytes, and there are {}", body.len()));
    }
    let place = if v6 { 8 } else { 12 };
    let width = if v6 { 16 } else { 4 };
    let ends = &body[place..place + 2 * width];
    if ends != [octets(addrs.stack), octets(addrs.peer)].concat() {
        return Ok(Seen::Other("a packet between other addresses".into()));
    }
    let segment = &body[header..];
    if protocol != TCP {
        return Ok(Seen::Other(format!("protocol {protocol}, type {}, code {}", segment[0], segment[1])));
    }
    if fold(sum(segment) + pseudo(addrs.stack, addrs.peer, TCP, segment.len())) != 0xffff {
        return Err("its TCP checksum is wrong".into());
    }
    let offset = usize::from(segment[12] >> 4) * 4;
    if offset < 20 || offset > segment.len() {
        return Err(format!("its data offset is {offset} bytes"));
    }
    Ok(Seen::Tcp {
        ip,
        segment: Tcp {
            from: half(segment, 0),
            to: half(segment, 2),
            seq: word(segment, 4),
            ack: word(segment, 8),
            reserved: segment[12] & 15,
            flags: segment[13],
            win: half(segment, 14),
            urgent: half(segment, 18),
            options: Opt::read_all(&segment[20..offset])?,
            payload: segment[offset..].to_vec(),
        },
    })
}
