//! One file: a cursor to read at, an end to append at, and at most one read and one write under way.
//!
//! Invariants: pops are served one after the other, for each begins where the last one ended. Pushes reach the
//! file in order; what waits while a write is under way goes out together in the next one. A failed push
//! leaves nothing behind in the file.

use std::collections::VecDeque;

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::{BufMut, Heap};
use demi_api::op::{Done, Position};
use demi_api::sga::SgArray;
use demi_api::token::QToken;

use crate::counters::Counters;
use crate::sys::{Fd, Gather, Held, file};

#[derive(Debug)]
pub(crate) struct File {
    pub(crate) fd: Fd,
    pub(crate) read_only: bool,
    pub(crate) durable: bool,
    pub(crate) cursor: u64,
    /// Where the oldest push not yet complete begins.
    end: u64,
    pub(crate) pops: VecDeque<Pop>,
    pub(crate) reading: Option<Reading>,
    pub(crate) writes: VecDeque<Write>,
    /// How many of `writes` are with the kernel.
    pub(crate) writing: usize,
    /// Bytes of the oldest push that are written.
    begun: u64,
    gather: Gather,
    /// The descriptor is gone; what was pushed is still being written.
    pub(crate) closing: bool,
}

#[derive(Debug)]
pub(crate) struct Pop {
    pub(crate) token: QToken,
    pub(crate) limit: usize,
}

/// A read under way. Without a token it was recalled: its bytes are read again by the next.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) token: Option<QToken>,
    pub(crate) limit: usize,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "flushes are few, and live as briefly as pushes")]
pub(crate) enum Write {
    Push { token: QToken, rest: SgArray },
    Flush { token: QToken },
}

impl Write {
    pub(crate) fn token(&self) -> QToken {
        match self {
            Write::Push { token, .. } | Write::Flush { token } => *token,
        }
    }
}

impl File {
    pub(crate) fn new(fd: Fd, end: u64, read_only: bool, durable: bool) -> File {
        File {
            fd,
            read_only,
            durable,
            cursor: 0,
            end,
            pops: VecDeque::new(),
            reading: None,
            writes: VecDeque::new(),
            writing: 0,
            begun: 0,
            gather: Gather::default(),
            closing: false,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.reading.is_none() && self.writing == 0 && self.writes.is_empty()
    }

    /// Whether there is something that [`File::next_read`] or [`File::next_write`] would begin.
    pub(crate) fn has_to_begin(&self) -> bool {
        (self.reading.is_none() && !self.pops.is_empty()) || (self.writing == 0 && !self.writes.is_empty())
    }

    /// The next read to begin, if there is one and none is under way: its offset and its buffer.
    pub(crate) fn next_read(&mut self, cx: &mut Cx<'_>, recv_bytes: usize) -> Option<(u64, Held)> {
        while self.reading.is_none() {
            let Pop { token, limit } = self.pops.pop_front()?;
            match cx.heap.alloc(limit.min(recv_bytes)) {
                Ok(buf) => {
                    self.reading = Some(Reading { token: Some(token), limit });
                    return Some((self.cursor, Held::Read(buf)));
                }
                Err(error) => cx.done.post(token, Err(error.into())),
            }
        }
        None
    }

    /// The next write or flush to begin, if there is one and none is under way.
    pub(crate) fn next_write(&mut self, cx: &mut Cx<'_>) -> Option<(u64, Held)> {
        if self.writing > 0 {
            return None;
        }
        if self.begun == 0 && matches!(self.writes.front(), Some(Write::Push { .. })) {
            // Others may have appended in the meantime; while they do so at this very moment, last wins.
            self.end = file::length(&self.fd).unwrap_or(self.end);
        }
        self.advance(cx, 0);
        let Write::Push { .. } = self.writes.front()? else {
            self.writing = 1;
            return Some((0, Held::Sync));
        };
        let mut gather = std::mem::take(&mut self.gather);
        gather.clear();
        'full: for write in &self.writes {
            let Write::Push { rest, .. } = write else { break };
            self.writing += 1;
            for segment in rest.segments() {
                if !segment.is_empty() && !gather.add(segment.clone()) {
                    break 'full;
                }
            }
        }
        Some((self.end + self.begun, Held::Write(gather)))
    }

    /// A read has ended.
    pub(crate) fn read_done(
        &mut self,
        cx: &mut Cx<'_>,
        counters: &mut Counters,
        buf: BufMut,
        result: Result<Option<usize>, Error>,
        copy_threshold: usize,
    ) -> usize {
        let Some(Reading { token: Some(token), limit }) = self.reading.take() else { return 0 };
        let popped = match result {
            Ok(Some(count)) => {
                self.cursor += count as u64;
                counters.file_reads += 1;
                Ok(Done::Popped(hand_out(cx.heap, counters, buf, count, copy_threshold)))
            }
            Ok(None) => {
                self.pops.push_front(Pop { token, limit });
                return 0;
            }
            Err(error) => Err(error),
        };
        cx.done.post(token, popped);
        1
    }

