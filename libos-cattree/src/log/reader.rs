//! A cursor in a log: reads ahead in whole blocks, and takes elements out of what was read.
//!
//! Invariants: `chunks` are consecutive, and the first is the one where parsing goes on. An element is handed out only when all of it was
//! there and its checksums were right. An error leaves the cursor at its element.

use std::collections::VecDeque;

use demi_api::error::Error;
use demi_api::memalloc::{Buf, BufMut, Heap};
use demi_api::op::Position;
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use demi_api::slab::Key;
use demi_api::token::QToken;

use super::Log;
use crate::format::{Geometry, HEAD_LEN, HEADER_LEN, Header, Kind, MIN_ROOM, Next, payload_crc};

/// Bytes that are read ahead at first.
const MIN_WINDOW: usize = 16 << 10;
/// Bytes that are read ahead at the most.
const MAX_WINDOW: usize = 2 << 20;
/// Bytes of one read at the most.
const MAX_CHUNK: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) log: Key,
    /// Where the next element to be handed out is.
    pub(crate) cursor: u64,
    /// Pops that wait, oldest first.
    pub(crate) pops: VecDeque<QToken>,
    /// It is in its log's list of readers at the end.
    pub(crate) is_at_end: bool,
    /// Where parsing goes on.
    at: u64,
    element: Option<Element>,
    chunks: VecDeque<Chunk>,
    /// Number of the first chunk.
    first_chunk: u64,
    /// Where the next chunk begins.
    next_read: u64,
    window: usize,
    /// Of the last record that was read.
    epoch: u32,
}

#[derive(Debug)]
pub(crate) struct Chunk {
    from: u64,
    len: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Awaited,
    There(Buf),
    Failed(Error),
}

/// An element of which some is there.
#[derive(Debug)]
struct Element {
    header: Header,
    /// The fragment that `header` describes has not ended.
    in_fragment: bool,
    /// Bytes of it that are missing.
    left: usize,
    sum: u32,
    got: usize,
    parts: SgArray,
    /// Where it is put together if it has more parts than an array.
    whole: Option<BufMut>,
}

/// What a reader needs.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// Nothing: this is the element.
    Element(SgArray),
    /// What is being read, or is to be.
    Data,
    /// Something to be appended.
    Append,
}

/// What reading needs of its surroundings.
pub(crate) struct ReadCx<'a> {
    pub(crate) heap: &'a Heap,
    pub(crate) geometry: &'a Geometry,
    pub(crate) seed: u32,
    /// Elements of at most this many bytes are copied.
    pub(crate) copy_up_to: usize,
    pub(crate) copied_bytes: &'a mut u64,
}

impl Reader {
    pub(crate) fn new(log: Key, cursor: u64) -> Reader {
        Reader {
            log,
            cursor,
            pops: VecDeque::new(),
            is_at_end: false,
            at: cursor,
            element: None,
            chunks: VecDeque::new(),
            first_chunk: 0,
            next_read: cursor,
            window: MIN_WINDOW,
            epoch: 0,
        }
    }

    /// Goes elsewhere. What is being read is forgotten.
    pub(crate) fn seek(&mut self, cursor: u64) {
        self.cursor = cursor;
        self.window = MIN_WINDOW;
        self.restart();
    }

    fn restart(&mut self) {
        self.at = self.cursor;
        self.element = None;
        self.epoch = 0;
        self.forget_chunks();
    }

    fn forget_chunks(&mut self) {
        self.first_chunk += self.chunks.len() as u64;
        self.chunks.clear();
        self.next_read = self.at;
    }

    /// The next element, or what it needs. An error concerns the element at the cursor.
    pub(crate) fn next(&mut self, cx: &mut ReadCx<'_>, log: &Log) -> Result<Wanted, Error> {
        let next = self.parse(cx, log);
        if next.is_err() {
            self.window = MIN_WINDOW;
            self.restart();
        }
        next
    }

