//! The one error type of the API. Errno values exist only in the libOSes' `sys` modules, which translate
//! them to these, and at the C edge, which translates them back.

use crate::desc::QDesc;
use crate::op::Position;

/// What went wrong, named by what the caller can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The descriptor names no open queue.
    #[error("bad queue descriptor: it was never opened, is closed, or belongs to another instance")]
    BadDescriptor,
    /// The token names no outstanding operation.
    #[error("bad queue token: already waited for, cancelled and reaped, or from another instance")]
    BadToken,
    /// The same token was passed twice to one `wait_all`.
    #[error("the same token stands twice in one wait_all")]
    DuplicateToken,
    /// The operation was cancelled, or its queue was closed under it.
    #[error("operation cancelled")]
    Cancelled,
    /// The operation can no longer be recalled: it is done, or its bytes are with the device.
    #[error("too late to cancel: the operation is done or in the hands of the device; wait for its token")]
    NotCancellable,
    /// No completion within the given time; the tokens stay valid.
    #[error("timed out")]
    TimedOut,
    /// A wait was ended by the instance's `Interrupter`; the tokens stay valid.
    #[error("wait interrupted")]
    Interrupted,
    /// Nothing is outstanding, so a wait without limit could never end.
    #[error("nothing to wait for: no operation is outstanding")]
    NothingOutstanding,
    /// A closure called back into the instance that runs it.
    #[error("called from inside a queue's closure; collect what you need and call after it returns")]
    Reentrant,
    /// The queue is the source of another queue, which alone may pop from it.
    #[error("this queue feeds another queue: pop from that one")]
    Claimed,
    /// The operator needs whole messages and was given a byte stream.
    #[error("operator needs a message queue: put frame() over the stream first")]
    NeedsMessages,
    /// `frame` was asked for on a queue that already keeps boundaries.
    #[error("frame() needs a byte stream: this queue already keeps message boundaries")]
    NeedsStream,
    /// The stream behind a message queue ended between two messages.
    #[error("end of stream")]
    EndOfStream,
    /// The stream behind a message queue ended, or failed, inside a message.
    #[error("stream ended inside a message")]
    Truncated,
    /// A frame violates its codec's format.
    #[error("malformed frame: {0}")]
    BadFrame(&'static str),
    /// A message or datagram exceeds the limit of its queue.
    #[error("message of {len} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Bytes in the message, as far as known.
        len: usize,
        /// Most bytes that the queue accepts.
        limit: usize,
    },
    /// An array with more segments than one array can hold.
    #[error("more than {} segments in one array", crate::sga::MAX_SEGMENTS)]
    TooManySegments,
    /// A filter's predicate refused the pushed element.
    #[error("element rejected by the queue's filter")]
    Rejected,
    /// One branch of a merged queue failed a push.
    #[error("push failed on branch {qd}: {cause}")]
    Branch {
        /// The source queue that failed.
        qd: QDesc,
        /// Why.
        cause: Box<Error>,
    },
    /// As many operations are outstanding or unreaped as the configuration allows.
    #[error("{0} operations are outstanding or unreaped: wait for some, or raise tokens.max")]
    TooManyTokens(usize),
    /// As many queues are open as the configuration allows.
    #[error("{0} queues are open: close some, or raise queues.max")]
    TooManyQueues(usize),
    /// Operators stand upon operators deeper than is allowed.
    #[error("operators are stacked deeper than {0}")]
    TooDeep(usize),
    /// As many tasks are alive as the configuration allows.
    #[error("{0} tasks are alive: raise tasks.max")]
    TooManyTasks(usize),
    /// The process has no file descriptor left.
    #[error("no file descriptor left: close some, or raise `ulimit -n`")]
    TooManyFiles,
    /// The heap has no room.
    #[error(transparent)]
    OutOfMemory(#[from] demi_memalloc::OutOfMemory),
    /// The kernel or a device has no memory or buffers left.
    #[error("the system is out of memory or buffers")]
    NoBuffers,
    /// The address is in use.
    #[error("address already in use: another socket is bound to it, or was a moment ago")]
    AddressInUse,
    /// No interface of this machine has the address.
    #[error("address not available on this machine")]
    AddressNotAvailable,
    /// The address is of another family than the socket, or malformed.
    #[error("address does not fit the socket's family")]
    BadAddress,
    /// Permission denied.
    #[error("permission denied")]
    PermissionDenied,
    /// The peer refused the connection: nobody listens there.
    #[error("connection refused: nobody listens at that address")]
    ConnectionRefused,
    /// The peer reset the connection.
    #[error("connection reset by peer")]
    ConnectionReset,
    /// The connection was aborted locally.
    #[error("connection aborted")]
    ConnectionAborted,
    /// The queue takes no more pushes: its sending side is shut down or its peer has gone.
    #[error("the sending side is closed")]
    Closed,
    /// The socket is not connected.
    #[error("not connected: connect first, or name a destination with push_to")]
    NotConnected,
    /// The socket is connected, connecting, bound or listening already.
    #[error("already connected, connecting, bound or listening")]
    AlreadyConnected,
    /// No route to the destination.
    #[error("destination unreachable")]
    Unreachable,
    /// No such file or log.
    #[error("no such file or log")]
    NotFound,
    /// The file or log exists already.
    #[error("exists already")]
    Exists,
    /// The device or file system is full.
    #[error("no space left on the device")]
    NoSpace,
    /// The device or file system is read-only.
    #[error("read-only")]
    ReadOnly,
    /// What lies in a log at this position is not what was written there.
    #[error("the log is damaged at position {}: seek past it, or look at it with demi-fsck", .0.0)]
    Damaged(Position),
    /// The cursor is at an element that was discarded.
    #[error("the element was discarded: seek to the head of the log")]
    Discarded,
    /// The region of memory was taken back by the instance that had exported it.
    #[error("the region was revoked by whoever exported it: open it again once it is exported again")]
    Revoked,
    /// Somebody else uses it in a way that excludes this.
    #[error("in use: {0}")]
    InUse(&'static str),
    /// The device failed.
    #[error("input/output error on the device")]
    Io,
    /// The call means nothing for this kind of queue or libOS.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// An argument is out of range.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// The configuration cannot be used; the text names file, line and key.
    #[error("{0}")]
    Config(String),
    /// A condition without a name of its own here, as the operating system numbers it.
    #[error("system error {0}")]
    System(i32),
}
