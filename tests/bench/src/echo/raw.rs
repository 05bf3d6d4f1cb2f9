//! The device without a stack: frames as large as those of TCP, which the far end sends back as they are, with their
//! Ethernet addresses swapped.
//!
//! Nothing is answered or counted but frames of this exchange: what a kernel sends on its own account is left alone. A
//! frame without a payload ends the exchange.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use demi_api::SgArray;
use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use demi_api::time::Clock;
use demi_libos_catnip::device::{BURST, DeviceCx, Frame, Queue};

use super::Exchange;
use crate::measure::Guard;
use crate::nic::{End, Nic};

/// Bytes before the payload: Ethernet, IPv4, and TCP with timestamps, as in the subject's frames.
const HEADERS: usize = 14 + 20 + 32;

/// Polls for one look at the clock, which the devices need for little but their control channels.
const POLLS_PER_LOOK: u32 = 64;

/// How often, and how long, a client asks whether there is a server.
const ASK_EVERY: Duration = Duration::from_millis(5);
const ASK_FOR: Duration = Duration::from_secs(10);

/// A device, and where its frames lie.
struct Port {
    // Before the heap that it writes to.
    device: Box<dyn Queue>,
    heap: Heap,
    clock: Clock,
    now: demi_api::time::Instant,
    polls: u32,
    inbox: Vec<Frame>,
    outbox: VecDeque<Frame>,
    /// The source address of the peer's frames, and their type.
    theirs: [u8; 8],
}

impl Port {
    fn open(nic: &Nic, end: End, heap_mib: usize) -> Result<Port> {
        let heap = Heap::new(&HeapConfig { size: heap_mib << 20, huge_pages: HugePages::Auto, lock: true })?;
        let clock = Clock::start();
        let peer = if end == End::Server { End::Client } else { End::Server };
        let mut theirs = [8, 0, 0, 0, 0, 0, 8, 0];
        theirs[..6].copy_from_slice(&peer.mac());
        Ok(Port {
            device: nic.open(end, &heap)?,
            heap,
            now: clock.now(),
            clock,
            polls: 0,
            inbox: Vec::with_capacity(BURST),
            outbox: VecDeque::with_capacity(BURST),
            theirs,
        })
    }

    /// Receives what there is. Frames that are not of this exchange are gone after it.
    #[inline]
    fn poll(&mut self) -> usize {
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(POLLS_PER_LOOK) {
            self.now = self.clock.now();
        }
        let cx = DeviceCx { heap: &self.heap, now: self.now };
        self.device.rx_burst(&cx, &mut self.inbox);
        let theirs = &self.theirs;
        self.inbox.retain(|frame| {
            let head = frame.data.segments().first();
            head.is_some_and(|head| head.get(6..14) == Some(theirs)) && frame.data.len() >= HEADERS
        });
        self.inbox.len()
    }

    /// Hands all of the outbox to the device.
    #[inline]
    fn flush(&mut self) -> Result<()> {
        let mut guard = Guard::new();
        while !self.outbox.is_empty() {
            let cx = DeviceCx { heap: &self.heap, now: self.now };
            if self.device.tx_burst(&cx, &mut self.outbox) == 0 {
                guard.spin()?;
            }
            self.device.reclaim();
        }
        Ok(())
    }

    /// A frame to the peer with `len` bytes of payload.
    fn frame(&self, len: usize) -> Result<Frame> {
        let mut bytes = vec![0x5a; HEADERS + len];
        bytes[..6].copy_from_slice(&self.theirs[..6]);
        bytes[6..12].copy_from_slice(&self.device.caps().mac);
        bytes[12..14].copy_from_slice(&[8, 0]);
        let total = u16::try_from(20 + 32 + len).context("a frame is within 64 KiB")?;
        let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[12..16].copy_from_slice(&End::Client.ip().octets());
        header[16..20].copy_from_slice(&End::Server.ip().octets());
        let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let folded = (sum >> 16) + (sum & 0xffff);
        header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        bytes[14..34].copy_from_slice(&header);
        Ok(Frame::new(SgArray::copy_from(&self.heap, &bytes)?))
    }
}

