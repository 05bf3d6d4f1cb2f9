use super::script::Host;
use crate::error::Error;
use crate::op::Done;
use crate::token::QToken;

fn moved(host: &Host, token: QToken) -> Result<u64, Error> {
    match host.result(token).expect("it has ended")? {
        Done::Moved(count) => Ok(count),
        other => panic!("not a connection's end: {other:?}"),
    }
}

#[test]
fn it_moves_until_the_stream_ends() {
    let host = Host::new();
    let (from, to) = (host.stream(), host.stream());
    let token = host.demi.qconnect(from, to).unwrap();
    assert_eq!(host.demi.pop(from).unwrap_err(), Error::Claimed);
    for _ in 0..200 {
        host.feed(from, b"x");
    }
    assert!(host.is_pending(token));
    host.feed(from, b"");
    assert_eq!(moved(&host, token), Ok(200));
    assert_eq!(host.sent(to).len(), 200);
    assert!(host.base(to, |queue| queue.shut) && !host.base(from, |queue| queue.shut));
    assert!(host.demi.pop(from).is_ok(), "the claim is released");
    host.demi.close(from).unwrap();
    host.demi.close(to).unwrap();
}

#[test]
fn it_holds_back_with_its_sink() {
    let host = Host::new();
    let (from, to) = (host.messages(), host.messages());
    host.base(to, |queue| queue.holds = true);
    let token = host.demi.qconnect(from, to).unwrap();
    for n in 0..20 {
        host.feed(from, &[n]);
    }
    assert!(host.is_pending(token));
    assert_eq!(host.base(to, |queue| queue.held.len()), super::super::connect::WINDOW);
    host.fail(from, Error::EndOfStream);
    assert!(host.is_pending(token));
    host.base(to, |queue| queue.holds = false);
    assert_eq!(moved(&host, token), Ok(20));
    assert_eq!(host.sent(to).concat(), (0..20).collect::<Vec<u8>>());
    host.demi.close(from).unwrap();
    host.demi.close(to).unwrap();
    host.assert_clean();
}

#[test]
fn cancelling_it_loses_nothing() {
    let host = Host::new();
    let (from, to) = (host.messages(), host.demi.queue_with(1).unwrap());
    let token = host.demi.qconnect(from, to).unwrap();
    for n in 0..30 {
        host.feed(from, &[n]);
    }
    assert!(host.is_pending(token));
    host.demi.cancel(token).unwrap();
    assert!(host.is_pending(token), "pushes in flight are awaited");
    let mut popped: Vec<u8> = (0..9).map(|_| host.pop(to).unwrap()[0]).collect();
    assert_eq!(moved(&host, token), Err(Error::Cancelled));
    popped.extend((9..30).map(|_| host.pop(from).unwrap()[0]));
    assert_eq!(popped, (0..30).collect::<Vec<u8>>());
    let token = host.demi.qconnect(from, to).unwrap();
    host.base(from, |queue| queue.uncancellable = true);
    host.demi.cancel(token).unwrap();
    assert!(host.is_pending(token), "the outstanding pop is awaited");
    host.feed(from, b"last");
    assert_eq!(moved(&host, token), Err(Error::Cancelled));
    assert_eq!(host.pop(to).unwrap(), b"last");
    host.demi.close(from).unwrap();
    host.demi.close(to).unwrap();
    host.assert_clean();
}

#[test]
fn errors_and_closes_end_it() {
    let host = Host::new();
    let to = host.demi.queue().unwrap();
    let from = host.messages();
    let token = host.demi.qconnect(from, to).unwrap();
    host.feed(from, b"before");
    host.fail(from, Error::ConnectionReset);
    assert_eq!(moved(&host, token), Err(Error::ConnectionReset));
    assert_eq!(host.pop(to).unwrap(), b"before");
    assert_eq!(host.pop(to), Err(Error::EndOfStream), "its end is passed on");

    let to = host.messages();
    let token = host.demi.qconnect(from, to).unwrap();
    host.base(to, |queue| queue.refuses = Some(Error::Closed));
    host.feed(from, b"unwanted");
    assert_eq!(moved(&host, token), Err(Error::Closed));
    host.feed(from, b"mine");
    assert_eq!(host.pop(from).unwrap(), b"mine", "the source is the application's again");

    host.base(to, |queue| queue.refuses = None);
    let token = host.demi.qconnect(from, to).unwrap();
    host.demi.close(to).unwrap();
    let other = host.messages();
    host.feed(from, b"mine too");
    assert_eq!(moved(&host, token), Err(Error::Cancelled));
    assert_eq!(host.pop(from).unwrap(), b"mine too");

    let stream = host.stream();
    let token = host.demi.qconnect(from, stream).unwrap();
    host.demi.close(from).unwrap();
    assert_eq!(moved(&host, token), Err(Error::Cancelled));
    assert!(host.base(stream, |queue| queue.shut));
    assert!(host.sent(other).is_empty());
}

#[test]
fn two_make_a_proxy() {
    let host = Host::new();
    let (a, b) = (host.stream(), host.stream());
    let (there, back) = (host.demi.qconnect(a, b).unwrap(), host.demi.qconnect(b, a).unwrap());
    host.feed(a, b"request");
    host.feed(a, b"");
    assert_eq!(moved(&host, there), Ok(1));
    assert!(host.base(b, |queue| queue.shut));
    host.feed(b, b"reply");
    assert!(host.is_pending(back), "the other direction goes on");
    assert_eq!(host.sent(a), [b"reply"]);
    host.feed(b, b"");
    assert_eq!(moved(&host, back), Ok(1));
    assert!(host.base(a, |queue| queue.shut));
    let echo = host.demi.qconnect(a, a).unwrap();
    host.demi.close(a).unwrap();
    assert!(moved(&host, echo).is_ok() || host.demi.kind(a).is_err());
    host.demi.close(b).unwrap();
    host.assert_clean();
}

#[test]
fn it_goes_through_operators() {
    let host = Host::new();
    let (from, base) = (host.demi.queue().unwrap(), host.demi.queue().unwrap());
    let to = host.demi.filter(base, |sga| sga.len() > 1).unwrap();
    let token = host.demi.qconnect(from, to).unwrap();
    assert!(matches!(host.demi.qconnect(base, base), Err(Error::Claimed)));
    for element in ["a", "bb", "c", "dd"] {
        host.push(from, element.as_bytes());
    }
    assert_eq!(host.pop(to).unwrap(), b"bb");
    assert_eq!(host.pop(to).unwrap(), b"dd");
    host.demi.shutdown(from, crate::libos::Shutdown::Write).unwrap();
    assert_eq!(moved(&host, token), Ok(2));
    assert_eq!(host.dropped(), 2);
    assert_eq!(host.pop(to), Err(Error::EndOfStream));
}

#[test]
fn many_may_feed_one() {
    let host = Host::new();
    let to = host.messages();
    let sources = [0; 5].map(|_| host.messages());
    let tokens = sources.map(|from| host.demi.qconnect(from, to).unwrap());
    host.demi.cancel(tokens[2]).unwrap();
    host.demi.cancel(tokens[4]).unwrap();
    host.demi.cancel(tokens[0]).unwrap();
    for (source, token) in sources.into_iter().zip(tokens) {
        host.feed(source, b"x");
        assert_eq!(host.demi.pop(source).is_ok(), !host.is_pending(token));
    }
    host.demi.close(to).unwrap();
    for token in tokens {
        assert_eq!(moved(&host, token), Err(Error::Cancelled));
    }
}
