//! AF_XDP: rings over the instance's own heap, shared with the kernel's driver.
//!
//! The heap's region is the UMEM: what the application pushes is what the kernel or the NIC reads, and what they write is
//! what the application pops. One [`Xdp`] serves one or several receive queues of an interface, and takes only the
//! frames that it is configured for; everything else reaches the kernel as if it were not there.
//!
//! Invariants: memory is lent to the kernel, for writing or for reading, until it comes back over a ring or the socket
//! is closed, and no reference into it exists meanwhile. Indices, addresses and lengths from the kernel are checked
//! before they are used. Nothing of a device outlives its descriptors, so a killed process leaves nothing behind.
//!
//! ## What is taken
//!
//! A program of a few dozen instructions decides, frame by frame. VLAN-tagged frames are never taken.
//!
//! | | own addresses (`ports` absent) | addresses shared with the kernel (`ports` given) |
//! |---|---|---|
//! | ARP | requests and replies whose target is ours | none: the kernel answers, and learns |
//! | IPv4, IPv6 | all packets to our addresses, fragments and ICMP included | TCP and UDP to our ports |
//! | fragments | as any packet | none, not even the first: the kernel drops what it cannot put together. So TCP must not let its packets be fragmented, and UDP datagrams must fit |
//! | ICMP errors | as any packet | those that quote a packet from our address and one of our ports, so that path MTU discovery works; echo stays with the kernel |
//! | IPv4 options | as any packet | looked behind |
//! | IPv6 extension headers | as any packet | none: ports are seen directly behind the fixed header |
//! | NDP | solicitations to a solicited-node group whose target is ours; with `all_nodes`, advertisements of routers and of neighbours to ff02::1 | none |
//! | broadcast, other multicast | none; with `dhcp`, UDP to port 68 at any address | none |
//!
//! With shared addresses the stack never sees an ARP reply or a neighbour advertisement: it has to be told its
//! neighbours, or to learn them from the frames that it gets. With own addresses the kernel must not have them too, or
//! both would answer, and it must not be asked to forward to them.
//!
//! ## Sharing an interface
//!
//! With [`share`](XdpConfig::share), several instances have a part of the queues each, under one program: the first to come
//! attaches it, others find it by its number and hold its link as well. A place of the map belongs to one socket, so a
//! queue whose owner has died is the kernel's until the next one takes it. Which queue a frame comes by is the NIC's
//! choice, or on `veth` the sender's (its transmit queue); what reached the wrong instance is the stack's affair.
//!
//! ## What to know
//!
//! - The kernel's own packets over `veth` have no transport checksum, as they never meet a wire, and may be larger
//!   than the MTU: `ethtool -K PEER tx off tso off gso off` at the sending end.
//! - In the stack ("generic"), a NIC that takes VLAN tags off by itself shows tagged frames as untagged ones.
//! - Completions wake nobody: [`Queue::next_deadline`] covers what is under way.
//!
//! | module | what it is |
//! |---|---|
//! | `config` | [`XdpConfig`] |
//! | `open` | how it all comes about |
//! | `interface`, `namespace` | what the interface is, and where |
//! | `spread` | by which queue a connection comes |
//! | `program`, `asm` | the redirect program, and the assembler for it |
//! | `attach`, `holders` | the program on the interface, and who else has one there |
//! | `socket`, `ring`, `raw` | a socket, its four rings, their memory |
//! | `umem`, `receive` | chunks lent to the kernel, frames from it |
//! | `flight`, `transmit` | frames to the kernel, buffers back |
//! | `sys` | system calls that nobody wraps |

mod asm;
mod attach;
mod config;
mod counters;
mod flight;
mod holders;
mod interface;
mod namespace;
mod open;
mod program;
mod raw;
mod receive;
mod ring;
mod socket;
pub(crate) mod spread;
mod sys;
#[cfg(test)]
pub(crate) mod tests;
mod transmit;
mod umem;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::time::Instant;

pub use self::config::{CopyMode, Mode, XdpConfig};
pub(crate) use self::spread::Spread;

use self::attach::Attachment;
use self::counters::Counters;
use self::interface::Interface;
use self::namespace::Namespace;
use self::open::is_released;
use self::receive::Receiver;
use self::socket::Binding;
use self::transmit::Transmitter;
use self::umem::Umem;
use super::{BURST, Caps, DeviceCx, Frame, Queue};

