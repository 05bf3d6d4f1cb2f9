//! `qconnect(from, to)`: elements moved from one queue to another, until one of them ends.
//!
//! Invariants: at most [`WINDOW`] pushes are in flight, and nothing is popped that could not be pushed at once. It
//! ends only when every element it has popped has met its fate.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use super::node::{Element, Next, Source};
use crate::desc::QDesc;
use crate::error::Error;
use crate::libos::QueueKind;
use crate::op::{Done, Position};
use crate::sga::SgArray;
use crate::token::QToken;

/// Pushes in flight at the most.
pub(super) const WINDOW: usize = 8;

pub(super) struct Connect {
    pub(super) token: QToken,
    pub(super) to: QDesc,
    /// False once `to` was closed: its number may be another's.
    pub(super) to_open: bool,
    in_flight: ArrayVec<QToken, WINDOW>,
    /// Popped, and next to be pushed.
    held: VecDeque<SgArray>,
    moved: u64,
    /// How it is going to end: `Ok` because the source did.
    end: Option<Result<(), Error>>,
    /// Whether `to` is ended with it.
    pub(super) propagates: bool,
    /// The outstanding pop could not be recalled: its element is waited for.
    pub(super) stuck: bool,
}

impl Connect {
    pub(super) fn new(token: QToken, to: QDesc) -> Connect {
        Connect {
            token,
            to,
            to_open: true,
            in_flight: ArrayVec::new(),
            held: VecDeque::new(),
            moved: 0,
            end: None,
            propagates: false,
            stuck: false,
        }
    }

    pub(super) fn next(&mut self, source: &Source) -> Next {
        let room = !self.in_flight.is_full();
        if room && let Some(sga) = self.held.pop_front() {
            return Next::Forward(sga);
        }
        match (&self.end, source.pop) {
            (None, None) if room => Next::Ask(0),
            (None, _) => Next::Idle,
            (Some(_), Some(_)) if !self.stuck => Next::Retract,
            (Some(_), Some(_)) => Next::Idle,
            (Some(_), None) if self.in_flight.is_empty() && self.held.is_empty() => Next::Finish,
            (Some(_), None) => Next::Idle,
        }
    }

    /// Returns how many elements were dropped.
    pub(super) fn accept(&mut self, kind: QueueKind, source_open: bool, element: Element) -> u64 {
        match element {
            Ok(sga) if kind == QueueKind::Stream && sga.is_empty() => self.source_ends(Ok(())),
            Ok(_) if !self.to_open => return 1,
            Ok(sga) => self.held.push_back(sga),
            Err(Error::EndOfStream) => self.source_ends(Ok(())),
            Err(_) if !source_open => self.source_ends(Err(Error::Cancelled)),
            Err(error) => self.source_ends(Err(error)),
        }
        0
    }

    pub(super) fn push_pending(&mut self, token: QToken) {
        self.in_flight.push(token);
    }

    /// A push in flight, or one that was never in flight (`None`), met its fate. Returns how many elements were
    /// dropped.
    pub(super) fn push_done(&mut self, token: Option<QToken>, result: Result<Position, Error>) -> u64 {
        if let Some(token) = token {
            match self.in_flight.iter().position(|pending| *pending == token) {
                Some(index) => drop(self.in_flight.remove(index)),
                None => return 0,
            }
        }
        match result {
            Ok(_) => self.moved += 1,
            // What a filter at the far end does not want, this end need not be told of.
            Err(Error::Rejected) => return 1,
            Err(error) => return 1 + self.sink_fails(error),
        }
        0
    }

    pub(super) fn cancel(&mut self) {
        self.end.get_or_insert(Err(Error::Cancelled));
    }

    /// Nothing can be pushed any more. Returns how many elements were dropped.
    pub(super) fn sink_fails(&mut self, error: Error) -> u64 {
        if !matches!(self.end, Some(Err(_))) {
            self.end = Some(Err(error));
        }
        self.to_open = false;
        let dropped = self.held.len() as u64;
        self.held.clear();
        dropped
    }

    fn source_ends(&mut self, end: Result<(), Error>) {
        if self.end.is_none() {
            self.end = Some(end);
            self.propagates = true;
        }
    }

    pub(super) fn result(&self) -> Result<Done, Error> {
        match &self.end {
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(())) | None => Ok(Done::Moved(self.moved)),
        }
    }
}
