//! Messages in streams: the codecs, and RESP by itself.

use std::mem::discriminant;

use demi_api::graph::frame::resp::{Parser, Reader, Request};
use demi_api::graph::frame::{Codec, Endian, Fed};
use demi_api::{Addr, Config, Demikernel, Domain, Error, Heap, QDesc, SgArray, Shutdown, SocketKind};

use crate::Loopback;

/// Largest message in here: small, so that short inputs exceed it.
const LIMIT: usize = 4096;

thread_local! {
    static DEMI: Demikernel<Loopback<0>> = {
        let text = format!("[heap]\nsize_mib = 8\nlock = false\n[queues]\nframe_max_bytes = {LIMIT}\n");
        Demikernel::new(&Config::parse(&text, "fuzz").expect("the text is valid")).expect("8 MiB can be had")
    };
}

/// A stream of any bytes gives the same messages, and the same end, however it is cut; what came out can go in again.
/// The first byte chooses the codec, the second how to cut.
pub fn frames(data: &[u8]) {
    let [choice, cut, stream @ ..] = data else { return };
    let codec = match choice % 8 {
        0 => Codec::LengthPrefix { bytes: 1, endian: Endian::Big },
        1 => Codec::LengthPrefix { bytes: 2, endian: Endian::Little },
        2 => Codec::LengthPrefix { bytes: 4, endian: Endian::Big },
        3 => Codec::LengthPrefix { bytes: 8, endian: Endian::Little },
        4 => Codec::Delimiter(b"\n".to_vec()),
        5 => Codec::Delimiter(b"\r\n".to_vec()),
        6 => Codec::Delimiter(b"abab".to_vec()),
        _ => Codec::Resp,
    };
    DEMI.with(|demi| {
        let before = demi.heap().stats().objects_live;
        let (whole, end) = unframe(demi, &codec, stream, stream.len().max(1));
        let (pieces, other_end) = unframe(demi, &codec, stream, 1 + usize::from(*cut));
        assert_eq!(whole, pieces);
        assert_eq!(discriminant(&end), discriminant(&other_end), "{end} or {other_end}");
        let allowed = matches!(
            end,
            Error::EndOfStream | Error::Truncated | Error::BadFrame(_) | Error::TooLarge { .. }
        );
        assert!(allowed, "{end}");
        reframe(demi, &codec, &whole);
        assert_eq!(demi.heap().stats().objects_live, before);
    });
}

/// The RESP parser finds the same ends however its input is cut, and what it finds can be read.
pub fn resp(data: &[u8]) {
    let (messages, failed) = parse(data, data.len().max(1));
    assert_eq!((messages.clone(), failed), parse(data, 1));
    DEMI.with(|demi| {
        let mut rest = data;
        for len in messages {
            let (message, behind) = rest.split_at(len);
            read(demi.heap(), message);
            rest = behind;
        }
        // What the parser has not approved is no reason to panic either.
        read(demi.heap(), rest);
    });
}

/// The messages that a stream is cut into, and what follows the last one.
fn unframe(
    demi: &Demikernel<Loopback<0>>,
    codec: &Codec,
    stream: &[u8],
    cut: usize,
) -> (Vec<Vec<u8>>, Error) {
    let (near, far) = connection(demi);
    let framed = demi.frame(far, codec.clone()).expect("the codec is sound");
    let mut messages = Vec::new();
    let mut chunks = stream.chunks(cut);
    loop {
        let pop = demi.pop(framed).expect("the queue is open");
        let end = loop {
            match demi.wait(pop, Some(std::time::Duration::ZERO)) {
                Ok(done) => break done.popped(),
                Err(Error::TimedOut) => {}
                Err(other) => panic!("{other}"),
            }
            match chunks.next() {
                Some(chunk) => push(demi, near, chunk),
                None => demi.shutdown(near, Shutdown::Write).expect("the connection is open"),
            }
        };
        match end {
            Ok(message) => messages.push(message.to_vec()),
            Err(error) => {
                let pop = demi.pop(framed).expect("the queue is open");
                let again = demi.wait(pop, None).expect("a queue that has ended answers").popped();
                assert_eq!(again.expect_err("it has ended"), error);
                demi.close(framed).expect("it is open");
                demi.close(near).expect("it is open");
                return (messages, error);
            }
        }
    }
}

/// What was taken apart can be put together and taken apart again.
fn reframe(demi: &Demikernel<Loopback<0>>, codec: &Codec, messages: &[Vec<u8>]) {
    let (near, far) = connection(demi);
    let [near, far] = [near, far].map(|qd| demi.frame(qd, codec.clone()).expect("the codec is sound"));
    for message in messages {
        push(demi, near, message);
        let pop = demi.pop(far).expect("the queue is open");
        let popped = demi.wait(pop, None).expect("a message was pushed").popped().expect("it is sound");
        assert!(popped == message[..]);
    }
    demi.close(near).expect("it is open");
    demi.close(far).expect("it is open");
}

fn connection(demi: &Demikernel<Loopback<0>>) -> (QDesc, QDesc) {
    let socket = || demi.socket(Domain::Inet, SocketKind::Stream).expect("there is room");
    let (listener, near) = (socket(), socket());
    let any: Addr = "127.0.0.1:0".parse().expect("it is an address");
    demi.bind(listener, any).expect("there is a free port");
    demi.listen(listener, 1).expect("it is bound");
    let connect = demi.connect(near, demi.local_addr(listener).expect("it is bound")).expect("it is fresh");
    demi.wait(connect, None).and_then(|done| done.result).expect("somebody listens");
    let accept = demi.accept(listener).expect("it listens");
    let (far, _) = demi.wait(accept, None).and_then(|done| done.accepted()).expect("somebody connected");
    demi.close(listener).expect("it is open");
    (near, far)
}

fn push(demi: &Demikernel<Loopback<0>>, qd: QDesc, bytes: &[u8]) {
    let push = demi.push(qd, demi.copy_from(bytes).expect("there is memory")).expect("it can be framed");
    demi.wait(push, None).and_then(|done| done.pushed()).expect("there is room");
}

/// The lengths of the messages, and whether an error ends them.
fn parse(data: &[u8], cut: usize) -> (Vec<usize>, bool) {
    let mut parser = Parser::new(LIMIT);
    let (mut ends, mut begun) = (Vec::new(), 0);
    for chunk in data.chunks(cut) {
        let mut rest = chunk;
        while !rest.is_empty() {
            match parser.feed(rest) {
                Ok(Fed::More) => {
                    begun += rest.len();
                    break;
                }
                Ok(Fed::Message { consumed, head: 0, tail: 0 }) => {
                    assert!((1..=rest.len()).contains(&consumed));
                    ends.push(begun + consumed);
                    begun = 0;
                    rest = &rest[consumed..];
                }
                Ok(other) => panic!("{other:?}"),
                Err(_) => return (ends, true),
            }
        }
    }
    (ends, false)
}

/// Reads a message as a value and as a request, in one piece and across segments.
fn read(heap: &Heap, message: &[u8]) {
    let copy = |bytes: &[u8]| heap.copy_from(bytes).expect("there is memory");
    let (front, back) = message.split_at(message.len() / 2);
    for array in [SgArray::from(copy(message)), [copy(front), copy(back)].into_iter().collect()] {
        let events = Reader::new(&array).count();
        assert!(events <= message.len());
        if let Ok(request) = Request::new(&array) {
            for argument in request.flatten() {
                assert!(argument.len() <= message.len());
                assert!(argument.to_buf(heap).is_ok_and(|buf| argument == buf[..]));
            }
        }
    }
}
