//! `pop_n` of a message queue: the elements that are there, once the first is.
//!
//! Invariants: it waits for one element only. A pop that is still outstanding when others have come is recalled;
//! one that cannot be recalled is waited for, so no element is lost. Each element is a pop of its own, which stands
//! in line behind other pops of the same queue.

use super::node::{Element, Next, Source};
use crate::error::Error;
use crate::op::Done;
use crate::sga::SgArray;
use crate::token::QToken;

pub(super) struct Batch {
    pub(super) token: QToken,
    pub(super) taken: Vec<SgArray>,
    count: usize,
    error: Option<Error>,
    /// It asks no more: what is outstanding is the last.
    pub(super) settled: bool,
}

impl Batch {
    pub(super) fn new(token: QToken, count: usize) -> Batch {
        Batch { token, taken: Vec::new(), count, error: None, settled: false }
    }

    pub(super) fn next(&mut self, source: &Source) -> Next {
        let over = self.settled || self.error.is_some() || self.taken.len() >= self.count;
        match source.pop {
            None if over => Next::Finish,
            None => Next::Ask(0),
            Some(_) if !over && !self.taken.is_empty() => Next::Retract,
            Some(_) => Next::Idle,
        }
    }

    pub(super) fn accept(&mut self, element: Element) {
        match element {
            Ok(sga) => self.taken.push(sga),
            Err(error) => self.error = Some(error),
        }
    }

    pub(super) fn result(self) -> Result<Done, Error> {
        match self.error {
            Some(error) if self.taken.is_empty() => Err(error),
            Some(_) | None => Ok(Done::Batch(self.taken)),
        }
    }
}
