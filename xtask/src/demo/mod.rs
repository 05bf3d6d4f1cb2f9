//! The demonstration: a real client against the key-value store, and latency beside plain sockets.

mod latency;
mod redis;
mod resp;

use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::compile;
use crate::process::{Lines, Process};
use crate::setup::{self, Missing};
use crate::term;

/// Build, serve a real client, and show round-trip latency beside plain sockets.
///
/// Starts the key-value store on a free loopback port, drives it with redis-benchmark and redis-cli, then
/// shows the round-trip latency of an echo over the libOS beside the same over plain sockets that spin.
/// Under a minute after the build. Everything is stopped at the end, on Ctrl-C too.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Do not look for redis's clients: use the built-in one
    #[arg(long)]
    own_client: bool,
    /// Requests of each kind
    #[arg(long, default_value_t = 100_000)]
    requests: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let redis = if args.own_client { Err("as --own-client asks".to_owned()) } else { find_redis()? };
    let binaries = compile::release(&[("demi-examples", "kv-catnap"), ("demi-bench", "demi-bench")])?;
    let begin = Instant::now();

    let (server, mut output, address) = serve(binaries.path("kv-catnap")?)?;
    heading(&format!("a key-value store over catnap, listening on {address}"));
    match redis {
        Ok(()) => {
            redis::benchmark(address, args.requests)?;
            redis::session(address)?;
        }
        Err(why) => {
            println!("redis's clients are not used ({why}); this is the built-in client instead:");
            resp::run(address, args.requests)?;
        }
    }
    server.stop();
    while let Some(line) = output.next(Duration::from_secs(1))? {
        println!("kv-catnap: {line}");
    }

    heading("round trips of 64 bytes over TCP, both ends spinning");
    latency::run(binaries.path("demi-bench")?)?;
    println!("\ndone in {:.0} s; nothing is left running", begin.elapsed().as_secs_f64());
    println!("next: `cargo xtask bench echo`, `cargo xtask test`, or");
    println!(
        "`cargo run --release -p demi-examples --bin kv-catnap -- --listen 127.0.0.1:6380` and redis-cli -p 6380"
    );
    Ok(ExitCode::SUCCESS)
}

/// Whether redis's clients are there, or why not. Fails where a line that anyone can run would help.
fn find_redis() -> Result<Result<(), String>> {
    match setup::ensure(&[setup::REDIS]) {
        Ok(()) => Ok(Ok(())),
        Err(Missing::Unavailable(why)) => Ok(Err(why)),
        Err(Missing::Run(line)) => {
            bail!(
                "the demo drives the server with redis's own clients. To install them, run\n\n    {line}\n\nor use the built-in client: cargo xtask demo --own-client"
            )
        }
    }
}

/// Starts the server on a free port and waits until it listens.
fn serve(program: &std::path::Path) -> Result<(Process, Lines, SocketAddr)> {
    let mut command = Command::new(program);
    command.args(["--listen", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let server = Process::spawn(&mut command)?;
    let mut output = server.lines()?;
    while let Some(line) = output.next(Duration::from_secs(10)).context("kv-catnap does not listen")? {
        if let Some(address) = line.split_whitespace().find_map(|word| word.parse().ok()) {
            return Ok((server, output, address));
        }
    }
    bail!("kv-catnap ended: {}", server.wait(Duration::from_secs(1))?)
}

fn heading(text: &str) {
    println!("\n{}\n", term::bold(text));
}
