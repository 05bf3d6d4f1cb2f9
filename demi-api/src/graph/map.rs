//! `map(q, f_pop, f_push)`: elements changed on their way up, and on their way down.
//!
//! Invariants: each element is changed exactly once. The end of a stream passes unchanged, and no change makes
//! an element look like it.

use demi_memalloc::Heap;

use super::node::{Element, Output};
use crate::error::Error;
use crate::libos::QueueKind;
use crate::sga::SgArray;

pub(super) type Change = Box<dyn FnMut(&Heap, SgArray) -> Result<SgArray, Error>>;

pub(super) struct Map {
    pub(super) on_pop: Change,
    pub(super) on_push: Change,
}

impl Map {
    pub(super) fn accept(&mut self, heap: &Heap, kind: QueueKind, element: Element, output: &mut Output) {
        let stream = kind == QueueKind::Stream;
        let element = match element {
            Ok(sga) if !(stream && sga.is_empty()) => {
                let peer = sga.peer();
                let mut changed = (self.on_pop)(heap, sga);
                match &mut changed {
                    Ok(sga) if stream && sga.is_empty() => return,
                    Ok(sga) if sga.peer().is_none() => sga.set_peer(peer),
                    Ok(_) | Err(_) => {}
                }
                changed
            }
            other => other,
        };
        output.ready.push_back(element);
    }
}
