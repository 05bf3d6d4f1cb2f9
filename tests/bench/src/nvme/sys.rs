//! The control: the kernel's driver, by io_uring with a registered file and registered buffers.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use io_uring::types::Fixed;
use io_uring::{IoUring, opcode, squeue};

use super::{BLOCK, MOST, SPAN, Work, any_offset};
use crate::measure::Recorder;

#[repr(align(4096))]
#[derive(Clone)]
struct Block([u8; BLOCK]);

pub(super) struct Kernel {
    ring: IoUring,
    disk: File,
    /// One per transfer under way. They never move, as the kernel has their addresses.
    blocks: Box<[Block]>,
}

impl Kernel {
    /// `polled`: completions are looked for in the device's queue (IOPOLL), not signalled by interrupts.
    pub(super) fn open(path: &Path, polled: bool) -> Result<Kernel> {
        let disk = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
        let disk = disk.with_context(|| path.display().to_string())?;
        let mut builder = IoUring::builder();
        if polled {
            builder.setup_iopoll();
        }
        let ring = builder.build(2 * MOST as u32).context("io_uring")?;
        let mut blocks = vec![Block([0x5a; BLOCK]); MOST].into_boxed_slice();
        let vectors: Vec<_> = blocks
            .iter_mut()
            .map(|block| libc::iovec { iov_base: block.0.as_mut_ptr().cast(), iov_len: BLOCK })
            .collect();
        // SAFETY: the blocks are neither moved nor freed before the ring is: they are declared after it, and all transfers
        // are waited for at the end of each turn.
        unsafe { ring.submitter().register_buffers(&vectors) }.context("buffers cannot be registered")?;
        ring.submitter().register_files(&[disk.as_raw_fd()]).context("the file cannot be registered")?;
        Ok(Kernel { ring, disk, blocks })
    }

    /// Writes every block once, so that none is a hole.
    pub(super) fn fill(&mut self) -> Result<()> {
        for offset in (0..SPAN).step_by(BLOCK) {
            self.disk.write_all_at(&self.blocks[0].0, offset)?;
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
        let mut done = Vec::with_capacity(MOST);
        while under_way > 0 {
            self.ring.submit_and_wait(1)?;
            let now = Instant::now();
            done.extend(self.ring.completion().map(|entry| (entry.user_data() as usize, entry.result())));
            for (slot, result) in done.drain(..) {
                ensure!(result == BLOCK as i32, "a transfer gave {result}");
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

    /// Puts a transfer in the queue; it is handed over with the next wait.
    fn send(&mut self, work: Work, slot: usize) -> Result<()> {
        let block = self.blocks[slot].0.as_mut_ptr();
        let (len, index, offset) = (BLOCK as u32, slot as u16, any_offset());
        let entry: squeue::Entry = match work {
            Work::Read => opcode::ReadFixed::new(Fixed(0), block, len, index).offset(offset).build(),
            Work::Write => opcode::WriteFixed::new(Fixed(0), block, len, index).offset(offset).build(),
        };
        let entry = entry.user_data(slot as u64);
        // SAFETY: the entry names a registered block and as many bytes as it has; nobody looks at the block while it is
        // the kernel's.
        unsafe { self.ring.submission().push(&entry) }.context("the ring is full")
    }
}
