//! The seam to RDMA devices: work goes down by calls that take effect where they are made, everything that happens comes
//! back as an [`Event`].
//!
//! A device is a protection domain with one shared receive queue and one completion queue for all its queue pairs, and
//! a connection manager. It is asked for no more than verbs have, so that a provider is thin where there is hardware; the
//! other one speaks RoCEv2 in user space.
//!
//! Invariants: memory that a device was given lies still until the event that gives it back; the device holds a
//! reference meanwhile. What peers may write lies outside the heap, in a [`Region`]. What is posted on a queue pair takes effect in
//! the order in which it was posted. Every posting that asked for an event has exactly one, also when its queue pair
//! fails. A device never blocks and never sleeps; each call does bounded work. Dropping it waits, within a bound, until it has let go
//! of all memory; what it does not give back by then is leaked, never freed.

pub mod ideal;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use demi_api::error::Error;
pub use demi_api::libos::DeviceCx;
use demi_api::memalloc::{Buf, BufMut};
pub use demi_api::op::Atomic;
use demi_api::sga::SgArray;
use demi_api::time::Instant;

/// Most bytes of a message's head, which lies outside the heap.
pub const HEAD_MAX: usize = 256;

/// Most bytes of a hello: what the private data of a request to connect holds beside the RDMA IP CM service's header.
pub const HELLO_MAX: usize = 56;

/// An RDMA device with its connection manager.
pub trait RdmaDevice {
    /// What it can do. Constant.
    fn caps(&self) -> &Caps;

