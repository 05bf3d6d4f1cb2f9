//! A packet's headers: the base transport header (BTH) and what its opcode says follows.
//!
//! An [`Operation`] holds exactly the extended headers that its opcode has, so that none can be missing or be looked for in
//! vain. The payload is a slice of what was parsed; what is emitted is the headers alone, as payloads are gathered from
//! where they lie.

use std::ops::Range;

use super::bytes::{get16, get24, get32, get64, put16, put24, put32, put64};
use super::{Aeth, AtomicEth, Deth, Psn, Reth, WireError};

/// A queue pair's number: 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Qpn(u32);

impl Qpn {
    /// Where connection managers listen.
    pub const GSI: Qpn = Qpn(1);

    /// The number that the lower 24 bits are.
    #[inline]
    pub const fn new(value: u32) -> Qpn {
        Qpn(value & 0x00FF_FFFF)
    }

    /// As it stands on the wire.
    #[inline]
    pub const fn value(self) -> u32 {
        self.0
    }
}

/// Bytes of the base transport header.
pub const BTH_LEN: usize = 12;
/// Bytes of the longest headers that a packet here has.
pub const MAX_HEADER_LEN: usize = BTH_LEN + AtomicEth::LEN;
/// The partition that there is without a subnet manager.
pub const DEFAULT_PKEY: u16 = 0xFFFF;

/// All headers of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Where it goes.
    pub destination: Qpn,
    /// Its number.
    pub psn: Psn,
    /// What it asks for or answers, with its extended headers.
    pub operation: Operation,
    /// The requester asks for an acknowledgement.
    pub ack_request: bool,
    /// The receiver's application wants to be woken.
    pub solicited: bool,
    /// Migration state: set where path migration is not used.
    pub migrated: bool,
    /// Partition key.
    pub pkey: u16,
    /// The network was congested on the way (FECN), or is on the way back (BECN).
    pub congestion: [bool; 2],
}

/// What a packet is: a name for each opcode, with the headers that go with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// First packet of a SEND.
    SendFirst,
    /// One in between.
    SendMiddle,
    /// The last one.
    SendLast(Tail),
    /// A SEND of one packet.
    SendOnly(Tail),
    /// First packet of a WRITE.
    WriteFirst(Reth),
    /// One in between.
    WriteMiddle,
    /// The last one, with immediate data if there are any.
    WriteLast(Option<u32>),
    /// A WRITE of one packet.
    WriteOnly(Reth, Option<u32>),
    /// A READ.
    ReadRequest(Reth),
    /// First packet of what was read.
    ReadFirst(Aeth),
    /// One in between.
    ReadMiddle,
    /// The last one.
    ReadLast(Aeth),
    /// What was read, in one packet.
    ReadOnly(Aeth),
    /// ACK or NAK.
    Acknowledge(Aeth),
    /// What an atomic operation found.
    AtomicAcknowledge(Aeth, u64),
    /// Put something there if something else is there.
    CompareSwap(AtomicEth),
    /// Add to what is there.
    FetchAdd(AtomicEth),
    /// A datagram.
    Datagram(Deth),
}

/// What a SEND ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// Its payload.
    Plain,
    /// Four bytes for the receiver's completion (ImmDt).
    Immediate(u32),
    /// A key of the receiver's that is not valid any more (IETH).
    Invalidate(u32),
}

