//! Our driver, polled without a pause.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use demi_api::memalloc::{Buf, BufMut, Heap, HeapConfig};
use demi_api::time::Clock;
use demi_libos_cattree::device::nvme::{Nvme, NvmeConfig};
use demi_libos_cattree::device::{BlockDevice, Buffers, Command, Completion, DeviceCx, Request};

use super::{BLOCK, MOST, SPAN, Work, any_offset};
use crate::measure::{Guard, Recorder};

pub(super) struct Demi {
    device: Nvme,
    clock: Clock,
    /// One per transfer under way.
    read: Vec<Option<BufMut>>,
    written: Vec<Buf>,
    done: Vec<Completion>,
    heap: Heap,
}

impl Demi {
    pub(super) fn open(address: &str) -> Result<Demi> {
        let heap = Heap::new(&HeapConfig { size: 16 << 20, ..HeapConfig::default() })?;
        let address = address.split(' ').next().unwrap_or("").to_owned();
        let device = Nvme::open(&heap, &NvmeConfig { address, namespace: 2, ..NvmeConfig::default() })?;
        ensure!(device.caps().capacity >= SPAN, "the namespace is too small");
        let read = (0..MOST).map(|_| heap.alloc(BLOCK).map(Some)).collect::<Result<_, _>>()?;
        let written = (0..MOST).map(|_| heap.copy_from(&[0xa5; BLOCK])).collect::<Result<_, _>>()?;
        Ok(Demi { device, clock: Clock::start(), read, written, done: Vec::with_capacity(MOST), heap })
    }

    /// Writes every block once, so that none is a hole.
    pub(super) fn fill(&mut self) -> Result<()> {
        let chunk = self.heap.copy_from(&vec![0x5a; 128 << 10])?;
        for offset in (0..SPAN).step_by(chunk.len()) {
            self.submit(0, Command::Write { offset, data: chunk.clone().into(), durable: false })?;
            self.wait()?;
            self.done.clear();
        }
        Ok(())
    }

    pub(super) fn turn(&mut self, work: Work, depth: usize, recorder: &mut Recorder) -> Result<()> {
        let mut sent = [Instant::now(); MOST];
        for (slot, sent) in sent.iter_mut().enumerate().take(depth) {
            *sent = Instant::now();
            self.send(work, slot)?;
        }
        let mut under_way = depth;
        let mut goes_on = true;
        while under_way > 0 {
            self.wait()?;
            let now = Instant::now();
            while let Some(completion) = self.done.pop() {
                let slot = completion.tag as usize;
                completion.result?;
                if let Buffers::Read(bytes) = completion.buffers {
                    self.read[slot] = Some(bytes);
                }
                under_way -= 1;
                goes_on &= recorder.record(sent[slot], now);
                if goes_on {
                    sent[slot] = Instant::now();
                    self.send(work, slot)?;
                    under_way += 1;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, work: Work, slot: usize) -> Result<()> {
        let offset = any_offset();
        let command = match (work, self.read[slot].take()) {
            (Work::Read, Some(into)) => Command::Read { offset, into },
            (Work::Read, None) => bail!("a buffer is missing"),
            (Work::Write, kept) => {
                self.read[slot] = kept;
                Command::Write { offset, data: self.written[slot].clone().into(), durable: false }
            }
        };
        self.submit(slot as u64, command)
    }

    fn submit(&mut self, tag: u64, command: Command) -> Result<()> {
        let cx = DeviceCx { heap: &self.heap, now: self.clock.now() };
        self.device.submit(&cx, Request { tag, command }).map_err(|_| anyhow::anyhow!("the device is full"))
    }

    /// Polls until something is complete.
    fn wait(&mut self) -> Result<()> {
        let mut guard = Guard::new();
        loop {
            let cx = DeviceCx { heap: &self.heap, now: self.clock.now() };
            if self.device.poll(&cx, &mut self.done) > 0 {
                return Ok(());
            }
            guard.spin()?;
        }
    }
}
