//! A whole RESP value taken apart without a copy.
//!
//! Invariants: what is handed out refers to the array's own buffers. Nothing is taken for granted: a value that
//! breaks the format, or ends early, is an error wherever that shows.

use demi_memalloc::{Buf, Heap};

use super::resp::integer;
use crate::error::Error;
use crate::sga::SgArray;

const ENDS_EARLY: Error = Error::BadFrame("RESP: the value ends early");

/// The parts of a value, in order: an array is its [`Event::Array`], then its elements.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: Text<'a>,
}

/// A part of a value.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// An array of so many elements, which follow.
    Array(usize),
    /// A bulk string.
    Bulk(Text<'a>),
    /// A simple string.
    Simple(Text<'a>),
    /// An error.
    Error(Text<'a>),
    /// An integer.
    Integer(i64),
    /// The null bulk string, or the null array.
    Null,
    /// An inline command: its line without the line end.
    Inline(Text<'a>),
}

impl<'a> Reader<'a> {
    /// Begins at the first byte of `value`, as popped from a framed queue.
    pub fn new(value: &'a SgArray) -> Reader<'a> {
        Reader { rest: Text { segments: value.segments(), skipped: 0, len: value.len() } }
    }

    fn event(&mut self) -> Result<Event<'a>, Error> {
        let sign = self.rest.byte(0).ok_or(ENDS_EARLY)?;
        if !matches!(sign, b'+' | b'-' | b':' | b'$' | b'*') {
            let end = self.rest.find(b'\n').unwrap_or(self.rest.len);
            let mut line = self.rest.split_to(end);
            self.rest.split_to(self.rest.len.min(1));
            if end > 0 && line.byte(end - 1) == Some(b'\r') {
                line.len -= 1;
            }
            return Ok(Event::Inline(line));
        }
        self.rest.split_to(1);
        let end = self.rest.find(b'\r').ok_or(ENDS_EARLY)?;
        let line = self.rest.split_to(end);
        self.line_end()?;
        if sign == b'+' {
            return Ok(Event::Simple(line));
        }
        if sign == b'-' {
            return Ok(Event::Error(line));
        }
        let number = line.integer(sign)?;
        match (sign, usize::try_from(number)) {
            (b':', _) => Ok(Event::Integer(number)),
            (b'*', Ok(count)) => Ok(Event::Array(count)),
            (b'$', Ok(len)) if len <= self.rest.len => {
                let bulk = self.rest.split_to(len);
                self.line_end()?;
                Ok(Event::Bulk(bulk))
            }
            (_, Ok(_)) => Err(ENDS_EARLY),
            (_, Err(_)) if number == -1 => Ok(Event::Null),
            (_, Err(_)) => Err(Error::BadFrame("RESP: negative length")),
        }
    }

    fn line_end(&mut self) -> Result<(), Error> {
        if self.rest.byte(0) != Some(b'\r') || self.rest.byte(1) != Some(b'\n') {
            return Err(Error::BadFrame("RESP: line end expected"));
        }
        self.rest.split_to(2);
        Ok(())
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Event<'a>, Error>;

    /// After an error, nothing.
    fn next(&mut self) -> Option<Result<Event<'a>, Error>> {
        if self.rest.is_empty() {
            return None;
        }
        let event = self.event();
        if event.is_err() {
            self.rest.len = 0;
        }
        Some(event)
    }
}

/// The arguments of a request: an array of bulk strings, or the words of an inline command. Quotes have no
/// meaning in inline commands.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    source: Arguments<'a>,
    len: usize,
}

#[derive(Debug, Clone)]
enum Arguments<'a> {
    Array(Reader<'a>),
    Inline(Text<'a>),
}

impl<'a> Request<'a> {
    /// Takes apart a message that a framed queue popped. A value that cannot be a request is an error; an empty
    /// line or array is a request without arguments.
    pub fn new(message: &'a SgArray) -> Result<Request<'a>, Error> {
        let mut reader = Reader::new(message);
        match reader.event()? {
            Event::Array(len) => Ok(Request { source: Arguments::Array(reader), len }),
            Event::Null => Ok(Request { source: Arguments::Array(reader), len: 0 }),
            Event::Inline(line) => {
                let mut words = Request { source: Arguments::Inline(line), len: usize::MAX };
                let len = std::iter::from_fn(|| words.word()).count();
                Ok(Request { source: Arguments::Inline(line), len })
            }
            Event::Bulk(_) | Event::Simple(_) | Event::Error(_) | Event::Integer(_) => {
                Err(Error::BadFrame("RESP: a request is an array of bulk strings"))
            }
        }
    }

    fn word(&mut self) -> Option<Text<'a>> {
        let Arguments::Inline(line) = &mut self.source else { return None };
        let start = line.position(|byte| !byte.is_ascii_whitespace())?;
        line.split_to(start);
        let end = line.position(|byte| byte.is_ascii_whitespace()).unwrap_or(line.len);
        Some(line.split_to(end))
    }

    fn argument(&mut self) -> Result<Text<'a>, Error> {
        let Arguments::Array(reader) = &mut self.source else { return self.word().ok_or(ENDS_EARLY) };
        match reader.next().ok_or(ENDS_EARLY)?? {
            Event::Bulk(text) => Ok(text),
            _ => Err(Error::BadFrame("RESP: a request is an array of bulk strings")),
        }
    }
}

impl<'a> Iterator for Request<'a> {
    type Item = Result<Text<'a>, Error>;

    /// After an error, nothing.
    fn next(&mut self) -> Option<Result<Text<'a>, Error>> {
        self.len = self.len.checked_sub(1)?;
        let argument = self.argument();
        if argument.is_err() {
            self.len = 0;
        }
        Some(argument)
    }

    /// As many as the request says it has: a hostile one may have fewer.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.len))
    }
}

