//! RESP2, the protocol of Redis: where a value ends, and what is in it.
//!
//! Invariants of the parser: it keeps no bytes, only where it is; the payload of bulk strings is skipped, never
//! read; its memory does not depend on its input. The same bytes give the same messages however they are cut.
//!
//! A value is one of `+simple`, `-error`, `:integer`, `$bulk`, `*array`, with arrays nested up to [`MAX_DEPTH`]
//! deep. A line that begins with none of these signs is an inline command: one message up to its line feed.

use arrayvec::ArrayVec;

pub use super::reader::{Event, Reader, Request, Text};

use super::Fed;
use crate::error::Error;

/// How deep arrays may be nested.
pub const MAX_DEPTH: usize = 32;

/// No value is shorter: its sign and a line end.
const SHORTEST: usize = 3;

/// Finds the ends of values in a stream of bytes.
///
/// ```
/// use demi_api::graph::frame::{Fed, resp::Parser};
///
/// let mut parser = Parser::new(1024);
/// assert_eq!(parser.feed(b"*1\r\n$4\r\nPI"), Ok(Fed::More));
/// assert_eq!(parser.feed(b"NG\r\nPING\r\n"), Ok(Fed::Message { consumed: 4, head: 0, tail: 0 }));
/// assert_eq!(parser.feed(b"PING\r\n"), Ok(Fed::Message { consumed: 6, head: 0, tail: 0 }));
/// ```
#[derive(Debug, Clone)]
pub struct Parser {
    state: State,
    /// Elements still missing of each array that is open, the outermost first.
    open: ArrayVec<u32, MAX_DEPTH>,
    /// Bytes of this message that were fed before.
    len: usize,
    limit: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Before the sign of a value.
    Sign,
    /// In an inline command.
    Inline,
    /// In a simple string or an error.
    Simple,
    /// In a number, up to its carriage return.
    Number(Number),
    /// Between carriage return and line feed.
    LineFeed(Line),
    /// In a bulk string: so many bytes to come.
    Bulk(usize),
    /// Between a bulk string and its line end.
    BulkReturn,
}

/// What ends with a line.
#[derive(Debug, Clone, Copy)]
enum Line {
    /// A whole value.
    Value,
    /// A length, or -1.
    BulkHeader(i64),
    /// A number of elements, or -1.
    ArrayHeader(i64),
}

#[derive(Debug, Clone, Copy)]
struct Number {
    sign: u8,
    negative: bool,
    begun: bool,
    digits: bool,
    value: i64,
}

impl Parser {
    /// A parser that accepts values of at most `limit` bytes, all framing included.
    pub fn new(limit: usize) -> Parser {
        Parser { state: State::Sign, open: ArrayVec::new(), len: 0, limit }
    }

