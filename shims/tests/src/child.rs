//! A process whose every wait has a bound.
//!
//! Invariant: a child leads a process group of its own, which is signalled only while the child has not been reaped, so
//! no signal reaches a stranger that got its number. Whatever is left of the group ends with its leader.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

/// Longer than anything takes on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How much of a child's complaints is kept.
const MOST: usize = 64 << 10;

/// A running program.
pub struct Child {
    child: std::process::Child,
    shown: String,
    lines: Receiver<String>,
    said: Vec<String>,
    stderr: Arc<Mutex<Vec<u8>>>,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts it, without an input.
    #[track_caller]
    pub fn start(command: Command) -> Child {
        Child::start_with(command, Stdio::null())
    }

    /// Starts it with an input.
    #[track_caller]
    pub fn start_with(mut command: Command, stdin: Stdio) -> Child {
        use std::os::unix::process::CommandExt;
        let shown = show(&command);
        command.process_group(0).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut stdout = BufReader::new(stdout);
                let mut line = Vec::new();
                while matches!(stdout.read_until(b'\n', &mut line), Ok(1..)) {
                    let _ = sender.send(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned());
                    line.clear();
                }
            });
        }
        let stderr = Arc::new(Mutex::new(Vec::new()));
        if let Some(mut stream) = child.stderr.take() {
            let stderr = Arc::clone(&stderr);
            thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut chunk) {
                    let mut kept = stderr.lock().unwrap_or_else(PoisonError::into_inner);
                    let room = MOST - kept.len();
                    kept.extend_from_slice(&chunk[..length.min(room)]);
                }
            });
        }
        Child { child, shown, lines, said: Vec::new(), stderr, status: None }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its input, if it has one that is not taken yet.
    pub fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// The next line of its standard output, or a report.
    pub fn line(&mut self, limit: Duration) -> Result<String, String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => {
                self.said.push(line.clone());
                Ok(line)
            }
            Err(_) => Err(format!("no line\n{}{}", self.whereabouts(), self.report())),
        }
    }

    /// Waits for its end; `None` after `limit`, and then it still runs.
    pub fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if self.status.is_some() {
                return self.status;
            }
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if let Ok(Some(_)) = waitid(WaitId::Pid(Pid::from_child(&self.child)), options) {
                self.reap();
                continue;
            }
            if Instant::now() > deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> bool {
        self.ended(Duration::ZERO).is_none()
    }

    /// Waits for its end with success; what it printed.
    #[track_caller]
    pub fn succeed(&mut self, limit: Duration) -> String {
        match self.result(limit) {
            Ok(said) => said,
            Err(report) => panic!("{report}"),
        }
    }

    /// Waits for its end with success: what it printed, or a report.
    pub fn result(&mut self, limit: Duration) -> Result<String, String> {
        match self.ended(limit) {
            Some(status) if status.success() => {
                self.drain();
                Ok(self.said.join("\n"))
            }
            Some(status) => Err(format!("{status}\n{}", self.report())),
            None => Err(format!("not ended within {limit:?}\n{}{}", self.whereabouts(), self.report())),
        }
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Asks it to end and waits until it has; its status.
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.ended(PATIENCE).unwrap_or_else(|| panic!("it does not stop\n{}", self.report()))
    }

    /// What it complained of so far.
    pub fn complaints(&self) -> String {
        text(&self.stderr.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All that is known of it, for a person.
    pub fn report(&mut self) -> String {
        // What ended has a moment to have its last words taken down.
        thread::sleep(Duration::from_millis(20));
        self.drain();
        let said = self.said[self.said.len().saturating_sub(60)..].join("\n");
        format!("--- {}\n--- stdout:\n{said}\n--- stderr:\n{}", self.shown, self.complaints())
    }

    /// In which system calls its threads are.
    fn whereabouts(&self) -> String {
        let mut report = String::new();
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id()));
        for task in tasks.into_iter().flatten().flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let line = format!("--- thread {} {}", read("comm").trim(), read("syscall").trim());
            report.push_str(&line);
            report.push('\n');
        }
        report
    }

    fn reap(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.status = self.child.wait().ok();
    }

    fn drain(&mut self) {
        // Something that it started may still hold its output.
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(50)) {
            self.said.push(line);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.reap();
        }
    }
}

/// A command as a person would type it.
fn show(command: &Command) -> String {
    let mut words = Vec::new();
    for (key, value) in command.get_envs() {
        words.extend(value.map(|value| format!("{}={}", key.to_string_lossy(), value.to_string_lossy())));
    }
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Waits until `done` holds.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes for a person.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
