//! Redis, unmodified, over catnip at both ends, beside the kernel.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::stats::Spread;
use super::{Session, number};
use crate::process::{Process, output_of};
use crate::{compile, setup, term};

/// redis-server and redis-benchmark, unmodified, with libdemi_preload_catnip under both, beside the same over the loopback
/// interface of the kernel.
///
/// catnip's ends share memory (memif). The second control is the kernel as well, with both programs kept from sleeping: they spin in
/// epoll_wait. Each end has a core. The last line holds the ratios of requests per second, with one connection and with many.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Connections of the second measurement
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Requests in each measurement with one connection; with many, three times as many
    #[arg(long, default_value_t = 30_000)]
    requests: usize,
    /// What redis-benchmark asks for
    #[arg(long, default_value = "get", value_parser = ["ping_mbulk", "set", "get", "incr"])]
    test: String,
    /// Turns that each subject gets
    #[arg(long, default_value_t = 8)]
    alternations: usize,
}

/// Longest time that a server takes to start, or one measurement to end.
const LIMIT: Duration = Duration::from_secs(60);

const PORT: &str = "16399";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Subject {
    Kernel,
    Spinning,
    Catnip,
}

impl Subject {
    const ALL: [Subject; 3] = [Subject::Kernel, Subject::Spinning, Subject::Catnip];

    fn name(self) -> &'static str {
        match self {
            Subject::Kernel => "kernel",
            Subject::Spinning => "kernel, spinning",
            Subject::Catnip => "catnip",
        }
    }

    fn host(self) -> &'static str {
        match self {
            Subject::Kernel | Subject::Spinning => "127.0.0.1",
            Subject::Catnip => "10.77.0.1",
        }
    }
}

