//! `frame(q, codec)`: whole messages out of a byte stream, and framing onto what is pushed.
//!
//! Invariants: each received byte is looked at once by the codec's parser, whose state survives between pops, and
//! copied at most twice. What is kept of an unfinished message is at most the message's limit, and in memory at
//! most about four times that, however small the pieces in which it came. A queue that has ended or failed says
//! the same to every further pop.
//!
//! | file | what it holds |
//! |---|---|
//! | `length`, `delimiter`, `resp` | a parser each: a plain state machine over bytes, with no memory of them |
//! | `reader` | a whole RESP value taken apart without a copy |
//! | `received` | the bytes of the unfinished message |

mod delimiter;
mod length;
mod reader;
mod received;
pub mod resp;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use demi_memalloc::{Buf, Heap};

use self::received::Received;
use super::node::{Element, Next, Output, Source};
use crate::error::Error;
use crate::sga::SgArray;

/// How messages lie in a byte stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codec {
    /// Each message behind its length, which does not count itself.
    LengthPrefix {
        /// Bytes of the length: 1, 2, 4 or 8.
        bytes: u8,
        /// Their order.
        endian: Endian,
    },
    /// Each message before these bytes, of which there are 1 to 255, and which are in no message.
    Delimiter(Vec<u8>),
    /// The Redis serialization protocol, version 2: a message is the bytes of one whole value, a reply or a
    /// request; also an inline command, one line. [`resp::Reader`] takes it apart. Pushed arrays pass as they are.
    Resp,
}

/// An order of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endian {
    /// The most significant first, as in network protocols.
    Big,
    /// The least significant first.
    Little,
}

/// What a parser made of the bytes that it was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// All of them belong to a message that goes on.
    More,
    /// A message ends here; the parser is ready for the next one.
    Message {
        /// Of the bytes that were fed, how many belong to it.
        consumed: usize,
        /// Bytes of framing before the payload, from where the message began.
        head: usize,
        /// Bytes of framing behind the payload.
        tail: usize,
    },
}

enum Parser {
    Length(length::Parser),
    Delimiter(delimiter::Parser),
    Resp(resp::Parser),
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) -> Result<Fed, Error> {
        match self {
            Parser::Length(parser) => parser.feed(bytes),
            Parser::Delimiter(parser) => parser.feed(bytes),
            Parser::Resp(parser) => parser.feed(bytes),
        }
    }
}

pub(super) struct Frame {
    parser: Parser,
    /// Not yet fed to the parser.
    fresh: VecDeque<Buf>,
    /// Fed, and part of a message that goes on.
    received: Received,
    /// `received` is a whole message with so much framing before and behind it: there was no memory to cut it out.
    whole: Option<(usize, usize)>,
    /// What every further pop gets.
    end: Option<Error>,
    limit: usize,
}

impl Frame {
    pub(super) fn new(codec: &Codec, heap: &Heap, limit: usize) -> Result<Frame, Error> {
        let parser = match codec {
            Codec::LengthPrefix { bytes, endian } => {
                Parser::Length(length::Parser::new(*bytes, *endian, limit)?)
            }
            Codec::Delimiter(bytes) => Parser::Delimiter(delimiter::Parser::new(heap, bytes, limit)?),
            Codec::Resp => Parser::Resp(resp::Parser::new(limit)),
        };
        Ok(Frame {
            parser,
            fresh: VecDeque::new(),
            received: Received::default(),
            whole: None,
            end: None,
            limit,
        })
    }

    pub(super) fn next(&mut self, heap: &Heap, source: &Source, output: &mut Output) -> Next {
        if output.waiting.is_empty() {
            return Next::Idle;
        }
        let element = match self.message(heap) {
            Ok(Some(sga)) => Ok(sga),
            Ok(None) if output.ready.is_empty() => {
                return if source.pop.is_some() { Next::Idle } else { Next::Ask(0) };
            }
            Ok(None) => output.ready.pop_front().expect("looked at above"),
            Err(error) => Err(error),
        };
        output.answer(element).unwrap_or(Next::Idle)
    }

    /// Takes in a piece of the stream. An error of the stream is one pop's, and changes nothing.
    pub(super) fn accept(&mut self, element: Element, output: &mut Output) {
        match element {
            Ok(sga) if sga.is_empty() => {
                let between = self.received.is_empty() && self.whole.is_none() && self.fresh.is_empty();
                let end = if between { Error::EndOfStream } else { Error::Truncated };
                self.end.get_or_insert(end);
            }
            Ok(sga) => {
                self.fresh.extend(sga.into_segments().into_iter().filter(|segment| !segment.is_empty()))
            }
            Err(error) => output.ready.push_back(Err(error)),
        }
    }

    /// The next message, if it is here.
    fn message(&mut self, heap: &Heap) -> Result<Option<SgArray>, Error> {
        if let Some((head, tail)) = self.whole {
            let message = self.received.take(heap, head, tail)?;
            self.whole = None;
            return Ok(Some(message));
        }
        while let Some(piece) = self.fresh.front_mut() {
            match self.parser.feed(piece) {
                Ok(Fed::More) => {
                    if let Some(piece) = self.fresh.pop_front() {
                        self.received.add(heap, piece);
                    }
                }
                Ok(Fed::Message { consumed, head, tail }) => {
                    let part = if consumed == piece.len() {
                        self.fresh.pop_front().expect("it is the piece just fed")
                    } else {
                        piece.split_to(consumed)
                    };
                    if self.received.is_empty() {
                        return Ok(Some(payload(part, head, tail)));
                    }
                    self.received.finish(part);
                    self.whole = Some((head, tail));
                    let message = self.received.take(heap, head, tail)?;
                    self.whole = None;
                    return Ok(Some(message));
                }
                Err(error) => {
                    self.end = Some(error.clone());
                    self.fresh.clear();
                    self.received = Received::default();
                    return Err(error);
                }
            }
        }
        self.end.clone().map_or(Ok(None), Err)
    }

    /// Whether pushed arrays need anything done to them.
    pub(super) fn encodes(&self) -> bool {
        !matches!(self.parser, Parser::Resp(_))
    }

    /// Puts framing onto an array. On `Err` the array is as it was.
    pub(super) fn encode(&self, heap: &Heap, sga: &mut SgArray) -> Result<(), Error> {
        match &self.parser {
            Parser::Length(parser) => parser.encode(heap, sga, self.limit),
            Parser::Delimiter(parser) => parser.encode(heap, sga, self.limit),
            Parser::Resp(_) => Ok(()),
        }
    }
}

/// A message within one buffer, without its framing.
fn payload(mut part: Buf, head: usize, tail: usize) -> SgArray {
    part.truncate(part.len() - tail);
    part.advance(head);
    if part.is_empty() { SgArray::new() } else { part.into() }
}
