//! One connection that is being made, stands, or is being ended.

use std::net::IpAddr;

use demi_api::time::Instant;

use super::super::wire::{CommId, MAD_LEN, Psn, Qpn};
use super::Agreed;
use crate::device::{ListenId, Qp};

/// ```text
///            connect                              REQ arrives
///               │                                      │
///        RequestSent ── REJ, no answer ─► gone     Requested ── reject ─► gone
///               │ REP: RTU goes out                    │ accept: REP goes out
///               ▼                                      ▼
///          Established ◄──── RTU, or any packet ── ReplySent ── REJ, no answer ─► gone
///               │ disconnect: DREQ goes out
///               ▼                  DREQ arrives: DREP goes out, from any state above
///        DisconnectSent ── DREP, no answer ─► TimeWait ─► gone
/// ```
#[derive(Debug)]
pub(super) enum State {
    /// We have asked.
    RequestSent {
        qp: Qp,
        offer: Agreed,
    },
    /// We were asked, and the application has been told.
    Requested {
        listener: ListenId,
        agreed: Agreed,
    },
    /// We have accepted.
    ReplySent {
        qp: Qp,
    },
    Established {
        qp: Qp,
    },
    /// We have ended it; nobody waits for the end of that.
    DisconnectSent,
    /// It has ended. The peer may not know yet that we know.
    TimeWait,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) state: State,
    /// Our name of it, and the peer's; zero as long as that is not known.
    pub(super) local: CommId,
    pub(super) remote: CommId,
    /// Our address, and the peer's.
    pub(super) here: IpAddr,
    pub(super) there: IpAddr,
    pub(super) transaction: u64,
    /// The peer's adapter and queue pair.
    pub(super) guid: u64,
    pub(super) qpn: Qpn,
    /// What was said last, to be said again.
    pub(super) said: Option<Box<[u8; MAD_LEN]>>,
    /// How often it has been said without an answer.
    pub(super) attempts: u32,
    /// How often the other side has put its answer off.
    pub(super) delays: u8,
    pub(super) timer: Option<Instant>,
}

impl Connection {
    /// The queue pair, as long as it is of use.
    pub(super) fn qp(&self) -> Option<Qp> {
        match self.state {
            State::RequestSent { qp, .. } | State::ReplySent { qp } | State::Established { qp } => Some(qp),
            State::Requested { .. } | State::DisconnectSent | State::TimeWait => None,
        }
    }

    /// What one adapter can have only one of.
    pub(super) fn far_end(&self) -> (u64, Qpn) {
        (self.guid, self.qpn)
    }
}

/// What a side offers to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Its queue pair: one that was not in use lately, which peers would take for the former one.
    pub qpn: Qpn,
    /// With which number the other side is to begin. Random, so that packets of another connection are told apart.
    pub psn: Psn,
}
