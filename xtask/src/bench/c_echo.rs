//! Echo through the C interface, beside the same through Rust's: `tests/bench/c/echo.c` at both ends.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Session;
use super::stats::Spread;
use super::turns::{Libos, Reports, Turns};
use crate::process::output_of;
use crate::{compile, setup};

const LIMIT: Duration = Duration::from_secs(60);

/// TCP echo through the C interface, beside the same through Rust's.
///
/// Both ends of the subject are a program in C over the library of the libOS, both ends of the control one in Rust over the
/// same libOS, with the same configuration: catnap over the loopback interface, catnip over memif. Every push and
/// pop is waited for. Needs a C compiler.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    turns: Turns,
    /// Turns that each subject gets
    #[arg(long, default_value_t = 24)]
    alternations: usize,
}

/// The control, and the subject.
const SUBJECTS: [&str; 2] = ["rust", "c"];

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    setup::ensure(&[setup::GCC]).map_err(|missing| anyhow!("no C compiler: {missing}"))?;
    for libos in args.turns.liboses() {
        compare(&args.turns, args.alternations, session, libos)?;
    }
    Ok(())
}

fn compare(args: &Turns, alternations: usize, session: &Session, libos: Libos) -> Result<()> {
    let program = Program::build(libos)?;
    let reports = Reports::gather(session, SUBJECTS, alternations, libos.name(), |index, side| {
        // Of a socket that a memif has left, the next server must not hear.
        let at = format!("@demi-bench-c-{}-{index}-{side}", std::process::id());
        match side {
            0 => in_rust(args, session, libos, &at),
            _ => program.measure(args, session, libos, &at),
        }
    })?;
    let [control, subject] = reports.p50()?;
    let ratio = Spread::of(subject.iter().zip(&control).map(|(subject, control)| subject / control));
    session.emit(&json!({
        "subject": libos.name(),
        "size": args.size,
        "alternations": alternations,
        "ratio_p50": ratio.median,
        "ratio_p50_quartiles": ratio.quartiles(),
    }));
    if !session.json {
        println!("{}: echo in C and in Rust, {} B, {alternations} alternations", libos.name(), args.size);
        reports.show(session, [control, subject], &ratio);
    }
    Ok(())
}

fn address(libos: Libos) -> &'static str {
    match libos {
        Libos::Catnap => "127.0.0.1",
        Libos::Catnip => "10.61.0.1",
    }
}

fn in_rust(args: &Turns, session: &Session, libos: Libos, at: &str) -> Result<Value> {
    let [near, far] = session.roles.cores();
    let nic = match libos {
        Libos::Catnap => String::new(),
        Libos::Catnip => format!("--device memif --at {at}"),
    };
    let name = libos.name();
    let mut server = session.roles.start(&format!("echo-server --subject {name} --core {far} {nic}"))?;
    let address = server.address("listening")?;
    let report = session.roles.report(&format!(
        "echo-client --subject {name} --core {near} --connect {address} --size {} --seconds {} {nic}",
        args.size, args.seconds
    ))?;
    while server.read_more()?.is_some() {}
    server.finish()?;
    Ok(report)
}

/// The program in C, and the library that it finds.
#[derive(Debug)]
struct Program {
    program: PathBuf,
    folder: TempDir,
}

impl Program {
    fn build(libos: Libos) -> Result<Program> {
        let name = libos.name();
        let files = compile::libraries(&[format!("demi-c-{name}")])?;
        let library = files.iter().find(|file| file.extension().is_some_and(|kind| kind == "so"));
        let library = library.context("no library was built")?;
        let folder = tempfile::tempdir().context("a folder for the program")?;
        let soname = folder.path().join(format!("libdemi_{name}.so.0"));
        std::os::unix::fs::symlink(library, &soname).context("the library's name")?;
        let program = folder.path().join("echo");
        let source = compile::root().join("tests/bench/c/echo.c");
        let mut command = Command::new("gcc");
        command.args(["-O3", "-Wall", "-Wextra", "-Werror", "-I"]).arg(compile::root().join("shims/include"));
        command.arg("-o").arg(&program).arg(&source).arg(library);
        output_of(&mut command, LIMIT).context("tests/bench/c/echo.c does not compile")?;
        Ok(Program { program, folder })
    }

    /// One turn: a server and a client, started afresh.
    fn measure(&self, args: &Turns, session: &Session, libos: Libos, at: &str) -> Result<Value> {
        let [near, far] = session.roles.cores();
        let server =
            self.command(libos, "server", at, &[far.to_string(), address(libos).into(), "0".into()])?;
        let mut server = session.roles.start_as(server, "the server in C")?;
        let address = server.address("listening")?;
        let Some((ip, port)) = address.rsplit_once(':') else { bail!("{address} is no address") };
        let words = [&near.to_string(), ip, port, &args.size.to_string(), &args.seconds.to_string(), "0"]
            .map(str::to_owned);
        let client = self.command(libos, "client", at, &words)?;
        let mut client = session.roles.start_as(client, "the client in C")?;
        let report = client.read()?;
        client.finish()?;
        server.finish()?;
        Ok(report)
    }

    /// An end of the exchange, configured as that in Rust is.
    fn command(&self, libos: Libos, role: &str, at: &str, words: &[String]) -> Result<Command> {
        let number = if role == "server" { 1 } else { 2 };
        let config = match libos {
            Libos::Catnap => "[heap]\nsize_mib = 32\n".to_owned(),
            Libos::Catnip => format!(
                "[heap]\nsize_mib = 32\n[wait]\nspin_min_us = 10000000\nspin_max_us = 10000000\n\
                 [catnip.ip]\naddresses = [\"10.61.0.{number}/24\"]\n[catnip.device]\nkind = \"memif\"\n\
                 socket = \"{at}\"\nrole = \"{role}\"\nmtu = 1500\nring_log2 = 10\n"
            ),
        };
        let path = self.folder.path().join(format!("{role}.toml"));
        std::fs::write(&path, config).with_context(|| path.display().to_string())?;
        let mut command = Command::new(&self.program);
        command.arg(role).args(words).env("DEMI_CONFIG", path).env("LD_LIBRARY_PATH", self.folder.path());
        Ok(command)
    }
}
