//! Echo through the C interface, beside the same through Rust's: `tests/bench/c/echo.c` at both ends.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::stats::Spread;
use super::{Session, number};
use crate::process::output_of;
use crate::{compile, setup, term};

const LIMIT: Duration = Duration::from_secs(60);

/// TCP echo through the C interface, beside the same through Rust's.
///
/// Both ends of the subject are a program in C over the library of the libOS, both ends of the control one in Rust over the
/// same libOS, with the same configuration: catnap over the loopback interface, catnip over memif. Every push and
/// pop is waited for. Needs a C compiler.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this libOS
    #[arg(long, value_enum)]
    libos: Option<Libos>,
    /// Bytes per message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Turns that each subject gets
    #[arg(long, default_value_t = 24)]
    alternations: usize,
    /// Seconds to measure in each turn
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Libos {
    Catnap,
    Catnip,
}

impl Libos {
    fn name(self) -> &'static str {
        match self {
            Libos::Catnap => "catnap",
            Libos::Catnip => "catnip",
        }
    }

    fn address(self) -> &'static str {
        match self {
            Libos::Catnap => "127.0.0.1",
            Libos::Catnip => "10.61.0.1",
        }
    }
}

/// The control, and the subject.
const SUBJECTS: [&str; 2] = ["rust", "c"];

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
    setup::ensure(&[setup::GCC]).map_err(|missing| anyhow!("no C compiler: {missing}"))?;
    for libos in [Libos::Catnap, Libos::Catnip] {
        if args.libos.is_none_or(|named| named == libos) {
            compare(args, session, libos)?;
        }
    }
    Ok(())
}

fn compare(args: &Args, session: &Session, libos: Libos) -> Result<()> {
    let program = Program::build(libos)?;
    let progress = session.progress(args.alternations * 2);
    let mut reports: [Vec<Value>; 2] = Default::default();
    for index in 0..args.alternations {
        for step in 0..2 {
            let side = (index + step) % 2;
            progress.set_message(format!("{}, {}", libos.name(), SUBJECTS[side]));
            let cacheline = session.roles.cacheline()?;
            // Of a socket that a memif has left, the next server must not hear.
            let at = format!("@demi-bench-c-{}-{index}-{step}", std::process::id());
            let mut report = match side {
                0 => in_rust(args, session, libos, &at)?,
                _ => program.measure(args, session, libos, &at)?,
            };
            report["subject"] = format!("{} in {}", libos.name(), SUBJECTS[side]).into();
            report["alternation"] = index.into();
            report["cacheline_ns"] = cacheline.into();
            session.emit(&report);
            reports[side].push(report);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let p50 =
        |side: usize| reports[side].iter().map(|report| number(report, "p50_ns")).collect::<Result<Vec<_>>>();
    let (control, subject) = (p50(0)?, p50(1)?);
    let ratio = Spread::of(subject.iter().zip(&control).map(|(subject, control)| subject / control));
    session.emit(&json!({
        "subject": libos.name(),
        "size": args.size,
        "alternations": args.alternations,
        "ratio_p50": ratio.median,
        "ratio_p50_quartiles": ratio.quartiles(),
    }));
    if session.json {
        return Ok(());
    }
    println!("{}: echo in C and in Rust, {} B, {} alternations", libos.name(), args.size, args.alternations);
    let bars: Vec<_> = SUBJECTS.into_iter().zip([control, subject]).collect();
    let bars: Vec<_> =
        bars.into_iter().map(|(name, p50)| (name.to_owned(), Spread::of(p50).median)).collect();
    term::bars("median of p50", &bars, term::time);
    println!("ratio_p50 {ratio}");
    session.warn_of_company(reports.iter().flatten());
    Ok(())
}

fn in_rust(args: &Args, session: &Session, libos: Libos, at: &str) -> Result<Value> {
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
    fn measure(&self, args: &Args, session: &Session, libos: Libos, at: &str) -> Result<Value> {
        let [near, far] = session.roles.cores();
        let server =
            self.command(libos, "server", at, &[far.to_string(), libos.address().into(), "0".into()])?;
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
