//! The check, for people and programs.

use std::io::{self, IsTerminal, Write};

use demi_libos_cattree::OpenError;
use demi_libos_cattree::format::Damage;
use demi_libos_cattree::fsck::{Checked, Finding, Image, Report, Severity};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Args;
use crate::{Outcome, device};

/// Bytes to be read from which on there is a progress bar.
const LARGE: u64 = 256 << 20;

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let heap = device::heap()?;
    let checked = check(&mut device::image(args, &heap, false)?)?;
    let out = &mut io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &checked.report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print(out, &checked.report)?;
    }
    Ok(outcome(&checked.report))
}

pub(crate) fn outcome(report: &Report) -> Outcome {
    if report.is_clean() { Outcome::Clean } else { Outcome::ErrorsLeft }
}

/// Checks an image, with a progress bar if it takes long and somebody looks on.
pub(crate) fn check(image: &mut Image) -> anyhow::Result<Checked> {
    let mut bar: Option<ProgressBar> = None;
    let is_watched = io::stderr().is_terminal();
    let checked = image.check(&mut |done, total| {
        if is_watched && total >= LARGE {
            bar.get_or_insert_with(|| new_bar(total)).set_position(done);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    checked.map_err(explain)
}

/// What opening says of a foreign device would not do for an image that is damaged.
fn explain(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Foreign(damage @ (Damage::Checksum | Damage::Field(_))) => anyhow::anyhow!(
            "no slot of the superblock can be read ({damage}): without one nothing can be rebuilt; restore the image from \
             a copy, or make a new one with `--make --force`"
        ),
        other => other.into(),
    }
}

fn new_bar(total: u64) -> ProgressBar {
    let style = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let bar = ProgressBar::new(total);
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// What was found, most severe first, and a summary.
pub(crate) fn print(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    let mut findings: Vec<&Finding> = report.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        write!(out, "{severity}: ")?;
        if let Some(log) = &finding.log {
            write!(out, "log {log:?}")?;
            if let Some(position) = finding.position {
                write!(out, " at position {position}")?;
            }
            write!(out, ": ")?;
        }
        write!(out, "{}", finding.text)?;
        if let Some(offset) = finding.offset {
            write!(out, " (at byte {offset} of the device)")?;
        }
        writeln!(out)?;
    }
    if report.omitted > 0 {
        writeln!(out, "and {} more", report.omitted)?;
    }
    let summary = &report.summary;
    writeln!(
        out,
        "{} logs, {} elements of {} bytes; {} of {} segments of {} bytes are free; checkpoint {}{}",
        summary.logs,
        summary.elements,
        summary.bytes,
        summary.free_segments,
        summary.segments,
        summary.segment_size,
        summary.checkpoint,
        if summary.closed { ", closed in order" } else { ", not closed" },
    )?;
    match (report.errors, report.warnings) {
        (0, 0) => writeln!(out, "clean"),
        (0, warnings) => writeln!(out, "clean, with {warnings} warnings: `--repair` would mend them"),
        (errors, _) => {
            writeln!(out, "{errors} errors: `--repair` mends them, and says before what is lost by it")
        }
    }
}
