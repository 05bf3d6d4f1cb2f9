//! The C programs of `posix/`, on the kernel and under the shim.
//!
//! Each is a server and a client, both of which check what they see. One of them is the subject, the other its peer on the
//! kernel; then they change places. A program that does not pass with the kernel on both sides proves nothing, so that
//! comes first, on every run.
//!
//! A program may say in its first lines `// except STACK: why`, or `// except STACK ROLE: why`, where it has no meaning,
//! `// flags: …` for the compiler, `// also: ipv6`, and `// catnip: …` for more about the device of a
//! server on catnip.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use demi_shim_tests::{Bed, Child, Stack, bed, skipped, text};
use libtest_mimic::{Arguments, Failed, Trial};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/posix");

/// Longer than any program takes on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // They wait more than they compute.
    args.test_threads.get_or_insert(4);
    if Command::new("cc").arg("--version").stdin(Stdio::null()).output().is_err() {
        skipped("posix", "there is no C compiler: `cargo xtask setup` installs it");
        return ExitCode::SUCCESS;
    }
    let mut trials: Vec<Trial> =
        Program::all().into_iter().flat_map(|program| trials(&Arc::new(program))).collect();
    trials.extend([Stack::Catnap, Stack::Catnip].map(|stack| {
        let name = format!("{stack}::subjects_have_the_library");
        Trial::test(name.clone(), move || subjects_have_the_library(stack, &name))
    }));
    let conclusion = libtest_mimic::run(&args, trials);
    bed::tear_down();
    conclusion.exit_code()
}

/// What passes without the library proves nothing.
fn subjects_have_the_library(stack: Stack, name: &str) -> Result<(), Failed> {
    let bed = match Bed::new(stack) {
        Ok(bed) => bed,
        Err(why) => {
            skipped(name, &why);
            return Ok(());
        }
    };
    let maps = |mut command: Command| {
        command.arg("/proc/self/maps");
        Child::start(command).result(LIMIT)
    };
    let library = format!("libdemi_preload_{stack}.so");
    if !maps(bed.subject("/bin/cat"))?.contains(&library) {
        return Err(format!("a subject has no {library}").into());
    }
    if maps(bed.peer("/bin/cat"))?.contains("libdemi") {
        return Err("a peer has the library".into());
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Client => "client",
        }
    }
}

/// Everything that is done with a program.
fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let name = &program.name;
    let with = Arc::clone(program);
    let mut trials = vec![Trial::test(format!("kernel::{name}"), move || Ok(with.oracle()?))];
    for v6 in [false, true] {
        if v6 && !program.v6 {
            continue;
        }
        for stack in [Stack::Catnap, Stack::Catnip] {
            for role in [Role::Server, Role::Client] {
                let with = Arc::clone(program);
                let version = if v6 { "::ipv6" } else { "" };
                let name = format!("{stack}::{name}::{}{version}", role.name());
                let shown = name.clone();
                let trial = Trial::test(name, move || with.under_the_shim(stack, role, v6, &shown));
                trials.push(trial.with_ignored_flag(program.is_exempt(stack, role)));
            }
        }
    }
    trials
}

struct Program {
    name: String,
    source: PathBuf,
    flags: Vec<String>,
    v6: bool,
    /// More about catnip's device.
    device: String,
    /// Stacks, and perhaps roles, in which it has no meaning.
    exempt: Vec<String>,
    binary: OnceLock<Result<PathBuf, String>>,
    oracle: OnceLock<Result<(), String>>,
}

impl Program {
    fn all() -> Vec<Program> {
        let entries = std::fs::read_dir(SOURCES).unwrap();
        let mut sources: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        sources.retain(|path| path.extension().is_some_and(|extension| extension == "c"));
        sources.sort();
        sources.into_iter().map(Program::new).collect()
    }

