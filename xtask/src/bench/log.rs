//! A log of cattree's, beside a bare io_uring on the same device.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::stats::Spread;
use super::{Session, number};
use crate::term;

/// A log beside a bare io_uring on the same file or block device: durable appends one by one and many at a time, reads one after the
/// other, and opening after the process was killed.
///
/// The control makes direct (`O_DIRECT`) transfers, its writes durable (`RWF_DSYNC`). The last line holds `ratio_p50`, the time of an append
/// of --size bytes through that of a write of the blocks that it occupies, both one at a time (`ratio_p50_fresh`: of a write whose bytes were
/// put into memory just before, as those of an append are, rather than never); `ratio_records`, appends of 128 bytes
/// per second through writes of 4 KiB per second, --depth of either under way; `ratio_read`, bytes of elements read per
/// second through bytes read (`ratio_read_summed`: and summed up, as those of elements are, rather than never looked at); and `recover_ms`, what recovery takes beyond reading what follows the last checkpoint.
///
/// Without --path it runs on a loop device over memory, which it makes and removes; this needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The backend of the log
    #[arg(long, value_enum, default_value_t = Device::Uring)]
    device: Device,
    /// A file or block device, whose content is LOST
    #[arg(long)]
    path: Option<PathBuf>,
    /// Mebibytes of the image, where a file is made
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    /// Bytes of an element that is appended alone, or read
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Appends, or writes, under way at once
    #[arg(long, default_value_t = 256)]
    depth: usize,
    /// Turns that each subject gets
    #[arg(long, default_value_t = 12)]
    alternations: usize,
    /// Seconds to measure in each turn
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// How the log's writes become durable: each by itself, or in a group
    #[arg(long, value_parser = ["each", "group"], default_value = "each")]
    durability: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Device {
    Uring,
}

/// What is compared: the control's words, and the log's.
const PARTS: [&str; 5] = ["one", "one, of fresh bytes", "many", "read", "read and summed up"];

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
    let Device::Uring = args.device;
    let loop_device = match &args.path {
        Some(_) => None,
        None => Some(LoopDevice::new(args.size_mib)?),
    };
    let path = args.path.as_deref().or(loop_device.as_ref().map(|device| device.path.as_path()));
    let path = path.context("there is a path, given or made")?;
    if !path.exists() {
        fill(path, args.size_mib)?;
    }
    let progress = session.progress(args.alternations * PARTS.len() * 2 + 1);
    let mut reports: [[Vec<Value>; 2]; PARTS.len()] = Default::default();
    for index in 0..args.alternations {
        for (part, of_part) in reports.iter_mut().enumerate() {
            let mut order = [0, 1];
            if index % 2 == 1 {
                order.reverse();
            }
            for side in order {
                let subject = ["raw", "log"][side];
                progress.set_message(format!("{subject}, {}", PARTS[part]));
                let cacheline = session.roles.cacheline()?;
                let mut report = session.roles.report(&words(args, session, path, part, side))?;
                report["subject"] = subject.into();
                report["part"] = PARTS[part].into();
                report["alternation"] = index.into();
                report["cacheline_ns"] = cacheline.into();
                session.emit(&report);
                of_part[side].push(report);
                progress.inc(1);
            }
        }
    }
    progress.set_message("recovery");
    let recovery = recovery(args, session, path)?;
    progress.finish_and_clear();

    let ratio = |part: usize, key: &str| -> Result<Spread> {
        let pairs = reports[part][0].iter().zip(&reports[part][1]);
        let ratios = pairs.map(|(raw, log)| Ok(number(log, key)? / number(raw, key)?));
        Ok(Spread::of(ratios.collect::<Result<Vec<_>>>()?))
    };
    let (one, fresh) = (ratio(0, "p50_ns")?, ratio(1, "p50_ns")?);
    let (many, read, summed) = (ratio(2, "msgs_per_s")?, ratio(3, "mib_per_s")?, ratio(4, "mib_per_s")?);
    session.emit(&json!({
        "subject": "log",
        "control": "raw",
        "path": path,
        "size": args.size,
        "depth": args.depth,
        "alternations": args.alternations,
        "ratio_p50": one.median,
        "ratio_p50_quartiles": one.quartiles(),
        "ratio_p50_fresh": fresh.median,
        "ratio_p50_fresh_quartiles": fresh.quartiles(),
        "ratio_records": many.median,
        "ratio_records_quartiles": many.quartiles(),
        "ratio_read": read.median,
        "ratio_read_quartiles": read.quartiles(),
        "ratio_read_summed": summed.median,
        "ratio_read_summed_quartiles": summed.quartiles(),
        "recover_ms": recovery["beyond_ms"],
        "recovery": recovery,
    }));
    if session.json {
        return Ok(());
    }
    let median = |part: usize, side: usize, key: &str| -> Result<f64> {
        let values = reports[part][side].iter().map(|report| number(report, key));
        Ok(Spread::of(values.collect::<Result<Vec<_>>>()?).median)
    };
    println!("a log on {}, {} alternations", path.display(), args.alternations);
    let bars = |title: &str, part: usize, key: &str, show: fn(f64) -> String| -> Result<()> {
        let bars = [("raw".to_owned(), median(part, 0, key)?), ("log".to_owned(), median(part, 1, key)?)];
        term::bars(title, &bars, show);
        Ok(())
    };
    bars("one durable append at a time, median of p50", 0, "p50_ns", term::time)?;
    bars("the same, beside writes of fresh bytes", 1, "p50_ns", term::time)?;
    bars("durable appends, or writes, per second", 2, "msgs_per_s", |rate| format!("{rate:.0}"))?;
    bars("reading, MiB/s", 3, "mib_per_s", |rate| format!("{rate:.0}"))?;
    bars("the same, beside reads that are summed up", 4, "mib_per_s", |rate| format!("{rate:.0}"))?;
    println!("ratio_p50      {one}");
    println!("ratio_p50_fresh {fresh}");
    println!("ratio_records  {many}");
    println!("ratio_read     {read}");
    println!("ratio_read_summed {summed}");
    println!("recover_ms     {}", recovery["beyond_ms"]);
    session.warn_of_company(reports.iter().flatten().flatten());
    Ok(())
}

