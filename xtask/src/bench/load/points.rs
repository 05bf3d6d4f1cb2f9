//! What was measured, by what it was measured for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::stats::Spread;
use super::{SUBJECTS, number};

/// What one turn measures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Spot {
    /// As many messages as go.
    Peak { connections: usize },
    /// A share of the peak, in percent, on a schedule.
    Load { connections: usize, share: u32 },
    /// One message at a time.
    Latency { size: usize },
    /// Many at a time, on one connection.
    Throughput { size: usize, window: usize },
}

/// Bytes outstanding when throughput is measured, and messages at most.
const BYTES: usize = 512 << 10;
const MESSAGES: usize = 64;

impl Spot {
    pub(super) fn throughput(size: usize) -> Spot {
        Spot::Throughput { size, window: (BYTES / size).clamp(1, MESSAGES) }
    }

    /// Says in a report what it is about, beyond what its role knows.
    pub(super) fn describe(&self, report: &mut Value) {
        let part = match self {
            Spot::Peak { .. } => "peak",
            Spot::Load { share, .. } => {
                report["share_percent"] = (*share).into();
                "load"
            }
            Spot::Latency { .. } => "latency",
            Spot::Throughput { window, .. } => {
                report["window"] = (*window).into();
                "throughput"
            }
        };
        report["part"] = part.into();
    }
}

/// Reports of all turns.
#[derive(Debug, Default)]
pub(super) struct Points(BTreeMap<(&'static str, Spot), Vec<Value>>);

impl Points {
    pub(super) fn add(&mut self, subject: &'static str, spot: Spot, report: Value) {
        self.0.entry((subject, spot)).or_default().push(report);
    }

    pub(super) fn reports(&self) -> impl Iterator<Item = &Value> {
        self.0.values().flatten()
    }

    /// The median of a key over all turns in which anything came back; not a number without any.
    pub(super) fn median(&self, subject: &str, spot: Spot, key: &str) -> f64 {
        Spread::of(self.values(subject, spot, key)).median
    }

    /// The median of the ratios of catnip to its control, turn by turn.
    pub(super) fn ratio(&self, spot: Spot, key: &str) -> f64 {
        let [ours, control] = SUBJECTS.map(|subject| self.values(subject, spot, key));
        Spread::of(ours.into_iter().zip(control).map(|(ours, control)| ours / control)).median
    }

    fn values(&self, subject: &str, spot: Spot, key: &str) -> Vec<f64> {
        let subject = SUBJECTS.into_iter().find(|name| *name == subject);
        let reports = subject.and_then(|subject| self.0.get(&(subject, spot)));
        let value = |report: &Value| {
            let some = report["messages"].as_u64() > Some(0);
            number(report, key).ok().filter(|_| some).unwrap_or(f64::NAN)
        };
        reports.map(|reports| reports.iter().map(value).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn turns_in_which_nothing_came_back_do_not_count() {
        let spot = Spot::Load { connections: 4, share: 50 };
        let mut points = Points::default();
        for (ours, control, messages) in [(10.0, 100.0, 5), (30.0, 100.0, 5), (0.0, 100.0, 0)] {
            points.add("catnip", spot, json!({ "p50_ns": ours, "messages": messages }));
            points.add("kernel", spot, json!({ "p50_ns": control, "messages": 5 }));
        }
        assert_eq!(points.median("catnip", spot, "p50_ns"), 20.0);
        assert!((points.ratio(spot, "p50_ns") - 0.2).abs() < 1e-9);
        assert!(points.median("catnip", Spot::Peak { connections: 4 }, "p50_ns").is_nan());
    }
}
