//! A batch while it is filled: consecutive records that will be one write.
//!
//! Invariants: it begins at a block, and when it is sealed it ends at one, padded with zeroes; its last record says so. Small
//! payloads are copied behind their headers; a large one in whole blocks is referred to, and is the last of its batch.

use demi_api::memalloc::{Buf, BufMut};
use demi_api::sga::SgArray;

use crate::format::{HEADER_LEN, Header, payload_crc};

#[derive(Debug)]
pub(crate) struct Batch {
    /// Position of its first byte.
    pub(crate) start: u64,
    /// Where records are put together: whole blocks.
    staging: BufMut,
    filled: usize,
    /// The last record that was copied, and where its header is in `staging`.
    last: Option<(usize, Header)>,
    /// What is referred to, behind `staging`.
    referred: Option<Buf>,
    /// Elements that have a record here, or a part of one.
    pub(crate) records: usize,
    /// It ends inside an element.
    pub(crate) splits: bool,
}

impl Batch {
    pub(crate) fn new(start: u64, staging: BufMut) -> Batch {
        Batch { start, staging, filled: 0, last: None, referred: None, records: 0, splits: false }
    }

    /// Bytes of records and gaps between them.
    pub(crate) fn len(&self) -> usize {
        self.filled + self.referred.as_ref().map_or(0, |buf| buf.len())
    }

    /// Bytes that can still be copied.
    pub(crate) fn room(&self) -> usize {
        self.staging.len() - self.filled
    }

    /// Appends a record with the first `header.length` bytes of `payload`, and zeroes up to a multiple of 8. There is room for it.
    pub(crate) fn copy(&mut self, mut header: Header, payload: &mut SgArray, seed: u32) {
        let at = self.filled;
        let mut sum = seed;
        let mut to = at + HEADER_LEN;
        let whole = header.length == header.total;
        let part = if whole { None } else { Some(payload.split_to(header.length as usize)) };
        for piece in part.as_ref().unwrap_or(payload).segments() {
            self.staging[to..to + piece.len()].copy_from_slice(piece);
            sum = payload_crc(sum, piece);
            to += piece.len();
        }
        if whole {
            payload.drain_to(drop);
        }
        self.finish(at, to, &mut header, sum, seed);
    }

    /// Appends a record with a short payload of the log's own.
    pub(crate) fn copy_bytes(&mut self, mut header: Header, payload: &[u8], seed: u32) {
        let at = self.filled;
        let to = at + HEADER_LEN + payload.len();
        self.staging[at + HEADER_LEN..to].copy_from_slice(payload);
        self.finish(at, to, &mut header, payload_crc(seed, payload), seed);
    }

    fn finish(&mut self, at: usize, to: usize, header: &mut Header, sum: u32, seed: u32) {
        let end = to.next_multiple_of(8);
        self.staging[to..end].fill(0);
        self.filled = end;
        header.payload_crc = sum;
        header.emit(&mut self.staging[at..], seed);
        self.last = Some((at, *header));
    }

    /// Appends a record whose payload stays where it lies: whole blocks, and it begins at a block, as `header.lead` says.
    pub(crate) fn refer(&mut self, mut header: Header, payload: Buf, seed: u32) {
        let at = self.filled;
        self.filled = at + HEADER_LEN + header.lead as usize;
        self.staging[at + HEADER_LEN..self.filled].fill(0);
        header.payload_crc = payload_crc(seed, &payload);
        header.ends_batch = true;
        header.emit(&mut self.staging[at..], seed);
        self.last = None;
        self.referred = Some(payload);
    }

    /// What is to be written, and what is left of the staging memory.
    pub(crate) fn seal(mut self, block_size: usize, seed: u32) -> (SgArray, BufMut) {
        let end = self.filled.next_multiple_of(block_size);
        self.staging[self.filled..end].fill(0);
        if let Some((at, mut header)) = self.last {
            header.ends_batch = true;
            header.emit(&mut self.staging[at..], seed);
        }
        let mut data = SgArray::from(self.staging.split_to(end));
        if let Some(referred) = self.referred {
            data.push(referred).expect("an array holds two segments");
        }
        (data, self.staging)
    }
}
