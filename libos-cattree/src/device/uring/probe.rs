//! What a file or block device can do, as the kernel tells.

use std::fs::read_to_string;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::sga::MAX_SEGMENTS;
use rustix::fs::{self, FileType, OFlags, SeekFrom, Statx, StatxFlags};
use rustix::io::Errno;

use super::super::Caps;
use super::config::UringConfig;
use super::file::stat;

/// The least that counts as a block.
const LEAST_BLOCK: usize = 512;

/// Bounds of the longest transfer. A longer one would be cut up by the kernel, a shorter one costs throughput.
const TRANSFER: RangeInclusive<usize> = 128 << 10..=1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Device,
    FileInMemory,
    FileOnDisk,
}

/// Finds out what the file can do, and takes it past the page cache if that is wanted.
pub(super) fn probe(config: &UringConfig, fd: &Fd) -> Result<Caps, Error> {
    let stat = stat(config, fd)?;
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::BlockDevice => Kind::Device,
        _ if fs::fstatfs(fd).is_ok_and(|fs| fs.f_type == libc::TMPFS_MAGIC) => Kind::FileInMemory,
        _ => Kind::FileOnDisk,
    };
    let queue = match kind {
        Kind::Device => Queue::find(stat.stx_rdev_major, stat.stx_rdev_minor),
        Kind::FileInMemory | Kind::FileOnDisk => Queue::find(stat.stx_dev_major, stat.stx_dev_minor),
    };
    set_flags(config, fd, kind)?;

    let block_size = block_size(config, fd, kind, &stat, &queue)?;
    let memory_align = match is_told(&stat).then_some(stat.stx_dio_mem_align as usize) {
        _ if !config.direct => 1,
        Some(align) if align.is_power_of_two() => align,
        _ if kind == Kind::FileInMemory => 1,
        _ => block_size,
    };
    let length = match kind {
        Kind::Device => fs::seek(fd, SeekFrom::End(0))
            .map_err(|errno| failed(config, "its size cannot be read", errno))?,
        Kind::FileInMemory | Kind::FileOnDisk => stat.stx_size,
    };
    let capacity = length - length % block_size as u64;
    if capacity == 0 {
        return Err(config.refuse(format_args!(
            "{length} bytes are less than one block of {block_size}: remove it, and set the `size` of the one to be made"
        )));
    }
    let longest = queue.number("max_sectors_kb").and_then(|kib| usize::try_from(kib).ok()?.checked_mul(1024));
    let longest = longest.unwrap_or(*TRANSFER.end()).clamp(*TRANSFER.start(), *TRANSFER.end());
    let discard = config.discard.unwrap_or(match kind {
        Kind::Device => queue.number("discard_max_bytes").is_some_and(|most| most > 0),
        Kind::FileInMemory => true,
        Kind::FileOnDisk => false,
    });
    let caps = Caps {
        block_size,
        capacity,
        max_transfer: longest - longest % block_size,
        max_segments: MAX_SEGMENTS,
        memory_align,
        depth: config.depth as usize,
        read_only: config.read_only,
        discard: discard && !config.read_only,
    };
    Ok(caps)
}

fn set_flags(config: &UringConfig, fd: &Fd, kind: Kind) -> Result<(), Error> {
    let mut flags =
        fs::fcntl_getfl(fd).map_err(|errno| failed(config, "cannot be asked for its flags", errno))?;
    // A file in memory has no other place that the page cache could stand before; not every kernel takes the flag there.
    flags.set(OFlags::DIRECT, config.direct && kind != Kind::FileInMemory);
    // The kernel hands requests to another thread where they may have to wait, unless this flag says that nobody would
    // mind. For files in memory it does so needlessly: there is nothing to wait for.
    flags.set(OFlags::NONBLOCK, kind == Kind::FileInMemory);
    fs::fcntl_setfl(fd, flags).map_err(|errno| match errno {
        Errno::INVAL => config.refuse(
            "the file system has no O_DIRECT: choose another, or set `direct` to false, which goes through the \
             page cache and copies",
        ),
        errno => failed(config, "cannot be switched to O_DIRECT", errno),
    })
}

fn block_size(
    config: &UringConfig,
    fd: &Fd,
    kind: Kind,
    stat: &Statx,
    queue: &Queue,
) -> Result<usize, Error> {
    let block = match kind {
        Kind::Device => fs::ioctl_blksszget(fd)
            .map_err(|errno| failed(config, "its block size cannot be read", errno))?
            .into(),
        _ if is_told(stat) => stat.stx_dio_offset_align.into(),
        // What the disk below has will do, or be refused at the first read.
        _ => queue.number("logical_block_size").unwrap_or(LEAST_BLOCK as u64),
    };
    match usize::try_from(block) {
        Ok(block) if block.is_power_of_two() && block <= *TRANSFER.start() => Ok(block.max(LEAST_BLOCK)),
        _ => Err(config.refuse(format_args!("has blocks of {block} bytes: no power of two up to 128 KiB"))),
    }
}

/// Whether the file system has said how transfers must be aligned. Kernels before 6.1 do not ask it.
fn is_told(stat: &Statx) -> bool {
    stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && stat.stx_dio_offset_align > 0
}

fn failed(config: &UringConfig, what: &str, errno: Errno) -> Error {
    config.refuse(format_args!("{what}: {}", io::Error::from(errno)))
}

/// Where the kernel tells about the queue of a block device. Nothing is told of what is not on one.
struct Queue(String);

impl Queue {
    fn find(major: u32, minor: u32) -> Queue {
        let device = format!("/sys/dev/block/{major}:{minor}");
        // A partition has the queue of its disk.
        let own = format!("{device}/queue");
        if Path::new(&own).exists() { Queue(own) } else { Queue(format!("{device}/../queue")) }
    }

    fn text(&self, name: &str) -> Option<String> {
        read_to_string(format!("{}/{name}", self.0)).ok()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }
}
