//! What was acknowledged: the newest checkpoint, and what follows it (`docs/log-format.md`, "Opening").
//!
//! Everything read is an allegation. The work is bounded by what the superblock, checked against the device, says.

use std::collections::BTreeMap;

use demi_api::memalloc::Heap;

use super::io::Io;
use super::open::OpenError;
use crate::device::{Buffers, Command};
use crate::format::{
    Checkpoint, Damage, Geometry, HEAD_LEN, HEADER_LEN, Head, Header, Kind, LogEntry, MIN_ROOM, Next,
    Segment, Superblock, payload_crc,
};

/// What can have been in flight of one log.
const IN_FLIGHT: usize = 4 << 20;
/// Bytes that are read at a time.
const STEP: usize = 1 << 20;

/// The state of an image when it was left.
pub(crate) struct Found {
    /// The newest complete checkpoint.
    pub(crate) checkpoint: Checkpoint,
    /// The logs with their true tails and segments.
    pub(crate) logs: Vec<LogEntry>,
}

pub(crate) fn find(io: &mut Io, heap: &Heap, superblock: &Superblock) -> Result<Found, OpenError> {
    let checkpoint = newest_checkpoint(io, heap, superblock)?;
    let mut logs = checkpoint.logs.clone();
    if !checkpoint.closed {
        // Used for one log after the other: memory that was never touched costs more than reading.
        let mut bytes = Vec::new();
        let given = given(io, heap, superblock, &checkpoint)?;
        for log in &mut logs {
            let first = log.first_ordinal;
            let mut taken: BTreeMap<u64, Segment> = (first..).zip(log.segments.iter().copied()).collect();
            for ((id, ordinal), segment) in &given.heads {
                if *id == log.id && *ordinal >= first + log.segments.len() as u64 {
                    taken.insert(*ordinal, *segment);
                }
            }
            let mut scan = Scan {
                io,
                heap,
                superblock,
                log,
                segments: &taken,
                loaded: None,
                bytes: std::mem::take(&mut bytes),
            };
            let tail = scan.run()?;
            bytes = std::mem::take(&mut scan.bytes);
            log.tail = tail;
            let (ordinal, offset) = superblock.geometry.split(tail);
            let end = ordinal + u64::from(offset > 0);
            log.segments = taken.range(..end).map(|(_, segment)| *segment).collect();
        }
        look_for_lost(io, heap, superblock, &given.suspects, &logs)?;
    }
    Ok(Found { checkpoint, logs })
}

fn newest_checkpoint(io: &mut Io, heap: &Heap, superblock: &Superblock) -> Result<Checkpoint, OpenError> {
    let geometry = &superblock.geometry;
    let mut newest: Option<Checkpoint> = None;
    let mut damage = Damage::Blank;
    for area in 0..2 {
        let offset = geometry.checkpoint_at(area);
        let first = io.read(heap, offset, geometry.block_size)?;
        let checkpoint = match Checkpoint::declared_len(&first, geometry) {
            Ok(len) => {
                let bytes = io.read(heap, offset, geometry.block_up(len))?;
                Checkpoint::parse(&bytes, geometry, superblock.seed())
            }
            Err(damage) => Err(damage),
        };
        match checkpoint {
            Ok(checkpoint)
                if checkpoint.identity != superblock.identity_half() || checkpoint.number % 2 != area =>
            {
                damage = Damage::Misplaced;
            }
            Ok(checkpoint) if newest.as_ref().is_none_or(|newest| newest.number < checkpoint.number) => {
                newest = Some(checkpoint);
            }
            Ok(_) => {}
            Err(what) if area == superblock.checkpoint % 2 => damage = what,
            Err(_) => {}
        }
    }
    newest
        .filter(|newest| newest.number >= superblock.checkpoint)
        .ok_or(OpenError::Checkpoint { number: superblock.checkpoint, damage })
}

/// Segments that were given to logs since a checkpoint.
struct Given {
    /// Those with a valid head, by log and ordinal.
    heads: BTreeMap<(u32, u64), Segment>,
    /// All that may have been given away, by the sequence number that each would have got. None was given behind the last with
    /// a valid head, but for one whose head may be damaged.
    suspects: Vec<Segment>,
}