    /// A write has ended.
    pub(crate) fn write_done(
        &mut self,
        cx: &mut Cx<'_>,
        counters: &mut Counters,
        gather: Gather,
        result: Result<Option<usize>, Error>,
    ) -> usize {
        self.gather = gather;
        self.gather.clear();
        let under_way = std::mem::take(&mut self.writing);
        match result {
            Ok(None) => 0,
            // Nothing written and nothing wrong: to try again could go on forever.
            Ok(Some(0)) => self.fail_writes(cx, under_way, &Error::Io),
            Ok(Some(count)) => {
                let done = self.advance(cx, count);
                counters.file_writes += done as u64;
                done
            }
            Err(error) => self.fail_writes(cx, under_way, &error),
        }
    }

    /// A flush has ended.
    pub(crate) fn flush_done(&mut self, cx: &mut Cx<'_>, result: Result<Option<usize>, Error>) -> usize {
        self.writing = 0;
        let flushed = match result {
            Ok(Some(_)) => Ok(Done::Flushed),
            Ok(None) => return 0,
            Err(error) => Err(error),
        };
        let Some(write) = self.writes.pop_front() else { return 0 };
        cx.done.post(write.token(), flushed);
        1
    }

    /// Fails the `count` oldest writes; what was written of the first is cut off again.
    fn fail_writes(&mut self, cx: &mut Cx<'_>, count: usize, error: &Error) -> usize {
        if std::mem::take(&mut self.begun) > 0 {
            // On a device that fails there is no more to be done.
            let _ = file::truncate(&self.fd, self.end);
        }
        for write in self.writes.drain(..count) {
            cx.done.post(write.token(), Err(error.clone()));
        }
        count
    }

    /// Fails what is not with the kernel.
    pub(crate) fn fail_waiting(&mut self, cx: &mut Cx<'_>, error: &Error) {
        if self.writing == 0 {
            self.fail_writes(cx, self.writes.len(), error);
            return;
        }
        for write in self.writes.drain(self.writing..) {
            cx.done.post(write.token(), Err(error.clone()));
        }
    }

    /// Recalls one operation. A read under way is disowned: the next one reads the same bytes.
    pub(crate) fn cancel(&mut self, token: QToken) -> Result<(), Error> {
        if let Some(place) = self.pops.iter().position(|pop| pop.token == token) {
            self.pops.remove(place);
            return Ok(());
        }
        if let Some(reading) = &mut self.reading
            && reading.token == Some(token)
        {
            reading.token = None;
            return Ok(());
        }
        let place =
            self.writes.iter().position(|write| write.token() == token).ok_or(Error::NotCancellable)?;
        if place < self.writing || (place == 0 && self.begun > 0) {
            return Err(Error::NotCancellable);
        }
        self.writes.remove(place);
        Ok(())
    }

    pub(crate) fn cancel_pops(&mut self, cx: &mut Cx<'_>) {
        let under_way = self.reading.as_mut().and_then(|reading| reading.token.take());
        for token in under_way.into_iter().chain(self.pops.drain(..).map(|pop| pop.token)) {
            cx.done.post(token, Err(Error::Cancelled));
        }
    }

    /// Notes `count` more bytes as written and completes the pushes that end there.
    fn advance(&mut self, cx: &mut Cx<'_>, mut count: usize) -> usize {
        let mut done = 0;
        while let Some(Write::Push { token, rest }) = self.writes.front_mut() {
            let part = count.min(rest.len());
            rest.advance(part);
            count -= part;
            self.begun += part as u64;
            if !rest.is_empty() {
                break;
            }
            cx.done.post(*token, Ok(Done::Pushed(Position(self.end))));
            self.writes.pop_front();
            self.end += std::mem::take(&mut self.begun);
            done += 1;
        }
        done
    }
}

/// The first `count` bytes: in a buffer of their own size if they are few, and there is memory for it.
fn hand_out(
    heap: &Heap,
    counters: &mut Counters,
    mut buf: BufMut,
    count: usize,
    copy_up_to: usize,
) -> SgArray {
    if count == 0 {
        return SgArray::new();
    }
    if count <= copy_up_to
        && let Ok(mut copy) = heap.alloc(count)
    {
        copy.copy_from_slice(&buf[..count]);
        counters.copied_receives += 1;
        counters.copied_bytes += count as u64;
        return copy.into();
    }
    buf.truncate(count);
    buf.into()
}
