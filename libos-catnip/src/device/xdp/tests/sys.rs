//! System calls that only tests make: running a program on a frame, and packet sockets.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::Uid;
use rustix::thread::{capabilities, set_capabilities, set_keep_capabilities, set_thread_res_uid};

const BPF_PROG_TEST_RUN: i64 = 10;

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// What the kernel's machine decides on a frame of at least 14 bytes.
pub(super) fn run(program: BorrowedFd<'_>, frame: &[u8]) -> Result<u32, Errno> {
    let mut attr = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr().expose_provenance() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    // SAFETY: the kernel reads the attribute and the frame, both alive and as long as it is told, and writes results to
    // the attribute.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRun>()) };
    if result < 0 { Err(last_errno()) } else { Ok(attr.retval) }
}

/// As `ethtool -K NAME tx off`, for an interface of this thread's namespace: checksums are complete in what it sends.
pub(crate) fn complete_checksums(name: &str) -> Result<(), Errno> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut value = [ETHTOOL_STXCSUM, 0];
    // `struct ifreq`: a name, and an address among 24 bytes.
    let mut request = [0_u64; 5];
    let mut bytes = [0; 16];
    bytes[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
    let (halves, _) = bytes.as_chunks::<8>();
    (request[0], request[1]) = (u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1]));
    request[2] = (&raw mut value).expose_provenance() as u64;
    // SAFETY: the kernel reads the request, 40 bytes, and the two words that it points to, all of which outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Makes the calling thread another user's, with the capabilities that it has.
pub(super) fn become_user(user: Uid) -> Result<(), Errno> {
    let all = capabilities(None)?;
    set_keep_capabilities(true)?;
    set_thread_res_uid(user, user, user)?;
    set_capabilities(None, all)
}

/// A socket that sends and receives whole frames on an interface of this thread's namespace.
pub(super) fn packet_socket(ifindex: u32) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    let all = (libc::ETH_P_ALL as u16).to_be();
    let addr = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: all,
        sll_ifindex: ifindex as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads the address, which is alive and as long as it is told.
    let result = unsafe {
        libc::syscall(libc::SYS_bind, socket.as_fd().as_raw_fd(), &raw const addr, size_of_val(&addr))
    };
    if result < 0 { Err(last_errno()) } else { Ok(socket) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
