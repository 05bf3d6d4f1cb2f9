//! From start to stop: signals, restarts, idleness.

mod support;

use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::resp::Client;
use support::{ECHO, IPERF3, KV, PIPELINE, RELAY, Server};

/// Arguments of each server, all on a port of its own.
fn servers() -> [(&'static str, &'static [&'static str]); 7] {
    [
        (ECHO, &["server", "--listen", "127.0.0.1:0"]),
        (ECHO, &["server", "--udp", "--listen", "127.0.0.1:0"]),
        (KV, &["--listen", "127.0.0.1:0"]),
        (RELAY, &["--listen", "127.0.0.1:0", "--forward", "127.0.0.1:9"]),
        (IPERF3, &["--server", "--listen", "127.0.0.1:0"]),
        (PIPELINE, &["--listen", "127.0.0.1:0"]),
        (PIPELINE, &["--listen", "tcp:127.0.0.1:0"]),
    ]
}

#[test]
fn both_signals_stop_every_server() {
    for (program, args) in servers() {
        let summary = Server::start(program, args).stop();
        assert!(summary.starts_with("stopped: "), "{summary}");
        assert_eq!(summary.lines().count(), 1);
        let mut server = Server::start(program, args);
        server.signal(Signal::INT);
        assert!(server.wait().success());
    }
}

#[test]
fn a_busy_server_stops_too() {
    let server = Server::start(KV, &["--listen", "127.0.0.1:0"]);
    let mut client = Client::connect(server.addr());
    let value = [b'v'; 10_000];
    client.call(&[b"SET", b"k", &value]);
    // It cannot send all of this, for nobody reads it.
    client.send(&support::resp::request(&[b"GET", b"k"]).repeat(5000));
    sleep(Duration::from_millis(50));
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_port_can_be_used_again_at_once() {
    for (program, first, again) in
        [(KV, &["--listen"][..], &["--listen"][..]), (ECHO, &["server", "--listen"], &["server", "--listen"])]
    {
        let server = Server::start(program, &[first, &["127.0.0.1:0"]].concat());
        let addr = server.addr();
        // The server closes first, so its side is the one that lingers.
        let connections: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(addr).unwrap()).collect();
        sleep(Duration::from_millis(20));
        server.stop();
        drop(connections);
        let server = Server::start(program, &[again, &[&addr.to_string()]].concat());
        assert_eq!(server.addr(), addr);
        server.stop();
    }
}

#[test]
fn a_unix_socket_is_removed_and_can_be_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv.sock");
    let listen = format!("unix:{}", path.display());
    for _ in 0..2 {
        let server = Server::start(KV, &["--listen", &listen]);
        assert!(path.exists());
        server.stop();
        assert!(!path.exists());
    }
}

#[test]
fn idle_servers_sleep() {
    const LOOK: Duration = Duration::from_secs(2);
    let running: Vec<Server> =
        servers().into_iter().map(|(program, args)| Server::start(program, args)).collect();
    let connected: Vec<SocketAddr> = [0, 2].map(|server: usize| running[server].addr()).into();
    let connections: Vec<TcpStream> =
        connected.iter().flat_map(|addr| (0..50).map(move |_| TcpStream::connect(addr).unwrap())).collect();
    sleep(Duration::from_millis(300));
    let before: Vec<u64> = running.iter().map(Server::ticks).collect();
    sleep(LOOK);
    for ((server, before), (program, args)) in running.iter().zip(before).zip(servers()) {
        // Of 200 ticks. Idle is none; what is left is for a clock that ticks at the wrong moment.
        let used = server.ticks() - before;
        assert!(used <= 6, "{program} {args:?} used {used} ticks of 10 ms in {LOOK:?}");
    }
    drop(connections);
}
