//! Messages behind their length.
//!
//! Invariant: payload is skipped, never read.

use demi_memalloc::Heap;

use super::{Endian, Fed};
use crate::error::Error;
use crate::sga::{MAX_SEGMENTS, SgArray};

pub(super) struct Parser {
    width: usize,
    endian: Endian,
    limit: usize,
    prefix: [u8; 8],
    /// Bytes of `prefix` that are here.
    known: usize,
    /// Bytes of the payload still to come, once the prefix is here.
    rest: usize,
}

impl Parser {
    pub(super) fn new(bytes: u8, endian: Endian, limit: usize) -> Result<Parser, Error> {
        if ![1, 2, 4, 8].contains(&bytes) {
            return Err(Error::Invalid("a length prefix has 1, 2, 4 or 8 bytes"));
        }
        Ok(Parser { width: usize::from(bytes), endian, limit, prefix: [0; 8], known: 0, rest: 0 })
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Fed, Error> {
        let missing = (self.width - self.known).min(bytes.len());
        self.prefix[self.known..self.known + missing].copy_from_slice(&bytes[..missing]);
        self.known += missing;
        if self.known < self.width {
            return Ok(Fed::More);
        }
        if missing > 0 {
            self.rest = self.length()?;
        }
        let payload = self.rest.min(bytes.len() - missing);
        self.rest -= payload;
        if self.rest > 0 {
            return Ok(Fed::More);
        }
        self.known = 0;
        Ok(Fed::Message { consumed: missing + payload, head: self.width, tail: 0 })
    }

    fn length(&self) -> Result<usize, Error> {
        let mut wide = [0; 8];
        let len = match self.endian {
            Endian::Big => {
                wide[8 - self.width..].copy_from_slice(&self.prefix[..self.width]);
                u64::from_be_bytes(wide)
            }
            Endian::Little => {
                wide[..self.width].copy_from_slice(&self.prefix[..self.width]);
                u64::from_le_bytes(wide)
            }
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > self.limit { Err(Error::TooLarge { len, limit: self.limit }) } else { Ok(len) }
    }

    /// Puts the length before an array. With no segment to spare, the first one is copied behind it.
    pub(super) fn encode(&self, heap: &Heap, sga: &mut SgArray, limit: usize) -> Result<(), Error> {
        let len = sga.len();
        let widest = if self.width == 8 { usize::MAX } else { (1 << (8 * self.width)) - 1 };
        if len > limit.min(widest) {
            return Err(Error::TooLarge { len, limit: limit.min(widest) });
        }
        let is_full = sga.segments().len() == MAX_SEGMENTS;
        let copied = if is_full { sga.segments()[0].len() } else { 0 };
        let mut front = heap.alloc(self.width + copied)?;
        match self.endian {
            Endian::Big => front[..self.width].copy_from_slice(&(len as u64).to_be_bytes()[8 - self.width..]),
            Endian::Little => front[..self.width].copy_from_slice(&(len as u64).to_le_bytes()[..self.width]),
        }
        if is_full {
            front[self.width..].copy_from_slice(&sga.segments()[0]);
            sga.segments_mut()[0] = front.freeze();
            return Ok(());
        }
        sga.push_front(front.freeze())
    }
}
