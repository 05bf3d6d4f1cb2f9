//! The constructors of operators.
//!
//! Invariant: a constructor that fails has claimed nothing and left nothing open.

use std::cmp::Ordering;

use demi_memalloc::Heap;

use super::batch::Batch;
use super::connect::Connect;
use super::filter::Filter;
use super::frame::{Codec, Frame};
use super::map::Map;
use super::memory::Memory;
use super::node::{Entry, Node, Operator};
use super::partition::{NO, Partition, YES};
use super::sort::Sort;
use super::{Graph, MAX_DEPTH, SLICE};
use crate::desc::{QDesc, Tag};
use crate::error::Error;
use crate::instance::Demikernel;
use crate::libos::{Cx, LibOs, QueueKind};
use crate::sga::SgArray;
use crate::token::{Owner, QToken};

/// Queues made in memory, and queues made of queues. What holds for all of them, on cancellation, errors,
/// back-pressure and closing, is said at [`graph`](crate::graph).
impl<L: LibOs> Demikernel<L> {
    /// A queue in memory, of messages: `pop` takes the oldest element, `push` appends one.
    ///
    /// It holds `queues.memory_elements` elements. A push on a full queue stays pending, completes in its turn when
    /// there is room, and can be cancelled until then. Closing the queue completes pending pops and pushes as
    /// [`Error::Cancelled`]; what it held is dropped and counted. After `shutdown` of the sending side, or when a
    /// [`qconnect`](Demikernel::qconnect) to it has come to its end, further pushes are refused as [`Error::Closed`],
    /// and pops behind the last element get [`Error::EndOfStream`].
    pub fn queue(&self) -> Result<QDesc, Error> {
        self.with_graph(|graph, _, _| graph.add_memory(graph.limits.memory_elements))
    }

    /// A [`queue`](Demikernel::queue) that holds at most `bound` elements.
    pub fn queue_with(&self, bound: usize) -> Result<QDesc, Error> {
        if bound == 0 {
            return Err(Error::Invalid("a queue that holds nothing"));
        }
        self.with_graph(|graph, _, _| graph.add_memory(bound))
    }

    /// Both queues as one: popped from either, pushed to both.
    ///
    /// *Pop*: when both have elements, they take turns. Both are of one kind: messages stay whole; of two streams,
    /// pieces alternate as they arrive, each in its own order. A source that has ended is left out; when
    /// both have, pops find the end of the stream ([`Error::EndOfStream`] on message queues), or are
    /// [`Error::Cancelled`] if both were closed. A source's error goes to one pop.
    ///
    /// *Push*: the array goes to both, by reference. Its token completes when both are done, with the position in
    /// `a`, and fails as [`Error::Branch`] with the queue that failed, the first if both did; the other has the
    /// element then. Where both refuse at once, so does this one. It cannot be cancelled. Pushes complete in order.
    pub fn merge(&self, a: QDesc, b: QDesc) -> Result<QDesc, Error> {
        if a == b {
            return Err(Error::Invalid("a queue cannot be merged with itself"));
        }
        self.with_graph(|graph, libos, _| {
            let (kind, depth) = graph.check_source(libos, a)?;
            let (other_kind, other_depth) = graph.check_source(libos, b)?;
            if kind != other_kind {
                return Err(Error::NeedsMessages);
            }
            let merge = Operator::Merge(Box::default());
            graph.add(Node::new(kind, depth.max(other_depth), &[a, b], 1, merge))
        })
    }

    /// Only the elements for which `predicate` holds. Needs a message queue ([`Error::NeedsMessages`]).
    ///
    /// *Pop*: elements that do not pass are dropped and counted. *Push*: an element that does not pass
    /// completes as [`Error::Rejected`] and goes nowhere; others go to `source`.
    pub fn filter(
        &self,
        source: QDesc,
        predicate: impl FnMut(&SgArray) -> bool + 'static,
    ) -> Result<QDesc, Error> {
        self.with_graph(|graph, libos, _| {
            let depth = graph.check_messages(libos, source)?;
            let filter = Operator::Filter(Filter { predicate: Box::new(predicate) });
            graph.add(Node::new(QueueKind::Message, depth, &[source], 1, filter))
        })
    }

