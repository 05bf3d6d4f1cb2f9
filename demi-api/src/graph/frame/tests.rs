use demi_memalloc::{Heap, HeapConfig};
use proptest::prelude::*;

use super::resp::{Event, MAX_DEPTH, Reader, Request};
use super::{Codec, Endian, Fed, Parser, delimiter, length, resp};
use crate::error::Error;
use crate::sga::SgArray;

fn heap() -> Heap {
    Heap::new(&HeapConfig { size: 4 << 20, lock: false, ..HeapConfig::default() }).unwrap()
}

/// Feeds `bytes` in pieces of the given sizes, over and over; the messages with their framing, and the error.
fn feed(parser: &mut Parser, mut bytes: &[u8], cuts: &[usize]) -> (Vec<Vec<u8>>, Option<Error>) {
    let mut messages = Vec::new();
    let mut message = Vec::new();
    let mut cuts = cuts.iter().copied().cycle();
    while !bytes.is_empty() {
        let (mut piece, rest) = bytes.split_at(cuts.next().unwrap_or(usize::MAX).min(bytes.len()));
        bytes = rest;
        while !piece.is_empty() {
            match parser.feed(piece) {
                Ok(Fed::More) => {
                    message.extend_from_slice(piece);
                    break;
                }
                Ok(Fed::Message { consumed, head, tail }) => {
                    message.extend_from_slice(&piece[..consumed]);
                    assert!(head + tail <= message.len());
                    messages.push(std::mem::take(&mut message));
                    piece = &piece[consumed..];
                }
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), prop::collection::vec(1_usize..40, 1..20)]
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null(bool),
    Array(Vec<Value>),
}

impl Value {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Simple(line) => out.extend_from_slice(format!("+{line}\r\n").as_bytes()),
            Value::Error(line) => out.extend_from_slice(format!("-{line}\r\n").as_bytes()),
            Value::Integer(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Value::Null(true) => out.extend_from_slice(b"$-1\r\n"),
            Value::Null(false) => out.extend_from_slice(b"*-1\r\n"),
            Value::Bulk(bytes) => {
                out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Value::Array(values) => {
                out.extend_from_slice(format!("*{}\r\n", values.len()).as_bytes());
                values.iter().for_each(|value| value.encode(out));
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes
    }

    fn read(reader: &mut Reader<'_>) -> Value {
        match reader.next().unwrap().unwrap() {
            Event::Simple(text) => Value::Simple(String::from_utf8(text.to_vec()).unwrap()),
            Event::Error(text) => Value::Error(String::from_utf8(text.to_vec()).unwrap()),
            Event::Integer(number) => Value::Integer(number),
            Event::Bulk(text) => Value::Bulk(text.to_vec()),
            Event::Null => Value::Null(true),
            Event::Array(count) => Value::Array((0..count).map(|_| Value::read(reader)).collect()),
            Event::Inline(_) => panic!("no inline command was written"),
        }
    }

    fn with_one_null(self) -> Value {
        match self {
            Value::Null(_) => Value::Null(true),
            Value::Array(values) => Value::Array(values.into_iter().map(Value::with_one_null).collect()),
            other => other,
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        "[ -~]{0,20}".prop_map(Value::Simple),
        "[ -~]{0,20}".prop_map(Value::Error),
        any::<i64>().prop_map(Value::Integer),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(Value::Bulk),
        any::<bool>().prop_map(Value::Null),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| prop::collection::vec(inner, 0..6).prop_map(Value::Array))
}

/// An array cut at the given sizes, as many as fit into one.
fn cut(heap: &Heap, mut bytes: &[u8], cuts: &[usize]) -> SgArray {
    let mut sga = SgArray::new();
    for cut in cuts.iter().take(7) {
        let (piece, rest) = bytes.split_at((*cut).min(bytes.len()));
        sga.push(heap.copy_from(piece).unwrap()).unwrap();
        bytes = rest;
    }
    sga.push(heap.copy_from(bytes).unwrap()).unwrap();
    sga
}

#[test]
fn resp_values_end_where_they_end_however_they_are_cut() {
    proptest!(|(values in prop::collection::vec(value(), 1..5), cuts in cuts())| {
        let messages: Vec<_> = values.iter().map(Value::bytes).collect();
        let mut parser = Parser::Resp(resp::Parser::new(1 << 20));
        prop_assert_eq!(feed(&mut parser, &messages.concat(), &cuts), (messages, None));
    });
}

#[test]
fn resp_values_are_read_back_however_they_are_cut() {
    let heap = heap();
    proptest!(|(value in value(), cuts in cuts())| {
        let sga = cut(&heap, &value.bytes(), &cuts);
        let mut reader = Reader::new(&sga);
        prop_assert_eq!(Value::read(&mut reader), value.with_one_null());
        prop_assert!(reader.next().is_none());
    });
}

#[test]
fn requests_are_taken_apart() {
    let heap = heap();
    proptest!(|(words in prop::collection::vec("[a-z0-9]{1,12}", 0..6), cuts in cuts(), inline: bool)| {
        let bytes = if inline {
            format!(" {}\r\n", words.join("  ")).into_bytes()
        } else {
            Value::Array(words.iter().map(|word| Value::Bulk(word.clone().into_bytes())).collect()).bytes()
        };
        let sga = cut(&heap, &bytes, &cuts);
        let request = Request::new(&sga).unwrap();
        prop_assert_eq!(request.len(), words.len());
        for (argument, word) in request.map(Result::unwrap).zip(&words) {
            prop_assert!(argument == *word.as_bytes());
            prop_assert!(argument.eq_ignore_ascii_case(word.to_uppercase().as_bytes()));
            prop_assert_eq!(&argument.to_buf(&heap).unwrap()[..], word.as_bytes());
            prop_assert!(argument.to_array() == *word.as_bytes());
            prop_assert!(argument.as_slice().is_none_or(|slice| slice == word.as_bytes()));
            prop_assert_eq!(argument.to_integer().ok(), word.parse().ok());
        }
    });
}

#[test]
fn arguments_in_one_buffer_are_not_copied() {
    let heap = heap();
    let sga: SgArray = heap.copy_from(b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n").unwrap().into();
    let copies = heap.stats().foreign_copies;
    for argument in Request::new(&sga).unwrap() {
        assert!(argument.unwrap().to_buf(&heap).unwrap().shares_object_with(&sga.segments()[0]));
    }
    assert_eq!(heap.stats().foreign_copies, copies);
}

#[test]
fn garbage_is_an_error_or_waits_and_never_more() {
    let heap = heap();
    let likely =
        || prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'*'), Just(b'$'), Just(b'1'), Just(b'-'), any::<u8>()];
    let make = |which: usize| match which {
        0 => Parser::Length(length::Parser::new(2, Endian::Little, 64).unwrap()),
        1 => Parser::Delimiter(delimiter::Parser::new(&heap, b"\r\n\r", 64).unwrap()),
        _ => Parser::Resp(resp::Parser::new(64)),
    };
    proptest!(|(bytes in prop::collection::vec(likely(), 0..300), cuts in cuts(), which in 0_usize..3)| {
        let (whole, error) = feed(&mut make(which), &bytes, &[]);
        let (pieces, other) = feed(&mut make(which), &bytes, &cuts);
        prop_assert_eq!(&whole, &pieces);
        prop_assert_eq!(error.is_some(), other.is_some());
        for message in whole {
            prop_assert!(message.len() <= 64 + 3);
            let sga = cut(&heap, &message, &cuts);
            prop_assert!(Reader::new(&sga).count() <= 64);
        }
        let sga = cut(&heap, &bytes, &cuts);
        prop_assert!(Reader::new(&sga).count() <= bytes.len());
        if let Ok(request) = Request::new(&sga) {
            prop_assert!(request.take_while(Result::is_ok).count() <= bytes.len());
        }
    });
}

#[test]
fn lengths_and_delimiters_agree_with_what_is_obvious() {
    let heap = heap();
    proptest!(|(messages in prop::collection::vec(prop::collection::vec(b'a'..b'd', 0..30), 0..8), cuts in cuts(),
                delimiter in prop::collection::vec(b'a'..b'd', 1..5), bytes in prop::sample::select(vec![1_u8, 2, 4, 8]),
                endian in prop::sample::select(vec![Endian::Big, Endian::Little]))| {
        let parser = length::Parser::new(bytes, endian, 100).unwrap();
        let mut framed = Vec::new();
        for message in &messages {
            let mut sga: SgArray = heap.copy_from(message).unwrap().into();
            parser.encode(&heap, &mut sga, 100).unwrap();
            let prefix = match endian {
                Endian::Big => (message.len() as u64).to_be_bytes()[8 - usize::from(bytes)..].to_vec(),
                Endian::Little => (message.len() as u64).to_le_bytes()[..usize::from(bytes)].to_vec(),
            };
            prop_assert!(sga == [&prefix[..], message].concat()[..]);
            framed.push(sga.to_vec());
        }
        let stream = framed.concat();
        prop_assert_eq!(feed(&mut Parser::Length(parser), &stream, &cuts), (framed, None));

        let stream = messages.concat();
        let mut rest = &stream[..];
        let mut wanted = Vec::new();
        while let Some(at) = rest.windows(delimiter.len()).position(|window| window == delimiter) {
            let (message, behind) = rest.split_at(at + delimiter.len());
            wanted.push(message.to_vec());
            rest = behind;
        }
        let parser = delimiter::Parser::new(&heap, &delimiter, 1000).unwrap();
        for message in &messages {
            let mut sga: SgArray = heap.copy_from(message).unwrap().into();
            let joined = [&message[..], &delimiter].concat();
            let first = joined.windows(delimiter.len()).position(|window| window == delimiter);
            prop_assert_eq!(parser.encode(&heap, &mut sga, 1000).is_ok(), first == Some(message.len()));
        }
        prop_assert_eq!(feed(&mut Parser::Delimiter(parser), &stream, &cuts), (wanted, None));
    });
}

#[test]
fn hostile_values_are_bounded() {
    let parse = |bytes: &[u8]| resp::Parser::new(1 << 20).feed(bytes);
    let nested = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
    assert!(matches!(parse(&nested(MAX_DEPTH)), Ok(Fed::Message { .. })));
    assert!(matches!(parse(&nested(MAX_DEPTH + 1)), Err(Error::BadFrame(_))));
    for too_large in
        [&b"*1000000\r\n"[..], b"$1048576\r\n", b"*9223372036854775807\r\n", b"$9223372036854775807\r\n"]
    {
        assert!(matches!(parse(too_large), Err(Error::TooLarge { .. })), "{}", too_large.escape_ascii());
    }
    for bad in [
        &b"*99999999999999999999\r\n"[..],
        b"$-2\r\n",
        b"*-2\r\n",
        b"$\r\n",
        b"*1\r\nGET\r\n",
        b"$1\r\nab\r\n",
        b"$1\r\na\rb",
        b"$+1\r\n",
        b":1-\r\n",
        b"+a\n",
        b"+a\rb",
        b":\r\n",
    ] {
        assert!(matches!(parse(bad), Err(Error::BadFrame(_))), "{}", bad.escape_ascii());
    }
    for good in
        [&b"*0\r\n"[..], b"*-1\r\n", b"$-1\r\n", b"$0\r\n\r\n", b":+1\r\n", b"\r\n", b"\n", b"GET key\n"]
    {
        assert_eq!(
            parse(good),
            Ok(Fed::Message { consumed: good.len(), head: 0, tail: 0 }),
            "{}",
            good.escape_ascii()
        );
    }
    let mut line = resp::Parser::new(100);
    assert_eq!(line.feed(&[b'x'; 100]), Ok(Fed::More));
    assert!(matches!(line.feed(b"x"), Err(Error::TooLarge { .. })), "an inline command has an end");
}

#[test]
fn a_million_elements_byte_by_byte_take_linear_time() {
    let mut bytes = b"*1000000\r\n".to_vec();
    bytes.extend_from_slice(&b":1\r\n".repeat(1_000_000));
    let mut parser = resp::Parser::new(16 << 20);
    for byte in &bytes[..bytes.len() - 1] {
        assert_eq!(parser.feed(std::slice::from_ref(byte)), Ok(Fed::More));
    }
    assert_eq!(parser.feed(b"\n"), Ok(Fed::Message { consumed: 1, head: 0, tail: 0 }));
    assert!(size_of::<resp::Parser>() < 256);
}

#[test]
fn codecs_can_be_named() {
    let codec = Codec::LengthPrefix { bytes: 4, endian: Endian::Big };
    assert_eq!(codec.clone(), codec);
}
