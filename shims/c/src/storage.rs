//! Files, logs and regions of memory.

use std::ffi::c_int;
use std::path::Path;

use demi_api::{Done, LibOs, OpenOptions, Position, SeekTo};

use crate::errno::Errno;
use crate::instance::Instance;
use crate::raw::Out;
use crate::transfer::descriptor;

/// Flags of `open(2)` that say nothing here: pushes append in any case, and queues do not block and are not inherited.
const IMPLIED: c_int =
    libc::O_APPEND | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_LARGEFILE | libc::O_NOCTTY;

impl<L: LibOs + 'static> Instance<L> {
    pub(crate) fn open(&self, qd: Out<'_, c_int>, path: &Path, flags: c_int, mode: u32) -> Result<(), Errno> {
        let known = libc::O_ACCMODE | libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_SYNC | IMPLIED;
        if flags & !known != 0 || flags & libc::O_ACCMODE == libc::O_ACCMODE {
            return Err(Errno(libc::EINVAL));
        }
        let has = |flag| flags & flag == flag;
        let options = OpenOptions {
            create: has(libc::O_CREAT),
            exclusive: has(libc::O_EXCL),
            truncate: has(libc::O_TRUNC),
            // Zero, and so not a flag. What is read only may yet be created and emptied by its opener.
            read_only: flags & libc::O_ACCMODE == libc::O_RDONLY,
            durable: has(libc::O_DSYNC),
            mode: has(libc::O_CREAT).then_some(mode),
        };
        qd.set(self.fresh(self.demi.open(path, &options)?));
        Ok(())
    }

    pub(crate) fn creat(&self, qd: Out<'_, c_int>, path: &Path, mode: u32) -> Result<(), Errno> {
        self.open(qd, path, libc::O_CREAT | libc::O_TRUNC | libc::O_RDWR, mode)
    }

    /// Moves the cursor: to a position, to the oldest element, or behind the newest.
    pub(crate) fn seek(
        &self,
        position: Option<Out<'_, u64>>,
        qd: c_int,
        offset: i64,
        whence: c_int,
    ) -> Result<(), Errno> {
        let to = match (whence, u64::try_from(offset)) {
            (libc::SEEK_SET, Ok(offset)) => SeekTo::Position(Position(offset)),
            (libc::SEEK_DATA, Ok(0)) => SeekTo::Head,
            (libc::SEEK_END, Ok(0)) => SeekTo::End,
            _ => return Err(Errno(libc::EINVAL)),
        };
        let Position(now) = self.demi.seek(descriptor(qd)?, to)?;
        if let Some(position) = position {
            position.set(now);
        }
        Ok(())
    }

    pub(crate) fn truncate(&self, qd: c_int, position: u64) -> Result<(), Errno> {
        Ok(self.demi.truncate(descriptor(qd)?, Position(position))?)
    }

    pub(crate) fn discard(&self, qd: c_int, position: u64) -> Result<(), Errno> {
        Ok(self.demi.discard(descriptor(qd)?, Position(position))?)
    }

    pub(crate) fn unlink(&self, path: &Path) -> Result<(), Errno> {
        Ok(self.demi.unlink(path)?)
    }

    /// Replaces a word of a region if it is as expected.
    pub(crate) fn compare_and_swap(
        &self,
        token: Out<'_, u64>,
        qd: c_int,
        position: u64,
        expected: u64,
        desired: u64,
    ) -> Result<(), Errno> {
        let started = self.demi.compare_and_swap(descriptor(qd)?, Position(position), expected, desired)?;
        token.set(started.raw());
        Ok(())
    }

    /// Adds to a word of a region.
    pub(crate) fn fetch_and_add(
        &self,
        token: Out<'_, u64>,
        qd: c_int,
        position: u64,
        add: u64,
    ) -> Result<(), Errno> {
        token.set(self.demi.fetch_and_add(descriptor(qd)?, Position(position), add)?.raw());
        Ok(())
    }

    /// Makes everything durable that was pushed, and waits until it is.
    pub(crate) fn flush(&self, qd: c_int) -> Result<(), Errno> {
        let token = self.demi.flush(descriptor(qd)?)?;
        match self.demi.wait(token, None)?.result? {
            Done::Flushed => Ok(()),
            _ => Err(Errno(libc::EIO)),
        }
    }
}
