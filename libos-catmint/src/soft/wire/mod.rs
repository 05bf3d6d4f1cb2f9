//! RoCEv2 on the wire: packets and the connection manager's messages, parsed once into plain values and emitted from them.
//!
//! ```text
//!  IP │ UDP 4791 │ BTH │ RETH, AETH, AtomicETH, DETH, ImmDt, IETH │ payload, padded │ ICRC
//!   envelope     │ packet │ extended                              │  of a datagram: │ envelope
//!                                                                    mad, service
//! ```
//!
//! Nothing here does I/O, and no bytes, however hostile, make it panic. Formats: InfiniBand Architecture Specification,
//! volume 1, chapters 9 and 12, annexes A11 (RDMA IP CM service) and A17 (RoCEv2). Transports other than the reliable
//! connection are not in here, but for the datagrams of connection managers.
#![forbid(unsafe_code)]

mod bytes;
mod envelope;
mod extended;
mod mad;
mod packet;
mod psn;
mod service;
#[cfg(test)]
mod tests;

pub use self::envelope::{Ends, Envelope, ICRC_LEN, MAX_ENVELOPE_LEN, PORT};
pub use self::extended::{Aeth, AtomicEth, Deth, NakCode, Reth, RnrTimer, Syndrome};
pub use self::mad::{
    Answered, CommId, GSI_QKEY, MAD_LEN, Mad, Message, REQUEST_DATA, Reason, Reply, Request,
};
pub use self::packet::{BTH_LEN, DEFAULT_PKEY, Header, MAX_HEADER_LEN, Operation, Qpn, Tail, padding};
pub use self::psn::Psn;
pub use self::service::{IpService, USER_DATA, gid, gid_addr, tcp_port, tcp_service};

/// Why bytes are not what they should be. Such a packet is dropped, and counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// It ends before its headers do.
    #[error("the packet is cut off")]
    Short,
    /// Its lengths contradict each other or its kind.
    #[error("the packet's length does not fit what it is")]
    Length,
    /// It came in something else.
    #[error("not a plain IP packet of UDP to port 4791")]
    Envelope,
    /// It was changed on its way.
    #[error("the packet's invariant CRC is wrong")]
    Checksum,
    /// A later transport header version.
    #[error("transport header version {0} is not known")]
    Version(u8),
    /// Of another transport, or reserved.
    #[error("opcode {0:#04x} is not of a reliable connection")]
    Opcode(u8),
    /// An acknowledgement that says nothing.
    #[error("syndrome {0:#04x} is reserved")]
    Syndrome(u8),
    /// A management datagram of another class, or a message that connections do not need.
    #[error("not a message of a connection manager for reliable connections")]
    Mad,
    /// A field is out of its range.
    #[error("the field `{0}` is out of range")]
    Field(&'static str),
}
