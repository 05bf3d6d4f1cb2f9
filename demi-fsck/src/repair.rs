//! Mending: says what will be done and what is lost, asks, does it, and checks again.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, bail};
use demi_api::libos::{OpenOptions, SeekTo};
use demi_api::memalloc::Heap;
use demi_api::op::Position;
use demi_api::time::Clock;
use demi_api::{Config, Demikernel, Error};
use demi_libos_cattree::fsck::{Checked, Ends, LogReport};
use demi_libos_cattree::{Cattree, CattreeSection};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::args::Args;
use crate::check::{check, print};
use crate::{Outcome, device};

/// How long one element may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let heap = device::heap()?;
    let checked = check(&mut device::image(args, &heap, true)?)?;
    report(args, &checked)?;
    if !checked.report.can_be_better() {
        return Ok(Outcome::Clean);
    }
    for line in checked.plan(args.salvage) {
        say(format_args!("to do: {line}"))?;
    }
    if !args.yes && !ask()? {
        say(format_args!("nothing was written"))?;
        return Ok(if checked.report.is_clean() { Outcome::Clean } else { Outcome::ErrorsLeft });
    }
    let damaged: Vec<&LogReport> =
        checked.report.logs.iter().filter(|log| log.damaged.is_some() && !log.behind.is_empty()).collect();
    let mut salvaged_all = true;
    if args.salvage && !damaged.is_empty() {
        device::image(args, &heap, true)?.mend(&checked, Ends::Behind)?;
        for (log, report) in checked.report.logs.iter().enumerate() {
            if report.damaged.is_some() && !report.behind.is_empty() {
                salvaged_all &= salvage(args, &checked, log)?;
            }
        }
        if !salvaged_all {
            bail!(
                "not everything could be salvaged: nothing was cut, and what is behind the damage can still be read with \
                 `--dump`; `--repair` without `--salvage` cuts it off"
            );
        }
    }
    finish(args, &heap)
}

/// Cuts what is damaged, lets an instance open the image and close it, and checks it again.
fn finish(args: &Args, heap: &Heap) -> anyhow::Result<Outcome> {
    let mut image = device::image(args, heap, true)?;
    let checked = check(&mut image)?;
    if !checked.report.is_clean() {
        image.mend(&checked, Ends::Before)?;
    }
    drop(image);
    device::image(args, heap, true)?.open_and_close().context("the image was mended, but does not open")?;
    let again = check(&mut device::image(args, heap, false)?)?;
    report(args, &again)?;
    say(format_args!("{}", if again.report.is_clean() { "repaired" } else { "errors are left" }))?;
    Ok(if again.report.is_clean() { Outcome::Repaired } else { Outcome::ErrorsLeft })
}

fn report(args: &Args, checked: &Checked) -> io::Result<()> {
    let out = &mut io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut *out, &checked.report)?;
        return writeln!(out);
    }
    print(out, &checked.report)
}

/// For people, so that programs read JSON alone from standard output.
fn say(line: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{line}")
}

fn ask() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("standard input is no terminal, so nobody can be asked: say `--yes` if this is to be done");
    }
    write!(io::stderr().lock(), "go on? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Copies the elements behind the damage of a log to a new one. False: not all could be copied.
fn salvage(args: &Args, checked: &Checked, log: usize) -> anyhow::Result<bool> {
    let name = checked.name(log).unwrap_or_default();
    let mut target = name[..name.len().min(255 - ".salvaged".len())].to_vec();
    target.extend_from_slice(b".salvaged");
    let (name, target) = (Path::new(OsStr::from_bytes(name)), Path::new(OsStr::from_bytes(&target)));
    let config = Config::parse("[heap]\nsize_mib = 256\nlock = false\n", "demi-fsck")?;
    let demi =
        Demikernel::<Cattree>::assemble(&config, Clock::start(), fastrand::Rng::new(), |setup, rng| {
            let section = CattreeSection { make: false, ..CattreeSection::default() };
            let device = device::open(args, setup.heap, true)?;
            Cattree::over(&setup, &section, device, rng)
        })?;
    let from = demi.open(name, &OpenOptions { read_only: true, ..OpenOptions::default() })?;
    let options = OpenOptions { create: true, truncate: true, ..OpenOptions::default() };
    let to = demi.open(target, &options)?;
    let mut copied = 0;
    let mut wanted = 0;
    for run in &checked.report.logs[log].behind {
        wanted += run.elements;
        demi.seek(from, SeekTo::Position(Position(run.position)))?;
        for _ in 0..run.elements {
            let popped = demi.wait(demi.pop(from)?, Some(PATIENCE))?.popped();
            let Ok(element) = popped else { break };
            let pushed = demi.push(to, element).map_err(|refused| refused.error);
            match pushed.and_then(|token| demi.wait(token, Some(PATIENCE))).and_then(|done| done.pushed()) {
                Ok(_) => copied += 1,
                Err(Error::NoSpace) => {
                    say(format_args!("no room for more: {copied} elements were copied to {target:?}"))?;
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    let flushed = demi.wait(demi.flush(to)?, Some(PATIENCE))?;
    flushed.result?;
    say(format_args!("{copied} of {wanted} elements were copied to {target:?}"))?;
    Ok(copied == wanted)
}
