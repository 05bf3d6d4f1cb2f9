//! Elements up: carrying out what nodes want.
//!
//! Invariants: a pop asked of a node is answered on the spot if its element is there. A turn does a bounded number
//! of steps, each with its own budget of elements, and nodes take turns. A closure that panics costs the element that
//! it was given and the operation that it ran for, no other.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::node::{Element, Next, Waiting};
use super::{Graph, SLICE};
use crate::desc::{QDesc, Tag};
use crate::error::Error;
use crate::libos::{Cx, LibOs};
use crate::op::{Done, Op, Step};
use crate::token::{Owner, QToken};

/// Results delivered, and nodes pumped, in one turn at the most.
const STEPS: usize = 64;

/// Ports of a node from here on are for pushes; those below name sources.
pub(super) const PUSH_PORT: u8 = 128;

impl Graph {
    /// Whether [`drain`](Graph::drain) has something to do.
    #[inline]
    pub(crate) fn wants_turn(&self, cx: &Cx<'_>) -> bool {
        cx.done.has_for_nodes() || !self.work.is_empty()
    }

    /// One turn: results for nodes, then nodes that have something left to do. Returns how many.
    #[inline(never)]
    pub(crate) fn drain<L: LibOs>(&mut self, libos: &mut L, cx: &mut Cx<'_>) -> usize {
        let mut steps = 0;
        while steps < STEPS
            && let Some((node, port, token, result)) = cx.done.take_node()
        {
            self.step(node, |graph| graph.deliver(libos, cx, node, port, token, result));
            steps += 1;
        }
        for _ in 0..self.work.len().min(STEPS) {
            let Some(id) = self.work.pop_front() else { break };
            if let Ok(node) = self.node_mut(id) {
                node.scheduled = false;
                self.step(id, |graph| drop(graph.pump(libos, cx, id, None)));
            }
            steps += 1;
        }
        steps
    }

    /// Runs a step of a node. When a closure panics in it, the node goes on with what is behind that in a later turn.
    fn step(&mut self, id: QDesc, run: impl FnOnce(&mut Graph)) {
        self.budget = SLICE;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(self))) {
            self.schedule(id);
            resume_unwind(panic);
        }
    }

    /// Begins an operation on any queue, within the budget of this go.
    pub(super) fn begin<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        token: QToken,
        qd: QDesc,
        op: &mut Op,
    ) -> Result<Step, Error> {
        if qd.tag() != Some(Tag::Graph) {
            return libos.start(cx, token, qd, op);
        }
        match catch_unwind(AssertUnwindSafe(|| match op {
            Op::Pop { limit } => self.begin_pop(libos, cx, token, qd, *limit),
            Op::Push { .. } => self.begin_push(libos, cx, token, qd, op),
            Op::Flush => self.begin_flush(libos, cx, token, qd, op),
            Op::Accept | Op::Connect(_) => {
                self.resolve(qd).and(Err(Error::NotSupported("operators are not sockets")))
            }
            Op::Atomic { .. } => {
                let why = "an atomic operation goes to a region itself, not to a queue made of it";
                self.resolve(qd).and(Err(Error::NotSupported(why)))
            }
        })) {
            Ok(step) => step,
            Err(panic) => {
                self.withdraw(cx, token, qd);
                resume_unwind(panic)
            }
        }
    }

    fn begin_pop<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        token: QToken,
        qd: QDesc,
        limit: usize,
    ) -> Result<Step, Error> {
        let (id, output) = self.resolve(qd)?;
        self.node_mut(id)?.outputs[output].waiting.push_back(Waiting { token, limit });
        Ok(self.pump(libos, cx, id, Some(token)).map_or(Step::Pending, Step::Done))
    }

    /// Whoever was to get this token is unwinding: nobody waits for it.
    fn withdraw(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc) {
        cx.done.unreserve(token);
        if let Ok((id, output)) = self.resolve(qd)
            && let Ok(node) = self.node_mut(id)
            && let Some(output) = node.outputs.get_mut(output)
        {
            output.waiting.retain(|pop| pop.token != token);
        }
    }

    /// Does what a node wants until it wants no more. A result for `caller` is returned, any other posted.
    pub(super) fn pump<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        id: QDesc,
        caller: Option<QToken>,
    ) -> Option<Result<Done, Error>> {
        let mut answer = None;
        while let Ok(node) = self.node_mut(id) {
            match node.next(cx.heap) {
                Next::Idle => break,
                Next::Post(token, result) if Some(token) == caller => answer = Some(result),
                Next::Post(token, result) => cx.done.post(token, result),
                Next::Ask(_) if self.budget == 0 => {
                    self.schedule(id);
                    break;
                }
                Next::Ask(port) => {
                    self.budget -= 1;
                    if let Some(element) = self.ask(libos, cx, id, port) {
                        self.accept(cx, id, port, element);
                    }
                }
                Next::Retract => self.retract(libos, cx, id),
                Next::Forward(sga) => self.forward(libos, cx, id, sga),
                Next::Finish => self.finish(libos, cx, id),
            }
        }
        answer
    }

    /// Pops from a source. `None`: its element will be delivered.
    fn ask<L: LibOs>(&mut self, libos: &mut L, cx: &mut Cx<'_>, id: QDesc, port: usize) -> Option<Element> {
        let source = &self.node(id).ok()?.sources[port];
        if !source.open {
            return Some(Err(Error::Cancelled));
        }
        let qd = source.qd;
        let token = match cx.done.reserve(qd, Owner::Node { node: id, port: port as u8 }) {
            Ok(token) => token,
            Err(error) => return Some(Err(error)),
        };
        let result = match self.begin(libos, cx, token, qd, &mut Op::Pop { limit: usize::MAX }) {
            Ok(Step::Pending) => {
                self.node_mut(id).ok()?.sources[port].pop = Some(token);
                return None;
            }
            Ok(Step::Done(result)) => result,
            Err(error) => Err(error),
        };
        cx.done.unreserve(token);
        Some(element(result))
    }

    fn accept(&mut self, cx: &mut Cx<'_>, id: QDesc, port: usize, element: Element) {
        if let Ok(node) = self.node_mut(id) {
            self.dropped += node.accept(cx.heap, port, element);
        }
    }

    /// A result for a node. One that the node is not waiting for is for a node that had this number before.
    fn deliver<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        id: QDesc,
        port: u8,
        token: QToken,
        result: Result<Done, Error>,
    ) {
        let Ok(node) = self.node_mut(id) else { return };
        if port >= PUSH_PORT {
            self.dropped += node.push_done(token, result);
        } else {
            let port = usize::from(port);
            match node.sources.get_mut(port) {
                Some(source) if source.pop == Some(token) => source.pop = None,
                Some(_) | None => return,
            }
            self.accept(cx, id, port, element(result));
        }
        self.pump(libos, cx, id, None);
    }
}

fn element(result: Result<Done, Error>) -> Element {
    match result? {
        Done::Popped(sga) => Ok(sga),
        _ => Err(Error::Invalid("the queue answered a pop with something else")),
    }
}
