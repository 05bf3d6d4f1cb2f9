//! Logs as a table, elements, and the format field by field.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use anyhow::{Context, bail};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use demi_libos_cattree::fsck::{Checked, Image, Piece, Report};

use crate::args::Args;
use crate::check::{check, outcome};
use crate::{Outcome, device, fields};

/// Elements up to this many bytes are put together, so that a line is printed whole or not at all.
const WHOLE: usize = 1 << 20;

/// The logs.
pub(crate) fn list(args: &Args) -> anyhow::Result<Outcome> {
    let heap = device::heap()?;
    let checked = check(&mut device::image(args, &heap, false)?)?;
    let out = &mut io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &checked.report.logs).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", table(&checked.report))?;
    }
    if !checked.report.is_clean() {
        writeln!(io::stderr().lock(), "demi-fsck: the image is damaged: without `--list` it is said where")?;
    }
    Ok(outcome(&checked.report))
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["name", "id", "head", "tail", "elements", "bytes", "segments"]);
    for log in &report.logs {
        let numbers = [log.id.into(), log.head, log.tail, log.elements, log.bytes, log.segments as u64];
        let name = log.name.escape_default().to_string();
        table.add_row(std::iter::once(name).chain(numbers.map(|number| number.to_string())));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The elements of a log.
pub(crate) fn elements(args: &Args, name: &str) -> anyhow::Result<Outcome> {
    let heap = device::heap()?;
    let mut image = device::image(args, &heap, false)?;
    let checked = check(&mut image)?;
    let Some(log) = (0..checked.report.logs.len()).find(|log| checked.name(*log) == Some(name.as_bytes()))
    else {
        bail!("there is no log {name:?}; `--list` shows those that there are");
    };
    let mut printer = Printer {
        out: BufWriter::new(io::stdout().lock()),
        args,
        element: Vec::new(),
        position: u64::MAX,
        printed: 0,
        faults: 0,
    };
    let mut failed = None;
    image.elements(&checked, log, args.from, &mut |piece| match printer.take(&piece) {
        Ok(flow) => flow,
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    printer.out.flush()?;
    Ok(if printer.faults > 0 { Outcome::ErrorsLeft } else { Outcome::Clean })
}

struct Printer<'a, W: Write> {
    out: W,
    args: &'a Args,
    /// What there is of an element that is put together.
    element: Vec<u8>,
    position: u64,
    printed: u64,
    faults: u64,
}

impl<W: Write> Printer<'_, W> {
    fn take(&mut self, piece: &Piece<'_>) -> io::Result<ControlFlow<()>> {
        if self.args.count.is_some_and(|count| self.printed >= count) {
            return Ok(ControlFlow::Break(()));
        }
        match *piece {
            Piece::Part { position, total, got, bytes } => {
                if got == 0 {
                    self.element.clear();
                    self.position = position;
                }
                // A part of one that was begun before `--from`.
                if position != self.position {
                    return Ok(ControlFlow::Continue(()));
                }
                if total <= WHOLE {
                    self.element.extend_from_slice(bytes);
                    if self.element.len() == total {
                        let element = std::mem::take(&mut self.element);
                        self.begin(total)?;
                        self.bytes(&element)?;
                        self.end()?;
                        self.element = element;
                    }
                } else {
                    if got == 0 {
                        self.begin(total)?;
                    }
                    self.bytes(bytes)?;
                    if got + bytes.len() == total {
                        self.end()?;
                    }
                }
            }
            Piece::Fault { position, fault } => {
                self.faults += 1;
                self.out.flush()?;
                writeln!(io::stderr().lock(), "demi-fsck: damaged at position {position}: {fault}")?;
            }
            Piece::Record { .. } => {}
        }
        Ok(ControlFlow::Continue(()))
    }

    fn begin(&mut self, total: usize) -> io::Result<()> {
        if self.args.raw || self.args.lines {
            return Ok(());
        }
        write!(self.out, "{} {total} ", self.position)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.args.raw || self.args.lines {
            return self.out.write_all(bytes);
        }
        if self.args.hex {
            return bytes.iter().try_for_each(|byte| write!(self.out, "{byte:02x}"));
        }
        write!(self.out, "{}", bytes.escape_ascii())
    }

    fn end(&mut self) -> io::Result<()> {
        self.printed += 1;
        if self.args.raw { Ok(()) } else { self.out.write_all(b"\n") }
    }
}

/// Superblock, checkpoints and headers.
pub(crate) fn format(args: &Args) -> anyhow::Result<Outcome> {
    let heap = device::heap()?;
    let mut image = device::image(args, &heap, false)?;
    let checked = check(&mut image)?;
    let out = &mut BufWriter::new(io::stdout().lock());
    superblocks_and_checkpoints(&mut image, out)?;
    for log in 0..checked.report.logs.len() {
        records(&mut image, &checked, log, out)?;
    }
    out.flush()?;
    Ok(outcome(&checked.report))
}

fn superblocks_and_checkpoints(image: &mut Image, out: &mut dyn Write) -> anyhow::Result<()> {
    let superblock = image.superblock()?;
    let geometry = superblock.geometry;
    for slot in 0..2 {
        let at = geometry.superblock_at(slot);
        let bytes = image.read(at, geometry.block_size)?;
        let state = match image.slot(&superblock, slot)? {
            Ok(_) => "valid".to_owned(),
            Err(damage) => damage.to_string(),
        };
        writeln!(out, "superblock slot {slot}: {state}")?;
        fields::print(out, at, &bytes, fields::SUPERBLOCK)?;
    }
    for area in 0..2 {
        let at = geometry.checkpoint_at(area);
        let bytes = image.read(at, geometry.block_size)?;
        let content = image.area(&superblock, area)?;
        match &content {
            Ok(_) => writeln!(out, "checkpoint area {area}: valid")?,
            Err(damage) => writeln!(out, "checkpoint area {area}: {damage}")?,
        }
        fields::print(out, at, &bytes, fields::CHECKPOINT)?;
        let Ok(checkpoint) = content else { continue };
        let bytes = image.read(at, geometry.block_up(checkpoint.len()))?;
        fields::print_checkpoint(out, at, &bytes, &checkpoint)?;
    }
    Ok(())
}

fn records(image: &mut Image, checked: &Checked, log: usize, out: &mut dyn Write) -> anyhow::Result<()> {
    let name = &checked.report.logs.get(log).context("the log is in the report")?.name;
    let mut failed = Ok(());
    image.headers(checked, log, &mut |position, offset, header| {
        failed = fields::print_header(out, name, position, offset, header);
        if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(failed?)
}