    fn parse(&mut self, cx: &mut ReadCx<'_>, log: &Log) -> Result<Wanted, Error> {
        loop {
            if self.cursor < log.head {
                return Err(Error::Discarded);
            }
            if self.at >= log.acked {
                if self.element.is_some() {
                    return Err(self.damaged());
                }
                return Ok(Wanted::Append);
            }
            let (ordinal, offset) = cx.geometry.split(self.at);
            if self.element.as_ref().is_some_and(|element| element.left > 0) {
                if !self.take_part(cx)? {
                    return Ok(Wanted::Data);
                }
            } else if offset + MIN_ROOM > cx.geometry.segment_size {
                self.at = cx.geometry.position(ordinal + 1, 0);
                continue;
            } else {
                if self.at + HEADER_LEN as u64 > log.acked {
                    return Err(self.damaged());
                }
                let mut bytes = [0; HEADER_LEN];
                if !self.copy_out(&mut bytes)? {
                    return Ok(Wanted::Data);
                }
                self.take_header(cx, log, &bytes, ordinal, offset)?;
            }
            if self.element.as_ref().is_some_and(|element| element.in_fragment && element.left == 0)
                && let Some(element) = self.end_fragment(cx)?
            {
                return Ok(Wanted::Element(element));
            }
        }
    }

    fn take_header(
        &mut self,
        cx: &ReadCx<'_>,
        log: &Log,
        bytes: &[u8],
        ordinal: u64,
        offset: usize,
    ) -> Result<(), Error> {
        let Some(segment) = log.segment(ordinal) else { return Err(self.damaged()) };
        let header = Header::parse(bytes, cx.geometry, cx.seed).map_err(|_| self.damaged())?;
        // An older epoch behind a newer one was left by a write that the device lost.
        if !header.is_at(log.id, segment.sequence, offset) || header.epoch < self.epoch {
            return Err(self.damaged());
        }
        self.epoch = header.epoch;
        let fits = match header.kind {
            Kind::Head => offset == 0,
            Kind::Whole | Kind::First => offset > 0 && self.element.is_none(),
            Kind::Middle | Kind::Last => {
                offset > 0
                    && self.element.as_ref().is_some_and(|element| {
                        element.header.total == header.total
                            && element.got + header.length as usize <= header.total as usize
                    })
            }
        };
        if !fits {
            return Err(self.damaged());
        }
        if header.kind == Kind::Head {
            self.at += HEAD_LEN as u64;
            return Ok(());
        }
        self.at = cx.geometry.position(ordinal, header.payload_at());
        let left = header.length as usize;
        match &mut self.element {
            Some(element) => {
                (element.header, element.left, element.sum) = (header, left, cx.seed);
                element.in_fragment = true;
            }
            None => {
                let parts = SgArray::new();
                let element =
                    Element { header, in_fragment: true, left, sum: cx.seed, got: 0, parts, whole: None };
                self.element = Some(element);
            }
        }
        Ok(())
    }

    /// Takes what is there of the payload. False: nothing is.
    fn take_part(&mut self, cx: &mut ReadCx<'_>) -> Result<bool, Error> {
        let left = self.element.as_ref().map_or(0, |element| element.left);
        let Some((buf, from)) = self.chunk_at(self.at)? else { return Ok(false) };
        let skip = (self.at - from) as usize;
        let part = buf.slice(skip..buf.len().min(skip + left));
        let Some(element) = &mut self.element else { return Ok(false) };
        element.sum = payload_crc(element.sum, &part);
        element.left -= part.len();
        self.at += part.len() as u64;
        let total = element.header.total as usize;
        let is_small = total <= cx.copy_up_to;
        if element.whole.is_none() && (is_small || element.parts.segments().len() == MAX_SEGMENTS) {
            let mut whole = cx.heap.alloc(total)?;
            let copied = element.parts.copy_to(&mut whole);
            *cx.copied_bytes += copied as u64;
            element.parts = SgArray::new();
            element.whole = Some(whole);
        }
        match &mut element.whole {
            Some(whole) => {
                whole[element.got..element.got + part.len()].copy_from_slice(&part);
                *cx.copied_bytes += part.len() as u64;
            }
            None => element.parts.push(part.clone())?,
        }
        element.got += part.len();
        self.drop_chunks();
        Ok(true)
    }

