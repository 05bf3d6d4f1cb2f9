//! The points as tables and bars.

use super::points::{Points, Spot};
use super::{Args, SUBJECTS};
use crate::term;

pub(super) fn print(args: &Args, points: &Points) {
    println!("latency against offered load, catnip over {}, {} B", args.device.name(), args.size);
    for connections in &args.connections {
        let plural = if *connections == 1 { "" } else { "s" };
        println!("\n{}", term::bold(&format!("{connections} connection{plural}")));
        by_load(args, points, *connections);
    }
    println!("\n{}", term::bold("sizes, one connection"));
    by_size(args, points);
}

fn by_load(args: &Args, points: &Points, connections: usize) {
    let peak = Spot::Peak { connections };
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for share in &args.shares {
        let spot = Spot::Load { connections, share: *share };
        let mut row = vec![format!("{share} %")];
        for subject in SUBJECTS {
            let offered = points.median(subject, peak, "msgs_per_s") * f64::from(*share) / 100.0;
            row.push(term::thousands(offered));
            for key in ["p50_ns", "p99_ns"] {
                row.push(term::time(points.median(subject, spot, key)));
            }
            bars.push((format!("{subject} at {share:3} %"), points.median(subject, spot, "p50_ns")));
        }
        rows.push(row);
    }
    let header = ["of the peak", "catnip: msgs/s", "p50", "p99", "kernel: msgs/s", "p50", "p99"];
    println!("{}", term::table(&header, rows));
    bars.sort_by(|a, b| a.0.cmp(&b.0));
    // Near the peak queues fill, and nothing else would be seen beside that.
    let usual =
        bars.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).fold(f64::INFINITY, f64::min);
    bars.retain(|(_, value)| *value < 50.0 * usual);
    term::bars("p50 from when a message was due", &bars, term::time);
}

fn by_size(args: &Args, points: &Points) {
    let mut rows = Vec::new();
    for size in &args.sizes {
        let latency = Spot::Latency { size: *size };
        let throughput = Spot::throughput(*size);
        let mut row = vec![format!("{size} B")];
        for subject in SUBJECTS {
            row.push(term::time(points.median(subject, latency, "p50_ns")));
            row.push(term::time(points.median(subject, latency, "p99_ns")));
            let gbits = points.median(subject, throughput, "msgs_per_s") * *size as f64 * 8.0 / 1e9;
            row.push(format!("{gbits:.2}"));
        }
        rows.push(row);
    }
    let header = ["size", "catnip: p50", "p99", "Gbit/s", "kernel: p50", "p99", "Gbit/s"];
    println!("{}", term::table(&header, rows));
}
