//! What was acknowledged: the newest checkpoint, and what follows it (`docs/log-format.md`, "Opening").
//!
//! Everything read is an allegation. The work is bounded by what the superblock, checked against the device, says.

use std::collections::BTreeMap;

use demi_api::memalloc::Heap;

use super::io::Io;
use super::open::OpenError;
use super::scan::{Part, STEP, Scan};
use crate::device::{Buffers, Command};
use crate::format::{
    Checkpoint, Damage, Geometry, HEADER_LEN, Head, Header, LogEntry, MIN_ROOM, Next, Segment, Superblock,
};

/// What can have been in flight of one log.
const IN_FLIGHT: usize = 4 << 20;

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
            let taken = given.with(log);
            let tail = tail(io, heap, superblock, log, &taken, &mut bytes)?;
            log.move_tail(superblock, tail, &taken);
        }
        look_for_lost(io, heap, superblock, &given.suspects, &logs)?;
    }
    Ok(Found { checkpoint, logs })
}

fn newest_checkpoint(io: &mut Io, heap: &Heap, superblock: &Superblock) -> Result<Checkpoint, OpenError> {
    let mut newest: Option<Checkpoint> = None;
    let mut damage = Damage::Blank;
    for area in 0..2 {
        match checkpoint_in(io, heap, superblock, area)? {
            Ok(checkpoint) if newest.as_ref().is_none_or(|newest| newest.number < checkpoint.number) => {
                newest = Some(checkpoint);
            }
            Ok(_) => {}
            Err(Damage::Misplaced) => damage = Damage::Misplaced,
            Err(what) if area == superblock.checkpoint % 2 => damage = what,
            Err(_) => {}
        }
    }
    newest
        .filter(|newest| newest.number >= superblock.checkpoint)
        .ok_or(OpenError::Checkpoint { number: superblock.checkpoint, damage })
}

/// The checkpoint in an area.
pub(crate) fn checkpoint_in(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    area: u64,
) -> Result<Result<Checkpoint, Damage>, OpenError> {
    let geometry = &superblock.geometry;
    let offset = geometry.checkpoint_at(area);
    let first = io.read(heap, offset, geometry.block_size)?;
    let len = match Checkpoint::declared_len(&first, geometry) {
        Ok(len) => len,
        Err(damage) => return Ok(Err(damage)),
    };
    let bytes = io.read(heap, offset, geometry.block_up(len))?;
    let checkpoint = Checkpoint::parse(&bytes, geometry, superblock.seed());
    Ok(checkpoint.and_then(|checkpoint| {
        let is_here = checkpoint.identity == superblock.identity_half() && checkpoint.number % 2 == area;
        if is_here { Ok(checkpoint) } else { Err(Damage::Misplaced) }
    }))
}

/// Segments that were given to logs since a checkpoint.
pub(crate) struct Given {
    /// Those with a valid head, by log and ordinal.
    heads: BTreeMap<(u32, u64), Segment>,
    /// All that may have been given away, by the sequence number that each would have got. None was given behind the last with
    /// a valid head, but for one whose head may be damaged.
    pub(crate) suspects: Vec<Segment>,
}

impl Given {
    /// A log's segments by their ordinals, those that it was given included.
    pub(crate) fn with(&self, log: &LogEntry) -> BTreeMap<u64, Segment> {
        let first = log.first_ordinal;
        let mut taken: BTreeMap<u64, Segment> = (first..).zip(log.segments.iter().copied()).collect();
        for ((id, ordinal), segment) in &self.heads {
            if *id == log.id && *ordinal >= first + log.segments.len() as u64 {
                taken.insert(*ordinal, *segment);
            }
        }
        taken
    }
}

impl LogEntry {
    /// The log ends elsewhere, and has those of its segments that are before.
    pub(crate) fn move_tail(&mut self, superblock: &Superblock, tail: u64, taken: &BTreeMap<u64, Segment>) {
        self.tail = tail;
        let (ordinal, offset) = superblock.geometry.split(tail);
        let end = ordinal + u64::from(offset > 0);
        self.segments = taken.range(..end).map(|(_, segment)| *segment).collect();
    }
}

