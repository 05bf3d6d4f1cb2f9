//! Opening a device: what the interface can do is found by trying, the better way first.
//!
//! Invariant: frames are taken from the kernel only when everything is in place to receive them. What fails on the way
//! is undone by dropping what was made; what a previous owner still holds is waited for, within one bound.

use std::time::Duration;

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use demi_api::sga::MAX_SEGMENTS;
use rustix::event::epoll;
use rustix::io::Errno;

use super::attach::{Attachment, Patience, refused};
use super::config::{CopyMode, Mode, XdpConfig};
use super::counters::Counters;
use super::interface::Interface;
use super::namespace::Namespace;
use super::receive::Receiver;
use super::socket::{Binding, Socket, is_taken};
use super::transmit::{HEADER, Transmitter};
use super::umem::Umem;
use super::{RECLAIM_AFTER, Xdp};
use crate::device::Caps;

/// What the kernel keeps free before the bytes that it receives (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;

/// Fewest receive buffers of a queue: half of them are one burst.
const LEAST_BUFFERS: usize = 64;

/// Ethernet and VLAN headers.
const HEADERS: usize = HEADER + 4;

impl Xdp {
    /// Opens the interface, with the whole of `heap` as the memory that is shared with the kernel.
    ///
    /// # Errors
    /// [`Error::Config`], with what to change; [`Error::OutOfMemory`] if the heap has no room for the receive buffers.
    pub fn open(heap: &Heap, config: &XdpConfig) -> Result<Xdp, Error> {
        config.check()?;
        let interface = Interface::find(&config.interface)?;
        let parts = parts(&interface, config)?;
        let most = parts.iter().map(Vec::len).max().unwrap_or(1);
        let whole = |chunk: usize| interface.mtu + HEADERS <= chunk - HEADROOM;
        let chunk = if whole(2048) { 2048 } else { 4096 };
        let rx_size = config.rx_buffers.next_power_of_two();
        let tx_size = config.tx_segments.next_power_of_two();
        // What own queues need, and as much for others that have nobody.
        let foreign = if config.is_shared() { interface.rx_queues as usize - most } else { 0 };
        let more_buffers = match (rx_size as usize * most).checked_div(foreign) {
            Some(each) => (1 << each.max(LEAST_BUFFERS).ilog2()).min(rx_size),
            None => 0,
        };
        let umem = Umem::new(heap, chunk, rx_size as usize * most + more_buffers as usize * foreign)?;
        let mut patience = Patience(config.attach_wait());

        let modes: &[bool] = match config.mode {
            Mode::Native => &[false],
            Mode::Generic => &[true],
            // In the stack, frames of veth are all of one queue.
            Mode::Auto if config.is_shared() => &[false, true],
            // The driver of veth copies each frame to where the program can have it, and defers it once more.
            Mode::Auto if interface.driver == "veth" && config.copy != CopyMode::ZeroCopy => &[true, false],
            Mode::Auto if config.copy == CopyMode::ZeroCopy => &[false],
            Mode::Auto => &[false, true],
        };
        let attachment = Attachment::new(
            &interface,
            &config.flows(),
            modes,
            whole(chunk),
            config.is_shared(),
            &mut patience,
        )?;

        let failed = |what: &str, errno| refused(&interface, what, errno);
        let first = new_socket(&interface)?;
        first.register(&heap.region(), chunk).map_err(|errno| failed("cannot register the heap", errno))?;
        let tx_rings = first.transmit_rings(tx_size).map_err(|errno| failed("cannot make rings", errno))?;
        let rx_rings = first.receive_rings(rx_size).map_err(|errno| failed("cannot make rings", errno))?;
        let bindings = bindings(config.copy, attachment.generic, whole(chunk));
        let (queues, binding) = bind_first(&interface, &first, &parts, &bindings, &mut patience)?;
        let mut receivers = vec![Receiver::new(first, queues[0], rx_rings, rx_size)];
        for queue in &queues[1..] {
            let socket = new_socket(&interface)?;
            socket.no_transmit_rings().map_err(|errno| failed("cannot make rings", errno))?;
            let rings = socket.receive_rings(rx_size).map_err(|errno| failed("cannot make rings", errno))?;
            patience
                .until_free(|| socket.bind_beside(&receivers[0].socket, interface.index, *queue))
                .map_err(|errno| bind_failed(&interface, *queue, errno))?;
            receivers.push(Receiver::new(socket, *queue, rings, rx_size));
        }

        let caps = Caps {
            mac: interface.mac,
            mtu: interface.mtu,
            max_segs: MAX_SEGMENTS,
            max_seg_len: interface.mtu + HEADER,
            tx_checksum: false,
            zero_copy: binding.gather,
        };
        let binding = Binding { zero_copy: receivers[0].socket.is_zero_copy(), ..binding };
        let tx = Transmitter::new(tx_rings, tx_size, heap.region(), chunk, binding, interface.mtu);
        let gathered = if receivers.len() > 1 || more_buffers > 0 {
            Some(gather(&interface, &receivers)?)
        } else {
            None
        };
        let own = receivers.len();
        let namespace = if more_buffers > 0 {
            Some(Namespace::current().map_err(|errno| failed("cannot tell the network namespace", errno))?)
        } else {
            None
        };
        let mut xdp = Xdp {
            attachment: None,
            receivers,
            tx,
            umem,
            interface,
            caps,
            counters: Counters::default(),
            turn: 0,
            due: None,
            patience: RECLAIM_AFTER,
            binding,
            gathered,
            own,
            more_buffers,
            namespace,
        };
        // From here on, closing is what undoes it.
        for receiver in &mut xdp.receivers {
            receiver.refill(&mut xdp.umem);
            attachment.serve(&xdp.interface, receiver.queue, &receiver.socket)?;
        }
        xdp.attachment = Some(attachment);
        Ok(xdp)
    }

