//! `partition(q, predicate)`: two queues out of one.
//!
//! Invariants: every element goes to exactly one side. The source is popped only while neither side is full, so
//! both are bounded and nothing is lost. A closed side is never full: what belongs to it is dropped and counted.

use super::filter::Predicate;
use super::node::{Element, Next, Output, Source};
use crate::error::Error;
use crate::libos::QueueKind;

/// The output for elements that pass the predicate; the other is for those that do not.
pub(super) const YES: usize = 0;
pub(super) const NO: usize = 1;

pub(super) struct Partition {
    pub(super) predicate: Predicate,
    pub(super) bound: usize,
    /// What the source said instead of an element, for the next pop on either side.
    pub(super) error: Option<Error>,
}

impl Partition {
    pub(super) fn next(&mut self, source: &Source, outputs: &mut [Output]) -> Next {
        for output in outputs.iter_mut() {
            if let Some(next) = output.serve(QueueKind::Message) {
                return next;
            }
        }
        let Some(output) = outputs.iter_mut().find(|output| !output.waiting.is_empty()) else {
            return Next::Idle;
        };
        if let Some(error) = self.error.take() {
            return output.answer(Err(error)).unwrap_or(Next::Idle);
        }
        let full = outputs.iter().any(|output| output.ready.len() >= self.bound);
        if full || source.pop.is_some() { Next::Idle } else { Next::Ask(0) }
    }

    /// Returns how many elements were dropped.
    pub(super) fn accept(&mut self, element: Element, outputs: &mut [Output]) -> u64 {
        match element {
            Ok(sga) => {
                let side = if (self.predicate)(&sga) { YES } else { NO };
                if !outputs[side].open {
                    return 1;
                }
                outputs[side].ready.push_back(Ok(sga));
            }
            Err(error) => self.error = Some(error),
        }
        0
    }
}
