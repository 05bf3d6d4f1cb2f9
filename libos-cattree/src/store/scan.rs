//! Going along a log's records: what recovery, which ends a log at the first that is not valid, has in common with checking,
//! which says why it is not and goes on.
//!
//! Invariant: what is in memory is part of one segment, and everything that is handed out lies within it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use demi_api::error::Error;
use demi_api::memalloc::Heap;

use super::io::Io;
use crate::format::{
    Damage, Geometry, HEAD_LEN, HEADER_LEN, Head, Header, Kind, Segment, Superblock, payload_crc,
};

/// Bytes that are read at a time.
pub(super) const STEP: usize = 1 << 20;
/// Bytes before the present place that are kept: whoever goes along a log goes back by a batch at the most.
const KEPT: usize = 4 * STEP;

/// Why a record is not what should be next in its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// There is none.
    #[error("there is no record: {0}")]
    Header(Damage),
    /// It was written for another.
    #[error("the record belongs to another log, segment or place")]
    Elsewhere,
    /// It is from another time.
    #[error("the record is of epoch {0}, which cannot be here")]
    Epoch(u32),
    /// Its payload is not what was written.
    #[error("the checksum of its payload is wrong")]
    Payload,
    /// The head of a segment says that it is another's.
    #[error("the head of the segment is not that of this place in the log")]
    Head,
    /// The parts of an element do not make one.
    #[error("the fragments do not make an element")]
    Fragment,
    /// The log's end is within it.
    #[error("the record goes on behind the end of the log")]
    End,
    /// It says what it cannot know.
    #[error("the record says that the log was durable up to {0}, which is behind it")]
    Stable(u64),
}

/// How much of an element has been found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// None is under way.
    Nothing,
    /// One of which the beginning was not found may be.
    Unknown,
    /// So many bytes of so many.
    Of(usize, usize),
}