mod opcode {
    pub(super) const SEND_FIRST: u8 = 0x00;
    pub(super) const SEND_MIDDLE: u8 = 0x01;
    pub(super) const SEND_LAST: u8 = 0x02;
    pub(super) const SEND_LAST_IMMEDIATE: u8 = 0x03;
    pub(super) const SEND_ONLY: u8 = 0x04;
    pub(super) const SEND_ONLY_IMMEDIATE: u8 = 0x05;
    pub(super) const WRITE_FIRST: u8 = 0x06;
    pub(super) const WRITE_MIDDLE: u8 = 0x07;
    pub(super) const WRITE_LAST: u8 = 0x08;
    pub(super) const WRITE_LAST_IMMEDIATE: u8 = 0x09;
    pub(super) const WRITE_ONLY: u8 = 0x0A;
    pub(super) const WRITE_ONLY_IMMEDIATE: u8 = 0x0B;
    pub(super) const READ_REQUEST: u8 = 0x0C;
    pub(super) const READ_FIRST: u8 = 0x0D;
    pub(super) const READ_MIDDLE: u8 = 0x0E;
    pub(super) const READ_LAST: u8 = 0x0F;
    pub(super) const READ_ONLY: u8 = 0x10;
    pub(super) const ACKNOWLEDGE: u8 = 0x11;
    pub(super) const ATOMIC_ACKNOWLEDGE: u8 = 0x12;
    pub(super) const COMPARE_SWAP: u8 = 0x13;
    pub(super) const FETCH_ADD: u8 = 0x14;
    pub(super) const SEND_LAST_INVALIDATE: u8 = 0x16;
    pub(super) const SEND_ONLY_INVALIDATE: u8 = 0x17;
    pub(super) const DATAGRAM: u8 = 0x64;
}

const SOLICITED: u8 = 0x80;
const MIGRATED: u8 = 0x40;
const VERSION: u8 = 0x0F;
const FECN: u8 = 0x80;
const BECN: u8 = 0x40;
const ACK_REQUEST: u8 = 0x80;

impl Header {
    /// What a packet has that is not otherwise remarkable.
    #[inline]
    pub const fn new(destination: Qpn, psn: Psn, operation: Operation) -> Header {
        Header {
            destination,
            psn,
            operation,
            ack_request: false,
            solicited: false,
            migrated: true,
            pkey: DEFAULT_PKEY,
            congestion: [false; 2],
        }
    }

    /// Reads what lies between the UDP header and the ICRC. Gives the payload without its padding.
    ///
    /// # Errors
    /// When it is too short for what it says it is, too long for an operation without payload, or of no known kind.
    pub fn parse(bytes: &[u8]) -> Result<(Header, &[u8]), WireError> {
        let (header, payload) = Header::parse_front(bytes, bytes.len())?;
        Ok((header, &bytes[payload]))
    }

    /// Reads the headers of a packet of `len` bytes from its front: as many of them as there are, at least
    /// [`MAX_HEADER_LEN`] if it is that long. Gives where in the packet its payload is, without its padding.
    ///
    /// # Errors
    /// As [`parse`](Header::parse).
    #[inline]
    pub fn parse_front(front: &[u8], len: usize) -> Result<(Header, Range<usize>), WireError> {
        let Some((bth, rest)) = front[..front.len().min(len)].split_at_checked(BTH_LEN) else {
            return Err(WireError::Short);
        };
        if bth[1] & VERSION != 0 {
            return Err(WireError::Version(bth[1] & VERSION));
        }
        let (operation, extended) = Operation::parse(bth[0], rest)?;
        let start = BTH_LEN + extended;
        let pad = usize::from(bth[1] >> 4 & 3);
        let Some(end) = len.checked_sub(pad).filter(|end| *end >= start) else {
            return Err(WireError::Short);
        };
        if !len.is_multiple_of(4) || (len > start && !operation.has_payload()) {
            return Err(WireError::Length);
        }
        let header = Header {
            destination: Qpn::new(get24(bth, 5)),
            psn: Psn::new(get24(bth, 9)),
            operation,
            ack_request: bth[8] & ACK_REQUEST != 0,
            solicited: bth[1] & SOLICITED != 0,
            migrated: bth[1] & MIGRATED != 0,
            pkey: get16(bth, 2),
            congestion: [bth[4] & FECN != 0, bth[4] & BECN != 0],
        };
        Ok((header, start..end))
    }

    /// Writes the headers of a packet with a payload of `payload` bytes to the front of `out`. Gives their length. The payload
    /// follows, and then [`padding`] zeros.
    ///
    /// # Panics
    /// When `out` is shorter than the headers: [`MAX_HEADER_LEN`] bytes always suffice.
    pub fn emit(&self, payload: usize, out: &mut [u8]) -> usize {
        out[1] = if self.solicited { SOLICITED } else { 0 }
            | if self.migrated { MIGRATED } else { 0 }
            | (padding(payload) as u8) << 4;
        put16(out, 2, self.pkey);
        put32(out, 4, self.destination.value());
        out[4] = if self.congestion[0] { FECN } else { 0 } | if self.congestion[1] { BECN } else { 0 };
        put24(out, 9, self.psn.value());
        out[8] = if self.ack_request { ACK_REQUEST } else { 0 };
        let (code, len) = self.operation.emit(&mut out[BTH_LEN..]);
        out[0] = code;
        BTH_LEN + len
    }
}

