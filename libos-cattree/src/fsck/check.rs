//! A check of the whole image.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use demi_api::memalloc::Heap;

use super::report::{Finding, LogReport, Report, Severity, Summary};
use super::survey::{Survey, Surveyed, survey};
use super::walk::{Piece, Walked, walk};
use super::{Fault, Image};
use crate::format::{Damage, Geometry, Header, Superblock};
use crate::store::OpenError;
use crate::store::io::Io;
use crate::store::recover::text;
use crate::store::scan::Scan;

/// Higher ones were not counted up to.
const MOST_SEQUENCES: u64 = 1 << 61;

/// An image that was checked: the report, and what mending it starts from.
#[derive(Debug)]
pub struct Checked {
    /// What was found.
    pub report: Report,
    pub(super) survey: Survey,
    pub(super) walked: Vec<Walked>,
    /// No segment bears this sequence number, or a higher one that can have been counted up to.
    pub(super) next_sequence: u64,
    /// Segments that are in no log, although they were given to one.
    pub(super) orphans: u32,
}

impl Image {
    /// Checks everything. `progress` is told how many bytes of how many have been looked at.
    ///
    /// # Errors
    /// When there is no image, or the device fails. Damage is in the report.
    pub fn check(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Checked, OpenError> {
        let superblock = self.superblock()?;
        let survey = survey(&mut self.io, &self.heap, superblock)?;
        let mut report = Report::default();
        say_survey(&mut report, &survey);
        let geometry = superblock.geometry;
        let owned: usize = survey.logs.iter().map(|log| log.entry.segments.len()).sum();
        let total = owned as u64 * geometry.segment_size as u64
            + u64::from(geometry.segments) * geometry.block_size as u64;
        let mut done = 0;
        let mut walked = Vec::new();
        for log in &survey.logs {
            let mut tell = |bytes| progress(done + bytes, total);
            walked.push(check_log(&mut self.io, &self.heap, &superblock, log, &mut report, &mut tell)?);
            done += log.entry.segments.len() as u64 * geometry.segment_size as u64;
        }
        let mut checked = Checked { report, survey, walked, next_sequence: 0, orphans: 0 };
        checked.check_numbers();
        checked.check_free(&mut self.io, &self.heap, &mut |bytes| progress(done + bytes, total))?;
        checked.sum_up();
        Ok(checked)
    }
}

/// What is wrong with superblock and checkpoints.
fn say_survey(report: &mut Report, survey: &Survey) {
    let Survey { superblock, checkpoint, .. } = survey;
    let geometry = &superblock.geometry;
    let closed = checkpoint.closed && !survey.rebuilt;
    // What a crash can leave is none of the medium's faults.
    let spare = if closed { Severity::Error } else { Severity::Warning };
    for (slot, content) in (0..).zip(&survey.slots) {
        let offset = Some(geometry.superblock_at(slot));
        match content {
            Err(Damage::Blank) if superblock.generation == 0 => {}
            Err(damage) => report.say(spare, offset, format!("superblock slot {slot}: {damage}")),
            Ok(other) if other.geometry != *geometry || other.identity != superblock.identity => {
                report.say(Severity::Error, offset, format!("superblock slot {slot} is of another image"));
            }
            Ok(other) if other.generation % 2 != slot => {
                report.say(
                    spare,
                    offset,
                    format!("superblock slot {slot} bears generation {}", other.generation),
                );
            }
            Ok(_) => {}
        }
    }
    for (area, content) in (0..).zip(&survey.areas) {
        let offset = Some(geometry.checkpoint_at(area));
        let Err(damage) = content else { continue };
        let is_newest = survey.rebuilt && superblock.checkpoint % 2 == area;
        match damage {
            Damage::Blank if superblock.checkpoint == 0 && area == 1 => {}
            _ if is_newest => report.say(
                Severity::Error,
                offset,
                format!("checkpoint {} is damaged: {damage}", superblock.checkpoint),
            ),
            _ => report.say(spare, offset, format!("checkpoint area {area}: {damage}")),
        }
    }
    if survey.rebuilt {
        let number = superblock.checkpoint;
        let source = match survey.areas.iter().flatten().next() {
            Some(older) => format!("checkpoint {} and the heads of segments", older.number),
            None => "the heads of segments: names are lost".to_owned(),
        };
        report.say(
            Severity::Error,
            None,
            format!("checkpoint {number} cannot be read; what follows is from {source}"),
        );
    }
}

/// Says where something is wrong in a log.
fn finding(log: &Surveyed, geometry: &Geometry, severity: Severity, position: u64, text: String) -> Finding {
    let (ordinal, offset) = geometry.split(position);
    let segment = log.segments.get(&ordinal);
    Finding {
        severity,
        log: Some(self::text(&log.entry.name)),
        position: Some(position),
        offset: segment.map(|segment| geometry.segment_at(segment.index) + offset as u64),
        text,
    }
}

fn scan<'a>(
    io: &'a mut Io,
    heap: &'a Heap,
    superblock: &'a Superblock,
    log: &'a Surveyed,
    bytes: &'a mut Vec<u8>,
) -> Scan<'a> {
    Scan::new(io, heap, superblock, log.entry.id, 0..=log.entry.epoch, &log.segments, bytes)
}

