//! packetdrill's scripts against catnip, and what becomes of each.
//!
//! The library is built from `shims/packetdrill`, the scripts are those that come with packetdrill. What they have their
//! kernel set, and assert of Linux's own counters, is taken out ([`script`]); the rest runs as it is, in virtual time. The
//! results are a section of `docs/tcp-conformance.md` ([`report`]), with what this project says to those that fail
//! ([`remarks`]).

mod remarks;
mod report;
mod script;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::script::{Family, Prepared};
use crate::process::{Process, output_of};
use crate::{compile, step, term};

const WHERE: &str = "git clone https://github.com/google/packetdrill DIR, then --sources DIR";
const BUILD: Duration = Duration::from_secs(1200);

/// Run packetdrill's scripts against catnip, and write what becomes of them to docs/tcp-conformance.md.
///
/// Needs packetdrill's sources, with a C compiler, make, bison and flex to build them, and root, as packetdrill locks its
/// memory. Nothing that scripts set in their kernel is carried out, and no packet leaves the process.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A checkout of packetdrill, from github.com/google/packetdrill
    #[arg(long, value_name = "DIR")]
    sources: PathBuf,
    /// Run only scripts whose path contains this, and write nothing
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Show all that packetdrill says of those that fail
    #[arg(long)]
    verbose: bool,
    /// Run in real time: timing errors are then the machine's as well as the stack's; writes nothing
    #[arg(long)]
    real: bool,
    /// Seconds for each script
    #[arg(long, default_value_t = 20)]
    limit: u64,
}

/// What became of one script over one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// All of it was as the script has it, but for so many assertions that were left out.
    Passed(usize),
    /// What packetdrill says.
    Failed(String),
    /// It asks for what there is not.
    NotApplicable(&'static str),
}

/// A script by its path below `gtests/net`, and its outcomes.
pub(crate) type Played = (String, Vec<(Family, Outcome)>);

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let sources = args.sources.canonicalize().unwrap_or_else(|_| args.sources.clone());
    let tests = sources.join("gtests/net");
    if !tests.join("packetdrill/run_packet.c").exists() {
        bail!("{} holds no sources of packetdrill: {WHERE}", sources.display());
    }
    let program = packetdrill(&tests.join("packetdrill"))?;
    let library = library()?;
    let mut scripts = Vec::new();
    find(&tests.join("tcp"), &mut scripts)?;
    scripts.sort();
    let named = scripts.iter().map(|path| path.strip_prefix(&tests).unwrap_or(path).display().to_string());
    let scripts: Vec<_> =
        named.filter(|name| args.only.as_ref().is_none_or(|only| name.contains(only))).collect();
    if scripts.is_empty() {
        bail!("no script below {} is called so", tests.display());
    }
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let progress = term::progress(scripts.len() as u64, true);
    let mut results = Vec::new();
    for name in scripts {
        progress.set_message(name.clone());
        let text = fs::read(tests.join(&name)).with_context(|| name.clone())?;
        let text = String::from_utf8_lossy(&text);
        let mut outcomes = Vec::new();
        for family in Family::of(&name) {
            let outcome = match script::prepare(&name, &text) {
                Err(reason) => Outcome::NotApplicable(reason),
                Ok(prepared) => play(args, &program, &library, folder.path(), &name, family, &prepared)?,
            };
            outcomes.push((family, outcome));
        }
        results.push((name, outcomes));
        progress.inc(1);
    }
    progress.finish_and_clear();
    report::show(&results);
    if args.only.is_none() && !args.real {
        let revision = revision(&sources);
        report::write(&compile::root().join("docs/tcp-conformance.md"), &results, &revision)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// packetdrill, built in its own folder if it is not there.
fn packetdrill(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("packetdrill");
    if program.exists() {
        return Ok(program);
    }
    let mut make = Command::new("sh");
    make.args(["-c", "./configure && exec make packetdrill"]).current_dir(folder);
    step::announce("packetdrill", &make);
    output_of(&mut make, BUILD).context("packetdrill needs make, a C compiler, bison and flex")?;
    Ok(program)
}

/// The library, built as tests are: with what is asserted in it.
fn library() -> Result<PathBuf> {
    let mut cargo =
        compile::cargo(&["build", "-p", "demi-packetdrill", "--message-format=json-render-diagnostics"]);
    step::announce("build", &cargo);
    let text = output_of(&mut cargo, BUILD)?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let files =
        messages.filter(|message| message["target"]["name"] == "demi_packetdrill").flat_map(|message| {
            let files = message["filenames"].as_array().cloned().unwrap_or_default();
            files.into_iter().filter_map(|file| file.as_str().map(PathBuf::from))
        });
    let mut files = files.filter(|file| file.extension().is_some_and(|extension| extension == "so"));
    files.next().context("no library was built")
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), found)?;
        } else if entry.path().extension().is_some_and(|extension| extension == "pkt") {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Which packetdrill it was, as far as that can be told.
fn revision(sources: &Path) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(sources).args(["rev-parse", "--short=10", "HEAD"]).stderr(Stdio::null());
    let text = output_of(&mut git, Duration::from_secs(10)).unwrap_or_default();
    text.trim().to_owned()
}

fn play(
    args: &Args,
    program: &Path,
    library: &Path,
    folder: &Path,
    name: &str,
    family: Family,
    prepared: &Prepared,
) -> Result<Outcome> {
    let path = folder.join(name.replace('/', "_"));
    fs::write(&path, &prepared.text)?;
    let said = folder.join("said");
    let out = File::create(&said)?;
    let clock = if args.real { "real" } else { "virtual" };
    let mut command = Command::new(program);
    command
        .arg(format!("--so_filename={}", library.display()))
        .arg(format!("--so_flags={clock};{}{}", family.flags(), prepared.flags))
        .args(family.arguments())
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    let process = Process::spawn(&mut command)?;
    let status = process.wait(Duration::from_secs(args.limit));
    let said = String::from_utf8_lossy(&fs::read(&said)?).into_owned();
    Ok(match status {
        Ok(status) if status.success() => Outcome::Passed(prepared.left_out),
        Ok(status) => {
            if args.verbose {
                eprintln!("{name}, {family}: {status}\n{said}");
            }
            let line = said.lines().find(|line| line.contains(".pkt:")).unwrap_or("it ended without a word");
            Outcome::Failed(line.split_once(".pkt:").map_or(line, |(_, rest)| rest).trim().to_owned())
        }
        Err(_) => Outcome::Failed(format!("it did not end within {} s", args.limit)),
    })
}