/// When to look again for completions: at first, and at the most.
const RECLAIM_AFTER: Duration = Duration::from_millis(1);
const RECLAIM_AT_MOST: Duration = Duration::from_millis(16);
/// When to look again if the kernel did not take everything.
const KICK_AFTER: Duration = Duration::from_micros(50);

/// How long closing waits for frames under way.
const DRAIN: Duration = Duration::from_millis(50);
/// How long closing waits for a NIC to let go of the heap.
const QUIESCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(1);

/// An interface that instances share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// The interface's number.
    pub(crate) interface: u32,
    /// How many receive queues the interface has.
    pub(crate) queues: u32,
    /// The parts of them from which an instance takes one. One part: others are of others' choice.
    pub(crate) parts: Vec<Vec<u32>>,
    /// How long to wait for a previous owner to be gone.
    pub(crate) wait: Duration,
    /// How TCP connections are spread over queues, if that is known.
    pub(crate) spread: Option<Spread>,
}

/// One or several receive queues of an interface, and a transmit queue.
pub struct Xdp {
    // In the order in which they must go: no more frames in, the kernel's hands off the heap, then the memory.
    attachment: Option<Attachment>,
    receivers: Vec<Receiver>,
    tx: Transmitter,
    umem: Umem,
    interface: Interface,
    caps: Caps,
    counters: Counters,
    /// Which receiver is asked first.
    turn: usize,
    due: Option<Instant>,
    patience: Duration,
    binding: Binding,
    /// All sockets, if there are or can be several.
    gathered: Option<Fd>,
    /// How many receivers stay, as this device was opened with their queues.
    own: usize,
    /// Receive buffers of a queue that is taken on later; zero: none is.
    more_buffers: u32,
    /// Where the interface is, if queues can be taken on.
    namespace: Option<Namespace>,
}

impl Xdp {
    /// Whether the NIC reads and writes the heap itself, and no kernel copies.
    pub fn is_zero_copy(&self) -> bool {
        self.binding.zero_copy
    }

    /// Whether the redirect program runs in the stack rather than in the driver.
    pub fn is_generic(&self) -> bool {
        self.attachment.as_ref().is_some_and(|attachment| attachment.generic)
    }

    /// What an interface has to be shared, before a part of it is opened.
    pub(crate) fn shares(config: &XdpConfig) -> Result<Shares, Error> {
        config.check()?;
        let interface = Interface::find(&config.interface)?;
        Ok(Shares {
            interface: interface.index,
            queues: interface.rx_queues,
            parts: open::parts(&interface, config)?,
            wait: config.attach_wait(),
            spread: interface.spread,
        })
    }

    /// Changes what is taken, from one frame to the next, as when an address was found or lost: to what `addresses`,
    /// `ports`, `all_nodes` and `dhcp` of a configuration say. Its other fields change nothing.
    ///
    /// # Errors
    /// [`Error::Config`], also if the interface is shared; what was taken before is then taken still.
    pub fn retarget(&self, config: &XdpConfig) -> Result<(), Error> {
        config.check()?;
        match &self.attachment {
            Some(attachment) => attachment.retarget(&self.interface, &config.flows()),
            None => Err(Error::Closed),
        }
    }

    fn kick_and_reclaim(&mut self) -> usize {
        if self.tx.is_idle() {
            return 0;
        }
        let count = self.tx.reclaim(&mut self.counters);
        if self.tx.is_stalled() {
            self.tx.kick(&self.receivers[0].socket, &mut self.counters);
        }
        if self.tx.is_idle() {
            self.due = None;
        }
        count
    }
}