fn check_log(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    log: &Surveyed,
    report: &mut Report,
    progress: &mut dyn FnMut(u64),
) -> Result<Walked, OpenError> {
    let geometry = superblock.geometry;
    let begin = geometry.position(log.entry.first_ordinal, 0);
    let mut faults: Vec<(u64, Fault)> = Vec::new();
    let mut bytes = Vec::new();
    let mut scan = scan(io, heap, superblock, log, &mut bytes);
    let mut seen = 0;
    let mut more = 0;
    let walked = walk(&mut scan, &log.entry, log.is_open, &mut |piece| {
        match piece {
            // Enough to list; the rest is counted.
            Piece::Fault { position, fault } if faults.len() < 1000 => faults.push((position, fault)),
            Piece::Fault { .. } => more += 1,
            Piece::Record { position, .. } if position - begin >= seen => {
                progress(position - begin);
                seen = position - begin + (1 << 20);
            }
            Piece::Record { .. } | Piece::Part { .. } => {}
        }
        ControlFlow::Continue(())
    })?;
    for (position, fault) in faults {
        let severity = match position {
            _ if position < log.entry.head => Severity::Note,
            _ if walked.cut.is_none() => continue,
            _ => Severity::Error,
        };
        report.add(finding(log, &geometry, severity, position, fault.to_string()));
    }
    if walked.cut.is_some() {
        report.errors += more;
        report.omitted += more;
    }
    let tail = if log.is_open { walked.end } else { log.entry.tail };
    if log.is_refused {
        let position = walked.cut.unwrap_or(log.before);
        let text = "opening refuses the image: behind this position there is what was acknowledged, and what is here is damaged";
        report.add(finding(log, &geometry, Severity::Error, position, text.to_owned()));
    } else if tail > log.before {
        let text = format!("{} bytes follow what the checkpoint lists, and are kept", tail - log.before);
        report.add(finding(log, &geometry, Severity::Note, log.before, text));
    }
    scan.epochs = log.entry.epoch..=log.entry.epoch;
    if walked.torn || !log.is_open && !log.is_refused && is_torn(&mut scan, tail)? {
        let text = "what was being written here was never acknowledged, and is cut off".to_owned();
        report.add(finding(log, &geometry, Severity::Note, tail, text));
    }
    Ok(walked)
}

/// Whether there is a part of a batch at a log's end.
fn is_torn(scan: &mut Scan<'_>, tail: u64) -> Result<bool, OpenError> {
    let (ordinal, offset) = scan.geometry().split(tail);
    Ok(offset > 0 && scan.header(ordinal, offset)?.is_ok())
}

impl Checked {
    /// Sequence numbers rise along a log, none is there twice, and all are below the next.
    fn check_numbers(&mut self) {
        let geometry = self.survey.superblock.geometry;
        let mut seen = BTreeMap::new();
        let mut names = BTreeMap::new();
        self.next_sequence = self.survey.checkpoint.next_sequence;
        for log in &self.survey.logs {
            if let Some(other) = names.insert(&log.entry.name, log.entry.id) {
                let text = format!("log {other} has the same name");
                self.report.add(finding(log, &geometry, Severity::Error, log.entry.head, text));
            }
            let mut before = None;
            for (ordinal, segment) in &log.segments {
                let position = geometry.position(*ordinal, 0);
                let mut say = |text| {
                    self.report.add(finding(log, &geometry, Severity::Error, position, text));
                };
                if before.is_some_and(|before| before >= segment.sequence) {
                    say(format!("sequence number {} does not rise", segment.sequence));
                }
                if let Some(other) = seen.insert(segment.sequence, log.entry.id) {
                    say(format!("sequence number {} is also in log {other}", segment.sequence));
                }
                before = Some(segment.sequence);
                self.next_sequence = self.next_sequence.max(segment.sequence.saturating_add(1));
            }
        }
    }

