//! The image: its logs and segments, and one turn that moves them all.
//!
//! Invariant: between two calls every log that has something to be done is marked, or waits for a completion.

mod call;
pub(crate) mod io;
pub(crate) mod names;
pub(crate) mod open;
pub(crate) mod recover;
mod save;
pub(crate) mod scan;
mod space;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::Heap;
use demi_api::op::{Done, Op, Step};
use demi_api::slab::{Key, Slab};
use demi_api::time::Instant;
use demi_api::token::QToken;

use self::io::{Ended, Io, Purpose};
pub(crate) use self::names::Handle;
pub use self::open::{MakeOptions, OpenError};
use self::save::Saving;
pub(crate) use self::space::Space;
use crate::device::{BlockDevice, Buffers, Command, Completion, DeviceCx};
use crate::format::{Geometry, Superblock};
use crate::log::{Log, ReadCx, Reader, Stall, Wanted};

/// Most bytes of one batch.
const MAX_BATCH: usize = 512 << 10;

/// What the store leaves to configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Payloads of at least this many bytes are written from where they lie.
    pub(crate) refer_from: usize,
    /// Elements of at most this many bytes are copied out of what was read.
    pub(crate) copy_up_to: usize,
}

/// What a log needs for writing, borrowed from a store beside the log.
macro_rules! write_cx {
    ($store:expr) => {
        $crate::log::WriteCx {
            heap: &$store.heap,
            geometry: &$store.geometry,
            seed: $store.seed,
            space: &mut $store.space,
            max_batch: $store.io.caps().max_transfer.min($crate::store::MAX_BATCH),
            refer_from: $store.policy.refer_from,
            memory_align: $store.io.caps().memory_align,
            checkpoint: $store.superblock.checkpoint,
            copied_bytes: &mut $store.counters.push_copied_bytes,
        }
    };
}
use write_cx;

pub(crate) struct Store {
    io: Io,
    heap: Heap,
    geometry: Geometry,
    superblock: Superblock,
    seed: u32,
    policy: Policy,
    read_only: bool,
    space: Space,
    logs: Slab<Log>,
    names: BTreeMap<Vec<u8>, Key>,
    next_log: u32,
    /// The highest that there was.
    epoch: u32,
    readers: Slab<Reader>,
    /// Logs to be looked after in the next turn.
    marked: Vec<Key>,
    saving: Option<Saving>,
    /// Why the last checkpoint could not be written, until the next is begun: a control call may be waiting to see it.
    save_failed: Option<Error>,
    /// A checkpoint lies in its area that the superblock could not be made to name.
    unnamed: bool,
    /// A control call is between two states: no checkpoint is begun of itself.
    held: bool,
    calls: Vec<Option<Completion>>,
    pub(crate) counters: Counters,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) pushes: u64,
    pub(crate) pops: u64,
    pub(crate) batches: u64,
    pub(crate) batch_bytes: u64,
    pub(crate) chunks: u64,
    pub(crate) chunk_bytes: u64,
    pub(crate) flushes: u64,
    pub(crate) checkpoints: u64,
    pub(crate) push_copied_bytes: u64,
    pub(crate) pop_copied_bytes: u64,
    pub(crate) recovery_us: u64,
}

impl Store {
    /// Appends an element to a log, or has it flushed.
    pub(crate) fn push(
        &mut self,
        cx: &mut Cx<'_>,
        token: QToken,
        key: Key,
        op: &mut Op,
    ) -> Result<Step, Error> {
        let Some(log) = self.logs.get_mut(key) else { return Err(Error::BadDescriptor) };
        if matches!(op, Op::Flush) {
            if let Some(error) = &log.failed {
                return Err(error.clone());
            }
            log.flush(token);
            log.acknowledge(cx);
        } else {
            let mut write = write_cx!(self);
            log.push(&mut write, token, op)?;
            self.counters.pushes += 1;
        }
        self.mark(key);
        Ok(Step::Pending)
    }

    /// Takes the next element at a reader's cursor.
    pub(crate) fn pop(&mut self, now: Instant, token: QToken, key: Key) -> Result<Step, Error> {
        let Some(reader) = self.readers.get_mut(key) else { return Err(Error::BadDescriptor) };
        if reader.pops.is_empty() {
            match self.read(now, key) {
                Some(Ok(element)) => return Ok(Step::Done(Ok(element))),
                Some(Err(error)) => return Ok(Step::Done(Err(error))),
                None => {}
            }
        }
        let Some(reader) = self.readers.get_mut(key) else { return Err(Error::BadDescriptor) };
        reader.pops.push_back(token);
        Ok(Step::Pending)
    }

