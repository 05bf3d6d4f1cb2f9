//! The connection manager: queue pairs are introduced to each other by datagrams between queue pairs 1.
//!
//! It speaks the RDMA IP CM service, as `rdma_cm` of an operating system does, so either side may be one. Datagrams come in and go
//! out as plain values, `now` is an argument, and what happens is appended to a list.
//!
//! Invariants: each [`Manager::connect`] and each [`Manager::accept`] has exactly one [`Event::Connected`],
//! [`Event::Refused`] or [`Event::Gone`] as its first event, unless it is disconnected before, which is silent; after
//! [`Event::Connected`] comes [`Event::Gone`], once, unless the same. What peers can make it keep is bounded.
//! A datagram counts only if it comes from the address that the connection is with.
//!
//! Protocol: InfiniBand Architecture Specification, volume 1, chapter 12. Not in here: path migration, service
//! resolution, peers that connect to each other without a listener.
#![forbid(unsafe_code)]

mod connection;
mod manager;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use self::connection::Offer;
pub use self::manager::Manager;
use super::wire::{MAD_LEN, Psn, Qpn, Reason};
use crate::device::{Fault, ListenId, Qp, RequestId};

/// How the manager goes about it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Tells this device from all others.
    pub guid: u64,
    /// READs and atomic operations that queue pairs answer at a time, and have under way.
    pub reads: u8,
    /// Bytes of the largest packets that this side takes: 256, 512, 1024, 2048 or 4096.
    pub mtu: usize,
    /// How long to wait for an answer; doubles with each attempt.
    pub timeout: Duration,
    /// Attempts after which the peer is given up.
    pub attempts: u32,
    /// Most connections that others have begun and that do not stand yet; more are not answered.
    pub backlog: usize,
    /// Most connections in all.
    pub connections: usize,
    /// How long to remember what has ended.
    pub time_wait: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            guid: 0,
            reads: 16,
            mtu: 1024,
            timeout: Duration::from_millis(200),
            attempts: 5,
            backlog: 256,
            connections: 16384,
            time_wait: Duration::from_millis(500),
        }
    }
}

/// A datagram for queue pair 1 of another host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// From this address of ours.
    pub from: IpAddr,
    /// To this one.
    pub to: IpAddr,
    /// The payload.
    pub mad: [u8; MAD_LEN],
}

/// What both sides have agreed on for a queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// The peer's queue pair.
    pub remote: Qpn,
    /// Number of our first packet.
    pub send_psn: Psn,
    /// Number of the peer's first packet.
    pub receive_psn: Psn,
    /// Bytes of the largest packets.
    pub mtu: usize,
    /// READs and atomic operations that we may have under way.
    pub initiator_depth: u8,
    /// As many that we answer at a time.
    pub responder_resources: u8,
}

/// Something has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Somebody wants to connect.
    Request {
        /// Where.
        listener: ListenId,
        /// To be accepted or rejected.
        id: RequestId,
        /// Who.
        from: SocketAddr,
        /// Their private data, with the zeros that pad it.
        hello: Vec<u8>,
    },
    /// Both sides are ready.
    Connected {
        /// Our queue pair.
        qp: Qp,
        /// Of the side that asked; the side that accepted has had it from [`Manager::accept`].
        agreed: Option<Agreed>,
        /// The peer's private data, with the zeros that pad it; empty on the side that accepted.
        hello: Vec<u8>,
    },
    /// The peer does not want to connect.
    Refused {
        /// Our queue pair.
        qp: Qp,
        /// Why, in the connection manager's terms.
        reason: Reason,
        /// What the application there says, if it was the application.
        hello: Vec<u8>,
    },
    /// The connection has ended, or did not come to be.
    Gone {
        /// Our queue pair.
        qp: Qp,
        /// Why.
        why: Fault,
    },
    /// Who asked has gone before it was answered.
    Withdrawn {
        /// The request.
        id: RequestId,
    },
}

/// The connection, or the request, is not there any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotThere;

/// Code of an MTU of so many bytes.
fn mtu_code(bytes: usize) -> u8 {
    match bytes {
        ..512 => 1,
        512..1024 => 2,
        1024..2048 => 3,
        2048..4096 => 4,
        4096.. => 5,
    }
}

/// Time of a timeout's code: 4.096 µs × 2^code.
fn code_time(code: u8) -> Duration {
    Duration::from_nanos(4096 << code.min(31))
}
