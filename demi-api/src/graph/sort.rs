//! `sort(q, cmp)`: the greatest element first, of those that are there.
//!
//! Invariants: a binary heap by comparator, then by arrival, so equal elements keep their order. It holds at most
//! `lookahead` elements. What the source said instead of an element is handed out after all that came before.

use std::cmp::Ordering;

use super::node::{Element, Next, Output, Source};
use crate::error::Error;
use crate::sga::SgArray;

pub(super) type Compare = Box<dyn FnMut(&SgArray, &SgArray) -> Ordering>;

pub(super) struct Sort {
    compare: Compare,
    lookahead: usize,
    /// No element is ordered before its parent, at half its index.
    held: Vec<(u64, SgArray)>,
    arrivals: u64,
    error: Option<Error>,
}

impl Sort {
    pub(super) fn new(compare: Compare, lookahead: usize) -> Sort {
        Sort { compare, lookahead, held: Vec::new(), arrivals: 0, error: None }
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn next(&mut self, source: &Source, output: &mut Output) -> Next {
        if output.waiting.is_empty() {
            return Next::Idle;
        }
        if source.pop.is_none() && self.error.is_none() && self.held.len() < self.lookahead {
            return Next::Ask(0);
        }
        let element = match self.take_greatest() {
            Some(sga) => Ok(sga),
            None => match self.error.take() {
                Some(error) => Err(error),
                None => return Next::Idle,
            },
        };
        output.answer(element).unwrap_or(Next::Idle)
    }

    pub(super) fn accept(&mut self, element: Element) {
        match element {
            Ok(sga) => {
                self.held.push((self.arrivals, sga));
                self.arrivals += 1;
                self.rise(self.held.len() - 1);
            }
            Err(error) => self.error = Some(error),
        }
    }

    fn take_greatest(&mut self) -> Option<SgArray> {
        let last = self.held.len().checked_sub(1)?;
        self.held.swap(0, last);
        let (_, greatest) = self.held.pop()?;
        self.sink();
        Some(greatest)
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.goes_before(at, (at - 1) / 2) {
            self.held.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn sink(&mut self) {
        let mut at = 0;
        loop {
            let mut first = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.held.len() && self.goes_before(child, first) {
                    first = child;
                }
            }
            if first == at {
                return;
            }
            self.held.swap(at, first);
            at = first;
        }
    }

    fn goes_before(&mut self, a: usize, b: usize) -> bool {
        let ((arrived_a, a), (arrived_b, b)) = (&self.held[a], &self.held[b]);
        (self.compare)(a, b).then(arrived_b.cmp(arrived_a)).is_gt()
    }
}