fn words(args: &Args, session: &Session, path: &Path, part: usize, side: usize) -> String {
    let [core, _] = session.roles.cores();
    let (path, seconds) = (path.display(), args.seconds);
    let common = format!("--path {path} --core {core} --seconds {seconds}");
    // The header of a record, and whole blocks.
    let blocks = (args.size + 48).div_ceil(4096);
    let region = args.size_mib / 2;
    let log = format!("log-demi {common} --size-mib {} --durability {}", args.size_mib, args.durability);
    let raw = format!("log-raw {common} --direction");
    match (part, side) {
        (0, 0) => format!("{raw} write --kib {} --region-mib {region}", 4 * blocks),
        (1, 0) => format!("{raw} write --kib {} --region-mib {region} --fresh", 4 * blocks),
        (0 | 1, _) => format!("{log} --direction write --size {}", args.size),
        (2, 0) => format!("{raw} write --depth {} --region-mib {region}", args.depth),
        (2, _) => format!("{log} --direction write --size 128 --depth {}", args.depth),
        (3, 0) => format!("{raw} read --kib 256 --depth 4 --region-mib {}", region / 2),
        (4, 0) => format!("{raw} read --kib 256 --depth 4 --region-mib {} --fresh", region / 2),
        (_, _) => format!("{log} --direction read --size {} --fill-mib {}", args.size, region / 2),
    }
}

/// Opening after a kill, beside reading as much as had to be read.
fn recovery(args: &Args, session: &Session, path: &Path) -> Result<Value> {
    let [core, _] = session.roles.cores();
    let role = |direction: &str| {
        format!(
            "log-demi --path {} --core {core} --size-mib {} --size {} --direction {direction} --fill-mib {}",
            path.display(),
            args.size_mib,
            args.size,
            args.size_mib * 3 / 4
        )
    };
    let left = session.roles.report_of_killed(&role("leave"))?;
    let mut report = session.roles.report(&role("recover"))?;
    let read = session.roles.report(&format!(
        "log-raw --path {} --core {core} --direction read --kib 256 --depth 4 --region-mib {} --seconds {}",
        path.display(),
        args.size_mib / 4,
        args.seconds
    ))?;
    let scanned = number(&report, "open_read_bytes")? / 1048576.0;
    let raw_ms = scanned / number(&read, "mib_per_s")? * 1e3;
    report["elements"] = left["elements"].clone();
    report["raw_read_ms"] = raw_ms.into();
    report["beyond_ms"] = (number(&report, "recovery_us")? / 1e3 - raw_ms).into();
    session.emit(&report);
    Ok(report)
}

/// A loop device over a file in memory; it goes with the value.
pub(super) struct LoopDevice {
    file: PathBuf,
    pub(super) path: PathBuf,
}

impl LoopDevice {
    pub(super) fn new(size_mib: u64) -> Result<LoopDevice> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a loop device needs root: run this as root, or name a file with --path"
        );
        let file = PathBuf::from(format!("/dev/shm/demi-bench-{}.img", std::process::id()));
        let mut device = LoopDevice { file, path: PathBuf::new() };
        fill(&device.file, size_mib)?;
        let output = Command::new("losetup")
            .args(["--direct-io=on", "-f", "--show"])
            .arg(&device.file)
            .output()
            .context("cannot run `losetup`: install util-linux, or name a file with --path")?;
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr).trim());
        device.path = String::from_utf8_lossy(&output.stdout).trim().into();
        Ok(device)
    }
}

/// Makes a file that is written throughout: the first write to a page, or an extent, costs.
fn fill(path: &Path, size_mib: u64) -> Result<()> {
    let shown = path.display();
    let mut file = std::fs::File::create(path).with_context(|| format!("cannot make {shown}"))?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..size_mib {
        std::io::Write::write_all(&mut file, &zeros).with_context(|| format!("cannot fill {shown}"))?;
    }
    Ok(file.sync_all()?)
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _gone = Command::new("losetup").arg("-d").arg(&self.path).status();
        }
        let _gone = std::fs::remove_file(&self.file);
    }
}
