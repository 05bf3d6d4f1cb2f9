//! What the logs are, when no checkpoint says so: each segment's head names its log, its place in it, and its time.
//!
//! A log ends in the segment that it was given last, and goes back from there through those that it was given before. What it had given
//! up, or what was cut from it, was given earlier, and is told from what it has by that; a log that was removed
//! cannot be told from one that was not.

use std::collections::BTreeMap;

use demi_api::error::Error;
use demi_api::memalloc::Heap;

use super::survey::{Surveyed, headless, place};
use crate::format::{Checkpoint, Damage, LogEntry, Segment, Superblock};
use crate::store::OpenError;
use crate::store::io::Io;
use crate::store::recover::parse_head;

/// What the segments say of a log.
#[derive(Default)]
struct Traces {
    /// By sequence numbers: the ordinal, the index, and where the log began then.
    heads: BTreeMap<u64, (u64, u32, u64)>,
    /// Those without a valid head.
    headless: Vec<Segment>,
    epoch: u32,
}

/// A checkpoint that says what is there, from an older one if there is one, and the logs.
pub(super) fn rebuild(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    older: Option<Checkpoint>,
) -> Result<(Checkpoint, Vec<Surveyed>), OpenError> {
    let geometry = &superblock.geometry;
    let mut traces: BTreeMap<u32, Traces> = BTreeMap::new();
    let mut checkpoint = older.clone().unwrap_or_default();
    checkpoint.identity = superblock.identity_half();
    for index in 0..geometry.segments {
        let bytes = io.read(heap, geometry.segment_at(index), geometry.block_size)?;
        let (log, sequence, epoch) = match parse_head(&bytes, geometry, superblock.seed()) {
            Ok((header, head)) => {
                if is_possible(header.log, header.sequence) {
                    let traces = traces.entry(header.log).or_default();
                    traces.heads.insert(header.sequence, (head.ordinal, index, head.head));
                }
                (header.log, header.sequence, header.epoch)
            }
            Err(Damage::Blank) => continue,
            Err(_) => {
                let Some((log, sequence, epoch)) = headless(io, heap, superblock, index)? else { continue };
                if is_possible(log, sequence) {
                    traces.entry(log).or_default().headless.push(Segment { index, sequence });
                }
                (log, sequence, epoch)
            }
        };
        if !is_possible(log, sequence) {
            continue;
        }
        let traces = traces.entry(log).or_default();
        traces.epoch = traces.epoch.max(epoch);
        checkpoint.epoch = checkpoint.epoch.max(epoch);
        checkpoint.next_log = checkpoint.next_log.max(log + 1);
        checkpoint.next_sequence = checkpoint.next_sequence.max(sequence + 1);
    }
    let mut logs = Vec::new();
    let known = older.map(|older| older.logs).unwrap_or_default();
    for entry in &known {
        let traces = traces.remove(&entry.id).unwrap_or_default();
        logs.push(log_of(superblock, entry.clone(), traces));
    }
    for (id, traces) in traces {
        let entry = LogEntry { id, name: format!("lost-{id}").into_bytes(), ..LogEntry::default() };
        if logs.len() < geometry.max_logs as usize {
            logs.push(log_of(superblock, entry, traces));
        }
    }
    logs.sort_by_key(|log| log.entry.id);
    checkpoint.set_aside = Vec::new();
    checkpoint.closed = false;
    checkpoint.logs = logs.iter().map(|log| log.entry.clone()).collect();
    Ok((checkpoint, logs))
}

/// Numbers that leave room for more.
fn is_possible(log: u32, sequence: u64) -> bool {
    log < u32::MAX && sequence < 1 << 62
}

fn log_of(superblock: &Superblock, mut entry: LogEntry, mut traces: Traces) -> Surveyed {
    let geometry = &superblock.geometry;
    let before = entry.tail;
    let mut chain = BTreeMap::new();
    // From the newest back: each is the newest of its place that is older than the one behind it.
    for (sequence, (ordinal, index, _)) in traces.heads.iter().rev() {
        let is_before = chain.first_key_value().is_none_or(|(first, _)| ordinal < first);
        if is_before {
            chain.insert(*ordinal, Segment { index: *index, sequence: *sequence });
        }
    }
    if let Some((_, (_, _, head))) = traces.heads.last_key_value() {
        entry.head = entry.head.max(*head);
    }
    let (first, _) = geometry.split(entry.head);
    chain.retain(|ordinal, _| *ordinal >= first);
    traces.headless.sort_by_key(|segment| segment.sequence);
    for segment in traces.headless {
        place(&mut chain, first, segment);
    }
    // A gap: what is behind it is all that can be had, or what is before it, if that is where the log begins.
    let Some((&lowest, _)) = chain.first_key_value() else {
        // Everything was given up, or nothing was ever written.
        let end = geometry.position(entry.first_ordinal + entry.segments.len() as u64, 0);
        (entry.head, entry.tail, entry.first_ordinal) = (end, end, geometry.split(end).0);
        entry.segments = Vec::new();
        entry.epoch = entry.epoch.max(traces.epoch);
        return Surveyed::settled(entry, before);
    };
    if lowest > first {
        entry.head = geometry.position(lowest, 0);
    }
    entry.first_ordinal = lowest;
    entry.tail = geometry.position(lowest, 0);
    entry.epoch = u32::MAX;
    Surveyed::open(entry, before, chain, false)
}

/// What a rebuilt checkpoint cannot do without.
pub(super) fn next(number: u64) -> Result<u64, OpenError> {
    number.checked_add(1).filter(|next| *next < 1 << 62).ok_or(OpenError::Device(Error::NoSpace))
}
