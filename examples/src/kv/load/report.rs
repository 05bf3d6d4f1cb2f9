//! What the client tells: for people lines and a picture, for programs one JSON object.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::Client;
use crate::cli::{grouped, say};
use crate::latency::Latencies;

/// The measurement so far.
#[derive(Default)]
pub(super) struct Report {
    pub(super) latencies: Latencies,
    /// Gets that brought a value; each was right.
    pub(super) verified: u64,
    /// Gets of keys that were not there.
    pub(super) missing: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    subject: &'a str,
    requests: &'a str,
    clients: u32,
    pipeline: u32,
    size: u32,
    keys: u32,
    count: u64,
    verified: u64,
    missing: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    max_ns: u64,
    requests_per_s: u64,
}

impl Report {
    pub(super) fn print(&self, subject: &str, args: &Client, took: Duration) {
        let latencies = &self.latencies;
        let requests_per_s = (latencies.count() as f64 / took.as_secs_f64().max(1e-9)) as u64;
        let kind = args.requests.to_possible_value();
        let requests = kind.as_ref().map_or("", |kind| kind.get_name());
        if args.json {
            let line = Line {
                subject,
                requests,
                clients: args.clients,
                pipeline: args.pipeline,
                size: args.size,
                keys: args.keys,
                count: latencies.count(),
                verified: self.verified,
                missing: self.missing,
                p50_ns: latencies.percentile(50.0),
                p90_ns: latencies.percentile(90.0),
                p99_ns: latencies.percentile(99.0),
                p999_ns: latencies.percentile(99.9),
                max_ns: latencies.max(),
                requests_per_s,
            };
            return say(serde_json::to_string(&line).expect("numbers and texts only"));
        }
        say(format_args!(
            "{subject}: {} requests ({requests}) of {} clients, pipeline {}, values of {} B: {} requests/s",
            grouped(latencies.count()),
            args.clients,
            args.pipeline,
            args.size,
            grouped(requests_per_s)
        ));
        say(latencies.summary());
        let (verified, missing) = (grouped(self.verified), grouped(self.missing));
        say(format_args!("{verified} values were got and verified, {missing} keys were not there"));
        if args.histogram {
            say(format_args!("\n{}", latencies.picture().trim_end()));
        }
    }
}
