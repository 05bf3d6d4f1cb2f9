//! A device queue as smoltcp wants it: tokens that read a frame where it lies and write one into a heap buffer.

use std::collections::VecDeque;

use demi_api::memalloc::Heap;
use demi_api::sga::SgArray;
use demi_api::time::Instant;
use demi_libos_catnip::device::{BURST, DeviceCx, Frame, Queue};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};

/// Bytes of an Ethernet header, which smoltcp counts as part of its MTU.
const ETHERNET: usize = 14;

pub(super) struct Port {
    heap: Heap,
    device: Box<dyn Queue>,
    now: Instant,
    /// What one burst received, the next frame last.
    inbox: Vec<Frame>,
    outbox: VecDeque<Frame>,
}

impl Port {
    pub(super) fn new(heap: Heap, device: Box<dyn Queue>) -> Port {
        let inbox = Vec::with_capacity(BURST);
        Port { heap, device, now: Instant::default(), inbox, outbox: VecDeque::with_capacity(BURST) }
    }

    pub(super) fn set_time(&mut self, micros: i64) {
        self.now = Instant::from_nanos(micros as u64 * 1000);
    }

    /// Hands what is to be sent to the device.
    #[inline]
    pub(super) fn flush(&mut self) {
        let cx = DeviceCx { heap: &self.heap, now: self.now };
        if !self.outbox.is_empty() {
            self.device.tx_burst(&cx, &mut self.outbox);
        }
        self.device.reclaim();
    }
}

impl Device for Port {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Blank<'a>;

    #[inline]
    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Arrived, Blank<'_>)> {
        if self.inbox.is_empty() {
            let cx = DeviceCx { heap: &self.heap, now: self.now };
            self.device.rx_burst(&cx, &mut self.inbox);
            self.inbox.reverse();
        }
        let data = self.inbox.pop()?.data;
        Some((Arrived { data }, Blank { heap: &self.heap, outbox: &mut self.outbox }))
    }

    #[inline]
    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Blank<'_>> {
        if self.outbox.len() >= BURST {
            self.flush();
        }
        // A device that does not keep up holds the stack up.
        let room = self.outbox.len() < BURST;
        room.then_some(Blank { heap: &self.heap, outbox: &mut self.outbox })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.device.caps().mtu + ETHERNET;
        capabilities
    }
}

/// A frame that has arrived.
pub(super) struct Arrived {
    data: SgArray,
}

impl RxToken for Arrived {
    #[inline]
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        match self.data.segments() {
            [whole] => read(whole),
            // smoltcp reads frames in one piece.
            _ => read(&self.data.to_vec()),
        }
    }
}

/// A frame to be written.
pub(super) struct Blank<'a> {
    heap: &'a Heap,
    outbox: &'a mut VecDeque<Frame>,
}

impl TxToken for Blank<'_> {
    #[inline]
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let Ok(mut buffer) = self.heap.alloc(len) else {
            // As good as lost on the way.
            return write(&mut vec![0; len]);
        };
        let result = write(&mut buffer);
        self.outbox.push_back(Frame::new(buffer.into()));
        result
    }
}
