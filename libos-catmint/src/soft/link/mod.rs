//! Links: what carries packets between instances.
//!
//! A link carries whole RoCEv2 packets, from the base transport header to the payload, to other devices' addresses.
//! What each one puts around them is its own affair: an ICRC where bits can be lost, nothing in shared memory.
//!
//! Invariant: a payload may lie in memory that its sender is writing. It can be copied out, once, and what was copied is all that is looked
//! at. A link copies what it is given before `send` returns, and keeps no reference to it.
//!
//! | module | what it is |
//! |---|---|
//! | [`shm`] | rings in memory that two processes of a machine share |
//! | [`udp`] | a network |

pub mod shm;
pub mod udp;

use std::fmt::Debug;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use demi_api::time::Instant;

use crate::device::Fault;

/// Bytes at a packet's front that hold all its headers, whatever they are.
pub const FRONT: usize = 48;

/// A packet's payload, wherever it lies.
pub trait Payload {
    /// How many bytes there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies those from `at` on into `into`, which is not longer than what is there. Two calls for the same bytes may yield different
    /// ones.
    fn copy(&self, at: usize, into: &mut [u8]);
}

/// What is in private memory stays as it is.
impl Payload for &[u8] {
    #[inline]
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    #[inline]
    fn copy(&self, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self[at..at + into.len()]);
    }
}

/// A packet that has arrived, from the base transport header to the payload's padding.
pub trait Packet {
    /// What its payload is.
    type Payload<'a>: Payload
    where
        Self: 'a;

    /// How many bytes there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first bytes, in private memory. Behind [`len`](Packet::len) they mean nothing.
    fn front(&self) -> &[u8; FRONT];

    /// The bytes behind a header of `range.start` bytes up to `range.end`, which is within the packet.
    fn payload(&self, range: Range<usize>) -> Self::Payload<'_>;
}

/// There is no room now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// A link with all its paths. See the module.
pub trait Link: Debug {
    /// Names the way to one other device.
    type Path: Copy + Eq + Debug;
    /// What arrives.
    type Packet<'a>: Packet;

    /// Whether each packet that was taken arrives, once and in order, for as long as its path lives.
    const LOSSLESS: bool;

    /// Most bytes of a packet's payload: a power of two, 256 to 4096.
    fn mtu(&self) -> usize;

    /// The address of this end.
    fn address(&self) -> IpAddr;

    /// The way to a device, which may have to be made first.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] if there is none, [`Fault::Down`] if the link is down.
    fn path(&mut self, now: Instant, to: IpAddr) -> Result<Self::Path, Fault>;

    /// Where a path leads, while it lives.
    fn peer(&self, path: Self::Path) -> Option<IpAddr>;

    /// Sends a packet: whole headers, then the pieces of a payload, which it pads. A path that is gone swallows it.
    ///
    /// # Errors
    /// [`Full`] if there is no room now; nothing was sent.
    fn send(&mut self, path: Self::Path, headers: &[u8], payload: &[&[u8]]) -> Result<(), Full>;

    /// Lets go what [`send`](Link::send) has held back, and wakes who sleeps.
    fn flush(&mut self);

    /// Shows `each` at most about `most` packets; returns how many.
    fn receive(
        &mut self,
        now: Instant,
        most: usize,
        each: impl FnMut(Self::Path, &Self::Packet<'_>),
    ) -> usize;

    /// A path that has ended, each of them once. What arrived by it has been shown.
    fn ended(&mut self) -> Option<Self::Path>;

    /// Whether anything can be sent at all.
    fn is_up(&self) -> bool {
        true
    }

    /// When [`receive`](Link::receive) must be called again although nothing is signalled.
    fn next_deadline(&self) -> Option<Instant>;

    /// Polls readable when there may be something to receive, or room again.
    fn wait_fd(&self) -> BorrowedFd<'_>;

    /// Asks for notification, then looks again. False: there is something.
    fn arm(&mut self, now: Instant) -> bool;

    /// Names and values of its counters.
    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64));
}