/// The frame on its way back: in the same memory if nobody else looks at it.
#[inline]
fn bounced(frame: Frame, heap: &Heap) -> Result<Frame> {
    let mut segments = frame.data.into_segments().into_iter();
    let head = segments.next().context("a frame has bytes")?;
    let mut head = match head.try_into_mut() {
        Ok(head) => head,
        Err(shared) => {
            let mut copy = heap.alloc(shared.len())?;
            copy.copy_from_slice(&shared);
            copy
        }
    };
    let [to, from] = head.get_disjoint_mut([0..6, 6..12]).context("a frame has addresses")?;
    to.swap_with_slice(from);
    let mut data = SgArray::from(head);
    for segment in segments {
        data.push(segment)?;
    }
    Ok(Frame::new(data))
}

/// Sends back what comes until a frame says that that was all.
pub(super) fn serve(nic: &Nic, heap_mib: usize) -> Result<()> {
    let mut port = Port::open(nic, End::Server, heap_mib)?;
    super::announce(crate::nic::server())?;
    // No limit: whoever starts both ends decides how long the client may take.
    while port.poll() == 0 {}
    let mut guard = Guard::new();
    loop {
        let mut inbox = std::mem::take(&mut port.inbox);
        for frame in inbox.drain(..) {
            if frame.data.len() == HEADERS {
                return Ok(());
            }
            let frame = bounced(frame, &port.heap)?;
            port.outbox.push_back(frame);
        }
        port.inbox = inbox;
        port.flush()?;
        if port.poll() == 0 {
            port.device.reclaim();
            guard.spin()?;
        } else {
            guard = Guard::new();
        }
    }
}

pub(super) struct Client {
    port: Port,
    /// The payloads of one message's frames.
    lens: Vec<usize>,
    /// What came back, ready to be sent again.
    spare: VecDeque<Frame>,
}

impl Client {
    pub(super) fn connect(nic: &Nic, size: usize, heap_mib: usize) -> Result<Client> {
        let mut port = Port::open(nic, End::Client, heap_mib)?;
        let most = (port.device.caps().mtu + 14).checked_sub(HEADERS).filter(|most| *most > 0);
        let most = most.context("the MTU leaves no room for a payload")?;
        let mut lens = vec![most; size / most];
        lens.extend(Some(size % most).filter(|rest| *rest > 0));
        let begin = Instant::now();
        while port.inbox.is_empty() {
            if begin.elapsed() > ASK_FOR {
                bail!("the far end of the device does not answer");
            }
            let question = port.frame(1)?;
            port.outbox.push_back(question);
            port.flush()?;
            let asked = Instant::now();
            while port.poll() == 0 && asked.elapsed() < ASK_EVERY {
                port.device.reclaim();
            }
        }
        // Answers to what was asked before.
        let answered = Instant::now();
        while answered.elapsed() < 2 * ASK_EVERY {
            port.inbox.clear();
            port.poll();
        }
        port.inbox.clear();
        Ok(Client { port, lens, spare: VecDeque::new() })
    }
}

impl Exchange for Client {
    #[inline]
    fn send(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            for len in &self.lens {
                let frame = match self.spare.pop_front() {
                    // The frames of messages come back in order, so a message's turn has frames of its lengths.
                    Some(frame) if frame.data.len() == HEADERS + len => frame,
                    _ => self.port.frame(*len)?,
                };
                self.port.outbox.push_back(frame);
            }
        }
        self.port.flush()
    }

    #[inline]
    fn receive(&mut self) -> Result<usize> {
        let mut guard = Guard::new();
        while self.port.poll() == 0 {
            self.port.device.reclaim();
            guard.spin()?;
        }
        let mut bytes = 0;
        let mut inbox = std::mem::take(&mut self.port.inbox);
        for frame in inbox.drain(..) {
            bytes += frame.data.len() - HEADERS;
            self.spare.push_back(bounced(frame, &self.port.heap)?);
        }
        self.port.inbox = inbox;
        Ok(bytes)
    }

    fn end(&mut self) -> Result<()> {
        for _ in 0..3 {
            let end = self.port.frame(0)?;
            self.port.outbox.push_back(end);
        }
        self.port.flush()
    }
}
