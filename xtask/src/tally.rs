//! Counts of tests, read from what the test runners print.

/// Tests so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// Names of tests that failed.
    pub(crate) failures: Vec<String>,
}

impl Tally {
    /// Takes in one line of a runner's output.
    pub(crate) fn read(&mut self, line: &str) {
        let line = without_colours(line);
        if let Some(result) = line.strip_prefix("test result: ") {
            for part in result.split(['.', ';']) {
                let mut words = part.split_whitespace();
                let Some(count) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
                match words.next() {
                    Some("passed") => self.passed += count,
                    Some("failed") => self.failed += count,
                    Some("ignored") => self.ignored += count,
                    _ => {}
                }
            }
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }

    pub(crate) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
    }
}

/// The line without its escape sequences, each of which ends with an `m`.
fn without_colours(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let mut plain = parts.next().unwrap_or("").to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or("", |(_, text)| text));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_what_runners_print() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test wait::tests::order ... ok",
            "test wait::tests::close ... \x1b[31mFAILED\x1b[0m",
            "test result: \x1b[31mFAILED\x1b[0m. 31 passed; 2 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.10s",
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.25s",
            "9 passed elsewhere",
        ] {
            tally.read(line);
        }
        let failures = vec!["wait::tests::close".to_owned()];
        assert_eq!(tally, Tally { passed: 36, failed: 2, ignored: 1, failures });
    }
}
