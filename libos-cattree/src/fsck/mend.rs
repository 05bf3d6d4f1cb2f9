//! What mending writes: parts of segments to free ones, then a checkpoint, then the superblock that names it.

use std::collections::VecDeque;

use demi_api::error::Error;
use demi_api::memalloc::Heap;

use super::check::{Checked, first_header};
use super::rebuild::next;
use super::{Image, Severity};
use crate::format::{Checkpoint, Geometry, HEAD_LEN, LogEntry, Segment, Superblock};
use crate::store::OpenError;
use crate::store::io::Io;
use crate::store::names::restamp;
use crate::store::recover::text;

/// Where logs that are damaged in the middle end after mending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ends {
    /// Where they end now, so that what is behind the damage can be read.
    Behind,
    /// Before the damage.
    Before,
}

impl Checked {
    /// What mending would do, and what would be lost, a line each.
    pub fn plan(&self, salvage: bool) -> Vec<String> {
        let mut plan = Vec::new();
        if self.survey.rebuilt {
            plan.push("rebuild the checkpoint from the heads of the segments".to_owned());
            for log in &self.survey.logs {
                if log.entry.name == format!("lost-{}", log.entry.id).into_bytes() {
                    plan.push(format!(
                        "give log {} the name {:?}, as its own is lost",
                        log.entry.id,
                        text(&log.entry.name)
                    ));
                }
            }
            plan.push(
                "what was cut or removed since the last readable checkpoint may be there again".to_owned(),
            );
        }
        for log in &self.report.logs {
            let Some(position) = log.damaged else { continue };
            let behind: u64 = log.behind.iter().map(|run| run.elements).sum();
            let bytes: u64 = log.behind.iter().map(|run| run.bytes).sum();
            plan.push(format!(
                "cut log {:?} at position {position}, where it is damaged: the damaged elements are lost",
                log.name
            ));
            plan.push(match (behind, salvage) {
                (0, _) => format!("no whole element of {:?} is behind the damage", log.name),
                (_, true) => format!(
                    "copy the {behind} elements ({bytes} bytes) behind it to \"{}.salvaged\"",
                    log.name
                ),
                (_, false) => format!(
                    "{behind} valid elements ({bytes} bytes) behind it are LOST: `--salvage` would keep them"
                ),
            });
        }
        if self
            .report
            .findings
            .iter()
            .any(|finding| finding.log.is_none() && finding.severity > Severity::Note)
        {
            plan.push("write both superblock slots and both checkpoint areas anew".to_owned());
        }
        plan
    }
}

impl Image {
    /// Writes what was found as a new checkpoint. What it does not list is lost for good.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if there is nothing to go on with: numbers that have come to their end, or no room for the list.
    pub fn mend(&mut self, checked: &Checked, ends: Ends) -> Result<(), OpenError> {
        let superblock = checked.survey.superblock;
        let geometry = superblock.geometry;
        let owned = checked.survey.owned();
        let mut free: VecDeque<u32> =
            (0..geometry.segments).filter(|index| !owned[*index as usize]).collect();
        let highest = checked.walked.iter().map(|walked| walked.epoch).max().unwrap_or(0);
        let epoch = highest.max(checked.survey.checkpoint.epoch).checked_add(1);
        let epoch = epoch.filter(|epoch| *epoch < u32::MAX).ok_or(Error::NoSpace)?;
        let mut next_sequence = checked.next_sequence;
        let mut logs: Vec<LogEntry> = Vec::new();
        for (log, walked) in checked.survey.logs.iter().zip(&checked.walked) {
            let mut entry = log.entry.clone();
            if log.is_open {
                entry.move_tail(
                    &superblock,
                    walked.end.max(entry.head.next_multiple_of(geometry.block_size as u64)),
                    &log.segments,
                );
                entry.epoch = epoch;
            }
            if logs.iter().any(|other| other.name == entry.name) {
                entry.name = format!("lost-{}", entry.id).into_bytes();
            }
            if let (Some(at), Ends::Before) = (walked.cut, ends) {
                entry.epoch = epoch;
                let mut copy =
                    Copy { io: &mut self.io, heap: &self.heap, superblock: &superblock, free: &mut free };
                copy.cut(&mut entry, at, walked.cut_batch, &mut next_sequence)?;
            }
            logs.push(entry);
        }
        logs.truncate(geometry.max_logs as usize);
        let [first, second] = checked.survey.areas.each_ref().map(|area| area.as_ref().ok());
        let newest = [first, second].into_iter().flatten().map(|checkpoint| checkpoint.number).max();
        let mut number = next(newest.unwrap_or(0).max(superblock.checkpoint))?;
        // The only one that can be read stays until this one can be.
        if checked.survey.areas[(number % 2) as usize].is_ok()
            && checked.survey.areas[((number + 1) % 2) as usize].is_err()
        {
            number = next(number)?;
        }
        let next_log = logs.iter().map(|log| log.id + 1).max().unwrap_or(0);
        let checkpoint = Checkpoint {
            number,
            identity: superblock.identity_half(),
            epoch,
            next_sequence: next_sequence.checked_add(u64::from(geometry.reserve)).ok_or(Error::NoSpace)?,
            next_log: next_log.max(checked.survey.checkpoint.next_log),
            closed: true,
            set_aside: free.into_iter().take(geometry.reserve as usize).collect(),
            logs,
        };
        self.write_checkpoint(checked, &checkpoint)?;
        if ends == Ends::Before { self.wipe(&superblock, &checkpoint) } else { Ok(()) }
    }