    /// Goes on with the next bytes of the stream. After a message, go on with the bytes behind it; after an
    /// error, no more.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Fed, Error> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let (used, value_ends) = self.advance(at, rest)?;
            at += used;
            if value_ends && self.closes_message() {
                self.within_limit(self.len + at)?;
                self.len = 0;
                return Ok(Fed::Message { consumed: at, head: 0, tail: 0 });
            }
        }
        self.len += at;
        self.within_limit(self.len)?;
        Ok(Fed::More)
    }

    /// One step; `at` counts what was used of this feed before, `rest` is not empty. Returns how much it used,
    /// and whether that ends a value.
    #[inline]
    fn advance(&mut self, at: usize, rest: &[u8]) -> Result<(usize, bool), Error> {
        let byte = rest[0];
        match self.state {
            State::Sign => {
                self.state = match byte {
                    b'+' | b'-' => State::Simple,
                    b':' | b'$' | b'*' => State::Number(Number::new(byte)),
                    _ if self.open.is_empty() => {
                        self.state = State::Inline;
                        return Ok((0, false));
                    }
                    _ => return Err(Error::BadFrame("RESP: unknown type")),
                };
                Ok((1, false))
            }
            State::Inline => match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.state = State::Sign;
                    Ok((end + 1, true))
                }
                None => Ok((rest.len(), false)),
            },
            State::Simple => match rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
                Some(end) if rest[end] == b'\n' => Err(Error::BadFrame("RESP: line feed inside a line")),
                Some(end) => {
                    self.state = State::LineFeed(Line::Value);
                    Ok((end + 1, false))
                }
                None => Ok((rest.len(), false)),
            },
            State::Number(ref mut number) => {
                for (index, byte) in rest.iter().enumerate() {
                    if *byte == b'\r' {
                        self.state = State::LineFeed(number.finish()?);
                        return Ok((index + 1, false));
                    }
                    number.add(*byte)?;
                }
                Ok((rest.len(), false))
            }
            State::LineFeed(line) => {
                if byte != b'\n' {
                    return Err(Error::BadFrame("RESP: carriage return without line feed"));
                }
                self.state = State::Sign;
                Ok((1, self.line_ends(line, at + 1)?))
            }
            State::Bulk(missing) => {
                let used = missing.min(rest.len());
                self.state = if used == missing { State::BulkReturn } else { State::Bulk(missing - used) };
                Ok((used, false))
            }
            State::BulkReturn => {
                if byte != b'\r' {
                    return Err(Error::BadFrame("RESP: bulk string longer than its length"));
                }
                self.state = State::LineFeed(Line::Value);
                Ok((1, false))
            }
        }
    }

    /// Whether the line is a whole value.
    fn line_ends(&mut self, line: Line, at: usize) -> Result<bool, Error> {
        let here = self.len + at;
        match line {
            Line::Value | Line::BulkHeader(-1) | Line::ArrayHeader(-1 | 0) => Ok(true),
            Line::BulkHeader(len) => {
                let len = usize::try_from(len).map_err(|_| Error::BadFrame("RESP: negative length"))?;
                self.within_limit(here.saturating_add(len).saturating_add(2))?;
                self.state = State::Bulk(len);
                if len == 0 {
                    self.state = State::BulkReturn;
                }
                Ok(false)
            }
            Line::ArrayHeader(count) => {
                let count = usize::try_from(count).map_err(|_| Error::BadFrame("RESP: negative count"))?;
                let at_least = here.saturating_add(count.saturating_mul(SHORTEST));
                self.within_limit(at_least)?;
                let count = u32::try_from(count);
                let count = count.map_err(|_| Error::TooLarge { len: at_least, limit: self.limit })?;
                self.open.try_push(count).map_err(|_| Error::BadFrame("RESP: arrays nested too deep"))?;
                Ok(false)
            }
        }
    }

    /// A value ends: whether that was the last one missing of every open array.
    fn closes_message(&mut self) -> bool {
        while let Some(missing) = self.open.last_mut() {
            *missing -= 1;
            if *missing > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }

    fn within_limit(&self, len: usize) -> Result<(), Error> {
        if len > self.limit { Err(Error::TooLarge { len, limit: self.limit }) } else { Ok(()) }
    }
}

impl Number {
    fn new(sign: u8) -> Number {
        Number { sign, negative: false, begun: false, digits: false, value: 0 }
    }

    #[inline]
    fn add(&mut self, byte: u8) -> Result<(), Error> {
        match byte {
            b'-' if !self.begun => self.negative = true,
            b'+' if !self.begun && self.sign == b':' => {}
            b'0'..=b'9' => {
                let digit = i64::from(byte - b'0');
                let digit = if self.negative { -digit } else { digit };
                let wider = self.value.checked_mul(10).and_then(|value| value.checked_add(digit));
                let Some(wider) = wider else { return Err(Error::BadFrame("RESP: number too large")) };
                self.value = wider;
                self.digits = true;
            }
            _ => return Err(Error::BadFrame("RESP: not a number")),
        }
        self.begun = true;
        Ok(())
    }

    fn finish(&self) -> Result<Line, Error> {
        if !self.digits {
            return Err(Error::BadFrame("RESP: not a number"));
        }
        Ok(match self.sign {
            b'$' => Line::BulkHeader(self.value),
            b'*' => Line::ArrayHeader(self.value),
            _ => Line::Value,
        })
    }
}

/// The value of a number's digits, as [`Number::add`] accepts them.
pub(super) fn integer(sign: u8, digits: impl Iterator<Item = u8>) -> Result<i64, Error> {
    let mut number = Number::new(sign);
    for byte in digits {
        number.add(byte)?;
    }
    number.finish()?;
    Ok(number.value)
}
