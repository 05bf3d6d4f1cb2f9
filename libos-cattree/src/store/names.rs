//! Logs by name, and what is done to a whole log: made, opened, removed, cut.

use demi_api::error::Error;
use demi_api::libos::{Cx, OpenOptions, SeekTo};
use demi_api::op::Position;
use demi_api::slab::Key;
use demi_api::token::QToken;

use super::io::{MAX_PIECE, aligned};
use super::{Store, write_cx};
use crate::device::{Buffers, Command};
use crate::format::{Geometry, HEAD_LEN, HEADER_LEN, Header, Kind, LogEntry, Next, Segment, payload_crc};
use crate::log::{Log, Reader};

/// An open log: what a descriptor names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle {
    pub(crate) log: Key,
    pub(crate) reader: Key,
    pub(crate) writes: bool,
}

impl Store {
    pub(crate) fn open_log(
        &mut self,
        cx: &mut Cx<'_>,
        name: &[u8],
        options: &OpenOptions,
    ) -> Result<Handle, Error> {
        if name.is_empty() || name.len() > LogEntry::MAX_NAME {
            return Err(Error::Invalid("a log's name has 1 to 255 bytes"));
        }
        if self.read_only && (!options.read_only || options.truncate) {
            return Err(Error::ReadOnly);
        }
        if options.read_only && options.truncate {
            return Err(Error::Invalid("who opens a log read-only cannot cut it: leave out one of the two"));
        }
        let key = match self.names.get(name) {
            Some(_) if options.create && options.exclusive => return Err(Error::Exists),
            Some(key) => *key,
            None if options.create && !self.read_only => self.make_log(cx, name)?,
            None => return Err(Error::NotFound),
        };
        let writes = !options.read_only;
        let log = self.log(key)?;
        if writes && log.has_writer {
            return Err(Error::InUse(
                "a log has one writer at a time: open it read-only, or close the other",
            ));
        }
        if writes {
            self.make_writable(cx, key, options)?;
        }
        if options.truncate {
            let head = self.log(key)?.head;
            self.truncate(cx, key, Position(head))?;
        }
        let log = self.log(key)?;
        log.has_writer |= writes;
        let head = log.head;
        let reader = self.readers.insert(Reader::new(key, head));
        self.log(key)?.readers.push(reader);
        Ok(Handle { log: key, reader, writes })
    }

    fn make_log(&mut self, cx: &mut Cx<'_>, name: &[u8]) -> Result<Key, Error> {
        if self.names.len() >= self.geometry.max_logs as usize || self.next_log == u32::MAX {
            return Err(Error::NoSpace);
        }
        self.settle(cx, |store| store.saving.is_none())?;
        let entry = LogEntry { id: self.next_log, name: name.to_vec(), ..LogEntry::default() };
        let key = self.logs.insert(Log::new(&entry, self.epoch));
        self.names.insert(name.to_vec(), key);
        self.next_log += 1;
        if let Err(error) = self.save(cx, false) {
            self.names.remove(name);
            self.logs.remove(key);
            return Err(error);
        }
        Ok(key)
    }

    /// Prepares a log for its writer: what a failed write has left is cut off, what is not durable is made so.
    fn make_writable(&mut self, cx: &mut Cx<'_>, key: Key, options: &OpenOptions) -> Result<(), Error> {
        self.quiet(cx, key)?;
        let log = self.log(key)?;
        if log.failed.is_some() {
            let tail = log.acked;
            self.settle(cx, |store| store.saving.is_none())?;
            self.cut(cx, key, tail, tail, None)?;
        }
        let log = self.log(key)?;
        if options.durable && log.stable < log.acked {
            self.call(cx, Command::Flush)?;
            let log = self.log(key)?;
            log.stable = log.acked;
        }
        self.log(key)?.durable = options.durable;
        Ok(())
    }

    pub(crate) fn unlink(&mut self, cx: &mut Cx<'_>, name: &[u8]) -> Result<(), Error> {
        let key = *self.names.get(name).ok_or(Error::NotFound)?;
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        if !self.log(key)?.readers.is_empty() {
            return Err(Error::InUse("the log is open: close it before it is removed"));
        }
        self.quiet(cx, key)?;
        self.settle(cx, |store| store.saving.is_none())?;
        self.names.remove(name);
        let saved = self.save(cx, false);
        if saved.is_err() {
            self.names.insert(name.to_vec(), key);
            self.lock_unless(key, &saved)?;
            return saved;
        }
        if let Some(log) = self.logs.remove(key) {
            log.segments.into_iter().for_each(|segment| self.space.give_back(segment));
        }
        Ok(())
    }

