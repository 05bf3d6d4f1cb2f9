//! Pushes down: through operators that change or refuse them, to the queue that takes them.
//!
//! Invariants: a push that is refused leaves the caller's array as it was. One that is taken is the base queue's,
//! under the caller's own token; only a merged queue, which has two bases, keeps an account of it.

use super::Graph;
use super::merge::{Branch, Forked, branch_error};
use super::node::{Node, Operator};
use super::partition::YES;
use super::pump::PUSH_PORT;
use crate::desc::{QDesc, Tag};
use crate::error::Error;
use crate::libos::{Cx, LibOs};
use crate::op::{Done, Op, Position, Step};
use crate::sga::SgArray;
use crate::token::{Owner, QToken};

impl Graph {
    /// Begins a push on a graph queue.
    pub(super) fn begin_push<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        token: QToken,
        qd: QDesc,
        op: &mut Op,
    ) -> Result<Step, Error> {
        let mut original = None;
        let step = self.push_down(libos, cx, token, qd, op, &mut original);
        if step.is_err()
            && let (Some(original), Op::Push { sga, .. }) = (original, op)
        {
            *sga = original;
        }
        step
    }

    fn push_down<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        token: QToken,
        mut qd: QDesc,
        op: &mut Op,
        original: &mut Option<SgArray>,
    ) -> Result<Step, Error> {
        while qd.tag() == Some(Tag::Graph) {
            let (id, output) = self.resolve(qd)?;
            let Op::Push { sga, to } = op else { return Err(Error::Invalid("not a push")) };
            let Node { kind: _, sources, outputs, operator, .. } = self.node_mut(id)?;
            let source = match sources.first() {
                Some(source) if !source.open && sources.len() == 1 => return Err(Error::Cancelled),
                source => source.map(|source| source.qd),
            };
            match operator {
                Operator::Memory(memory) => {
                    if memory.ended {
                        return Err(Error::Closed);
                    }
                    if to.is_some() {
                        return Err(Error::NotSupported("an in-memory queue has no addresses to push to"));
                    }
                    let sga = std::mem::take(sga);
                    if !memory.has_room(&outputs[0]) {
                        memory.blocked.push_back((token, sga));
                        cx.done.relocate(token, id);
                        return Ok(Step::Pending);
                    }
                    outputs[0].ready.push_back(Ok(sga));
                    self.pump(libos, cx, id, None);
                    return Ok(Step::Done(Ok(Done::Pushed(Position::default()))));
                }
                Operator::Merge(_) => return self.fork(libos, cx, token, id, op),
                Operator::Filter(filter) => {
                    if !(filter.predicate)(sga) {
                        return Ok(Step::Done(Err(Error::Rejected)));
                    }
                }
                Operator::Partition(partition) => {
                    if (partition.predicate)(sga) != (output == YES) {
                        return Ok(Step::Done(Err(Error::Rejected)));
                    }
                }
                Operator::Map(map) => {
                    original.get_or_insert_with(|| sga.clone());
                    match (map.on_push)(cx.heap, std::mem::take(sga)) {
                        Ok(changed) => *sga = changed,
                        Err(error) => return Ok(Step::Done(Err(error))),
                    }
                }
                Operator::Frame(frame) if !frame.encodes() => {}
                Operator::Frame(frame) => {
                    original.get_or_insert_with(|| sga.clone());
                    frame.encode(cx.heap, sga)?;
                }
                Operator::Sort(_) => {}
                Operator::Connect(_) | Operator::Batch(_) => return Err(Error::BadDescriptor),
            }
            let Some(source) = source else { return Err(Error::BadDescriptor) };
            qd = source;
        }
        let step = libos.start(cx, token, qd, op)?;
        if let Step::Pending = step {
            cx.done.relocate(token, qd);
        }
        Ok(step)
    }

    /// Pushes to both sources of a merged queue.
    fn fork<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        token: QToken,
        id: QDesc,
        op: &mut Op,
    ) -> Result<Step, Error> {
        let mut refused = [false; 2];
        let mut branches = [const { Branch::Done(Err(Error::Cancelled)) }; 2];
        for port in 0..2 {
            (branches[port], refused[port]) = self.branch(libos, cx, id, port, op);
        }
        let Node { sources, operator, .. } = self.node_mut(id)?;
        let Operator::Merge(merge) = operator else { return Err(Error::BadDescriptor) };
        if let ([true, true], [Branch::Done(Err(cause)), _]) = (refused, &branches) {
            return Err(branch_error(&sources[0], cause.clone()));
        }
        let push = Forked { token, branches };
        if merge.pushes.is_empty()
            && let Some(result) = push.result(sources)
        {
            return Ok(Step::Done(result));
        }
        merge.pushes.push_back(push);
        cx.done.relocate(token, id);
        Ok(Step::Pending)
    }

    /// Pushes to one source of a merged queue; also whether it was refused.
    fn branch<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        id: QDesc,
        port: usize,
        op: &Op,
    ) -> (Branch, bool) {
        let (Ok(node), Op::Push { sga, to }) = (self.node(id), op) else {
            return (Branch::Done(Err(Error::BadDescriptor)), true);
        };
        if !node.sources[port].open {
            return (Branch::Done(Err(Error::Cancelled)), true);
        }
        let qd = node.sources[port].qd;
        let token = match cx.done.reserve(qd, Owner::Node { node: id, port: PUSH_PORT }) {
            Ok(token) => token,
            Err(error) => return (Branch::Done(Err(error)), true),
        };
        let mut op = Op::Push { sga: sga.clone(), to: to.clone() };
        let (branch, refused) = match self.begin(libos, cx, token, qd, &mut op) {
            Ok(Step::Pending) => return (Branch::Pending(token), false),
            Ok(Step::Done(result)) => (Branch::Done(result.map(position)), false),
            Err(error) => (Branch::Done(Err(error)), true),
        };
        cx.done.unreserve(token);
        (branch, refused)
    }

    /// Pushes an element that a `qconnect` has popped.
    pub(super) fn forward<L: LibOs>(&mut self, libos: &mut L, cx: &mut Cx<'_>, id: QDesc, sga: SgArray) {
        let to = match self.node(id) {
            Ok(Node { operator: Operator::Connect(connect), .. }) if connect.to_open => connect.to,
            Ok(_) | Err(_) => {
                self.dropped += 1;
                return;
            }
        };
        let (token, result) = match cx.done.reserve(to, Owner::Node { node: id, port: PUSH_PORT }) {
            Ok(token) => {
                let step = self.begin(libos, cx, token, to, &mut Op::Push { sga, to: None });
                match step {
                    Ok(Step::Pending) => (Some(token), None),
                    Ok(Step::Done(result)) => {
                        cx.done.unreserve(token);
                        (None, Some(result))
                    }
                    Err(error) => {
                        cx.done.unreserve(token);
                        (None, Some(Err(error)))
                    }
                }
            }
            Err(error) => (None, Some(Err(error))),
        };
        let Ok(Node { operator: Operator::Connect(connect), .. }) = self.node_mut(id) else { return };
        match (token, result) {
            (Some(token), _) => connect.push_pending(token),
            (None, Some(result)) => self.dropped += connect.push_done(None, result.map(position)),
            (None, None) => {}
        }
    }

    /// Has the base queue make durable what was pushed.
    pub(super) fn begin_flush<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        token: QToken,
        mut qd: QDesc,
        op: &mut Op,
    ) -> Result<Step, Error> {
        while qd.tag() == Some(Tag::Graph) {
            let (id, _) = self.resolve(qd)?;
            qd = match &self.node(id)?.sources[..] {
                [source] if source.open => source.qd,
                [_] => return Err(Error::Cancelled),
                _ => return Err(Error::NotSupported("flush of a queue without one base")),
            };
        }
        let step = libos.start(cx, token, qd, op)?;
        if let Step::Pending = step {
            cx.done.relocate(token, qd);
        }
        Ok(step)
    }
}

impl Node {
    /// A push of the node's own met its fate. Returns how many elements were dropped.
    pub(super) fn push_done(&mut self, token: QToken, result: Result<Done, Error>) -> u64 {
        let result = result.map(position);
        match &mut self.operator {
            Operator::Merge(merge) => merge.branch_done(token, result),
            Operator::Connect(connect) => return connect.push_done(Some(token), result),
            _ => {}
        }
        0
    }
}

fn position(done: Done) -> Position {
    match done {
        Done::Pushed(position) => position,
        _ => Position::default(),
    }
}
