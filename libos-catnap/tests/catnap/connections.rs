//! Listening, accepting, connecting, and all the ways in which that fails.

use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::op::Done;
use demi_api::token::QToken;

use crate::common::*;

const DOMAINS: [Domain; 3] = [Domain::Inet, Domain::Inet6, Domain::Unix];

#[test]
fn an_accepted_queue_knows_both_ends() {
    for domain in DOMAINS {
        let demi = demi();
        let (listening, addr) = listener(&demi, domain);
        let client = connect(&demi, &addr).unwrap();
        let (server, peer) = accept(&demi, listening);
        assert_eq!(demi.peer_addr(client).unwrap(), addr);
        assert_eq!(demi.local_addr(server).unwrap(), addr);
        assert_eq!(demi.local_addr(client).unwrap(), peer);
        assert_eq!(demi.peer_addr(server).unwrap(), peer);
    }
}

#[test]
fn accepts_that_wait_are_served_in_order() {
    let demi = demi();
    let (listening, addr) = listener(&demi, Domain::Inet);
    let tokens: Vec<_> = (0..3).map(|_| demi.accept(listening).unwrap()).collect();
    assert!(is_pending(&demi, tokens[0]));
    demi.cancel(tokens[1]).unwrap();
    let clients: Vec<_> = (0..2).map(|_| connect(&demi, &addr).unwrap()).collect();
    let (_, first) = completion(&demi, tokens[0]).accepted().unwrap();
    let (_, second) = completion(&demi, tokens[2]).accepted().unwrap();
    assert_eq!(wait(&demi, tokens[1]).unwrap_err(), Error::Cancelled);
    assert_eq!([first, second], [0, 1].map(|at| demi.local_addr(clients[at]).unwrap()));
}

#[test]
fn a_connection_that_died_in_the_backlog_is_no_failure() {
    let demi = demi();
    let (listening, addr) = listener(&demi, Domain::Inet);
    let dead = connect(&demi, &addr).unwrap();
    demi.set_option(dead, demi_api::libos::SocketOption::Linger(Some(Duration::ZERO))).unwrap();
    demi.close(dead).unwrap();
    let alive = connect(&demi, &addr).unwrap();
    push(&demi, alive, b"alive").unwrap();
    let heard = (0..2).map(|_| accept(&demi, listening).0).find_map(|qd| pop(&demi, qd).ok()).unwrap();
    assert_eq!(heard, b"alive");
}

#[test]
fn refused_connects_say_so_and_leave_a_usable_queue() {
    let demi = demi();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let qd = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    for _ in 0..2 {
        let token = demi.connect(qd, gone).unwrap();
        assert_eq!(wait(&demi, token).unwrap_err(), Error::ConnectionRefused);
    }
    let (_listening, addr) = listener(&demi, Domain::Inet);
    let token = demi.connect(qd, addr).unwrap();
    assert!(matches!(wait(&demi, token), Ok(Done::Connected)));
    demi.close(qd).unwrap();

    let nowhere = Addr::from(std::path::PathBuf::from("/nonexistent/socket"));
    assert_eq!(connect(&demi, &nowhere), Err(Error::NotFound));
    // No packet leaves for a broadcast address: TCP refuses it by itself.
    assert_eq!(connect(&demi, &"255.255.255.255:9".parse().unwrap()), Err(Error::Unreachable));
}

/// Fills a backlog that nobody empties; the last connect has to wait.
fn stuck(demi: &Demi, domain: Domain) -> (QDesc, Vec<QDesc>, QDesc, QToken) {
    let listening = demi.socket(domain, SocketKind::Stream).unwrap();
    demi.bind(listening, local(domain)).unwrap();
    demi.listen(listening, 1).unwrap();
    let addr = demi.local_addr(listening).unwrap();
    let mut connected = Vec::new();
    loop {
        let qd = demi.socket(domain, SocketKind::Stream).unwrap();
        let token = demi.connect(qd, addr.clone()).unwrap();
        if is_pending(demi, token) {
            return (listening, connected, qd, token);
        }
        connected.push(qd);
        assert!(connected.len() < 64, "the backlog is never full");
    }
}

#[test]
fn a_connect_without_an_answer_times_out() {
    for domain in [Domain::Inet, Domain::Unix] {
        let demi = demi_with("[catnap]\nconnect_timeout_ms = 100\n");
        let begun = Instant::now();
        let (_, _, qd, token) = stuck(&demi, domain);
        assert_eq!(wait(&demi, token).unwrap_err(), Error::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(2));
        let (listening, addr) = listener(&demi, domain);
        let token = demi.connect(qd, addr).unwrap();
        assert!(matches!(wait(&demi, token), Ok(Done::Connected)));
        let (server, _) = accept(&demi, listening);
        push(&demi, qd, b"second try").unwrap();
        assert_eq!(pop(&demi, server).unwrap(), b"second try");
    }
}

