//! Descriptors: what closing and duplicating them does to what they name.
//!
//! A child that shares its parent's memory, as after `vfork`, closes and duplicates descriptors of its own: the table is
//! the parent's, and stays as it is.

use demi_api::slab::Key;
use rustix::io::Errno;

use super::Answer;
use crate::carrier::Carrier;
use crate::shim::Shim;
use crate::sys;
use crate::table::{NUMBERS, TABLE};

impl<C: Carrier> Shim<C> {
    /// A descriptor is about to be closed.
    pub(crate) fn closing(&'static self, fd: i32) -> Result<(), Errno> {
        if self.is_ours() {
            let mut state = self.lock();
            // Another thread may have been first.
            if let Some(key) = TABLE.clear(fd) {
                state.release(key);
            }
        }
        Ok(())
    }

    /// The same for all from `first` to `last`.
    pub(crate) fn closing_range(&'static self, first: u32, last: u32) -> Result<(), Errno> {
        for fd in first..=last.min(TABLE.highest()).min(NUMBERS as u32 - 1) {
            if TABLE.get(fd as i32).is_some() {
                self.closing(fd as i32)?;
            }
        }
        Ok(())
    }

    /// Closes all from `first` to `last` but what is the shim's own. The kernel is to do it if nothing is.
    pub(crate) fn close_between(&'static self, first: u32, last: u32) -> Answer<()> {
        if !self.is_ours() {
            return Ok(None);
        }
        let kept = self.lock().kept();
        if first > last || !kept.iter().any(|fd| (first..=last).contains(&fd.unsigned_abs())) {
            return Ok(None);
        }
        self.closing_range(first, last)?;
        sys::close_between(first, last, &kept)?;
        Ok(Some(()))
    }

    /// `new` names what `key` does, and no longer what it did.
    pub(crate) fn duplicated(&'static self, key: Option<Key>, new: i32) -> Result<(), Errno> {
        if !self.is_ours() {
            return Ok(());
        }
        let mut state = self.lock();
        if let Some(before) = TABLE.clear(new) {
            state.release(before);
        }
        if let Some(key) = key
            && TABLE.has_place(new)
        {
            state.share(key);
            TABLE.set(new, key);
        }
        Ok(())
    }
}
