//! Latencies: recorded in a histogram of three significant digits, shown as percentiles and as a picture.

use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told from longer ones: a minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// Lines of a picture, without those of its legend.
const ROWS: usize = 16;

/// Columns of a picture's longest bar.
const BAR: usize = 44;

/// The percentiles that are reported, with their names.
const PERCENTILES: [(f64, &str); 4] = [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9")];

/// Latencies of many exchanges.
#[derive(Debug, Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies::new()
    }
}

impl Latencies {
    /// None yet. All memory is taken now.
    pub fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are in order");
        Latencies { histogram }
    }

    /// Takes one down.
    #[inline]
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST_NS);
        self.histogram.saturating_record(nanos.max(1));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The latency, in ns, that `percent` of the exchanges did not exceed.
    pub fn percentile(&self, percent: f64) -> u64 {
        self.histogram.value_at_percentile(percent)
    }

    /// The longest, in ns.
    pub fn max(&self) -> u64 {
        self.histogram.max()
    }

    /// One line: `p50 7.2 µs · p90 …`.
    pub fn summary(&self) -> String {
        let mut line = String::new();
        for (percent, name) in PERCENTILES {
            let _ = write!(line, "{name} {} · ", micros(self.percentile(percent)));
        }
        let _ = write!(line, "max {}", micros(self.max()));
        line
    }

    /// A bar per bucket. Buckets are spaced by a constant factor from the shortest latency to p99.9, so that both
    /// the peak and its slope can be seen; what is beyond lies in the last one.
    pub fn picture(&self) -> String {
        if self.count() == 0 {
            return "no message was answered\n".into();
        }
        let buckets = self.buckets();
        let fullest = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(1).max(1);
        let mut text = String::new();
        for bucket in &buckets {
            let share = 100.0 * bucket.count as f64 / self.count() as f64;
            let bar = bar(bucket.count as f64 / fullest as f64);
            let marks: Vec<&str> = PERCENTILES
                .iter()
                .filter(|(percent, _)| bucket.holds(self.percentile(*percent)))
                .map(|(_, name)| *name)
                .chain(bucket.holds(self.max()).then_some("max"))
                .collect();
            let marks = marks.join(" ");
            let line = format!(
                "{:>9} – {:<9} {share:>5.1} % {bar:<BAR$} {marks}",
                micros(bucket.low),
                micros(bucket.high)
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    fn buckets(&self) -> Vec<Bucket> {
        let low = self.histogram.min().max(1);
        let knee = self.percentile(99.9).max(low);
        let max = self.max().max(knee);
        let factor = (knee as f64 / low as f64).powf(1.0 / ROWS as f64).max(1.001);
        let mut buckets: Vec<Bucket> = Vec::with_capacity(ROWS + 1);
        let mut from = low;
        for row in 1..=ROWS {
            let to = (low as f64 * factor.powi(row as i32)).round() as u64;
            let high = if row == ROWS { knee } else { to.min(knee) };
            if high >= from {
                buckets.push(Bucket { low: from, high, count: 0 });
                from = high + 1;
            }
        }
        if max >= from {
            buckets.push(Bucket { low: from, high: max, count: 0 });
        }
        let last = buckets.len() - 1;
        for value in self.histogram.iter_recorded() {
            let at = buckets.partition_point(|bucket| bucket.high < value.value_iterated_to()).min(last);
            buckets[at].count += value.count_at_value();
        }
        buckets
    }
}

/// From `low` to `high`, both included, in ns.
#[derive(Debug)]
struct Bucket {
    low: u64,
    high: u64,
    count: u64,
}

impl Bucket {
    fn holds(&self, value: u64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// A bar with a resolution of an eighth of a column.
fn bar(share: f64) -> String {
    let eighths = (share * (BAR * 8) as f64).ceil() as usize;
    let mut bar = "█".repeat(eighths / 8);
    bar.extend(["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"].get(eighths % 8).copied());
    bar
}

/// Three digits and a unit.
fn micros(nanos: u64) -> String {
    let micros = nanos as f64 / 1000.0;
    match nanos {
        0..10_000 => format!("{micros:.2} µs"),
        10_000..100_000 => format!("{micros:.1} µs"),
        100_000..1_000_000 => format!("{micros:.0} µs"),
        1_000_000..1_000_000_000 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(nanos: impl IntoIterator<Item = u64>) -> Latencies {
        let mut latencies = Latencies::new();
        nanos.into_iter().for_each(|nanos| latencies.record(Duration::from_nanos(nanos)));
        latencies
    }

    #[test]
    fn no_latency_falls_between_two_buckets() {
        for latencies in [
            of([5]),
            of([1, 1, 2]),
            of([7000; 50]),
            of((0..5000).map(|n| 7000 + n * n % 911 + if n % 997 == 0 { 4_000_000 } else { 0 })),
            of([0, u64::MAX]),
        ] {
            let buckets = latencies.buckets();
            assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), latencies.count());
            assert!(buckets.windows(2).all(|pair| pair[0].high + 1 == pair[1].low), "{buckets:?}");
            let picture = latencies.picture();
            for mark in ["p50", "p90", "p99", "p99.9", "max"] {
                assert!(picture.contains(mark), "{mark} is missing:\n{picture}");
            }
        }
    }

    #[test]
    fn nothing_recorded_is_said() {
        assert!(Latencies::new().picture().contains("no message"));
    }
}
