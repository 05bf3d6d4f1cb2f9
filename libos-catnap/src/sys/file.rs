//! File calls that may block: opening, sizing, and what stands in for io_uring where that is not permitted.

use std::io::IoSlice;
use std::path::Path;

use arrayvec::ArrayVec;
use demi_api::error::Error;
use demi_api::libos::OpenOptions;
use demi_api::memalloc::Buf;
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::socket::MAX_IOVECS;
use super::{Fd, call};

/// A new regular file's permission bits unless the caller says otherwise.
const DEFAULT_MODE: u32 = 0o644;

/// Opens a regular file; returns its length too.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<(Fd, u64), Error> {
    // Without NONBLOCK the open of a pipe or a serial line would wait for its other end.
    let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    flags |= if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    for (wanted, flag) in [
        (options.create, OFlags::CREATE),
        (options.exclusive, OFlags::EXCL),
        (options.truncate, OFlags::TRUNC),
    ] {
        flags.set(flag, wanted);
    }
    let mode = Mode::from_raw_mode(options.mode.unwrap_or(DEFAULT_MODE));
    let fd: Fd = call(|| fs::open(path, flags, mode))?.into();
    let stat = call(|| fs::fstat(&fd))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((fd, stat.st_size.max(0).cast_unsigned())),
        FileType::Directory => Err(Error::Invalid("the path names a directory")),
        _ => Err(Error::Invalid("the path names a device, pipe or socket")),
    }
}

pub(crate) fn unlink(path: &Path) -> Result<(), Error> {
    call(|| fs::unlink(path))
}

pub(crate) fn length(fd: &Fd) -> Result<u64, Error> {
    call(|| fs::fstat(fd)).map(|stat| stat.st_size.max(0).cast_unsigned())
}

pub(crate) fn truncate(fd: &Fd, length: u64) -> Result<(), Error> {
    call(|| fs::ftruncate(fd, length))
}

/// Reads as one io_uring operation would, but waits.
pub(super) fn read_now(fd: &Fd, offset: u64, into: &mut [u8]) -> Result<usize, Error> {
    call(|| rustix::io::pread(fd, &mut *into, offset))
}

/// Writes as one io_uring operation would, but waits.
pub(super) fn write_now(fd: &Fd, offset: u64, segments: &[Buf], durable: bool) -> Result<usize, Error> {
    let slices: ArrayVec<IoSlice<'_>, MAX_IOVECS> =
        segments.iter().take(MAX_IOVECS).map(|segment| IoSlice::new(segment)).collect();
    let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
    call(|| rustix::io::pwritev2(fd, &slices, offset, flags))
}

pub(super) fn sync_now(fd: &Fd) -> Result<(), Error> {
    call(|| fs::fdatasync(fd))
}

/// What tells a socket file apart from one that has taken its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

pub(crate) fn identify(path: &Path) -> Option<FileId> {
    let stat = fs::lstat(path).ok()?;
    Some(FileId { device: stat.st_dev, inode: stat.st_ino })
}

/// Removes the file if it is still the one it was.
pub(crate) fn unlink_if(path: &Path, id: FileId) {
    if identify(path) == Some(id) {
        let _: Result<(), Errno> = fs::unlink(path);
    }
}
