//! Regular files: pushes append, pops read at a cursor.
//!
//! Operations go through one io_uring, made when the first file is opened, and are looked for in its
//! completion ring on every turn. Where io_uring is not permitted, or switched off, the same operations are
//! done by calls that block the instance; `file_calls_blocking` counts them, and the opening, sizing and
//! truncating that blocks in any case.
//!
//! Not in here: what the kernel may write to while an operation is under way (`sys::raw`).

mod file;

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::libos::{Cx, OpenOptions, SeekTo, names_region};
use demi_api::op::{Op, Position, Step};
use demi_api::time::Instant;
use demi_api::token::QToken;

use crate::config::CatnapSection;
use crate::counters::Counters;
use crate::deadlines::Deadlines;
use crate::readiness::Readiness;
use crate::sys::{self, Finished, Held, Ring};
use demi_api::slab::{Key, Slab};
use file::{File, Pop, Write};

/// Finished operations taken in one turn.
const REAPED_PER_TURN: usize = 64;

/// Fields drop in order: the ring waits for what is under way before the files close.
#[derive(Debug)]
pub(crate) struct Files {
    ring: Option<Ring>,
    /// Whose operation lies in each slot of the ring.
    owners: Vec<Key>,
    /// Files with something to begin, for which the ring had no room.
    starved: VecDeque<Key>,
    files: Slab<File>,
    deadlines: Deadlines,
    /// Closed files whose linger time begins to run with the next turn.
    unclocked: Vec<Key>,
    ring_entries: u32,
    ring_tried: bool,
    recv_bytes: usize,
    copy_threshold: usize,
    linger: Duration,
}

impl Files {
    pub(crate) fn new(section: &CatnapSection, linger: Duration) -> Files {
        Files {
            ring: None,
            owners: Vec::new(),
            starved: VecDeque::new(),
            files: Slab::new(),
            deadlines: Deadlines::default(),
            unclocked: Vec::new(),
            ring_entries: section.file_ring_entries,
            ring_tried: false,
            recv_bytes: section.recv_bytes,
            copy_threshold: section.copy_threshold,
            linger,
        }
    }

    pub(crate) fn open(
        &mut self,
        readiness: &mut Readiness,
        counters: &mut Counters,
        path: &Path,
        options: &OpenOptions,
    ) -> Result<Key, Error> {
        if names_region(path) {
            return Err(Error::NotSupported("regions of memory: catmint has them"));
        }
        if options.exclusive && !options.create {
            return Err(Error::Invalid("exclusive means nothing without create"));
        }
        if options.read_only && (options.truncate || options.create) {
            return Err(Error::Invalid("a file opened read-only is neither created nor truncated"));
        }
        let (fd, length) = sys::file::open(path, options)?;
        counters.file_calls_blocking += 1;
        if !std::mem::replace(&mut self.ring_tried, true) {
            self.make_ring(readiness);
        }
        Ok(self.files.insert(File::new(fd, length, options.read_only, options.durable)))
    }

    /// Without a ring, for whatever reason, file operations block.
    fn make_ring(&mut self, readiness: &mut Readiness) {
        if self.ring_entries == 0 {
            return;
        }
        let Some(ring) = Ring::new(self.ring_entries) else { return };
        if readiness.register_device(&ring).is_err() {
            return;
        }
        self.owners = vec![Key::NONE; ring.capacity()];
        self.ring = Some(ring);
    }