/// What is put under programs.
struct Under {
    spin: PathBuf,
    catnip: PathBuf,
    /// Holds the configuration of catnip's ends.
    directory: tempfile::TempDir,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0, "--alternations must be at least 1");
    ensure!((2..=10_000).contains(&args.connections), "--connections ranges from 2 to 10000");
    ensure!((1000..=100_000_000).contains(&args.requests), "--requests ranges from 1000 to 100000000");
    setup::ensure(&[setup::REDIS, setup::REDIS_SERVER])
        .map_err(|missing| anyhow::anyhow!("redis is what is measured: {missing}"))?;
    let libraries = compile::libraries(&["demi-preload-catnip".to_owned(), "demi-bench-spin".to_owned()])?;
    let library = |name: &str| {
        let found = libraries.iter().find(|file| file.file_name().is_some_and(|file| file == name));
        found.cloned().with_context(|| format!("no {name} was built"))
    };
    let under = Under {
        spin: library("libdemi_bench_spin.so")?,
        catnip: library("libdemi_preload_catnip.so")?,
        directory: configure()?,
    };
    let progress = session.progress(args.alternations * Subject::ALL.len());
    let mut reports: [Vec<Value>; 3] = Default::default();
    for index in 0..args.alternations {
        let mut order = [0, 1, 2];
        // Each order comes as often as its reverse, so that drift cancels out.
        order.rotate_left(index / 2 % Subject::ALL.len());
        if index % 2 == 1 {
            order.reverse();
        }
        for place in order {
            let subject = Subject::ALL[place];
            progress.set_message(subject.name());
            let cacheline = session.roles.cacheline()?;
            let mut report = turn(args, session, &under, subject)?;
            report["subject"] = subject.name().into();
            report["alternation"] = index.into();
            report["cacheline_ns"] = cacheline.into();
            session.emit(&report);
            reports[place].push(report);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();

    let [kernel, spinning, catnip] = &reports;
    let ratio = |control: &[Value], key: &str| -> Result<Spread> {
        let pairs = control.iter().zip(catnip);
        let ratios = pairs.map(|(control, ours)| Ok(number(ours, key)? / number(control, key)?));
        Ok(Spread::of(ratios.collect::<Result<Vec<_>>>()?))
    };
    let ratios = [
        ("ratio_one", ratio(kernel, "one_per_s")?),
        ("ratio_one_spinning", ratio(spinning, "one_per_s")?),
        ("ratio_many", ratio(kernel, "many_per_s")?),
        ("ratio_many_spinning", ratio(spinning, "many_per_s")?),
    ];
    let mut last = json!({
        "subject": "catnip",
        "control": "kernel",
        "test": args.test,
        "connections": args.connections,
        "alternations": args.alternations,
    });
    for (name, spread) in &ratios {
        last[*name] = spread.median.into();
        last[format!("{name}_quartiles")] = spread.quartiles();
    }
    session.emit(&last);
    if session.json {
        return Ok(());
    }
    println!("redis-benchmark -t {} against redis-server, {} alternations", args.test, args.alternations);
    for (title, key) in [
        ("requests per second, one connection".to_owned(), "one_per_s"),
        (format!("requests per second, {} connections", args.connections), "many_per_s"),
    ] {
        let bars = Subject::ALL.iter().zip(&reports).map(|(subject, reports)| {
            let values = reports.iter().map(|report| number(report, key)).collect::<Result<Vec<_>>>()?;
            Ok((subject.name().to_owned(), Spread::of(values).median))
        });
        term::bars(&title, &bars.collect::<Result<Vec<_>>>()?, |rate| format!("{rate:.0}"));
    }
    for (name, spread) in ratios {
        println!("{name:20} {spread}");
    }
    Ok(())
}

/// A server, and the two measurements of it.
fn turn(args: &Args, session: &Session, under: &Under, subject: Subject) -> Result<Value> {
    let [near, far] = session.roles.cores();
    let words = [
        "redis-server",
        "--port",
        PORT,
        "--bind",
        subject.host(),
        "--save",
        "",
        "--appendonly",
        "no",
        "--protected-mode",
        "no",
    ];
    let mut command = under.command(subject, "server", far, &words);
    let server = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut lines = server.lines()?;
    let begin = Instant::now();
    loop {
        match lines.next(LIMIT).context("redis-server is silent")? {
            Some(line) if line.contains("Ready to accept connections") => break,
            Some(_) if begin.elapsed() < LIMIT => {}
            _ => bail!("redis-server did not start over {}", subject.name()),
        }
    }
    let measure = |connections: usize, requests: usize| -> Result<f64> {
        let (connections, requests) = (connections.to_string(), requests.to_string());
        let words = [
            "redis-benchmark",
            "-h",
            subject.host(),
            "-p",
            PORT,
            "-t",
            &args.test,
            "-c",
            &connections,
            "-n",
            &requests,
            "--csv",
        ];
        let output = output_of(&mut under.command(subject, "client", near, &words), LIMIT)?;
        per_second(&output).with_context(|| format!("redis-benchmark over {}", subject.name()))
    };
    Ok(json!({
        "one_per_s": measure(1, args.requests)?,
        "many_per_s": measure(args.connections, 3 * args.requests)?,
    }))
}

impl Under {
    fn command(&self, subject: Subject, end: &str, core: usize, words: &[&str]) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", &core.to_string(), "env"]);
        match subject {
            Subject::Kernel => {}
            Subject::Spinning => {
                command.arg(preload(&self.spin));
            }
            Subject::Catnip => {
                let file = self.directory.path().join(format!("{end}.toml"));
                command.arg(preload(&self.catnip)).arg(format!("DEMI_CONFIG={}", file.display()));
            }
        }
        command.args(words);
        command
    }
}

fn preload(library: &Path) -> String {
    format!("LD_PRELOAD={}", library.display())
}

/// Writes the configuration of both ends.
fn configure() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    for (role, number) in [("server", 1), ("client", 2)] {
        let text = format!(
            "[heap]\nsize_mib = 64\n[wait]\nspin_min_us = 200000\nspin_max_us = 200000\n\
             [catnip.ip]\naddresses = [\"10.77.0.{number}/24\"]\n\
             [catnip.device]\nkind = \"memif\"\nsocket = \"@demi-bench-redis-{}\"\nrole = \"{role}\"\n",
            std::process::id()
        );
        std::fs::write(directory.path().join(format!("{role}.toml")), text)?;
    }
    Ok(directory)
}

/// The second column of the line that is no heading.
fn per_second(output: &str) -> Result<f64> {
    let line = output.lines().rev().find(|line| line.starts_with('"') && !line.contains("rps"));
    let column = line.and_then(|line| line.split(',').nth(1)).context("a line of results")?;
    column.trim_matches('"').parse().with_context(|| format!("requests per second in {column}"))
}

#[cfg(test)]
mod tests {
    use super::per_second;

    #[test]
    fn the_rate_is_in_the_second_column() {
        let output = "\"test\",\"rps\",\"avg_latency_ms\"\n\"GET\",\"28620.49\",\"0.034\"\n";
        assert_eq!(per_second(output).unwrap(), 28620.49);
        assert!(per_second("\"test\",\"rps\"\n").is_err());
        assert!(per_second("\"GET\",\"inf?\"\n").is_err());
    }
}