    /// Accepts requests to connect at an address; port 0 picks one. The address in effect is returned. An unspecified IP
    /// address stands for all that the device has.
    fn listen(&mut self, cx: &DeviceCx<'_>, addr: SocketAddr) -> Result<(ListenId, SocketAddr), Error>;

    /// No longer. Requests that were told of and not answered are rejected.
    fn unlisten(&mut self, cx: &DeviceCx<'_>, id: ListenId);

    /// Begins to connect a new queue pair to whoever listens at `to`. [`Event::Established`], [`Event::Refused`] or
    /// [`Event::Gone`] follows. `hello` is at most [`HELLO_MAX`] bytes.
    fn connect(&mut self, cx: &DeviceCx<'_>, to: SocketAddr, hello: &[u8]) -> Result<Qp, Error>;

    /// Answers a request with a new queue pair. [`Event::Established`] or [`Event::Gone`] follows.
    fn accept(&mut self, cx: &DeviceCx<'_>, request: RequestId, hello: &[u8]) -> Result<Qp, Error>;

    /// Answers a request with a refusal.
    fn reject(&mut self, cx: &DeviceCx<'_>, request: RequestId, hello: &[u8]);

    /// Ends a queue pair, whatever state it is in. What is outstanding on it comes back, as failed unless it was done, and then
    /// [`Event::Gone`], after which the name may be used for another.
    fn disconnect(&mut self, cx: &DeviceCx<'_>, qp: Qp);

    /// The local and the remote address of a queue pair.
    fn addrs(&self, qp: Qp) -> Option<(SocketAddr, SocketAddr)>;

    /// Gives the shared receive queue a buffer, of which all bytes may be written. Returned if [`Caps::receives`] are there.
    fn receive(&mut self, cx: &DeviceCx<'_>, into: BufMut) -> Result<(), BufMut>;

    /// How many more postings a queue pair takes. Zero also if it is not connected. When there is room again after this said
    /// that there was none, it is signalled as an event would be.
    fn room(&self, qp: Qp) -> usize;

    /// Posts a message: `head`, then the segments of `data`, into one of the peer's receives. If head and data
    /// together are at most [`Caps::inline`] bytes the device is done with `data` when it returns. Refused without
    /// [`room`](RdmaDevice::room).
    fn send(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        head: &[u8],
        data: SgArray,
        then: Then,
    ) -> Result<(), SgArray>;

    /// Posts a write of `data`, which may be empty, to the peer's memory.
    fn write(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        to: Remote,
        data: SgArray,
        then: Then,
    ) -> Result<(), SgArray>;

    /// Posts a write of eight bytes, in the processor's order, to the peer's memory.
    fn write_word(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        to: Remote,
        word: u64,
        then: Then,
    ) -> Result<(), NoRoom>;

    /// Posts a read of as many bytes as `into` has. [`Event::Read`] follows.
    fn read(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        from: Remote,
        into: BufMut,
        cookie: u64,
    ) -> Result<(), BufMut>;

    /// Posts an atomic operation on eight aligned bytes of the peer's memory. [`Event::Fetched`] follows.
    fn atomic(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        at: Remote,
        op: Atomic,
        cookie: u64,
    ) -> Result<(), NoRoom>;

    /// Lets the peer of this queue pair, and nobody else, read a part of the heap, before whatever is posted next. The device keeps
    /// `data` until the grant has ended.
    fn grant(&mut self, cx: &DeviceCx<'_>, qp: Qp, data: Buf) -> Result<(Grant, Remote), Buf>;

    /// Ends a grant: when [`Event::Revoked`] comes, the peer can read that memory no more. A grant outlives its queue pair,
    /// and is to be ended then as well.
    fn revoke(&mut self, cx: &DeviceCx<'_>, grant: Grant, cookie: u64);

    /// Makes memory outside the heap, zeroed, that peers may reach as `access` says, of whichever queue pair.
    fn region(&mut self, len: usize, access: Access) -> Result<Region, Error>;

    /// Where peers find a region.
    fn place(&self, region: Region) -> Option<Remote>;

    /// Reads a word of a region at an offset that is a multiple of eight, in the processor's order. Zero beyond its end.
    fn load(&self, region: Region, offset: usize) -> u64;

    /// Copies out of a region, as peers may be writing it: bytes may be of different times, words are not torn. False: out of range.
    fn copy_out(&self, region: Region, offset: usize, out: &mut [u8]) -> bool;

    /// Copies into a region. False: out of range.
    fn copy_in(&mut self, region: Region, offset: usize, bytes: &[u8]) -> bool;

    /// An atomic operation of this side on a region, atomic also towards peers'. `None`: out of range or misaligned.
    fn atomic_here(&mut self, region: Region, offset: usize, op: Atomic) -> Option<u64>;

    /// Takes a region from all peers, and unmaps it.
    fn unregion(&mut self, region: Region);

    /// Hands over what was posted, unless that happened already. Called at the end of each turn, and when a posting
    /// should not wait for it.
    fn flush(&mut self, cx: &DeviceCx<'_>);

    /// Appends what has happened to `inbox`, at most about [`BURST`] events; returns how many.
    fn poll(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Event>) -> usize;

    /// When [`poll`](RdmaDevice::poll) must be called again although nothing is signalled.
    fn next_deadline(&self) -> Option<Instant>;

    /// A descriptor that polls readable when there may be events. It stays the same and stays open. What peers do to a region
    /// is no event, and signals nothing.
    fn wait_fd(&self) -> BorrowedFd<'_>;

    /// Hands over what was posted, asks for notification, then looks again. False: there are events already.
    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool;

    /// Names and values of its counters.
    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64));
}

/// About how many events one poll yields.
pub const BURST: usize = 32;

/// What a device can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Most bytes of a message, head included, that are copied when it is posted.
    pub inline: usize,
    /// Most segments of a message beside its head, at least eight.
    pub max_segs: usize,
    /// Most bytes of one message, read or write.
    pub max_len: usize,
    /// Most buffers in the shared receive queue.
    pub receives: usize,
    /// Most reads and atomic operations that a queue pair has under way; more wait in order.
    pub reads: usize,
    /// Postings that a grant takes the room of, its end included.
    pub grant: usize,
}

/// Names a queue pair of this device. A small number, to be used as an index; it is used again once it was told that the
/// queue pair has gone or was refused, and the next poll has begun: whoever was told may have other things to look at before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Qp(pub u32);

/// Names an address where requests are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenId(pub u32);

/// Names a request to connect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId(pub u32);

/// Names a part of the heap that a peer may read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Grant(pub u32);

/// Names memory outside the heap that peers may reach.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Region(pub u32);

/// A place in a peer's memory, as that peer has told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remote {
    /// The virtual address there.
    pub addr: u64,
    /// The key that the peer's device gave (rkey).
    pub key: u32,
}

/// What peers may do to a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// Read it.
    pub read: bool,
    /// Write it.
    pub write: bool,
    /// Atomic operations on its words.
    pub atomic: bool,
}

/// What is to happen when a posting is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Nothing, unless it fails.
    Quiet,
    /// [`Event::Sent`] with this cookie.
    Tell(u64),
}

/// The send queue is full, or the queue pair is not connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

/// Something has happened.
#[derive(Debug)]
pub enum Event {
    /// A message has arrived, in a buffer of the shared receive queue, cut to its length. The device keeps no reference to it.
    Received {
        /// From whom.
        qp: Qp,
        /// The message.
        message: Buf,
    },
    /// A posting that said [`Then::Tell`] is done: the peer's device has it. Or one of any kind has failed, and with it the queue pair.
    Sent {
        /// On which queue pair.
        qp: Qp,
        /// The posting's; `None` of one that was quiet.
        cookie: Option<u64>,
        /// How it ended.
        result: Result<(), Fault>,
    },
    /// A read has ended.
    Read {
        /// On which queue pair.
        qp: Qp,
        /// The posting's.
        cookie: u64,
        /// The buffer.
        into: BufMut,
        /// Whether it is filled.
        result: Result<(), Fault>,
    },
    /// An atomic operation has ended, and this was there before.
    Fetched {
        /// On which queue pair.
        qp: Qp,
        /// The posting's.
        cookie: u64,
        /// What was there.
        result: Result<u64, Fault>,
    },
    /// A grant is over.
    Revoked {
        /// The call's.
        cookie: u64,
        /// The memory.
        data: Buf,
    },
    /// Somebody wants to connect.
    Request {
        /// Where.
        listener: ListenId,
        /// To be answered by accepting or rejecting.
        id: RequestId,
        /// Who.
        from: SocketAddr,
        /// What they say. Private data is padded with zeros by some connection managers.
        hello: Vec<u8>,
    },
    /// A queue pair is connected.
    Established {
        /// Which.
        qp: Qp,
        /// What the peer said; empty on the side that accepted.
        hello: Vec<u8>,
    },
    /// The peer has refused to connect. The name may be used for another.
    Refused {
        /// Which.
        qp: Qp,
        /// What the peer said; empty when nobody listens there.
        hello: Vec<u8>,
    },
    /// A queue pair has ended; what was outstanding on it has been told of.
    Gone {
        /// Which.
        qp: Qp,
        /// Why.
        why: Fault,
    },
    /// The device as a whole has ended or its port is down: nothing new can be connected until it is up. Queue pairs that end by
    /// this are told of one by one, then or later.
    Down(Fault),
    /// It is up again.
    Up,
}

/// What went wrong on a queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// It was disconnected by this side, or the peer.
    #[error("disconnected")]
    Disconnected,
    /// Not done, because something else has failed before.
    #[error("flushed, as the queue pair had failed before")]
    Flushed,
    /// The peer's device does not answer.
    #[error("the peer's device does not answer (transport retries exceeded)")]
    Timeout,
    /// The peer had no receive posted for too long.
    #[error("the peer had no receive posted for too long (RNR retries exceeded)")]
    NotReady,
    /// The peer's device refused access to its memory.
    #[error("the peer refused access to its memory (wrong key, range or right)")]
    RemoteAccess,
    /// The peer's device could not carry it out.
    #[error("the peer's device could not carry out the operation, or found it invalid")]
    RemoteOperation,
    /// This device refused it.
    #[error("this device refused the operation (length, protection)")]
    Local,
    /// A message is longer than the receive that was posted for it.
    #[error("a message was longer than the buffer posted for it")]
    TooLong,
    /// There is no way to the peer.
    #[error("no route to the peer, or its address could not be resolved")]
    Unreachable,
    /// The device, or its port, is down.
    #[error("the device or its port is down")]
    Down,
}
