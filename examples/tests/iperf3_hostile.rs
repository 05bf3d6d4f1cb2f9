//! `iperf3` under clients that mean harm, or leave: each ends its own test, and the next is run.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use support::{IPERF3, PATIENCE, Server, eventually, run, text};

const SERVER: [&str; 3] = ["--server", "--listen", "127.0.0.1:0"];

const COOKIE: &[u8; 37] = b"abcdefghijklmnopqrstuvwxyz2345678901\0";
const OTHER: &[u8; 37] = b"1098765432zyxwvutsrqponmlkjihgfedcba\0";

/// States, as bytes.
const PARAM_EXCHANGE: u8 = 9;
const CREATE_STREAMS: u8 = 10;
const EXCHANGE_RESULTS: u8 = 13;
const DISPLAY_RESULTS: u8 = 14;
const ACCESS_DENIED: u8 = 255;
const SERVER_ERROR: u8 = 254;

/// A connection that may say anything.
struct Hostile(TcpStream);

impl Hostile {
    fn connect(addr: SocketAddr, greeting: &[u8]) -> Hostile {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut hostile = Hostile(stream);
        hostile.say(greeting);
        hostile
    }

    fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn json(&mut self, text: &str) {
        self.say(&[&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat());
    }

    #[track_caller]
    fn hear(&mut self, expected: &[u8]) {
        let mut heard = vec![0; expected.len()];
        self.0.read_exact(&mut heard).unwrap();
        assert_eq!(heard, expected);
    }

    /// Up to the parameters. The server may not have heard yet that the one before has left.
    fn greeted(addr: SocketAddr) -> Hostile {
        let mut found = None;
        eventually("a test begins", || {
            let mut control = Hostile::connect(addr, COOKIE);
            let mut heard = [0];
            let begun = control.0.read_exact(&mut heard).is_ok() && heard == [PARAM_EXCHANGE];
            found = begun.then_some(control);
            begun
        });
        found.unwrap()
    }

    /// Up to the end of a test of one stream and four bytes.
    fn ended(addr: SocketAddr) -> (Hostile, Hostile) {
        let mut control = Hostile::greeted(addr);
        control.json(r#"{"tcp": true, "time": 0, "num": 4, "parallel": 1, "len": 4}"#);
        control.hear(&[CREATE_STREAMS]);
        let mut stream = Hostile::connect(addr, COOKIE);
        control.hear(&[1, 2]);
        stream.say(b"four");
        control.say(&[4]);
        control.hear(&[EXCHANGE_RESULTS]);
        (control, stream)
    }

    #[track_caller]
    fn expect_refusal(mut self, number: u8) {
        self.hear(&[SERVER_ERROR, 0, 0, 0, number, 0, 0, 0, 0]);
        assert_eq!(self.0.read(&mut [0]).unwrap(), 0);
    }
}

const RESULTS: &str = r#"{"streams": [{"id": 1, "bytes": 4}]}"#;

#[test]
fn a_hostile_client_ends_its_own_test_only() {
    let mut server = Server::start(IPERF3, &SERVER);
    let addr = server.addr();

    // Parameters that are none.
    let mut control = Hostile::greeted(addr);
    control.say(&u32::MAX.to_be_bytes());
    control.expect_refusal(114);
    let mut control = Hostile::greeted(addr);
    control.say(&[0; 4]);
    control.expect_refusal(114);
    for text in ["nonsense", "7", "{\"tcp\": tru", &"[".repeat(8000)] {
        let mut control = Hostile::greeted(addr);
        control.json(text);
        control.expect_refusal(114);
    }
    let mut control = Hostile::greeted(addr);
    control.json(r#"{"tcp": true, "parallel": 1000000}"#);
    control.expect_refusal(6);

    // States that are none, or not now.
    let mut control = Hostile::greeted(addr);
    control.json(r#"{"tcp": true}"#);
    control.hear(&[CREATE_STREAMS]);
    control.say(&[99]);
    control.expect_refusal(110);
    let mut control = Hostile::greeted(addr);
    control.json(r#"{"tcp": true}"#);
    control.hear(&[CREATE_STREAMS]);
    let _stream = Hostile::connect(addr, COOKIE);
    control.hear(&[1, 2]);
    control.say(&[16]);
    control.expect_refusal(110);

    // Results that are none.
    let (mut control, _stream) = Hostile::ended(addr);
    control.say(&u32::MAX.to_be_bytes());
    control.expect_refusal(117);
    for text in ["{}", r#"{"streams": [{"id": 2, "bytes": 4}]}"#, r#"{"streams": [{"id": 1, "bytes": -4}]}"#]
    {
        let (mut control, _stream) = Hostile::ended(addr);
        control.json(text);
        control.expect_refusal(117);
    }

    // Others than the client of the test: one of another cookie, one of none, one who comes too late.
    let mut control = Hostile::greeted(addr);
    control.json(r#"{"tcp": true, "parallel": 2}"#);
    control.hear(&[CREATE_STREAMS]);
    let _silent = Hostile::connect(addr, b"");
    Hostile::connect(addr, OTHER).hear(&[ACCESS_DENIED]);
    let _streams = [(); 2].map(|()| Hostile::connect(addr, COOKIE));
    control.hear(&[1, 2]);
    Hostile::connect(addr, OTHER).hear(&[ACCESS_DENIED]);
    let output = run(IPERF3, &["--client", &addr.to_string()]);
    assert!(text(&output.stderr).contains("busy with another test"), "{}", text(&output.stderr));
    // It says that it gives up.
    control.say(&[12]);
    control.expect_refusal(119);

    // One that claims more than it has sent is waited for, but not for ever.
    let (mut control, _stream) = Hostile::ended(addr);
    control.json(r#"{"streams": [{"id": 1, "bytes": 5}]}"#);
    let mut length = [0; 4];
    control.0.read_exact(&mut length).unwrap();
    let mut results = vec![0; u32::from_be_bytes(length) as usize];
    control.0.read_exact(&mut results).unwrap();
    let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
    assert_eq!(results["streams"][0]["bytes"], 4);
    control.hear(&[DISPLAY_RESULTS]);
    assert!(server.line().starts_with("1 stream: 5 bytes sent in "));
    drop(control);

    let complaints = still_serves(server);
    for part in [
        "4294967295 bytes of JSON, where 1 to 8192 are taken",
        "99 names no state",
        "\"parallel\" is 1000000",
    ] {
        assert!(complaints.contains(part), "{part}: {complaints}");
    }
}

/// Runs a test of ours, and stops it; what it has complained of.
fn still_serves(mut server: Server) -> String {
    let addr = server.addr().to_string();
    eventually("it serves", || {
        let output = run(IPERF3, &["--client", &addr, "-n", "1000", "-R"]);
        output.status.success() && text(&output.stdout).contains("1,000 received in ")
    });
    assert!(server.line().starts_with("1 stream: 1,000 bytes sent in "));
    server.stop_with_complaints().1
}

#[test]
fn a_client_may_leave_at_any_point() {
    let server = Server::start(IPERF3, &SERVER);
    let addr = server.addr();
    let parameters = r#"{"tcp": true, "reverse": true, "time": 1}"#;
    // What it says before it leaves, in the order of the protocol.
    for bytes in [&b""[..], &COOKIE[..7], COOKIE] {
        drop(Hostile::connect(addr, bytes));
    }
    for bytes in [&b"\0"[..], b"\0\0\0\x20", b"\0\0\0\x20{\"tcp\""] {
        Hostile::greeted(addr).say(bytes);
    }
    for greeting in [&COOKIE[..0], &COOKIE[..7], COOKIE] {
        let mut control = Hostile::greeted(addr);
        control.json(parameters);
        control.hear(&[CREATE_STREAMS]);
        let _stream = Hostile::connect(addr, greeting);
    }
    // In the test: the stream first, or the control connection.
    for first in [false, true] {
        let mut control = Hostile::greeted(addr);
        control.json(parameters);
        control.hear(&[CREATE_STREAMS]);
        let mut stream = Hostile::connect(addr, COOKIE);
        control.hear(&[1, 2]);
        stream.hear(b"dddd");
        if first {
            drop(stream);
            control.expect_refusal(206);
        }
    }
    drop(Hostile::ended(addr));
    let (mut control, stream) = Hostile::ended(addr);
    control.say(b"\0\0\0");
    drop((control, stream));
    let complaints = still_serves(server);
    for part in ["no cookie", "no parameters", "connection was closed", "a stream failed", "no results"] {
        assert!(complaints.contains(part), "{part}: {complaints}");
    }
}

#[test]
fn results_may_come_before_the_last_bytes() {
    let mut server = Server::start(IPERF3, &SERVER);
    let (mut control, _stream) = Hostile::ended(server.addr());
    control.json(RESULTS);
    assert!(server.line().contains(": 4 bytes sent in 0.00 s"));
    drop(control);
    server.stop();
}
