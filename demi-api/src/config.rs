//! Configuration: one typed TOML file, every key optional.
//!
//! Unknown keys, wrong types and values out of range are errors that name file, line and key. Each libOS has
//! a section under its own name, and so has the preload shim, which it reads with [`Config::section`]; a file may carry the sections of
//! libOSes that a program does not use.

use std::path::Path;
use std::time::Duration;

use demi_memalloc::{HeapConfig, HugePages};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// The environment variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "DEMI_CONFIG";

/// Sections that are read by whom they concern.
const OTHER_SECTIONS: [&str; 6] = ["catnap", "catnip", "catmint", "cattree", "c", "preload"];

/// The configuration of an instance. `Config::default()` needs no file.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `[heap]`
    pub heap: HeapSection,
    /// `[wait]`
    pub wait: WaitSection,
    /// `[queues]`
    pub queues: QueuesSection,
    /// `[tokens]`
    pub tokens: TokensSection,
    /// `[tasks]`
    pub tasks: TasksSection,
    name: String,
    text: String,
}

/// The instance's heap.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeapSection {
    /// Size in MiB, 2 to 65536; default 256. Reserved and touched once at start: everything received or
    /// pushed lives in it, and an allocation beyond it fails.
    pub size_mib: usize,
    /// `"auto"` (default): huge pages if there are any, then transparent ones, then plain ones. `"never"`:
    /// plain ones. `"require"`: fail without huge pages.
    pub huge_pages: HugePagesChoice,
    /// Lock the pages in memory if permitted; default true. Unlocked pages may be swapped out.
    pub lock: bool,
}

/// Values of `heap.huge_pages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "described at the key")]
pub enum HugePagesChoice {
    Auto,
    Never,
    Require,
}

impl Default for HeapSection {
    fn default() -> HeapSection {
        HeapSection { size_mib: 256, huge_pages: HugePagesChoice::Auto, lock: true }
    }
}

impl HeapSection {
    pub(crate) fn to_heap_config(&self) -> HeapConfig {
        HeapConfig {
            size: self.size_mib << 20,
            huge_pages: match self.huge_pages {
                HugePagesChoice::Auto => HugePages::Auto,
                HugePagesChoice::Never => HugePages::Never,
                HugePagesChoice::Require => HugePages::Require,
            },
            lock: self.lock,
        }
    }
}

/// How to wait when nothing is ready. Spinning answers in the device's own latency and costs a core;
/// sleeping costs a wake-up of 15 to 30 µs. The time that is spun before sleeping adapts between two bounds:
/// it grows when sleeps turn out short and shrinks when they turn out long.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WaitSection {
    /// Least time to spin before a sleep, in µs; default 20. 0 with `spin_max_us = 0`: always sleep.
    pub spin_min_us: u64,
    /// Most time to spin before a sleep, in µs; default 1000. A very large value never sleeps.
    pub spin_max_us: u64,
}

impl Default for WaitSection {
    fn default() -> WaitSection {
        WaitSection { spin_min_us: 20, spin_max_us: 1000 }
    }
}

impl WaitSection {
    pub(crate) fn spin(&self) -> (Duration, Duration) {
        (Duration::from_micros(self.spin_min_us), Duration::from_micros(self.spin_max_us))
    }
}

/// Bounds of queues.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueuesSection {
    /// Most queues open at once, per libOS and for operators; default 1048576.
    pub max: usize,
    /// Elements that an in-memory queue holds, and each output of a partition; default 1024. A push on a full
    /// queue stays pending.
    pub memory_elements: usize,
    /// Elements that `sort` looks ahead; default 64.
    pub sort_lookahead: usize,
    /// Bytes of the largest message that `frame` accepts; default 16777216. A larger one fails the queue, so
    /// that a peer cannot make it hoard memory.
    pub frame_max_bytes: usize,
    /// How long a closed queue goes on delivering what was pushed, in ms; default 10000. What is not delivered
    /// by then fails.
    pub linger_ms: u64,
}

