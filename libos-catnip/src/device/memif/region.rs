//! Files that regions are made of: our own, and those that a peer announces.
//!
//! Invariant: a [`SealedFile`] is memory of the page cache that cannot become shorter than `bytes`, so that no access to
//! a mapping of it raises SIGBUS. What no seal prevents: a peer can write whatever it likes at any time, punch holes
//! (which read as zeros), and use up memory of the system, up to the size that it announced. A machine that is out of
//! memory may still end the process at an access, as it may at any other.

use std::os::fd::{AsFd, BorrowedFd};

use demi_api::fd::Fd;
use rustix::fs::{
    FsWord, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, ftruncate,
};

use super::raw::ring_bytes;

/// Most bytes in all regions of one link. A peer can make us touch all of it, and so pay for it.
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// `statfs` of what `memfd_create` makes without huge pages. A fault in a file of huge pages can fail although the file
/// is long enough.
const TMPFS_MAGIC: FsWord = 0x0102_1994;

/// A file that can be mapped without fear.
#[derive(Debug)]
pub(super) struct SealedFile {
    fd: Fd,
    bytes: usize,
}

impl SealedFile {
    /// A file of our own, of zeros.
    pub(super) fn create(bytes: usize) -> rustix::io::Result<SealedFile> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = Fd::from(rustix::fs::memfd_create("memif", flags)?);
        ftruncate(&fd, bytes as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(SealedFile { fd, bytes })
    }

    /// A peer's file, of which it says that it has `bytes` bytes.
    ///
    /// DPDK, VPP and libmemif seal the regions that they make for a link. Clients in zero-copy mode offer their pools of
    /// huge pages instead, unsealed, and are refused.
    pub(super) fn check(fd: Fd, bytes: u64) -> Result<SealedFile, &'static str> {
        if !(1..=MAX_BYTES).contains(&bytes) {
            return Err("Invalid region size");
        }
        let bytes_mapped = usize::try_from(bytes).map_err(|_| "Invalid region size")?;
        // Seals first: what they promise cannot change after they were seen.
        let seals = fcntl_get_seals(&fd).map_err(|_| "Region is not a memfd")?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err("Region is not sealed against shrinking");
        }
        if fstatfs(&fd).map(|statfs| statfs.f_type) != Ok(TMPFS_MAGIC) {
            return Err("Region is of huge pages");
        }
        match fstat(&fd) {
            Ok(stat) if u64::try_from(stat.st_size).is_ok_and(|size| size >= bytes) => {
                Ok(SealedFile { fd, bytes: bytes_mapped })
            }
            _ => Err("Region is shorter than announced"),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl AsFd for SealedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Where things lie in a client's only region: the ring to the server, the ring from it, then a buffer for each
/// descriptor of both. Every buffer begins on a cache line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) ring_log2: u8,
    /// Bytes that a buffer holds.
    pub(super) buffer_bytes: u32,
}

impl Layout {
    /// Bytes from one buffer to the next.
    pub(super) fn stride(self) -> u32 {
        self.buffer_bytes.next_multiple_of(64)
    }

    /// Where the ring to the server (0) or from it (1) begins.
    pub(super) fn ring_at(self, ring: u32) -> u32 {
        ring * (ring_bytes(self.ring_log2) as u32).next_multiple_of(64)
    }

    /// Where the first buffer of a ring begins.
    pub(super) fn buffers_at(self, ring: u32) -> u32 {
        self.ring_at(2).next_multiple_of(4096) + ring * (self.stride() << self.ring_log2)
    }

    /// Bytes of the region. At most 2 GiB and some, for rings of 2^14 buffers of 64 KiB; a configuration that comes to
    /// more than [`MAX_BYTES`] is refused.
    pub(super) fn bytes(self) -> usize {
        self.buffers_at(2) as usize
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
        let file = SealedFile::create(1 << 16).unwrap();
        assert!(ftruncate(&file, 1).is_err() && ftruncate(&file, 1 << 17).is_err());
    }

    #[test]
    fn files_that_could_shrink_are_refused() {
        let check =
            |bytes, seals, said| SealedFile::check(memfd(bytes, seals), said).map(|file| file.bytes());
        assert_eq!(check(8192, SealFlags::SHRINK, 8192), Ok(8192));
        assert_eq!(check(8192, SealFlags::SHRINK, 4000), Ok(4000));
        assert!(check(8192, SealFlags::SHRINK, 8193).is_err());
        assert!(check(8192, SealFlags::SHRINK, 0).is_err());
        assert!(check(8192, SealFlags::SHRINK, u64::MAX).is_err());
        assert!(check(8192, SealFlags::GROW, 8192).is_err());
        assert!(check(8192, SealFlags::empty(), 8192).is_err());
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
        if let Ok(huge) = rustix::fs::memfd_create("huge", flags) {
            ftruncate(&huge, 1 << 21).unwrap();
            fcntl_add_seals(&huge, SealFlags::SHRINK).unwrap();
            assert_eq!(SealedFile::check(huge.into(), 4096).err(), Some("Region is of huge pages"));
        }
    }

    #[test]
    fn foreign_descriptors_are_refused() {
        let plain = tempfile::tempfile().unwrap();
        plain.set_len(8192).unwrap();
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        for fd in [std::os::fd::OwnedFd::from(plain), pipe] {
            assert!(SealedFile::check(fd.into(), 4096).is_err());
        }
    }

    #[test]
    fn nothing_overlaps_in_a_region_however_large() {
        for ring_log2 in 1..=14 {
            for buffer_bytes in [64, 100, 2048, 65_536] {
                let layout = Layout { ring_log2, buffer_bytes };
                let marks = [0, 1].map(|ring| layout.ring_at(ring)).into_iter();
                let marks: Vec<u32> = marks.chain([0, 1, 2].map(|ring| layout.buffers_at(ring))).collect();
                assert!(marks.iter().all(|mark| mark % 64 == 0));
                assert!(marks[1] as usize >= ring_bytes(ring_log2));
                assert!((marks[2] - marks[1]) as usize >= ring_bytes(ring_log2));
                assert_eq!(marks[4] - marks[3], layout.stride() << ring_log2);
                assert_eq!(layout.bytes(), marks[4] as usize);
            }
        }
    }
}
