//! Memory that peers reach and that is not the heap's: regions, and what a queue pair's own heads lie in.

#[allow(unsafe_code, reason = "each block states its proof")]
pub(super) mod raw;

use std::rc::Rc;
use std::sync::atomic::Ordering;

use rustix::io::Result;

use self::raw::Mapping;
use super::domain::raw::{Domain, Registration, Rights};
use crate::device::{Access, Atomic, Remote};

/// A mapping that the device may reach.
pub(super) struct Shared {
    // In the order in which they must go.
    pub(super) registration: Registration,
    pub(super) mapping: Mapping,
}

impl Shared {
    pub(super) fn new(domain: &Rc<Domain>, len: usize, access: Access) -> Result<Shared> {
        let mapping = Mapping::new(len)?;
        let rights = Rights {
            window: false,
            remote_read: access.read,
            remote_write: access.write,
            remote_atomic: access.atomic,
        };
        let registration = Registration::new(domain, mapping.base(), mapping.len(), rights)?;
        Ok(Shared { registration, mapping })
    }

    pub(super) fn remote(&self, at: usize) -> Remote {
        Remote { addr: self.mapping.address(at), key: self.registration.remote() }
    }

    /// By the processor alone, which is right if the device is atomic towards it, or nobody but the processor does such.
    pub(super) fn atomic(&self, offset: usize, op: Atomic) -> Option<u64> {
        let word = self.mapping.word(offset)?;
        Some(match op {
            Atomic::FetchAdd(add) => word.fetch_add(add, Ordering::AcqRel),
            Atomic::CompareSwap { expected, new } => {
                match word.compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(was) | Err(was) => was,
                }
            }
        })
    }
}