impl Default for QueuesSection {
    fn default() -> QueuesSection {
        QueuesSection {
            max: 1 << 20,
            memory_elements: 1024,
            sort_lookahead: 64,
            frame_max_bytes: 16 << 20,
            linger_ms: 10_000,
        }
    }
}

/// Bounds of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokensSection {
    /// Most operations outstanding or unreaped; default 4194304. Each takes about 80 bytes of ordinary memory.
    pub max: usize,
}

impl Default for TokensSection {
    fn default() -> TokensSection {
        TokensSection { max: 1 << 22 }
    }
}

/// Bounds of tasks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TasksSection {
    /// Most tasks alive at once, at most 262144; default 65536.
    pub max: usize,
}

impl Default for TasksSection {
    fn default() -> TasksSection {
        TasksSection { max: 1 << 16 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Document {
    heap: HeapSection,
    wait: WaitSection,
    queues: QueuesSection,
    tokens: TokensSection,
    tasks: TasksSection,
    #[serde(rename = "catnap")]
    _catnap: Option<serde::de::IgnoredAny>,
    #[serde(rename = "catnip")]
    _catnip: Option<serde::de::IgnoredAny>,
    #[serde(rename = "catmint")]
    _catmint: Option<serde::de::IgnoredAny>,
    #[serde(rename = "cattree")]
    _cattree: Option<serde::de::IgnoredAny>,
    #[serde(rename = "c")]
    _c: Option<serde::de::IgnoredAny>,
    #[serde(rename = "preload")]
    _preload: Option<serde::de::IgnoredAny>,
}

impl Config {
    /// What `DEMI_CONFIG` names; without that variable, the defaults.
    pub fn from_env() -> Result<Config, Error> {
        match std::env::var_os(CONFIG_VARIABLE) {
            Some(path) => Config::load(Path::new(&path)),
            None => Ok(Config::default()),
        }
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Config, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::Config(format!("cannot read configuration {}: {error}", path.display()))
        })?;
        Config::parse(&text, &path.display().to_string())
    }

    /// Reads a text; `name` stands in messages where the file's name would.
    pub fn parse(text: &str, name: &str) -> Result<Config, Error> {
        let document: Document = toml::from_str(text).map_err(|error| explain(name, &error))?;
        let Document { heap, wait, queues, tokens, tasks, .. } = document;
        let config = Config { heap, wait, queues, tokens, tasks, name: name.into(), text: text.into() };
        config.check()?;
        Ok(config)
    }

    /// The same with `text` behind it: for what a program's arguments add.
    pub fn extended(&self, text: &str) -> Result<Config, Error> {
        Config::parse(&format!("{}\n{text}", self.text), &self.name)
    }

    /// The section `name` of a libOS or shim, or its default if there is none.
    pub fn section<T: DeserializeOwned + Default>(&self, name: &'static str) -> Result<T, Error> {
        debug_assert!(OTHER_SECTIONS.contains(&name));
        let mut table = toml::de::DeTable::parse(&self.text).map_err(|error| explain(&self.name, &error))?;
        let Some(section) = table.get_mut().remove(name) else { return Ok(T::default()) };
        T::deserialize(toml::de::ValueDeserializer::from(section)).map_err(|mut error| {
            error.set_input(Some(&self.text));
            explain(&self.name, &error)
        })
    }

    /// The error for a value of a libOS's section that no type could refuse.
    pub fn reject(&self, section: &str, key: &str, why: &str) -> Error {
        let place = line_of(&self.text, section, key).map_or(String::new(), |line| format!(":{line}"));
        let name = if self.name.is_empty() { "configuration" } else { &self.name };
        Error::Config(format!("{name}{place}: {section}.{key} {why}"))
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let range = |section, key, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(self.reject(section, key, &format!("= {value} is out of range: {low} to {high}")))
        };
        range("heap", "size_mib", self.heap.size_mib, 2, 64 << 10)?;
        range("queues", "max", self.queues.max, 1, (i32::MAX >> 2) as usize)?;
        range("queues", "memory_elements", self.queues.memory_elements, 1, 1 << 24)?;
        range("queues", "sort_lookahead", self.queues.sort_lookahead, 1, 1 << 20)?;
        range("queues", "frame_max_bytes", self.queues.frame_max_bytes, 1, 1 << 30)?;
        range("tokens", "max", self.tokens.max, 1, 1 << 30)?;
        range("tasks", "max", self.tasks.max, 1, 1 << 18)?;
        if self.wait.spin_min_us > self.wait.spin_max_us {
            return Err(self.reject("wait", "spin_min_us", "is larger than wait.spin_max_us"));
        }
        Ok(())
    }
}

