//! Who depends on a queue: at most one node that owns its pop side, and any number that must hear of its close.
//!
//! Invariant: indexed by descriptor number, and cleared when that queue closes, so that a number's next queue
//! starts without any.

use crate::desc::QDesc;

const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    claimant: u32,
    watcher: u32,
}

#[derive(Default)]
pub(super) struct Links {
    by_number: Vec<Link>,
}

impl Links {
    #[inline]
    pub(super) fn claimant(&self, qd: QDesc) -> Option<QDesc> {
        self.by_number.get(qd.raw() as usize).and_then(|link| someone(link.claimant))
    }

    /// The first in the list of watchers.
    pub(super) fn watcher(&self, qd: QDesc) -> Option<QDesc> {
        self.by_number.get(qd.raw() as usize).and_then(|link| someone(link.watcher))
    }

    /// `qd` names an open queue, so the array grows with the queues that there are.
    pub(super) fn set_claimant(&mut self, qd: QDesc, node: Option<QDesc>) {
        self.link(qd).claimant = node.map_or(NOBODY, QDesc::raw);
    }

    pub(super) fn set_watcher(&mut self, qd: QDesc, node: Option<QDesc>) {
        self.link(qd).watcher = node.map_or(NOBODY, QDesc::raw);
    }

    fn link(&mut self, qd: QDesc) -> &mut Link {
        let index = qd.raw() as usize;
        if index >= self.by_number.len() {
            self.by_number.resize(index + 1, Link { claimant: NOBODY, watcher: NOBODY });
        }
        &mut self.by_number[index]
    }
}

fn someone(raw: u32) -> Option<QDesc> {
    (raw != NOBODY).then(|| QDesc::from_raw(raw))
}