/// Zeros that follow a payload, as packets are whole words.
#[inline]
pub const fn padding(payload: usize) -> usize {
    payload.wrapping_neg() & 3
}

impl Operation {
    /// Gives the length of the extended headers, too.
    #[inline]
    fn parse(code: u8, bytes: &[u8]) -> Result<(Operation, usize), WireError> {
        let mut rest = bytes;
        let mut take = |len: usize| -> Result<&[u8], WireError> {
            let Some((taken, left)) = rest.split_at_checked(len) else { return Err(WireError::Short) };
            rest = left;
            Ok(taken)
        };
        let operation = match code {
            opcode::SEND_FIRST => Operation::SendFirst,
            opcode::SEND_MIDDLE => Operation::SendMiddle,
            opcode::SEND_LAST => Operation::SendLast(Tail::Plain),
            opcode::SEND_LAST_IMMEDIATE => Operation::SendLast(Tail::Immediate(get32(take(4)?, 0))),
            opcode::SEND_LAST_INVALIDATE => Operation::SendLast(Tail::Invalidate(get32(take(4)?, 0))),
            opcode::SEND_ONLY => Operation::SendOnly(Tail::Plain),
            opcode::SEND_ONLY_IMMEDIATE => Operation::SendOnly(Tail::Immediate(get32(take(4)?, 0))),
            opcode::SEND_ONLY_INVALIDATE => Operation::SendOnly(Tail::Invalidate(get32(take(4)?, 0))),
            opcode::WRITE_FIRST => Operation::WriteFirst(Reth::parse(take(Reth::LEN)?)),
            opcode::WRITE_MIDDLE => Operation::WriteMiddle,
            opcode::WRITE_LAST => Operation::WriteLast(None),
            opcode::WRITE_LAST_IMMEDIATE => Operation::WriteLast(Some(get32(take(4)?, 0))),
            opcode::WRITE_ONLY => Operation::WriteOnly(Reth::parse(take(Reth::LEN)?), None),
            opcode::WRITE_ONLY_IMMEDIATE => {
                let reth = Reth::parse(take(Reth::LEN)?);
                Operation::WriteOnly(reth, Some(get32(take(4)?, 0)))
            }
            opcode::READ_REQUEST => Operation::ReadRequest(Reth::parse(take(Reth::LEN)?)),
            opcode::READ_FIRST => Operation::ReadFirst(Aeth::parse(take(Aeth::LEN)?)?),
            opcode::READ_MIDDLE => Operation::ReadMiddle,
            opcode::READ_LAST => Operation::ReadLast(Aeth::parse(take(Aeth::LEN)?)?),
            opcode::READ_ONLY => Operation::ReadOnly(Aeth::parse(take(Aeth::LEN)?)?),
            opcode::ACKNOWLEDGE => Operation::Acknowledge(Aeth::parse(take(Aeth::LEN)?)?),
            opcode::ATOMIC_ACKNOWLEDGE => {
                let aeth = Aeth::parse(take(Aeth::LEN)?)?;
                Operation::AtomicAcknowledge(aeth, get64(take(8)?, 0))
            }
            opcode::COMPARE_SWAP => Operation::CompareSwap(AtomicEth::parse(take(AtomicEth::LEN)?)),
            opcode::FETCH_ADD => Operation::FetchAdd(AtomicEth::parse(take(AtomicEth::LEN)?)),
            opcode::DATAGRAM => Operation::Datagram(Deth::parse(take(Deth::LEN)?)),
            _ => return Err(WireError::Opcode(code)),
        };
        Ok((operation, bytes.len() - rest.len()))
    }

