//! Requests to the device, and what each was for.
//!
//! Invariant: every command that is submitted comes back once, under the purpose that it was submitted with; what
//! the device has no room for waits here, in order.

use std::collections::VecDeque;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::memalloc::{BufMut, Heap};
use demi_api::slab::{Key, Slab};
use demi_api::time::Instant;

use crate::device::{BlockDevice, Buffers, Caps, Command, Completion, DeviceCx, Request};

/// How long a control call waits for the device.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of one request of a control call.
pub(crate) const MAX_PIECE: usize = 256 << 10;
/// Most requests of a control call under way at once.
const PIECES_AT_ONCE: usize = 16;

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// The batch of a log that has this number.
    Batch { log: Key, number: u64 },
    /// Making a log's writes durable.
    Flush { log: Key },
    /// The chunk of a reader that has this number.
    Chunk { reader: Key, number: u64 },
    /// A part of a checkpoint, or the superblock behind it.
    Save,
    /// A control call that waits for it.
    Call(usize),
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) purpose: Purpose,
    pub(crate) result: Result<(), Error>,
    pub(crate) buffers: Buffers,
}

pub(crate) struct Io {
    pub(crate) device: Box<dyn BlockDevice>,
    purposes: Slab<Purpose>,
    backlog: VecDeque<Request>,
    done: Vec<Completion>,
    pub(crate) under_way: usize,
}

impl Io {
    pub(crate) fn new(device: Box<dyn BlockDevice>) -> Io {
        Io { device, purposes: Slab::new(), backlog: VecDeque::new(), done: Vec::new(), under_way: 0 }
    }

    pub(crate) fn caps(&self) -> &Caps {
        self.device.caps()
    }

    pub(crate) fn submit(&mut self, cx: &DeviceCx<'_>, purpose: Purpose, command: Command) {
        self.under_way += 1;
        let request = Request { tag: self.purposes.insert(purpose).to_u64(), command };
        if !self.backlog.is_empty() {
            self.backlog.push_back(request);
        } else if let Err(request) = self.device.submit(cx, request) {
            self.backlog.push_back(request);
        }
    }

    /// One turn of the device; returns how much was done.
    pub(crate) fn poll(&mut self, cx: &DeviceCx<'_>) -> usize {
        let mut done = self.device.poll(cx, &mut self.done);
        while let Some(request) = self.backlog.pop_front() {
            if let Err(request) = self.device.submit(cx, request) {
                self.backlog.push_front(request);
                break;
            }
            done += 1;
        }
        done
    }

    /// What has ended, one after the other.
    pub(crate) fn ended(&mut self) -> Option<Ended> {
        while let Some(Completion { tag, result, buffers }) = self.done.pop() {
            // A tag that was never given out, or twice, is a fault of the device's.
            if let Some(purpose) = self.purposes.remove(Key::from_u64(tag)) {
                self.under_way -= 1;
                return Some(Ended { purpose, result, buffers });
            }
        }
        None
    }
}

/// For opening, when nothing else is under way.
impl Io {
    /// Carries out commands and waits for all of them; gives back their buffers, in order.
    pub(crate) fn run(
        &mut self,
        heap: &Heap,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result<Vec<Buffers>, Error> {
        let began = std::time::Instant::now();
        let mut ended: Vec<Option<Buffers>> = Vec::new();
        for command in commands {
            self.submit(&DeviceCx { heap, now: Instant::default() }, Purpose::Call(ended.len()), command);
            ended.push(None);
        }
        let mut failed = None;
        while self.under_way > 0 {
            let now = Instant::default() + began.elapsed();
            self.poll(&DeviceCx { heap, now });
            while let Some(Ended { purpose, result, buffers }) = self.ended() {
                if let Err(error) = result {
                    failed.get_or_insert(error);
                }
                if let Purpose::Call(place) = purpose
                    && let Some(place) = ended.get_mut(place)
                {
                    *place = Some(buffers);
                }
            }
            if began.elapsed() > PATIENCE {
                return Err(Error::TimedOut);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(ended.into_iter().flatten().collect()),
        }
    }

    /// Reads whole blocks.
    pub(crate) fn read(&mut self, heap: &Heap, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(len);
        self.read_more(heap, offset, len, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads whole blocks to the end of `bytes`.
    pub(crate) fn read_more(
        &mut self,
        heap: &Heap,
        offset: u64,
        len: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let piece = self.caps().max_transfer.min(MAX_PIECE);
        let before = bytes.len();
        while bytes.len() - before < len {
            let mut commands = Vec::new();
            let mut from = bytes.len() - before;
            while from < len && commands.len() < PIECES_AT_ONCE {
                let part = piece.min(len - from);
                let mut into = heap.alloc(part.next_power_of_two())?;
                into.truncate(part);
                commands.push(Command::Read { offset: offset + from as u64, into });
                from += part;
            }
            for read in self.run(heap, commands)? {
                match read {
                    Buffers::Read(buf) => bytes.extend_from_slice(&buf),
                    Buffers::None | Buffers::Written(_) => return Err(Error::Io),
                }
            }
        }
        Ok(())
    }

    /// Writes whole blocks, durably.
    pub(crate) fn write(&mut self, heap: &Heap, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut commands = Vec::new();
        for (place, part) in bytes.chunks(self.caps().max_transfer.min(MAX_PIECE)).enumerate() {
            let at = offset + (place * self.caps().max_transfer.min(MAX_PIECE)) as u64;
            commands.push(Command::Write { offset: at, data: aligned(heap, part)?.into(), durable: true });
            if commands.len() == PIECES_AT_ONCE {
                self.run(heap, std::mem::take(&mut commands))?;
            }
        }
        self.run(heap, commands).map(drop)
    }
}

/// A copy that a device can write: an object whose size is a power of two lies at a multiple of it.
pub(crate) fn aligned(heap: &Heap, bytes: &[u8]) -> Result<BufMut, Error> {
    let mut copy = heap.alloc(bytes.len().next_power_of_two())?;
    copy.truncate(bytes.len());
    copy.copy_from_slice(bytes);
    Ok(copy)
}
