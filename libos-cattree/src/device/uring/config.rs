//! How a file or block device is used: [`UringConfig`], and what it is checked for.

use std::path::PathBuf;

use demi_api::error::Error;
use serde::Deserialize;

/// Most requests under way at once that can be asked for.
const MAX_DEPTH: u32 = 4096;

/// Which file or block device, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UringConfig {
    /// The file or block device. What an existing one holds stays. No default.
    pub path: PathBuf,
    /// Bytes of a file to be made if there is none at `path`; without effect on one that exists, and on a block device.
    /// All of it is allocated and written with zeros at once, which takes as long as the disk needs for that. Default
    /// `None`: a file that is not there is an error.
    pub size: Option<u64>,
    /// Requests under way at once, 1 to 4096; default 256.
    pub depth: u32,
    /// Whether to pass by the page cache (`O_DIRECT`), without which nothing is zero-copy, and a write that is not
    /// durable is not even on its way to the disk when it completes. A file system that cannot is an error, for
    /// which this can be switched off. Default `true`.
    pub direct: bool,
    /// Whether to refuse writes. Several processes can then read at a time, but none while another writes. Default
    /// `false`.
    pub read_only: bool,
    /// How writes become durable. Default [`Durability::Each`].
    pub durability: Durability,
    /// Whether blocks that are no longer needed are given back. Default `None`: those of block devices that have a use
    /// for it, and of files in memory. In a file on a disk this makes holes, and the first durable write to each block
    /// of a hole costs a commit of the file system's journal.
    pub discard: Option<bool>,
}

/// How writes become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Each by itself: `RWF_DSYNC`. The kernel joins the flushes of those that end together.
    #[default]
    Each,
    /// When some are complete, one `fdatasync` for all of them: group commit, for disks whose cache takes long to
    /// flush. A lone write then takes two requests, one after the other.
    Group,
}

impl Default for UringConfig {
    fn default() -> UringConfig {
        UringConfig {
            path: PathBuf::new(),
            size: None,
            depth: 256,
            direct: true,
            read_only: false,
            durability: Durability::Each,
            discard: None,
        }
    }
}

impl UringConfig {
    /// Refuses what cannot be meant.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.path.as_os_str().is_empty() {
            return Err(Error::Config("io_uring: name the `path` of a file or block device".into()));
        }
        if !(1..=MAX_DEPTH).contains(&self.depth) {
            return Err(self.refuse(format!("`depth` = {} is out of range: 1 to {MAX_DEPTH}", self.depth)));
        }
        if self.size.is_some_and(|size| size == 0 || size > i64::MAX as u64) {
            return Err(self.refuse("`size` is out of range: 1 to 2^63 - 1"));
        }
        Ok(())
    }

    /// An error that names the path.
    pub(super) fn refuse(&self, what: impl std::fmt::Display) -> Error {
        Error::Config(format!("`{}`: {what}", self.path.display()))
    }
}
