//! The file or block device: opening, locking and making it.
//!
//! Invariant: whoever may write holds the file's exclusive lock from before it looks at the file until its last
//! request has ended. All of this may block, and happens once.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use demi_api::error::Error;
use demi_api::fd::Fd;
use rustix::fs::{self, AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::super::Caps;
use super::config::UringConfig;
use super::probe::probe;

/// How long another's lock is waited for. That of a process that was killed goes with its ring, which the kernel takes apart
/// when nothing is left of the process to be waited for; and udev locks a block device for as long as it looks at it.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_STEP: Duration = Duration::from_millis(10);

/// Bytes that are written at a time to a new file.
const ZEROS: usize = 1 << 20;

/// Opens the file or block device, and finds out about it.
///
/// # Errors
/// [`Error::Config`], with what to change.
pub(super) fn open(config: &UringConfig) -> Result<(Fd, Caps), Error> {
    let (fd, made) = open_or_make(config)?;
    let allocated = lock(config, &fd).and_then(|()| match (made, config.size) {
        (true, Some(size)) => allocate(config, &fd, size),
        _ => Ok(()),
    });
    let opened = allocated.and_then(|()| probe(config, &fd)).map(|caps| (fd, caps));
    if opened.is_err() && made {
        // Nothing is lost with it: it was not there before.
        let _ = fs::unlink(&config.path);
    }
    opened
}

/// Opens the file, or makes it; says whether it was made.
fn open_or_make(config: &UringConfig) -> Result<(Fd, bool), Error> {
    // Without NONBLOCK the open of a pipe would wait for its other end.
    let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    flags |= if config.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    // For a block device: not while it is mounted, or otherwise in use. Without CREATE this means nothing for files.
    let is_device = fs::stat(&config.path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice);
    flags.set(OFlags::EXCL, is_device && !config.read_only);
    let make = OFlags::CREATE | OFlags::EXCL;
    let opened = match fs::open(&config.path, flags, Mode::empty()) {
        Err(Errno::NOENT) if config.size.is_some() && !config.read_only => {
            fs::open(&config.path, flags | make, Mode::from_raw_mode(0o600)).map(|fd| (fd, true))
        }
        opened => opened.map(|fd| (fd, false)),
    };
    let (fd, made) = opened.map_err(|errno| match errno {
        Errno::NOENT if config.size.is_none() && !config.read_only => {
            config.refuse("there is no such file: set its `size` in bytes to have it made")
        }
        Errno::NOENT => config.refuse("there is no such file, or no such directory"),
        Errno::ACCESS | Errno::PERM => {
            config.refuse("permission denied: run as its owner, or with `read_only`")
        }
        Errno::BUSY => {
            config.refuse("the device is mounted or in use (`lsblk` shows by whom): choose another")
        }
        Errno::ROFS => config.refuse("the medium is read-only: open it with `read_only`"),
        Errno::ISDIR => config.refuse("is a directory: name a file in it"),
        errno => config.refuse(format_args!("cannot be opened: {}", io::Error::from(errno))),
    })?;
    Ok((fd.into(), made))
}

/// One process writes, or several read.
fn lock(config: &UringConfig, fd: &Fd) -> Result<(), Error> {
    let kind = FileType::from_raw_mode(stat(config, fd)?.stx_mode.into());
    if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
        return Err(config.refuse("is neither a regular file nor a block device"));
    }
    let operation = match config.read_only {
        true => FlockOperation::NonBlockingLockShared,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match fs::flock(fd, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < until => sleep(LOCK_STEP),
            Err(Errno::WOULDBLOCK) if config.read_only => {
                return Err(config.refuse(
                    "another instance has it open for writing (`lslocks` shows which): wait for its end, or end it",
                ));
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(config.refuse(
                    "another instance has it open (`lslocks` shows which): wait for its end, or end it; several can \
                     share it only if all are `read_only`",
                ));
            }
            Err(errno) => {
                return Err(config.refuse(format_args!(
                    "cannot be locked, which keeps others from writing to it meanwhile: {}",
                    io::Error::from(errno)
                )));
            }
        }
    }
}

/// Gives a new file all its blocks, and writes to each. Extents that were allocated and never written are turned into
/// ordinary ones by the first write, and the next durable one then waits for a commit of the journal: on ext4
/// 116 µs instead of 75.
fn allocate(config: &UringConfig, fd: &Fd, size: u64) -> Result<(), Error> {
    let failed = |errno: Errno| match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => config.refuse(format_args!(
            "no room for a file of {size} bytes: make room, or choose a smaller `size` or another disk"
        )),
        errno => config.refuse(format_args!("{size} bytes cannot be allocated: {}", io::Error::from(errno))),
    };
    let every = |call: &dyn Fn() -> Result<(), Errno>| rustix::io::retry_on_intr(call).map_err(failed);
    match rustix::io::retry_on_intr(|| fs::fallocate(fd, FallocateFlags::empty(), 0, size)) {
        // Then writing is what allocates.
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let zeros = vec![0; ZEROS];
    let mut offset = 0;
    while offset < size {
        let part = &zeros[..(size - offset).min(ZEROS as u64) as usize];
        let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(fd, part, offset)).map_err(failed)?;
        if written == 0 {
            return Err(failed(Errno::NOSPC));
        }
        offset += written as u64;
    }
    every(&|| fs::fsync(fd))?;
    sync_directory(config);
    Ok(())
}

/// Makes the file's name durable. Not every file system lets a directory be opened for that, or needs it.
fn sync_directory(config: &UringConfig) {
    let parent = config.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(directory) = fs::open(parent.unwrap_or(".".as_ref()), flags, Mode::empty()) {
        let _ = fs::fsync(Fd::from(directory));
    }
}

pub(super) fn stat(config: &UringConfig, fd: &Fd) -> Result<Statx, Error> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN;
    fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted).map_err(|errno| {
        config.refuse(format_args!("cannot be asked what it is: {}", io::Error::from(errno)))
    })
}
