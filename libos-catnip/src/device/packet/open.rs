//! The socket, from its making to its binding.

use demi_api::error::Error;
use demi_api::fd::Fd;
use rustix::io::retry_on_intr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use super::super::kernel::link::{Link, MTU_MAX};
use super::super::kernel::{ETHERNET, refused};
use super::raw::Ring;
use super::{PacketConfig, filter, raw, sys};

/// Smallest block that the ring is allocated in.
const BLOCK: usize = 64 << 10;

/// Memory for the ring, at the most.
const RING_MAX: usize = 1 << 30;

/// A socket with everything set, and at last bound: no frame gets by the filter or the ring.
pub(super) fn open_ring(config: &PacketConfig, link: &Link, mac: [u8; 6]) -> Result<(Fd, Ring), Error> {
    let name = &config.interface;
    let old = "the kernel must be 4.20 or later, with CONFIG_PACKET";
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd: Fd = retry_on_intr(|| socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None))
        .map_err(|errno| {
            refused(name, "cannot open a packet socket", errno, "grant CAP_NET_RAW, or run as root")
        })?
        .into();
    let stride = (raw::OVERHEAD + ETHERNET + link.mtu.min(MTU_MAX)).next_power_of_two().max(raw::SLOT_MIN);
    let count = config.ring_frames;
    let block = stride.max(BLOCK);
    if stride * count > RING_MAX {
        let text = "the receive ring would exceed 1 GiB: lower ring_frames";
        return Err(Error::Config(format!("interface {name:?}: {text}")));
    }
    let promiscuous = link.mac != Some(mac);
    let membership = if promiscuous { libc::PACKET_MR_PROMISC } else { libc::PACKET_MR_ALLMULTI };
    sys::set_number(&fd, libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as libc::c_int)
        .and_then(|()| sys::set_number(&fd, libc::PACKET_VNET_HDR, 1))
        .and_then(|()| sys::set_number(&fd, libc::PACKET_COPY_THRESH, 1))
        .and_then(|()| sys::set_number(&fd, libc::PACKET_IGNORE_OUTGOING, 1))
        .and_then(|()| sys::attach_filter(&fd, &filter::program(mac, &config.addresses)))
        .map_err(|errno| refused(name, "cannot set up the packet socket", errno, old))?;
    // Without CAP_NET_ADMIN, net.core.rmem_max limits it, and fewer large frames wait.
    sockopt::set_socket_recv_buffer_size_force(&fd, config.large_bytes / 2)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&fd, config.large_bytes / 2))
        .map_err(|errno| refused(name, "cannot size the socket's buffer", errno, "lower large_bytes"))?;
    let lower = "lower ring_frames, or free memory";
    sys::set_ring(&fd, stride as u32, count as u32, block as u32)
        .map_err(|errno| refused(name, "cannot allocate the receive ring", errno, lower))?;
    let ring = Ring::map(&fd, stride, count)
        .map_err(|errno| refused(name, "cannot map the receive ring", errno, lower))?;
    sys::join(&fd, link.index, membership)
        .and_then(|()| sys::bind(&fd, link.index))
        .map_err(|errno| refused(name, "cannot bind to it", errno, "is it still there? See `ip link`"))?;
    Ok((fd, ring))
}
