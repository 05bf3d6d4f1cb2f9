//! AF_PACKET: every frame of an interface, by a receive ring of version 2 and gathering sends.
//!
//! The bypass that works with every interface that the kernel has and no other program: at the price of one copy each
//! way and a system call for each burst sent. Received frames are copied out of the ring once, into heap buffers of
//! their own size.
//!
//! # The kernel sees everything too
//!
//! Each frame of the interface reaches the kernel's own stack as well. What it does with it depends on whom it is for:
//!
//! - With an Ethernet address of our own ([`PacketConfig::mac`]), the kernel passes over frames to it, as those of
//!   another station. This is how two stacks share an interface. The interface must then be promiscuous, which it is for
//!   as long as the device lives; wireless interfaces and some clouds deliver no foreign addresses.
//! - With the interface's own Ethernet address, the kernel takes what we receive for its own. An IP address that is
//!   ours alone, not one of the kernel's, makes it drop the packets, as long as it does not forward
//!   (`net.ipv4.ip_forward`); with one that is the kernel's too, it answers our connections with RST and our datagrams
//!   with "port unreachable", and both sides answer echo requests and ARP. Do not do that, except behind a packet filter
//!   (`nft`) that drops our ports before the kernel's stack sees them: it sits behind the place where we listen.
//!
//! # Frames above the MTU
//!
//! A kernel on the other end of a veth pair hands over segments of TCP as it sends them: up to 64 KiB in one piece,
//! summed by nobody. That cannot be turned off from this end. Slots of the ring are sized for the MTU; what is longer
//! waits whole in the socket's buffer (`PACKET_COPY_THRESH`), is read from there into a heap buffer of its size, in
//! order with the others, and is handed out as the one long segment that it is. Datagrams aggregated likewise
//! (`UDP_SEGMENT`, which QUIC uses) cannot be handed out as one and are dropped and counted; the other end stops sending
//! them with `ethtool -K INTERFACE tx-udp-segmentation off`.

mod filter;
#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;
#[allow(unsafe_code, reason = "each block states its proof")]
mod sys;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use demi_api::error::Error;
use demi_api::memalloc::Heap;
use demi_api::sga::MAX_SEGMENTS;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, MMsgHdr, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags,
    SocketType, recvmsg, sendmmsg, socket_with, sockopt,
};

use self::raw::{Ring, Slot};
use super::kernel::link::{Link, Links, MTU_MAX, MTU_MIN};
use super::kernel::{ETHERNET, Fd, check_mac, refused, vnet};
use super::{BURST, Caps, DeviceCx, Frame, Queue};

/// Frames handed to the kernel by one call.
const BATCH: usize = 16;

/// Longest frame taken: the longest IP packet behind its Ethernet header.
const LONGEST: usize = ETHERNET + 65535;

/// Smallest block that the ring is allocated in.
const BLOCK: usize = 64 << 10;

/// Memory for the ring, at the most.
const RING_MAX: usize = 1 << 30;

/// How to open an interface.
#[derive(Clone, Debug)]
pub struct PacketConfig {
    /// Its name, such as `"eth0"`. No default.
    pub interface: String,
    /// Our Ethernet address; default `None`: the interface's own. Any other makes the interface promiscuous.
    pub mac: Option<[u8; 6]>,
    /// Largest packet to send, in bytes, 68 to 65535 and not above the interface's MTU; default `None`: the interface's.
    pub mtu: Option<usize>,
    /// Our IP addresses: of the frames to our Ethernet address, only ARP and packets to one of these are received, and
    /// all others do not leave the kernel. At most 64; default none: all are received. Frames to groups always are.
    /// Worth it on an interface whose Ethernet address is the kernel's too.
    pub addresses: Vec<IpAddr>,
    /// Slots of the receive ring, a power of two from 64 to 65536; default 1024. Each takes 2 KiB at an MTU of 1500.
    /// Frames that find all in use are dropped and counted.
    pub ring_frames: usize,
    /// Bytes of frames above the MTU, with the kernel's overhead, that wait to be received; default 4 MiB.
    pub large_bytes: usize,
}

