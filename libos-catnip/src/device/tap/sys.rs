//! The two controls of a TAP descriptor that no safe wrapper offers.

use std::os::fd::{AsFd, AsRawFd};

use demi_api::fd::Fd;
use rustix::io::Errno;

use super::super::kernel::link::NAME_MAX;

/// Attaches the descriptor to the interface of that name, which is made if there is none; an empty name, or one with
/// `%d` in it, leaves it to the kernel. Returns the name.
pub(super) fn attach(fd: &Fd, name: &str) -> Result<String, Errno> {
    if name.len() > NAME_MAX || name.contains('\0') {
        return Err(Errno::NAMETOOLONG);
    }
    let mut field = [0; libc::IFNAMSIZ];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let union = libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short };
    let mut request = libc::ifreq { ifr_name: field, ifr_ifru: union };
    // SAFETY: the kernel reads and writes one `ifreq` at the address of `request`, which is one.
    let result =
        unsafe { libc::syscall(libc::SYS_ioctl, fd.as_fd().as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result != 0 {
        return Err(last_errno());
    }
    let given = request.ifr_name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0);
    String::from_utf8(given.collect()).map_err(|_| Errno::ILSEQ)
}

/// Tells the kernel that we take frames whose checksum is left to us.
pub(super) fn accept_partial_checksums(fd: &Fd) -> Result<(), Errno> {
    // SAFETY: the argument is a number; the kernel touches no memory of this process.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            fd.as_fd().as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(libc::TUN_F_CSUM),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
