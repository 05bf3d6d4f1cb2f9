//! Along one log, from its first segment to its end. What is damaged is passed over: to the next record if the header says where
//! that is, otherwise to the next header that is valid at its place.
//!
//! Every byte is looked at a bounded number of times, whatever headers say: the way leads forward only.

use std::ops::ControlFlow;

use super::Run;
use crate::format::{HEAD_LEN, HEADER_LEN, Header, Kind, LogEntry, MIN_ROOM, Next};
use crate::store::OpenError;
use crate::store::scan::{Fault, Part, Scan};

/// Most runs that are kept of one log.
const MAX_RUNS: usize = 4096;

/// What is come across.
#[derive(Debug)]
pub enum Piece<'a> {
    /// A part of an element.
    Part {
        /// The element's position.
        position: u64,
        /// The bytes of the whole element.
        total: usize,
        /// How many of them came before.
        got: usize,
        /// The next of them.
        bytes: &'a [u8],
    },
    /// Something is not as it should be.
    Fault {
        /// Where.
        position: u64,
        /// What it is.
        fault: Fault,
    },
    /// A valid record of any kind.
    Record {
        /// Where.
        position: u64,
        /// Its header.
        header: &'a Header,
    },
}

/// What a log is like.
#[derive(Clone, Debug, Default)]
pub(super) struct Walked {
    /// Whole elements from the head on.
    pub(super) elements: u64,
    pub(super) bytes: u64,
    /// Where the last valid batch ends.
    pub(super) end: u64,
    /// The first element that is not whole.
    pub(super) cut: Option<u64>,
    /// Where the batch begins that it is in.
    pub(super) cut_batch: u64,
    /// Elements behind it.
    pub(super) behind: Vec<Run>,
    /// The highest epoch.
    pub(super) epoch: u32,
    /// There is something behind a place at which the log may just have ended.
    pub(super) torn: bool,
}

/// How far a log has been seen to be good.
#[derive(Clone, Copy, Default)]
struct Good {
    elements: u64,
    bytes: u64,
    end: u64,
}

