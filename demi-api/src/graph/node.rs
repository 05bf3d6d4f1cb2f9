//! What every operator is made of: sources it pops from, outputs it is popped at, and the operator itself.
//!
//! Invariants: at most one pop is outstanding at each source. An element that arrives is kept in an output until
//! somebody pops it, whoever waited when it was asked for. A node says what comes [`Next`]; it never calls anybody.
//! Not in here: who carries that out (`pump`), and how pushes go down (`push`).

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use demi_memalloc::Heap;

use super::batch::Batch;
use super::connect::Connect;
use super::filter::Filter;
use super::frame::Frame;
use super::map::Map;
use super::memory::Memory;
use super::merge::Merge;
use super::partition::Partition;
use super::sort::Sort;
use crate::desc::QDesc;
use crate::error::Error;
use crate::libos::QueueKind;
use crate::op::Done;
use crate::sga::SgArray;
use crate::token::QToken;

/// What a source yielded: an element, or why there is none.
pub(super) type Element = Result<SgArray, Error>;

/// What a graph descriptor stands for.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are nodes")]
pub(super) enum Entry {
    Node(Node),
    /// One of several outputs of a node that has a hidden number of its own.
    Side {
        of: QDesc,
        output: usize,
    },
}

pub(super) struct Node {
    pub(super) kind: QueueKind,
    /// Operators on the longest way down to a base queue, this one included.
    pub(super) depth: usize,
    /// Its number is not a descriptor of the application's.
    pub(super) hidden: bool,
    /// It is in the graph's list of work.
    pub(super) scheduled: bool,
    /// The next in the list of nodes that are to be told when some queue closes.
    pub(super) next_watcher: Option<QDesc>,
    pub(super) sources: ArrayVec<Source, 2>,
    pub(super) outputs: ArrayVec<Output, 2>,
    pub(super) operator: Operator,
}

pub(super) enum Operator {
    Memory(Memory),
    Merge(Box<Merge>),
    Filter(Filter),
    Partition(Box<Partition>),
    Map(Map),
    Sort(Box<Sort>),
    Frame(Box<Frame>),
    Connect(Box<Connect>),
    Batch(Box<Batch>),
}

/// What a node wants done.
pub(super) enum Next {
    /// Nothing, until something arrives.
    Idle,
    /// An operation asked of it is finished.
    Post(QToken, Result<Done, Error>),
    /// Pop from this source.
    Ask(usize),
    /// Recall the pop that is outstanding at its first source.
    Retract,
    /// Push this element to where it connects.
    Forward(SgArray),
    /// It has come to its end.
    Finish,
}

impl Node {
    pub(super) fn new(
        kind: QueueKind,
        depth: usize,
        sources: &[QDesc],
        outputs: usize,
        operator: Operator,
    ) -> Node {
        Node {
            kind,
            depth,
            hidden: false,
            scheduled: false,
            next_watcher: None,
            sources: sources.iter().map(|qd| Source { qd: *qd, pop: None, open: true }).collect(),
            outputs: (0..outputs).map(|_| Output::new()).collect(),
            operator,
        }
    }

    pub(super) fn next(&mut self, heap: &Heap) -> Next {
        let Node { kind, sources, outputs, operator, .. } = self;
        match operator {
            Operator::Memory(memory) => memory.next(&mut outputs[0]),
            Operator::Merge(merge) => merge.next(*kind, sources, &mut outputs[0]),
            Operator::Filter(_) | Operator::Map(_) => outputs[0].serve_or_ask(*kind, &sources[0]),
            Operator::Partition(partition) => partition.next(&sources[0], outputs),
            Operator::Sort(sort) => sort.next(&sources[0], &mut outputs[0]),
            Operator::Frame(frame) => frame.next(heap, &sources[0], &mut outputs[0]),
            Operator::Connect(connect) => connect.next(&sources[0]),
            Operator::Batch(batch) => batch.next(&sources[0]),
        }
    }

    /// Takes in what source `port` yielded. Returns how many elements were dropped.
    pub(super) fn accept(&mut self, heap: &Heap, port: usize, element: Element) -> u64 {
        let Node { kind, sources, outputs, operator, .. } = self;
        match operator {
            Operator::Memory(_) => unreachable!("an in-memory queue has no source"),
            Operator::Merge(merge) => merge.accept(*kind, port, element, &mut outputs[0]),
            Operator::Filter(filter) => return filter.accept(element, &mut outputs[0]),
            Operator::Partition(partition) => return partition.accept(element, outputs),
            Operator::Map(map) => map.accept(heap, *kind, element, &mut outputs[0]),
            Operator::Sort(sort) => sort.accept(element),
            Operator::Frame(frame) => frame.accept(element, &mut outputs[0]),
            Operator::Connect(connect) => return connect.accept(*kind, sources[0].open, element),
            Operator::Batch(batch) => batch.accept(element),
        }
        0
    }
}

/// A queue that a node pops from.
pub(super) struct Source {
    pub(super) qd: QDesc,
    /// The outstanding pop.
    pub(super) pop: Option<QToken>,
    /// False once the queue was closed: its number may be another's.
    pub(super) open: bool,
}

/// A pop that waits.
pub(super) struct Waiting {
    pub(super) token: QToken,
    /// Most bytes to give it, on a stream.
    pub(super) limit: usize,
}

/// Where a node is popped.
pub(super) struct Output {
    /// Oldest first.
    pub(super) ready: VecDeque<Element>,
    /// Oldest first; served only in this order.
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) open: bool,
}

impl Output {
    fn new() -> Output {
        Output { ready: VecDeque::new(), waiting: VecDeque::new(), open: true }
    }

    /// Gives the oldest element to the oldest pop.
    pub(super) fn serve(&mut self, kind: QueueKind) -> Option<Next> {
        let limit = self.waiting.front()?.limit;
        let element = match (kind, self.ready.front_mut()?) {
            (QueueKind::Stream, Ok(sga)) if sga.len() > limit => Ok(sga.split_to(limit)),
            (QueueKind::Stream | QueueKind::Message, _) => self.ready.pop_front()?,
        };
        self.answer(element)
    }

    /// Gives `element` to the oldest pop.
    pub(super) fn answer(&mut self, element: Element) -> Option<Next> {
        let waiting = self.waiting.pop_front()?;
        Some(Next::Post(waiting.token, element.map(Done::Popped)))
    }

    /// The whole of a node that hands on what its one source yields.
    fn serve_or_ask(&mut self, kind: QueueKind, source: &Source) -> Next {
        if let Some(next) = self.serve(kind) {
            return next;
        }
        if self.waiting.is_empty() || source.pop.is_some() { Next::Idle } else { Next::Ask(0) }
    }
}
