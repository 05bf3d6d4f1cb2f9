//! That the engine can fail, and that the document about conformance names what there is.

use std::path::Path;

use libtest_mimic::{Failed, Trial};

use crate::{parse, run};

pub(crate) fn trials(folder: &Path, names: Vec<String>) -> Vec<Trial> {
    let _ = (folder, names);
    let mut trials: Vec<Trial> = Vec::new();
    for (name, text, wanted) in FAULTS {
        trials.push(Trial::test(format!("engine/{name}"), move || fails(text, wanted)));
    }
    trials
}

/// Scripts that must fail, and what the failure must say.
const FAULTS: [(&str, &str, &str); 10] = [
    ("unknown_words_are_faults", "listen\nfrobnicate 3", "test:2: \"frobnicate\" is not understood"),
    ("unknown_flags_are_faults", "< X 0:0(0)", "test:1: 'X' is no flag"),
    ("ranges_add_up", "< S 0:5(0)", "test:1: \"0:5(0)\" contradicts itself"),
    ("settings_come_first", "listen\nipv6", "test:2: \"ipv6\" belongs before"),
    ("a_packet_that_does_not_come", "connected\n> . 1:1(0) ack 1", "came: nothing"),
    ("a_packet_that_nobody_asked_for", "connected\npush 10\nclose", "expected: nothing"),
    ("a_packet_at_the_end", "connected\npush 10", "expected: nothing"),
    ("a_wrong_number", "connected\npush 10\n> . 2:12(10) ack 1", "wrong: sequence number"),
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