    pub(crate) fn start(
        &mut self,
        cx: &mut Cx<'_>,
        counters: &mut Counters,
        token: QToken,
        key: Key,
        op: &mut Op,
    ) -> Result<Step, Error> {
        let file = self.files.get_mut(key).ok_or(Error::BadDescriptor)?;
        match op {
            Op::Push { to: Some(_), .. } => return Err(Error::Invalid("a file has no addresses to push to")),
            Op::Push { .. } if file.read_only => return Err(Error::ReadOnly),
            Op::Push { sga, to: None } => {
                file.writes.push_back(Write::Push { token, rest: std::mem::take(sga) });
            }
            Op::Pop { limit: 0 } => return Err(Error::Invalid("a pop of at most no bytes")),
            Op::Pop { limit } => file.pops.push_back(Pop { token, limit: *limit }),
            Op::Flush => file.writes.push_back(Write::Flush { token }),
            Op::Accept | Op::Connect(_) => return Err(Error::NotSupported("accept and connect on a file")),
            Op::Atomic { .. } => return Err(Error::NotSupported("atomic operations on a file")),
        }
        // What the kernel does at once is posted at once.
        self.go_on(cx, counters, key);
        self.reap(cx, counters);
        Ok(Step::Pending)
    }

    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, key: Key) -> Result<(), Error> {
        self.files.get_mut(key).ok_or(Error::BadDescriptor)?.cancel(token)?;
        cx.done.post(token, Err(Error::Cancelled));
        Ok(())
    }

    pub(crate) fn seek(&mut self, counters: &mut Counters, key: Key, to: SeekTo) -> Result<Position, Error> {
        let file = self.files.get_mut(key).ok_or(Error::BadDescriptor)?;
        let reads = file.reading.as_ref().is_some_and(|reading| reading.token.is_some());
        if reads || !file.pops.is_empty() {
            return Err(Error::Invalid("seek while pops are outstanding"));
        }
        file.cursor = match to {
            SeekTo::Position(Position(offset)) if offset <= i64::MAX as u64 => offset,
            SeekTo::Position(_) => return Err(Error::Invalid("a position that no file can have")),
            SeekTo::Head => 0,
            SeekTo::End => {
                counters.file_calls_blocking += 1;
                sys::file::length(&file.fd)?
            }
        };
        Ok(Position(file.cursor))
    }

    pub(crate) fn truncate(&mut self, counters: &mut Counters, key: Key, at: Position) -> Result<(), Error> {
        let file = self.files.get_mut(key).ok_or(Error::BadDescriptor)?;
        if file.read_only {
            return Err(Error::ReadOnly);
        }
        if !file.writes.is_empty() {
            return Err(Error::Invalid("truncate while pushes are outstanding"));
        }
        counters.file_calls_blocking += 2;
        if at.0 > sys::file::length(&file.fd)? {
            return Err(Error::Invalid("truncate behind the end"));
        }
        sys::file::truncate(&file.fd, at.0)?;
        file.cursor = file.cursor.min(at.0);
        Ok(())
    }

    /// The descriptor is gone; what was pushed is still written, and flushed, within the linger time. What the
    /// kernel has by then takes as long as it takes.
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(file) = self.files.get_mut(key) else { return };
        file.cancel_pops(cx);
        if file.is_idle() {
            self.files.remove(key);
            return;
        }
        file.closing = true;
        self.unclocked.push(key);
    }

    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Cx<'_>, counters: &mut Counters) -> usize {
        let mut done = 0;
        if self.ring.as_ref().is_some_and(|ring| ring.in_flight() > 0) {
            done += self.reap(cx, counters);
        }
        while let Some(key) = self.unclocked.pop() {
            self.deadlines.set(cx.now + self.linger, key);
        }
        while let Some((_, key)) = self.deadlines.take_due(cx.now) {
            let Some(file) = self.files.get_mut(key) else { continue };
            file.fail_waiting(cx, &Error::TimedOut);
            counters.linger_expired += 1;
            done += 1;
            self.remove_if_over(key);
        }
        done
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    fn reap(&mut self, cx: &mut Cx<'_>, counters: &mut Counters) -> usize {
        let mut done = 0;
        for _ in 0..REAPED_PER_TURN {
            let Some(finished) = self.ring.as_mut().and_then(Ring::reap) else { break };
            let key = std::mem::replace(&mut self.owners[finished.slot], Key::NONE);
            done += self.finish(cx, counters, key, finished);
            self.go_on(cx, counters, key);
            self.remove_if_over(key);
            // Some may have nothing to begin any more: room is offered until it is used.
            while self.ring.as_ref().is_some_and(|ring| !ring.is_full())
                && let Some(starved) = self.starved.pop_front()
            {
                self.go_on(cx, counters, starved);
            }
        }
        done
    }

    fn finish(&mut self, cx: &mut Cx<'_>, counters: &mut Counters, key: Key, finished: Finished) -> usize {
        let Some(file) = self.files.get_mut(key) else { return 0 };
        match finished.held {
            Held::Read(buf) => file.read_done(cx, counters, buf, finished.result, self.copy_threshold),
            Held::Write(gather) => file.write_done(cx, counters, gather, finished.result),
            Held::Sync => file.flush_done(cx, finished.result),
        }
    }

    /// Begins what a file has to begin.
    fn go_on(&mut self, cx: &mut Cx<'_>, counters: &mut Counters, key: Key) {
        while let Some(file) = self.files.get_mut(key) {
            if self.ring.as_ref().is_some_and(Ring::is_full) {
                if file.has_to_begin() && !self.starved.contains(&key) {
                    self.starved.push_back(key);
                }
                return;
            }
            let next = match file.next_write(cx) {
                Some(write) => Some(write),
                None => file.next_read(cx, self.recv_bytes),
            };
            let Some((offset, mut held)) = next else { return };
            match &mut self.ring {
                Some(ring) => {
                    let slot = ring.submit(&file.fd, offset, held, file.durable);
                    self.owners[slot] = key;
                }
                None => {
                    counters.file_calls_blocking += 1;
                    let result = sys::run_now(&file.fd, offset, &mut held, file.durable).map(Some);
                    self.finish(cx, counters, key, Finished { slot: 0, held, result });
                }
            }
        }
    }

    fn remove_if_over(&mut self, key: Key) {
        if self.files.get(key).is_some_and(|file| file.closing && file.is_idle()) {
            self.files.remove(key);
        }
    }
}
