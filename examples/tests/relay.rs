//! `relay` between plain UDP sockets.

mod support;

use std::net::UdpSocket;
use std::time::Duration;

use support::{PATIENCE, RELAY, Server};

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn start(upstream: &UdpSocket, more: &[&str]) -> Server {
    let forward = upstream.local_addr().unwrap().to_string();
    Server::start(RELAY, &[&["--listen", "127.0.0.1:0", "--forward", &forward], more].concat())
}

#[test]
fn each_client_gets_its_own_replies() {
    let upstream = socket();
    let relay = start(&upstream, &[]);
    let clients: Vec<UdpSocket> = (0..10).map(|_| socket()).collect();
    let mut bytes = [0; 65_536];
    for round in 0..20_u8 {
        for (n, client) in clients.iter().enumerate() {
            client.send_to(&vec![n as u8; 1 + 100 * usize::from(round)], relay.addr()).unwrap();
        }
        let mut asked = Vec::new();
        for _ in &clients {
            let (len, from) = upstream.recv_from(&mut bytes).unwrap();
            assert_eq!(len, 1 + 100 * usize::from(round));
            asked.push((bytes[0], from));
        }
        // Answered in another order than asked.
        for (n, from) in asked.into_iter().rev() {
            upstream.send_to(&[n, round], from).unwrap();
        }
        for (n, client) in clients.iter().enumerate() {
            let (len, from) = client.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..len], from), (&[n as u8, round][..], relay.addr()));
        }
    }
    let summary = relay.stop();
    assert_eq!(summary, "stopped: 200 forwarded, 200 returned, 0 dropped; 10 clients");
}

#[test]
fn the_table_of_clients_is_bounded() {
    let upstream = socket();
    let relay = start(&upstream, &["--clients", "2"]);
    let mut bytes = [0; 16];
    for round in 0..2 {
        for n in 0..20 {
            let client = socket();
            client.send_to(&[n, round], relay.addr()).unwrap();
            let (_, from) = upstream.recv_from(&mut bytes).unwrap();
            upstream.send_to(&bytes[..2], from).unwrap();
            let (len, _) = client.recv_from(&mut bytes).unwrap();
            assert_eq!(bytes[..len], [n, round]);
        }
    }
    assert!(relay.stop().ends_with("40 clients"));
}

#[test]
fn a_server_that_is_down_may_come_up() {
    let upstream = socket();
    let addr = upstream.local_addr().unwrap();
    let relay = start(&upstream, &[]);
    drop(upstream);
    let client = socket();
    for _ in 0..50 {
        client.send_to(b"anyone?", relay.addr()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    let upstream = UdpSocket::bind(addr).unwrap();
    upstream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut bytes = [0; 16];
    // Errors of the time before may still cost a datagram or two.
    let heard = (0..50).any(|_| {
        client.send_to(b"now?", relay.addr()).unwrap();
        upstream.recv_from(&mut bytes).is_ok()
    });
    assert!(heard);
    relay.stop();
}

#[test]
fn between_families() {
    let upstream = socket();
    let Ok(client) = UdpSocket::bind("[::1]:0") else {
        return eprintln!("SKIPPED: this machine has no IPv6 loopback");
    };
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let forward = upstream.local_addr().unwrap().to_string();
    let relay = Server::start(RELAY, &["--listen", "[::1]:0", "--forward", &forward]);
    let mut bytes = [0; 16];
    client.send_to(b"six", relay.addr()).unwrap();
    let (_, from) = upstream.recv_from(&mut bytes).unwrap();
    upstream.send_to(b"four", from).unwrap();
    let (len, _) = client.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"four");
    relay.stop();
}
