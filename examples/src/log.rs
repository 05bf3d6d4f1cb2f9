//! `--log`: where a program's log is, and how much room there is for it.
//!
//! The program is the same with every libOS; whether there are logs is known when one is opened.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use demi_api::{Config, Demikernel, Error, LibOs, OpenOptions, QDesc};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Bytes of a log's file that is made, in MiB.
const DEFAULT_SIZE_MIB: u64 = 1024;

/// Arguments of a program that keeps a log.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// Keep a durable log in this file or block device; without PATH in the device that the configuration names
    /// under [cattree.device]
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    log: Option<Option<PathBuf>>,
    /// Size of the log's file in MiB, if there is none yet and it is made; 1024 by default
    #[arg(long, value_name = "MIB", requires = "log", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    log_size: Option<u64>,
}

/// What is asked of a configuration here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Storage {
    device: Option<IgnoredAny>,
}

impl LogArgs {
    /// Whether there is to be a log.
    pub fn wanted(&self) -> bool {
        self.log.is_some()
    }

    /// The configuration with the log's device in it.
    pub fn configure(&self, config: Config) -> anyhow::Result<Config> {
        let named = config.section::<Storage>("cattree")?.device.is_some();
        let Some(path) = &self.log else { return Ok(config) };
        let Some(path) = path else {
            ensure!(
                named,
                "--log needs a PATH, or a device under [cattree.device] in the configuration; see docs/demi.toml"
            );
            return Ok(config);
        };
        ensure!(
            !named,
            "--log {}: the configuration names a device under [cattree.device] as well; to use that, say --log \
             without PATH",
            path.display()
        );
        let Some(text) = path.to_str() else { bail!("--log {}: the path must be UTF-8", path.display()) };
        let size = self.log_size.unwrap_or(DEFAULT_SIZE_MIB) << 20;
        // What JSON escapes in a string, TOML reads in the same way.
        let text = serde_json::to_string(text)?;
        Ok(config.extended(&format!("[cattree.device]\nkind = \"uring\"\npath = {text}\nsize = {size}\n"))?)
    }
}

/// Opens the log `name`, or makes it. Pushes to it complete when they are durable.
pub fn open<L: LibOs>(demi: &Demikernel<L>, name: &str) -> anyhow::Result<QDesc> {
    // Files can be opened elsewhere too; only what has logs can list them.
    if let Err(Error::NotSupported(_)) = demi.list() {
        bail!("--log: {} keeps no logs; use the program whose name ends in -cattree", L::NAME);
    }
    let options = OpenOptions { create: true, durable: true, ..OpenOptions::default() };
    demi.open(name, &options).with_context(|| format!("cannot open the log {name:?}"))
}

/// Bytes of an image, as its libOS counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// What logs can take.
    pub total: u64,
    /// What no log has.
    pub free: u64,
    /// What a log takes at a time.
    pub segment: u64,
}

impl Room {
    /// How much there is now. Not for every turn: all counters are gone through.
    pub fn look<L: LibOs>(demi: &Demikernel<L>) -> Room {
        let Ok(counters) = demi.counters() else { return Room::default() };
        let number = |name| counters.libos.iter().find(|(it, _)| *it == name).map_or(0, |(_, value)| *value);
        let segment = number("segment_bytes");
        Room { total: number("segments") * segment, free: number("segments_free") * segment, segment }
    }
}
