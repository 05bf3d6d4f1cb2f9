use super::script::Host;
use crate::error::Error;
use crate::graph::frame::{Codec, Endian};
use crate::op::Done;

const PREFIX: Codec = Codec::LengthPrefix { bytes: 2, endian: Endian::Big };

#[test]
fn messages_come_whole_and_without_a_copy() {
    let host = Host::new();
    let base = host.stream();
    let f = host.demi.frame(base, PREFIX).unwrap();
    host.feed(base, b"\0\x05hello\0\0\0\x04wo");
    assert_eq!(host.pop(f).unwrap(), b"hello");
    assert_eq!(host.pop(f).unwrap(), b"");
    let pop = host.demi.pop(f).unwrap();
    assert!(host.is_pending(pop));
    host.feed(base, b"rd");
    assert_eq!(host.popped(pop).unwrap(), b"word");

    let big = vec![7; 40_000];
    host.feed(base, &40_000_u16.to_be_bytes());
    for piece in big.chunks(10_000) {
        host.feed(base, piece);
    }
    let copies = host.demi.heap().stats().foreign_copies;
    let pop = host.demi.pop(f).unwrap();
    let Some(Ok(Done::Popped(sga))) = host.result(pop) else { panic!("it is all here") };
    assert!(sga == *big);
    assert_eq!(sga.segments().len(), 4);
    drop(sga);
    for piece in big.chunks(1_000) {
        host.feed(base, if piece.as_ptr() == big.as_ptr() { &[0x9c, 0x40] } else { piece });
    }
    host.feed(base, &big[..1_000]);
    let pop = host.demi.pop(f).unwrap();
    let Some(Ok(Done::Popped(sga))) = host.result(pop) else { panic!("it is all here") };
    assert!(sga == *big);
    assert_eq!(sga.segments().len(), 1, "of very many pieces, one copy is made");
    assert!(host.demi.heap().stats().foreign_copies > copies, "only the test's own");
    drop(sga);
    host.demi.close(f).unwrap();
    host.assert_clean();
}

#[test]
fn an_idle_connection_keeps_little() {
    let host = Host::new();
    let mut queues = Vec::new();
    for _ in 0..500 {
        let base = host.stream();
        let f = host.demi.frame(base, PREFIX).unwrap();
        let mut buffer = host.demi.alloc(16 << 10).unwrap();
        buffer[..7].copy_from_slice(b"\0\x02ok\0\x09p");
        buffer.truncate(7);
        host.feed_array(base, buffer.into());
        assert_eq!(host.pop(f).unwrap(), b"ok");
        queues.push((f, host.demi.pop(f).unwrap()));
    }
    host.demi.poll().unwrap();
    let live = host.demi.heap().stats().bytes_live;
    assert!(live <= 500 * 128, "{live} bytes are kept");
    for (f, pop) in queues {
        host.demi.close(f).unwrap();
        assert_eq!(host.popped(pop), Err(Error::Cancelled));
    }
    host.assert_clean();
}

#[test]
fn a_byte_at_a_time_costs_little() {
    let host = Host::new();
    let base = host.stream();
    let f = host.demi.frame(base, PREFIX).unwrap();
    let pop = host.demi.pop(f).unwrap();
    for byte in [0xff, 0xff].into_iter().chain((0..65_534).map(|n| n as u8)) {
        host.feed(base, &[byte]);
        host.demi.poll().unwrap();
        host.demi.poll().unwrap();
    }
    let live = host.demi.heap().stats().bytes_live;
    assert!(live < 4 * 65_536, "{live} bytes for 65536");
    assert!(host.is_pending(pop));
    host.feed(base, b"!");
    assert_eq!(host.popped(pop).unwrap().len(), 65_535);
    host.demi.close(f).unwrap();
    host.assert_clean();
}

#[test]
fn ends_and_failures_stay() {
    let host = Host::with(|config| config.queues.frame_max_bytes = 100);
    for (codec, bytes, wanted) in [
        (PREFIX, &b"\0\x01a"[..], Error::EndOfStream),
        (PREFIX, b"\0\x01a\0", Error::Truncated),
        (PREFIX, b"\0\x01a\0\x65", Error::TooLarge { len: 101, limit: 100 }),
        (Codec::Resp, b"+a\r\n*1\r\n?", Error::BadFrame("RESP: unknown type")),
        (Codec::Resp, b"+a\r\n$101\r\n", Error::TooLarge { len: 109, limit: 100 }),
    ] {
        let base = host.stream();
        let f = host.demi.frame(base, codec).unwrap();
        host.feed(base, bytes);
        host.feed(base, b"");
        assert!(host.pop(f).is_ok());
        for _ in 0..3 {
            assert_eq!(host.pop(f).unwrap_err(), wanted);
        }
        let goodbye = host.push(f, b"bye");
        host.result(goodbye).unwrap().unwrap();
        assert!(host.sent(base)[0].ends_with(b"bye"));
        host.demi.close(f).unwrap();
    }
    let base = host.stream();
    let f = host.demi.frame(base, PREFIX).unwrap();
    host.fail(base, Error::NoBuffers);
    host.feed(base, b"\0\x01a");
    assert_eq!(host.pop(f), Err(Error::NoBuffers));
    assert_eq!(host.pop(f).unwrap(), b"a", "the stream went on");
    host.demi.close(f).unwrap();
    host.assert_clean();
}