    fn new(source: PathBuf) -> Program {
        let text = std::fs::read_to_string(&source).unwrap();
        let (mut flags, mut exempt, mut v6, mut device) = (Vec::new(), Vec::new(), false, String::new());
        for line in text.lines().map_while(|line| line.strip_prefix("// ")) {
            if let Some(rest) = line.strip_prefix("flags: ") {
                flags.extend(rest.split_whitespace().map(str::to_owned));
            } else if let Some((what, _)) =
                line.strip_prefix("except ").and_then(|rest| rest.split_once(": "))
            {
                exempt.push(what.to_owned());
            }
            if let Some(more) = line.strip_prefix("catnip: ") {
                device = format!("{more}\n");
            }
            v6 |= line == "also: ipv6";
        }
        let name = source.file_stem().unwrap().to_string_lossy().into_owned();
        Program { name, source, flags, v6, device, exempt, binary: OnceLock::new(), oracle: OnceLock::new() }
    }

    fn is_exempt(&self, stack: Stack, role: Role) -> bool {
        self.exempt
            .iter()
            .any(|what| *what == stack.to_string() || *what == format!("{stack} {}", role.name()))
    }

    /// Passes with the kernel on both sides.
    fn oracle(&self) -> Result<(), String> {
        let run = || {
            let bed = Bed::new(Stack::Kernel)?;
            self.run(&bed, Role::Server, false)?;
            if self.v6 { self.run(&bed, Role::Server, true) } else { Ok(()) }
        };
        self.oracle.get_or_init(run).clone()
    }

    fn under_the_shim(&self, stack: Stack, role: Role, v6: bool, name: &str) -> Result<(), Failed> {
        self.oracle().map_err(|why| format!("on the kernel: {why}"))?;
        match Bed::new(stack) {
            Ok(bed) => Ok(self.run(&bed, role, v6)?),
            Err(why) => {
                skipped(name, &why);
                Ok(())
            }
        }
    }

    /// Server and client to their ends, one of them as the subject.
    fn run(&self, bed: &Bed, subject: Role, v6: bool) -> Result<(), String> {
        let binary = self.binary.get_or_init(|| self.compile()).clone()?;
        let binary = binary.to_str().ok_or("a path that is no text")?;
        let more =
            if bed.stack() == Stack::Catnip && subject == Role::Server { self.device.as_str() } else { "" };
        let command =
            |role| if role == subject { bed.subject_with(binary, 64, more) } else { bed.peer(binary) };
        let addr = if subject == Role::Server { bed.subject_addr(v6) } else { bed.peer_addr(v6) };

        let mut server = command(Role::Server);
        server.args(["server", addr]);
        let mut server = Child::start(server);
        let port = loop {
            let line = server.line(LIMIT)?;
            if let Some(port) = line.strip_prefix("ready ") {
                break port.to_owned();
            }
        };
        let mut client = command(Role::Client);
        client.args(["client", addr, &port]);
        let mut client = Child::start(client);
        let result = client.result(LIMIT);
        // Each may have failed for the other's sake: both are heard.
        let left = if result.is_ok() { LIMIT } else { Duration::from_secs(2) };
        match (result, server.result(left)) {
            (Ok(_), Ok(_)) => Ok(()),
            (Ok(_), Err(why)) => Err(format!("server: {why}\n{}", client.report())),
            (Err(why), Ok(_)) => Err(format!("client: {why}\n{}", server.report())),
            (Err(client), Err(server)) => Err(format!("client: {client}\nserver: {server}")),
        }
    }

    fn compile(&self) -> Result<PathBuf, String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("posix");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let binary = folder.join(&self.name);
        // What another run has started is not written over.
        let fresh = folder.join(format!("{}.{}", self.name, std::process::id()));
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-pthread"]).args(&self.flags);
        let output = cc.arg(&self.source).arg("-o").arg(&fresh).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("cc: {error}"))?;
        if !output.status.success() {
            return Err(text(&output.stderr));
        }
        std::fs::rename(&fresh, &binary).map_err(|error| error.to_string())?;
        Ok(binary)
    }
}
