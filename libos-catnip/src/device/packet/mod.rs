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
//!
//! | file | what it holds |
//! |---|---|
//! | `raw` | the ring |
//! | `frames` | frames out of the ring and the socket, and into the socket |
//! | `filter` | which frames leave the kernel |
//! | `open` | the socket, from its making to its binding |
//! | `sys` | its options |

mod filter;
mod frames;
mod open;
#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;
#[allow(unsafe_code, reason = "each block states its proof")]
mod sys;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::sga::MAX_SEGMENTS;
use rustix::io::Errno;
use rustix::net::sockopt;
use serde::Deserialize;

use self::frames::{Dropped, read_large, take, transmit};
use self::open::open_ring;
use self::raw::Ring;
use super::kernel::link::{Links, MTU_MAX, MTU_MIN};
use super::kernel::{ETHERNET, check_mac};
use super::{BURST, Caps, DeviceCx, Frame, Queue};

/// How to open an interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
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
