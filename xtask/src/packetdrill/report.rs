//! The results: for people on the terminal, and as a section of the document about conformance.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::script::Family;
use super::{Outcome, Played, remarks};
use crate::term;

/// Where the section stands in the document.
const BEGIN: &str = "<!-- packetdrill: written by cargo xtask packetdrill -->\n";
const END: &str = "<!-- end of packetdrill -->\n";

/// Prints what became of each script that failed, and how many did what.
pub(crate) fn show(results: &[Played]) {
    for (name, outcomes) in results {
        for (family, outcome) in outcomes {
            if let Outcome::Failed(why) = outcome {
                println!("{} {name} ({family}): {why}", term::red("failed"));
            }
        }
    }
    let [passed, failed, other] = count(results);
    println!("{passed} passed, {failed} failed, {other} not applicable");
}

/// Replaces the section of the document, or puts it at its end.
pub(crate) fn write(path: &Path, results: &[Played], revision: &str) -> Result<()> {
    let name = || path.display().to_string();
    let text = fs::read_to_string(path).with_context(name)?;
    fs::write(path, placed(&text, &section(results, revision))).with_context(name)?;
    eprintln!("written to {}", path.display());
    Ok(())
}

fn placed(text: &str, section: &str) -> String {
    let section = format!("{BEGIN}{section}{END}");
    match (text.find(BEGIN), text.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{section}{}", &text[..begin], &text[end + END.len()..])
        }
        _ => format!("{}\n\n{section}", text.trim_end()),
    }
}

/// Runs that passed, failed, were not applicable.
fn count(results: &[Played]) -> [usize; 3] {
    let outcomes = || results.iter().flat_map(|(_, outcomes)| outcomes);
    let of = |which: fn(&Outcome) -> bool| outcomes().filter(|(_, outcome)| which(outcome)).count();
    [
        of(|outcome| matches!(outcome, Outcome::Passed(_))),
        of(|outcome| matches!(outcome, Outcome::Failed(_))),
        of(|outcome| matches!(outcome, Outcome::NotApplicable(_))),
    ]
}

fn section(results: &[Played], revision: &str) -> String {
    let [passed, failed, other] = count(results);
    let mut out = format!(
        "\n## packetdrill\n\n\
        What becomes of the scripts for Linux's TCP that come with packetdrill{}, over IPv4 and IPv6, in virtual time. \
        [`docs/packetdrill.md`](packetdrill.md) says how they run, and what is changed in them. Of {} runs, {passed} passed, \
        {failed} failed, and {other} ask for what is Linux's alone.\n",
        if revision.is_empty() { String::new() } else { format!(" (revision {revision})") },
        passed + failed + other,
    );
    out.push_str("\nPassed; the number is of assertions on Linux's own counters that are left out:\n\n");
    for (name, outcomes) in results {
        let passed: Vec<_> = outcomes
            .iter()
            .filter_map(|(family, outcome)| match outcome {
                Outcome::Passed(left_out) => Some((family, *left_out)),
                _ => None,
            })
            .collect();
        let Some((_, left_out)) = passed.first() else { continue };
        let count = if *left_out == 0 { String::new() } else { format!(", {left_out}") };
        let _ = writeln!(out, "- `{name}` ({}{count})", families(passed.iter().map(|(family, _)| **family)));
    }
    out.push_str("\nFailed:\n\n| Script | What packetdrill says, by line | Why |\n|---|---|---|\n");
    for (name, outcomes) in results {
        let mut said: BTreeMap<String, Vec<Family>> = BTreeMap::new();
        for (family, outcome) in outcomes {
            if let Outcome::Failed(why) = outcome {
                said.entry(cell(why)).or_default().push(*family);
            }
        }
        for (why, over) in said {
            let _ = writeln!(
                out,
                "| `{name}` ({}) | {why} | {} |",
                families(over.into_iter()),
                remarks::of(name)
            );
        }
    }
    out.push_str("\nNot applicable, by what they ask for:\n\n");
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, outcomes) in results {
        if let Some((_, Outcome::NotApplicable(reason))) = outcomes.first() {
            reasons.entry(reason).or_default().push(name);
        }
    }
    for (reason, names) in reasons {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(out, "- {reason}: {}", names.join(", "));
    }
    out.push('\n');
    out
}

fn families(families: impl Iterator<Item = Family>) -> String {
    families.map(|family| family.to_string()).collect::<Vec<_>>().join(", ")
}

/// What packetdrill says, without what would differ each time, and as a table takes it.
fn cell(why: &str) -> String {
    let words = ["error handling packet: ", "runtime error in "];
    let (line, rest) = why.split_once(": ").unwrap_or(("", why));
    let rest = words.iter().find_map(|word| rest.strip_prefix(word)).unwrap_or(rest);
    // Beyond milliseconds a time is of how often packetdrill has looked at the clock.
    let (mut text, mut decimals) = (String::new(), None);
    for char in rest.chars() {
        decimals = match (char, decimals) {
            ('.', _) => Some(0),
            ('0'..='9', Some(count)) => Some(count + 1),
            _ => None,
        };
        if decimals.is_none_or(|count| count <= 3) {
            text.push(char);
        }
    }
    format!("{line}: {text}").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_is_replaced_and_else_appended() {
        let first = placed("# Title\n\ntext\n", "one\n");
        assert_eq!(first, format!("# Title\n\ntext\n\n{BEGIN}one\n{END}"));
        let more = format!("{first}tail\n");
        assert_eq!(placed(&more, "two\n"), format!("# Title\n\ntext\n\n{BEGIN}two\n{END}tail\n"));
    }

    #[test]
    fn every_run_is_in_the_section() {
        let failed = Outcome::Failed("12: error handling packet: a|b at 0.123456 sec".into());
        let results = vec![
            ("tcp/a.pkt".into(), vec![(Family::V4, Outcome::Passed(2)), (Family::V6, failed)]),
            ("tcp/b.pkt".into(), vec![(Family::V4, Outcome::NotApplicable("what is not"))]),
        ];
        let text = section(&results, "abc");
        for wanted in [
            "- `tcp/a.pkt` (IPv4, 2)",
            "| `tcp/a.pkt` (IPv6) | 12: a\\|b at 0.123 sec |",
            "- what is not: `tcp/b.pkt`",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert_eq!(count(&results), [1, 1, 1]);
    }
}
