//! What becomes of operations, bytes and peers when a queue is closed.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use demi_api::addr::{Domain, SocketKind};
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::libos::SocketOption;
use demi_api::token::QToken;

use crate::common::*;

/// A connection to a peer outside the instance.
fn outside(demi: &Demi) -> (QDesc, TcpStream) {
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let qd = connect(demi, &listening.local_addr().unwrap().into()).unwrap();
    (qd, listening.accept().unwrap().0)
}

/// A push that the kernel cannot take whole.
fn push_large(demi: &Demi, qd: QDesc) -> (Vec<u8>, QToken) {
    let bytes = pattern(10 << 20);
    let token = demi.push(qd, demi.copy_from(&bytes).unwrap()).unwrap();
    assert!(is_pending(demi, token));
    (bytes, token)
}

fn read_to_reset(mut peer: TcpStream) -> usize {
    let mut bytes = Vec::new();
    let error = peer.read_to_end(&mut bytes).expect_err("half a stream must not look whole");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    bytes.len()
}

#[test]
fn the_descriptor_is_gone_and_waiting_operations_are_cancelled() {
    let demi = demi();
    let (client, _server) = pair(&demi, Domain::Inet);
    let pops = [(); 3].map(|()| demi.pop(client).unwrap());
    demi.close(client).unwrap();
    assert_eq!(demi.pop(client).unwrap_err(), Error::BadDescriptor);
    assert_eq!(demi.close(client), Err(Error::BadDescriptor));
    for token in pops {
        assert_eq!(wait(&demi, token).unwrap_err(), Error::Cancelled);
    }

    let (listening, _) = listener(&demi, Domain::Inet);
    let token = demi.accept(listening).unwrap();
    demi.close(listening).unwrap();
    assert_eq!(wait(&demi, token).unwrap_err(), Error::Cancelled);

    let datagrams = demi.socket(Domain::Inet, SocketKind::Datagram).unwrap();
    let token = demi.pop(datagrams).unwrap();
    demi.close(datagrams).unwrap();
    assert_eq!(wait(&demi, token).unwrap_err(), Error::Cancelled);
}

#[test]
fn pushed_bytes_are_still_delivered() {
    let demi = demi();
    let (qd, mut peer) = outside(&demi);
    let (bytes, token) = push_large(&demi, qd);
    let second = demi.push(qd, demi.copy_from(b"and this").unwrap()).unwrap();
    demi.close(qd).unwrap();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).map(|_| got)
    });
    completion(&demi, second).pushed().unwrap();
    completion(&demi, token).pushed().unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), [&bytes[..], b"and this"].concat());
    assert_eq!(live(&demi) >> 20, 0);
}

#[test]
fn linger_bounds_it_and_the_peer_sees_an_abort() {
    let demi = demi();
    let (qd, peer) = outside(&demi);
    demi.set_option(qd, SocketOption::Linger(Some(Duration::from_millis(50)))).unwrap();
    let (bytes, token) = push_large(&demi, qd);
    // The linger time begins with the close, not with the last turn before it.
    std::thread::sleep(Duration::from_millis(100));
    let closed = Instant::now();
    demi.close(qd).unwrap();
    assert_eq!(completion(&demi, token).pushed(), Err(Error::TimedOut));
    assert!((Duration::from_millis(50)..Duration::from_secs(2)).contains(&closed.elapsed()));
    assert!(read_to_reset(peer) < bytes.len());
    assert_eq!(counter(&demi, "linger_expired"), 1);
}

#[test]
fn no_linger_aborts_at_once() {
    let demi = demi();
    let (qd, peer) = outside(&demi);
    demi.set_option(qd, SocketOption::Linger(Some(Duration::ZERO))).unwrap();
    let (_, token) = push_large(&demi, qd);
    demi.close(qd).unwrap();
    assert_eq!(completion(&demi, token).pushed(), Err(Error::ConnectionAborted));
    read_to_reset(peer);
}

#[test]
fn a_peer_that_is_gone_holds_nothing_up() {
    let demi = demi();
    let (qd, peer) = outside(&demi);
    let (_, token) = push_large(&demi, qd);
    drop(peer);
    demi.close(qd).unwrap();
    let error = completion(&demi, token).pushed().unwrap_err();
    assert!(matches!(error, Error::ConnectionReset | Error::Closed), "{error:?}");
}

#[test]
fn closing_with_unread_bytes_resets_the_peer() {
    let demi = demi();
    let (client, server) = pair(&demi, Domain::Inet);
    push(&demi, client, b"never read").unwrap();
    demi.close(server).unwrap();
    assert_eq!(pop(&demi, client), Err(Error::ConnectionReset));
}

#[test]
fn a_dropped_instance_lets_go_of_everything() {
    let demi = demi();
    let (qd, peer) = outside(&demi);
    push_large(&demi, qd);
    let begun = Instant::now();
    drop(demi);
    assert!(begun.elapsed() < Duration::from_secs(1));
    read_to_reset(peer);
}

#[test]
fn waiting_datagrams_are_still_sent() {
    let demi = demi();
    let [a, b] = [(); 2].map(|()| demi.socket(Domain::Unix, SocketKind::Datagram).unwrap());
    demi.bind(b, local(Domain::Unix)).unwrap();
    let to = demi.local_addr(b).unwrap();
    let tokens: Vec<_> =
        (0..100).map(|_| demi.push_to(a, demi.copy_from(b"x").unwrap(), to.clone()).unwrap()).collect();
    assert!(is_pending(&demi, tokens[99]));
    demi.close(a).unwrap();
    for _ in 0..100 {
        assert_eq!(pop(&demi, b).unwrap(), b"x");
    }
    for token in tokens {
        completion(&demi, token).pushed().unwrap();
    }
}
