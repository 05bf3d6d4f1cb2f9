//! What instances tell each other, as bytes: several messages make a packet.
//!
//! ```text
//!  kind   1 │ bytes of what follows   4 │ …
//!  hello     1: VERSION 8, first queue 2
//!  datagram  2: origin 2, protocol 1, ECN 1, bits 1, ends, from the transport header on
//!  bits       : 1 checksum is verified, 2 somebody was not asked, 4 for nobody else
//!  problem   3: protocol 1, what 1, MTU 4, quoted 8, ends
//!  advert    4: a frame
//!  ends       : 4 or 6 1, local 4 or 16, remote 4 or 16
//! ```
//!
//! Numbers are in network order. Invariant: whatever bytes arrive, what is taken from them is a value that the stack could
//! have made itself, or nothing; whether the addresses are ours is for who takes it.

use std::net::IpAddr;

use demi_api::sga::SgArray;

use crate::device::Checksum;
use crate::ip::{About, Cast, Problem, ProblemKind, Unreachable};

/// Who speaks otherwise is no sibling.
const VERSION: [u8; 8] = *b"demi-s02";

const HELLO: u8 = 1;
const DATAGRAM: u8 = 2;
const PROBLEM: u8 = 3;
const ADVERT: u8 = 4;

const UNREACHABLE: [Unreachable; 5] =
    [Unreachable::Net, Unreachable::Host, Unreachable::Protocol, Unreachable::Port, Unreachable::Prohibited];
const TOO_BIG: u8 = 16;
const TIME_EXCEEDED: u8 = 17;

const VERIFIED: u8 = 1;
const SKIPPED: u8 = 2;
const ASIDE: u8 = 4;

/// How far a packet has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Round {
    /// Who received it from the device.
    pub(crate) origin: u16,
    /// Somebody who may have a use for it has not been asked, so that nobody may refuse it.
    pub(crate) skipped: bool,
    /// It has gone to others as well: who has no use for it forgets it.
    pub(crate) aside: bool,
}

/// One message.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    /// The first on a connection.
    Hello { id: u16 },
    /// A packet for one of us.
    Datagram { round: Round, about: About, data: &'a [u8] },
    /// An error about a packet of one of us.
    Problem(Problem),
    /// A frame by which a neighbour or a router makes something known.
    Advert(&'a [u8]),
}

/// The messages of a packet; an error is the last of them.
pub(crate) fn messages(mut packet: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if packet.is_empty() {
            return None;
        }
        let message = take_message(&mut packet).ok_or(Malformed);
        if message.is_err() {
            packet = &[];
        }
        Some(message)
    })
}

/// A packet that no sibling of this version sends.
#[derive(Debug)]
pub(crate) struct Malformed;

pub(super) fn put_hello(out: &mut Vec<u8>, id: u16) {
    put(out, HELLO, |out| {
        out.extend(VERSION);
        out.extend(id.to_be_bytes());
    });
}

pub(super) fn put_datagram(out: &mut Vec<u8>, round: Round, about: &About, data: &SgArray) {
    put(out, DATAGRAM, |out| {
        out.extend(round.origin.to_be_bytes());
        // Where the rest of a sum was left to a device, there was none: it is as good as verified.
        let bits =
            [(about.checksum != Checksum::Unknown, VERIFIED), (round.skipped, SKIPPED), (round.aside, ASIDE)];
        let bits = bits.into_iter().filter(|(is, _)| *is).fold(0, |all, (_, bit)| all | bit);
        out.extend([about.protocol, about.ecn, bits]);
        put_ends(out, about.local, about.remote);
        data.segments().iter().for_each(|segment| out.extend_from_slice(segment));
    });
}

