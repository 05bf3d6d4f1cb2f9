//! The echo server with a log: a reply leaves when what it repeats is durable, and the log never fills.

mod support;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;

use demi_api::{Config, Demikernel, OpenOptions, SeekTo};
use demi_libos_cattree::Cattree;
use support::{ECHO, ECHO_LOG, Server, run, text};

fn start(path: &Path, more: &[&str]) -> Server {
    let args = ["server", "--listen", "127.0.0.1:0", "--log", path.to_str().unwrap(), "--log-size", "8"];
    Server::start(ECHO_LOG, &[&args[..], more].concat())
}

/// What the log holds, one element behind the other.
fn content(path: &Path) -> Vec<u8> {
    let text = format!("[heap]\nsize_mib = 64\n[cattree.device]\nkind = \"uring\"\npath = {path:?}\n");
    let demi = Demikernel::<Cattree>::new(&Config::parse(&text, "test").unwrap()).unwrap();
    let qd = demi.open("echo", &OpenOptions { durable: true, ..OpenOptions::default() }).unwrap();
    // A mark, as a pop at the end would wait.
    let mark = demi.push(qd, demi.copy_from(b"the end").unwrap()).unwrap();
    demi.wait(mark, None).unwrap().pushed().unwrap();
    demi.seek(qd, SeekTo::Head).unwrap();
    let mut bytes = Vec::new();
    loop {
        let element = demi.wait(demi.pop(qd).unwrap(), None).unwrap().popped().unwrap().to_vec();
        if element == b"the end" {
            return bytes;
        }
        bytes.extend(element);
    }
}

#[test]
fn what_was_sent_back_is_in_the_log() {
    for folder in ["/tmp", "/dev/shm"] {
        let folder = tempfile::tempdir_in(folder).unwrap();
        let path = folder.path().join("echo.log");
        let server = start(&path, &[]);
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        let mut sent = Vec::new();
        for round in 0..200_u32 {
            let message = round.to_le_bytes().repeat(1 + round as usize);
            stream.write_all(&message).unwrap();
            let mut back = vec![0; message.len()];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, message);
            sent.extend(message);
        }
        server.kill();
        assert!(content(&path) == sent);
    }
}

#[test]
fn the_log_never_fills() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("echo.log");
    for _ in 0..2 {
        let server = start(&path, &[]);
        let addr = server.addr().to_string();
        // Some five times what the log can take.
        let args =
            ["client", "--connect", &addr, "--size", "4096", "--count", "10000", "--window", "16", "--json"];
        let output = run(ECHO, &args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        server.stop();
        assert!(content(&path).len() > 500_000);
    }
}

#[test]
fn datagrams_are_logged_too() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("echo.log");
    let server = start(&path, &["--udp"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let mut sent = Vec::new();
    for round in 0..100_u32 {
        let message = round.to_le_bytes().repeat(10);
        socket.send_to(&message, server.addr()).unwrap();
        let mut back = [0; 100];
        let len = socket.recv(&mut back).unwrap();
        assert_eq!(back[..len], message);
        sent.extend(message);
    }
    let addr = server.addr().to_string();
    let output =
        run(ECHO, &["client", "--udp", "--connect", &addr, "--count", "3000", "--window", "8", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary = server.stop();
    assert!(summary.contains(" 0 failed"), "{summary}");
    assert!(content(&path).starts_with(&sent));
}

#[test]
fn without_logs_it_says_so() {
    let output = run(ECHO, &["server", "--listen", "127.0.0.1:0", "--log", "/dev/shm/nothing"]);
    assert!(text(&output.stderr).contains("keeps no logs"), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
}
