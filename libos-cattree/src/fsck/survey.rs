//! Which checkpoint counts, and which logs there are: as an opening finds it, but going on where that would fail.

use std::collections::BTreeMap;

use demi_api::memalloc::Heap;

use super::rebuild;
use crate::format::{Checkpoint, Damage, HEADER_LEN, Header, LogEntry, Segment, Superblock};
use crate::store::OpenError;
use crate::store::io::Io;
use crate::store::recover::{self, Given};

/// What an image consists of.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) superblock: Superblock,
    pub(super) slots: [Result<Superblock, Damage>; 2],
    pub(super) areas: [Result<Checkpoint, Damage>; 2],
    /// The one that counts, or what can be known of it.
    pub(super) checkpoint: Checkpoint,
    /// There is none that counts.
    pub(super) rebuilt: bool,
    pub(super) logs: Vec<Surveyed>,
}

/// One log.
#[derive(Debug)]
pub(super) struct Surveyed {
    /// With the segments that it has, and the tail that it has now, if that is known.
    pub(super) entry: LogEntry,
    /// Its tail in the checkpoint.
    pub(super) before: u64,
    /// Its tail is to be found: behind it something is damaged, or there is no checkpoint.
    pub(super) is_open: bool,
    /// Opening refuses it.
    pub(super) is_refused: bool,
    /// What the opening of the image would not find out.
    pub(super) segments: BTreeMap<u64, Segment>,
}

impl Surveyed {
    pub(super) fn settled(entry: LogEntry, before: u64) -> Surveyed {
        let segments = (entry.first_ordinal..).zip(entry.segments.iter().copied()).collect();
        Surveyed { entry, before, is_open: false, is_refused: false, segments }
    }

    /// A log that has these segments, the end of which is to be found. What follows a gap is not its.
    pub(super) fn open(
        mut entry: LogEntry,
        before: u64,
        mut segments: BTreeMap<u64, Segment>,
        is_refused: bool,
    ) -> Surveyed {
        let consecutive =
            (entry.first_ordinal..).zip(segments.keys()).take_while(|(want, have)| want == *have).count();
        segments.retain(|ordinal, _| *ordinal < entry.first_ordinal + consecutive as u64);
        entry.segments = segments.values().copied().collect();
        Surveyed { entry, before, is_open: true, is_refused, segments }
    }
}

pub(super) fn survey(io: &mut Io, heap: &Heap, superblock: Superblock) -> Result<Survey, OpenError> {
    let geometry = superblock.geometry;
    let mut slot = |slot| io.read(heap, geometry.superblock_at(slot), geometry.block_size);
    let slots = [Superblock::parse(&slot(0)?), Superblock::parse(&slot(1)?)];
    let areas = [
        recover::checkpoint_in(io, heap, &superblock, 0)?,
        recover::checkpoint_in(io, heap, &superblock, 1)?,
    ];
    let newest = areas.iter().flatten().max_by_key(|checkpoint| checkpoint.number).cloned();
    match newest {
        Some(newest) if newest.number >= superblock.checkpoint => {
            let logs = logs_of(io, heap, &superblock, &newest)?;
            Ok(Survey { superblock, slots, areas, checkpoint: newest, rebuilt: false, logs })
        }
        older => {
            let (checkpoint, logs) = rebuild::rebuild(io, heap, &superblock, older)?;
            Ok(Survey { superblock, slots, areas, checkpoint, rebuilt: true, logs })
        }
    }
}

/// The logs as recovery finds them.
fn logs_of(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    checkpoint: &Checkpoint,
) -> Result<Vec<Surveyed>, OpenError> {
    if checkpoint.closed {
        let settled = |entry: &LogEntry| Surveyed::settled(entry.clone(), entry.tail);
        return Ok(checkpoint.logs.iter().map(settled).collect());
    }
    let given = recover::given(io, heap, superblock, checkpoint)?;
    let mut logs = Vec::new();
    let mut bytes = Vec::new();
    for entry in &checkpoint.logs {
        let taken = given.with(entry);
        match recover::tail(io, heap, superblock, entry, &taken, &mut bytes) {
            Ok(tail) => {
                let mut entry = entry.clone();
                let before = entry.tail;
                entry.move_tail(superblock, tail, &taken);
                logs.push(Surveyed::settled(entry, before));
            }
            Err(OpenError::Log { .. }) => {
                logs.push(Surveyed::open(entry.clone(), entry.tail, taken, true));
            }
            Err(error) => return Err(error),
        }
    }
    adopt(io, heap, superblock, &given, &mut logs)?;
    Ok(logs)
}

