//! What the reports of a run over a NIC come to: ratios within alternations, and sums of what went wrong.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::super::link::Device;
use super::super::stats::Spread;
use super::number;

/// A cache line that takes at most so many nanoseconds tells that the cores are placed well.
const FAST_NS: f64 = 200.0;

/// What one alternation yielded: a report by subject.
pub(super) type Turn = BTreeMap<&'static str, Value>;

/// Counters of a stack that add up over both ends; a storm shows in them.
pub(super) const TROUBLES: [&str; 3] = ["tcp_retransmitted", "tcp_duplicate_acks", "tcp_timeouts"];

/// Ratios of a key of the reports, one for each alternation that has both subjects.
pub(super) fn ratios<'a>(
    turns: impl IntoIterator<Item = &'a Turn>,
    subject: &str,
    control: &str,
    key: &str,
) -> Result<Vec<f64>> {
    let both = turns.into_iter().filter_map(|turn| Some((turn.get(subject)?, turn.get(control)?)));
    both.map(|(ours, theirs)| Ok(number(ours, key)? / number(theirs, key)?)).collect()
}

/// Whether the cores were placed well while both subjects had their turns.
pub(super) fn is_fast(turn: &Turn, subjects: [&str; 2]) -> bool {
    let slowest = |report: &Value| report["cacheline_ns"].as_f64().unwrap_or(f64::NAN);
    subjects.iter().all(|subject| turn.get(subject).is_some_and(|report| slowest(report) <= FAST_NS))
}

/// The sums of [`TROUBLES`] in a report's account of both ends.
pub(super) fn troubles(counters: [&Value; 2]) -> [u64; 3] {
    TROUBLES.map(|name| counters.iter().map(|end| end[name].as_u64().unwrap_or(0)).sum())
}

/// The ratios that the last line and the summary give: the name, the median with quartiles, and of how many.
pub(super) fn summary(device: Device, turns: &[Turn]) -> Result<Vec<(&'static str, Spread, usize)>> {
    let mut lines = Vec::new();
    let mut add =
        |name, values: Vec<f64>| lines.push((name, Spread::of(values.iter().copied()), values.len()));
    add("ratio_p50", ratios(turns, "catnip", "kernel", "p50_ns")?);
    add("ratio_p99", ratios(turns, "catnip", "kernel", "p99_ns")?);
    add("ratio_throughput", ratios(turns, "catnip", "kernel", "msgs_per_s")?);
    add("ratio_p50_raw", ratios(turns, "catnip", "raw", "p50_ns")?);
    add("ratio_p50_smoltcp", ratios(turns, "catnip", "smoltcp", "p50_ns")?);
    add("ratio_throughput_smoltcp", ratios(turns, "catnip", "smoltcp", "msgs_per_s")?);
    if device == Device::Memif {
        let fast = |pair| turns.iter().filter(move |turn| is_fast(turn, pair));
        add("ratio_p50_fast", ratios(fast(["catnip", "kernel"]), "catnip", "kernel", "p50_ns")?);
        add("ratio_raw_dpdk", ratios(turns, "raw", "dpdk", "p50_ns")?);
        add("ratio_raw_dpdk_fast", ratios(fast(["raw", "dpdk"]), "raw", "dpdk", "p50_ns")?);
    }
    lines.retain(|(name, _, count)| *count > 0 || *name == "ratio_p50_fast");
    Ok(lines)
}

/// These as the keys of the last line. A median of nothing is null.
pub(super) fn keys(lines: &[(&'static str, Spread, usize)]) -> Map<String, Value> {
    let mut keys = Map::new();
    for (name, spread, count) in lines {
        keys.insert((*name).to_owned(), json!(spread.median));
        keys.insert(format!("{name}_quartiles"), spread.quartiles());
        if *name == "ratio_p50_fast" {
            keys.insert("fast_alternations".to_owned(), json!(count));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(p50: [f64; 3], cachelines: [f64; 3]) -> Turn {
        let reports = ["catnip", "kernel", "raw"].into_iter().zip(p50.into_iter().zip(cachelines));
        reports
            .map(|(subject, (p50, line))| {
                (
                    subject,
                    json!({ "p50_ns": p50, "p99_ns": p50, "msgs_per_s": 1e9 / p50, "cacheline_ns": line }),
                )
            })
            .collect()
    }

    #[test]
    fn fast_alternations_are_those_in_which_both_had_good_cores() {
        let turns = [
            turn([1.0, 10.0, 1.0], [120.0, 200.0, 900.0]),
            turn([3.0, 10.0, 1.0], [120.0, 201.0, 100.0]),
            turn([4.0, 10.0, 1.0], [500.0, 120.0, 100.0]),
        ];
        let keys = keys(&summary(Device::Memif, &turns).unwrap());
        assert_eq!(keys["fast_alternations"], 1);
        assert_eq!(keys["ratio_p50_fast"], 0.1);
        assert_eq!(keys["ratio_p50"], 0.3);
        assert_eq!(keys["ratio_p50_raw"], 3.0);
        assert!(!keys.contains_key("ratio_raw_dpdk"), "it did not run");
    }

    #[test]
    fn without_a_fast_alternation_there_is_no_figure() {
        let turns = [turn([1.0, 10.0, 1.0], [400.0; 3])];
        let keys = keys(&summary(Device::Memif, &turns).unwrap());
        assert_eq!((&keys["fast_alternations"], &keys["ratio_p50_fast"]), (&json!(0), &Value::Null));
        let keys = super::keys(&summary(Device::AfXdp, &turns).unwrap());
        assert!(!keys.contains_key("ratio_p50_fast"));
    }

    #[test]
    fn troubles_are_those_of_both_ends() {
        let ends = [json!({ "tcp_retransmitted": 2, "tcp_timeouts": 1 }), json!({ "tcp_retransmitted": 3 })];
        assert_eq!(troubles([&ends[0], &ends[1]]), [5, 0, 1]);
    }
}