pub(super) fn put_problem(out: &mut Vec<u8>, problem: &Problem) {
    let (what, mtu) = match problem.kind {
        ProblemKind::Unreachable(what) => (UNREACHABLE.iter().position(|one| *one == what), 0),
        ProblemKind::TooBig(mtu) => (Some(TOO_BIG.into()), mtu),
        ProblemKind::TimeExceeded => (Some(TIME_EXCEEDED.into()), 0),
    };
    put(out, PROBLEM, |out| {
        out.extend([problem.protocol, what.unwrap_or_default() as u8]);
        out.extend(u32::try_from(mtu).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(problem.quoted);
        put_ends(out, problem.local, problem.remote);
    });
}

pub(super) fn put_advert(out: &mut Vec<u8>, frame: &SgArray) {
    put(out, ADVERT, |out| frame.segments().iter().for_each(|segment| out.extend_from_slice(segment)));
}

fn put(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend([kind, 0, 0, 0, 0]);
    let start = out.len();
    body(out);
    let len = (out.len() - start) as u32;
    out[start - 4..start].copy_from_slice(&len.to_be_bytes());
}

fn put_ends(out: &mut Vec<u8>, local: IpAddr, remote: IpAddr) {
    out.push(if local.is_ipv4() { 4 } else { 6 });
    for addr in [local, remote] {
        match addr {
            IpAddr::V4(addr) => out.extend(addr.octets()),
            IpAddr::V6(addr) => out.extend(addr.octets()),
        }
    }
}

fn take_message<'a>(packet: &mut &'a [u8]) -> Option<Message<'a>> {
    let [kind] = take(packet)?;
    let len = u32::from_be_bytes(take(packet)?) as usize;
    let (mut body, rest) = packet.split_at_checked(len)?;
    *packet = rest;
    let body = &mut body;
    match kind {
        HELLO => {
            let version: [u8; 8] = take(body)?;
            let id = u16::from_be_bytes(take(body)?);
            (version == VERSION && body.is_empty()).then_some(Message::Hello { id })
        }
        DATAGRAM => {
            let origin = u16::from_be_bytes(take(body)?);
            let [protocol, ecn, bits] = take(body)?;
            let (local, remote) = take_ends(body)?;
            let is = |bit| bits & bit != 0;
            let checksum = if is(VERIFIED) { Checksum::Verified } else { Checksum::Unknown };
            let round = Round { origin, skipped: is(SKIPPED), aside: is(ASIDE) };
            let about = About { local, remote, protocol, ecn: ecn & 3, checksum, cast: Cast::Unicast };
            let fits = is_transport(protocol) && body.len() <= usize::from(u16::MAX);
            fits.then_some(Message::Datagram { round, about, data: body })
        }
        PROBLEM => {
            let [protocol, what] = take(body)?;
            let mtu = u32::from_be_bytes(take(body)?) as usize;
            let quoted = take(body)?;
            let (local, remote) = take_ends(body)?;
            let kind = match what {
                TOO_BIG => ProblemKind::TooBig(mtu),
                TIME_EXCEEDED => ProblemKind::TimeExceeded,
                what => ProblemKind::Unreachable(*UNREACHABLE.get(usize::from(what))?),
            };
            let fits = is_transport(protocol) && body.is_empty();
            fits.then_some(Message::Problem(Problem { local, remote, protocol, quoted, kind }))
        }
        ADVERT => is_advert(body).then_some(Message::Advert(body)),
        _ => None,
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*front)
}

fn take_ends(from: &mut &[u8]) -> Option<(IpAddr, IpAddr)> {
    let [family] = take(from)?;
    let (local, remote): (IpAddr, IpAddr) = match family {
        4 => (take::<4>(from)?.into(), take::<4>(from)?.into()),
        6 => (take::<16>(from)?.into(), take::<16>(from)?.into()),
        _ => return None,
    };
    let sender = !remote.is_multicast() && !remote.is_unspecified();
    sender.then_some((local, remote))
}

fn is_transport(protocol: u8) -> bool {
    protocol == crate::tcp::PROTOCOL || protocol == crate::udp::PROTOCOL
}

/// Whether a frame, of which this is the beginning, makes something known that concerns all instances: an ARP reply
/// (RFC 826), an advertisement of a router or a neighbour, or a redirect (RFC 4861 §4.2, §4.4, §4.5).
pub(crate) fn is_advert(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x06]) => frame.get(20..22) == Some(&[0, 2]),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&58) && matches!(frame.get(54), Some(134 | 136 | 137)),
        _ => false,
    }
}
