//! Running the binaries: every wait has a bound, every child is ended by its own id.
#![allow(dead_code, unreachable_pub, reason = "each test binary is a crate of its own and uses a part of it")]

pub mod iperf3;
pub mod resp;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything takes on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const ECHO: &str = env!("CARGO_BIN_EXE_echo-catnap");
pub const KV: &str = env!("CARGO_BIN_EXE_kv-catnap");
pub const ECHO_LOG: &str = env!("CARGO_BIN_EXE_echo-catnap-cattree");
pub const KV_LOG: &str = env!("CARGO_BIN_EXE_kv-catnap-cattree");
pub const IPERF3: &str = env!("CARGO_BIN_EXE_iperf3-catnap");
pub const RELAY: &str = env!("CARGO_BIN_EXE_relay-catnap");
pub const PIPELINE: &str = env!("CARGO_BIN_EXE_pipeline-catnap");

/// A command with a small heap and without settings of the environment.
pub fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_remove("RUST_LOG").env_remove("COLUMNS").stdin(Stdio::null());
    command.env("DEMI_CONFIG", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/small.toml"));
    command
}

/// Runs to the end.
pub fn run(program: &str, args: &[&str]) -> Output {
    wait_output(command(program, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Both outputs and the status of a child that should end by itself.
pub fn wait_output(mut child: Child) -> Output {
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("still running: {}", String::from_utf8_lossy(&stderr.recv().unwrap()));
        }
        thread::sleep(Duration::from_millis(2));
    };
    Output { status, stdout: stdout.recv().unwrap(), stderr: stderr.recv().unwrap() }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A program that says where it listens, and runs until it is told to stop.
pub struct Server {
    child: Child,
    pub addrs: Vec<SocketAddr>,
    lines: Receiver<String>,
    stderr: Receiver<Vec<u8>>,
}

impl Server {
    /// Starts it and waits for one line `listening on`.
    pub fn start(program: &str, args: &[&str]) -> Server {
        Server::start_with(command(program, args), 1)
    }

    pub fn start_with(mut command: Command, sockets: usize) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = collect(child.stderr.take());
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut server = Server { child, addrs: Vec::new(), lines, stderr };
        for _ in 0..sockets {
            let line = server.line();
            let addr = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("unexpected: {line}"));
            // A UNIX socket's name is known to the test.
            server.addrs.extend(addr.parse::<SocketAddr>());
        }
        server
    }

    pub fn addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output.
    pub fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let _ = self.child.kill();
            panic!("no line; it says: {}", text(&self.stderr.recv().unwrap_or_default()))
        })
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks it to stop; its last lines. It must end with success and without a complaint.
    pub fn stop(self) -> String {
        let (lines, complaints) = self.stop_with_complaints();
        assert_eq!(complaints, "", "it complained");
        lines
    }

    /// As [`Server::stop`], for one that had reason to complain: its last lines, and what it complained of.
    pub fn stop_with_complaints(mut self) -> (String, String) {
        self.signal(Signal::TERM);
        let status = self.wait();
        let stderr = text(&self.stderr.recv().unwrap());
        assert!(status.success(), "{status}: {stderr}");
        let lines: Vec<String> = self.lines.iter().collect();
        (lines.join("\n"), stderr)
    }

    /// Ends it at once, as a crash would. Returns when it is gone, and with it its locks.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.wait();
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not stop");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Clock ticks of 10 ms that it has computed so far.
    pub fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `done` holds.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn collect(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}