impl Default for PacketConfig {
    fn default() -> PacketConfig {
        PacketConfig {
            interface: String::new(),
            mac: None,
            mtu: None,
            addresses: Vec::new(),
            ring_frames: 1024,
            large_bytes: 4 << 20,
        }
    }
}

/// An interface of the kernel, as a device.
#[derive(Debug)]
pub struct Packet {
    caps: Caps,
    ring: Ring,
    fd: Fd,
    /// A frame that waits in the socket's buffer has lost its slot in the ring, or was not found there: buffer and ring
    /// are no longer in step, until both are empty.
    astray: bool,
    counters: Counters,
    /// What the kernel has dropped, as far as it was asked.
    kernel_drops: Cell<u64>,
}

#[derive(Debug, Default)]
struct Counters {
    rx_frames: u64,
    rx_bytes: u64,
    rx_large: u64,
    rx_dropped_memory: u64,
    rx_dropped_truncated: u64,
    rx_dropped_vlan: u64,
    rx_dropped_aggregate: u64,
    tx_frames: u64,
    tx_bytes: u64,
    tx_full: u64,
    tx_rejected: u64,
    tx_failed: u64,
    link_errors: u64,
}

impl Packet {
    /// Opens an interface, which must be up. Needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// [`Error::Config`] with a text that names the interface and says what to do; [`Error::TooManyFiles`].
    pub fn open(config: &PacketConfig) -> Result<Packet, Error> {
        let name = &config.interface;
        let reject = |text: &str| Err(Error::Config(format!("interface {name:?}: {text}")));
        let link = Links::open()?.find(name)?;
        let Some(own) = link.mac else {
            return reject("it is no Ethernet: choose one that is, or a veth pair");
        };
        if !link.up {
            return reject(&format!("it is down: `ip link set {name} up`"));
        }
        if !config.ring_frames.is_power_of_two() || !(64..=65536).contains(&config.ring_frames) {
            return reject("ring_frames must be a power of two from 64 to 65536");
        }
        if config.addresses.len() > filter::MAX_ADDRESSES {
            return reject("the filter takes at most 64 addresses: give none, to receive all frames");
        }
        let mac = config.mac.unwrap_or(own);
        check_mac(name, mac)?;
        let mtu = config.mtu.unwrap_or(link.mtu.min(MTU_MAX));
        if !(MTU_MIN..=link.mtu.min(MTU_MAX)).contains(&mtu) {
            return reject(&format!("an MTU of {mtu} is out of range: 68 to the interface's, {}", link.mtu));
        }
        let (fd, ring) = open_ring(config, &link, mac)?;
        let caps = Caps {
            mac,
            mtu,
            max_segs: MAX_SEGMENTS,
            max_seg_len: usize::MAX,
            tx_checksum: true,
            zero_copy: false,
        };
        let (counters, kernel_drops) = (Counters::default(), Cell::new(0));
        Ok(Packet { caps, ring, fd, astray: false, counters, kernel_drops })
    }

    fn count_drop(&mut self, dropped: Dropped) {
        *match dropped {
            Dropped::Memory => &mut self.counters.rx_dropped_memory,
            Dropped::Truncated => &mut self.counters.rx_dropped_truncated,
            Dropped::Vlan => &mut self.counters.rx_dropped_vlan,
            Dropped::Aggregate => &mut self.counters.rx_dropped_aggregate,
            Dropped::Outgoing => return,
        } += 1;
    }

    /// Empties the socket's buffer of frames that belong to no slot any more.
    fn drop_astray(&mut self) {
        self.astray = false;
        for _ in 0..BURST {
            match read_large(&self.fd, &mut []) {
                Ok(_) => self.counters.rx_dropped_truncated += 1,
                Err(_) => return,
            }
        }
        self.astray = true;
    }
}