/// Segments are given away in the order in which they were set aside, and get their sequence numbers in that order.
fn given(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    checkpoint: &Checkpoint,
) -> Result<Given, OpenError> {
    let geometry = &superblock.geometry;
    let mut commands = Vec::new();
    for index in &checkpoint.set_aside {
        let into = heap.alloc(geometry.block_size).map_err(|error| OpenError::Device(error.into()))?;
        commands.push(Command::Read { offset: geometry.segment_at(*index), into });
    }
    let mut given = Given { heads: BTreeMap::new(), suspects: Vec::new() };
    let mut last = 0;
    let sequences = checkpoint.next_sequence..;
    for ((index, read), sequence) in checkpoint.set_aside.iter().zip(io.run(heap, commands)?).zip(sequences) {
        let segment = Segment { index: *index, sequence };
        given.suspects.push(segment);
        let Buffers::Read(bytes) = read else { continue };
        let Ok((header, head)) = parse_head(&bytes, geometry, superblock.seed()) else { continue };
        let Some(log) = checkpoint.logs.iter().find(|log| log.id == header.log) else { continue };
        if header.epoch == log.epoch && header.sequence == sequence {
            last = given.suspects.len();
            // A second one is the copy that a cut had begun to make.
            given.heads.entry((log.id, head.ordinal)).or_insert(segment);
        }
    }
    given.suspects.truncate(last + 1);
    Ok(given)
}

/// Looks for acknowledged records in segments that no log has been found to have, as their heads, or others, are damaged.
fn look_for_lost(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    suspects: &[Segment],
    logs: &[LogEntry],
) -> Result<(), OpenError> {
    let geometry = &superblock.geometry;
    let owned = |segment: &Segment| logs.iter().any(|log| log.segments.contains(segment));
    for segment in suspects.iter().filter(|segment| !owned(segment)) {
        let bytes = io.read(heap, geometry.segment_at(segment.index), geometry.segment_size)?;
        for (block, bytes) in bytes.chunks_exact(geometry.block_size).enumerate() {
            let Ok(header) = Header::parse(bytes, geometry, superblock.seed()) else { continue };
            let Some(log) = logs.iter().find(|log| log.id == header.log) else { continue };
            let here = header.is_at(log.id, segment.sequence, block * geometry.block_size);
            if here && header.epoch == log.epoch && header.stable > log.tail {
                return Err(OpenError::Log { log: text(&log.name), position: log.tail });
            }
        }
    }
    Ok(())
}

fn parse_head(bytes: &[u8], geometry: &Geometry, seed: u32) -> Result<(Header, Head), Damage> {
    let header = Header::parse(bytes, geometry, seed)?;
    let head = Head::parse(&header, &bytes[HEADER_LEN..], seed)?;
    // So that a position in it is a number.
    if head.ordinal >= u64::MAX / geometry.segment_size as u64 - 1 {
        return Err(Damage::Field("ordinal"));
    }
    Ok((header, head))
}

/// A log's name for people.
pub(crate) fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Goes along a log from the checkpoint's tail.
struct Scan<'a> {
    io: &'a mut Io,
    heap: &'a Heap,
    superblock: &'a Superblock,
    log: &'a LogEntry,
    segments: &'a BTreeMap<u64, Segment>,
    /// Which segment `bytes` are of, and from which offset on.
    loaded: Option<(u64, usize)>,
    /// As far as they were needed.
    bytes: Vec<u8>,
}

