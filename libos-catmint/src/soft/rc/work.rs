//! Work that was posted: what a message consists of, and which packets it makes.

use arrayvec::ArrayVec;
use demi_api::memalloc::BufMut;
use demi_api::sga::{MAX_SEGMENTS, SgArray};

use super::super::wire::{Operation, Psn, Reth, Tail};
use super::store::{Piece, Store};
use crate::device::{Atomic, Event, Fault, Qp, Remote, Then};

/// Most pieces that one packet's payload is gathered from.
pub(super) const MAX_PIECES: usize = MAX_SEGMENTS + 1;

/// A piece of posted work. Its packets' numbers are known from the start.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) kind: Kind,
    /// Bytes of the message, or of what is read.
    pub(super) len: usize,
    /// Number of its first packet, or of the first one of the answer.
    pub(super) first: Psn,
    /// How many there are, of either.
    pub(super) packets: u32,
    pub(super) then: Then,
}

#[derive(Debug)]
pub(super) enum Kind {
    Send { tail: Tail, small: Piece, data: SgArray },
    Write { to: Remote, small: Piece, data: SgArray },
    Read { from: Remote, into: BufMut },
    Atomic { on: Remote, op: Atomic },
}

impl Work {
    /// Number of its last packet.
    #[inline]
    pub(super) fn last(&self) -> Psn {
        self.first + (self.packets - 1)
    }

    /// Whether the peer answers it with more than an acknowledgement.
    #[inline]
    pub(super) fn is_answered(&self) -> bool {
        match self.kind {
            Kind::Send { .. } | Kind::Write { .. } => false,
            Kind::Read { .. } | Kind::Atomic { .. } => true,
        }
    }

    /// What the packet of number `first + index` of a SEND or WRITE is; the only one of an atomic operation; a READ from there on.
    pub(super) fn operation(&self, index: u32, mtu: usize) -> Operation {
        let (is_first, is_last) = (index == 0, index + 1 == self.packets);
        match &self.kind {
            Kind::Send { tail, .. } => match (is_first, is_last) {
                (true, true) => Operation::SendOnly(*tail),
                (true, false) => Operation::SendFirst,
                (false, false) => Operation::SendMiddle,
                (false, true) => Operation::SendLast(*tail),
            },
            Kind::Write { to, .. } => {
                let reth = Reth { address: to.addr, key: to.key, len: self.len as u32 };
                match (is_first, is_last) {
                    (true, true) => Operation::WriteOnly(reth, None),
                    (true, false) => Operation::WriteFirst(reth),
                    (false, false) => Operation::WriteMiddle,
                    (false, true) => Operation::WriteLast(None),
                }
            }
            Kind::Read { from, .. } => {
                let done = index as usize * mtu;
                let address = from.addr.wrapping_add(done as u64);
                Operation::ReadRequest(Reth { address, key: from.key, len: (self.len - done) as u32 })
            }
            Kind::Atomic { on, op } => {
                let eth = |swap_or_add, compare| super::super::wire::AtomicEth {
                    address: on.addr,
                    key: on.key,
                    swap_or_add,
                    compare,
                };
                match *op {
                    Atomic::CompareSwap { expected, new } => Operation::CompareSwap(eth(new, expected)),
                    Atomic::FetchAdd(more) => Operation::FetchAdd(eth(more, 0)),
                }
            }
        }
    }

    /// The pieces of the payload of that packet, where they lie. Empty pieces are left out.
    #[inline]
    pub(super) fn payload<'a>(
        &'a self,
        index: u32,
        mtu: usize,
        store: &'a Store,
    ) -> ArrayVec<&'a [u8], MAX_PIECES> {
        let mut pieces = ArrayVec::new();
        let (small, data) = match &self.kind {
            Kind::Send { small, data, .. } | Kind::Write { small, data, .. } => (small, data),
            Kind::Read { .. } | Kind::Atomic { .. } => return pieces,
        };
        let mut skip = index as usize * mtu;
        let mut left = mtu.min(self.len - skip);
        let segments = data.segments().iter().map(|segment| &segment[..]);
        for piece in std::iter::once(store.get(*small)).chain(segments) {
            if left == 0 {
                break;
            }
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let piece = &piece[skip..piece.len().min(skip + left)];
            skip = 0;
            left -= piece.len();
            pieces.push(piece);
        }
        pieces
    }

    /// What is to be told of its end; buffers go back.
    pub(super) fn end(self, qp: Qp, result: Result<(), Fault>, store: &mut Store) -> Option<Event> {
        let cookie = self.cookie();
        match self.kind {
            Kind::Send { small, .. } | Kind::Write { small, .. } => {
                store.release(small);
                match (self.then, result) {
                    (Then::Quiet, Ok(())) => None,
                    (Then::Quiet, Err(_)) => Some(Event::Sent { qp, cookie: None, result }),
                    (Then::Tell(cookie), _) => Some(Event::Sent { qp, cookie: Some(cookie), result }),
                }
            }
            Kind::Read { into, .. } => Some(Event::Read { qp, cookie, into, result }),
            // An answer comes by another way.
            Kind::Atomic { .. } => {
                let result = result.map(|()| 0);
                Some(Event::Fetched { qp, cookie, result })
            }
        }
    }

    pub(super) fn cookie(&self) -> u64 {
        match self.then {
            Then::Tell(cookie) => cookie,
            Then::Quiet => 0,
        }
    }
}
