//! A device that is recorded, as a capture file: what it receives, and what it takes to transmit.
//!
//! The file is pcapng (draft-ietf-opsawg-pcapng), which Wireshark, tshark and tcpdump open: timestamps in nanoseconds,
//! and for each frame whether it came in or went out. It may be opened while it is being written; what is in it is
//! complete up to the last sleep, or up to [`PcapConfig::flush_every`] ago.
//!
//! Invariants: recording changes nothing about the traffic, and allocates nothing per frame. When the file cannot be
//! written, the recording ends, with whole frames, and the traffic goes on. Writing goes to the page cache, in large
//! pieces; on a disk that is slower than the traffic it blocks, so record to a tmpfs where that matters.
//!
//! Checksums that are left to a device ([`Checksum::Partial`](super::Checksum::Partial)) are recorded as they are, and
//! tools will call them wrong.

#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use demi_api::error::Error;
use demi_api::time::Instant;

use self::writer::Writer;
use super::{BURST, Caps, DeviceCx, Frame, Queue};

/// How to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcapConfig {
    /// The file. It is made, readable by its owner only, or overwritten. No default. A named pipe works too, but a
    /// reader that goes away then raises SIGPIPE, which a program that is not in Rust must ignore.
    pub path: PathBuf,
    /// Bytes of each frame that are recorded, at most 262144; default 65549, any frame whole. Its true length is always
    /// recorded too.
    pub snap_len: usize,
    /// The time since 1970 at the zero of the instance's clock; default zero, which suits a simulation.
    pub base: Duration,
    /// What is recorded is written out at the latest after this much of busy time; default one second. Before the
    /// instance sleeps it is written anyway.
    pub flush_every: Duration,
}

impl Default for PcapConfig {
    fn default() -> PcapConfig {
        PcapConfig {
            path: PathBuf::new(),
            snap_len: 65549,
            base: Duration::ZERO,
            flush_every: Duration::from_secs(1),
        }
    }
}

/// A device of type `D` that is recorded.
#[derive(Debug)]
pub struct Pcap<D> {
    device: D,
    writer: Writer,
    /// Frames on the way into the device; empty between calls.
    leaving: VecDeque<Frame>,
    /// References to the same, of which those are recorded that the device took; empty between calls.
    offered: Vec<Frame>,
}

/// Which way a frame went.
#[derive(Clone, Copy, Debug)]
enum Direction {
    In,
    Out,
}

impl<D: Queue> Pcap<D> {
    /// Records a device from now on.
    ///
    /// # Errors
    /// [`Error::Config`] with a text that names the file, if it cannot be made or written; [`Error::TooManyFiles`].
    pub fn create(device: D, config: &PcapConfig) -> Result<Pcap<D>, Error> {
        let writer = Writer::create(config)?;
        let (leaving, offered) = (VecDeque::with_capacity(BURST), Vec::with_capacity(BURST));
        Ok(Pcap { device, writer, leaving, offered })
    }

    /// Where the recording is.
    pub fn path(&self) -> &Path {
        self.writer.path()
    }

    /// The device that is recorded.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device that is recorded, to be set up.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Writes out what was recorded.
    pub fn flush(&mut self) {
        self.writer.flush();
    }

    /// Passes on a few frames and records those that the device took; whether it took all.
    fn pass(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> bool {
        self.leaving.extend(outbox.drain(..outbox.len().min(BURST)));
        let offered = self.leaving.iter();
        self.offered
            .extend(offered.map(|frame| Frame { data: frame.data.clone(), checksum: frame.checksum }));
        self.device.tx_burst(cx, &mut self.leaving);
        let taken = self.offered.len() - self.leaving.len();
        for frame in &self.offered[..taken] {
            self.writer.record(cx.now, Direction::Out, &frame.data);
        }
        self.offered.clear();
        let all = self.leaving.is_empty();
        while let Some(frame) = self.leaving.pop_back() {
            outbox.push_front(frame);
        }
        all
    }
}

impl<D: Queue> Queue for Pcap<D> {
    fn caps(&self) -> &Caps {
        self.device.caps()
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        let before = inbox.len();
        let count = self.device.rx_burst(cx, inbox);
        for frame in &inbox[before..] {
            self.writer.record(cx.now, Direction::In, &frame.data);
        }
        self.writer.flush_if_due(cx.now);
        count
    }

    fn tx_burst(&mut self, cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        if !self.writer.is_open() {
            let count = self.device.tx_burst(cx, outbox);
            self.writer.miss(count);
            return count;
        }
        let before = outbox.len();
        while !outbox.is_empty() && self.pass(cx, outbox) {}
        before - outbox.len()
    }

    fn reclaim(&mut self) -> usize {
        self.device.reclaim()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.device.next_deadline()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.device.wait_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        let sleep = self.device.arm(cx);
        if sleep {
            self.writer.flush();
        }
        sleep
    }

    fn serve(&mut self, cx: &DeviceCx<'_>, queues: &[u32], inbox: &mut Vec<Frame>) -> bool {
        self.device.serve(cx, queues, inbox)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.writer.counters(visit);
        self.device.counters(visit);
    }
}
