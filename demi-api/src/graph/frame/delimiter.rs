//! Messages before a delimiter.
//!
//! Invariant: no byte is compared more than twice on average, for the search never goes back: a mismatch falls to
//! the longest beginning of the delimiter that the bytes so far still are.

use demi_memalloc::{Buf, Heap};

use super::Fed;
use crate::error::Error;
use crate::sga::{MAX_SEGMENTS, SgArray};

pub(super) struct Parser {
    delimiter: Buf,
    /// For each matched length, the length to fall to.
    falls: Box<[u8]>,
    limit: usize,
    /// Bytes of the delimiter that the last bytes fed are.
    matched: usize,
    /// Bytes fed of this message and its delimiter.
    len: usize,
}

impl Parser {
    pub(super) fn new(heap: &Heap, delimiter: &[u8], limit: usize) -> Result<Parser, Error> {
        if !(1..=255).contains(&delimiter.len()) {
            return Err(Error::Invalid("a delimiter has 1 to 255 bytes"));
        }
        let mut falls = vec![0; delimiter.len() + 1].into_boxed_slice();
        for end in 1..delimiter.len() {
            falls[end + 1] = step(delimiter, &falls, usize::from(falls[end]), delimiter[end]) as u8;
        }
        Ok(Parser { delimiter: heap.copy_from(delimiter)?, falls, limit, matched: 0, len: 0 })
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Fed, Error> {
        let (end, matched) = self.find(self.matched, bytes);
        self.len += end.unwrap_or(bytes.len());
        self.matched = matched;
        let payload = self.len - matched;
        if payload > self.limit {
            return Err(Error::TooLarge { len: payload, limit: self.limit });
        }
        let Some(consumed) = end else { return Ok(Fed::More) };
        self.len = 0;
        self.matched = 0;
        Ok(Fed::Message { consumed, head: 0, tail: self.delimiter.len() })
    }

    /// Goes on from a match of so many bytes. Returns where the delimiter ends, if here, and how much is matched.
    fn find(&self, mut matched: usize, bytes: &[u8]) -> (Option<usize>, usize) {
        let mut at = 0;
        while at < bytes.len() {
            if matched == 0 {
                match bytes[at..].iter().position(|byte| *byte == self.delimiter[0]) {
                    Some(skipped) => at += skipped,
                    None => return (None, 0),
                }
            }
            matched = step(&self.delimiter, &self.falls, matched, bytes[at]);
            at += 1;
            if matched == self.delimiter.len() {
                return (Some(at), matched);
            }
        }
        (None, matched)
    }

    /// Puts the delimiter behind an array in which a receiver would not find it earlier. With no segment to spare,
    /// the last one is copied before it.
    pub(super) fn encode(&self, heap: &Heap, sga: &mut SgArray, limit: usize) -> Result<(), Error> {
        let len = sga.len();
        if len > limit {
            return Err(Error::TooLarge { len, limit });
        }
        let mut matched = 0;
        for segment in sga.segments() {
            let end;
            (end, matched) = self.find(matched, segment);
            if end.is_some() {
                return Err(Error::BadFrame("the message contains the delimiter"));
            }
        }
        if self.find(matched, &self.delimiter).0 != Some(self.delimiter.len()) {
            return Err(Error::BadFrame(
                "the message and its delimiter together contain the delimiter earlier",
            ));
        }
        if sga.segments().len() < MAX_SEGMENTS {
            return sga.push(self.delimiter.clone());
        }
        let last = &mut sga.segments_mut()[MAX_SEGMENTS - 1];
        let mut longer = heap.alloc(last.len() + self.delimiter.len())?;
        longer[..last.len()].copy_from_slice(last);
        longer[last.len()..].copy_from_slice(&self.delimiter);
        *last = longer.freeze();
        Ok(())
    }
}

fn step(delimiter: &[u8], falls: &[u8], mut matched: usize, byte: u8) -> usize {
    while matched > 0 && delimiter[matched] != byte {
        matched = usize::from(falls[matched]);
    }
    matched + usize::from(delimiter[matched] == byte)
}
