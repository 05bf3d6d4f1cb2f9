//! `demi-run --libos catnip --config demi.toml -- program arguments`: an unmodified program on a libOS.
//!
//! It finds the library that is to be preloaded, looks whether the program will take it, and becomes the
//! program. What cannot work is refused with the reason: the loader would say nothing, and the program would run on the
//! kernel.
#![forbid(unsafe_code)]

mod program;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use demi_api::config::{CONFIG_VARIABLE, Config};
use demi_preload::PreloadSection;

/// Runs an unmodified, dynamically linked program on a libOS: its sockets become queues of the libOS.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// What carries the program's sockets.
    #[arg(long, value_enum, default_value = "catnap")]
    libos: LibOs,

    /// The configuration file; without it the one that DEMI_CONFIG names, or the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The library to preload; without it libdemi_preload_LIBOS.so beside this program, or in ../lib.
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,

    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum LibOs {
    /// The kernel's sockets.
    Catnap,
    /// Demi's own TCP/IP over a device that passes the kernel by.
    Catnip,
}

impl LibOs {
    fn name(self) -> &'static str {
        match self {
            LibOs::Catnap => "catnap",
            LibOs::Catnip => "catnip",
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let library = match args.library {
        Some(path) if path.is_file() => path.canonicalize()?,
        Some(path) => bail!("{}: there is no such library", path.display()),
        None => find_library(args.libos)?,
    };
    let config = match &args.config {
        Some(path) => Config::load(path)?,
        None => Config::from_env()?,
    };
    PreloadSection::load(&config)?;
    let (name, arguments) = args.command.split_first().context("no program is named")?;
    let path = program::find(name)?;
    program::check(&path).with_context(|| format!("{} cannot run on a libOS", path.display()))?;

    let mut command = Command::new(&path);
    command.arg0(name).args(arguments);
    command.env("LD_PRELOAD", preload(&library)?);
    if let Some(config) = &args.config {
        command.env(CONFIG_VARIABLE, config.canonicalize()?);
    }
    let error = command.exec();
    Err(error).with_context(|| format!("{} does not start", path.display()))
}

/// The library before whatever else is to be preloaded.
fn preload(library: &Path) -> anyhow::Result<OsString> {
    let mut list = library.as_os_str().to_owned();
    if list.to_string_lossy().contains([' ', ':']) {
        bail!("{}: the loader takes a blank or a colon in a path for its end", library.display());
    }
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        list.push(":");
        list.push(others);
    }
    Ok(list)
}

fn find_library(libos: LibOs) -> anyhow::Result<PathBuf> {
    let file = format!("libdemi_preload_{}.so", libos.name());
    let own = std::env::current_exe().context("this program does not know where it lies")?;
    let folder = own.parent().context("this program lies nowhere")?;
    let places = [folder.join(&file), folder.join("../lib").join(&file)];
    if let Some(found) = places.iter().find(|place| place.is_file()) {
        return Ok(found.canonicalize()?);
    }
    let looked = places.map(|place| place.display().to_string()).join(" nor ");
    bail!(
        "there is neither {looked}: build it with `cargo build -p demi-preload-{}`, or name it with --library",
        libos.name()
    )
}