impl Queue for Xdp {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        // What is under way for long is asked for less and less often, so that it does not keep the loop from sleep.
        if self.due.is_some_and(|due| due <= cx.now) {
            self.patience = (self.patience * 2).min(RECLAIM_AT_MOST);
            self.due = Some(cx.now + self.patience);
        }
        let mut count = 0;
        let first = self.turn;
        for at in 0..self.receivers.len() {
            if count == BURST {
                break;
            }
            let at = (first + at) % self.receivers.len();
            let receiver = &mut self.receivers[at];
            count += receiver.burst(&mut self.umem, cx.heap, inbox, BURST - count, &mut self.counters);
            self.turn = at + 1;
        }
        self.turn %= self.receivers.len();
        count
    }

    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        if outbox.is_empty() {
            return 0;
        }
        let count = self.tx.burst(&self.receivers[0].socket, cx.heap, outbox, &mut self.counters);
        if !self.tx.is_idle() {
            self.patience = if self.tx.is_stalled() { KICK_AFTER } else { RECLAIM_AFTER };
            self.due = Some(cx.now + self.patience);
        }
        count
    }

    fn reclaim(&mut self) -> usize {
        self.kick_and_reclaim()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.due
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        match &self.gathered {
            Some(all) => all.as_fd(),
            None => self.receivers[0].socket.as_fd(),
        }
    }

    fn arm(&mut self, _cx: &DeviceCx<'_>) -> bool {
        // There is nothing to switch on: a socket is readable for as long as its receive ring is not empty. But what
        // the kernel waits for to be told, it must be told before the sleep.
        let mut quiet = self.kick_and_reclaim() == 0;
        for receiver in &mut self.receivers {
            quiet &= receiver.arm(&mut self.umem);
        }
        quiet
    }

    /// Closing a socket waits for the frames that are just being received, some milliseconds: for other instances that come
    /// and go, not for what happens in every turn. A NIC that uses the heap itself would have to be waited for as well, so
    /// there queues stay as they were opened.
    fn serve(&mut self, cx: &DeviceCx<'_>, queues: &[u32], inbox: &mut Vec<Frame>) -> bool {
        if self.more_buffers == 0 || self.binding.zero_copy {
            return true;
        }
        let surplus = self.receivers.iter().skip(self.own).position(|one| !queues.contains(&one.queue));
        if let Some(place) = surplus {
            let mut receiver = self.receivers.remove(self.own + place);
            receiver.empty(&mut self.umem, cx.heap, inbox, &mut self.counters);
            let queue = receiver.queue;
            drop(receiver);
            self.umem.take_back(queue);
            return self.serve(cx, queues, inbox);
        }
        let held = |queue: &u32| self.receivers.iter().any(|one| one.queue == *queue);
        let missing: Vec<u32> = queues.iter().copied().filter(|queue| !held(queue)).collect();
        let mut all = true;
        for queue in missing {
            all &= self.take_on(queue).is_ok();
        }
        all
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.counters.visit(visit);
        visit("xdp_queues", self.receivers.len() as u64);
        let statistics = self.receivers.iter().filter_map(|receiver| receiver.socket.statistics());
        let sums = statistics.fold([0; 5], |sums, one| {
            let empty = one.rx_fill_ring_empty_descs.unwrap_or(0);
            let full = one.rx_ring_full.unwrap_or(0);
            let counts = [one.rx_dropped, full, empty, one.rx_invalid_descs, one.tx_invalid_descs];
            std::array::from_fn(|at| sums[at] + counts[at])
        });
        // The kernel's own: frames that it could not deliver, for want of room or buffers, and descriptors of ours that
        // it refused.
        let names = [
            "xdp_kernel_rx_dropped",
            "xdp_kernel_rx_ring_full",
            "xdp_kernel_fill_ring_empty",
            "xdp_kernel_rx_invalid",
            "xdp_kernel_tx_invalid",
        ];
        names.into_iter().zip(sums).for_each(|(name, sum)| visit(name, sum));
    }
}

impl Drop for Xdp {
    fn drop(&mut self) {
        self.attachment = None;
        let mut left = DRAIN;
        while !self.tx.is_idle() && !left.is_zero() {
            if self.kick_and_reclaim() == 0 {
                thread::sleep(STEP);
                left = left.saturating_sub(STEP);
            }
        }
        let queues: Vec<u32> = self.receivers.drain(..).map(|receiver| receiver.queue).collect();
        // The kernel's copying ends with its socket. A NIC goes on until its driver has been reconfigured, which the
        // kernel does later.
        if self.binding.zero_copy && !is_released(&self.interface, &queues, QUIESCE) {
            self.umem.leak();
            self.tx.leak();
        }
    }
}

impl std::fmt::Debug for Xdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Xdp")
            .field("interface", &self.interface)
            .field("binding", &self.binding)
            .field("queues", &self.receivers.len())
            .field("under_way", &self.tx.under_way())
            .finish_non_exhaustive()
    }
}