/// Goes along a log up to its tail; if that is not certain, `is_open`, up to where nothing valid follows.
pub(super) fn walk(
    scan: &mut Scan<'_>,
    entry: &LogEntry,
    is_open: bool,
    visit: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<Walked, OpenError> {
    let geometry = scan.geometry();
    let newest = *scan.epochs.end();
    let last = geometry.position(entry.first_ordinal + entry.segments.len() as u64, 0);
    let limit = if is_open { last } else { entry.tail };
    let mut walked = Walked::default();
    let mut at = geometry.position(entry.first_ordinal, 0);
    let mut good = Good { end: at, ..Good::default() };
    let mut begins = 0;
    let mut part = if entry.first_ordinal > 0 { Part::Unknown } else { Part::Nothing };
    // The element under way, and the batch that it began in.
    let mut element = (at, at);
    // What was good before the first damage, and whether something later proves that it is one.
    let mut before: Option<Good> = None;
    let mut is_proved = false;
    let mut run_ends = true;
    while at < limit {
        let (ordinal, offset) = geometry.split(at);
        if offset + MIN_ROOM > geometry.segment_size {
            (at, begins) = (geometry.position(ordinal + 1, 0), 0);
            continue;
        }
        let header = scan.header(ordinal, offset)?;
        if let (Ok(header), Some(before)) = (&header, &before) {
            is_proved |= header.stable > before.end;
        }
        let got = if let Part::Of(got, _) = part { got } else { 0 };
        let fault = match scan.record(ordinal, offset, begins, part)? {
            Ok((header, _, _)) if header.stable > at => Err(Fault::Stable(header.stable)),
            Ok((header, _, _)) if at + (header.end() - offset) as u64 > limit => Err(Fault::End),
            Ok((header, payload, rest)) => {
                if matches!(header.kind, Kind::Whole | Kind::First) {
                    element = (at, geometry.position(ordinal, begins));
                }
                let is_known = header.kind != Kind::Head && part != Part::Unknown
                    || matches!(header.kind, Kind::Whole | Kind::First);
                let mut flow = visit(Piece::Record { position: at, header: &header });
                if is_known && element.0 >= entry.head && flow.is_continue() {
                    let total = header.total as usize;
                    flow = visit(Piece::Part { position: element.0, total, got, bytes: payload });
                }
                if flow.is_break() {
                    return Ok(walked);
                }
                Ok((header, rest, is_known))
            }
            Err(fault) => Err(fault),
        };
        match fault {
            Ok((header, rest, is_known)) => {
                let is_whole = matches!(header.kind, Kind::Whole | Kind::Last);
                if is_whole && is_known && element.0 >= entry.head {
                    good.elements += 1;
                    good.bytes += u64::from(header.total);
                    if before.is_some() {
                        note_run(&mut walked.behind, &mut run_ends, element.0, header.total.into());
                    }
                }
                part = rest;
                scan.epochs = header.epoch..=newest;
                walked.epoch = walked.epoch.max(header.epoch);
                let next = header.next(&geometry);
                (at, begins) = after(ordinal, begins, &header, next, &geometry);
                let ends = header.ends_batch || next == Next::NextSegment;
                if ends && part == Part::Nothing {
                    good.end = at;
                }
                if before.is_none() && ends && part == Part::Nothing {
                    (walked.elements, walked.bytes) = (good.elements, good.bytes);
                }
            }
            Err(fault) => {
                if visit(Piece::Fault { position: at, fault }).is_break() {
                    return Ok(walked);
                }
                let is_before_head = at < entry.head;
                if !is_before_head && before.is_none() {
                    let is_inside = matches!(part, Part::Of(..)) && element.0 >= entry.head;
                    let batch = geometry.position(ordinal, begins);
                    let (cut, batch) = if is_inside { element } else { (at, batch) };
                    (walked.cut, walked.cut_batch) = (Some(cut.max(entry.head)), batch);
                    before = Some(good);
                }
                (part, run_ends) = (Part::Unknown, true);
                at = match header {
                    Ok(header) if fault != Fault::End => {
                        after(ordinal, begins, &header, header.next(&geometry), &geometry).0
                    }
                    _ => next_header(scan, ordinal, offset)?,
                };
                if is_before_head {
                    at = at.min(entry.head);
                }
                begins = geometry.split(at).1;
            }
        }
    }
    // An element that the tail cuts off.
    if matches!(part, Part::Of(..)) && before.is_none() && element.0 >= entry.head {
        let fault = Fault::Fragment;
        if !is_open && visit(Piece::Fault { position: element.0, fault }).is_break() {
            return Ok(walked);
        }
        (walked.cut, walked.cut_batch) = (Some(element.0), element.1);
        before = Some(Good { end: good.end, ..good });
    }
    (walked.elements, walked.bytes, walked.end) = match before {
        // Nothing says that what is there was ever more than under way.
        Some(before) if is_open && !is_proved => {
            walked.torn = true;
            walked.cut = None;
            walked.behind.clear();
            let elements = (walked.elements, walked.bytes);
            (elements.0, elements.1, before.end)
        }
        _ if is_open => (good.elements, good.bytes, good.end),
        _ => (good.elements, good.bytes, entry.tail),
    };
    walked.end = walked.end.max(entry.head.next_multiple_of(geometry.block_size as u64)).min(last);
    Ok(walked)
}

fn note_run(runs: &mut Vec<Run>, run_ends: &mut bool, position: u64, bytes: u64) {
    if *run_ends && runs.len() < MAX_RUNS {
        runs.push(Run { position, elements: 0, bytes: 0 });
        *run_ends = false;
    }
    if !*run_ends && let Some(run) = runs.last_mut() {
        run.elements += 1;
        run.bytes += bytes;
    }
}

/// Where a record is followed by the next, and where the batch of that one begins.
fn after(
    ordinal: u64,
    begins: usize,
    header: &Header,
    next: Next,
    geometry: &crate::format::Geometry,
) -> (u64, usize) {
    match next {
        Next::NextSegment => (geometry.position(ordinal + 1, 0), 0),
        Next::At(next) if header.ends_batch => (geometry.position(ordinal, next), next),
        Next::At(next) => (geometry.position(ordinal, next), begins),
    }
}

/// The next place with a valid header behind one without.
fn next_header(scan: &mut Scan<'_>, ordinal: u64, offset: usize) -> Result<u64, OpenError> {
    let geometry = scan.geometry();
    // Behind a head there is a record at once.
    let first = if offset == 0 { HEAD_LEN } else { offset + 8 };
    for next in (first..=geometry.segment_size - HEADER_LEN).step_by(8) {
        if scan.header(ordinal, next)?.is_ok() {
            return Ok(geometry.position(ordinal, next));
        }
    }
    Ok(geometry.position(ordinal + 1, 0))
}
