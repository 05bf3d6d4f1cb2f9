//! What a check has found, for people and programs.

use serde::Serialize;

/// Most findings that are kept; more are counted.
const MAX_FINDINGS: usize = 1000;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It is so after every crash, or harmless.
    Note,
    /// Nothing is lost, but one more damage to it would lose something.
    Warning,
    /// Something that was acknowledged is lost, or the image contradicts itself.
    Error,
}

/// One thing that is to be said about an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The log that it concerns.
    pub log: Option<String>,
    /// Where in the log.
    pub position: Option<u64>,
    /// Where on the device.
    pub offset: Option<u64>,
    /// What it is.
    pub text: String,
}

/// Elements that follow one another without damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Run {
    /// Position of the first.
    pub position: u64,
    /// How many.
    pub elements: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LogReport {
    /// Its name, with what is not UTF-8 replaced.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// Position of the oldest element.
    pub head: u64,
    /// Where opening ends the log.
    pub tail: u64,
    /// Where the newest checkpoint ends it.
    pub checkpoint_tail: u64,
    /// Whole elements from the head on, also those behind damage.
    pub elements: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many segments it has.
    pub segments: usize,
    /// The first element that is damaged.
    pub damaged: Option<u64>,
    /// Elements behind that one, in runs; a run that is not listed is in `elements` only.
    pub behind: Vec<Run>,
}

/// The image as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Summary {
    /// Bytes of a block.
    pub block_size: usize,
    /// Bytes of a segment.
    pub segment_size: usize,
    /// How many segments there are.
    pub segments: u32,
    /// How many of them no log has.
    pub free_segments: u32,
    /// How many free ones hold what logs have given up.
    pub stale_segments: u32,
    /// The newest checkpoint.
    pub checkpoint: u64,
    /// It says that nothing was written after it.
    pub closed: bool,
    /// There is no newest checkpoint: logs are what the heads of segments say.
    pub rebuilt: bool,
    /// How many logs.
    pub logs: usize,
    /// Elements of all logs.
    pub elements: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a check has found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// The image as a whole.
    pub summary: Summary,
    /// Each log.
    pub logs: Vec<LogReport>,
    /// What is to be said, at most a thousand.
    pub findings: Vec<Finding>,
    /// Findings that are not listed.
    pub omitted: u64,
    /// How many are errors, those that are not listed included.
    pub errors: u64,
    /// How many are warnings.
    pub warnings: u64,
}

impl Report {
    /// Nothing is lost or in danger.
    pub fn is_clean(&self) -> bool {
        self.errors == 0
    }

    /// There is something that a repair would mend.
    pub fn can_be_better(&self) -> bool {
        self.errors + self.warnings > 0
    }

    pub(super) fn say(&mut self, severity: Severity, offset: Option<u64>, text: impl Into<String>) {
        self.add(Finding { severity, log: None, position: None, offset, text: text.into() });
    }

    pub(super) fn add(&mut self, finding: Finding) {
        match finding.severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
            Severity::Note => {}
        }
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.omitted += 1;
        }
    }
}