    /// Segments that no log has.
    fn check_free(
        &mut self,
        io: &mut Io,
        heap: &Heap,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), OpenError> {
        let Survey { superblock, checkpoint, rebuilt, logs, .. } = &self.survey;
        let geometry = superblock.geometry;
        let owned = self.survey.owned();
        // What was begun in them, and with which sequence numbers, is explained.
        let given: BTreeMap<u32, u64> = match checkpoint.closed {
            true => BTreeMap::new(),
            false => checkpoint.set_aside.iter().copied().zip(checkpoint.next_sequence..).collect(),
        };
        let names: BTreeMap<u32, &[u8]> =
            logs.iter().map(|log| (log.entry.id, &log.entry.name[..])).collect();
        for index in 0..geometry.segments {
            let is_free = !owned[index as usize];
            self.report.summary.free_segments += u32::from(is_free);
            let offset = geometry.segment_at(index);
            if index % 256 == 0 {
                progress(u64::from(index) * geometry.block_size as u64);
            }
            let Some(header) = first_header(io, heap, superblock, index)? else { continue };
            if header.sequence < MOST_SEQUENCES {
                self.next_sequence = self.next_sequence.max(header.sequence + 1);
            }
            if !is_free {
                continue;
            }
            self.report.summary.stale_segments += 1;
            let is_later = header.sequence >= checkpoint.next_sequence;
            let is_given = given.get(&index) == Some(&header.sequence);
            if !rebuilt && (is_later && !is_given || header.log >= checkpoint.next_log) {
                let whose = names.get(&header.log).map_or(format!("log {}", header.log), |name| text(name));
                let what = format!(
                    "segment {index} was given to {whose} (sequence number {}) after the checkpoint, but not from \
                     what that has set aside: no log has it",
                    header.sequence
                );
                self.report.say(Severity::Error, Some(offset), what);
                self.orphans += 1;
            }
        }
        Ok(())
    }

    fn sum_up(&mut self) {
        let Survey { superblock, checkpoint, rebuilt, logs, .. } = &self.survey;
        for (log, walked) in logs.iter().zip(&self.walked) {
            self.report.logs.push(LogReport {
                name: text(&log.entry.name),
                id: log.entry.id,
                head: log.entry.head,
                tail: if log.is_open { walked.end } else { log.entry.tail },
                checkpoint_tail: log.before,
                elements: walked.elements,
                bytes: walked.bytes,
                segments: log.entry.segments.len(),
                damaged: walked.cut,
                behind: walked.behind.clone(),
            });
        }
        let sum = |of: fn(&Walked) -> u64| self.walked.iter().map(of).sum();
        self.report.summary = Summary {
            block_size: superblock.geometry.block_size,
            segment_size: superblock.geometry.segment_size,
            segments: superblock.geometry.segments,
            checkpoint: checkpoint.number,
            closed: checkpoint.closed,
            rebuilt: *rebuilt,
            logs: logs.len(),
            elements: sum(|walked| walked.elements),
            bytes: sum(|walked| walked.bytes),
            ..std::mem::take(&mut self.report.summary)
        };
    }

    /// The whole name of a log.
    pub fn name(&self, log: usize) -> Option<&[u8]> {
        self.survey.logs.get(log).map(|log| &log.entry.name[..])
    }

    pub(super) fn elements(
        &self,
        io: &mut Io,
        heap: &Heap,
        log: usize,
        from: u64,
        visit: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), OpenError> {
        let (Some(log), Some(walked)) = (self.survey.logs.get(log), self.walked.get(log)) else {
            return Ok(());
        };
        // What is behind a torn end was never there.
        let mut entry = log.entry.clone();
        let is_open = log.is_open && !walked.torn;
        if walked.torn {
            entry.tail = walked.end;
        }
        let mut bytes = Vec::new();
        let mut scan = scan(io, heap, &self.survey.superblock, log, &mut bytes);
        walk(&mut scan, &entry, is_open, &mut |piece| match piece {
            Piece::Part { position, .. } | Piece::Fault { position, .. }
                if position >= from.max(entry.head) =>
            {
                visit(piece)
            }
            _ => ControlFlow::Continue(()),
        })
        .map(drop)
    }

    pub(super) fn headers(
        &self,
        io: &mut Io,
        heap: &Heap,
        log: usize,
        visit: &mut dyn FnMut(u64, u64, &Header) -> ControlFlow<()>,
    ) -> Result<(), OpenError> {
        let Some(log) = self.survey.logs.get(log) else { return Ok(()) };
        let geometry = self.survey.superblock.geometry;
        let mut bytes = Vec::new();
        let mut scan = scan(io, heap, &self.survey.superblock, log, &mut bytes);
        walk(&mut scan, &log.entry, log.is_open, &mut |piece| match piece {
            Piece::Record { position, header } => {
                let (ordinal, offset) = geometry.split(position);
                let Some(segment) = log.segments.get(&ordinal) else { return ControlFlow::Continue(()) };
                visit(position, geometry.segment_at(segment.index) + offset as u64, header)
            }
            _ => ControlFlow::Continue(()),
        })
        .map(drop)
    }
}

/// The header that a segment begins with, whatever kind it says.
pub(super) fn first_header(
    io: &mut Io,
    heap: &Heap,
    superblock: &Superblock,
    index: u32,
) -> Result<Option<Header>, OpenError> {
    let geometry = &superblock.geometry;
    let bytes = io.read(heap, geometry.segment_at(index), geometry.block_size)?;
    let header = Header::parse(&bytes, geometry, superblock.seed());
    Ok(header.ok().filter(|header| header.offset == 0))
}

impl Survey {
    /// Which segments logs have.
    pub(super) fn owned(&self) -> Vec<bool> {
        let mut owned = vec![false; self.superblock.geometry.segments as usize];
        for segment in self.logs.iter().flat_map(|log| log.segments.values()) {
            owned[segment.index as usize] = true;
        }
        owned
    }
}
