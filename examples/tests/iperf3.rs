//! `iperf3` over sockets of the kernel, with iperf3 itself. Where that is not installed these tests say so and do
//! nothing.

mod support;

use std::net::TcpListener;
use std::process::{Command, Stdio};

use support::iperf3::{RUNS, RealServer, agree, run_json};
use support::{IPERF3, Server, command, run, text, wait_output};

const SERVER: [&str; 3] = ["--server", "--listen", "127.0.0.1:0"];

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

#[test]
fn a_signal_tells_the_client() {
    let server = Server::start(IPERF3, &SERVER);
    let child =
        command(IPERF3, &["--client", &server.addr().to_string()]).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(server.stop(), "stopped: 0 tests done");
    let output = wait_output(child);
    assert_eq!(output.status.code(), Some(1));
    // The end of a stream may come before the word on the control connection.
    let said = text(&output.stderr);
    assert!(said.contains("the server has terminated") || said.contains("a stream failed"), "{said}");
}
