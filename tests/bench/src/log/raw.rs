//! The control: an io_uring and nothing else, with the best set-up there is for a thread that spins.
//!
//! A window of transfers of one size goes round a region that is written from the start, each in its place behind the one
//! before. The ring, the file and the memory are registered; the page cache is passed by.
//!
//! Invariant: a transfer's memory is its own from submission to completion. Its pages are held by their registration,
//! so that transfers which an error has left under way hit nothing else.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use crc_fast::CrcAlgorithm;
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{EnterFlags, IoUring, opcode, squeue};
use memmap2::MmapMut;
use rustix::io::Errno;

use crate::cpu;
use crate::measure::{Guard, Plan, Recorder};

const FILE: Fixed = Fixed(0);
/// Names the sync; a transfer is named by its place in the window.
const SYNC: u64 = u64::MAX;

/// Polls in vain after which the core is offered to others.
const YIELD_AFTER: u32 = 256;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A file or a block device, whose content is LOST when writing; a file that is not there is made
    #[arg(long)]
    path: PathBuf,
    /// What to do
    #[arg(long, value_enum)]
    direction: Direction,
    /// How a write becomes durable
    #[arg(long, value_enum, default_value_t = Durable::Each)]
    durable: Durable,
    /// KiB per transfer
    #[arg(long, default_value_t = 4)]
    kib: usize,
    /// Transfers under way at once
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// MiB to go round in
    #[arg(long, default_value_t = 64)]
    region_mib: usize,
    /// Fill the memory anew before each write, as whoever has something to write does, and sum up what was read, as
    /// whoever wants it does; otherwise no byte of it is touched
    #[arg(long)]
    fresh: bool,
    /// The core to stay on
    #[arg(long, default_value_t = 0)]
    core: usize,
    #[command(flatten)]
    plan: Plan,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Direction {
    Write,
    Read,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Durable {
    /// By itself: RWF_DSYNC
    Each,
    /// With all that are complete by then: one fdatasync
    Group,
    /// Not at all
    No,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!((1..=1024).contains(&args.depth), "--depth ranges from 1 to 1024");
    ensure!((1..=16 << 10).contains(&args.kib), "--kib ranges from 1 to 16384");
    let transfers = args.region_mib.saturating_mul(1024) / args.kib;
    ensure!(transfers >= args.depth, "--region-mib must have room for --depth transfers");
    ensure!(args.depth.saturating_mul(args.kib) <= 1 << 20, "--depth times --kib is at most 1 GiB");
    cpu::pin(args.core)?;
    let file = open(args)?;
    let mut window = Window::new(args, &file)?;
    let mut recorder = Recorder::start(&args.plan)?;
    let mut began = vec![Instant::now(); args.depth];
    let mut idle: Vec<usize> = (0..args.depth).collect();
    let mut ended = Vec::with_capacity(args.depth);
    let (mut next, mut more, mut guard, mut fruitless) = (0, true, Guard::new(), 0);
    while more || idle.len() < args.depth {
        if more {
            for place in idle.drain(..) {
                began[place] = Instant::now();
                window.begin(place, (next % transfers) as u64)?;
                next += 1;
            }
        }
        window.poll(&mut ended)?;
        if ended.is_empty() {
            guard.spin()?;
            // Kernel threads that finish a transfer may be bound to this core, and would wait for the next tick.
            fruitless = (fruitless + 1) % YIELD_AFTER;
            if fruitless == 0 {
                rustix::thread::sched_yield();
            }
            continue;
        }
        guard = Guard::new();
        let now = Instant::now();
        for place in ended.drain(..) {
            // What was under way when it was enough is waited for, not measured.
            more = more && recorder.record(began[place], now);
            idle.push(place);
        }
    }
    let mut report = recorder.report()?;
    report["mib_per_s"] =
        (report["msgs_per_s"].as_f64().context("a rate is a number")? * args.kib as f64 / 1024.0).into();
    report["enters_per_transfer"] = (window.enters as f64 / next as f64).into();
    println!("{report}");
    Ok(())
}

/// Opens the file past the page cache, after making it as large as the region where it is not: written to throughout,
/// as it is the first write to an extent that costs.
fn open(args: &Args) -> Result<File> {
    let shown = args.path.display();
    let size = (args.region_mib as u64) << 20;
    let old = std::fs::metadata(&args.path);
    let is_device = old.as_ref().is_ok_and(|old| old.file_type().is_block_device());
    if !is_device && old.map_or(0, |old| old.len()) < size {
        let mut file = File::create(&args.path).with_context(|| format!("cannot make {shown}"))?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..args.region_mib {
            file.write_all(&zeros).with_context(|| format!("cannot fill {shown}"))?;
        }
        file.sync_all()?;
    }
    let mut options = OpenOptions::new();
    // Without NONBLOCK the kernel hands each request for a file in memory to another thread.
    options.read(true).write(args.direction == Direction::Write);
    options.custom_flags(libc::O_DIRECT | libc::O_NONBLOCK);
    let mut file = options.open(&args.path).with_context(|| format!("cannot open {shown} with O_DIRECT"))?;
    let length = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
    ensure!(length >= size, "{shown} has {length} bytes: fewer than --region-mib");
    Ok(file)
}

/// Transfers under way.
struct Window {
    ring: IoUring,
    memory: MmapMut,
    direction: Direction,
    durable: Durable,
    fresh: bool,
    len: usize,
    /// Written, and waiting for a sync; and those that the sync under way is for.
    written: Vec<usize>,
    syncing: Vec<usize>,
    enters: u64,
}

impl Window {
    fn new(args: &Args, file: &File) -> Result<Window> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(args.depth as u32 + 1)
            .context("io_uring is not available")?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        let len = args.kib << 10;
        let mut memory = MmapMut::map_anon(args.depth * len)?;
        // Small pages would cost the kernel a look-up each. Where there are no others, that is the measurement.
        let _ = memory.advise(memmap2::Advice::HugePage);
        // Every page is there before the first transfer, and none is the page of zeros.
        memory.fill(0x5a);
        let region = [libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() }];
        // SAFETY: the mapping is as long as stated, and stays in `Window` until after the ring is dropped.
        unsafe { ring.submitter().register_buffers(&region) }.context("cannot register the memory")?;
        let (direction, durable) = (args.direction, args.durable);
        let room = || Vec::with_capacity(args.depth);
        let fresh = args.fresh;
        Ok(Window {
            ring,
            memory,
            direction,
            durable,
            fresh,
            len,
            written: room(),
            syncing: room(),
            enters: 0,
        })
    }

    /// Begins the transfer at `place` of the window and at `index` of the region.
    #[inline]
    fn begin(&mut self, place: usize, index: u64) -> Result<()> {
        let memory = &mut self.memory[place * self.len..(place + 1) * self.len];
        if self.fresh {
            memory.fill(index as u8);
        }
        let start = memory.as_mut_ptr();
        let (len, offset) = (self.len as u32, index * self.len as u64);
        let flags = if self.durable == Durable::Each { libc::RWF_DSYNC } else { 0 };
        let entry = match self.direction {
            Direction::Read => opcode::ReadFixed::new(FILE, start, len, 0).offset(offset).build(),
            Direction::Write => {
                opcode::WriteFixed::new(FILE, start, len, 0).offset(offset).rw_flags(flags).build()
            }
        };
        self.push(&entry.user_data(place as u64))
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<()> {
        // SAFETY: what the entry points to are `len` bytes of the mapping, by the bounds of the slice that it was taken
        // from and of the window. They are registered: the kernel holds the pages until it has done with them.
        unsafe { self.ring.submission().push(entry) }.context("more entries than the ring was made for")
    }

    /// Appends the places of what has ended.
    #[inline]
    fn poll(&mut self, ended: &mut Vec<usize>) -> Result<()> {
        self.enter()?;
        let mut synced = false;
        for entry in self.ring.completion() {
            let name = entry.user_data();
            let expected = if name == SYNC { 0 } else { self.len };
            match usize::try_from(entry.result()) {
                Ok(count) if count == expected => {}
                Ok(count) => bail!("{count} bytes where {expected} were asked for"),
                Err(_) => bail!("transfer: {}", std::io::Error::from_raw_os_error(-entry.result())),
            }
            match name {
                SYNC => synced = true,
                place if self.durable == Durable::Group && self.direction == Direction::Write => {
                    self.written.push(place as usize);
                }
                place => {
                    if self.fresh && self.direction == Direction::Read {
                        let read = &self.memory[place as usize * self.len..][..self.len];
                        std::hint::black_box(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, read));
                    }
                    ended.push(place as usize);
                }
            }
        }
        if synced {
            ended.append(&mut self.syncing);
        }
        if self.syncing.is_empty() && !self.written.is_empty() {
            std::mem::swap(&mut self.written, &mut self.syncing);
            let sync = opcode::Fsync::new(FILE).flags(FsyncFlags::DATASYNC).build();
            self.push(&sync.user_data(SYNC))?;
            self.enter()?;
        }
        Ok(())
    }

    /// Hands over what there is, and has completions made that are due; no system call if there is neither.
    #[inline]
    fn enter(&mut self) -> Result<()> {
        let queue = self.ring.submission();
        let (count, due) = (queue.len() as u32, queue.taskrun());
        drop(queue);
        if count == 0 && !due {
            return Ok(());
        }
        self.enters += 1;
        // SAFETY: there is no argument; what the entries point to was promised to stay when they were pushed.
        let entered =
            unsafe { self.ring.submitter().enter::<()>(count, 0, EnterFlags::GETEVENTS.bits(), None) };
        match entered {
            Err(error) if error.raw_os_error() != Some(Errno::INTR.raw_os_error()) => {
                Err(error).context("io_uring_enter")
            }
            _ => Ok(()),
        }
    }
}
