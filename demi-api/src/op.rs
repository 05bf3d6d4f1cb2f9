//! Operations, and how they end.

use crate::addr::Addr;
use crate::desc::QDesc;
use crate::error::Error;
use crate::sga::SgArray;
use crate::token::QToken;

/// What a queue is asked to do.
///
/// A libOS receives it by reference and takes out what it keeps: an operation that completes at once is
/// never moved, and one that is refused still lies with its caller, buffers and all.
#[derive(Debug)]
pub enum Op {
    /// Append an array; a datagram may name its destination.
    Push {
        /// What to append.
        sga: SgArray,
        /// Destination of a datagram on an unconnected socket.
        to: Option<Addr>,
    },
    /// Take the oldest element.
    Pop {
        /// Most bytes to take from a stream; `usize::MAX` for what one receive yields. Message queues
        /// ignore it: elements come whole.
        limit: usize,
    },
    /// Take the next connection of a listening socket.
    Accept,
    /// Connect a socket.
    Connect(Addr),
    /// Make everything pushed so far durable.
    Flush,
    /// Change a word of a region of memory in one step.
    Atomic {
        /// Where it lies: a multiple of eight.
        at: Position,
        /// The change.
        change: Atomic,
    },
}

/// A change of eight bytes, in the processor's order, that happens as a whole or not at all, and yields what was there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Atomic {
    /// If they are `expected` they become `new`.
    CompareSwap {
        /// What must be there.
        expected: u64,
        /// What shall be there.
        new: u64,
    },
    /// They become the sum, without regard to overflow.
    FetchAdd(u64),
}

/// How far [`crate::libos::LibOs::start`] got.
#[derive(Debug)]
pub enum Step {
    /// Done on the spot; the token completes with this.
    Done(Result<Done, Error>),
    /// Under way: it will be posted under its token.
    Pending,
}

/// What a successful operation yields.
#[derive(Debug)]
pub enum Done {
    /// The array was taken over: by the kernel, acknowledged by the peer, or durable, as the queue promises.
    Pushed(Position),
    /// An element. On a stream, one without bytes is the end of the stream.
    Popped(SgArray),
    /// Several elements, oldest first (see `pop_n`).
    Batch(Vec<SgArray>),
    /// A connection.
    Accepted {
        /// Its queue.
        qd: QDesc,
        /// Who connected.
        peer: Addr,
    },
    /// The socket is connected.
    Connected,
    /// Everything pushed before is durable.
    Flushed,
    /// A `qconnect` has ended because its source did, after this many elements.
    Moved(u64),
    /// What was in the word that an atomic operation went to.
    Fetched(u64),
}

/// Where a pushed element lies in its log or file. Ordered; of a log opaque, of a file its byte offset; zero
/// where a queue has no positions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position(pub u64);

/// A finished operation, as `wait` returns it.
#[derive(Debug)]
pub struct Completion {
    /// The operation's token, no longer valid.
    pub token: QToken,
    /// The queue it was asked of.
    pub qd: QDesc,
    /// What it yields.
    pub result: Result<Done, Error>,
}

impl Completion {
    /// The popped array. Errors of the operation pass through; any other outcome is an error too.
    #[inline]
    pub fn popped(self) -> Result<SgArray, Error> {
        match self.result {
            Ok(Done::Popped(sga)) => Ok(sga),
            Ok(_) => Err(Error::Invalid("the completed operation was not a pop")),
            Err(error) => Err(error),
        }
    }

    /// The position of a pushed array.
    #[inline]
    pub fn pushed(self) -> Result<Position, Error> {
        match self.result {
            Ok(Done::Pushed(position)) => {
                // There is nothing in it to drop, but looking for it would cost more than all else here.
                std::mem::forget(self.result);
                Ok(position)
            }
            Ok(_) => Err(Error::Invalid("the completed operation was not a push")),
            Err(error) => Err(error),
        }
    }

    /// The accepted connection.
    pub fn accepted(self) -> Result<(QDesc, Addr), Error> {
        match self.result? {
            Done::Accepted { qd, peer } => Ok((qd, peer)),
            _ => Err(Error::Invalid("the completed operation was not an accept")),
        }
    }

    /// What was in a word before an atomic operation changed it, or left it.
    pub fn fetched(self) -> Result<u64, Error> {
        match self.result? {
            Done::Fetched(word) => Ok(word),
            _ => Err(Error::Invalid("the completed operation was not an atomic one")),
        }
    }
}

/// A push that never began: the reason, and the array back.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub error: Error,
    /// What was to be pushed.
    pub sga: SgArray,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        refused.error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rare_makes_nothing_larger() {
        // Every push and pop moves these.
        assert_eq!(size_of::<Op>(), size_of::<(SgArray, Option<Addr>)>());
        assert_eq!(size_of::<Done>(), size_of::<(QDesc, Addr)>().max(size_of::<(u64, SgArray)>()));
    }
}