/// A log's segments, and as much of one as was needed.
pub(crate) struct Scan<'a> {
    pub(super) io: &'a mut Io,
    pub(super) heap: &'a Heap,
    pub(super) superblock: &'a Superblock,
    /// The log's number.
    pub(crate) log: u32,
    /// What its records may be of.
    pub(crate) epochs: RangeInclusive<u32>,
    /// By ordinals.
    pub(crate) segments: &'a BTreeMap<u64, Segment>,
    /// Which segment `bytes` are of, and from which offset on.
    loaded: Option<(u64, usize)>,
    /// As far as they were needed.
    bytes: &'a mut Vec<u8>,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(
        io: &'a mut Io,
        heap: &'a Heap,
        superblock: &'a Superblock,
        log: u32,
        epochs: RangeInclusive<u32>,
        segments: &'a BTreeMap<u64, Segment>,
        bytes: &'a mut Vec<u8>,
    ) -> Scan<'a> {
        Scan { io, heap, superblock, log, epochs, segments, loaded: None, bytes }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.superblock.geometry
    }

    /// The header at a place, which must be of this log, segment and place, and of a right epoch.
    pub(crate) fn header(&mut self, ordinal: u64, offset: usize) -> Result<Result<Header, Fault>, Error> {
        let Some(segment) = self.segments.get(&ordinal).copied() else {
            return Ok(Err(Fault::Header(Damage::Short)));
        };
        let (log, geometry, seed) = (self.log, self.geometry(), self.superblock.seed());
        let epochs = self.epochs.clone();
        let Some(bytes) = self.bytes(ordinal, offset, HEADER_LEN)? else {
            return Ok(Err(Fault::Header(Damage::Short)));
        };
        Ok(match Header::parse(bytes, &geometry, seed) {
            Err(damage) => Err(Fault::Header(damage)),
            Ok(header) if !header.is_at(log, segment.sequence, offset) => Err(Fault::Elsewhere),
            Ok(header) if !epochs.contains(&header.epoch) => Err(Fault::Epoch(header.epoch)),
            Ok(header) => Ok(header),
        })
    }

    /// The record at a place, in a batch that begins at `begins`, behind `part` of an element: its header, its payload and how
    /// much of an element there is then.
    #[allow(clippy::type_complexity, reason = "a record, or why there is none, or that the device failed")]
    pub(crate) fn record(
        &mut self,
        ordinal: u64,
        offset: usize,
        begins: usize,
        part: Part,
    ) -> Result<Result<(Header, &[u8], Part), Fault>, Error> {
        let header = match self.header(ordinal, offset)? {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault)),
        };
        let seed = self.superblock.seed();
        let Some(payload) = self.bytes(ordinal, header.payload_at(), header.length as usize)? else {
            return Ok(Err(Fault::Header(Damage::Short)));
        };
        if payload_crc(seed, payload) != header.payload_crc {
            return Ok(Err(Fault::Payload));
        }
        let length = header.length as usize;
        let total = header.total as usize;
        let is_first = offset == begins || begins == 0 && offset == HEAD_LEN;
        let part = match (header.kind, part) {
            (Kind::Head, part) if offset == 0 && length == Head::LEN => {
                match Head::parse(&header, payload, seed) {
                    Ok(head) if head.ordinal == ordinal => part,
                    _ => return Ok(Err(Fault::Head)),
                }
            }
            (Kind::Whole, Part::Nothing | Part::Unknown) if offset > 0 => Part::Nothing,
            (Kind::First, Part::Nothing | Part::Unknown) if is_first && offset > 0 => Part::Of(length, total),
            (Kind::Middle, Part::Of(got, all)) if offset > 0 && total == all && got + length <= all => {
                Part::Of(got + length, all)
            }
            (Kind::Last, Part::Of(got, all)) if offset > 0 && total == all && got + length == all => {
                Part::Nothing
            }
            (Kind::Middle, Part::Unknown) if offset > 0 => Part::Unknown,
            (Kind::Last, Part::Unknown) if offset > 0 => Part::Nothing,
            _ => return Ok(Err(Fault::Fragment)),
        };
        Ok(Ok((header, payload, part)))
    }

    /// Bytes of a segment. `None`: they are not in it.
    pub(crate) fn bytes(&mut self, ordinal: u64, offset: usize, len: usize) -> Result<Option<&[u8]>, Error> {
        let geometry = &self.superblock.geometry;
        let Some(segment) = self.segments.get(&ordinal) else { return Ok(None) };
        if offset + len > geometry.segment_size {
            return Ok(None);
        }
        let from = match self.loaded {
            Some((loaded, from)) if loaded == ordinal && (from..=from + KEPT).contains(&offset) => from,
            Some((loaded, from)) if loaded == ordinal && from <= offset => {
                let keep = offset / geometry.block_size * geometry.block_size;
                self.loaded = Some((ordinal, keep));
                self.bytes.drain(..(keep - from).min(self.bytes.len()));
                keep
            }
            _ => {
                let from = offset / geometry.block_size * geometry.block_size;
                self.loaded = Some((ordinal, from));
                self.bytes.clear();
                from
            }
        };
        while from + self.bytes.len() < offset + len {
            let at = from + self.bytes.len();
            let step = STEP.min(geometry.segment_size - at);
            let place = geometry.segment_at(segment.index) + at as u64;
            self.io.read_more(self.heap, place, step, self.bytes)?;
        }
        Ok(self.bytes.get(offset - from..offset - from + len))
    }
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::{HeapConfig, HugePages};

    use super::*;
    use crate::device::mem::{Mem, MemConfig};

    #[test]
    fn a_long_segment_is_in_memory_in_part_only() {
        let device = Mem::new(&MemConfig { size: 80 << 20, ..MemConfig::default() }).unwrap();
        let image = device.image();
        let geometry = Geometry::plan(80 << 20, 4096, Some(16 << 20)).unwrap();
        let superblock = Superblock { geometry, identity: [1; 16], generation: 0, checkpoint: 0 };
        for block in 0..(16 << 20) / 4096_usize {
            let at = geometry.segment_at(1) as usize + block * 4096;
            image.edit(at..at + 4, |bytes| bytes.copy_from_slice(&(block as u32).to_le_bytes()));
        }
        let heap =
            Heap::new(&HeapConfig { size: 4 << 20, huge_pages: HugePages::Never, lock: false }).unwrap();
        let mut io = Io::new(Box::new(device));
        let segments = BTreeMap::from([(7, Segment { index: 1, sequence: 1 })]);
        let mut bytes = Vec::new();
        let mut scan = Scan::new(&mut io, &heap, &superblock, 1, 1..=1, &segments, &mut bytes);
        // Forwards, with a step back now and then, and over a gap.
        for block in (0..2000_usize).chain(1990..2100).chain(4000..4096) {
            let read = scan.bytes(7, block * 4096, 4096).unwrap().unwrap();
            assert_eq!(read[..4], (block as u32).to_le_bytes());
            assert!(scan.bytes.len() <= KEPT + 2 * STEP, "{} bytes", scan.bytes.len());
        }
        assert!(scan.bytes(7, 16 << 20, 1).unwrap().is_none());
    }
}
