//! `iperf3` over sockets of the kernel: with iperf3 itself, where it is installed, and with clients that mean harm.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use support::iperf3::{RUNS, RealServer, agree, run_json};
use support::{IPERF3, PATIENCE, Server, command, run, text, wait_output};

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

fn is_here() -> bool {
    let here = Command::new("iperf3").arg("-v").stdout(Stdio::null()).status().is_ok();
    if !here {
        eprintln!("SKIPPED: iperf3 is not installed; `cargo xtask setup` installs it");
    }
    here
}

fn words<'a>(first: &[&'a str], run: &'a str) -> Vec<&'a str> {
    first.iter().copied().chain(run.split(' ')).collect()
}

#[test]
fn iperf3_measures_our_server() {
    if !is_here() {
        return;
    }
    let mut server = Server::start(IPERF3, &[&SERVER[..], &["--json"]].concat());
    let port = server.addr().port().to_string();
    for run in RUNS {
        let theirs = run_json(command("iperf3", &words(&["-J", "-c", "127.0.0.1", "-p", &port], run)));
        let ours = serde_json::from_str(&server.line()).unwrap();
        agree(run, run.contains("-R"), true, &ours, &theirs);
    }
    assert_eq!(server.stop(), "stopped: 6 tests done");
}

#[test]
fn our_client_measures_iperf3() {
    if !is_here() {
        return;
    }
    for run in RUNS {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = RealServer::start(command, "127.0.0.1", port);
        let addr = format!("127.0.0.1:{port}");
        let ours = run_json(command(IPERF3, &words(&["--json", "--client", &addr], run)));
        agree(run, !run.contains("-R"), false, &ours, &server.finish());
    }
}

#[test]
fn iperf3_is_refused_what_is_not_supported() {
    if !is_here() {
        return;
    }
    let server = Server::start(IPERF3, &SERVER);
    let port = server.addr().port().to_string();
    for (args, theirs) in [
        ("-u", "protocol does not exist"),
        ("--bidir", "not implemented yet"),
        ("-O 1", "not implemented yet"),
        ("-S 8", "unable to set IP TOS"),
        ("-R -b 1M", "not implemented yet"),
    ] {
        let output = command("iperf3", &words(&["-c", "127.0.0.1", "-p", &port, "-t", "1"], args))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = wait_output(output);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains(theirs), "{args}: {}", text(&output.stderr));
    }
    let (_, complaints) = server.stop_with_complaints();
    for name in ["udp", "bidirectional", "omit", "TOS", "leave -b out"] {
        assert!(complaints.contains(name), "{name}: {complaints}");
    }
}

#[test]
fn both_sides_may_be_ours() {
    let server = Server::start(IPERF3, &[&SERVER[..], &["--one-off"]].concat());
    let addr = server.addr().to_string();
    let said =
        run_json(command(IPERF3, &["--json", "--client", &addr, "-n", "5000001", "-P", "3", "-l", "1000"]));
    for sum in ["sum_sent", "sum_received"] {
        assert_eq!(said["end"][sum]["bytes"], 5_000_001, "{said}");
    }
    let mut server = server;
    assert!(server.line().starts_with("3 streams: 5,000,001 bytes sent in "));
    assert_eq!(server.line(), "stopped: 1 tests done");
    assert!(server.wait().success());
    let output = run(IPERF3, &["--client", &addr]);
    assert!(text(&output.stderr).contains("is the server running?"), "{}", text(&output.stderr));
}

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

    /// Up to the parameters.
    fn greeted(addr: SocketAddr) -> Hostile {
        let mut control = Hostile::connect(addr, COOKIE);
        control.hear(&[PARAM_EXCHANGE]);
        control
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
    let said = run_json(command(IPERF3, &["--json", "--client", &addr, "-n", "1000", "-R"]));
    assert_eq!(said["end"]["sum_received"]["bytes"], 1000);
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
fn a_signal_tells_the_client() {
    let server = Server::start(IPERF3, &SERVER);
    let child =
        command(IPERF3, &["--client", &server.addr().to_string()]).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(server.stop(), "stopped: 0 tests done");
    let output = wait_output(child);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the server has terminated"), "{}", text(&output.stderr));
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