fn explain(name: &str, error: &toml::de::Error) -> Error {
    let name = if name.is_empty() { "configuration" } else { name };
    Error::Config(format!("{name}: {}", error.to_string().trim_end()))
}

/// The line, counted from 1, on which `key` of `section` stands: a help for the reader of a message, not a parser.
fn line_of(text: &str, section: &str, key: &str) -> Option<usize> {
    let mut current = "";
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            current = header.split(']').next().unwrap_or("").trim();
        }
        let names_key = line.split('=').next().is_some_and(|left| left.trim() == key);
        if current == section && names_key {
            return Some(index + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Default, Debug, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Section {
        size: usize,
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let config = Config::parse("", "x.toml").unwrap();
        assert_eq!(config.heap, HeapSection::default());
        assert_eq!(config.section::<Section>("catnap").unwrap(), Section::default());
    }

    #[test]
    fn messages_name_file_line_and_key() {
        for (text, line, key) in [
            ("\n[heap]\nsize = 3\n", "line 3", "size"),
            ("[wait]\nspin_max_us = \"long\"\n", "line 2", "spin_max_us"),
            ("[nonsense]\n", "line 1", "nonsense"),
            ("[heap]\nhuge_pages = \"maybe\"", "line 2", "maybe"),
            ("[heap]\n\nsize_mib = 1", "x.toml:3", "size_mib"),
            ("[wait]\nspin_min_us = 5\nspin_max_us = 1", "x.toml:2", "spin_min_us"),
        ] {
            let message = Config::parse(text, "x.toml").unwrap_err().to_string();
            for part in ["x.toml", line, key] {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn sections_of_libos_report_their_own_lines() {
        let config = Config::parse("[heap]\nsize_mib = 4\n[catnap]\nsiz = 1\n", "x.toml").unwrap();
        let message = config.section::<Section>("catnap").unwrap_err().to_string();
        assert!(message.contains("line 4") && message.contains("siz"), "{message}");
        let config = Config::parse("[catnap]\nsize = 7\n", "x.toml").unwrap();
        assert_eq!(config.section::<Section>("catnap").unwrap(), Section { size: 7 });
    }

    #[test]
    fn what_is_added_counts_as_if_it_stood_at_the_end() {
        let config = Config::parse("[heap]\nsize_mib = 4", "x.toml").unwrap();
        let config = config.extended("[catnap]\nsize = 7\n").unwrap();
        assert_eq!(
            (config.heap.size_mib, config.section::<Section>("catnap").unwrap()),
            (4, Section { size: 7 })
        );
        let message = config.extended("[heap]\nlock = false\n").unwrap_err().to_string();
        assert!(message.contains("x.toml") && message.contains("heap"), "{message}");
    }

    #[test]
    fn the_documented_file_shows_the_defaults() {
        let config = Config::parse(include_str!("../../docs/demi.toml"), "demi.toml").unwrap();
        assert_eq!(config.heap, HeapSection::default());
        assert_eq!(config.wait, WaitSection::default());
        assert_eq!(config.queues, QueuesSection::default());
        assert_eq!(config.tokens, TokensSection::default());
        assert_eq!(config.tasks, TasksSection::default());
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let message = Config::load(Path::new("/nonexistent/demi.toml")).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/demi.toml"), "{message}");
    }
}
