//! Blocks in memory.
//!
//! Invariants: a request takes effect at the moment at which it completes, whole, and requests that complete in one
//! [`poll`](BlockDevice::poll) do so one after the other. Without [`MemConfig::shuffle`] they complete at the next poll, in the
//! order in which they were submitted. Whatever completed is durable. Losses of power and failures
//! are not in here.
//!
//! | file | what it holds |
//! |---|---|
//! | `image` | the bytes, shared with tests |

mod image;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd};

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::sga::MAX_SEGMENTS;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

pub use self::image::{Image, Mark};
use super::{BlockDevice, Buffers, Caps, Command, Completion, DeviceCx, Request};

/// What a device in memory is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemConfig {
    /// Bytes that it holds, where it makes its own image; default 64 MiB.
    pub size: usize,
    /// Bytes of a block; default 4096.
    pub block_size: usize,
    /// What the addresses of buffers must be multiples of; default 512, as many devices want it.
    pub memory_align: usize,
    /// Most bytes of one read or write; default 1 MiB.
    pub max_transfer: usize,
    /// Most segments of one write; default 8.
    pub max_segments: usize,
    /// Most requests under way at once; default 128.
    pub depth: usize,
    /// Whether writes are refused; default no.
    pub read_only: bool,
    /// Whether it has a use for discards; default yes. What is discarded reads as zero.
    pub discard: bool,
    /// Completes in another order, the same one for the same seed; default none.
    pub shuffle: Option<Shuffle>,
}

/// How a device in memory leaves the order of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shuffle {
    /// What chance grows from.
    pub seed: u64,
    /// Most polls that a request takes beyond the first.
    pub delay: u64,
}

impl Default for MemConfig {
    fn default() -> MemConfig {
        MemConfig {
            size: 64 << 20,
            block_size: 4096,
            memory_align: 512,
            max_transfer: 1 << 20,
            max_segments: MAX_SEGMENTS,
            depth: 128,
            read_only: false,
            discard: true,
            shuffle: None,
        }
    }
}

/// A device in memory.
#[derive(Debug)]
pub struct Mem {
    caps: Caps,
    image: Image,
    /// Taken and not complete, in the order of submission.
    waiting: Vec<Waiting>,
    shuffle: Option<(fastrand::Rng, u64)>,
    /// How often it was polled.
    polls: u64,
    ready: Fd,
    /// Whether `ready` polls readable.
    raised: bool,
    counters: Counters,
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    /// The poll that may complete it at the earliest.
    due: u64,
}

#[derive(Debug, Default)]
struct Counters {
    reads: u64,
    writes: u64,
    flushes: u64,
    discards: u64,
    refused: u64,
    bytes_read: u64,
    bytes_written: u64,
}

impl Mem {
    /// A device that holds zeroes.
    ///
    /// # Errors
    /// As for [`Mem::over`].
    pub fn new(config: &MemConfig) -> Result<Mem, Error> {
        Mem::over(Image::new(vec![0; config.size]), config)
    }