    /// Two queues out of one: of the elements for which `predicate` holds, and of the others. Needs a message queue
    /// ([`Error::NeedsMessages`]).
    ///
    /// *Pop*: each side holds up to `queues.memory_elements` elements that the other side's pops have brought up.
    /// While one of them is full, neither gets more: whoever pops only one side must expect to wait for the other.
    /// *Push*, on either side: to `source`, if the element belongs to this side, else [`Error::Rejected`].
    ///
    /// A side that is closed drops and counts its elements from then on. With the second side, `source` is closed.
    pub fn partition(
        &self,
        source: QDesc,
        predicate: impl FnMut(&SgArray) -> bool + 'static,
    ) -> Result<(QDesc, QDesc), Error> {
        self.with_graph(|graph, libos, _| {
            let depth = graph.check_messages(libos, source)?;
            let bound = graph.limits.memory_elements;
            let partition = Partition { predicate: Box::new(predicate), bound, error: None };
            let partition = Operator::Partition(Box::new(partition));
            let node = Node::new(QueueKind::Message, depth, &[source], 2, partition);
            let of = graph.nodes.insert(Entry::Node(Node { hidden: true, ..node }))?;
            let yes = graph.nodes.insert(Entry::Side { of, output: YES });
            let no = graph.nodes.insert(Entry::Side { of, output: NO });
            if let (Ok(yes), Ok(no)) = (&yes, &no) {
                graph.links.set_claimant(source, Some(of));
                return Ok((*yes, *no));
            }
            for qd in [Ok(of), yes.clone(), no.clone()].into_iter().flatten() {
                let _ = graph.nodes.remove(qd);
            }
            Err(yes.and(no).err().unwrap_or(Error::TooManyQueues(graph.limits.max)))
        })
    }

    /// Elements changed on their way: by `on_pop` after they are popped from `source`, by `on_push` before they are
    /// pushed to it. Both may return the array they were given, or another; a popped one keeps its peer.
    ///
    /// On streams they are given the pieces as they come, never the end; a piece that `on_pop` makes empty
    /// is left out. An error of `on_pop` fails that pop, its element is consumed; an error of `on_push` is the result of that push.
    pub fn map(
        &self,
        source: QDesc,
        on_pop: impl FnMut(&Heap, SgArray) -> Result<SgArray, Error> + 'static,
        on_push: impl FnMut(&Heap, SgArray) -> Result<SgArray, Error> + 'static,
    ) -> Result<QDesc, Error> {
        self.with_graph(|graph, libos, _| {
            let (kind, depth) = graph.check_source(libos, source)?;
            let map = Operator::Map(Map { on_pop: Box::new(on_pop), on_push: Box::new(on_push) });
            graph.add(Node::new(kind, depth, &[source], 1, map))
        })
    }

    /// The greatest element first. Needs a message queue ([`Error::NeedsMessages`]).
    ///
    /// *Pop*: the greatest by `compare`, of equal ones the oldest, of the elements that are there: a pop takes from
    /// `source` while that yields at once, until `queues.sort_lookahead` elements are held. An end or error of
    /// `source` comes after all that was held before it. *Push*: to `source`.
    pub fn sort(
        &self,
        source: QDesc,
        compare: impl FnMut(&SgArray, &SgArray) -> Ordering + 'static,
    ) -> Result<QDesc, Error> {
        self.with_graph(|graph, libos, _| {
            let lookahead = graph.limits.sort_lookahead;
            graph.add_sort(libos, source, lookahead, Box::new(compare))
        })
    }

    /// A [`sort`](Demikernel::sort) that looks ahead at most `lookahead` elements.
    pub fn sort_with(
        &self,
        source: QDesc,
        lookahead: usize,
        compare: impl FnMut(&SgArray, &SgArray) -> Ordering + 'static,
    ) -> Result<QDesc, Error> {
        if lookahead == 0 {
            return Err(Error::Invalid("a sort that looks at nothing"));
        }
        self.with_graph(|graph, libos, _| graph.add_sort(libos, source, lookahead, Box::new(compare)))
    }

    /// Whole messages on a byte stream ([`Error::NeedsStream`] on a message queue).
    ///
    /// *Pop*: one message, without the framing that the [`Codec`] knows, in the memory it was received in: one
    /// segment, or several where it lies across receive buffers; of more than eight, one copy. A message of more
    /// than `queues.frame_max_bytes` is [`Error::TooLarge`], a malformed one [`Error::BadFrame`]; the end of the stream
    /// is [`Error::EndOfStream`] between messages, [`Error::Truncated`] inside one. After any of these the queue
    /// gives the same to every further pop; pushes go on, to say goodbye. Any other error of the stream is one pop's.
    ///
    /// *Push*: the array with its framing. One that cannot be framed is refused: [`Error::TooLarge`] for the codec or
    /// the limit, [`Error::BadFrame`] if it contains the delimiter.
    pub fn frame(&self, source: QDesc, codec: Codec) -> Result<QDesc, Error> {
        self.with_graph(|graph, libos, cx| {
            let (kind, depth) = graph.check_source(libos, source)?;
            if kind != QueueKind::Stream {
                return Err(Error::NeedsStream);
            }
            let frame = Box::new(Frame::new(&codec, cx.heap, graph.limits.frame_max_bytes)?);
            graph.add(Node::new(QueueKind::Message, depth, &[source], 1, Operator::Frame(frame)))
        })
    }