/// Gives logs those segments whose heads are damaged but that hold what was acknowledged.
fn adopt(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    given: &Given,
    logs: &mut [Surveyed],
) -> Result<(), OpenError> {
    loop {
        let entries: Vec<LogEntry> = logs.iter().map(|log| log.entry.clone()).collect();
        match recover::look_for_lost(io, heap, superblock, &given.suspects, &entries) {
            Ok(()) => return Ok(()),
            Err(OpenError::Log { .. }) => {}
            Err(error) => return Err(error),
        }
        let owned: Vec<Segment> = entries.iter().flat_map(|entry| entry.segments.iter().copied()).collect();
        let mut adopted = false;
        for segment in given.suspects.iter().filter(|segment| !owned.contains(segment)) {
            let Some((id, sequence, _)) = headless(io, heap, superblock, segment.index)? else { continue };
            if sequence != segment.sequence {
                continue;
            }
            let Some(log) = logs.iter_mut().find(|log| log.entry.id == id) else { continue };
            let mut taken = given.with(&log.entry);
            taken.extend(log.segments.iter().map(|(ordinal, segment)| (*ordinal, *segment)));
            if place(&mut taken, log.entry.first_ordinal, *segment) {
                let mut entry = log.entry.clone();
                entry.tail = log.before;
                let before = log.entry.segments.len();
                *log = Surveyed::open(entry, log.before, taken, true);
                adopted |= log.entry.segments.len() > before;
            }
        }
        if !adopted {
            // They cannot be placed: the log ends before them, and that is an error.
            for log in logs.iter_mut() {
                log.is_refused |= is_lost(io, heap, superblock, given, &log.entry)?;
            }
            return Ok(());
        }
    }
}

fn is_lost(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    given: &Given,
    entry: &LogEntry,
) -> Result<bool, OpenError> {
    match recover::look_for_lost(io, heap, superblock, &given.suspects, std::slice::from_ref(entry)) {
        Ok(()) => Ok(false),
        Err(OpenError::Log { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Puts a segment of which the ordinal is not known behind the one that was given before it. False: there is one already.
pub(super) fn place(taken: &mut BTreeMap<u64, Segment>, first: u64, segment: Segment) -> bool {
    let before = taken.iter().filter(|(_, other)| other.sequence < segment.sequence).map(|(at, _)| *at).max();
    let ordinal = before.map_or(first, |ordinal| ordinal + 1);
    if taken.contains_key(&ordinal) || taken.values().any(|other| other.index == segment.index) {
        return false;
    }
    taken.insert(ordinal, segment);
    true
}

/// Whose a segment without a valid head is, as the first valid header at one of its blocks says: log, sequence number, epoch.
pub(super) fn headless(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    index: u32,
) -> Result<Option<(u32, u64, u32)>, OpenError> {
    let geometry = &superblock.geometry;
    let step = geometry.segment_size.min(1 << 20);
    for from in (0..geometry.segment_size).step_by(step) {
        let bytes = io.read(heap, geometry.segment_at(index) + from as u64, step)?;
        for offset in (0..step).step_by(geometry.block_size) {
            let Some(bytes) = bytes.get(offset..offset + HEADER_LEN) else { continue };
            match Header::parse(bytes, geometry, superblock.seed()) {
                Ok(header) if header.offset as usize == from + offset => {
                    return Ok(Some((header.log, header.sequence, header.epoch)));
                }
                _ => {}
            }
        }
    }
    Ok(None)
}
