//! What instances say to each other, as bytes: heads of messages and hellos. See `docs/catmint-wire.md`.
//!
//! Invariant: whatever bytes come in, parsing yields a value within the bounds that the document states, or nothing.

use std::net::{IpAddr, Ipv6Addr};

use arrayvec::ArrayVec;
use demi_api::sga::MAX_SEGMENTS;

use crate::device::{HEAD_MAX, HELLO_MAX, Remote};

/// The version spoken here.
pub const VERSION: u16 = 1;

/// Bytes of a head.
pub const HEAD: usize = 16;

/// Fewest and most bytes of a receive.
pub const RECEIVE_BYTES: std::ops::RangeInclusive<u32> = 256..=1 << 20;

/// Fewest and most receives that a side keeps for the other.
pub const RECEIVES: std::ops::RangeInclusive<u16> = 4..=1 << 15;

/// What an element costs of a connection's window.
pub const fn cost(len: usize) -> u32 {
    (if len > 64 { len } else { 64 }) as u32 + 64
}

/// What an offer costs.
pub const OFFER_COST: u32 = cost(0);

const MAGIC: [u8; 4] = *b"DEMI";
const OFFER_HEAD: usize = HEAD + 4;
const OFFER_SEGMENT: usize = 16;

const _: () = assert!(OFFER_HEAD + MAX_SEGMENTS * OFFER_SEGMENT <= HEAD_MAX);

/// What a side says of itself when a queue pair is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// See [`Word`].
    pub word: u16,
    /// Who it is.
    pub id: u128,
    /// How many messages it keeps room for.
    pub receives: u16,
    /// How many connections it keeps at the most.
    pub connections: u16,
    /// Most bytes of a message.
    pub receive_bytes: u32,
    /// Most bytes of an array.
    pub longest: u32,
    /// Where its credit words are.
    pub credits: Remote,
}

/// Values of [`Hello::word`].
#[derive(Debug)]
pub struct Word;

impl Word {
    /// In a request: do not refer me to another queue pair.
    pub const RENEW: u16 = 1;
    /// In a request: this is about a region, and no call to a peer.
    pub const REGION: u16 = 2;
    /// In a refusal: another version.
    pub const VERSION: u16 = 1;
    /// There is a queue pair between us.
    pub const ALREADY: u16 = 2;
    /// No room for another peer.
    pub const NO_ROOM: u16 = 3;
    /// The request's hello cannot be.
    pub const MALFORMED: u16 = 4;
    /// No region has this name.
    pub const NO_REGION: u16 = 5;
}

/// Why a hello cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHello {
    /// It is not one of ours.
    Foreign,
    /// It is of this version.
    Version(u16),
    /// A value is out of its bounds.
    Malformed,
}

impl Hello {
    /// As bytes.
    pub fn emit(&self) -> [u8; HELLO_MAX] {
        let mut out = [0; HELLO_MAX];
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6..8].copy_from_slice(&self.word.to_le_bytes());
        out[8..24].copy_from_slice(&self.id.to_le_bytes());
        out[24..26].copy_from_slice(&self.receives.to_le_bytes());
        out[26..28].copy_from_slice(&self.connections.to_le_bytes());
        out[28..32].copy_from_slice(&self.receive_bytes.to_le_bytes());
        out[32..36].copy_from_slice(&self.longest.to_le_bytes());
        out[36..40].copy_from_slice(&self.credits.key.to_le_bytes());
        out[40..48].copy_from_slice(&self.credits.addr.to_le_bytes());
        out
    }

    /// From bytes, behind which there may be more.
    pub fn parse(bytes: &[u8]) -> Result<Hello, BadHello> {
        if bytes.get(..4) != Some(&MAGIC) {
            return Err(BadHello::Foreign);
        }
        let version = u16_at(bytes, 4).ok_or(BadHello::Malformed)?;
        if version != VERSION {
            return Err(BadHello::Version(version));
        }
        let hello = Hello::fields(bytes).ok_or(BadHello::Malformed)?;
        let sound = RECEIVES.contains(&hello.receives)
            && hello.connections > 0
            && RECEIVE_BYTES.contains(&hello.receive_bytes);
        if sound { Ok(hello) } else { Err(BadHello::Malformed) }
    }

    /// The word of a refusal, whose other fields do not matter, and who refused.
    pub fn refusal(bytes: &[u8]) -> Option<(u16, u128)> {
        if bytes.get(..4) != Some(&MAGIC) {
            return None;
        }
        Some((u16_at(bytes, 6)?, u128::from_le_bytes(bytes.get(8..24)?.try_into().ok()?)))
    }

    fn fields(bytes: &[u8]) -> Option<Hello> {
        Some(Hello {
            word: u16_at(bytes, 6)?,
            id: u128::from_le_bytes(bytes.get(8..24)?.try_into().ok()?),
            receives: u16_at(bytes, 24)?,
            connections: u16_at(bytes, 26)?,
            receive_bytes: u32_at(bytes, 28)?,
            longest: u32_at(bytes, 32)?,
            credits: Remote { key: u32_at(bytes, 36)?, addr: u64_at(bytes, 40)? },
        })
    }
}