    /// Moves elements from one queue to another until one of them ends. Owns the pop side of `from` meanwhile;
    /// pushing to either and popping from `to` stay possible. Up to eight pushes are in flight, and no more is
    /// popped until one is done. From a message queue to a stream, and the other way, boundaries go or arise as
    /// with any push.
    ///
    /// How the token completes, and what becomes of the queues, which both stay open in any case:
    ///
    /// - `from` ends: [`Done::Moved`](crate::op::Done::Moved) with the number of elements, once their pushes are
    ///   done; then `to` is ended. A connection is half-closed, so that of two that are
    ///   connected both ways, as in a proxy, each passes on the other's end and goes on in the other direction; an
    ///   in-memory queue ends behind its last element; through an operator, its sources are ended; a file, log or
    ///   datagram socket stays as it is.
    /// - `from` fails, or is closed: with its error, or [`Error::Cancelled`], once the pushes are done; `to` is ended.
    /// - `to` fails a push: with that error. `from` stays as it is and may be popped again; pushes in flight
    ///   report to nobody. An element that `to` rejects, as a filter does, is dropped and counted instead.
    /// - `to` is closed: [`Error::Cancelled`], as when it fails.
    /// - The token is cancelled: [`Error::Cancelled`], once what was popped is pushed. Both stay as they are.
    pub fn qconnect(&self, from: QDesc, to: QDesc) -> Result<QToken, Error> {
        self.with_graph(|graph, libos, cx| {
            let kind = graph.kind(libos, from)?;
            graph.kind(libos, to)?;
            if graph.is_claimed(from) {
                return Err(Error::Claimed);
            }
            if from == to && from.tag() == Some(Tag::Graph) {
                return Err(Error::Invalid("a queue cannot feed itself"));
            }
            let token = cx.done.reserve(from, Owner::App)?;
            let mut node =
                Node::new(kind, 1, &[from], 0, Operator::Connect(Box::new(Connect::new(token, to))));
            node.hidden = true;
            let id = match graph.nodes.insert(Entry::Node(node)) {
                Ok(id) => id,
                Err(error) => {
                    cx.done.unreserve(token);
                    return Err(error);
                }
            };
            cx.done.relocate(token, id);
            graph.links.set_claimant(from, Some(id));
            graph.watch(to, id);
            graph.budget = SLICE;
            graph.pump(libos, cx, id, None);
            Ok(token)
        })
    }
}

impl Graph {
    /// Pops up to `count` elements of a message queue: it waits for the first, and takes others if they are there.
    pub(crate) fn pop_n<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        qd: QDesc,
        count: usize,
    ) -> Result<QToken, Error> {
        if self.kind(libos, qd)? != QueueKind::Message {
            return Err(Error::NeedsMessages);
        }
        if self.is_claimed(qd) {
            return Err(Error::Claimed);
        }
        let token = cx.done.reserve(qd, Owner::App)?;
        let mut node =
            Node::new(QueueKind::Message, 1, &[qd], 0, Operator::Batch(Box::new(Batch::new(token, count))));
        node.hidden = true;
        let id = match self.nodes.insert(Entry::Node(node)) {
            Ok(id) => id,
            Err(error) => {
                cx.done.unreserve(token);
                return Err(error);
            }
        };
        cx.done.relocate(token, id);
        self.watch(qd, id);
        self.budget = SLICE;
        self.pump(libos, cx, id, None);
        Ok(token)
    }

    /// Whether another queue can be derived from this one: its kind, and how deep that one will stand.
    fn check_source<L: LibOs>(&self, libos: &L, qd: QDesc) -> Result<(QueueKind, usize), Error> {
        let kind = self.kind(libos, qd)?;
        if self.is_claimed(qd) {
            return Err(Error::Claimed);
        }
        let below = match self.resolve(qd) {
            Ok((id, _)) => self.node(id)?.depth,
            Err(_) => 0,
        };
        if below >= MAX_DEPTH {
            return Err(Error::TooDeep(MAX_DEPTH));
        }
        Ok((kind, below + 1))
    }

    fn check_messages<L: LibOs>(&self, libos: &L, qd: QDesc) -> Result<usize, Error> {
        match self.check_source(libos, qd)? {
            (QueueKind::Message, depth) => Ok(depth),
            (QueueKind::Stream, _) => Err(Error::NeedsMessages),
        }
    }

    fn add_memory(&mut self, bound: usize) -> Result<QDesc, Error> {
        self.add(Node::new(QueueKind::Message, 0, &[], 1, Operator::Memory(Memory::new(bound))))
    }

    fn add_sort<L: LibOs>(
        &mut self,
        libos: &L,
        source: QDesc,
        lookahead: usize,
        compare: super::sort::Compare,
    ) -> Result<QDesc, Error> {
        let depth = self.check_messages(libos, source)?;
        let sort = Operator::Sort(Box::new(Sort::new(compare, lookahead)));
        self.add(Node::new(QueueKind::Message, depth, &[source], 1, sort))
    }

    /// Takes in a node that has checked its sources, and claims them.
    fn add(&mut self, node: Node) -> Result<QDesc, Error> {
        let sources: arrayvec::ArrayVec<QDesc, 2> = node.sources.iter().map(|source| source.qd).collect();
        let id = self.nodes.insert(Entry::Node(node))?;
        for source in sources {
            self.links.set_claimant(source, Some(id));
        }
        Ok(id)
    }
}