    /// Takes on a queue that nobody has.
    pub(super) fn take_on(&mut self, queue: u32) -> Result<(), Error> {
        let (Some(attachment), Some(all), Some(namespace)) =
            (&self.attachment, &self.gathered, &self.namespace)
        else {
            return Err(Error::Closed);
        };
        let interface = &self.interface;
        let failed = |errno| refused(interface, &format!("cannot take on queue {queue}"), errno);
        let socket = namespace.inside(|| new_socket(interface)).map_err(failed)??;
        socket.no_transmit_rings().map_err(failed)?;
        let rings = socket.receive_rings(self.more_buffers).map_err(failed)?;
        socket.bind_beside(&self.receivers[0].socket, interface.index, queue).map_err(failed)?;
        watch(all, &socket, queue).map_err(failed)?;
        let mut receiver = Receiver::new(socket, queue, rings, self.more_buffers);
        receiver.refill(&mut self.umem);
        let served = attachment.serve(interface, queue, &receiver.socket);
        if served.is_err() {
            drop(receiver);
            self.umem.take_back(queue);
            return served;
        }
        self.receivers.push(receiver);
        Ok(())
    }
}

/// Which receive queues are served: the parts of them from which this instance takes one.
pub(super) fn parts(interface: &Interface, config: &XdpConfig) -> Result<Vec<Vec<u32>>, Error> {
    let (name, count) = (&interface.name, interface.rx_queues);
    if config.queues.is_empty() {
        let share = config.share;
        if share > count {
            return Err(Error::Config(format!(
                "AF_XDP on `{name}`: {share} instances to `share` {count} receive queues: make more queues \
                 (`ethtool -L {name} combined {share}`), or start fewer"
            )));
        }
        let part = |first| (first..count).step_by(share as usize).collect();
        return Ok((0..share).map(part).collect());
    }
    let mut queues = config.queues.clone();
    queues.sort_unstable();
    queues.dedup();
    if let Some(queue) = queues.iter().find(|queue| **queue >= count) {
        return Err(Error::Config(format!(
            "AF_XDP on `{name}`: no queue {queue}: there are 0 to {}",
            count - 1
        )));
    }
    Ok(vec![queues])
}

fn new_socket(interface: &Interface) -> Result<Socket, Error> {
    Socket::new().map_err(|errno| refused(interface, "cannot open a socket", errno))
}

