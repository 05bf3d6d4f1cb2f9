//! Random blocks of 4 KiB of two NVMe controllers, one driven from user space, the other by the kernel.
//!
//! One process takes turns between them, so that nothing else differs: the same core, the same offsets, images of the
//! same kind behind both. It prints a line per turn.

mod demi;
mod sys;

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use self::demi::Demi;
use self::sys::Kernel;
use crate::cpu;
use crate::measure::{Plan, Recorder};

/// Bytes of a block, and of a transfer.
const BLOCK: usize = 4096;
/// Bytes that are read and written.
const SPAN: u64 = 64 << 20;
/// Transfers under way at once, at most.
const MOST: usize = 32;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// PCI address of the controller that is bound to vfio-pci; its namespace 2 is overwritten
    #[arg(long, env = "DEMI_NVME")]
    ours: String,
    /// PCI address of the kernel's; its namespace 2 is overwritten
    #[arg(long, env = "DEMI_NVME_KERNEL")]
    kernels: String,
    /// Turns that each gets
    #[arg(long, default_value_t = 10)]
    alternations: usize,
    #[command(flatten)]
    plan: Plan,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
}

/// What is done to blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Read,
    Write,
}

/// Who does it.
enum Subject {
    Demi(Box<Demi>),
    Kernel(Box<Kernel>),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    cpu::pin(args.core)?;
    let disk = kernels_disk(&args.kernels)?;
    let mut subjects = [
        ("demi", Subject::Demi(Box::new(Demi::open(&args.ours)?))),
        ("io_uring", Subject::Kernel(Box::new(Kernel::open(&disk, false)?))),
        ("io_uring, polled", Subject::Kernel(Box::new(Kernel::open(&disk, true)?))),
    ];
    for (_, subject) in &mut subjects[..2] {
        match subject {
            Subject::Demi(demi) => demi.fill()?,
            Subject::Kernel(kernel) => kernel.fill()?,
        }
    }
    for alternation in 0..args.alternations {
        for (work, depth) in [(Work::Read, 1), (Work::Write, 1), (Work::Read, MOST), (Work::Write, MOST)] {
            for step in 0..subjects.len() {
                let at = if alternation % 2 == 0 { step } else { subjects.len() - 1 - step };
                let (name, subject) = &mut subjects[at];
                let mut recorder = Recorder::start(&args.plan)?;
                match subject {
                    Subject::Demi(demi) => demi.turn(work, depth, &mut recorder)?,
                    Subject::Kernel(kernel) => kernel.turn(work, depth, &mut recorder)?,
                }
                let mut report = recorder.report()?;
                report["subject"] = (*name).into();
                report["work"] = json!(if work == Work::Read { "read" } else { "write" });
                report["depth"] = depth.into();
                report["alternation"] = alternation.into();
                println!("{report}");
            }
        }
    }
    Ok(())
}

/// The block device of namespace 2 of a controller.
fn kernels_disk(address: &str) -> Result<PathBuf> {
    let folder = PathBuf::from(format!("/sys/bus/pci/devices/{address}/nvme"));
    let controller = std::fs::read_dir(&folder)
        .with_context(|| format!("{}: does the kernel's driver have it?", folder.display()))?
        .next()
        .context("the controller has no name")??;
    for entry in std::fs::read_dir(controller.path())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("nvme") && name.ends_with("n2") {
            return Ok(PathBuf::from("/dev").join(name));
        }
    }
    anyhow::bail!("controller {address} has no namespace 2")
}

/// Where the next transfer goes.
fn any_offset() -> u64 {
    fastrand::u64(0..SPAN / BLOCK as u64) * BLOCK as u64
}
