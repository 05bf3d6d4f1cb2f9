//! Clients that come and go.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use demi_api::graph::frame::Codec;

use super::{LIMIT, PATIENCE, account, catnap, pop, server};

const CONNECTIONS: usize = 10_000;

/// 10,000 connections, whose clients leave in every way they can: before they say anything, inside a frame, with the
/// answer unread, or properly. Memory, descriptors and sockets are where they were.
#[test]
fn ten_thousand_connections_leave_nothing() {
    let demi = catnap("");
    let server = server(&demi);
    let before = account(&demi, server);
    let clients = std::thread::spawn(move || (0..CONNECTIONS).for_each(|index| visit(server.1, index)));
    let mut accept = demi.accept(server.0).unwrap();
    let mut served = 0;
    let mut highest = 0;
    for _ in 0..CONNECTIONS {
        let (qd, _) = demi.wait(accept, PATIENCE).unwrap().accepted().unwrap();
        accept = demi.accept(server.0).unwrap();
        highest = highest.max(qd.raw());
        let framed = demi.frame(qd, Codec::Resp).unwrap();
        if let Ok(request) = pop(&demi, framed) {
            assert_eq!(request, b"PING\r\n");
            let answer = demi.push(framed, demi.copy_from(b"+PONG\r\n").unwrap()).unwrap();
            served += usize::from(demi.wait(answer, PATIENCE).unwrap().pushed().is_ok());
        }
        demi.close(framed).unwrap();
    }
    clients.join().unwrap();
    demi.cancel(accept).unwrap();
    demi.wait(accept, PATIENCE).unwrap();
    assert!(served >= CONNECTIONS / 4, "{served} were served");
    assert!(highest < 64, "descriptors grew to {highest}");
    assert_eq!(account(&demi, server), before);
    assert_eq!(sockets_at(server.1), 1, "the listener alone is left");
}

fn visit(addr: SocketAddr, index: usize) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    match index % 4 {
        0 => {}
        1 => stream.write_all(b"*1\r\n$4\r\nPI").unwrap(),
        2 => stream.write_all(b"PING\r\n").unwrap(),
        _ => {
            stream.write_all(b"PING\r\n").unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"+PONG\r\n");
        }
    }
}

/// Sockets of the server's that the kernel still has an owner for: all but those that wait for time to pass.
fn sockets_at(addr: SocketAddr) -> usize {
    let port = format!(":{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let owned = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields.get(9) != Some(&"0")
    };
    table.lines().filter(owned).count()
}