/// A name of a connection: slot and generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name(pub u32);

impl Name {
    /// Names none.
    pub const NONE: Name = Name(0);

    /// The name of a slot's occupant.
    pub fn new(slot: u16, generation: u16) -> Name {
        Name(u32::from(generation) << 16 | u32::from(slot))
    }

    /// Which slot.
    pub fn slot(self) -> usize {
        usize::from(self.0 as u16)
    }

    /// Which occupant of it; never zero of a connection.
    pub fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// What every message begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The receiver's name for the connection.
    pub to: Name,
    /// Messages of the receiver's whose receive has been replaced.
    pub taken: u32,
    /// Cost of the receiver's messages on this connection that it may send.
    pub granted: u32,
}

/// Why a connection is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nobody listens at that address.
    Nobody,
    /// The listener's backlog is full.
    Backlog,
    /// There are as many connections between the two as one side allows.
    TooMany,
}

/// A message, without the bytes of its data.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is described in docs/catmint-wire.md")]
pub enum Kind {
    Open { name: Name, port: u16, from: u16, ip: IpAddr },
    Accept { name: Name },
    Refuse(Refusal),
    Data,
    End,
    Close { reset: bool, used: u32 },
    Offer { number: u32, segments: ArrayVec<(Remote, u32), MAX_SEGMENTS> },
    Done { number: u32, read: bool },
    Grant,
    Blocked { granted: u32 },
}

/// Bytes of a message before its data.
pub type Bytes = ArrayVec<u8, HEAD_MAX>;

const OPEN: u8 = 1;
const ACCEPT: u8 = 2;
const REFUSE: u8 = 3;
const DATA: u8 = 4;
const END: u8 = 5;
const CLOSE: u8 = 6;
const OFFER: u8 = 7;
const DONE: u8 = 8;
const GRANT: u8 = 9;
const BLOCKED: u8 = 10;

/// The head of data: what the hot path sends.
#[inline]
pub fn data(head: Head) -> [u8; HEAD] {
    bare(DATA, 0, head)
}

/// The head of data, if it is that: what the hot path receives.
#[inline]
pub fn is_data(bytes: &[u8]) -> Option<Head> {
    if *bytes.first()? != DATA {
        return None;
    }
    head(bytes)
}

#[inline]
fn bare(kind: u8, word: u8, head: Head) -> [u8; HEAD] {
    let mut out = [0; HEAD];
    out[0] = kind;
    out[1] = word;
    out[4..8].copy_from_slice(&head.to.0.to_le_bytes());
    out[8..12].copy_from_slice(&head.taken.to_le_bytes());
    out[12..16].copy_from_slice(&head.granted.to_le_bytes());
    out
}

#[inline]
fn head(bytes: &[u8]) -> Option<Head> {
    let bytes: &[u8; HEAD] = bytes.get(..HEAD)?.try_into().ok()?;
    Some(Head { to: Name(u32_at(bytes, 4)?), taken: u32_at(bytes, 8)?, granted: u32_at(bytes, 12)? })
}

/// Any message as bytes.
pub fn emit(head: Head, kind: &Kind) -> Bytes {
    let (number, word) = match kind {
        Kind::Open { .. } => (OPEN, 0),
        Kind::Accept { .. } => (ACCEPT, 0),
        Kind::Refuse(Refusal::Nobody) => (REFUSE, 1),
        Kind::Refuse(Refusal::Backlog) => (REFUSE, 2),
        Kind::Refuse(Refusal::TooMany) => (REFUSE, 3),
        Kind::Data => (DATA, 0),
        Kind::End => (END, 0),
        Kind::Close { reset, .. } => (CLOSE, u8::from(*reset)),
        Kind::Offer { .. } => (OFFER, 0),
        Kind::Done { read, .. } => (DONE, u8::from(!*read)),
        Kind::Grant => (GRANT, 0),
        Kind::Blocked { .. } => (BLOCKED, 0),
    };
    let mut out = Bytes::new();
    // There is room for the longest: it was asserted above.
    let mut put = |bytes: &[u8]| out.extend(bytes.iter().copied());
    put(&bare(number, word, head));
    match kind {
        Kind::Open { name, port, from, ip } => {
            put(&name.0.to_le_bytes());
            put(&port.to_le_bytes());
            put(&from.to_le_bytes());
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => *ip,
            };
            put(&ip.octets());
        }
        Kind::Accept { name } => put(&name.0.to_le_bytes()),
        Kind::Offer { number, segments } => {
            put(&number.to_le_bytes());
            for (remote, len) in segments {
                put(&remote.addr.to_le_bytes());
                put(&remote.key.to_le_bytes());
                put(&len.to_le_bytes());
            }
        }
        Kind::Done { number, .. } => put(&number.to_le_bytes()),
        Kind::Blocked { granted: number } | Kind::Close { used: number, .. } => put(&number.to_le_bytes()),
        Kind::Refuse(_) | Kind::Data | Kind::End | Kind::Grant => {}
    }
    out
}

