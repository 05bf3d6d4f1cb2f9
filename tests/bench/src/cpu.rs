//! Cores: staying on one, and how far two of them are apart.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::json;

#[derive(clap::Args)]
pub(crate) struct CachelineArgs {
    /// One core
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// The other
    #[arg(long, default_value_t = 1)]
    far_core: usize,
    /// Round trips
    #[arg(long, default_value_t = 20_000)]
    count: u64,
}

/// Keeps this thread on `core`.
pub(crate) fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot stay on core {core}"))
}

/// Asks to be killed when whoever started this process goes, so that nothing spins on unattended.
pub(crate) fn end_with_parent() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("prctl(PR_SET_PDEATHSIG)")
}

/// Bounces one cache line between two threads, each on its core: the floor under every other figure, and a
/// sign of how the machine has placed its cores at this moment.
/// Each end writes a line of its own and spins on the other's, as the ends of a ring do.
pub(crate) fn cacheline(args: &CachelineArgs) -> Result<()> {
    #[repr(align(128))]
    struct Line(AtomicU64);
    let lines = [Line(AtomicU64::new(0)), Line(AtomicU64::new(0))];
    let rounds = args.count.max(1);
    let warmup = rounds / 4;
    let spin = |line: &Line, value: u64| while line.0.load(Ordering::Acquire) != value {};
    // Whoever cannot stay on its core would leave the other spinning: so both are tried first.
    pin(args.far_core)?;
    pin(args.core)?;
    let nanos = std::thread::scope(|scope| {
        let far = scope.spawn(|| -> Result<()> {
            let pinned = pin(args.far_core);
            for round in 1..=warmup + rounds {
                spin(&lines[0], round);
                lines[1].0.store(round, Ordering::Release);
            }
            pinned
        });
        let mut begin = Instant::now();
        for round in 1..=warmup + rounds {
            if round == warmup + 1 {
                begin = Instant::now();
            }
            lines[0].0.store(round, Ordering::Release);
            spin(&lines[1], round);
        }
        let nanos = begin.elapsed().as_nanos() as f64 / rounds as f64;
        far.join().expect("the far thread does not panic").map(|()| nanos)
    })?;
    println!("{}", json!({ "cacheline_ns": nanos }));
    Ok(())
}

/// The time for which this thread had a core so far.
pub(crate) fn spent() -> Result<Duration> {
    let path = "/proc/thread-self/schedstat";
    let text = std::fs::read_to_string(path).context(path)?;
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Ok(Duration::from_nanos(nanos.context(path)?))
}

/// A number from the kernel's account of this thread, such as `VmRSS` (in kB).
pub(crate) fn status(key: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/status")?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next());
    number
        .context("/proc/thread-self/status")?
        .parse()
        .with_context(|| format!("{key} in /proc/thread-self/status"))
}