impl Scan<'_> {
    /// Where the log ends.
    fn run(&mut self) -> Result<u64, OpenError> {
        let geometry = self.superblock.geometry;
        let mut tail = self.log.tail;
        let mut at = tail;
        // Bytes of an element that have been found, and how many it has.
        let mut element: Option<(usize, usize)> = None;
        while let Some((end, rest)) = self.batch(at, element)? {
            (at, element) = (end, rest);
            if element.is_none() {
                tail = at;
            }
        }
        // What was in flight begins where the first invalid batch does.
        let (ordinal, offset) = geometry.split(at);
        let mut left = IN_FLIGHT;
        let mut from = offset;
        for next in self.segments.range(ordinal..).map(|(ordinal, _)| *ordinal).collect::<Vec<_>>() {
            if next != ordinal {
                from = 0;
            }
            while from < geometry.segment_size && left > 0 {
                if let Some(header) = self.header(next, from)?
                    && header.stable > tail
                {
                    return Err(OpenError::Log { log: text(&self.log.name), position: tail });
                }
                from += geometry.block_size;
                left = left.saturating_sub(geometry.block_size);
            }
        }
        Ok(tail)
    }

    /// The header of this log and epoch at a place, if there is one.
    fn header(&mut self, ordinal: u64, offset: usize) -> Result<Option<Header>, OpenError> {
        let Some(segment) = self.segments.get(&ordinal).copied() else { return Ok(None) };
        let (log, geometry, seed) = (self.log, self.superblock.geometry, self.superblock.seed());
        let Some(bytes) = self.bytes(ordinal, offset, HEADER_LEN)? else { return Ok(None) };
        let header = Header::parse(bytes, &geometry, seed).ok();
        Ok(header
            .filter(|header| header.is_at(log.id, segment.sequence, offset) && header.epoch == log.epoch))
    }

    /// Checks the batch that begins at a position, inside an element of which some is there. Where it ends, and what it leaves
    /// unfinished; `None`: it is not valid, or not there.
    #[allow(clippy::type_complexity, reason = "a position, and how far an element has come")]
    fn batch(
        &mut self,
        start: u64,
        mut element: Option<(usize, usize)>,
    ) -> Result<Option<(u64, Option<(usize, usize)>)>, OpenError> {
        let geometry = self.superblock.geometry;
        let (mut ordinal, mut offset) = geometry.split(start);
        if offset + MIN_ROOM > geometry.segment_size {
            (ordinal, offset) = (ordinal + 1, 0);
        }
        let begins = offset;
        let seed = self.superblock.seed();
        loop {
            let Some(header) = self.header(ordinal, offset)? else { return Ok(None) };
            let Some(payload) = self.bytes(ordinal, header.payload_at(), header.length as usize)? else {
                return Ok(None);
            };
            if payload_crc(seed, payload) != header.payload_crc {
                return Ok(None);
            }
            let length = header.length as usize;
            element = match (header.kind, element) {
                (Kind::Head, element) if offset == 0 && length == Head::LEN => {
                    let Ok(head) = Head::parse(&header, payload, seed) else { return Ok(None) };
                    if head.ordinal != ordinal {
                        return Ok(None);
                    }
                    element
                }
                (Kind::Whole, None) if offset > 0 => None,
                (Kind::First, None) if offset == begins || begins == 0 && offset == HEAD_LEN => {
                    Some((length, header.total as usize))
                }
                (Kind::Middle | Kind::Last, Some((got, total)))
                    if offset > 0 && header.total as usize == total =>
                {
                    match (header.kind, got + length) {
                        (Kind::Last, all) if all == total => None,
                        (Kind::Middle, some) if some <= total => Some((some, total)),
                        _ => return Ok(None),
                    }
                }
                _ => return Ok(None),
            };
            match header.next(&geometry) {
                Next::NextSegment => return Ok(Some((geometry.position(ordinal + 1, 0), element))),
                Next::At(next) if header.ends_batch => {
                    return Ok(Some((geometry.position(ordinal, next), element)));
                }
                Next::At(next) => offset = next,
            }
        }
    }

    /// Bytes of a segment. `None`: they are not in it.
    fn bytes(&mut self, ordinal: u64, offset: usize, len: usize) -> Result<Option<&[u8]>, OpenError> {
        let geometry = &self.superblock.geometry;
        let Some(segment) = self.segments.get(&ordinal) else { return Ok(None) };
        if offset + len > geometry.segment_size {
            return Ok(None);
        }
        let from = match self.loaded {
            Some((loaded, from)) if loaded == ordinal && from <= offset => from,
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
            self.io.read_more(self.heap, place, step, &mut self.bytes)?;
        }
        Ok(self.bytes.get(offset - from..offset - from + len))
    }
}
