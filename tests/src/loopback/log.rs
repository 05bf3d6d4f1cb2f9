//! Logs: elements in the order of their positions, and handles that append to them and read along.
//!
//! Invariants: a position is given once, also after truncation, so a cursor is never behind what it has read. A pop at
//! the end of a log waits until something is appended, through whichever handle.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

use demi_api::libos::Cx;
use demi_api::op::Op;
use demi_api::{Done, Error, Heap, OpenOptions, Position, QDesc, QToken, SeekTo, SgArray};

use super::{Loopback, Queue, State, Turn, take_token};

/// What an element takes up beside its bytes, so that positions tell elements without bytes apart.
const HEADER: u64 = 1;

#[derive(Default, Debug)]
pub(super) struct Logs {
    by_path: HashMap<PathBuf, usize>,
    logs: Vec<Log>,
}

#[derive(Default, Debug)]
struct Log {
    elements: VecDeque<(u64, Vec<u8>)>,
    end: u64,
    /// Handles with a pop that waits for an append.
    waiting: Vec<QDesc>,
}

/// An open log.
#[derive(Debug)]
pub(super) struct Handle {
    log: usize,
    cursor: u64,
    read_only: bool,
    pops: VecDeque<QToken>,
    /// Pushes, and flushes without an array.
    writes: VecDeque<(QToken, Option<SgArray>)>,
}

impl Logs {
    pub(super) fn open(&mut self, path: &Path, options: &OpenOptions) -> Result<Handle, Error> {
        if options.exclusive && !options.create {
            return Err(Error::Invalid("exclusive means nothing without create"));
        }
        if options.read_only && (options.truncate || options.create) {
            return Err(Error::Invalid("a log opened read-only is neither created nor truncated"));
        }
        let log = match self.by_path.get(path) {
            Some(_) if options.exclusive => return Err(Error::Exists),
            Some(log) => *log,
            None if options.create => {
                self.logs.push(Log::default());
                self.by_path.insert(path.into(), self.logs.len() - 1);
                self.logs.len() - 1
            }
            None => return Err(Error::NotFound),
        };
        if options.truncate {
            self.logs[log].elements.clear();
        }
        let handle = Handle {
            log,
            cursor: 0,
            read_only: options.read_only,
            pops: VecDeque::new(),
            writes: VecDeque::new(),
        };
        Ok(handle)
    }

    pub(super) fn seek(&mut self, handle: &mut Handle, to: SeekTo) -> Result<Position, Error> {
        if !handle.pops.is_empty() {
            return Err(Error::Invalid("seek while pops are outstanding"));
        }
        let log = &self.logs[handle.log];
        handle.cursor = match to {
            SeekTo::Position(Position(position)) => position.min(log.end),
            SeekTo::Head => log.elements.front().map_or(log.end, |(position, _)| *position),
            SeekTo::End => log.end,
        };
        Ok(Position(handle.cursor))
    }

    pub(super) fn truncate(&mut self, handle: &Handle, position: Position) -> Result<(), Error> {
        if handle.read_only {
            return Err(Error::ReadOnly);
        }
        let log = &mut self.logs[handle.log];
        let kept = log.elements.partition_point(|(at, _)| *at < position.0);
        log.elements.truncate(kept);
        Ok(())
    }

    fn append(&mut self, log: usize, sga: &SgArray) -> Position {
        let log = &mut self.logs[log];
        let position = log.end;
        log.elements.push_back((position, sga.to_vec()));
        log.end += sga.len() as u64 + HEADER;
        Position(position)
    }
}

impl Log {
    /// The element at or behind `cursor`, and where the next one may be.
    fn read(&self, heap: &Heap, cursor: u64) -> Option<Result<(SgArray, u64), Error>> {
        let place = self.elements.partition_point(|(at, _)| *at < cursor);
        let (position, bytes) = self.elements.get(place)?;
        let next = position + HEADER;
        if bytes.is_empty() {
            return Some(Ok((SgArray::new(), next)));
        }
        Some(heap.alloc(bytes.len()).map_err(Error::from).map(|mut buf| {
            buf.copy_from_slice(bytes);
            (buf.into(), next)
        }))
    }
}

impl Handle {
    pub(super) fn start(&mut self, token: QToken, op: &mut Op) -> Result<(), Error> {
        match op {
            Op::Push { to: Some(_), .. } => return Err(Error::Invalid("a log has no addresses to push to")),
            Op::Push { .. } if self.read_only => return Err(Error::ReadOnly),
            Op::Push { sga, to: None } => self.writes.push_back((token, Some(std::mem::take(sga)))),
            Op::Flush => self.writes.push_back((token, None)),
            Op::Pop { .. } => self.pops.push_back(token),
            Op::Accept | Op::Connect(_) => return Err(Error::NotSupported("a socket call on a log")),
            Op::Atomic { .. } => return Err(Error::NotSupported("atomic operations on a log")),
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, token: QToken) -> bool {
        if take_token(&mut self.pops, token) {
            return true;
        }
        let place = self.writes.iter().position(|(other, _)| *other == token);
        place.is_some_and(|place| self.writes.remove(place).is_some())
    }

    pub(super) fn close(self, cx: &mut Cx<'_>) {
        for token in self.pops {
            cx.done.post(token, Err(Error::Cancelled));
        }
    }
}

impl<const TURNS: u64> Loopback<TURNS> {
    pub(super) fn visit_log(&mut self, turn: &mut Turn<'_, '_>, qd: QDesc) {
        while let Some((token, result)) = self.next_write(turn.cx, qd) {
            turn.post(token, result);
        }
        let Ok(Queue { state: State::Log(handle), .. }) = self.queues.get_mut(qd) else { return };
        let log = &mut self.logs.logs[handle.log];
        while let Some(token) = handle.pops.front().copied() {
            let popped = match log.read(turn.cx.heap, handle.cursor) {
                Some(Ok((sga, next))) => {
                    handle.cursor = next;
                    Ok(Done::Popped(sga))
                }
                Some(Err(error)) => Err(error),
                None => {
                    if !log.waiting.contains(&qd) {
                        log.waiting.push(qd);
                    }
                    return;
                }
            };
            handle.pops.pop_front();
            turn.post(token, popped);
        }
    }

    /// A log that is closed first takes what was pushed.
    pub(super) fn finish_writes(&mut self, cx: &mut Cx<'_>, qd: QDesc) {
        while let Some((token, result)) = self.next_write(cx, qd) {
            cx.done.post(token, result);
        }
    }

    fn next_write(&mut self, cx: &mut Cx<'_>, qd: QDesc) -> Option<(QToken, Result<Done, Error>)> {
        let State::Log(handle) = &mut self.queues.get_mut(qd).ok()?.state else { return None };
        let (token, sga) = handle.writes.pop_front()?;
        let Some(sga) = sga else { return Some((token, Ok(Done::Flushed))) };
        let log = handle.log;
        let position = self.logs.append(log, &sga);
        for reader in std::mem::take(&mut self.logs.logs[log].waiting) {
            self.schedule_queue(cx, reader);
        }
        Some((token, Ok(Done::Pushed(position))))
    }
}
