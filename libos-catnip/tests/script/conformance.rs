//! That the engine can fail, and that the document about conformance names what there is.

use std::path::{Path, PathBuf};

use libtest_mimic::{Failed, Trial};

use crate::{parse, run};

/// The requirements of RFC 9293: how its Appendix B calls them, and how many there are of each.
const REQUIREMENTS: [(&str, usize); 4] = [("MUST", 69), ("SHLD", 31), ("MAY", 18), ("REC", 1)];

pub(crate) fn trials(folder: &Path, names: Vec<String>) -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    for (name, text, wanted) in FAULTS {
        trials.push(Trial::test(format!("engine/{name}"), move || fails(text, wanted)));
    }
    let folder = folder.to_path_buf();
    trials.push(Trial::test("conformance/document", move || document(&folder, &names)));
    trials
}

/// Scripts that must fail, and what the failure must say.
const FAULTS: [(&str, &str, &str); 11] = [
    ("unknown_words_are_faults", "listen\nfrobnicate 3", "test:2: \"frobnicate\" is not understood"),
    ("unknown_flags_are_faults", "< X 0:0(0)", "test:1: 'X' is no flag"),
    ("ranges_add_up", "< S 0:5(0)", "test:1: \"0:5(0)\" contradicts itself"),
    ("settings_come_first", "listen\nipv6", "test:2: \"ipv6\" belongs before"),
    ("a_packet_that_does_not_come", "connected\n> . 1:1(0) ack 1", "came: nothing"),
    ("a_packet_that_nobody_asked_for", "connected\npush 10\nclose", "expected: nothing"),
    ("a_packet_at_the_end", "connected\npush 10", "expected: nothing"),
    ("a_wrong_number", "connected\npush 10\n> . 2:12(10) ack 1", "wrong: sequence number"),
    ("a_wrong_option", "connect\n> S 0:0(0) <mss 1000,*>", "wrong: options"),
    ("a_packet_too_early", "connected\npush 10\n+5ms > . 1:11(10) ack 1", "0ns after it"),
    ("a_wrong_outcome", "connected\npop -> eof", "it is pending"),
];

fn fails(text: &str, wanted: &str) -> Result<(), Failed> {
    let result = match parse::parse(text) {
        Err((line, what)) => Err(format!("test:{line}: {what}")),
        Ok(script) => run::run("test", &script),
    };
    match result {
        Err(what) if what.contains(wanted) => Ok(()),
        Err(what) => Err(format!("it failed otherwise: {what}").into()),
        Ok(()) => Err("it passed".into()),
    }
}

/// Every requirement has one row; whatever a row says is met has something that shows it; and every name is of a script,
/// or of a unit test.
fn document(folder: &Path, names: &[String]) -> Result<(), Failed> {
    let text = std::fs::read_to_string(folder.join("../docs/tcp-conformance.md"))?;
    let sources = sources(&folder.join("src"))?;
    let mut faults = Vec::new();
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at = index + 1;
        for name in line.split('`').skip(1).step_by(2) {
            let there = if let Some((_, test)) = name.rsplit_once("::") {
                sources.contains(&format!("fn {test}("))
            } else if name.contains('/') && !name.contains(['.', ' ']) {
                names.iter().any(|script| script == name)
            } else {
                true
            };
            if !there {
                faults.push(format!("line {at}: there is no {name}"));
            }
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [id, _, _, status, shown] = cells[..]
            && REQUIREMENTS.iter().any(|(kind, _)| id.starts_with(&format!("{kind}-")))
        {
            rows.push(id);
            let known = ["met", "deviates", "not ours", "done", "not done"];
            if !known.iter().any(|word| status.starts_with(word)) {
                faults.push(format!("line {at}: {status:?} is no status"));
            }
            if !status.starts_with("not") && !shown.contains('`') {
                faults.push(format!("line {at}: nothing shows {id}"));
            }
        }
    }
    for (kind, count) in REQUIREMENTS {
        for number in 1..=count {
            let id = format!("{kind}-{number}");
            let found = rows.iter().filter(|row| **row == id).count();
            if found != 1 {
                faults.push(format!("{id} has {found} rows"));
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// All source text below a folder.
fn sources(folder: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension() == Some("rs".as_ref()) {
                text.push_str(&std::fs::read_to_string(path)?);
            }
        }
    }
    Ok(text)
}
