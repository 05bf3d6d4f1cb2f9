//! How a role measures: warm-up, stop, percentiles.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::cpu;

/// Longest that any single exchange may take before a role gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Plan {
    /// Seconds to measure
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// Messages to measure, instead of a time
    #[arg(long)]
    count: Option<u64>,
    /// Seconds to run before measuring
    #[arg(long, default_value_t = 0.1)]
    warmup: f64,
    /// Print the whole histogram too, as pairs of nanoseconds and count
    #[arg(long)]
    histogram: bool,
}

/// Collects latencies: first drops those of the warm-up, then says when it has enough.
pub(crate) struct Recorder {
    plan: Plan,
    begin: Instant,
    end: Instant,
    warm: bool,
    preemptions: u64,
    histogram: Histogram<u64>,
}

impl Recorder {
    pub(crate) fn start(plan: &Plan) -> Result<Recorder> {
        if !(0.0..=60.0).contains(&plan.seconds) || !(0.0..=60.0).contains(&plan.warmup) {
            bail!("--seconds and --warmup range from 0 to 60");
        }
        let now = Instant::now();
        Ok(Recorder {
            plan: *plan,
            begin: now + Duration::from_secs_f64(plan.warmup),
            end: now,
            warm: false,
            preemptions: preemptions()?,
            // Three digits up to a minute: constant in size, nothing allocated while measuring.
            histogram: Histogram::new_with_bounds(1, 60_000_000_000, 3).context("histogram")?,
        })
    }

    /// One message, sent at `sent` and back at `now`. False: that was enough.
    #[inline]
    pub(crate) fn record(&mut self, sent: Instant, now: Instant) -> bool {
        if !self.warm {
            if now >= self.begin {
                self.warm = true;
                self.begin = now;
            }
            return true;
        }
        self.histogram.saturating_record((now - sent).as_nanos() as u64);
        self.end = now;
        match self.plan.count {
            Some(count) => self.histogram.len() < count,
            None => (now - self.begin).as_secs_f64() < self.plan.seconds,
        }
    }

    /// What was measured, and how often other programs took the core away meanwhile.
    pub(crate) fn report(&self) -> Result<Value> {
        let histogram = &self.histogram;
        let seconds = (self.end - self.begin).as_secs_f64();
        let mut report = percentiles(histogram);
        report["msgs_per_s"] = (histogram.len() as f64 / seconds.max(1e-9)).into();
        report["preemptions"] = preemptions()?.saturating_sub(self.preemptions).into();
        if self.plan.histogram {
            let buckets = histogram.iter_recorded();
            let buckets = buckets.map(|step| json!([step.value_iterated_to(), step.count_at_value()]));
            report["histogram"] = buckets.collect();
        }
        Ok(report)
    }
}

/// Messages per second, of a report.
pub(crate) fn rate(report: &Value) -> Result<f64> {
    report["msgs_per_s"].as_f64().context("a rate is a number")
}

/// The keys of every report on latencies.
pub(crate) fn percentiles(histogram: &Histogram<u64>) -> Value {
    json!({
        "messages": histogram.len(),
        "min_ns": histogram.min(),
        "p50_ns": histogram.value_at_quantile(0.5),
        "p90_ns": histogram.value_at_quantile(0.9),
        "p99_ns": histogram.value_at_quantile(0.99),
        "p999_ns": histogram.value_at_quantile(0.999),
        "max_ns": histogram.max(),
    })
}

/// How often other programs have taken the core from this thread.
pub(crate) fn preemptions() -> Result<u64> {
    cpu::status("nonvoluntary_ctxt_switches")
}

/// Gives up on a spin that lasts too long; looks at the clock only now and then.
pub(crate) struct Guard {
    spins: u32,
    deadline: Option<Instant>,
}

impl Guard {
    pub(crate) fn new() -> Guard {
        Guard { spins: 0, deadline: None }
    }

    /// To be called after every attempt in vain.
    #[inline]
    pub(crate) fn spin(&mut self) -> Result<()> {
        self.spins += 1;
        if self.spins & 0xfff == 0 {
            let now = Instant::now();
            if now > *self.deadline.get_or_insert(now + PATIENCE) {
                bail!("nothing arrived for {PATIENCE:?}");
            }
        }
        Ok(())
    }
}