    pub(crate) fn list(&self) -> impl Iterator<Item = &[u8]> {
        self.names.keys().map(Vec::as_slice)
    }

    /// A descriptor is gone. What was pushed meets its fate all the same.
    pub(crate) fn close(&mut self, cx: &mut Cx<'_>, handle: Handle) {
        if let Some(reader) = self.readers.remove(handle.reader) {
            for token in reader.pops {
                cx.done.post(token, Err(Error::Cancelled));
            }
        }
        if let Some(log) = self.logs.get_mut(handle.log) {
            log.has_writer &= !handle.writes;
            log.readers.retain(|reader| *reader != handle.reader);
            log.at_end.retain(|reader| *reader != handle.reader);
        }
    }

    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, handle: Handle) -> Result<(), Error> {
        let reader = self.readers.get_mut(handle.reader).ok_or(Error::BadDescriptor)?;
        if let Some(place) = reader.pops.iter().position(|pop| *pop == token) {
            reader.pops.remove(place);
        } else {
            let geometry = self.geometry;
            let unneeded = self.log(handle.log)?.cancel(&geometry, token).ok_or(Error::NotCancellable)?;
            self.space.release(unneeded);
        }
        cx.done.post(token, Err(Error::Cancelled));
        Ok(())
    }

    pub(crate) fn seek(&mut self, cx: &mut Cx<'_>, handle: Handle, to: SeekTo) -> Result<Position, Error> {
        let log = self.log(handle.log)?;
        let position = match to {
            SeekTo::Head => log.head,
            SeekTo::End => self.end_of_pushes(cx, handle.log)?,
            SeekTo::Position(Position(position)) if position < log.head => return Err(Error::Discarded),
            SeekTo::Position(Position(position))
                if position > log.acked && position > self.end_of_pushes(cx, handle.log)? =>
            {
                return Err(Error::Invalid("the position is behind the end of the log"));
            }
            SeekTo::Position(Position(position)) => position,
        };
        let reader = self.readers.get_mut(handle.reader).ok_or(Error::BadDescriptor)?;
        reader.seek(position);
        // Nothing that ends later may be what a pop that waits is served by.
        self.serve(cx, handle.reader);
        Ok(Position(self.first_record(position)))
    }

    /// Where the next element that is pushed will be: what was pushed is sealed, so that this is certain. What failed will be cut off.
    fn end_of_pushes(&mut self, cx: &mut Cx<'_>, key: Key) -> Result<u64, Error> {
        self.settle(cx, |store| store.logs.get(key).is_none_or(|log| !log.has_waiting()))?;
        let log = self.logs.get_mut(key).ok_or(Error::BadDescriptor)?;
        if log.failed.is_some() {
            return Ok(log.acked);
        }
        log.seal(&write_cx!(self));
        Ok(log.next)
    }

    /// Where the first record at or behind a position is.
    fn first_record(&self, position: u64) -> u64 {
        let (ordinal, offset) = self.geometry.split(position);
        match Next::from(offset, &self.geometry) {
            Next::At(0) => self.geometry.position(ordinal, HEAD_LEN),
            Next::At(_) => position,
            Next::NextSegment => self.geometry.position(ordinal + 1, HEAD_LEN),
        }
    }

    /// Gives up what is before a position.
    pub(crate) fn discard(&mut self, cx: &mut Cx<'_>, key: Key, position: Position) -> Result<(), Error> {
        self.writable(key)?;
        self.is_boundary(cx, key, position.0)?;
        self.settle(cx, |store| store.saving.is_none())?;
        let geometry = self.geometry;
        let given_up = self.log(key)?.discard(&geometry, position.0);
        // They are used again only when a checkpoint says so, whether this one succeeds or a later one.
        given_up.into_iter().for_each(|segment| self.space.give_back(segment));
        self.save(cx, false)
    }

    /// Cuts the end off, from a position on.
    pub(crate) fn truncate(&mut self, cx: &mut Cx<'_>, key: Key, position: Position) -> Result<(), Error> {
        self.writable(key)?;
        self.quiet(cx, key)?;
        let log = self.log(key)?;
        if let Some(error) = &log.failed {
            return Err(error.clone());
        }
        let (head, tail) = (log.head, position.0.max(log.head));
        if tail >= log.acked {
            return Ok(());
        }
        self.is_boundary(cx, key, tail)?;
        self.settle(cx, |store| store.saving.is_none())?;
        self.held = true;
        let cut = self.truncate_held(cx, key, head, tail);
        self.held = false;
        cut
    }

    fn truncate_held(&mut self, cx: &mut Cx<'_>, key: Key, head: u64, tail: u64) -> Result<(), Error> {
        let geometry = self.geometry;
        let (ordinal, offset) = geometry.split(tail);
        if offset % geometry.block_size == 0 {
            self.cut(cx, key, tail, tail, None)
        } else if offset == HEAD_LEN {
            self.cut(cx, key, tail, geometry.position(ordinal, 0), None)
        } else if tail == head {
            // Nothing is left: the log goes on behind all that there was.
            let log = self.log(key)?;
            let end = geometry.position(log.first_ordinal + log.segments.len() as u64, 0);
            let given_up: Vec<Segment> = log.segments.drain(..).collect();
            (log.head, log.first_ordinal) = (end, geometry.split(end).0);
            given_up.into_iter().for_each(|segment| self.space.give_back(segment));
            self.cut(cx, key, tail, end, None)
        } else {
            let copy = self.copy_segment(cx, key, ordinal, offset)?;
            let end = geometry.position(ordinal, geometry.block_up(offset));
            self.cut(cx, key, tail, end, Some((ordinal, copy)))
        }
    }

    /// Refuses a position within the log at which no element begins.
    fn is_boundary(&mut self, cx: &mut Cx<'_>, key: Key, position: u64) -> Result<(), Error> {
        let geometry = self.geometry;
        let log = self.log(key)?;
        if position <= log.head || position >= log.acked || position == self.first_record_of(key)? {
            return Ok(());
        }
        let (ordinal, offset) = geometry.split(position);
        let nothing = Error::Invalid("no element begins at this position");
        let log = self.log(key)?;
        let (id, Some(segment)) = (log.id, log.segment(ordinal)) else { return Err(nothing) };
        let from = offset / geometry.block_size * geometry.block_size;
        let len = (2 * geometry.block_size).min(geometry.segment_size - from);
        let into = self.heap.alloc(len)?;
        let at = geometry.segment_at(segment.index) + from as u64;
        let Buffers::Read(bytes) = self.call(cx, Command::Read { offset: at, into })? else {
            return Err(Error::Io);
        };
        match Header::parse(&bytes[offset - from..], &geometry, self.seed) {
            Ok(header)
                if header.is_at(id, segment.sequence, offset)
                    && matches!(header.kind, Kind::Whole | Kind::First) =>
            {
                Ok(())
            }
            _ => Err(nothing),
        }
    }

    fn first_record_of(&mut self, key: Key) -> Result<u64, Error> {
        let head = self.log(key)?.head;
        Ok(self.first_record(head))
    }

    /// Cuts off what is at `from` and behind it, durably: the log goes on at `tail`, a boundary of batches, with a new epoch. A
    /// segment may be replaced by a copy. No checkpoint is being written.
    fn cut(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        from: u64,
        tail: u64,
        copy: Option<(u64, Segment)>,
    ) -> Result<(), Error> {
        let epoch = self.next_epoch()?;
        let geometry = self.geometry;
        let log = self.log(key)?;
        let mut given_up = log.cut(&geometry, tail, epoch);
        if let Some((ordinal, copy)) = copy {
            let place = (ordinal - log.first_ordinal) as usize;
            given_up.push(std::mem::replace(&mut log.segments[place], copy));
        }
        given_up.into_iter().for_each(|segment| self.space.give_back(segment));
        self.moved(cx, key, from);
        let saved = self.save(cx, false);
        self.lock_unless(key, &saved)?;
        saved
    }

    /// A checkpoint that failed may be found all the same: what it changed must stay as it is until another has succeeded.
    fn lock_unless(&mut self, key: Key, saved: &Result<(), Error>) -> Result<(), Error> {
        if let Err(error) = saved {
            self.log(key)?.failed = Some(error.clone());
        }
        Ok(())
    }

    /// Copies what is before `offset` of a segment to another.
    fn copy_segment(
        &mut self,
        cx: &mut Cx<'_>,
        key: Key,
        ordinal: u64,
        offset: usize,
    ) -> Result<Segment, Error> {
        let geometry = self.geometry;
        let log = self.log(key)?;
        let (id, Some(old)) = (log.id, log.segment(ordinal)) else {
            return Err(Error::Invalid("the position is not in the log"));
        };
        let len = geometry.block_up(offset);
        let mut bytes = vec![0; len];
        let piece = self.io.caps().max_transfer.min(MAX_PIECE);
        for (place, part) in bytes.chunks_mut(piece).enumerate() {
            let mut into = self.heap.alloc(part.len().next_power_of_two())?;
            into.truncate(part.len());
            let from = geometry.segment_at(old.index) + (place * piece) as u64;
            match self.call(cx, Command::Read { offset: from, into })? {
                Buffers::Read(buf) => part.copy_from_slice(&buf),
                Buffers::None | Buffers::Written(_) => return Err(Error::Io),
            }
        }
        bytes[offset..].fill(0);
        if !self.space.promise(1) {
            return Err(Error::NoSpace);
        }
        if self.space.is_exhausted()
            && let Err(error) = self.save(cx, false)
        {
            self.space.release(1);
            return Err(error);
        }
        let Some(new) = self.space.take() else {
            self.space.release(1);
            return Err(Error::NoSpace);
        };
        let copied = restamp(&mut bytes, &geometry, self.seed, id, old.sequence, new.sequence, offset);
        let written =
            copied.map_err(|at| Error::Damaged(Position(geometry.position(ordinal, at)))).and_then(|()| {
                for (place, part) in bytes.chunks(piece).enumerate() {
                    let to = geometry.segment_at(new.index) + (place * piece) as u64;
                    let data = aligned(&self.heap, part)?.into();
                    self.call(cx, Command::Write { offset: to, data, durable: true })?;
                }
                Ok(())
            });
        if let Err(error) = written {
            self.space.give_back(new);
            return Err(error);
        }
        Ok(new)
    }

    /// Readers that were at `from`, where a log was cut, or behind it, go on at its end.
    fn moved(&mut self, cx: &mut Cx<'_>, key: Key, from: u64) {
        let Some(log) = self.logs.get_mut(key) else { return };
        let end = log.acked;
        log.at_end.clear();
        for reader in log.readers.clone() {
            if let Some(reader) = self.readers.get_mut(reader) {
                reader.is_at_end = false;
                reader.seek(if reader.cursor < from.min(end) { reader.cursor } else { end });
            }
            self.serve(cx, reader);
        }
    }

    fn next_epoch(&mut self) -> Result<u32, Error> {
        self.epoch = self.epoch.checked_add(1).ok_or(Error::NoSpace)?;
        Ok(self.epoch)
    }

    fn writable(&mut self, key: Key) -> Result<(), Error> {
        if self.read_only { Err(Error::ReadOnly) } else { self.log(key).map(drop) }
    }

    pub(super) fn log(&mut self, key: Key) -> Result<&mut Log, Error> {
        self.logs.get_mut(key).ok_or(Error::BadDescriptor)
    }
}

/// Gives the records of a segment another sequence number; the last before `end` ends its batch. On failure: where.
pub(crate) fn restamp(
    bytes: &mut [u8],
    geometry: &Geometry,
    seed: u32,
    log: u32,
    from: u64,
    to: u64,
    end: usize,
) -> Result<(), usize> {
    let mut at = 0;
    loop {
        let mut header = Header::parse(&bytes[at..], geometry, seed).map_err(|_| at)?;
        if !header.is_at(log, from, at) || header.end() > end {
            return Err(at);
        }
        let payload = &bytes[header.payload_at()..header.end()];
        if payload_crc(seed, payload) != header.payload_crc {
            return Err(at);
        }
        let next = header.next(geometry);
        header.sequence = to;
        header.ends_batch |= next == Next::At(end);
        header.emit(&mut bytes[at..at + HEADER_LEN], seed);
        match next {
            Next::At(next) if next < end => at = next,
            Next::At(next) if next == end => return Ok(()),
            // The position is not where an element begins.
            Next::At(_) | Next::NextSegment => return Err(at),
        }
    }
}