impl Request<'_> {
    /// How many arguments are left, the name of the command being one, as far as the request can be believed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no argument is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Some bytes of an array, in one buffer or across several.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// It begins in the first of them.
    segments: &'a [Buf],
    /// Bytes of the first that come before it.
    skipped: usize,
    len: usize,
}

impl<'a> Text<'a> {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, if they lie in one buffer.
    pub fn as_slice(&self) -> Option<&'a [u8]> {
        let first = self.first();
        if first.len() == self.len {
            return Some(first);
        }
        let mut chunks = self.chunks();
        let first = chunks.next().unwrap_or(&[]);
        chunks.next().is_none().then_some(first)
    }

    /// The bytes as a buffer: the very memory they were received in, kept alive by it, or a counted copy if they
    /// lie across several.
    pub fn to_buf(&self, heap: &Heap) -> Result<Buf, Error> {
        match self.segments {
            [] => Ok(Buf::empty()),
            [first, ..] if self.skipped + self.len <= first.len() => {
                Ok(first.slice(self.skipped..self.skipped + self.len))
            }
            _ => Ok(heap.copy_from(&self.to_vec())?),
        }
    }

    /// The bytes as an array, without a copy.
    pub fn to_array(&self) -> SgArray {
        let mut skipped = self.skipped;
        let mut rest = self.len;
        let mut array = SgArray::new();
        for segment in self.segments {
            let end = segment.len().min(skipped + rest);
            if end > skipped {
                array
                    .push(segment.slice(skipped..end))
                    .expect("an array has no more segments than its own array");
                rest -= end - skipped;
            }
            skipped = 0;
        }
        array
    }

    /// A copy in ordinary memory.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len);
        self.chunks().for_each(|chunk| bytes.extend_from_slice(chunk));
        bytes
    }

    /// Whether the bytes are `word`, in upper or lower case.
    pub fn eq_ignore_ascii_case(&self, word: &[u8]) -> bool {
        self.len == word.len()
            && self.chunks().flatten().zip(word).all(|(byte, other)| byte.eq_ignore_ascii_case(other))
    }

    /// The bytes as a decimal number.
    pub fn to_integer(&self) -> Result<i64, Error> {
        self.integer(b':')
    }

    /// The bytes, buffer by buffer; no piece is empty.
    pub fn chunks(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut skipped = self.skipped;
        let mut rest = self.len;
        self.segments
            .iter()
            .map_while(move |segment| {
                if rest == 0 {
                    return None;
                }
                let chunk = &segment[std::mem::take(&mut skipped)..];
                let chunk = &chunk[..chunk.len().min(rest)];
                rest -= chunk.len();
                Some(chunk)
            })
            .filter(|chunk| !chunk.is_empty())
    }

    /// The bytes in the first buffer: nearly always all of them.
    #[inline]
    fn first(&self) -> &'a [u8] {
        let Some(segment) = self.segments.first() else { return &[] };
        &segment[self.skipped..segment.len().min(self.skipped + self.len)]
    }

    fn integer(&self, sign: u8) -> Result<i64, Error> {
        match self.as_slice() {
            Some(slice) => integer(sign, slice.iter().copied()),
            None => integer(sign, self.chunks().flatten().copied()),
        }
    }

    #[inline]
    fn byte(&self, index: usize) -> Option<u8> {
        if let Some(byte) = self.first().get(index) {
            return Some(*byte);
        }
        let mut rest = index;
        self.chunks().find_map(|chunk| {
            let byte = chunk.get(rest).copied();
            rest -= rest.min(chunk.len());
            byte
        })
    }

    fn find(&self, byte: u8) -> Option<usize> {
        self.position(|other| other == byte)
    }

    #[inline]
    fn position(&self, wanted: impl Fn(u8) -> bool) -> Option<usize> {
        if let Some(at) = self.first().iter().position(|byte| wanted(*byte)) {
            return Some(at);
        }
        let mut before = 0;
        self.chunks().find_map(|chunk| {
            let at = chunk.iter().position(|byte| wanted(*byte));
            before += chunk.len();
            at.map(|at| before - chunk.len() + at)
        })
    }

    /// Takes the first `count` bytes off; there are so many.
    #[inline]
    fn split_to(&mut self, count: usize) -> Text<'a> {
        let head = Text { len: count, ..*self };
        self.len -= count;
        self.skipped += count;
        while let [first, rest @ ..] = self.segments
            && self.skipped >= first.len()
        {
            self.skipped -= first.len();
            self.segments = rest;
        }
        head
    }
}

/// Byte-wise.
impl PartialEq<[u8]> for Text<'_> {
    fn eq(&self, other: &[u8]) -> bool {
        match self.as_slice() {
            Some(slice) => slice == other,
            None => self.len == other.len() && self.chunks().flatten().eq(other),
        }
    }
}
