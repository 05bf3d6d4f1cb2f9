//! The system call that the `io-uring` crate has for owners of a ring only: registering memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use demi_api::fd::Fd;
use demi_api::memalloc::RegionInfo;

const IORING_REGISTER_BUFFERS: libc::c_uint = 0;
const IORING_UNREGISTER_BUFFERS: libc::c_uint = 1;

/// A second descriptor of a ring, by which the heap registers its memory, and takes it back.
#[derive(Debug)]
pub(super) struct RingFd(Fd);

impl RingFd {
    pub(super) fn duplicate(ring: BorrowedFd<'_>) -> io::Result<RingFd> {
        Ok(RingFd(rustix::io::fcntl_dupfd_cloexec(ring, 0).map(Fd::from)?))
    }

    /// Registers a region in pieces of `piece` bytes, the last of which may be shorter.
    pub(super) fn register(&self, region: &RegionInfo, piece: usize) -> io::Result<()> {
        let pieces: Vec<libc::iovec> = (0..region.len)
            .step_by(piece)
            .map(|start| libc::iovec {
                iov_base: region.base.wrapping_add(start).cast_mut().cast(),
                iov_len: piece.min(region.len - start),
            })
            .collect();
        let ring = self.0.as_fd().as_raw_fd();
        // SAFETY: the kernel reads `pieces.len()` entries of the vector, which outlives the call. It keeps the pages that
        // they name, not their addresses; a heap's region is never unmapped before it is unregistered.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                ring,
                IORING_REGISTER_BUFFERS,
                pieces.as_ptr(),
                pieces.len() as libc::c_uint,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes what is registered back.
    pub(super) fn unregister(&self) {
        let ring = self.0.as_fd().as_raw_fd();
        let nothing = std::ptr::null::<libc::c_void>();
        // SAFETY: this request takes no argument. What it fails for is that nothing is registered.
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, nothing, 0) };
    }
}