impl Queue for Packet {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        let before = inbox.len();
        for _ in 0..BURST {
            let Some(slot) = self.ring.peek() else {
                if self.astray {
                    self.drop_astray();
                }
                break;
            };
            let taken = take(&self.fd, &slot, cx.heap, &mut self.astray);
            self.ring.release();
            match taken {
                Ok(frame) => {
                    let len = frame.data.len();
                    self.counters.rx_frames += 1;
                    self.counters.rx_bytes += len as u64;
                    self.counters.rx_large += u64::from(len > ETHERNET + self.caps.mtu);
                    inbox.push(frame);
                }
                Err(dropped) => self.count_drop(dropped),
            }
        }
        inbox.len() - before
    }

    fn tx_burst(&mut self, _cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        let before = outbox.len();
        while !outbox.is_empty() {
            let count = match transmit(&self.fd, &self.caps, outbox) {
                Ok(count) => count,
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    self.counters.tx_full += 1;
                    break;
                }
                // What is wrong with a frame, or with the interface, will not get better by trying it again.
                Err(_) => {
                    self.counters.tx_failed += 1;
                    outbox.pop_front();
                    continue;
                }
            };
            if count == 0 {
                self.counters.tx_rejected += 1;
                outbox.pop_front();
                continue;
            }
            self.counters.tx_frames += count as u64;
            self.counters.tx_bytes += outbox.drain(..count).map(|frame| frame.data.len() as u64).sum::<u64>();
        }
        before - outbox.len()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn arm(&mut self, _cx: &DeviceCx<'_>) -> bool {
        // An interface that went down leaves an error behind, with which the descriptor polls ready until it is taken.
        if let Ok(Err(_)) = sockopt::socket_error(&self.fd) {
            self.counters.link_errors += 1;
        }
        !self.ring.is_ready() && !self.astray
    }

    /// Asks the kernel for what it has dropped, by a system call.
    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        if let Ok(statistics) = sys::statistics(&self.fd) {
            self.kernel_drops.set(self.kernel_drops.get() + u64::from(statistics.drops));
        }
        let counters = &self.counters;
        visit("packet_rx_frames", counters.rx_frames);
        visit("packet_rx_bytes", counters.rx_bytes);
        visit("packet_rx_large", counters.rx_large);
        visit("packet_rx_dropped_full", self.kernel_drops.get());
        visit("packet_rx_dropped_memory", counters.rx_dropped_memory);
        visit("packet_rx_dropped_truncated", counters.rx_dropped_truncated);
        visit("packet_rx_dropped_vlan", counters.rx_dropped_vlan);
        visit("packet_rx_dropped_aggregate", counters.rx_dropped_aggregate);
        visit("packet_tx_frames", counters.tx_frames);
        visit("packet_tx_bytes", counters.tx_bytes);
        visit("packet_tx_full", counters.tx_full);
        visit("packet_tx_rejected", counters.tx_rejected);
        visit("packet_tx_failed", counters.tx_failed);
        visit("packet_link_errors", counters.link_errors);
    }
}

/// A socket with everything set, and at last bound: no frame gets by the filter or the ring.
fn open_ring(config: &PacketConfig, link: &Link, mac: [u8; 6]) -> Result<(Fd, Ring), Error> {
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

/// Why a frame that arrived is not handed out.
enum Dropped {
    Memory,
    Truncated,
    Vlan,
    Aggregate,
    Outgoing,
}

/// The frame in a slot, copied out.
#[inline]
fn take(fd: &Fd, slot: &Slot<'_>, heap: &Heap, astray: &mut bool) -> Result<Frame, Dropped> {
    let wanted = if slot.outgoing {
        Err(Dropped::Outgoing)
    } else if slot.is_tagged() {
        Err(Dropped::Vlan)
    } else if (ETHERNET..=LONGEST).contains(&slot.len) {
        Ok(slot.len)
    } else {
        Err(Dropped::Truncated)
    };
    if slot.status & libc::TP_STATUS_COPY != 0 {
        return take_large(fd, wanted, heap, astray);
    }
    let len = wanted?;
    if slot.bytes.len() != len {
        return Err(Dropped::Truncated);
    }
    let checksum = vnet::parse(&slot.vnet, len).ok_or(Dropped::Aggregate)?;
    let mut data = heap.alloc(len).map_err(|_| Dropped::Memory)?;
    data.copy_from_slice(slot.bytes);
    Ok(Frame { data: data.into(), checksum })
}

impl Slot<'_> {
    /// Whether the frame belongs to a VLAN, which is another network. The kernel has taken its tag out, so that nothing
    /// else tells. Number 0 is no VLAN but a priority (IEEE 802.1Q §9.6).
    fn is_tagged(&self) -> bool {
        self.status & libc::TP_STATUS_VLAN_VALID != 0 && self.vlan & 0xfff != 0
    }
}