#[test]
fn the_connect_timeout_begins_with_the_connect() {
    let demi = demi_with("[catnap]\nconnect_timeout_ms = 150\n");
    let (_, _, qd, token) = stuck(&demi, Domain::Inet);
    demi.close(qd).unwrap();
    assert_eq!(wait(&demi, token).unwrap_err(), Error::Cancelled);
    // No turn in between: the instance's time is old when the next connect begins.
    std::thread::sleep(Duration::from_millis(200));
    let (_, _, _, token) = stuck(&demi, Domain::Inet);
    assert!(is_pending(&demi, token));
}

#[test]
fn a_busy_unix_listener_is_tried_again() {
    let demi = demi();
    let (listening, _, qd, token) = stuck(&demi, Domain::Unix);
    accept(&demi, listening);
    assert!(matches!(wait(&demi, token), Ok(Done::Connected)));
    push(&demi, qd, b"in").unwrap();
}

#[test]
fn a_connect_can_be_recalled() {
    for domain in [Domain::Inet, Domain::Unix] {
        let demi = demi();
        let (_, _, qd, token) = stuck(&demi, domain);
        assert_eq!(demi.push(qd, demi.copy_from(b"x").unwrap()).unwrap_err().error, Error::NotConnected);
        demi.cancel(token).unwrap();
        assert_eq!(wait(&demi, token).unwrap_err(), Error::Cancelled);
        let (_listening, addr) = listener(&demi, domain);
        let token = demi.connect(qd, addr).unwrap();
        assert!(matches!(wait(&demi, token), Ok(Done::Connected)));
    }
}

#[test]
fn a_restarted_server_gets_its_port() {
    let demi = demi();
    let (listening, addr) = listener(&demi, Domain::Inet);
    let mut client = std::net::TcpStream::connect(inet(&addr)).unwrap();
    let (server, _) = accept(&demi, listening);
    // The side that closes first is the one whose address lingers.
    demi.close(server).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    demi.close(listening).unwrap();
    let again = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    demi.bind(again, addr.clone()).unwrap();
    demi.listen(again, 8).unwrap();
    let third = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    assert!(demi.bind(third, addr).and_then(|()| demi.listen(third, 8)).is_err());
}

#[test]
fn an_ipv6_socket_speaks_ipv6_only() {
    let demi = demi();
    let six = demi.socket(Domain::Inet6, SocketKind::Stream).unwrap();
    demi.bind(six, "[::]:0".parse::<std::net::SocketAddr>().unwrap()).unwrap();
    let port = inet(&demi.local_addr(six).unwrap()).port();
    let four = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    demi.bind(four, std::net::SocketAddr::from(([0, 0, 0, 0], port))).unwrap();
    let other = demi.socket(Domain::Inet6, SocketKind::Stream).unwrap();
    let disguised: std::net::SocketAddr = format!("[::ffff:127.0.0.1]:{port}").parse().unwrap();
    assert_eq!(demi.connect(other, disguised).unwrap_err(), Error::BadAddress);
}

#[test]
fn the_file_of_a_unix_socket_goes_with_it() {
    let demi = demi();
    let (listening, addr) = listener(&demi, Domain::Unix);
    let Addr::Unix(path) = &addr else { panic!("{addr}") };
    assert!(path.exists());
    demi.close(listening).unwrap();
    assert!(!path.exists());

    let old = demi.socket(Domain::Unix, SocketKind::Stream).unwrap();
    demi.bind(old, addr.clone()).unwrap();
    std::fs::remove_file(path).unwrap();
    let new = demi.socket(Domain::Unix, SocketKind::Stream).unwrap();
    demi.bind(new, addr.clone()).unwrap();
    demi.close(old).unwrap();
    assert!(path.exists(), "the file is another socket's by now");
}

#[test]
fn an_accept_that_is_dropped_when_it_is_done_closes_its_connection() {
    let demi = demi();
    let (listening, addr) = listener(&demi, Domain::Inet);
    let operation = demi.operation(demi.accept(listening).unwrap()).unwrap();
    let client = connect(&demi, &addr).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while demi.counters().unwrap().operations_pending > 0 {
        assert!(Instant::now() < deadline, "the accept is not done");
        demi.poll().unwrap();
    }
    drop(operation);
    assert_eq!(pop(&demi, client).unwrap(), [], "the end of the stream");
}
