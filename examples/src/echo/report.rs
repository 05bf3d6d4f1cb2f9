//! What the client tells: for people a line and a picture, for programs one JSON object.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::Client;
use crate::cli::{grouped, say};
use crate::latency::Latencies;

/// Messages between two looks at the progress bar: a power of two.
const PROGRESS_EVERY: u64 = 1 << 12;

/// Runs shorter than this draw no progress bar.
const WORTH_A_BAR: u64 = 200_000;

/// The measurement so far.
pub(super) struct Report {
    pub(super) latencies: Latencies,
    pub(super) lost: u64,
    bar: Option<ProgressBar>,
}

#[derive(Serialize)]
struct Line<'a> {
    subject: &'a str,
    transport: &'static str,
    size: u32,
    window: u32,
    count: u64,
    lost: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    max_ns: u64,
    msgs_per_s: u64,
}

impl Report {
    pub(super) fn new(args: &Client) -> Report {
        let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} messages, {eta} to go")
            .expect("the template is well-formed");
        let bar =
            (!args.json && args.count >= WORTH_A_BAR).then(|| ProgressBar::new(args.count).with_style(style));
        Report { latencies: Latencies::new(), lost: 0, bar }
    }

    #[inline]
    pub(super) fn record(&mut self, latency: Duration) {
        self.latencies.record(latency);
        if self.latencies.count().is_multiple_of(PROGRESS_EVERY) {
            self.show_progress();
        }
    }

    #[cold]
    fn show_progress(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.latencies.count());
        }
    }

    pub(super) fn print(&self, subject: &str, args: &Client, took: Duration) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let latencies = &self.latencies;
        let msgs_per_s = (latencies.count() as f64 / took.as_secs_f64().max(1e-9)) as u64;
        if args.json {
            let line = Line {
                subject,
                transport: if args.udp { "datagram" } else { "stream" },
                size: args.size,
                window: args.window,
                count: latencies.count(),
                lost: self.lost,
                p50_ns: latencies.percentile(50.0),
                p90_ns: latencies.percentile(90.0),
                p99_ns: latencies.percentile(99.0),
                p999_ns: latencies.percentile(99.9),
                max_ns: latencies.max(),
                msgs_per_s,
            };
            return say(serde_json::to_string(&line).expect("numbers and texts only"));
        }
        let (count, rate) = (grouped(latencies.count()), grouped(msgs_per_s));
        say(format_args!(
            "{subject}: {count} messages of {} B, window {}: {rate} messages/s",
            args.size, args.window
        ));
        say(latencies.summary());
        if self.lost > 0 {
            say(format_args!("{} datagrams were lost", grouped(self.lost)));
        }
        if args.histogram {
            say(format_args!("\n{}", latencies.picture().trim_end()));
        }
    }
}