    /// Gives the opcode and the length of the extended headers.
    fn emit(&self, out: &mut [u8]) -> (u8, usize) {
        match self {
            Operation::SendFirst => (opcode::SEND_FIRST, 0),
            Operation::SendMiddle => (opcode::SEND_MIDDLE, 0),
            Operation::SendLast(tail) => match tail {
                Tail::Plain => (opcode::SEND_LAST, 0),
                Tail::Immediate(data) => (opcode::SEND_LAST_IMMEDIATE, word(out, 0, *data)),
                Tail::Invalidate(key) => (opcode::SEND_LAST_INVALIDATE, word(out, 0, *key)),
            },
            Operation::SendOnly(tail) => match tail {
                Tail::Plain => (opcode::SEND_ONLY, 0),
                Tail::Immediate(data) => (opcode::SEND_ONLY_IMMEDIATE, word(out, 0, *data)),
                Tail::Invalidate(key) => (opcode::SEND_ONLY_INVALIDATE, word(out, 0, *key)),
            },
            Operation::WriteFirst(reth) => {
                reth.emit(out);
                (opcode::WRITE_FIRST, Reth::LEN)
            }
            Operation::WriteMiddle => (opcode::WRITE_MIDDLE, 0),
            Operation::WriteLast(None) => (opcode::WRITE_LAST, 0),
            Operation::WriteLast(Some(data)) => (opcode::WRITE_LAST_IMMEDIATE, word(out, 0, *data)),
            Operation::WriteOnly(reth, immediate) => {
                reth.emit(out);
                match immediate {
                    None => (opcode::WRITE_ONLY, Reth::LEN),
                    Some(data) => (opcode::WRITE_ONLY_IMMEDIATE, word(out, Reth::LEN, *data)),
                }
            }
            Operation::ReadRequest(reth) => {
                reth.emit(out);
                (opcode::READ_REQUEST, Reth::LEN)
            }
            Operation::ReadFirst(aeth) => {
                aeth.emit(out);
                (opcode::READ_FIRST, Aeth::LEN)
            }
            Operation::ReadMiddle => (opcode::READ_MIDDLE, 0),
            Operation::ReadLast(aeth) => {
                aeth.emit(out);
                (opcode::READ_LAST, Aeth::LEN)
            }
            Operation::ReadOnly(aeth) => {
                aeth.emit(out);
                (opcode::READ_ONLY, Aeth::LEN)
            }
            Operation::Acknowledge(aeth) => {
                aeth.emit(out);
                (opcode::ACKNOWLEDGE, Aeth::LEN)
            }
            Operation::AtomicAcknowledge(aeth, found) => {
                aeth.emit(out);
                put64(out, Aeth::LEN, *found);
                (opcode::ATOMIC_ACKNOWLEDGE, Aeth::LEN + 8)
            }
            Operation::CompareSwap(atomic) => {
                atomic.emit(out);
                (opcode::COMPARE_SWAP, AtomicEth::LEN)
            }
            Operation::FetchAdd(atomic) => {
                atomic.emit(out);
                (opcode::FETCH_ADD, AtomicEth::LEN)
            }
            Operation::Datagram(deth) => {
                deth.emit(out);
                (opcode::DATAGRAM, Deth::LEN)
            }
        }
    }

    /// Whether a payload may follow.
    fn has_payload(&self) -> bool {
        match self {
            Operation::SendFirst
            | Operation::SendMiddle
            | Operation::SendLast(_)
            | Operation::SendOnly(_)
            | Operation::WriteFirst(_)
            | Operation::WriteMiddle
            | Operation::WriteLast(_)
            | Operation::WriteOnly(..)
            | Operation::ReadFirst(_)
            | Operation::ReadMiddle
            | Operation::ReadLast(_)
            | Operation::ReadOnly(_)
            | Operation::Datagram(_) => true,
            Operation::ReadRequest(_)
            | Operation::Acknowledge(_)
            | Operation::AtomicAcknowledge(..)
            | Operation::CompareSwap(_)
            | Operation::FetchAdd(_) => false,
        }
    }
}

/// Gives where it ends.
fn word(out: &mut [u8], at: usize, value: u32) -> usize {
    put32(out, at, value);
    at + 4
}
