//! iperf3 itself beside ours: both take the same flags, and both say in JSON what has gone which way.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{eventually, text, wait_output};

/// Tests to run: both ways, one stream and two, by time and by bytes.
pub const RUNS: [&str; 6] =
    ["-t 1", "-t 1 -R", "-t 1 -P 2", "-t 1 -P 2 -R", "-n 20000000", "-n 20000000 -P 2 -R"];

/// Runs to its end, with success; the JSON that it prints.
#[track_caller]
pub fn run_json(mut command: Command) -> Value {
    let shown = format!("{command:?}");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = wait_output(child);
    let (said, complaints) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{shown}: {complaints}{said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{shown}: {error}: {said}"))
}

/// iperf3 as a server of one test.
pub struct RealServer(Option<Child>);

impl RealServer {
    /// `command` runs a program where the server is to be.
    pub fn start(command: impl Fn(&str, &[&str]) -> Command, addr: &str, port: u16) -> RealServer {
        let mut iperf3 = command("iperf3", &["-s", "-1", "-J", "-B", addr, "-p", &port.to_string()]);
        let child = iperf3.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let server = RealServer(Some(child));
        let place = format!(":{port:04X} ");
        eventually("iperf3 listens", || {
            let sockets = command("cat", &["/proc/net/tcp", "/proc/net/tcp6"]).output().unwrap().stdout;
            text(&sockets).lines().any(|line| line.contains(&place) && line.contains(" 0A "))
        });
        server
    }

    /// What it says of the test that it has run.
    pub fn finish(mut self) -> Value {
        let output = wait_output(self.0.take().unwrap());
        let said = text(&output.stdout);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{}", text(&output.stderr)))
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Bytes by stream: what was sent, what was received.
fn bytes(said: &Value) -> [Vec<u64>; 2] {
    let streams = said["end"]["streams"].as_array().unwrap_or_else(|| panic!("no streams: {said}"));
    ["sender", "receiver"].map(|side| {
        streams
            .iter()
            .map(|stream| stream[side]["bytes"].as_u64().unwrap_or_else(|| panic!("{said}")))
            .collect()
    })
}

/// Holds what both sides say against each other. `they_know_both`: iperf3's server prints its own side only.
#[track_caller]
pub fn agree(run: &str, we_send: bool, they_know_both: bool, ours: &Value, theirs: &Value) {
    let shown = format!("{run}: {ours} {theirs}");
    assert_eq!(theirs["error"], Value::Null, "{shown}");
    let ([sent, received], [their_sent, their_received]) = (bytes(ours), bytes(theirs));
    assert_eq!(sent.len(), if run.contains("-P 2") { 2 } else { 1 }, "{shown}");
    if they_know_both || !we_send {
        assert_eq!(sent, their_sent, "{shown}");
    }
    if they_know_both || we_send {
        assert_eq!(received, their_received, "{shown}");
    }
    for (sent, received) in std::iter::zip(&sent, &received) {
        // We take all that was sent, whenever the test ends; iperf3 counts what it has read by then.
        let least = match (we_send, run.contains("-n")) {
            (false, _) => *sent,
            (true, true) if they_know_both => *sent,
            (true, true) => 1,
            (true, false) => sent / 2,
        };
        assert!(*received > 0 && (least..=*sent).contains(received), "{shown}");
    }
    if run.contains("-n") {
        let total: u64 = sent.iter().sum();
        // iperf3 sends whole blocks.
        assert!((20_000_000..20_000_000 + (4 << 20)).contains(&total), "{shown}");
    }
}