#[test]
fn framing_is_put_on() {
    let host = Host::with(|config| config.queues.frame_max_bytes = 300);
    let base = host.stream();
    let f = host.demi.frame(base, PREFIX).unwrap();
    host.push(f, b"hello");
    let mut full: crate::SgArray = host.array(b"0").into_segments().into_iter().collect();
    for n in 1..8 {
        full.push(host.array(&[b'0' + n]).into_segments().remove(0)).unwrap();
    }
    host.demi.push(f, full.clone()).unwrap();
    let refused = host.demi.push(f, host.array(&[1; 301])).unwrap_err();
    assert_eq!(refused.error, Error::TooLarge { len: 301, limit: 300 });
    assert_eq!(refused.sga.len(), 301);
    assert_eq!(host.sent(base), [&b"\0\x05hello"[..], b"\0\x0801234567"]);
    host.base(base, |queue| queue.refuses = Some(Error::Closed));
    let refused = host.demi.push(f, host.array(b"back")).unwrap_err();
    assert!(refused.sga == b"back"[..]);
    let tiny =
        host.demi.frame(host.stream(), Codec::LengthPrefix { bytes: 1, endian: Endian::Little }).unwrap();
    assert!(
        matches!(host.demi.push(tiny, host.array(&[1; 256])), Err(r) if r.error == Error::TooLarge { len: 256, limit: 255 })
    );

    let base = host.stream();
    let f = host.demi.frame(base, Codec::Delimiter(b"\r\n".to_vec())).unwrap();
    host.push(f, b"line");
    host.push(f, b"bare\n\r");
    host.demi.push(f, full).unwrap();
    assert_eq!(host.sent(base), [&b"line\r\n"[..], b"bare\n\r\r\n", b"01234567\r\n"]);
    let refused = host.demi.push(f, host.array(b"two\r\nlines")).unwrap_err();
    assert!(matches!(refused.error, Error::BadFrame(_)) && refused.sga == b"two\r\nlines"[..]);
    let f = host.demi.frame(host.stream(), Codec::Delimiter(b"aab".to_vec())).unwrap();
    assert!(host.demi.push(f, host.array(b"xaa")).is_ok());
    let f = host.demi.frame(host.stream(), Codec::Delimiter(b"aa".to_vec())).unwrap();
    assert!(host.demi.push(f, host.array(b"xa")).is_err(), "it would be cut after the first two");
    for codec in [Codec::Delimiter(vec![]), Codec::LengthPrefix { bytes: 3, endian: Endian::Big }] {
        let base = host.stream();
        assert!(matches!(host.demi.frame(base, codec), Err(Error::Invalid(_))));
        assert!(host.demi.pop(base).is_ok(), "nothing was claimed");
    }
}

#[test]
fn no_memory_fails_a_pop_and_loses_nothing() {
    let host = Host::with(|config| config.heap.size_mib = 2);
    let base = host.stream();
    let f = host.demi.frame(base, Codec::LengthPrefix { bytes: 4, endian: Endian::Little }).unwrap();
    host.feed(base, &600_000_u32.to_le_bytes());
    let pop = host.demi.pop(f).unwrap();
    for _ in 0..59 {
        host.feed(base, &[9; 10_000]);
        host.demi.poll().unwrap();
        host.demi.poll().unwrap();
    }
    assert!(host.is_pending(pop));
    host.feed(base, &[9; 10_000]);
    let mut filler = Vec::new();
    while let Ok(buffer) = host.demi.alloc(100_000) {
        filler.push(buffer);
    }
    assert!(matches!(host.popped(pop), Err(Error::OutOfMemory(_))));
    assert!(matches!(host.pop(f), Err(Error::OutOfMemory(_))));
    drop(filler);
    assert_eq!(host.pop(f).unwrap().len(), 600_000);
}

#[test]
fn messages_do_not_depend_on_how_they_arrive() {
    let config = proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() };
    let messages = proptest::collection::vec(0_usize..6_000, 1..6);
    let cuts = proptest::collection::vec(1_usize..700, 1..12);
    proptest::proptest!(config, |(messages in messages, cuts in cuts)| {
        let host = Host::new();
        let base = host.stream();
        let f = host.demi.frame(base, PREFIX).unwrap();
        let messages: Vec<Vec<u8>> = messages.iter().map(|len| (0..*len).map(|n| (n * 7) as u8).collect()).collect();
        let stream: Vec<u8> =
            messages.iter().flat_map(|message| [&(message.len() as u16).to_be_bytes()[..], message].concat()).collect();
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at((*cut).min(rest.len()));
            host.feed(base, piece);
            rest = behind;
        }
        host.feed(base, b"");
        for message in &messages {
            proptest::prop_assert!(host.pop(f).as_ref() == Ok(message));
        }
        proptest::prop_assert_eq!(host.pop(f), Err(Error::EndOfStream));
        host.demi.close(f).unwrap();
        host.assert_clean();
    });
}
