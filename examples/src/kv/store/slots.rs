//! Keys by number, so that all can be gone through in steps while they change.
//!
//! Invariant: a key keeps its number for as long as it exists.

use std::rc::Rc;

#[derive(Debug, Default)]
pub(super) struct Slots {
    keys: Vec<Option<Rc<[u8]>>>,
    vacant: Vec<u32>,
}

impl Slots {
    pub(super) fn insert(&mut self, key: &Rc<[u8]>) -> u32 {
        let key = Some(Rc::clone(key));
        match self.vacant.pop() {
            Some(slot) => {
                self.keys[slot as usize] = key;
                slot
            }
            None => {
                self.keys.push(key);
                self.keys.len() as u32 - 1
            }
        }
    }

    pub(super) fn remove(&mut self, slot: u32) {
        self.keys[slot as usize] = None;
        self.vacant.push(slot);
    }

    /// The key of an entry.
    #[inline]
    pub(super) fn key(&self, slot: u32) -> &Rc<[u8]> {
        self.keys[slot as usize].as_ref().expect("an entry's slot has its key")
    }

    /// The key with this number, if there is one.
    pub(super) fn get(&self, slot: usize) -> Option<&Rc<[u8]>> {
        self.keys.get(slot)?.as_ref()
    }

    /// Above the highest number.
    pub(super) fn end(&self) -> usize {
        self.keys.len()
    }
}