/// The frame, of that length, that a slot was too short for. It leaves the socket's buffer even if it is not wanted.
#[cold]
fn take_large(
    fd: &Fd,
    wanted: Result<usize, Dropped>,
    heap: &Heap,
    astray: &mut bool,
) -> Result<Frame, Dropped> {
    let mut buffer = wanted.and_then(|len| heap.alloc(len).map_err(|_| Dropped::Memory));
    let read = read_large(fd, buffer.as_mut().map_or(&mut [], |buffer| &mut buffer[..]));
    *astray |= read.is_err();
    let data = buffer?;
    match read {
        Ok((header, len)) if len == data.len() => {
            let checksum = vnet::parse(&header, len).ok_or(Dropped::Aggregate)?;
            Ok(Frame { data: data.into(), checksum })
        }
        Ok(_) => {
            *astray = true;
            Err(Dropped::Truncated)
        }
        Err(_) => Err(Dropped::Truncated),
    }
}

/// Takes a frame out of the socket's buffer, as far as there is room; returns its header and its true length.
fn read_large(fd: &Fd, into: &mut [u8]) -> Result<([u8; vnet::LEN], usize), Errno> {
    let mut header = [0; vnet::LEN];
    let mut attempt = || {
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(&mut *into)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        recvmsg(fd, &mut parts, &mut RecvAncillaryBuffer::default(), flags).map(|message| message.bytes)
    };
    let len = match attempt() {
        Err(Errno::AGAIN) => return Err(Errno::AGAIN),
        // An error that the interface has left behind is told once and then gone.
        Err(_) => attempt()?,
        Ok(len) => len,
    };
    Ok((header, len.checked_sub(vnet::LEN).ok_or(Errno::BADMSG)?))
}

/// Hands frames from the front of `outbox` to the kernel; returns how many it took. None: the first is beyond what the
/// device can do.
fn transmit(fd: &Fd, caps: &Caps, outbox: &VecDeque<Frame>) -> Result<usize, Errno> {
    let headers: ArrayVec<[u8; vnet::LEN], BATCH> =
        outbox.iter().take(BATCH).map_while(|frame| vnet::for_frame(frame, caps)).collect();
    let mut parts: ArrayVec<ArrayVec<IoSlice<'_>, { MAX_SEGMENTS + 1 }>, BATCH> = ArrayVec::new();
    for (header, frame) in headers.iter().zip(outbox) {
        let mut part = ArrayVec::new();
        part.push(IoSlice::new(header));
        part.extend(frame.data.segments().iter().map(|segment| IoSlice::new(segment)));
        parts.push(part);
    }
    if parts.is_empty() {
        return Ok(0);
    }
    let mut nothing: [_; BATCH] = std::array::from_fn(|_| SendAncillaryBuffer::default());
    let mut messages: ArrayVec<MMsgHdr<'_>, BATCH> =
        parts.iter().zip(&mut nothing).map(|(part, nothing)| MMsgHdr::new(part, nothing)).collect();
    retry_on_intr(|| sendmmsg(fd, &mut messages, SendFlags::DONTWAIT))
}