    /// The fragment is there. If it was the element's last: the element.
    fn end_fragment(&mut self, cx: &ReadCx<'_>) -> Result<Option<SgArray>, Error> {
        let Some(element) = &mut self.element else { return Ok(None) };
        element.in_fragment = false;
        let header = element.header;
        if element.sum != header.payload_crc {
            return Err(self.damaged());
        }
        // The header's own place: `at` is at the end of the payload.
        let (ordinal, _) = cx.geometry.split(self.at - (header.end() - header.offset as usize) as u64);
        self.at = match header.next(cx.geometry) {
            Next::At(offset) => cx.geometry.position(ordinal, offset),
            Next::NextSegment => cx.geometry.position(ordinal + 1, 0),
        };
        self.drop_chunks();
        if !matches!(header.kind, Kind::Whole | Kind::Last) {
            return Ok(None);
        }
        let Some(element) = self.element.take() else { return Ok(None) };
        if element.got != header.total as usize {
            return Err(self.damaged());
        }
        self.cursor = self.at;
        Ok(Some(element.whole.map_or(element.parts, SgArray::from)))
    }

    fn damaged(&self) -> Error {
        Error::Damaged(Position(self.cursor))
    }

    /// The chunk with this position, if it is there, and where it begins.
    fn chunk_at(&self, position: u64) -> Result<Option<(&Buf, u64)>, Error> {
        let holds = |chunk: &&Chunk| chunk.from <= position && position < chunk.from + chunk.len as u64;
        match self.chunks.iter().find(holds) {
            Some(Chunk { content: Content::There(buf), from, .. }) => Ok(Some((buf, *from))),
            Some(Chunk { content: Content::Failed(error), .. }) => Err(error.clone()),
            Some(Chunk { content: Content::Awaited, .. }) | None => Ok(None),
        }
    }

    /// Fills `out` from where parsing goes on. False: not all of it is there.
    fn copy_out(&self, out: &mut [u8]) -> Result<bool, Error> {
        let mut filled = 0;
        while filled < out.len() {
            let position = self.at + filled as u64;
            let Some((buf, from)) = self.chunk_at(position)? else { return Ok(false) };
            let skip = (position - from) as usize;
            let part = (buf.len() - skip).min(out.len() - filled);
            out[filled..filled + part].copy_from_slice(&buf[skip..skip + part]);
            filled += part;
        }
        Ok(true)
    }

    /// Lets go of what lies before the place where parsing goes on.
    fn drop_chunks(&mut self) {
        while self.chunks.front().is_some_and(|chunk| chunk.from + chunk.len as u64 <= self.at) {
            self.chunks.pop_front();
            self.first_chunk += 1;
            self.window = (self.window * 2).min(MAX_WINDOW);
        }
    }

    /// The next read to begin: where, and into what; and the number of its chunk.
    pub(crate) fn next_chunk(
        &mut self,
        heap: &Heap,
        geometry: &Geometry,
        max_transfer: usize,
        log: &Log,
    ) -> Result<Option<(u64, BufMut, u64)>, Error> {
        let first = self.chunks.front().map_or(self.next_read, |chunk| chunk.from);
        if self.chunks.is_empty()
            && (self.at < self.next_read || self.next_read + geometry.block_size as u64 <= self.at)
        {
            self.next_read = self.at;
        }
        let from = self.next_read / geometry.block_size as u64 * geometry.block_size as u64;
        let ahead = from.saturating_sub(first.max(self.at)) as usize;
        if from >= log.acked || ahead >= self.window {
            return Ok(None);
        }
        let (_, offset) = geometry.split(from);
        let len = (geometry.segment_size - offset)
            .min(usize::try_from(log.acked - from).unwrap_or(usize::MAX))
            .min(self.window.max(geometry.block_size))
            .min(MAX_CHUNK.min(max_transfer));
        // An object whose size is a power of two lies at a multiple of it.
        let mut into = heap.alloc(len.next_power_of_two().max(geometry.block_size))?;
        into.truncate(len);
        let number = self.first_chunk + self.chunks.len() as u64;
        self.chunks.push_back(Chunk { from, len, content: Content::Awaited });
        self.next_read = from + len as u64;
        Ok(Some((from, into, number)))
    }

    /// Notes what became of a read.
    pub(crate) fn chunk_ended(&mut self, number: u64, result: Result<BufMut, Error>) {
        let place = number.wrapping_sub(self.first_chunk) as usize;
        if let Some(chunk) = self.chunks.get_mut(place) {
            chunk.content = match result {
                Ok(buf) => Content::There(buf.freeze()),
                Err(error) => Content::Failed(error),
            };
        }
    }

    /// Whether something is being read for it.
    pub(crate) fn is_reading(&self) -> bool {
        self.chunks.iter().any(|chunk| matches!(chunk.content, Content::Awaited))
    }
}
