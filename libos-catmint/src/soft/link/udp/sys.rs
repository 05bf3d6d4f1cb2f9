//! System calls of the link: its sockets.
//!
//! Invariants: no call blocks. Every call goes to the kernel directly, never through symbols of the C library that a
//! preload shim replaces.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use demi_api::error::Error;
use demi_api::fd::Fd;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
    set_socket_recv_buffer_size, set_socket_send_buffer_size,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, ipproto,
};

use crate::soft::wire::PORT;

/// Bytes of packets that wait in a socket.
const BUFFER_BYTES: usize = 4 << 20;

#[cold]
fn translate(errno: Errno) -> Error {
    match errno {
        Errno::ACCESS | Errno::PERM => Error::PermissionDenied,
        Errno::ADDRINUSE => Error::AddressInUse,
        Errno::ADDRNOTAVAIL => Error::AddressNotAvailable,
        Errno::MFILE | Errno::NFILE => Error::TooManyFiles,
        Errno::NOMEM | Errno::NOBUFS => Error::NoBuffers,
        other => Error::System(other.raw_os_error()),
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn bound(address: IpAddr, port: u16) -> rustix::io::Result<Fd> {
    let fd = Fd::from(rustix::net::socket_with(family(address), SocketType::DGRAM, FLAGS, None)?);
    rustix::net::bind(&fd, &SocketAddr::new(address, port))?;
    Ok(fd)
}

/// A UDP socket at the port of the protocol, whose packets are not fragmented and so have no identification.
pub(super) fn open(address: IpAddr) -> Result<Fd, Error> {
    let fd = bound(address, PORT).map_err(translate)?;
    match address {
        IpAddr::V4(_) => set_ip_mtu_discover(&fd, Ipv4PathMtuDiscovery::DO),
        IpAddr::V6(_) => set_ipv6_mtu_discover(&fd, Ipv6PathMtuDiscovery::DO),
    }
    .map_err(translate)?;
    enlarge(&fd);
    Ok(fd)
}

fn enlarge(fd: &Fd) {
    // As much as the system allows; less costs packets that are sent again.
    let _ = set_socket_recv_buffer_size(fd, BUFFER_BYTES);
    let _ = set_socket_send_buffer_size(fd, BUFFER_BYTES);
}

/// A raw socket that shows the packets to the protocol's port whole, and from then on in the place of `udp`.
pub(super) fn open_raw(address: IpAddr, udp: &Fd) -> Result<Fd, Error> {
    let fd = rustix::net::socket_with(family(address), SocketType::RAW, FLAGS, Some(ipproto::UDP));
    let fd = Fd::from(fd.map_err(translate)?);
    let code = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // The length of the IP header to X; the two bytes behind X + 2; equal to the port: all, otherwise nothing.
    let equal = libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: 1,
        k: PORT.into(),
    };
    let ours = [
        code(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        code(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 2),
        equal,
        code(libc::BPF_RET | libc::BPF_K, u32::MAX),
        code(libc::BPF_RET | libc::BPF_K, 0),
    ];
    filter(&fd, &ours).map_err(translate)?;
    rustix::net::bind(&fd, &SocketAddr::new(address, 0)).map_err(translate)?;
    enlarge(&fd);
    filter(udp, &[code(libc::BPF_RET | libc::BPF_K, 0)]).map_err(translate)?;
    Ok(fd)
}

fn filter(fd: &Fd, program: &[libc::sock_filter]) -> Result<(), Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let request = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads as many bytes at the address of `request` as it has, and `len` instructions at that of `program`; it
    // keeps no pointer to either.
    let result = unsafe {
        libc::syscall(
            libc::SYS_setsockopt,
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            &raw const request,
            size_of_val(&request),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// Whether an interface that is up has the address.
pub(super) fn is_here(address: IpAddr) -> bool {
    !matches!(bound(address, 0), Err(Errno::ADDRNOTAVAIL))
}

/// Whether there is a route. Nothing is sent.
pub(super) fn is_routed(from: IpAddr, to: IpAddr) -> bool {
    let connect = |fd: Fd| rustix::net::connect(&fd, &SocketAddr::new(to, PORT));
    from.is_ipv4() == to.is_ipv4() && bound(from, 0).and_then(connect).is_ok()
}

/// Sends one packet. False: there is no room now. What cannot be sent at all is lost, as on a network.
pub(super) fn send(fd: &Fd, to: IpAddr, pieces: &[IoSlice<'_>]) -> bool {
    let to = SocketAddr::new(to, PORT);
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg_addr(fd, &to, pieces, &mut SendAncillaryBuffer::default(), flags)
    });
    !matches!(sent, Err(Errno::AGAIN | Errno::NOBUFS))
}

/// The next packet, if there is one: its length, which is more than `into` has if it was cut, and who sent it.
pub(super) fn receive(fd: &Fd, into: &mut [u8]) -> Option<(usize, SocketAddr)> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    // Errors are those of packets that were sent, and are told once each: at most a few in a row.
    for _ in 0..8 {
        match rustix::net::recvfrom(fd, &mut *into, flags) {
            Ok((_, len, from)) => return Some((len, from?.try_into().ok()?)),
            Err(Errno::AGAIN) => return None,
            Err(_) => {}
        }
    }
    None
}

/// Polls readable when `fd` does.
pub(super) fn epoll(fd: &Fd) -> Result<Fd, Error> {
    let set = Fd::from(epoll::create(epoll::CreateFlags::CLOEXEC).map_err(translate)?);
    epoll::add(&set, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(translate)?;
    Ok(set)
}