/// Segments are given away in the order in which they were set aside, and get their sequence numbers in that order.
pub(crate) fn given(
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
pub(crate) fn look_for_lost(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    suspects: &[Segment],
    logs: &[LogEntry],
) -> Result<(), OpenError> {
    let geometry = &superblock.geometry;
    let mut bytes = Vec::new();
    let owned = |segment: &Segment| logs.iter().any(|log| log.segments.contains(segment));
    for segment in suspects.iter().filter(|segment| !owned(segment)) {
        for from in (0..geometry.segment_size).step_by(STEP) {
            let step = STEP.min(geometry.segment_size - from);
            bytes.clear();
            io.read_more(heap, geometry.segment_at(segment.index) + from as u64, step, &mut bytes)?;
            for (block, bytes) in bytes.chunks_exact(geometry.block_size).enumerate() {
                let Ok(header) = Header::parse(bytes, geometry, superblock.seed()) else { continue };
                let Some(log) = logs.iter().find(|log| log.id == header.log) else { continue };
                let here = header.is_at(log.id, segment.sequence, from + block * geometry.block_size);
                if here && header.epoch == log.epoch && header.stable > log.tail {
                    return Err(OpenError::Log { log: text(&log.name), position: log.tail });
                }
            }
        }
    }
    Ok(())
}

pub(crate) fn parse_head(bytes: &[u8], geometry: &Geometry, seed: u32) -> Result<(Header, Head), Damage> {
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

/// Where a log ends whose tail was at a place when the checkpoint was written.
pub(crate) fn tail(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    log: &LogEntry,
    taken: &BTreeMap<u64, Segment>,
    bytes: &mut Vec<u8>,
) -> Result<u64, OpenError> {
    let geometry = superblock.geometry;
    let mut scan = Scan::new(io, heap, superblock, log.id, log.epoch..=log.epoch, taken, bytes);
    let mut tail = log.tail;
    let mut at = tail;
    let mut part = Part::Nothing;
    while let Some((end, rest)) = batch(&mut scan, at, part)? {
        (at, part) = (end, rest);
        if part == Part::Nothing {
            tail = at;
        }
    }
    // What was in flight begins where the first invalid batch does.
    let (ordinal, offset) = geometry.split(at);
    let mut left = IN_FLIGHT;
    let mut from = offset;
    for next in taken.range(ordinal..).map(|(ordinal, _)| *ordinal) {
        if next != ordinal {
            from = 0;
        }
        while from < geometry.segment_size && left > 0 {
            if let Ok(header) = scan.header(next, from)?
                && header.stable > tail
            {
                return Err(OpenError::Log { log: text(&log.name), position: tail });
            }
            from += geometry.block_size;
            left = left.saturating_sub(geometry.block_size);
        }
    }
    Ok(tail)
}

/// Checks the batch that begins at a position, inside an element of which some is there. Where it ends, and what it leaves
/// unfinished; `None`: it is not valid, or not there.
fn batch(scan: &mut Scan<'_>, start: u64, mut part: Part) -> Result<Option<(u64, Part)>, OpenError> {
    let geometry = scan.geometry();
    let (mut ordinal, mut offset) = geometry.split(start);
    if offset + MIN_ROOM > geometry.segment_size {
        (ordinal, offset) = (ordinal + 1, 0);
    }
    let begins = offset;
    loop {
        let Ok((header, _, rest)) = scan.record(ordinal, offset, begins, part)? else { return Ok(None) };
        part = rest;
        match header.next(&geometry) {
            Next::NextSegment => return Ok(Some((geometry.position(ordinal + 1, 0), part))),
            Next::At(next) if header.ends_batch => {
                return Ok(Some((geometry.position(ordinal, next), part)));
            }
            Next::At(next) => offset = next,
        }
    }
}
