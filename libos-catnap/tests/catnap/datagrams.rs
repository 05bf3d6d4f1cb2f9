//! Datagrams: whole, with their sender, in order.

use std::net::UdpSocket;
use std::path::PathBuf;

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::libos::QueueKind;
use demi_api::op::Done;
use demi_api::sga::SgArray;

use crate::common::*;

const DOMAINS: [Domain; 3] = [Domain::Inet, Domain::Inet6, Domain::Unix];

fn bound(demi: &Demi, domain: Domain) -> (QDesc, Addr) {
    let qd = demi.socket(domain, SocketKind::Datagram).unwrap();
    demi.bind(qd, local(domain)).unwrap();
    (qd, demi.local_addr(qd).unwrap())
}

fn push_to(demi: &Demi, qd: QDesc, bytes: &[u8], to: &Addr) -> Result<(), Error> {
    let token = demi.push_to(qd, demi.copy_from(bytes).unwrap(), to.clone())?;
    completion(demi, token).pushed().map(drop)
}

fn pop_from(demi: &Demi, qd: QDesc) -> SgArray {
    let token = demi.pop(qd).unwrap();
    completion(demi, token).popped().unwrap()
}

#[test]
fn datagrams_come_whole_with_their_sender() {
    for domain in DOMAINS {
        let demi = demi();
        let ((a, a_addr), (b, b_addr)) = (bound(&demi, domain), bound(&demi, domain));
        assert_eq!(demi.kind(a), Ok(QueueKind::Message));
        for size in [1, 0, 512, 513, 1400, 16_383, 16_384, 65_507] {
            push_to(&demi, a, &pattern(size), &b_addr).unwrap();
            let got = pop_from(&demi, b);
            assert_eq!((got.to_vec(), got.peer()), (pattern(size), Some(a_addr.clone())), "{size} bytes");
            push_to(&demi, b, b"thanks", &got.peer().unwrap()).unwrap();
            assert_eq!(pop_from(&demi, a).to_vec(), b"thanks");
        }
    }
}

#[test]
fn a_small_datagram_does_not_hold_a_large_buffer() {
    let demi = demi();
    let ((a, _), (b, b_addr)) = (bound(&demi, Domain::Inet), bound(&demi, Domain::Inet));
    push_to(&demi, a, &pattern(1400), &b_addr).unwrap();
    drop(pop_from(&demi, b));
    let before = live(&demi);
    let mut held = Vec::new();
    for _ in 0..100 {
        push_to(&demi, a, &pattern(1400), &b_addr).unwrap();
        held.push(pop_from(&demi, b));
    }
    assert!(live(&demi) - before < 100 * 4096, "{} bytes for 100 datagrams", live(&demi) - before);
}

#[test]
fn waiting_pops_are_served_in_order() {
    for domain in DOMAINS {
        let demi = demi();
        let ((a, _), (b, b_addr)) = (bound(&demi, domain), bound(&demi, domain));
        let tokens: Vec<_> = (0..40).map(|_| demi.pop(b).unwrap()).collect();
        assert!(is_pending(&demi, tokens[0]));
        for number in 0..40 {
            push_to(&demi, a, &[number], &b_addr).unwrap();
        }
        for (number, token) in (0..40).zip(tokens) {
            assert_eq!(completion(&demi, token).popped().unwrap().to_vec(), [number]);
        }
    }
}

#[test]
fn a_connected_socket_needs_no_address() {
    for domain in DOMAINS {
        let demi = demi();
        let ((a, _), (b, b_addr)) = (bound(&demi, domain), bound(&demi, domain));
        assert_eq!(push(&demi, a, b"whither"), Err(Error::NotConnected));
        let token = demi.connect(a, b_addr.clone()).unwrap();
        assert!(matches!(wait(&demi, token), Ok(Done::Connected)));
        push(&demi, a, b"there").unwrap();
        assert_eq!(pop_from(&demi, b).to_vec(), b"there");
        assert_eq!(demi.peer_addr(a).unwrap(), b_addr);
    }
}

#[test]
fn several_segments_are_one_datagram() {
    for domain in DOMAINS {
        let demi = demi();
        let ((a, _), (b, b_addr)) = (bound(&demi, domain), bound(&demi, domain));
        let mut sga = SgArray::new();
        for part in ["one ", "two ", "three"] {
            sga.push(demi.heap().copy_from(part.as_bytes()).unwrap()).unwrap();
        }
        let token = demi.push_to(a, sga, b_addr.clone()).unwrap();
        completion(&demi, token).pushed().unwrap();
        assert_eq!(pop_from(&demi, b).to_vec(), b"one two three");
    }
}

