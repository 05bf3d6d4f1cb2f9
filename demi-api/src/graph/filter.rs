//! `filter(q, predicate)`: only elements that pass.
//!
//! Invariant: the predicate sees every element exactly once on its way, up or down.

use super::node::{Element, Output};
use crate::sga::SgArray;

pub(super) type Predicate = Box<dyn FnMut(&SgArray) -> bool>;

pub(super) struct Filter {
    pub(super) predicate: Predicate,
}

impl Filter {
    /// Returns how many elements were dropped.
    pub(super) fn accept(&mut self, element: Element, output: &mut Output) -> u64 {
        if let Ok(sga) = &element
            && !(self.predicate)(sga)
        {
            return 1;
        }
        output.ready.push_back(element);
        0
    }
}
