//! Cancelling, ending and closing.
//!
//! Invariants: a descriptor that is closed is forgotten by everything that named it before its number can be
//! another's. What is closed with a queue, is closed without recursion.

use super::node::{Entry, Node, Operator, Output};
use super::{Graph, SLICE};
use crate::desc::{QDesc, Tag};
use crate::error::Error;
use crate::libos::{Cx, LibOs, QueueKind, Shutdown};
use crate::op::{Completion, Done};
use crate::token::{Owner, QToken};

impl Graph {
    /// Recalls an operation that is at a graph queue, or is a `qconnect` or a `pop_n`.
    pub(crate) fn cancel<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        token: QToken,
        at: QDesc,
    ) -> Result<(), Error> {
        let (id, output) = match self.nodes.get(at) {
            Ok(Entry::Side { of, output }) => (*of, *output),
            Ok(Entry::Node(_)) => (at, 0),
            Err(_) => return Err(Error::NotCancellable),
        };
        let Node { outputs, operator, sources, .. } = self.node_mut(id)?;
        match operator {
            Operator::Connect(connect) if connect.token == token => {
                connect.cancel();
                self.budget = SLICE;
                self.pump(libos, cx, id, None);
                return Ok(());
            }
            Operator::Batch(batch) if batch.token == token => {
                let waits = batch.taken.is_empty() && sources[0].pop.is_some();
                if !waits {
                    return Err(Error::NotCancellable);
                }
                self.retract(libos, cx, id);
                let node = self.node(id)?;
                if node.sources[0].pop.is_some() {
                    return Err(Error::NotCancellable);
                }
                self.remove_ephemeral(id);
                cx.done.post(token, Err(Error::Cancelled));
                return Ok(());
            }
            Operator::Memory(memory) => {
                if let Some(index) = memory.blocked.iter().position(|(pending, _)| *pending == token) {
                    memory.blocked.remove(index);
                    cx.done.post(token, Err(Error::Cancelled));
                    return Ok(());
                }
            }
            _ => {}
        }
        let Some(Output { waiting, .. }) = outputs.get_mut(output) else { return Err(Error::NotCancellable) };
        let index = waiting.iter().position(|pop| pop.token == token).ok_or(Error::NotCancellable)?;
        waiting.remove(index);
        cx.done.post(token, Err(Error::Cancelled));
        Ok(())
    }

    /// Closes a graph queue, and its sources with it.
    pub(crate) fn close<L: LibOs>(&mut self, libos: &mut L, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error> {
        self.resolve(qd)?;
        let mut doomed = vec![qd];
        while let Some(qd) = doomed.pop() {
            self.forget(qd);
            if qd.tag() == Some(Tag::Graph) {
                self.close_one(cx, qd, &mut doomed);
            } else {
                // It was open: nobody else could have closed it without this node's being told.
                let _ = libos.close(cx, qd);
            }
        }
        self.drain(libos, cx);
        Ok(())
    }

    /// The application has closed a base queue, whose number may be another's from now on.
    pub(crate) fn source_closed<L: LibOs>(&mut self, libos: &mut L, cx: &mut Cx<'_>, qd: QDesc) {
        if self.forget(qd) {
            self.drain(libos, cx);
        }
    }

    /// Ends a direction of a graph queue.
    pub(crate) fn shutdown<L: LibOs>(
        &mut self,
        libos: &mut L,
        cx: &mut Cx<'_>,
        qd: QDesc,
        how: Shutdown,
    ) -> Result<(), Error> {
        self.resolve(qd)?;
        match how {
            Shutdown::Write => self.end(libos, cx, qd),
            Shutdown::Read | Shutdown::Both => {
                Err(Error::NotSupported("close() ends the pops of an operator"))
            }
        }
    }

    /// Ends the pushing side of a queue, which may be any: a connection's peer sees the end of the stream, the pops
    /// of an in-memory queue find the end behind its last element. Base queues without an end stay as they are.
    fn end<L: LibOs>(&mut self, libos: &mut L, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error> {
        let mut ending = vec![qd];
        let mut result = Ok(());
        while let Some(qd) = ending.pop() {
            if qd.tag() != Some(Tag::Graph) {
                let ended = libos.shutdown(cx, qd, Shutdown::Write);
                // Datagrams and logs have no end; connections do, whether they keep boundaries or not.
                let is_message = libos.kind(qd)? == QueueKind::Message;
                match ended {
                    Err(Error::NotSupported(_) | Error::NotConnected) if is_message => {}
                    ended => result = result.and(ended),
                }
                continue;
            }
            let (id, _) = self.resolve(qd)?;
            let node = self.node_mut(id)?;
            ending.extend(node.sources.iter().filter(|source| source.open).map(|source| source.qd));
            if let Operator::Memory(memory) = &mut node.operator {
                memory.ended = true;
                self.schedule(id);
            }
        }
        result
    }

    /// Recalls the pop that is outstanding at a node's first source, if that is possible without a loss.
    pub(super) fn retract<L: LibOs>(&mut self, libos: &mut L, cx: &mut Cx<'_>, id: QDesc) {
        let Ok(Node { sources, .. }) = self.node(id) else { return };
        let (Some(pop), qd) = (sources[0].pop, sources[0].qd) else { return };
        let recalled = cx.done.is_pending(pop) == Ok(true)
            && match qd.tag() {
                Some(Tag::Graph) => self.cancel(libos, cx, pop, qd).is_ok(),
                Some(Tag::First | Tag::Second) | None => libos.cancel(cx, pop, qd).is_ok(),
            };
        if recalled {
            // What was posted says no more than is known here.
            let _ = cx.done.give_to(pop, Owner::Discard);
        }
        let Ok(Node { sources, operator, .. }) = self.node_mut(id) else { return };
        if recalled {
            sources[0].pop = None;
        }
        match operator {
            Operator::Batch(batch) => batch.settled = true,
            Operator::Connect(connect) => connect.stuck = !recalled,
            _ => {}
        }
    }

    /// A node has come to its end by itself.
    pub(super) fn finish<L: LibOs>(&mut self, libos: &mut L, cx: &mut Cx<'_>, id: QDesc) {
        let Some(node) = self.remove_ephemeral(id) else { return };
        match node.operator {
            Operator::Connect(connect) => {
                if connect.propagates && connect.to_open {
                    // What has no end has none to be told of.
                    let _ = self.end(libos, cx, connect.to);
                }
                cx.done.post(connect.token, connect.result());
            }
            Operator::Batch(batch) => cx.done.post(batch.token, batch.result()),
            _ => {}
        }
    }

    /// Takes out a node that is no queue of the application's, and whatever names it.
    fn remove_ephemeral(&mut self, id: QDesc) -> Option<Node> {
        let Ok(Entry::Node(node)) = self.nodes.remove(id) else { return None };
        match &node.operator {
            Operator::Connect(connect) => {
                let source = &node.sources[0];
                if source.open {
                    self.links.set_claimant(source.qd, None);
                }
                self.unwatch(connect.to, id, node.next_watcher);
            }
            Operator::Batch(_) => self.unwatch(node.sources[0].qd, id, node.next_watcher),
            _ => {}
        }
        Some(node)
    }

    /// Closes one graph queue; adds what is to be closed with it to `doomed`.
    fn close_one(&mut self, cx: &mut Cx<'_>, qd: QDesc, doomed: &mut Vec<QDesc>) {
        let id = match self.nodes.get(qd) {
            Ok(Entry::Node(_)) => qd,
            Ok(Entry::Side { of, output }) => {
                let (id, output) = (*of, *output);
                let _ = self.nodes.remove(qd);
                let Ok(node) = self.node_mut(id) else { return };
                let dropped = node.outputs[output].close(cx);
                let last = node.outputs.iter().all(|output| !output.open);
                self.dropped += dropped;
                if !last {
                    // The other side may have waited for room in this one.
                    self.schedule(id);
                    return;
                }
                id
            }
            Err(_) => return,
        };
        let Ok(node) = self.node_mut(id) else { return };
        let mut dropped: u64 = node.outputs.iter_mut().map(|output| output.close(cx)).sum();
        let mut lingers = false;
        match &mut node.operator {
            Operator::Memory(memory) => {
                for (token, _) in memory.blocked.drain(..) {
                    cx.done.post(token, Err(Error::Cancelled));
                }
            }
            Operator::Sort(sort) => dropped += sort.held() as u64,
            Operator::Merge(merge) => {
                merge.closing = true;
                lingers = !merge.pushes.is_empty();
            }
            _ => {}
        }
        node.hidden = true;
        let mut freed = [None; 2];
        for (source, freed) in node.sources.iter_mut().zip(&mut freed) {
            if let Some(pop) = source.pop.take() {
                dropped += u64::from(discard(cx, pop));
            }
            if std::mem::replace(&mut source.open, false) {
                *freed = Some(source.qd);
            }
        }
        self.dropped += dropped;
        for qd in freed.into_iter().flatten() {
            self.links.set_claimant(qd, None);
            doomed.push(qd);
        }
        if !lingers {
            let _ = self.nodes.remove(id);
        }
    }

    /// Tells every node that names a queue that it is gone. Returns whether there was one.
    fn forget(&mut self, qd: QDesc) -> bool {
        let claimant = self.links.claimant(qd);
        let mut watcher = self.links.watcher(qd);
        let told = claimant.is_some() || watcher.is_some();
        if let Some(id) = claimant {
            self.links.set_claimant(qd, None);
            self.source_is_gone(id, qd);
        }
        if watcher.is_some() {
            self.links.set_watcher(qd, None);
        }
        while let Some(id) = watcher {
            let Ok(node) = self.node_mut(id) else { break };
            watcher = node.next_watcher.take();
            match &mut node.operator {
                Operator::Connect(connect) => {
                    let dropped = connect.sink_fails(Error::Cancelled);
                    self.dropped += dropped;
                    self.schedule(id);
                }
                _ => self.source_is_gone(id, qd),
            }
        }
        told
    }

    fn source_is_gone(&mut self, id: QDesc, qd: QDesc) {
        let Ok(node) = self.node_mut(id) else { return };
        for source in &mut node.sources {
            if source.qd == qd {
                source.open = false;
            }
        }
        self.schedule(id);
    }

    /// Has the node told when `qd` closes.
    pub(super) fn watch(&mut self, qd: QDesc, id: QDesc) {
        let next = self.links.watcher(qd);
        if let Ok(node) = self.node_mut(id) {
            node.next_watcher = next;
            self.links.set_watcher(qd, Some(id));
        }
    }

    /// Takes a node, which is gone already, out of a list that `next` goes on.
    fn unwatch(&mut self, qd: QDesc, id: QDesc, next: Option<QDesc>) {
        let mut at = self.links.watcher(qd);
        if at == Some(id) {
            self.links.set_watcher(qd, next);
            return;
        }
        while let Some(Ok(node)) = at.map(|at| self.node_mut(at)) {
            if node.next_watcher == Some(id) {
                node.next_watcher = next;
                return;
            }
            at = node.next_watcher;
        }
    }
}

/// Forgets a pop of a node that is gone. Returns whether an element is lost with it: one that it had yielded already.
fn discard(cx: &mut Cx<'_>, pop: QToken) -> bool {
    if cx.done.is_pending(pop) != Ok(false) {
        let _ = cx.done.give_to(pop, Owner::Discard);
        return false;
    }
    let _ = cx.done.give_to(pop, Owner::App);
    let done = cx.done.take(pop);
    matches!(done, Ok(Some(Completion { result: Ok(Done::Popped(_)), .. })))
}

impl Output {
    /// Ends what waits; returns how many elements were dropped.
    fn close(&mut self, cx: &mut Cx<'_>) -> u64 {
        for pop in std::mem::take(&mut self.waiting) {
            cx.done.post(pop.token, Err(Error::Cancelled));
        }
        self.open = false;
        std::mem::take(&mut self.ready).iter().filter(|element| element.is_ok()).count() as u64
    }
}
