//! Files that the memory of a link is made of: our own, and those that a peer hands over.
//!
//! Invariant: a [`Sealed`] file is memory of the page cache of exactly `bytes` bytes for ever, so that no access to a
//! mapping of it raises SIGBUS. What no seal prevents: a peer can write whatever it likes at any time, and punch holes,
//! which read as zeros. A machine that is out of memory may still end the process at an access, as it may at any other.

use std::os::fd::{AsFd, BorrowedFd};

use demi_api::fd::Fd;
use rustix::fs::{
    FsWord, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, ftruncate,
};

/// `statfs` of what `memfd_create` makes without huge pages. A fault in a file of huge pages can fail although the file
/// is long enough.
const TMPFS_MAGIC: FsWord = 0x0102_1994;

/// A file that can be mapped without fear.
#[derive(Debug)]
pub(super) struct Sealed {
    fd: Fd,
    bytes: usize,
}

impl Sealed {
    /// A file of our own, of zeros.
    pub(super) fn create(bytes: usize) -> rustix::io::Result<Sealed> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = Fd::from(rustix::fs::memfd_create("demi-rdma", flags)?);
        ftruncate(&fd, bytes as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Sealed { fd, bytes })
    }

    /// A peer's file, which must have `bytes` bytes.
    pub(super) fn check(fd: Fd, bytes: usize) -> Result<Sealed, &'static str> {
        // Seals first: what they promise cannot change after they were seen.
        let seals = fcntl_get_seals(&fd).map_err(|_| "the memory handed over is not a memfd")?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err("the memory handed over is not sealed against shrinking");
        }
        if fstatfs(&fd).map(|statfs| statfs.f_type) != Ok(TMPFS_MAGIC) {
            return Err("the memory handed over is of huge pages");
        }
        match fstat(&fd) {
            Ok(stat) if usize::try_from(stat.st_size) == Ok(bytes) => Ok(Sealed { fd, bytes }),
            _ => Err("the memory handed over is not as long as agreed"),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd(bytes: u64, seals: SealFlags) -> Fd {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, bytes).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd.into()
    }

    #[test]
    fn a_file_of_ours_cannot_be_resized() {
        let file = Sealed::create(1 << 16).unwrap();
        assert!(ftruncate(&file, 1).is_err() && ftruncate(&file, 1 << 17).is_err());
        let again = Sealed::check(rustix::io::dup(&file).unwrap().into(), 1 << 16).unwrap();
        assert_eq!(again.bytes(), 1 << 16);
    }

    #[test]
    fn what_could_shrink_or_is_no_memory_is_refused() {
        assert!(Sealed::check(memfd(8192, SealFlags::SHRINK), 8192).is_ok());
        assert!(Sealed::check(memfd(8192, SealFlags::SHRINK), 8191).is_err());
        assert!(Sealed::check(memfd(8192, SealFlags::SHRINK), 8193).is_err());
        assert!(Sealed::check(memfd(8192, SealFlags::GROW), 8192).is_err());
        assert!(Sealed::check(memfd(8192, SealFlags::empty()), 8192).is_err());
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        let plain = tempfile::tempfile().unwrap();
        plain.set_len(8192).unwrap();
        for fd in [std::os::fd::OwnedFd::from(plain), pipe] {
            assert!(Sealed::check(fd.into(), 8192).is_err());
        }
    }
}
