//! One AF_XDP socket: its rings, and the queue of the interface it is bound to.
//!
//! Invariant: the kernel uses the memory of a socket's UMEM only while the socket is open. The rings unmap before it
//! closes.

use std::os::fd::{AsFd, BorrowedFd};

use demi_api::fd::Fd;
use demi_api::memalloc::RegionInfo;
use rustix::io::{self, Errno};
use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_tx_ring_size, set_xdp_umem_completion_ring_size,
    set_xdp_umem_fill_ring_size, set_xdp_umem_reg, xdp_mmap_offsets, xdp_options, xdp_statistics,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpOptionsFlags, XdpStatistics, XdpUmemReg,
    XdpUmemRegFlags,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use super::raw::Desc;
use super::ring::{Consumer, Producer};

/// A socket before it is bound, or after.
pub(super) struct Socket {
    fd: Fd,
}

/// How a socket is bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Binding {
    pub(super) zero_copy: bool,
    /// Frames may consist of several descriptors.
    pub(super) gather: bool,
}

impl Socket {
    pub(super) fn new() -> io::Result<Socket> {
        socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map(|fd| Socket { fd: fd.into() })
    }

    /// Registers a region as the UMEM of this socket, and of those that are bound beside it.
    pub(super) fn register(&self, region: &RegionInfo, chunk: usize) -> io::Result<()> {
        set_xdp_umem_reg(
            &self.fd,
            XdpUmemReg {
                addr: region.base.expose_provenance() as u64,
                len: region.len as u64,
                chunk_size: chunk as u32,
                headroom: 0,
                flags: XdpUmemRegFlags::XDP_UMEM_UNALIGNED_CHUNK_FLAG,
                tx_metadata_len: 0,
            },
        )
    }

    /// Makes the rings for receiving: where the kernel gets buffers, and where it puts what it received.
    pub(super) fn receive_rings(&self, size: u32) -> io::Result<(Producer<u64>, Consumer<Desc>)> {
        set_xdp_umem_fill_ring_size(&self.fd, size)?;
        set_xdp_rx_ring_size(&self.fd, size)?;
        let layout = xdp_mmap_offsets(&self.fd)?;
        let fill = Producer::map(self.fd.as_fd(), XDP_UMEM_PGOFF_FILL_RING, &layout.fr, size)?;
        let rx = Consumer::map(self.fd.as_fd(), XDP_PGOFF_RX_RING, &layout.rx, size)?;
        Ok((fill, rx))
    }

    /// Makes the rings for transmitting: what to send, and what has been sent.
    pub(super) fn transmit_rings(&self, size: u32) -> io::Result<(Producer<Desc>, Consumer<u64>)> {
        set_xdp_umem_completion_ring_size(&self.fd, size)?;
        set_xdp_tx_ring_size(&self.fd, size)?;
        let layout = xdp_mmap_offsets(&self.fd)?;
        let tx = Producer::map(self.fd.as_fd(), XDP_PGOFF_TX_RING, &layout.tx, size)?;
        let completion = Consumer::map(self.fd.as_fd(), XDP_UMEM_PGOFF_COMPLETION_RING, &layout.cr, size)?;
        Ok((tx, completion))
    }

    /// The completion ring without which no socket can be bound, for one that never transmits.
    pub(super) fn no_transmit_rings(&self) -> io::Result<()> {
        set_xdp_umem_completion_ring_size(&self.fd, 64)
    }

    /// Binds the socket whose UMEM it is.
    pub(super) fn bind(&self, ifindex: u32, queue: u32, binding: Binding) -> io::Result<()> {
        let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        flags |= match binding.zero_copy {
            true => SocketAddrXdpFlags::XDP_ZEROCOPY,
            false => SocketAddrXdpFlags::XDP_COPY,
        };
        flags.set(SocketAddrXdpFlags::XDP_USE_SG, binding.gather);
        io::retry_on_intr(|| bind(&self.fd, &SocketAddrXdp::new(flags, ifindex, queue)))
    }

    /// Binds to another queue, with the UMEM and the binding of `first`.
    pub(super) fn bind_beside(&self, first: &Socket, ifindex: u32, queue: u32) -> io::Result<()> {
        let addr = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_SHARED_UMEM, ifindex, queue);
        let addr = SocketAddrXdpWithSharedUmem { addr, shared_umem_fd: first.fd.as_fd() };
        io::retry_on_intr(|| bind(&self.fd, &addr))
    }

    /// Whether the driver uses the UMEM itself.
    pub(super) fn is_zero_copy(&self) -> bool {
        xdp_options(&self.fd).is_ok_and(|options| options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    /// Has the kernel look at the transmit ring.
    pub(super) fn kick_tx(&self) -> io::Result<()> {
        send(&self.fd, &[], SendFlags::DONTWAIT).map(drop)
    }

    /// Has the driver look at the fill ring.
    pub(super) fn kick_rx(&self) {
        let mut nothing: [u8; 0] = [];
        // That there is nothing to be had in this way is no error.
        let _ = recv(&self.fd, &mut nothing[..], RecvFlags::DONTWAIT);
    }

    /// What the kernel has counted; zeros if it does not say.
    pub(super) fn statistics(&self) -> Option<XdpStatistics> {
        xdp_statistics(&self.fd).ok()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether an error says that a previous owner, or another, holds what is asked for.
pub(super) fn is_taken(errno: Errno) -> bool {
    matches!(errno, Errno::BUSY | Errno::EXIST)
}