    /// Removes the heads of free segments that say what no log can have: they would be found again.
    fn wipe(&mut self, superblock: &Superblock, checkpoint: &Checkpoint) -> Result<(), OpenError> {
        let geometry = superblock.geometry;
        let mut owned = vec![false; geometry.segments as usize];
        for segment in checkpoint.logs.iter().flat_map(|log| &log.segments) {
            owned[segment.index as usize] = true;
        }
        for index in (0..geometry.segments).filter(|index| !owned[*index as usize]) {
            let Some(header) = first_header(&mut self.io, &self.heap, superblock, index)? else { continue };
            if header.sequence >= checkpoint.next_sequence || header.log >= checkpoint.next_log {
                self.io.write(&self.heap, geometry.segment_at(index), &vec![0; geometry.block_size])?;
            }
        }
        Ok(())
    }

    fn write_checkpoint(&mut self, checked: &Checked, checkpoint: &Checkpoint) -> Result<(), OpenError> {
        let superblock = checked.survey.superblock;
        let geometry = superblock.geometry;
        if checkpoint.len() > geometry.checkpoint_len() {
            return Err(Error::NoSpace.into());
        }
        let mut bytes = vec![0; geometry.block_up(checkpoint.len())];
        checkpoint.emit(&mut bytes, superblock.seed());
        // What could not be read again must not be written.
        Checkpoint::parse(&bytes, &geometry, superblock.seed())
            .map_err(|damage| OpenError::Checkpoint { number: checkpoint.number, damage })?;
        self.io.write(&self.heap, geometry.checkpoint_at(checkpoint.number), &bytes)?;
        let mut generation = next(superblock.generation)?;
        // The slot that counts stays until the other does, wherever it is.
        if checked.survey.slots[(generation % 2) as usize] == Ok(superblock) {
            generation = next(generation)?;
        }
        let mut bytes = vec![0; geometry.block_size];
        Superblock { generation, checkpoint: checkpoint.number, ..superblock }.emit(&mut bytes);
        self.io.write(&self.heap, geometry.superblock_at(generation), &bytes)?;
        Ok(())
    }
}

/// Copies what is before the end of a log to a free segment.
struct Copy<'a> {
    io: &'a mut Io,
    heap: &'a Heap,
    superblock: &'a Superblock,
    free: &'a mut VecDeque<u32>,
}

impl Copy<'_> {
    /// Ends a log before the element at a position; if that is within a batch, the segment is replaced by a copy. Where there is
    /// no room for one, the whole batch goes.
    fn cut(
        &mut self,
        entry: &mut LogEntry,
        at: u64,
        batch: u64,
        next_sequence: &mut u64,
    ) -> Result<(), OpenError> {
        let geometry = self.superblock.geometry;
        if at <= entry.head {
            clear(entry, &geometry);
            return Ok(());
        }
        let (ordinal, offset) = geometry.split(at);
        let place = ordinal.checked_sub(entry.first_ordinal).ok_or(Error::NoSpace)? as usize;
        let old = entry.segments.get(place).copied();
        let whole = geometry.block_up(offset);
        let (tail, keep) = match old {
            _ if offset <= HEAD_LEN => (geometry.position(ordinal, 0), place),
            _ if offset % geometry.block_size == 0 => (at, place + 1),
            Some(old) => match self.copy(entry.id, old, offset, *next_sequence)? {
                Some(copy) => {
                    entry.segments[place] = copy;
                    *next_sequence = next(*next_sequence)?;
                    (geometry.position(ordinal, whole), place + 1)
                }
                None => (batch, place + usize::from(geometry.split(batch).1 > 0)),
            },
            None => (batch, place),
        };
        entry.segments.truncate(keep);
        entry.tail = tail;
        if tail < entry.head {
            clear(entry, &geometry);
        }
        Ok(())
    }

    /// `None`: there is no room, or what is to be copied is damaged itself.
    fn copy(
        &mut self,
        log: u32,
        old: Segment,
        end: usize,
        sequence: u64,
    ) -> Result<Option<Segment>, OpenError> {
        let geometry = self.superblock.geometry;
        let len = geometry.block_up(end);
        let mut bytes = self.io.read(self.heap, geometry.segment_at(old.index), len)?;
        bytes[end..].fill(0);
        let seed = self.superblock.seed();
        if restamp(&mut bytes, &geometry, seed, log, old.sequence, sequence, end).is_err() {
            return Ok(None);
        }
        let Some(index) = self.free.pop_front() else { return Ok(None) };
        self.io.write(self.heap, geometry.segment_at(index), &bytes)?;
        Ok(Some(Segment { index, sequence }))
    }
}

/// Nothing is left: the log goes on behind all that there was.
fn clear(entry: &mut LogEntry, geometry: &Geometry) {
    entry.first_ordinal += entry.segments.len() as u64;
    entry.segments.clear();
    let end = geometry.position(entry.first_ordinal, 0);
    (entry.head, entry.tail) = (end, end);
}
