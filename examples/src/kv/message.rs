//! Whole values of the protocol out of one message.
//!
//! Where a connection carries messages and not bytes, a message holds one or more whole requests, or whole replies. They
//! are taken out one by one, where they lie: how many there are is for the sender to say, and takes no memory here.

use demi_api::graph::frame::Fed;
use demi_api::graph::frame::resp::Parser;
use demi_api::{Error, SgArray};

/// What is left of a message.
#[derive(Debug)]
pub(super) struct Message {
    array: SgArray,
    segment: usize,
    /// In that segment.
    at: usize,
    parser: Parser,
    /// Why there is nothing more to be had.
    broken: Option<Error>,
}

impl Message {
    pub(super) fn new(array: SgArray) -> Message {
        // No value is longer than what it lies in.
        let parser = Parser::new(array.len());
        Message { array, segment: 0, at: 0, parser, broken: None }
    }

    /// The next value; `None` behind the last one. An error is the same from then on.
    pub(super) fn next(&mut self) -> Result<Option<SgArray>, Error> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.cut().inspect_err(|error| self.broken = Some(error.clone()))
    }

    fn cut(&mut self) -> Result<Option<SgArray>, Error> {
        let mut value = SgArray::new();
        while let Some(segment) = self.array.segments().get(self.segment) {
            let rest = segment.slice(self.at..segment.len());
            match self.parser.feed(&rest)? {
                Fed::Message { consumed, .. } => {
                    value.push(rest.slice(0..consumed))?;
                    self.at += consumed;
                    return Ok(Some(value));
                }
                Fed::More => {
                    // An array has as many segments as any part of it could want.
                    if !rest.is_empty() {
                        value.push(rest)?;
                    }
                    (self.segment, self.at) = (self.segment + 1, 0);
                }
            }
        }
        match value.is_empty() {
            true => Ok(None),
            false => Err(Error::BadFrame("RESP: the message ends inside a value")),
        }
    }
}

#[cfg(test)]
mod tests {
    use demi_api::Heap;
    use demi_api::memalloc::HeapConfig;

    use super::*;

    /// The values of a message in these segments, and whether it ends well.
    fn values(segments: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
        let heap = Heap::new(&HeapConfig { size: 4 << 20, ..HeapConfig::default() }).unwrap();
        let array = segments.iter().map(|bytes| heap.copy_from(bytes).unwrap()).collect();
        let mut message = Message::new(array);
        let mut values = Vec::new();
        loop {
            match message.next() {
                Ok(Some(value)) => values.push(value.to_vec()),
                Ok(None) => return (values, true),
                Err(error) => {
                    assert_eq!(message.next().unwrap_err(), error);
                    return (values, false);
                }
            }
        }
    }

    #[test]
    fn values_come_out_whole_wherever_segments_end() {
        let bytes = b"*1\r\n$4\r\nPING\r\nGET a\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n";
        let expected = [&bytes[..14], &bytes[14..21], &bytes[21..]];
        for first in 1..bytes.len() - 1 {
            for second in first + 1..bytes.len() {
                let (values, well) = values(&[&bytes[..first], &bytes[first..second], &bytes[second..]]);
                assert!(well && values == expected, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn what_is_not_whole_is_refused_behind_what_is() {
        for bad in [&b"*1\r\n$4\r\nPIN"[..], b"GET a", b"*1\r\n$4000000000\r\n", b"*x\r\n", b"*100000000\r\n"]
        {
            assert_eq!(values(&[bad]), (vec![], false));
            assert_eq!(values(&[b"PING\r\n", bad]), (vec![b"PING\r\n".to_vec()], false));
        }
        assert_eq!(values(&[]), (vec![], true));
    }
}
