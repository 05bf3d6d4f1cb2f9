//! The same through cattree: elements of one log.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use demi_api::{Config, Demikernel, Done, QDesc, SeekTo};
use demi_libos_cattree::Cattree;
use serde_json::{Value, json};

use crate::cpu;
use crate::measure::{Plan, Recorder};

/// Elements that are written before they are read, at a time.
const FILL_DEPTH: usize = 64;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A file or a block device, whose content is LOST unless --keep is given
    #[arg(long)]
    path: PathBuf,
    /// Mebibytes of a file that is made, if there is none
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    /// What to do
    #[arg(long, value_enum)]
    direction: Direction,
    /// Bytes of an element
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Pushes under way at once
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Mebibytes of elements to write before reading, or recovering
    #[arg(long, default_value_t = 256)]
    fill_mib: usize,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// How writes become durable: each by itself, or in a group
    #[arg(long, value_parser = ["each", "group"], default_value = "each")]
    durability: String,
    /// More lines of the section `cattree` of the configuration
    #[arg(long, default_value = "")]
    more: String,
    #[command(flatten)]
    plan: Plan,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Direction {
    /// Append elements, each durable before it completes
    Write,
    /// Read elements one after the other
    Read,
    /// Open an image whose last process was ended without warning
    Recover,
    /// Write elements, and end without closing: for `recover`
    Leave,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!((1..=1024).contains(&args.depth), "--depth ranges from 1 to 1024");
    cpu::pin(args.core)?;
    let report = match args.direction {
        Direction::Write => write(args)?,
        Direction::Read => read(args)?,
        Direction::Leave => return leave(args),
        Direction::Recover => recover(args)?,
    };
    println!("{report}");
    Ok(())
}

fn open(args: &Args) -> Result<Demikernel<Cattree>> {
    let text = format!(
        "[heap]\nsize_mib = 256\n[wait]\nspin_min_us = 60000000\nspin_max_us = 60000000\n[cattree]\n{}\n[cattree.device]\nkind = \"uring\"\npath = {:?}\nsize = {}\ndurability = {:?}\n",
        args.more,
        args.path,
        args.size_mib << 20,
        args.durability
    );
    Ok(Demikernel::new(&Config::parse(&text, "bench")?)?)
}

/// An instance over a new image.
fn fresh(args: &Args) -> Result<Demikernel<Cattree>> {
    if args.path.exists() {
        wipe(&args.path)?;
    }
    open(args)
}

/// Overwrites what an image begins with, so that another is made.
pub(crate) fn wipe(path: &Path) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&[0; 128 << 10], 0).context("cannot overwrite what was there")?;
    Ok(file.sync_all()?)
}

fn log(demi: &Demikernel<Cattree>) -> Result<QDesc> {
    let options = demi_api::OpenOptions { create: true, durable: true, ..Default::default() };
    Ok(demi.open("bench", &options)?)
}

/// Counters of the libOS, for the report.
fn counters(demi: &Demikernel<Cattree>, report: &mut Value) -> Result<()> {
    for (name, value) in demi.counters()?.libos {
        report[name] = value.into();
    }
    Ok(())
}

fn write(args: &Args) -> Result<Value> {
    let demi = fresh(args)?;
    let qd = log(&demi)?;
    let element = demi.alloc(args.size)?.freeze();
    let mut recorder = Recorder::start(&args.plan)?;
    let mut began: VecDeque<Instant> = VecDeque::new();
    let mut done = Vec::with_capacity(args.depth);
    let (mut more, mut written) = (true, 0_u64);
    let room = (args.size_mib << 20) / 3;
    while more || !began.is_empty() {
        while more && began.len() < args.depth {
            began.push_back(Instant::now());
            demi.push(qd, element.clone()).map_err(demi_api::Error::from)?;
        }
        demi.wait_next_n(&mut done, args.depth, Some(Duration::from_secs(10)))?;
        let now = Instant::now();
        for completion in done.drain(..) {
            let position = completion.pushed()?;
            // Pushes complete in the order in which they were begun.
            let sent = began.pop_front().context("a push completed twice")?;
            more = more && recorder.record(sent, now);
            if position.0 >= written + room {
                written = position.0;
                demi.discard(qd, position)?;
            }
        }
    }
    let mut report = recorder.report()?;
    report["mib_per_s"] = (crate::measure::rate(&report)? * args.size as f64 / 1048576.0).into();
    counters(&demi, &mut report)?;
    Ok(report)
}

fn fill(args: &Args, demi: &Demikernel<Cattree>, qd: QDesc) -> Result<u64> {
    let element = demi.alloc(args.size)?.freeze();
    let count = ((args.fill_mib << 20) / args.size) as u64;
    let (mut begun, mut ended, mut done) = (0, 0, Vec::new());
    while ended < count {
        while begun < count && begun - ended < FILL_DEPTH as u64 {
            demi.push(qd, element.clone()).map_err(demi_api::Error::from)?;
            begun += 1;
        }
        demi.wait_next_n(&mut done, FILL_DEPTH, Some(Duration::from_secs(10)))?;
        for completion in done.drain(..) {
            completion.pushed()?;
            ended += 1;
        }
    }
    Ok(count)
}

fn read(args: &Args) -> Result<Value> {
    let demi = fresh(args)?;
    let qd = log(&demi)?;
    let count = fill(args, &demi, qd)?;
    let mut recorder = Recorder::start(&args.plan)?;
    'enough: loop {
        demi.seek(qd, SeekTo::Head)?;
        for _ in 0..count {
            let sent = Instant::now();
            let token = demi.pop(qd)?;
            let completion = demi.wait(token, Some(Duration::from_secs(10)))?;
            match completion.result? {
                Done::Popped(element) if element.len() == args.size => {}
                other => bail!("popped {other:?}"),
            }
            if !recorder.record(sent, Instant::now()) {
                break 'enough;
            }
        }
    }
    let mut report = recorder.report()?;
    report["mib_per_s"] = (crate::measure::rate(&report)? * args.size as f64 / 1048576.0).into();
    counters(&demi, &mut report)?;
    Ok(report)
}

/// Ends as a killed process would.
fn leave(args: &Args) -> Result<()> {
    let demi = fresh(args)?;
    let qd = log(&demi)?;
    let count = fill(args, &demi, qd)?;
    println!("{}", json!({ "elements": count }));
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    bail!("a killed process goes on")
}

fn recover(args: &Args) -> Result<Value> {
    let began = Instant::now();
    let demi = open(args)?;
    let opened = began.elapsed();
    let mut report = json!({ "open_ms": opened.as_secs_f64() * 1e3 });
    counters(&demi, &mut report)?;
    report["open_read_bytes"] = report["uring_bytes_read"].clone();
    Ok(report)
}
