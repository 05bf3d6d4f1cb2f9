//! Round-trip latency of an echo over catnap, beside the same exchange over plain sockets.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::bench::stats::Spread;
use crate::bench::{Exchange, Roles, number};
use crate::term::{self, Buckets};

/// Turns that each side gets: few, as this is a demonstration.
const TURNS: usize = 10;

/// Messages in each turn.
const MESSAGES: u64 = 20_000;

pub(super) fn run(program: &Path) -> Result<()> {
    let roles = Roles::new(program);
    let exchange = Exchange {
        size: 64,
        window: 1,
        lockstep: false,
        seconds: 0.0,
        count: Some(MESSAGES),
        histogram: true,
    };
    let names = ["plain sockets", "catnap"];
    let progress = term::progress(2 * TURNS as u64, true);
    let mut buckets = [Buckets::new(), Buckets::new()];
    let mut medians = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        for step in 0..2 {
            let side = (turn + step) % 2;
            let report = exchange.measure(&roles, ["kernel", "catnap"][side])?;
            medians[side].push(number(&report, "p50_ns")?);
            gather(&mut buckets[side], &report)?;
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    for side in &mut buckets {
        side.sort_unstable();
    }
    term::histograms(names, [&buckets[0], &buckets[1]]);
    println!();
    let rows = [0, 1].map(|side: usize| {
        let percentiles = [0.5, 0.9, 0.99, 0.999].map(|share| {
            let nanos = term::quantile(&buckets[side], share).unwrap_or(0);
            term::time(nanos as f64)
        });
        let mut row = vec![names[side].to_owned()];
        row.extend(percentiles);
        row
    });
    println!("{}", term::table(&["", "p50", "p90", "p99", "p99.9"], rows));
    let [plain, ours] = &medians;
    let ratio = Spread::of(plain.iter().zip(ours).map(|(plain, ours)| ours / plain));
    println!("ratio of p50, catnap to plain sockets, over {TURNS} alternations: {ratio}");
    Ok(())
}

/// Adds a report's histogram.
fn gather(buckets: &mut Buckets, report: &Value) -> Result<()> {
    for pair in report["histogram"].as_array().context("a report lacks its histogram")? {
        let [nanos, count] = [0, 1].map(|index: usize| pair[index].as_u64());
        buckets.push((nanos.context("histogram")?, count.context("histogram")?));
    }
    Ok(())
}
