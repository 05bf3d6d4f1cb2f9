//! A virtual machine for what needs devices that this machine may not have: NVMe controllers behind an IOMMU, RDMA.
//!
//! The guest has this machine's root directory as its own, read-only below a layer of memory, so whatever was built here
//! runs there. It runs one command; output and exit code are passed on exactly. It is emulated: nothing that it
//! measures means anything, except beside another figure of the same run.
//!
//! What runs inside, and how the guest is made, is in `tests/vm`. Not in here: what is tested there.

mod guest;
mod machine;

use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Result, bail};

use self::machine::Machine;

/// Run a command in a virtual machine that has this machine's files.
///
/// The guest sees this machine's root directory; what it writes is lost when it ends, except below the shared
/// directory. Ends with the command's exit code. The first run makes the guest, in ~/.cache/demi/vm, which needs root,
/// Debian's packages and half a minute.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// NVMe controllers to give it, behind an IOMMU: each with namespace 1 of 512-byte blocks, namespace 2 of
    /// 4096-byte blocks, namespace 3 alike but slow (20 commands a second), all of 64 MiB, in files that go with it
    #[arg(long, default_value_t = 0)]
    nvme: usize,
    /// Give it an IOMMU (implied by --nvme)
    #[arg(long)]
    iommu: bool,
    /// Its memory, in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// Its processors
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Seconds after which it is stopped
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// The directory that is written through; the current one if not given
    #[arg(long)]
    share: Option<PathBuf>,
    /// More arguments for QEMU, separated by blanks; may be given several times
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    qemu: Vec<String>,
    /// More of the kernel's command line
    #[arg(long, default_value = "")]
    append: String,
    /// Show what the guest's kernel says, on standard error
    #[arg(long)]
    console: bool,
    /// The command and its arguments; without one, only the guest is made
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let guest = match guest::ready() {
        Ok(guest) => guest,
        Err(missing) => bail!("there is no virtual machine to be had here: {missing}"),
    };
    if args.command.is_empty() {
        eprintln!("the guest is ready in {}", guest.folder.display());
        return Ok(ExitCode::SUCCESS);
    }
    let machine = Machine {
        nvme: args.nvme,
        iommu: args.iommu || args.nvme > 0,
        memory: args.memory,
        cpus: args.cpus,
        limit: Duration::from_secs(args.limit),
        share: Some(args.share.clone().map_or_else(std::env::current_dir, Ok)?),
        qemu: args.qemu.iter().flat_map(|all| all.split_whitespace().map(str::to_owned)).collect(),
        append: args.append.clone(),
        console: args.console,
    };
    let code = machine.run(&guest, &args.command)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Whether a guest can be had here, made if need be; otherwise why not.
pub(crate) fn ensure() -> Result<(), String> {
    guest::ready().map(drop).map_err(|missing| missing.to_string())
}

/// What ended without a word of its own.
fn how(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}
