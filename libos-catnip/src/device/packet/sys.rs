//! The options of an AF_PACKET socket, which go to the kernel as plain numbers and small structures.

use std::os::fd::{AsFd, AsRawFd};

use demi_api::fd::Fd;
use rustix::io::Errno;

/// What the kernel has counted since it was last asked.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Statistics {
    /// Frames that found the ring or the socket's buffer full.
    pub(super) drops: u32,
}

pub(super) fn set_number(fd: &Fd, option: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
    set(fd, libc::SOL_PACKET, option, &value)
}

/// The receive ring: `count` frames of `stride` bytes in blocks of `block`, which it divides.
pub(super) fn set_ring(fd: &Fd, stride: u32, count: u32, block: u32) -> Result<(), Errno> {
    let request = libc::tpacket_req {
        tp_block_size: block,
        tp_block_nr: count / (block / stride),
        tp_frame_size: stride,
        tp_frame_nr: count,
    };
    set(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)
}

/// Has the interface receive more than its own address: `libc::PACKET_MR_PROMISC` or `PACKET_MR_ALLMULTI`. It ends
/// with the socket.
pub(super) fn join(fd: &Fd, index: u32, kind: libc::c_int) -> Result<(), Errno> {
    let request = libc::packet_mreq {
        mr_ifindex: index.cast_signed(),
        mr_type: kind as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Lets through only frames for which the program returns something.
pub(super) fn attach_filter(fd: &Fd, program: &[libc::sock_filter]) -> Result<(), Errno> {
    let request = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &request)
}

/// Binds to every protocol of the interface; from now on frames arrive.
pub(super) fn bind(fd: &Fd, index: u32) -> Result<(), Errno> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads as many bytes at the address of `address` as it has, and keeps no pointer to them.
    let result = unsafe {
        libc::syscall(libc::SYS_bind, fd.as_fd().as_raw_fd(), &raw const address, size_of_val(&address))
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Reads the kernel's counts, which sets them back to zero.
pub(super) fn statistics(fd: &Fd) -> Result<Statistics, Errno> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut size = size_of_val(&stats) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, which is the size of `stats`, to its address, and the size itself.
    let result = unsafe {
        libc::syscall(
            libc::SYS_getsockopt,
            fd.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            &raw mut stats,
            &raw mut size,
        )
    };
    if result == 0 { Ok(Statistics { drops: stats.tp_drops }) } else { Err(last_errno()) }
}

/// `value` is of the type that the option takes; where it points to more, as `sock_fprog` does, that is live too.
fn set<T>(fd: &Fd, level: libc::c_int, option: libc::c_int, value: &T) -> Result<(), Errno> {
    // SAFETY: the kernel reads at most as many bytes at the address of `value` as it has, and what a `sock_fprog` points
    // to, which `attach_filter`'s caller has borrowed to it; it copies both and keeps no pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_setsockopt,
            fd.as_fd().as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value),
            size_of::<T>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
