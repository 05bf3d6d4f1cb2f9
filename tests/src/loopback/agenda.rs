//! What is to be looked at, and in which turn.
//!
//! Invariant: work of one turn is done in the order in which it was added.

use std::collections::BTreeMap;

use demi_api::QDesc;

use super::pipe::PipeId;

#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Pipe(PipeId),
    Queue(QDesc),
}

#[derive(Default, Debug)]
pub(super) struct Agenda {
    turn: u64,
    added: u64,
    work: BTreeMap<(u64, u64), Work>,
}

impl Agenda {
    pub(super) fn next_turn(&mut self) {
        self.turn += 1;
    }

    /// Puts `work` off by `turns` turns; 0 is now.
    pub(super) fn add(&mut self, turns: u64, work: Work) {
        self.added += 1;
        self.work.insert((self.turn + turns, self.added), work);
    }

    pub(super) fn take_due(&mut self) -> Option<Work> {
        let first = self.work.first_entry()?;
        (first.key().0 <= self.turn).then(|| first.remove())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.work.is_empty()
    }
}