/// A message from bytes. `None`: it is not one. The data of [`Kind::Data`] is what follows [`HEAD`] bytes.
pub fn parse(bytes: &[u8]) -> Option<(Head, Kind)> {
    let head = head(bytes)?;
    let word = bytes[1];
    let rest = &bytes[HEAD..];
    let kind = match bytes[0] {
        OPEN => {
            let octets: [u8; 16] = rest.get(8..24)?.try_into().ok()?;
            let ip = Ipv6Addr::from(octets).to_canonical();
            let name = Name(u32_at(rest, 0)?);
            Kind::Open { name, port: u16_at(rest, 4)?, from: u16_at(rest, 6)?, ip }
        }
        ACCEPT => Kind::Accept { name: Name(u32_at(rest, 0)?) },
        REFUSE => Kind::Refuse(match word {
            1 => Refusal::Nobody,
            2 => Refusal::Backlog,
            3 => Refusal::TooMany,
            _ => return None,
        }),
        DATA => Kind::Data,
        END => Kind::End,
        CLOSE => Kind::Close { reset: flag(word)?, used: u32_at(rest, 0)? },
        OFFER => Kind::Offer { number: u32_at(rest, 0)?, segments: segments(rest.get(4..)?)? },
        DONE => Kind::Done { number: u32_at(rest, 0)?, read: !flag(word)? },
        GRANT => Kind::Grant,
        BLOCKED => Kind::Blocked { granted: u32_at(rest, 0)? },
        _ => return None,
    };
    Some((head, kind))
}

fn flag(word: u8) -> Option<bool> {
    match word {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn segments(bytes: &[u8]) -> Option<ArrayVec<(Remote, u32), MAX_SEGMENTS>> {
    let count = bytes.len() / OFFER_SEGMENT;
    if count == 0 || count > MAX_SEGMENTS || !bytes.len().is_multiple_of(OFFER_SEGMENT) {
        return None;
    }
    let mut segments = ArrayVec::new();
    for part in bytes.chunks_exact(OFFER_SEGMENT) {
        let len = u32_at(part, 12)?;
        if len == 0 {
            return None;
        }
        segments.push((Remote { addr: u64_at(part, 0)?, key: u32_at(part, 8)? }, len));
    }
    Some(segments)
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello = Hello {
        word: 0,
        id: 0x0123_4567_89ab_cdef_1122_3344_5566_7788,
        receives: 128,
        connections: 4096,
        receive_bytes: 4096,
        longest: 1 << 26,
        credits: Remote { addr: 0xdead_beef_0000, key: 77 },
    };

    #[test]
    fn hellos_come_back_and_bad_ones_are_told_apart() {
        let bytes = HELLO.emit();
        assert_eq!(Hello::parse(&bytes), Ok(HELLO));
        assert_eq!(Hello::parse(&bytes[..47]), Err(BadHello::Malformed));
        assert_eq!(Hello::parse(b""), Err(BadHello::Foreign));
        let mut newer = bytes;
        newer[4] = 9;
        assert_eq!(Hello::parse(&newer), Err(BadHello::Version(9)));
        let few = Hello { receives: 3, ..HELLO };
        assert_eq!(Hello::parse(&few.emit()), Err(BadHello::Malformed));
        let small = Hello { receive_bytes: 255, ..HELLO };
        assert_eq!(Hello::parse(&small.emit()), Err(BadHello::Malformed));
        assert_eq!(Hello::refusal(&Hello { word: Word::ALREADY, ..HELLO }.emit()), Some((2, HELLO.id)));
    }

    #[test]
    fn every_kind_comes_back() {
        let head = Head { to: Name::new(7, 9), taken: 3, granted: u32::MAX };
        let segment = (Remote { addr: u64::MAX, key: 5 }, 70_000);
        let kinds = [
            Kind::Open { name: Name::new(1, 2), port: 80, from: 50_000, ip: [10, 0, 0, 1].into() },
            Kind::Open {
                name: Name::new(1, 2),
                port: 80,
                from: 50_000,
                ip: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
            },
            Kind::Accept { name: Name(0xffff_ffff) },
            Kind::Refuse(Refusal::Nobody),
            Kind::Refuse(Refusal::Backlog),
            Kind::Refuse(Refusal::TooMany),
            Kind::Data,
            Kind::End,
            Kind::Close { reset: false, used: 77 },
            Kind::Close { reset: true, used: 0 },
            Kind::Offer { number: 4, segments: [segment; 8].into() },
            Kind::Offer { number: 4, segments: std::iter::once(segment).collect() },
            Kind::Done { number: 4, read: true },
            Kind::Done { number: 4, read: false },
            Kind::Grant,
            Kind::Blocked { granted: 12 },
        ];
        for kind in kinds {
            let bytes = emit(head, &kind);
            assert_eq!(parse(&bytes), Some((head, kind.clone())));
            // One byte less is another message, or none: never a panic.
            let shorter = parse(&bytes[..bytes.len() - 1]);
            assert_ne!(shorter, Some((head, kind)));
        }
        assert_eq!(is_data(&data(head)), Some(head));
        assert_eq!(parse(&data(head)), Some((head, Kind::Data)));
    }
}