    /// Tries to take an element. `None`: it must be waited for.
    fn read(&mut self, now: Instant, key: Key) -> Option<Result<Done, Error>> {
        let reader = self.readers.get_mut(key)?;
        let log = self.logs.get_mut(reader.log)?;
        let mut cx = ReadCx {
            heap: &self.heap,
            geometry: &self.geometry,
            seed: self.seed,
            copy_up_to: self.policy.copy_up_to,
            copied_bytes: &mut self.counters.pop_copied_bytes,
        };
        let wanted = reader.next(&mut cx, log);
        match wanted {
            Ok(Wanted::Append) if !reader.is_at_end => {
                reader.is_at_end = true;
                log.at_end.push_back(key);
            }
            Ok(Wanted::Append) => {}
            // Whoever takes what is there will want what follows.
            Ok(Wanted::Element(_)) => {
                let _out_of_memory = self.read_ahead(now, key);
            }
            Ok(Wanted::Data) => {
                if let Err(error) = self.read_ahead(now, key) {
                    return Some(Err(error));
                }
            }
            Err(error) => return Some(Err(error)),
        }
        match wanted {
            Ok(Wanted::Element(element)) => {
                self.counters.pops += 1;
                Some(Ok(Done::Popped(element)))
            }
            _ => None,
        }
    }

