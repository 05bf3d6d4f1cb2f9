//! A wire with a delay, which remembers every frame, loses those that it is told to, and takes no more of them at a time
//! than it is told to.
//!
//! Frames are copied at both ends, so nothing of a host's heap is held by the wire.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use demi_api::fd::Fd;
use demi_api::time::Instant;
use demi_libos_catnip::device::{BURST, Caps, DeviceCx, Frame, Queue};
use rustix::event::{EventfdFlags, eventfd};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetFrame, IpAddress, Ipv4Packet, TcpControl, TcpPacket, TcpRepr};

/// How long a frame is on its way.
pub(super) const DELAY: Duration = Duration::from_millis(5);

/// When a device that had no room has some again.
const ROOM_AFTER: Duration = Duration::from_micros(20);

/// The hosts' Ethernet addresses.
pub(super) const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// A frame that was sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) from: usize,
    pub(super) at: Instant,
    pub(super) bytes: Vec<u8>,
    pub(super) lost: bool,
}

/// What TCP says in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) seq: u32,
    pub(super) ack: Option<u32>,
    pub(super) len: usize,
    pub(super) control: TcpControl,
    pub(super) window: u16,
    pub(super) scale: Option<u8>,
}

impl Sent {
    /// `None`: it is no TCP. One with a wrong checksum is a fault of whoever sent it.
    pub(super) fn segment(&self) -> Option<Segment> {
        let frame = EthernetFrame::new_checked(&self.bytes[..]).unwrap();
        let ip = Ipv4Packet::new_checked(frame.payload()).ok()?;
        let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
        let [from, to] = [ip.src_addr(), ip.dst_addr()].map(IpAddress::from);
        let repr = TcpRepr::parse(&tcp, &from, &to, &ChecksumCapabilities::default()).unwrap();
        Some(Segment {
            seq: repr.seq_number.0.cast_unsigned(),
            ack: repr.ack_number.map(|ack| ack.0.cast_unsigned()),
            len: repr.payload.len(),
            control: repr.control,
            window: repr.window_len,
            scale: repr.window_scale,
        })
    }
}

type Judge = Box<dyn FnMut(&Sent) -> bool>;
type Room = Box<dyn FnMut() -> usize>;

/// The wire.
#[derive(Default)]
pub(super) struct Net {
    /// Everything that was sent, in order.
    pub(super) log: Vec<Sent>,
    /// Says which frames are lost.
    pub(super) loses: Option<Judge>,
    /// Says how many frames the next burst may have.
    pub(super) room: Option<Room>,
    /// For each host, with the time of arrival.
    arriving: [VecDeque<(Instant, Vec<u8>)>; 2],
}

impl Net {
    /// Puts a frame before a host, as if somebody had sent it.
    pub(super) fn inject(&mut self, to: usize, at: Instant, bytes: Vec<u8>) {
        self.arriving[to].push_back((at, bytes));
    }

    /// The segments that a host has sent.
    pub(super) fn segments(&self, from: usize) -> impl Iterator<Item = Segment> {
        self.log.iter().filter(move |sent| sent.from == from).filter_map(Sent::segment)
    }

    /// RFC 5681 §2: acknowledgements without data, window or anything else that is new.
    pub(super) fn duplicate_acks(&self) -> usize {
        let mut duplicates = 0;
        for from in [0, 1] {
            let mut last = None;
            for segment in self.segments(from) {
                let now = Some((segment.ack, segment.window, segment.seq));
                let bare = segment.len == 0 && segment.control == TcpControl::None;
                duplicates += usize::from(bare && now == last);
                last = now;
            }
        }
        duplicates
    }

    /// Drops what is on its way.
    pub(super) fn forget(&mut self) {
        self.arriving.iter_mut().for_each(VecDeque::clear);
    }

    fn send(&mut self, from: usize, at: Instant, bytes: Vec<u8>) {
        let mut sent = Sent { from, at, bytes, lost: false };
        sent.lost = self.loses.as_mut().is_some_and(|loses| loses(&sent));
        if !sent.lost {
            self.arriving[1 - from].push_back((at + DELAY, sent.bytes.clone()));
        }
        self.log.push(sent);
    }
}

/// One end of the wire.
pub(super) struct End {
    net: Rc<RefCell<Net>>,
    place: usize,
    caps: Caps,
    /// A burst found no room; when to try again.
    again: Option<Instant>,
    quiet: Fd,
}

impl End {
    pub(super) fn new(net: &Rc<RefCell<Net>>, place: usize) -> End {
        let caps = Caps {
            mac: MACS[place],
            mtu: 1500,
            max_segs: demi_api::sga::MAX_SEGMENTS,
            max_seg_len: usize::MAX,
            tx_checksum: false,
            zero_copy: false,
        };
        // Never readable: nobody sleeps here.
        let quiet = eventfd(0, EventfdFlags::CLOEXEC).unwrap().into();
        End { net: Rc::clone(net), place, caps, again: None, quiet }
    }
}

impl Queue for End {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        let arriving = &mut self.net.borrow_mut().arriving[self.place];
        let mut count = 0;
        while count < BURST
            && let Some((due, _)) = arriving.front()
            && *due <= cx.now
            && let Some((_, bytes)) = arriving.pop_front()
        {
            inbox.push(Frame::new(cx.heap.copy_from(&bytes).unwrap().into()));
            count += 1;
        }
        count
    }

    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        let mut net = self.net.borrow_mut();
        let room = net.room.as_mut().map_or(usize::MAX, |room| room());
        let count = room.min(outbox.len());
        for frame in outbox.drain(..count) {
            net.send(self.place, cx.now, frame.data.to_vec());
        }
        self.again = (!outbox.is_empty()).then(|| cx.now + ROOM_AFTER);
        count
    }

    fn next_deadline(&self) -> Option<Instant> {
        let arrives = self.net.borrow().arriving[self.place].front().map(|(due, _)| *due);
        arrives.into_iter().chain(self.again).min()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.quiet.as_fd()
    }

    fn arm(&mut self, _cx: &DeviceCx<'_>) -> bool {
        self.again.is_none()
    }

    fn counters(&self, _visit: &mut dyn FnMut(&'static str, u64)) {}
}
