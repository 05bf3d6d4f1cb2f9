//! `queue()`: a bounded ring of elements.
//!
//! Invariant: a push is blocked only while the ring is full, and blocked pushes enter in the order in which they
//! were started. The ring itself is the output's list of elements.

use std::collections::VecDeque;

use super::node::{Next, Output};
use crate::error::Error;
use crate::libos::QueueKind;
use crate::op::{Done, Position};
use crate::sga::SgArray;
use crate::token::QToken;

pub(super) struct Memory {
    pub(super) bound: usize,
    /// Pushes that found no room, oldest first.
    pub(super) blocked: VecDeque<(QToken, SgArray)>,
    /// No more pushes: pops find the end when it is empty.
    pub(super) ended: bool,
}

impl Memory {
    pub(super) fn new(bound: usize) -> Memory {
        Memory { bound, blocked: VecDeque::new(), ended: false }
    }

    pub(super) fn has_room(&self, output: &Output) -> bool {
        self.blocked.is_empty() && output.ready.len() < self.bound
    }

    pub(super) fn next(&mut self, output: &mut Output) -> Next {
        if output.ready.len() < self.bound
            && let Some((token, sga)) = self.blocked.pop_front()
        {
            output.ready.push_back(Ok(sga));
            return Next::Post(token, Ok(Done::Pushed(Position::default())));
        }
        if let Some(next) = output.serve(QueueKind::Message) {
            return next;
        }
        if self.ended {
            return output.answer(Err(Error::EndOfStream)).unwrap_or(Next::Idle);
        }
        Next::Idle
    }
}