    fn read_ahead(&mut self, now: Instant, key: Key) -> Result<(), Error> {
        let cx = DeviceCx { heap: &self.heap, now };
        let (Some(reader), max_transfer) = (self.readers.get_mut(key), self.io.caps().max_transfer) else {
            return Ok(());
        };
        let Some(log) = self.logs.get(reader.log) else { return Ok(()) };
        let before = self.counters.chunks;
        let ended = loop {
            match reader.next_chunk(&self.heap, &self.geometry, max_transfer, log) {
                Ok(Some((position, into, number))) => {
                    let (ordinal, offset) = self.geometry.split(position);
                    let Some(segment) = log.segment(ordinal) else { break Ok(()) };
                    let offset = self.geometry.segment_at(segment.index) + offset as u64;
                    self.counters.chunks += 1;
                    self.counters.chunk_bytes += into.len() as u64;
                    let purpose = Purpose::Chunk { reader: key, number };
                    self.io.submit(&cx, purpose, Command::Read { offset, into });
                }
                Ok(None) => break Ok(()),
                // What is being read will do for now.
                Err(_) if reader.is_reading() => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if self.counters.chunks > before {
            // Pops that find their elements take no turn, so the device would not hear of it before all is used up.
            self.io.poll(&cx);
        }
        ended
    }

    /// Serves a reader's pops for as long as there are elements.
    fn serve(&mut self, cx: &mut Cx<'_>, key: Key) -> usize {
        let mut done = 0;
        while self.readers.get(key).is_some_and(|reader| !reader.pops.is_empty()) {
            let Some(result) = self.read(cx.now, key) else { break };
            if let Some(token) = self.readers.get_mut(key).and_then(|reader| reader.pops.pop_front()) {
                cx.done.post(token, result);
                done += 1;
            }
        }
        done
    }

    /// One turn: what has ended, what may go on, what is to be written.
    pub(crate) fn poll(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut done = self.write_marked(cx);
        let device_cx = DeviceCx { heap: &self.heap, now: cx.now };
        done += self.io.poll(&device_cx);
        while let Some(ended) = self.io.ended() {
            done += 1;
            self.take_up(cx, ended);
        }
        self.write_marked(cx);
        if self.space.is_low() && !self.held && self.saving.is_none() && self.save_failed.is_none() {
            self.begin_save(cx, false);
        }
        done
    }

    fn take_up(&mut self, cx: &mut Cx<'_>, Ended { purpose, result, buffers }: Ended) {
        match purpose {
            Purpose::Batch { log: key, number } => {
                let Some(log) = self.logs.get_mut(key) else { return };
                let goes_on = log.batch_ended(cx, number, result);
                self.space.release(std::mem::take(&mut log.unneeded));
                if goes_on {
                    // Those that are at the end again join the line behind those that are there now.
                    for _ in 0..log.at_end.len() {
                        let first = self.logs.get_mut(key).and_then(|log| log.at_end.pop_front());
                        let Some(reader) = first else { break };
                        if let Some(reader) = self.readers.get_mut(reader) {
                            reader.is_at_end = false;
                        }
                        self.serve(cx, reader);
                    }
                }
                self.mark(key);
            }
            Purpose::Flush { log: key } => {
                if let Some(log) = self.logs.get_mut(key) {
                    log.flush_ended(cx, result);
                    self.space.release(std::mem::take(&mut log.unneeded));
                    self.mark(key);
                }
            }
            Purpose::Chunk { reader: key, number } => {
                let Some(reader) = self.readers.get_mut(key) else { return };
                let read = match (result, buffers) {
                    (Ok(()), Buffers::Read(buf)) => Ok(buf),
                    (Ok(()), _) => Err(Error::Io),
                    (Err(error), _) => Err(error),
                };
                reader.chunk_ended(number, read);
                self.serve(cx, key);
            }
            Purpose::Save => self.save_went_on(cx, result),
            Purpose::Call(place) => {
                if let Some(call) = self.calls.get_mut(place) {
                    *call = Some(Completion { tag: 0, result, buffers });
                }
            }
        }
    }

    fn mark(&mut self, key: Key) {
        if let Some(log) = self.logs.get_mut(key)
            && !log.marked
        {
            log.marked = true;
            self.marked.push(key);
        }
    }

    /// Puts what waits into batches, and hands batches to the device.
    fn write_marked(&mut self, cx: &mut Cx<'_>) -> usize {
        if self.marked.is_empty() {
            return 0;
        }
        let mut done = 0;
        let mut marked = std::mem::take(&mut self.marked);
        for key in marked.drain(..) {
            done += self.write(cx, key);
        }
        // What was marked meanwhile waits for space.
        marked.append(&mut self.marked);
        self.marked = marked;
        done
    }

    fn write(&mut self, cx: &mut Cx<'_>, key: Key) -> usize {
        let Some(log) = self.logs.get_mut(key) else { return 0 };
        log.marked = false;
        let awaited_save = std::mem::take(&mut log.awaits_save);
        let mut done = 0;
        let mut write = write_cx!(self);
        let device_cx = DeviceCx { heap: &self.heap, now: cx.now };
        let stall = loop {
            let stall = log.advance(&mut write);
            let Some((position, data, number)) = log.next_write(&write) else { break stall };
            let (ordinal, offset) = self.geometry.split(position);
            let Some(segment) = log.segment(ordinal) else { break stall };
            let offset = self.geometry.segment_at(segment.index) + offset as u64;
            self.counters.batches += 1;
            self.counters.batch_bytes += data.len() as u64;
            done += 1;
            let purpose = Purpose::Batch { log: key, number };
            self.io.submit(&device_cx, purpose, Command::Write { offset, data, durable: log.durable });
        };
        match stall {
            // The log is marked again when a batch ends.
            None | Some(Stall::Busy) => {}
            Some(Stall::Memory(_)) if log.will_have_room() => {}
            // Others have memory with the device: what they give back may be enough.
            Some(Stall::Memory(_)) if self.io.under_way > 0 => self.mark(key),
            Some(Stall::Memory(error)) => {
                log.fail_waiting(cx, &mut self.space, &error.into());
                self.space.release(std::mem::take(&mut log.unneeded));
            }
            Some(Stall::Space) => self.wait_for_space(cx, key, awaited_save),
        }
        let Some(log) = self.logs.get_mut(key) else { return done };
        if log.wants_flush() {
            log.flush_began();
            self.counters.flushes += 1;
            let device_cx = DeviceCx { heap: &self.heap, now: cx.now };
            self.io.submit(&device_cx, Purpose::Flush { log: key }, Command::Flush);
        }
        done
    }

    /// A log needs a segment that only a checkpoint can set aside.
    fn wait_for_space(&mut self, cx: &mut Cx<'_>, key: Key, awaited_save: bool) {
        if self.saving.is_none() && !self.held {
            // A failure is told to those that waited for this checkpoint; who comes later tries again.
            if awaited_save && let Some(error) = self.save_failed.clone() {
                if let Some(log) = self.logs.get_mut(key) {
                    log.fail_waiting(cx, &mut self.space, &error);
                    self.space.release(std::mem::take(&mut log.unneeded));
                }
                return;
            }
            self.begin_save(cx, false);
        }
        if let Some(log) = self.logs.get_mut(key) {
            log.awaits_save = true;
        }
        self.mark(key);
    }

    /// Prepares for sleep. False: there is work.
    pub(crate) fn arm(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.poll(cx) > 0 {
            return false;
        }
        self.io.device.arm(&DeviceCx { heap: &self.heap, now: cx.now })
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.io.device.next_deadline()
    }

    pub(crate) fn wait_fd(&self) -> BorrowedFd<'_> {
        self.io.device.wait_fd()
    }

    /// Names and values of what is counted, the device's included.
    pub(crate) fn visit_counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let counters = &self.counters;
        for (name, value) in [
            ("log_pushes", counters.pushes),
            ("log_pops", counters.pops),
            ("batches", counters.batches),
            ("batch_bytes", counters.batch_bytes),
            ("read_ahead_chunks", counters.chunks),
            ("read_ahead_bytes", counters.chunk_bytes),
            ("log_flushes", counters.flushes),
            ("checkpoints", counters.checkpoints),
            ("push_copied_bytes", counters.push_copied_bytes),
            ("pop_copied_bytes", counters.pop_copied_bytes),
            ("recovery_us", counters.recovery_us),
            ("segments", u64::from(self.geometry.segments)),
            ("segments_free", self.space.available() as u64),
            ("segment_bytes", self.geometry.segment_size as u64),
        ] {
            visit(name, value);
        }
        self.io.device.counters(visit);
    }
}
