//! Programs in C against every library, each compiled once: the library is found by its name when the program starts,
//! and that name is given to another.
//!
//! | file | what it holds |
//! |---|---|
//! | `toolchain` | compilers, the libraries, names for them |
//! | `run` | a program's run |
//! | `header` | the header against the Rust types, in C++, and the table of errors |
//! | `others` | the examples, and the package in Python |
//! | `*.c` | the programs; each ends with success, or with a line that says what is not so |

mod header;
mod others;
mod run;
mod toolchain;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use self::run::{Run, talk};
use self::toolchain::{LIBRARIES, Library, Tools};

/// What a program needs of a library.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing: queues in memory will do.
    Queues,
    /// Connections, whether of bytes or of messages.
    Sockets,
    /// Connections that are streams of bytes.
    Streams,
    /// Kernel sockets.
    Kernel,
    /// Logs of cattree.
    Logs,
}

/// The programs of one process, and what they need.
const PROGRAMS: [(&str, Needs); 28] = [
    ("streams", Needs::Sockets),
    // There are no datagrams beside messages.
    ("datagrams", Needs::Streams),
    ("wait_any", Needs::Sockets),
    ("wait_next", Needs::Sockets),
    ("wait_all", Needs::Sockets),
    ("timeouts", Needs::Queues),
    ("cancel", Needs::Sockets),
    ("operators", Needs::Queues),
    // Messages need no framing, and are refused it; pops are of whole ones, not by the byte.
    ("frame", Needs::Streams),
    ("proxy", Needs::Sockets),
    ("memory", Needs::Sockets),
    ("segments", Needs::Queues),
    // It pushes to the peer of a stream by its address.
    ("misuse", Needs::Streams),
    ("threads", Needs::Sockets),
    ("fork", Needs::Queues),
    // Options of TCP, and of datagrams.
    ("options", Needs::Streams),
    ("tcp_info", Needs::Streams),
    ("wait_fd", Needs::Sockets),
    ("reentry", Needs::Queues),
    ("leaves", Needs::Sockets),
    ("poison", Needs::Queues),
    // It sends a datagram.
    ("watch", Needs::Streams),
    ("log", Needs::Logs),
    ("file", Needs::Kernel),
    ("unix", Needs::Kernel),
    ("refused_start", Needs::Queues),
    ("atomics", Needs::Queues),
    ("both", Needs::Queues),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tools = Tools::find();
    let mut trials = vec![
        trial(tools, "the header's layout is that of the Rust types", header::layout),
        trial(tools, "the header declares what the library exports, and nothing else", header::symbols),
        trial(tools, "demi.3 has every error with its errno", |_| header::errors()),
    ];
    for library in &LIBRARIES {
        for (program, needs) in PROGRAMS {
            if library.has(needs) {
                let name = format!("{program} over {library}");
                let test = trial(tools, &name, move |tools| single(tools, program, library));
                trials.push(if program == "both" { test.with_ignored_flag(!tools.cxx) } else { test });
            }
        }
        if library.has(Needs::Sockets) {
            let name = format!("echo_stream between two processes over {library}");
            trials.push(trial(tools, &name, move |tools| talk(tools, "echo_stream", library)));
        }
    }
    let [catnap, catnip, _, catnap_cattree, ..] = &LIBRARIES;
    trials.extend([
        trial(tools, "a program that is linked statically", others::linked_statically),
        trial(tools, "example echo", move |tools| others::echo(tools, catnap)),
        trial(tools, "example kv-client", move |tools| others::kv_client(tools, catnap)),
        trial(tools, "example log", move |tools| others::log(tools, catnap_cattree)),
    ]);
    for library in [catnap, catnip] {
        let name = format!("Python over {library}");
        let python = Trial::test(name, move || others::python(tools, library));
        trials.push(python.with_ignored_flag(!tools.python));
    }
    for program in ["streams", "operators", "memory", "misuse", "threads", "fork", "segments"] {
        let name = format!("{program} with the address sanitizer");
        trials.push(
            trial(tools, &name, move |tools| Run::new(tools, program, &LIBRARIES[0])?.sanitized().succeed())
                .with_ignored_flag(!tools.can_sanitize()),
        );
        let name = format!("{program} under valgrind");
        trials.push(
            trial(tools, &name, move |tools| {
                Run::new(tools, program, &LIBRARIES[0])?.in_valgrind().succeed()
            })
            .with_ignored_flag(tools.cc.is_none() || !tools.valgrind),
        );
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test, which is left out where there is no compiler.
fn trial(
    tools: &'static Tools,
    name: &str,
    test: impl FnOnce(&Tools) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    Trial::test(name, move || test(tools)).with_ignored_flag(tools.cc.is_none())
}

/// A program of one process.
fn single(tools: &Tools, program: &'static str, library: &'static Library) -> Result<(), Failed> {
    match program {
        "log" => Run::new(tools, "log", library)?.args(&["--log", "name"]).succeed(),
        "file" => {
            let folder = tempfile::tempdir()?;
            let path = folder.path().join("file").display().to_string();
            Run::new(tools, "log", library)?.args(&["--file", &path]).succeed()
        }
        "unix" => {
            let folder = tempfile::tempdir()?;
            let path = folder.path().join("socket").display().to_string();
            Run::new(tools, "unix", library)?.args(&[&path]).succeed()
        }
        "watch" => {
            let output = Run::new(tools, program, library)?.config("[c]\ncheck_writes = true\n").output()?;
            let token = output.stdout.trim();
            run::expect(output.stderr.contains(&format!("token {token} ")) && !token.is_empty(), &output)?;
            run::expect(output.stderr.lines().count() == 1, &output)
        }
        "poison" => {
            let output = Run::new(tools, program, library)?.output()?;
            run::expect(output.stderr.contains("was written after it was freed"), &output)
        }
        "refused_start" => {
            let output = Run::new(tools, program, library)?.config("[c]\nmax_segments = 9\n").output()?;
            let says = "c.max_segments must be 1 to 8";
            run::expect(output.stderr.matches(says).count() == 3, &output)?;
            let output = Run::new(tools, program, library)?.config_path("/nonexistent/demi.toml").output()?;
            run::expect(output.stderr.contains("/nonexistent/demi.toml"), &output)
        }
        _ => Run::new(tools, program, library)?.succeed(),
    }
}
