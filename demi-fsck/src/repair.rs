//! Mending: says what will be done and what is lost, asks, does it, and checks again.

use std::ffi::OsStr;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use demi_api::desc::QDesc;
use demi_api::libos::{OpenOptions, SeekTo};
use demi_api::memalloc::Heap;
use demi_api::op::Position;
use demi_api::time::Clock;
use demi_api::{Config, Demikernel, Error};
use demi_libos_cattree::fsck::{Checked, Ends, Image, LogReport};
use demi_libos_cattree::{Cattree, CattreeSection};

use crate::args::Args;
use crate::check::{check, outcome, print};
use crate::{Outcome, device};

/// How long one element may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let heap = device::heap()?;
    // Open until it is mended, so that nobody writes to it after it was said what will be lost.
    let mut image = device::image(args, &heap, true)?;
    let checked = check(&mut image)?;
    report(args, &checked)?;
    if !checked.report.can_be_better() {
        return Ok(Outcome::Clean);
    }
    for line in checked.plan(args.salvage) {
        say(format_args!("to do: {line}"))?;
    }
    if !args.yes && !ask()? {
        say(format_args!("nothing was written"))?;
        return Ok(outcome(&checked.report));
    }
    let is_behind = |log: &LogReport| log.damaged.is_some() && !log.behind.is_empty();
    if !args.salvage || !checked.report.logs.iter().any(is_behind) {
        return finish(args, &heap, image, &checked);
    }
    image.mend(&checked, Ends::Behind)?;
    // An instance is to have it now.
    drop(image);
    for (log, report) in checked.report.logs.iter().enumerate() {
        if is_behind(report) && !salvage(args, &checked, log)? {
            bail!(
                "not everything could be salvaged: nothing was cut, and what is behind the damage can still be read with \
                 `--dump`; `--repair` without `--salvage` cuts it off"
            );
        }
    }
    let mut image = device::image(args, &heap, true)?;
    let again = check(&mut image)?;
    if cuts(&again) != cuts(&checked) {
        bail!("the image is damaged elsewhere than before: nothing was cut, check it again");
    }
    finish(args, &heap, image, &again)
}

/// Where which logs are to be cut.
fn cuts(checked: &Checked) -> Vec<(u32, u64)> {
    checked.report.logs.iter().filter_map(|log| Some((log.id, log.damaged?))).collect()
}

/// Cuts what is damaged, opens the image as an instance does and closes it, and checks it again.
fn finish(args: &Args, heap: &Heap, mut image: Image, checked: &Checked) -> anyhow::Result<Outcome> {
    if !checked.report.is_clean() {
        image.mend(checked, Ends::Before)?;
    }
    image.open_and_close().context("the image was mended, but does not open")?;
    let again = check(&mut device::image(args, heap, false)?)?;
    report(args, &again)?;
    let is_clean = again.report.is_clean();
    say(format_args!("{}", if is_clean { "repaired" } else { "errors are left" }))?;
    Ok(if is_clean { Outcome::Repaired } else { Outcome::ErrorsLeft })
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
    let name = Path::new(OsStr::from_bytes(name));
    let config = Config::parse("[heap]\nsize_mib = 256\nlock = false\n", "demi-fsck")?;
    let demi =
        Demikernel::<Cattree>::assemble(&config, Clock::start(), fastrand::Rng::new(), |setup, rng| {
            let section = CattreeSection { make: false, ..CattreeSection::default() };
            let device = device::open(args, setup.heap, true)?;
            Cattree::over(&setup, &section, device, rng)
        })?;
    let from = demi.open(name, &OpenOptions { read_only: true, ..OpenOptions::default() })?;
    let (to, target) = open_new(&demi, name.as_os_str().as_bytes())?;
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

/// Makes a log for what is salvaged from another, which may have been done before.
fn open_new(demi: &Demikernel<Cattree>, name: &[u8]) -> anyhow::Result<(QDesc, String)> {
    let options = OpenOptions { create: true, exclusive: true, ..OpenOptions::default() };
    for number in 1..1000 {
        let suffix = if number == 1 { ".salvaged".to_owned() } else { format!(".salvaged.{number}") };
        let target = [&name[..name.len().min(255 - suffix.len())], suffix.as_bytes()].concat();
        match demi.open(OsStr::from_bytes(&target), &options) {
            Ok(qd) => return Ok((qd, String::from_utf8_lossy(&target).into_owned())),
            Err(Error::Exists) => {}
            Err(error) => return Err(error).context("no log can be made for what is salvaged"),
        }
    }
    bail!("there are a thousand salvaged logs already: remove some")
}