#[test]
fn what_cannot_be_one_datagram_is_refused() {
    let demi = demi();
    for (domain, limit) in [(Domain::Inet, 65_507), (Domain::Inet6, 65_527), (Domain::Unix, 65_536)] {
        let ((a, _), (_, b_addr)) = (bound(&demi, domain), bound(&demi, domain));
        let too_long = demi.copy_from(&pattern(limit + 1)).unwrap();
        let refused = demi.push_to(a, too_long, b_addr.clone()).unwrap_err();
        assert_eq!(refused.error, Error::TooLarge { len: limit + 1, limit });
        assert_eq!(refused.sga.len(), limit + 1);
        push_to(&demi, a, &pattern(limit), &b_addr).unwrap();
    }
}

#[test]
fn a_full_receiver_delays_pushes_and_loses_none() {
    let demi = demi();
    let ((a, _), (b, b_addr)) = (bound(&demi, Domain::Unix), bound(&demi, Domain::Unix));
    for connected in [false, true] {
        if connected {
            let token = demi.connect(a, b_addr.clone()).unwrap();
            wait(&demi, token).unwrap();
        }
        let tokens: Vec<_> = (0..200_u8)
            .map(|number| {
                let sga = demi.copy_from(&[number]).unwrap();
                if connected { demi.push(a, sga) } else { demi.push_to(a, sga, b_addr.clone()) }.unwrap()
            })
            .collect();
        assert!(is_pending(&demi, tokens[199]));
        for number in 0..200_u8 {
            assert_eq!(pop_from(&demi, b).to_vec(), [number]);
        }
        for token in tokens {
            completion(&demi, token).pushed().unwrap();
        }
    }
}

#[test]
fn a_dead_port_fails_the_next_operation_not_the_socket() {
    let demi = demi();
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (a, _) = bound(&demi, Domain::Inet);
    let token = demi.connect(a, dead).unwrap();
    wait(&demi, token).unwrap();
    push(&demi, a, b"anyone?").unwrap();
    assert_eq!(pop(&demi, a), Err(Error::ConnectionRefused));
    let waiting = demi.pop(a).unwrap();
    assert!(is_pending(&demi, waiting));
    push(&demi, a, b"hello?").unwrap();
    assert_eq!(completion(&demi, waiting).popped().unwrap_err(), Error::ConnectionRefused);
}

#[test]
fn a_waiting_pop_can_be_recalled() {
    let demi = demi();
    let ((a, _), (b, b_addr)) = (bound(&demi, Domain::Inet), bound(&demi, Domain::Inet));
    let [first, second] = [(); 2].map(|()| demi.pop(b).unwrap());
    demi.cancel(first).unwrap();
    assert_eq!(wait(&demi, first).unwrap_err(), Error::Cancelled);
    push_to(&demi, a, b"kept", &b_addr).unwrap();
    assert_eq!(completion(&demi, second).popped().unwrap().to_vec(), b"kept");
}

#[test]
fn an_unnamed_sender_is_unnamed() {
    let demi = demi();
    let (b, b_addr) = bound(&demi, Domain::Unix);
    let a = demi.socket(Domain::Unix, SocketKind::Datagram).unwrap();
    push_to(&demi, a, b"guess who", &b_addr).unwrap();
    assert_eq!(pop_from(&demi, b).peer(), Some(Addr::Unnamed));
}

#[test]
fn an_abstract_name_is_an_address() {
    let demi = demi();
    let [a, b] = [(); 2].map(|()| demi.socket(Domain::Unix, SocketKind::Datagram).unwrap());
    let name = |end: &str| Addr::from(PathBuf::from(format!("\0demi-catnap-{}-{end}", std::process::id())));
    demi.bind(a, name("a")).unwrap();
    demi.bind(b, name("b")).unwrap();
    let token = demi.push_to(a, demi.copy_from(b"hello").unwrap(), name("b")).unwrap();
    wait(&demi, token).unwrap();
    let token = demi.pop(b).unwrap();
    let sga = completion(&demi, token).popped().unwrap();
    assert_eq!((sga.to_vec(), sga.peer()), (b"hello".to_vec(), Some(name("a"))));
}
