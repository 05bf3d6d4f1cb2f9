//! Child processes that are always stopped: at their time limit, when their handle goes, and on Ctrl-C.
//!
//! Invariant: a child leads a process group of its own and is signalled only while it has not been reaped,
//! under the lock that reaping takes, so no signal ever reaches a stranger that got its number.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a child may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(2);

static STOPPING: AtomicBool = AtomicBool::new(false);
static CHILDREN: Mutex<Vec<Weak<Mutex<Child>>>> = Mutex::new(Vec::new());

/// Stops every child and exits when this process is interrupted or terminated.
pub(crate) fn stop_all_on_signal() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("signal handlers")?;
    std::thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        STOPPING.store(true, Ordering::Release);
        // The lock is kept, so that no child is started any more.
        let children = lock(&CHILDREN);
        for child in children.iter().filter_map(Weak::upgrade) {
            end(&child);
        }
        eprintln!("\nstopped");
        std::process::exit(128 + signal);
    });
    Ok(())
}

/// Does not return once this process has been interrupted: what goes wrong then does so because children are
/// being stopped, and the process ends when they are.
pub(crate) fn await_stop_if_stopping() {
    while STOPPING.load(Ordering::Acquire) {
        std::thread::park();
    }
}

/// A running child.
#[derive(Debug)]
pub(crate) struct Process {
    child: Arc<Mutex<Child>>,
    name: String,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Result<Process> {
        use std::os::unix::process::CommandExt;
        let name = command.get_program().to_string_lossy().into_owned();
        let mut children = lock(&CHILDREN);
        let child = command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
        let child = Arc::new(Mutex::new(child));
        children.retain(|child| child.strong_count() > 0);
        children.push(Arc::downgrade(&child));
        Ok(Process { child, name })
    }

    /// Its number, which is its own until its end has been seen.
    pub(crate) fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Waits for its end; stops it at the limit.
    pub(crate) fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = lock(&self.child).try_wait()? {
                return Ok(status);
            }
            if begin.elapsed() > limit {
                self.stop();
                bail!("{} did not end within {} s and was stopped", self.name, limit.as_secs());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Ends it, and waits until it has.
    pub(crate) fn stop(&self) {
        end(&self.child);
    }

    /// Its standard output by lines, if that was piped.
    pub(crate) fn lines(&self) -> Result<Lines> {
        Ok(Lines::of(self.output()?))
    }

    /// Its standard output byte by byte, if that was piped.
    pub(crate) fn output(&self) -> Result<ChildStdout> {
        lock(&self.child).stdout.take().context("standard output is not piped")
    }

    /// Its standard input, if that was piped.
    pub(crate) fn input(&self) -> Result<ChildStdin> {
        lock(&self.child).stdin.take().context("standard input is not piped")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a command to its end and returns what it printed. Its standard error is inherited.
pub(crate) fn output_of(command: &mut Command, limit: Duration) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let process = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut lines = process.lines()?;
    let deadline = Instant::now() + limit;
    let mut text = String::new();
    while let Some(line) = lines.next(deadline.saturating_duration_since(Instant::now()))? {
        text.push_str(&line);
        text.push('\n');
    }
    let status = process.wait(GRACE)?;
    if !status.success() {
        bail!("{name} failed ({status}) {}", text.trim_end());
    }
    Ok(text)
}

/// Like [`output_of`], for commands that take their input at once.
pub(crate) fn output_of_input(command: &mut Command, input: &str, limit: Duration) -> Result<String> {
    let process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut lines = process.lines()?;
    process.input()?.write_all(input.as_bytes())?;
    let mut text = String::new();
    while let Some(line) = lines.next(limit)? {
        text.push_str(&line);
        text.push('\n');
    }
    process.wait(limit)?;
    Ok(text)
}

/// Lines of a pipe, each awaited for a limited time.
#[derive(Debug)]
pub(crate) struct Lines {
    incoming: Receiver<std::io::Result<String>>,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Lines {
        let (sender, incoming) = channel();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            loop {
                line.clear();
                let read = pipe.read_until(b'\n', &mut line);
                let next = match read {
                    Ok(0) => return,
                    Ok(_) => Ok(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned()),
                    Err(error) => Err(error),
                };
                let failed = next.is_err();
                if sender.send(next).is_err() || failed {
                    return;
                }
            }
        });
        Lines { incoming }
    }

    /// The next line; `None` at the end.
    pub(crate) fn next(&mut self, limit: Duration) -> Result<Option<String>> {
        match self.incoming.recv_timeout(limit) {
            Ok(line) => Ok(Some(line?)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(anyhow!("no output for {} s", limit.as_secs())),
        }
    }
}

fn end(child: &Mutex<Child>) {
    let begin = Instant::now();
    let mut signal = Signal::TERM;
    loop {
        let mut child = lock(child);
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        if signal == Signal::TERM || begin.elapsed() > GRACE {
            // It may have ended this moment; then there is nothing to stop.
            let _ = kill_process_group(Pid::from_child(&child), signal);
            signal = Signal::KILL;
        }
        drop(child);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