/// What to try, in this order.
fn bindings(copy: CopyMode, generic: bool, whole: bool) -> Vec<Binding> {
    let zero_copy: &[bool] = match copy {
        CopyMode::ZeroCopy => &[true],
        CopyMode::Copy => &[false],
        CopyMode::Auto if generic => &[false],
        CopyMode::Auto => &[true, false],
    };
    let all = zero_copy.iter().flat_map(|zero_copy| [(*zero_copy, true), (*zero_copy, false)]);
    all.filter(|(_, gather)| *gather || whole)
        .map(|(zero_copy, gather)| Binding { zero_copy, gather })
        .collect()
}

/// Binds to the first queue of the first part that is free, in the first way that works.
fn bind_first<'a>(
    interface: &Interface,
    socket: &Socket,
    parts: &'a [Vec<u32>],
    bindings: &[Binding],
    patience: &mut Patience,
) -> Result<(&'a [u32], Binding), Error> {
    let bind = |queue| {
        let mut last = Errno::OPNOTSUPP;
        for binding in bindings {
            match socket.bind(interface.index, queue, *binding) {
                Ok(()) => return Ok(*binding),
                Err(errno) if is_taken(errno) || errno == Errno::NETDOWN => return Err(errno),
                Err(errno) => last = errno,
            }
        }
        Err(last)
    };
    let attempt = || {
        let mut taken = Errno::BUSY;
        for part in parts {
            match bind(part[0]) {
                Ok(binding) => return Ok((&part[..], binding)),
                Err(errno) if is_taken(errno) => taken = errno,
                Err(errno) => return Err(errno),
            }
        }
        Err(taken)
    };
    patience.until_free(attempt).map_err(|errno| {
        if parts.len() > 1 && is_taken(errno) {
            return Error::Config(format!(
                "AF_XDP on `{}`: {} instances share the interface already (`ss --xdp -p` shows them): end one, or raise \
                 `share`",
                interface.name,
                parts.len()
            ));
        }
        bind_failed(interface, parts[0][0], errno)
    })
}

fn bind_failed(interface: &Interface, queue: u32, errno: Errno) -> Error {
    let name = &interface.name;
    if is_taken(errno) {
        return Error::Config(format!(
            "AF_XDP on `{name}`: another AF_XDP socket has queue {queue} (`ss --xdp -p` shows whose): end its owner, or \
             configure other `queues`"
        ));
    }
    refused(interface, &format!("cannot bind to queue {queue}"), errno)
}

/// One descriptor for the sockets of several queues.
fn gather(interface: &Interface, receivers: &[Receiver]) -> Result<Fd, Error> {
    let failed = |errno| refused(interface, "cannot gather the sockets of its queues", errno);
    let all = epoll::create(epoll::CreateFlags::CLOEXEC).map(Fd::from).map_err(failed)?;
    for receiver in receivers {
        watch(&all, &receiver.socket, receiver.queue).map_err(failed)?;
    }
    Ok(all)
}

fn watch(all: &Fd, socket: &Socket, queue: u32) -> Result<(), Errno> {
    epoll::add(all, socket, epoll::EventData::new_u64(queue.into()), epoll::EventFlags::IN)
}

/// Waits until queues can be bound again, which tells that the driver has let go of what was bound to them before.
pub(super) fn is_released(interface: &Interface, queues: &[u32], wait: Duration) -> bool {
    let mut patience = Patience(wait);
    // A heap of the smallest size: a socket cannot be bound without memory.
    let config = HeapConfig { size: 2 << 20, huge_pages: HugePages::Never, lock: false };
    let Ok(scratch) = Heap::new(&config) else { return false };
    let copy = Binding { zero_copy: false, gather: false };
    queues.iter().all(|queue| {
        let attempt = || {
            let socket = Socket::new()?;
            socket.register(&scratch.region(), 4096)?;
            let _rings = socket.transmit_rings(64)?;
            let _fill = socket.receive_rings(64)?;
            socket.bind(interface.index, *queue, copy)
        };
        patience.until_free(attempt).is_ok()
    })
}
