//! The guest's kernel, modules and initial file system: made once, from Debian's newest kernel package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::compile::root;
use crate::process::output_of;
use crate::setup::{self, Missing};
use crate::step::{Outcome, run_alone};

const LIMIT: Duration = Duration::from_secs(300);

/// Which way guests are made; raised with every change to `tests/vm/make-guest` and `tests/vm/first-init`.
const FORM: u32 = 1;

/// A guest that is ready.
#[derive(Debug)]
pub(super) struct Guest {
    /// Holds `vmlinux`, `initrd`, and `modules` with a folder for the kernel's release in it.
    pub(super) folder: PathBuf,
}

/// The guest, made now if there is none yet.
pub(super) fn ready() -> Result<Guest, Missing> {
    if !rustix::process::geteuid().is_root() {
        return Err(Missing::Unavailable(
            "the guest shows all of this machine's files: run it as root".into(),
        ));
    }
    setup::ensure(&setup::VM)?;
    let folder = cache().join(format!("guest-{FORM}"));
    if folder.join("modules").is_dir() {
        return Ok(Guest { folder });
    }
    make(&folder).map_err(|error| Missing::Unavailable(format!("the guest cannot be made: {error:#}")))?;
    Ok(Guest { folder })
}

fn cache() -> PathBuf {
    let home =
        || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("demi/vm")
}

/// Makes it beside its place and moves it there when it is complete, so that what was interrupted is made again, and
/// two that make it at once do not meet.
fn make(folder: &Path) -> Result<()> {
    let cache = folder.parent().context("no cache directory")?;
    fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
    let work = tempfile::tempdir_in(cache)?;
    let package = download(work.path())?;
    let made = work.path().join("guest");
    fs::create_dir(&made)?;
    let mut command = Command::new(root().join("tests/vm/make-guest"));
    command.arg(&package).arg(&made).stdout(std::io::stderr());
    if let Outcome::Failed(why) = run_alone("make the guest", &mut command, LIMIT) {
        bail!("make-guest failed: {why}");
    }
    match fs::rename(&made, folder) {
        Err(_) if folder.join("modules").is_dir() => Ok(()),
        other => other.with_context(|| folder.display().to_string()),
    }
}

fn download(folder: &Path) -> Result<PathBuf> {
    let said = output_of(Command::new("apt-cache").args(["depends", "linux-image-amd64"]), LIMIT)?;
    let mut packages = said.split_whitespace().filter(|word| word.starts_with("linux-image-"));
    let package = packages.find(|word| *word != "linux-image-amd64");
    let package = package.context("linux-image-amd64 names no kernel package; is this Debian?")?;
    let mut command = Command::new("apt-get");
    command.args(["download", "-qq", package]).current_dir(folder).stdout(std::io::stderr());
    if let Outcome::Failed(why) = run_alone("fetch a kernel", &mut command, LIMIT) {
        bail!("{package} cannot be fetched: {why}; try `apt-get update`");
    }
    let mut files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|path| path.extension().is_some_and(|end| end == "deb")).context("nothing was fetched")
}
