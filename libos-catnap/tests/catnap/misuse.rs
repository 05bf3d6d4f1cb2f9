//! Calls in an order that makes no sense: each a clear error, none a panic.

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::libos::{OpenOptions, OptionName, SeekTo, Shutdown, SocketOption};
use demi_api::op::Position;

use crate::common::*;

fn socket(demi: &Demi, kind: SocketKind) -> QDesc {
    demi.socket(Domain::Inet, kind).unwrap()
}

#[test]
fn calls_out_of_order_are_refused() {
    let demi = demi();
    let fresh = socket(&demi, SocketKind::Stream);
    let datagram = socket(&demi, SocketKind::Datagram);
    let (client, server) = pair(&demi, Domain::Inet);
    let (listening, addr) = listener(&demi, Domain::Inet);
    let sga = || demi.copy_from(b"x").unwrap();

    for qd in [fresh, listening] {
        assert_eq!(demi.push(qd, sga()).unwrap_err().error, Error::NotConnected);
        assert_eq!(demi.pop(qd).unwrap_err(), Error::NotConnected);
        assert_eq!(demi.shutdown(qd, Shutdown::Write), Err(Error::NotConnected));
    }
    for qd in [fresh, datagram, client, server] {
        assert!(matches!(demi.accept(qd), Err(Error::Invalid(_))));
    }
    for qd in [client, server, listening] {
        assert_eq!(demi.connect(qd, addr.clone()).unwrap_err(), Error::AlreadyConnected);
        assert_eq!(demi.listen(qd, 1), Err(Error::AlreadyConnected));
        assert_eq!(demi.bind(qd, local(Domain::Inet)), Err(Error::AlreadyConnected));
    }
    assert!(matches!(demi.listen(fresh, 1), Err(Error::Invalid(_))));
    assert!(matches!(demi.listen(datagram, 1), Err(Error::NotSupported(_))));
    assert!(matches!(demi.shutdown(datagram, Shutdown::Both), Err(Error::NotSupported(_))));
    assert!(matches!(demi.push_to(client, sga(), addr.clone()).unwrap_err().error, Error::Invalid(_)));
    demi.bind(datagram, local(Domain::Inet)).unwrap();
    assert_eq!(demi.bind(datagram, local(Domain::Inet)), Err(Error::AlreadyConnected));
    assert_eq!(demi.peer_addr(fresh), Err(Error::NotConnected));
}

#[test]
fn addresses_must_fit_the_socket() {
    let demi = demi();
    let long = Addr::from(std::path::PathBuf::from("/".repeat(300)));
    let empty = Addr::from(std::path::PathBuf::new());
    for domain in [Domain::Inet, Domain::Inet6, Domain::Unix] {
        for kind in [SocketKind::Stream, SocketKind::Datagram] {
            let qd = demi.socket(domain, kind).unwrap();
            for addr in [local(Domain::Inet), local(Domain::Inet6), local(Domain::Unix), Addr::Unnamed] {
                if Domain::from(&addr) != domain || addr == Addr::Unnamed {
                    assert_eq!(demi.bind(qd, addr.clone()), Err(Error::BadAddress), "{domain:?} {addr}");
                    assert_eq!(demi.connect(qd, addr).unwrap_err(), Error::BadAddress);
                }
            }
        }
    }
    let qd = demi.socket(Domain::Unix, SocketKind::Stream).unwrap();
    for addr in [long, empty] {
        assert_eq!(demi.bind(qd, addr), Err(Error::BadAddress));
    }
    let elsewhere = "192.0.2.1:0".parse::<Addr>().unwrap();
    assert_eq!(demi.bind(socket(&demi, SocketKind::Stream), elsewhere), Err(Error::AddressNotAvailable));
}

#[test]
fn socket_calls_on_files_and_file_calls_on_sockets_are_refused() {
    let demi = demi();
    let dir = tempfile::tempdir().unwrap();
    let file = demi.creat(dir.path().join("file")).unwrap();
    let stream = socket(&demi, SocketKind::Stream);
    let addr = local(Domain::Inet);
    let sga = demi.copy_from(b"x").unwrap();

    let refused = [
        demi.bind(file, addr.clone()),
        demi.listen(file, 1),
        demi.shutdown(file, Shutdown::Both),
        demi.set_option(file, SocketOption::NoDelay(true)),
        demi.option(file, OptionName::NoDelay).map(drop),
        demi.local_addr(file).map(drop),
        demi.peer_addr(file).map(drop),
        demi.accept(file).map(drop),
        demi.connect(file, addr.clone()).map(drop),
        demi.seek(stream, SeekTo::Head).map(drop),
        demi.truncate(stream, Position(0)),
        demi.flush(stream).map(drop),
    ];
    for (at, refused) in refused.into_iter().enumerate() {
        assert!(matches!(refused, Err(Error::NotSupported(_))), "call {at}: {refused:?}");
    }
    assert!(matches!(demi.push_to(file, sga, addr).unwrap_err().error, Error::Invalid(_)));
}

#[test]
fn random_descriptors_are_refused_by_every_call() {
    let demi = demi();
    let open = socket(&demi, SocketKind::Stream);
    // Of this libOS's own kind, of another's, and of nobody's.
    for raw in [5, 9, 1001, i32::MAX as u32 - 2, 2, 6, 3, i32::MAX as u32, u32::MAX] {
        let qd = QDesc::from_raw(raw);
        if qd == open {
            continue;
        }
        let addr = local(Domain::Inet);
        let refused = [
            demi.bind(qd, addr.clone()),
            demi.listen(qd, 1),
            demi.accept(qd).map(drop),
            demi.connect(qd, addr).map(drop),
            demi.pop(qd).map(drop),
            demi.push(qd, demi.copy_from(b"x").unwrap()).map(drop).map_err(|refused| refused.error),
            demi.kind(qd).map(drop),
            demi.close(qd),
        ];
        for (at, refused) in refused.into_iter().enumerate() {
            assert_eq!(refused, Err(Error::BadDescriptor), "call {at} on {raw}");
        }
    }
}

#[test]
fn the_table_of_queues_has_a_bound() {
    let demi = demi_with("[queues]\nmax = 3\n");
    let (listening, addr) = listener(&demi, Domain::Inet);
    let client = connect(&demi, &addr).unwrap();
    let third = socket(&demi, SocketKind::Datagram);
    assert_eq!(demi.socket(Domain::Inet, SocketKind::Stream), Err(Error::TooManyQueues(3)));
    assert_eq!(demi.open("/dev/null", &OpenOptions::default()), Err(Error::TooManyQueues(3)));
    let token = demi.accept(listening).unwrap();
    assert_eq!(completion(&demi, token).accepted(), Err(Error::TooManyQueues(3)));
    // The connection was not lost.
    demi.close(third).unwrap();
    let (server, _) = accept(&demi, listening);
    push(&demi, client, b"patience").unwrap();
    assert_eq!(pop(&demi, server).unwrap(), b"patience");
}

#[test]
fn settings_out_of_range_name_their_line() {
    for (key, value) in [
        ("recv_bytes", 16),
        ("copy_threshold", 1 << 20),
        ("spin_queues", 17),
        ("spin_tries", 1),
        ("probe_turns", 0),
        ("connect_timeout_ms", 1_000_000_000),
        ("file_ring_entries", 5000),
    ] {
        let text = format!("[catnap]\n{key} = {value}\n");
        let config = demi_api::config::Config::parse(&text, "demi.toml").unwrap();
        let message = Demi::new(&config).unwrap_err().to_string();
        assert!(message.contains("demi.toml:2") && message.contains(key), "{message}");
    }
}