    /// A device that holds `image`; its size is that of the image.
    ///
    /// # Errors
    /// When the image is not whole blocks, a size is not what [`Caps`] says that it must be, or the system has no
    /// descriptor left.
    pub fn over(image: Image, config: &MemConfig) -> Result<Mem, Error> {
        if !config.block_size.is_power_of_two() || config.block_size < 512 {
            return Err(Error::Invalid("block_size must be a power of two, 512 at least"));
        }
        if image.is_empty() || !image.len().is_multiple_of(config.block_size) {
            return Err(Error::Invalid("the size must be a multiple of block_size, and not zero"));
        }
        if config.max_transfer == 0 || !config.max_transfer.is_multiple_of(config.block_size) {
            return Err(Error::Invalid("max_transfer must be a multiple of block_size, and not zero"));
        }
        if !config.memory_align.is_power_of_two() || config.max_segments == 0 || config.depth == 0 {
            return Err(Error::Invalid(
                "memory_align must be a power of two; max_segments and depth, not zero",
            ));
        }
        let ready =
            eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|errno| match errno {
                Errno::MFILE | Errno::NFILE => Error::TooManyFiles,
                other => Error::System(other.raw_os_error()),
            })?;
        Ok(Mem {
            caps: Caps {
                block_size: config.block_size,
                capacity: image.len() as u64,
                max_transfer: config.max_transfer,
                max_segments: config.max_segments,
                memory_align: config.memory_align,
                depth: config.depth,
                read_only: config.read_only,
                discard: config.discard,
            },
            image,
            waiting: Vec::with_capacity(config.depth.min(1024)),
            shuffle: config.shuffle.map(|shuffle| (fastrand::Rng::with_seed(shuffle.seed), shuffle.delay)),
            polls: 0,
            ready: ready.into(),
            raised: false,
            counters: Counters::default(),
        })
    }

    /// What it holds.
    pub fn image(&self) -> Image {
        self.image.clone()
    }

    fn complete(&mut self, request: Request) -> Completion {
        let Request { tag, command } = request;
        let mut result = self.caps.check(&command);
        if result.is_ok() && self.caps.read_only && !matches!(command, Command::Read { .. } | Command::Flush)
        {
            result = Err(Error::ReadOnly);
        }
        let counters = &mut self.counters;
        counters.refused += u64::from(result.is_err());
        let allowed = result.is_ok();
        // Within the image, as was checked: `offset as usize` loses nothing.
        let buffers = match command {
            Command::Read { offset, mut into } => {
                if allowed {
                    let start = offset as usize;
                    let end = start + into.len();
                    into.copy_from_slice(&self.image.bytes()[start..end]);
                    counters.reads += 1;
                    counters.bytes_read += into.len() as u64;
                }
                Buffers::Read(into)
            }
            Command::Write { offset, data, .. } => {
                if allowed {
                    let start = offset as usize;
                    self.image.edit(start..start + data.len(), |range| {
                        data.copy_to(range);
                    });
                    counters.writes += 1;
                    counters.bytes_written += data.len() as u64;
                }
                Buffers::Written(data)
            }
            Command::Flush => {
                counters.flushes += 1;
                Buffers::None
            }
            Command::Discard { offset, len } => {
                if allowed && self.caps.discard {
                    let start = offset as usize;
                    self.image.edit(start..start + len as usize, |range| range.fill(0));
                    counters.discards += 1;
                }
                Buffers::None
            }
        };
        Completion { tag, result, buffers }
    }
}

impl BlockDevice for Mem {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn submit(&mut self, _cx: &DeviceCx<'_>, request: Request) -> Result<(), Request> {
        if self.waiting.len() >= self.caps.depth {
            return Err(request);
        }
        let delay = self.shuffle.as_mut().map_or(0, |(rng, delay)| rng.u64(..=*delay));
        self.waiting.push(Waiting { request, due: self.polls.saturating_add(delay) });
        Ok(())
    }

    fn poll(&mut self, _cx: &DeviceCx<'_>, done: &mut Vec<Completion>) -> usize {
        let before = done.len();
        let mut waiting = std::mem::take(&mut self.waiting);
        if let Some((rng, _)) = &mut self.shuffle {
            rng.shuffle(&mut waiting);
        }
        let polls = self.polls;
        for entry in waiting.extract_if(.., |entry| entry.due <= polls) {
            done.push(self.complete(entry.request));
        }
        self.waiting = waiting;
        self.polls += 1;
        if self.raised && self.waiting.is_empty() {
            // It counts one at least: nothing else reads it.
            let _ = rustix::io::retry_on_intr(|| rustix::io::read(&self.ready, &mut [0; 8]));
            self.raised = false;
        }
        done.len() - before
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    fn arm(&mut self, _cx: &DeviceCx<'_>) -> bool {
        if !self.waiting.is_empty() && !self.raised {
            // It cannot be full: it is read before it is written again.
            let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.ready, &1u64.to_ne_bytes()));
            self.raised = true;
        }
        self.waiting.is_empty()
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let counters = &self.counters;
        visit("mem_reads", counters.reads);
        visit("mem_writes", counters.writes);
        visit("mem_flushes", counters.flushes);
        visit("mem_discards", counters.discards);
        visit("mem_refused", counters.refused);
        visit("mem_bytes_read", counters.bytes_read);
        visit("mem_bytes_written", counters.bytes_written);
    }
}
