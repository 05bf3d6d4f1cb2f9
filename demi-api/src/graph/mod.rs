//! The operator graph: in-memory queues, and queues made of queues.
//!
//! A derived queue owns the pop side of its sources. Pops go down on demand, one at a time and source; elements
//! come up as results of these, whose owner is a node instead of the application. A push is changed on its way
//! down and then becomes the base queue's, token and all: its fate and its order are the base's.
//!
//! Invariants: an element that was popped from a source reaches a pop, or is counted as dropped.
//! A result for a node is accepted only under the token that the node itself is waiting for, so one that comes late
//! reaches nobody. No call recurses deeper than operators are stacked, which is at most [`MAX_DEPTH`], or asks
//! for more than 64 elements; what is left over is done in later turns.
//!
//! # What holds for every derived queue
//!
//! - *Elements.* Each operator keeps what its source keeps: boundaries on message queues, the order of bytes on streams,
//!   where sized pops may cut elements anew. An array without bytes is an element on a message queue, and the end on a stream.
//! - *The source.* Popping it, or deriving a second queue from it, is [`Error::Claimed`]; pushing to it stays possible.
//! - *Back-pressure.* A pop is asked of the source only while somebody waits, so a slow consumer holds up its
//!   source, and nothing else. Pushes meet the bounds of the base queue.
//! - *Cancellation.* A cancelled pop is done with at once. The element that it had asked for is kept for the next.
//!   A push is cancelled where it is by then: the base queue decides.
//! - *Errors.* A source's error fails one waiting pop; the next pop asks the source again. An error of a push
//!   is that push's own. Where the push cannot begin it is refused, and the caller gets the array back as it was.
//! - *Closing it* closes its sources. Its pops complete as [`Error::Cancelled`], its pushes as the base decides,
//!   within the linger time; elements in it are dropped and counted.
//! - *Closing a source under it*: its pops complete as [`Error::Cancelled`], now and later, once the elements that
//!   it has already are popped; pushes are refused as [`Error::Cancelled`]. Its descriptor stays open until it is closed.
//! - *Closures* that call into the instance get [`Error::Reentrant`]. When one panics, the element that it was given
//!   is lost, and the call that it ran in unwinds; the queue, and other operations on it, go on.
//!
//! | file | what it holds |
//! |---|---|
//! | `build` | the constructors, and what each operator promises |
//! | `node` | what all operators have in common; what a node wants done next |
//! | `pump` | doing it: pops down, elements up, results to whoever waits |
//! | `push` | pushes down |
//! | `close` | cancelling, ending and closing |
//! | `links` | who depends on a queue |
//! | `memory`, `merge`, `filter`, `partition`, `map`, `sort`, `connect`, `frame` | the operators |
//! | `batch` | `pop_n` |

mod batch;
mod build;
mod close;
mod connect;
mod filter;
pub mod frame;
mod links;
mod map;
mod memory;
mod merge;
mod node;
mod partition;
mod pump;
mod push;
mod sort;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use self::links::Links;
use self::node::{Entry, Node};
use crate::config::QueuesSection;
use crate::desc::{QDesc, QueueTable, Tag};
use crate::error::Error;
use crate::libos::{Cx, LibOs, QueueKind};
use crate::op::{Op, Step};
use crate::token::{Owner, QToken};

/// How many operators may stand upon one another.
pub const MAX_DEPTH: usize = 16;

/// Elements asked of sources in one go, at the most.
const SLICE: usize = 64;

/// Every operator of an instance.
pub(crate) struct Graph {
    nodes: QueueTable<Entry>,
    links: Links,
    /// Nodes with something left to do, fairly.
    work: VecDeque<QDesc>,
    /// Elements that may still be asked of sources in this go.
    budget: usize,
    dropped: u64,
    limits: QueuesSection,
}

impl Graph {
    pub(crate) fn new(limits: &QueuesSection) -> Graph {
        Graph {
            nodes: QueueTable::new(Tag::Graph, limits.max),
            links: Links::default(),
            work: VecDeque::new(),
            budget: 0,
            dropped: 0,
            limits: limits.clone(),
        }
    }

    /// Begins an operation of the application's on a graph queue. Its token is in the table before it begins:
    /// operators pass it on.
    #[inline(never)]
    pub(crate) fn submit<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        qd: QDesc,
        op: &mut Op,
    ) -> Result<QToken, Error> {
        let token = cx.done.reserve(qd, Owner::App)?;
        self.budget = SLICE;
        match self.begin(libos, cx, token, qd, op) {
            Ok(Step::Pending) => Ok(token),
            Ok(Step::Done(result)) => {
                cx.done.post(token, result);
                Ok(token)
            }
            Err(error) => {
                cx.done.unreserve(token);
                Err(error)
            }
        }
    }

    /// Whether a queue, which may be any, keeps message boundaries.
    pub(crate) fn kind<L: LibOs>(&self, libos: &L, qd: QDesc) -> Result<QueueKind, Error> {
        if qd.tag() != Some(Tag::Graph) {
            return libos.kind(qd);
        }
        let (id, _) = self.resolve(qd)?;
        Ok(self.node(id)?.kind)
    }

    /// The libOS's queue below a queue, which may be any. Those in memory have none, a merge has two.
    pub(crate) fn base(&self, mut qd: QDesc) -> Result<QDesc, Error> {
        while qd.tag() == Some(Tag::Graph) {
            let (id, _) = self.resolve(qd)?;
            qd = match &self.node(id)?.sources[..] {
                [source] if source.open => source.qd,
                [_] => return Err(Error::Cancelled),
                _ => return Err(Error::NotSupported("this queue does not stand on one socket or file")),
            };
        }
        Ok(qd)
    }

    /// Whether another queue owns the pop side of this one.
    #[inline]
    pub(crate) fn is_claimed(&self, qd: QDesc) -> bool {
        self.links.claimant(qd).is_some()
    }

    /// Nothing is left over that a turn could do without a poll.
    pub(crate) fn is_idle(&self) -> bool {
        self.work.is_empty()
    }

    /// Elements that were filtered out, or were in a node when it was closed.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The node behind a descriptor of the application's, and which of its outputs that is.
    fn resolve(&self, qd: QDesc) -> Result<(QDesc, usize), Error> {
        match self.nodes.get(qd)? {
            Entry::Side { of, output } => Ok((*of, *output)),
            Entry::Node(node) if node.hidden => Err(Error::BadDescriptor),
            Entry::Node(_) => Ok((qd, 0)),
        }
    }

    fn node(&self, id: QDesc) -> Result<&Node, Error> {
        match self.nodes.get(id)? {
            Entry::Node(node) => Ok(node),
            Entry::Side { .. } => Err(Error::BadDescriptor),
        }
    }

    fn node_mut(&mut self, id: QDesc) -> Result<&mut Node, Error> {
        match self.nodes.get_mut(id)? {
            Entry::Node(node) => Ok(node),
            Entry::Side { .. } => Err(Error::BadDescriptor),
        }
    }

    /// Has the node pumped in a later turn, or later in this one.
    fn schedule(&mut self, id: QDesc) {
        if let Ok(node) = self.node_mut(id)
            && !std::mem::replace(&mut node.scheduled, true)
        {
            self.work.push_back(id);
        }
    }
}
