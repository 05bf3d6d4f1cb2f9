//! Queues on regions of this instance. Everything is done on the spot.

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::op::{Done, Op, Position};
use demi_api::sga::SgArray;
use demi_api::slab::Key;

use super::export::Export;
use super::{Counters, POP_BYTES};
use crate::device::RdmaDevice;

#[derive(Debug)]
pub(super) struct Local {
    pub(super) export: Key,
    pub(super) cursor: u64,
    pub(super) read_only: bool,
}

impl Local {
    pub(super) fn start(
        &mut self,
        export: &Export,
        device: &mut dyn RdmaDevice,
        cx: &mut Cx<'_>,
        op: &mut Op,
        counters: &mut Counters,
    ) -> Result<Result<Done, Error>, Error> {
        let left = (export.len as u64).saturating_sub(self.cursor) as usize;
        match op {
            Op::Push { .. } | Op::Atomic { .. } if self.read_only => Err(Error::ReadOnly),
            Op::Push { sga, .. } => {
                let len = sga.len();
                if len > left {
                    return Err(Error::NoSpace);
                }
                let from = self.cursor;
                let mut at = from as usize;
                // No bytes lie anywhere, behind the end too.
                for segment in sga.segments().iter().filter(|segment| !segment.is_empty()) {
                    if !device.copy_in(export.region, at, segment) {
                        return Err(Error::Io);
                    }
                    at += segment.len();
                }
                drop(std::mem::take(sga));
                self.cursor += len as u64;
                counters.region_writes += 1;
                counters.region_bytes_written += len as u64;
                Ok(Ok(Done::Pushed(Position(from))))
            }
            Op::Pop { limit } => {
                let most = if *limit == usize::MAX { POP_BYTES } else { *limit };
                let len = most.min(left);
                if len == 0 {
                    return Ok(Ok(Done::Popped(SgArray::new())));
                }
                let mut into = cx.heap.alloc(len)?;
                if !device.copy_out(export.region, self.cursor as usize, &mut into) {
                    return Err(Error::Io);
                }
                self.cursor += len as u64;
                counters.region_reads += 1;
                counters.region_bytes_read += len as u64;
                Ok(Ok(Done::Popped(into.into())))
            }
            Op::Atomic { at, change } => {
                let at = word(*at, export.len as u64)?;
                let before = device.atomic_here(export.region, at as usize, *change).ok_or(Error::Io)?;
                counters.region_atomics += 1;
                Ok(Ok(Done::Fetched(before)))
            }
            Op::Flush => Ok(Ok(Done::Flushed)),
            Op::Accept | Op::Connect(_) => Err(Error::NotSupported("a socket operation on a region")),
        }
    }
}

/// Where a word lies, if it is one of a region of so many bytes.
pub(super) fn word(at: Position, len: u64) -> Result<u64, Error> {
    match at.0.checked_add(8) {
        Some(end) if end <= len => Ok(at.0),
        _ => Err(Error::Invalid("the word lies outside of the region")),
    }
}
