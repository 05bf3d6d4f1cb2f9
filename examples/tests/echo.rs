//! `echo`: its own client against its server, and plain sockets against both.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use support::{ECHO, PATIENCE, Server, run, text};

fn start(listen: &str, udp: &[&str]) -> Server {
    Server::start(ECHO, &[&["server", "--listen", listen], udp].concat())
}

/// Runs the client with `--json`; the numbers by name.
fn measure(connect: &str, args: &[&str]) -> BTreeMap<String, serde_json::Value> {
    let output = run(ECHO, &[&["client", "--connect", connect, "--json"], args].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn has_ipv6() -> bool {
    let here = UdpSocket::bind("[::1]:0").is_ok();
    if !here {
        eprintln!("SKIPPED: this machine has no IPv6 loopback");
    }
    here
}

#[test]
fn streams_of_all_sizes_and_windows() {
    let server = start("127.0.0.1:0", &[]);
    for (size, window, count) in [
        (1, 1, 500),
        (64, 1, 2000),
        (64, 32, 5000),
        (1400, 8, 2000),
        (65_536, 4, 200),
        (1 << 20, 8, 40),
        (7, 4096, 20_000),
    ] {
        let [size, window, count] = [size, window, count].map(|n: u32| n.to_string());
        let numbers =
            measure(&server.addr().to_string(), &["--size", &size, "--window", &window, "--count", &count]);
        for (name, expected) in [("size", &size), ("window", &window), ("count", &count)] {
            assert_eq!(numbers[name].to_string(), **expected, "{name}");
        }
        let order =
            ["p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"].map(|name| numbers[name].as_u64().unwrap());
        assert!(order[0] > 0 && order.is_sorted(), "{numbers:?}");
        assert!(numbers["msgs_per_s"].as_u64().unwrap() > 0);
        assert_eq!(numbers["subject"], "catnap");
    }
    server.stop();
}

#[test]
fn other_transports() {
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", folder.path().join("echo.sock").display());
    let server = start(&unix, &[]);
    measure(&unix, &["--count", "1000"]);
    server.stop();

    let server = start("127.0.0.1:0", &["--udp"]);
    for args in [&["--size", "8"][..], &["--size", "1400", "--window", "8"], &["--size", "60000"]] {
        let numbers = measure(&server.addr().to_string(), &[&["--udp", "--count", "500"], args].concat());
        assert_eq!(numbers["count"].as_u64().unwrap() + numbers["lost"].as_u64().unwrap(), 500);
        assert_eq!(numbers["transport"], "datagram");
    }
    server.stop();

    if has_ipv6() {
        for udp in [&[][..], &["--udp"]] {
            let server = start("[::1]:0", udp);
            assert!(server.addr().is_ipv6());
            measure(&server.addr().to_string(), &[&["--count", "500"], udp].concat());
            server.stop();
        }
    }
}

#[test]
fn the_histogram_is_drawn() {
    let server = start("127.0.0.1:0", &[]);
    let output =
        run(ECHO, &["client", "--connect", &server.addr().to_string(), "--count", "2000", "--histogram"]);
    let picture = text(&output.stdout);
    for part in ["2,000 messages of 64 B, window 1", "µs", "█", "p50", "p99.9", "max", "%"] {
        assert!(picture.contains(part), "{part} is missing in\n{picture}");
    }
    server.stop();
}

#[test]
fn bytes_come_back_however_they_are_cut() {
    let server = start("127.0.0.1:0", &[]);
    let clients: Vec<_> = (0..20)
        .map(|seed| {
            let addr = server.addr();
            thread::spawn(move || echo_random_pieces(addr, seed))
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let summary = server.stop();
    assert!(summary.contains("to 20 connections, 0 of them open"), "{summary}");
}

fn echo_random_pieces(addr: SocketAddr, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(200_000).collect();
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut reader, expected) = (stream.try_clone().unwrap(), bytes.clone());
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert!(got == expected, "{} of {} bytes, or others", got.len(), expected.len());
    });
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rng.usize(1..20_000).min(rest.len()));
        stream.write_all(piece).unwrap();
        rest = behind;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    reader.join().unwrap();
}

#[test]
fn peers_that_reset_or_do_not_read_disturb_nobody() {
    let server = start("127.0.0.1:0", &[]);
    let deaf = TcpStream::connect(server.addr()).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let mut accepted = 0;
    while accepted < 64 << 20 {
        match (&deaf).write(&[0; 65_536]) {
            Ok(count) => accepted += count,
            Err(_) => break,
        }
    }
    for _ in 0..300 {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        stream.write_all(b"and gone").unwrap();
        set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    }
    measure(&server.addr().to_string(), &["--count", "1000"]);
    drop(deaf);
    server.stop();
}

#[test]
fn a_client_tells_an_echo_from_something_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let liar = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 64];
        stream.read_exact(&mut bytes).unwrap();
        bytes[63] ^= 1;
        stream.write_all(&bytes).unwrap();
        let _ = stream.read(&mut bytes);
        let (stream, _) = listener.accept().unwrap();
        drop(stream);
    });
    for said in ["differs from what was sent", "clos"] {
        let output = run(ECHO, &["client", "--connect", &addr.to_string(), "--count", "1"]);
        assert_eq!(output.status.code(), Some(1));
        let stderr = text(&output.stderr);
        assert!(stderr.contains(said) || stderr.contains("reset"), "{stderr}");
    }
    liar.join().unwrap();
}

#[test]
fn datagrams_of_many_clients() {
    let server = start("127.0.0.1:0", &["--udp"]);
    for n in 0..20_u8 {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for len in [1, 9, 1400, 60_000] {
            client.send_to(&vec![n; len], server.addr()).unwrap();
            let mut reply = vec![0; 65_536];
            let (count, from) = client.recv_from(&mut reply).unwrap();
            assert_eq!((from, count), (server.addr(), len));
            assert!(reply[..count].iter().all(|byte| *byte == n));
        }
    }
    server.stop();
}
