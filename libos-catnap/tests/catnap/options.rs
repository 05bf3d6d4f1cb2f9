//! Socket options.

use std::time::Duration;

use demi_api::addr::{Domain, SocketKind};
use demi_api::error::Error;
use demi_api::libos::{OptionName, SocketOption};

use crate::common::*;

#[test]
fn options_read_back_as_set() {
    let demi = demi();
    let qd = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    let seconds = Duration::from_secs;
    for (name, option) in [
        (OptionName::Linger, SocketOption::Linger(Some(seconds(3)))),
        (OptionName::Linger, SocketOption::Linger(None)),
        (OptionName::KeepAlive, SocketOption::KeepAlive(true)),
        (OptionName::KeepIdle, SocketOption::KeepIdle(seconds(7))),
        (OptionName::KeepInterval, SocketOption::KeepInterval(seconds(5))),
        (OptionName::KeepCount, SocketOption::KeepCount(4)),
        (OptionName::ReuseAddr, SocketOption::ReuseAddr(true)),
        (OptionName::ReusePort, SocketOption::ReusePort(true)),
        (OptionName::NoDelay, SocketOption::NoDelay(false)),
        (OptionName::UserTimeout, SocketOption::UserTimeout(Duration::from_millis(1500))),
        (OptionName::Broadcast, SocketOption::Broadcast(true)),
    ] {
        demi.set_option(qd, option).unwrap();
        assert_eq!(demi.option(qd, name), Ok(option));
    }
    for (name, option) in [
        (OptionName::SendBuffer, SocketOption::SendBuffer(100_000)),
        (OptionName::RecvBuffer, SocketOption::RecvBuffer(100_000)),
    ] {
        demi.set_option(qd, option).unwrap();
        let (SocketOption::SendBuffer(got) | SocketOption::RecvBuffer(got)) = demi.option(qd, name).unwrap()
        else {
            panic!("{name:?}")
        };
        assert!(got >= 100_000, "{name:?}: {got}");
    }
    demi.set_option(qd, SocketOption::MaxSegment(1000)).unwrap();
    assert!(matches!(demi.option(qd, OptionName::MaxSegment), Ok(SocketOption::MaxSegment(1..))));
}

#[test]
fn small_pushes_are_sent_at_once_unless_told_otherwise() {
    for domain in [Domain::Inet, Domain::Inet6] {
        let demi = demi();
        let (client, server) = pair(&demi, domain);
        for qd in [client, server] {
            assert_eq!(demi.option(qd, OptionName::NoDelay), Ok(SocketOption::NoDelay(true)));
        }
    }
}

#[test]
fn accepted_queues_have_their_listeners_options() {
    let demi = demi();
    let (listening, addr) = listener(&demi, Domain::Inet);
    let linger = SocketOption::Linger(Some(Duration::from_secs(1)));
    demi.set_option(listening, linger).unwrap();
    demi.set_option(listening, SocketOption::NoDelay(false)).unwrap();
    let _client = connect(&demi, &addr).unwrap();
    let (server, _) = accept(&demi, listening);
    assert_eq!(demi.option(server, OptionName::Linger), Ok(linger));
    assert_eq!(demi.option(server, OptionName::NoDelay), Ok(SocketOption::NoDelay(false)));
}

#[test]
fn options_of_another_protocol_are_refused() {
    let demi = demi();
    let qd = demi.socket(Domain::Unix, SocketKind::Stream).unwrap();
    let refused = demi.set_option(qd, SocketOption::NoDelay(true));
    assert!(matches!(refused, Err(Error::NotSupported(_))), "{refused:?}");
}

#[test]
fn addresses_can_be_kept_from_reuse() {
    let demi = demi();
    let qd = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    demi.set_option(qd, SocketOption::ReuseAddr(false)).unwrap();
    demi.bind(qd, local(Domain::Inet)).unwrap();
    assert_eq!(demi.option(qd, OptionName::ReuseAddr), Ok(SocketOption::ReuseAddr(false)));
    let other = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    demi.bind(other, local(Domain::Inet)).unwrap();
    assert_eq!(demi.option(other, OptionName::ReuseAddr), Ok(SocketOption::ReuseAddr(true)));
}
