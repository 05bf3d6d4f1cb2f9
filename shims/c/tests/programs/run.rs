//! A program's run: every wait has a bound, every child is ended by its own id.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use tempfile::TempDir;

use super::toolchain::{Between, Library, Tools};

/// Longer than anything takes on a machine that is busy with other tests; under valgrind, too.
const PATIENCE: Duration = Duration::from_secs(120);

/// A heap that can be had on any machine.
pub(crate) const CONFIG: &str = "[heap]\nsize_mib = 16\nlock = false\nhuge_pages = \"never\"\n";

pub(crate) struct Run<'a> {
    tools: &'a Tools,
    program: &'static str,
    library: &'static Library,
    folder: TempDir,
    config: PathBuf,
    args: Vec<String>,
    sanitize: bool,
    valgrind: bool,
}

/// What a program leaves behind.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        tools: &'a Tools,
        program: &'static str,
        library: &'static Library,
    ) -> Result<Run<'a>, Failed> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("demi.toml");
        let run =
            Run { tools, program, library, folder, config, args: vec![], sanitize: false, valgrind: false };
        Ok(run.config(""))
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }

    /// Adds to the configuration.
    pub(crate) fn config(self, text: &str) -> Self {
        std::fs::write(self.folder.path().join("demi.toml"), format!("{CONFIG}{text}"))
            .expect("it is a folder of ours");
        self
    }

    /// Has it look for its configuration elsewhere.
    pub(crate) fn config_path(mut self, path: &str) -> Self {
        self.config = path.into();
        self
    }

    pub(crate) fn sanitized(mut self) -> Self {
        self.sanitize = true;
        self
    }

    pub(crate) fn in_valgrind(mut self) -> Self {
        self.valgrind = true;
        self
    }

    /// Runs it to its end, which must be a good one.
    pub(crate) fn succeed(self) -> Result<(), Failed> {
        self.output().map(drop)
    }

    pub(crate) fn output(self) -> Result<Output, Failed> {
        let output = end(self.start()?)?;
        drop(self.folder);
        expect(output.status.success(), &output)?;
        Ok(output)
    }

    fn start(&self) -> Result<Child, Failed> {
        let program = self.tools.compile(self.program, self.sanitize)?;
        let mut command = match self.valgrind {
            true => {
                let mut valgrind = Command::new("valgrind");
                // What the program does wrong is found beside the heap's own region; that is checked by the library.
                valgrind.args(["--quiet", "--error-exitcode=9", "--leak-check=no"]).arg(program);
                valgrind
            }
            false => Command::new(program),
        };
        command.args(&self.args).env("LD_LIBRARY_PATH", self.tools.named(self.library)?);
        command.env("DEMI_CONFIG", &self.config).env("RUST_BACKTRACE", "0");
        // What is mapped when a program ends is no leak of its.
        command.env("ASAN_OPTIONS", "detect_leaks=0");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command.spawn()?)
    }
}

/// A server and a client of a program, each a process.
pub(crate) fn talk(tools: &Tools, program: &'static str, library: &'static Library) -> Result<(), Failed> {
    let socket = tempfile::tempdir()?;
    let device = |role: &str, addr: &str| match library.between() {
        Between::Memif => format!(
            "[catnip.ip]\naddresses = [\"{addr}/24\"]\n[catnip.device]\nkind = \"memif\"\nsocket = \"{}\"\nrole = \"{role}\"\n",
            socket.path().join("memif").display()
        ),
        Between::Rdma => format!(
            "[catmint]\ndevice = \"soft\"\n[catmint.soft.shm]\ndirectory = \"{}\"\naddress = \"{addr}\"\n",
            socket.path().join("rdma").display()
        ),
        Between::Kernel => String::new(),
    };
    let addr = if let Between::Kernel = library.between() { "127.0.0.1" } else { "10.0.0.1" };
    // It is kept for as long as the program may read its configuration.
    let run = Run::new(tools, program, library)?.config(&device("server", "10.0.0.1"));
    let run = run.args(&["--server", addr, "0", "0"]);
    let mut server = run.start()?;
    let mut lines = BufReader::new(server.stdout.take().ok_or("no output")?);
    let stderr = collect(server.stderr.take());
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let outcome = match line.trim().rsplit_once(':') {
        Some((_, port)) => {
            let client = Run::new(tools, program, library)?.config(&device("client", "10.0.0.2"));
            client.args(&["--client", addr, port, "1000"]).succeed()
        }
        None => {
            let _ = server.kill();
            Err(format!("the server says {line:?} and {}", stderr.recv().unwrap_or_default()).into())
        }
    };
    if outcome.is_err() {
        let _ = server.kill();
    }
    let status = patiently(&mut server)?;
    outcome?;
    let stderr = stderr.recv().unwrap_or_default();
    expect(status.success(), &Output { status, stdout: line, stderr })
}

pub(crate) fn expect(holds: bool, output: &Output) -> Result<(), Failed> {
    if holds {
        return Ok(());
    }
    let Output { status, stdout, stderr } = output;
    Err(format!("{status}\n{stdout}\n{stderr}").into())
}

/// Waits for the end of a child, and for what it says until then.
pub(crate) fn end(mut child: Child) -> Result<Output, Failed> {
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = patiently(&mut child)?;
    Ok(Output {
        status,
        stdout: stdout.recv().unwrap_or_default(),
        stderr: stderr.recv().unwrap_or_default(),
    })
}

/// Waits for the end of a child; ends it if that is too long.
fn patiently(child: &mut Child) -> Result<ExitStatus, Failed> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(format!("it did not end within {PATIENCE:?}").into());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn collect(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
