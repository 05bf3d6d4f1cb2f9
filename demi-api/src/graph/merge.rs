//! `merge(a, b)`: popped from either, pushed to both.
//!
//! Invariants: when both have elements, they take turns. A source that has ended is not popped again. A push
//! completes when both branches did, and pushes complete in the order in which they were started.

use std::collections::VecDeque;

use super::node::{Element, Next, Output, Source};
use crate::error::Error;
use crate::libos::QueueKind;
use crate::op::{Done, Position};
use crate::sga::SgArray;
use crate::token::QToken;

#[derive(Default)]
pub(super) struct Merge {
    /// The source to be asked first.
    turn: usize,
    ends: [Option<End>; 2],
    /// Pushes that a branch still works on, and those behind them, oldest first.
    pub(super) pushes: VecDeque<Forked>,
    /// It was closed, and is only there for its pushes.
    pub(super) closing: bool,
}

/// How a source ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It said so itself.
    Said,
    /// It was closed under the merged queue.
    Closed,
}

/// A push on its way to both sources.
pub(super) struct Forked {
    pub(super) token: QToken,
    pub(super) branches: [Branch; 2],
}

pub(super) enum Branch {
    Pending(QToken),
    Done(Result<Position, Error>),
}

impl Merge {
    pub(super) fn next(&mut self, kind: QueueKind, sources: &[Source], output: &mut Output) -> Next {
        if let Some(push) = self.pushes.front()
            && let Some(result) = push.result(sources)
        {
            let token = push.token;
            self.pushes.pop_front();
            return Next::Post(token, result);
        }
        if self.closing {
            return if self.pushes.is_empty() { Next::Finish } else { Next::Idle };
        }
        if let Some(next) = output.serve(kind) {
            return next;
        }
        if output.waiting.is_empty() {
            return Next::Idle;
        }
        if let [Some(a), Some(b)] = self.ends {
            let end = match kind {
                _ if a == End::Closed && b == End::Closed => Err(Error::Cancelled),
                QueueKind::Stream => Ok(SgArray::new()),
                QueueKind::Message => Err(Error::EndOfStream),
            };
            return output.answer(end).unwrap_or(Next::Idle);
        }
        let can_ask = |port: &usize| self.ends[*port].is_none() && sources[*port].pop.is_none();
        [self.turn, 1 - self.turn].into_iter().find(can_ask).map_or(Next::Idle, Next::Ask)
    }

    pub(super) fn accept(&mut self, kind: QueueKind, port: usize, element: Element, output: &mut Output) {
        self.turn = 1 - port;
        match element {
            Ok(sga) if kind == QueueKind::Stream && sga.is_empty() => self.ends[port] = Some(End::Said),
            Err(Error::EndOfStream) => self.ends[port] = Some(End::Said),
            Err(Error::Cancelled) => self.ends[port] = Some(End::Closed),
            Ok(sga) => output.ready.push_back(Ok(sga)),
            Err(error) => {
                if is_final(&error) {
                    self.ends[port] = Some(End::Said);
                }
                output.ready.push_back(Err(error));
            }
        }
    }

    /// Notes how a branch of a push ended. Branches complete in order, so the search ends at the first or so.
    pub(super) fn branch_done(&mut self, token: QToken, result: Result<Position, Error>) {
        let branches = self.pushes.iter_mut().flat_map(|push| push.branches.iter_mut());
        let mut pending = branches.filter(|branch| matches!(branch, Branch::Pending(its) if *its == token));
        if let Some(branch) = pending.next() {
            *branch = Branch::Done(result);
        }
    }
}

impl Forked {
    /// `None` while a branch is pending.
    pub(super) fn result(&self, sources: &[Source]) -> Option<Result<Done, Error>> {
        let [Branch::Done(a), Branch::Done(b)] = &self.branches else { return None };
        Some(match (a, b) {
            (Ok(position), Ok(_)) => Ok(Done::Pushed(*position)),
            (Err(cause), _) => Err(branch_error(&sources[0], cause.clone())),
            (Ok(_), Err(cause)) => Err(branch_error(&sources[1], cause.clone())),
        })
    }
}

pub(super) fn branch_error(source: &Source, cause: Error) -> Error {
    Error::Branch { qd: source.qd, cause: Box::new(cause) }
}

/// Whether a source that failed a pop in this way will only fail further ones.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::BadDescriptor
            | Error::Truncated
            | Error::BadFrame(_)
            | Error::ConnectionReset
            | Error::ConnectionAborted
            | Error::Closed
            | Error::NotConnected
    )
}
