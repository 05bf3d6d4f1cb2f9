//! The one region of memory that devices see, and the plain account of what it became.
//!
//! Invariant: a mapping is reserved, resident and written to before anyone uses it, and its address never changes.
//! What lies in it is not known here.

mod sys;

use std::fs;

pub(crate) use sys::Mapping;

/// Mappings are rounded up to, and aligned to, the size of a huge page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Which pages a region is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Reserved huge pages (2 MiB).
    Huge,
    /// Transparent huge pages, for at least half of the region as it was made. The kernel may split them.
    Transparent,
    /// Pages of the base size.
    Plain,
}

/// What a device has to know to register a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// Where the region begins in this process; a multiple of the superblock size, 256 KiB.
    pub base: *const u8,
    /// Bytes of the region.
    pub len: usize,
    /// Bytes that are surely contiguous in physical memory: the size of a page, where that is guaranteed.
    pub page_size: usize,
}

/// Bytes of the mappings that overlap `start..start + len` which lie in transparent huge pages, from the text of
/// `/proc/self/smaps`. None are reported where that cannot be read.
fn transparent_bytes(start: usize, len: usize) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut overlaps = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        if let Some((from, to)) = mapping_bounds(line) {
            overlaps = from < start + len && start < to;
        } else if let Some(size) = line.strip_prefix("AnonHugePages:").filter(|_| overlaps) {
            bytes += size.trim().trim_end_matches(" kB").parse().unwrap_or(0) * 1024;
        }
    }
    bytes.min(len)
}

/// The bounds in the head line of a mapping: `7f0000000000-7f0000200000 rw-p …`.
fn mapping_bounds(line: &str) -> Option<(usize, usize)> {
    let (from, to) = line.split_whitespace().next()?.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}
