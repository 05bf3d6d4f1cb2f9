//! The `[catnap]` section of the configuration.

use std::time::Duration;

use demi_api::config::Config;
use demi_api::error::Error;
use serde::Deserialize;

/// Most queues that can be spun on: each is tried at least once in a turn of the wait loop.
pub(crate) const MAX_SPIN_QUEUES: usize = 16;

/// Keys of `[catnap]`, all optional.
///
/// ```
/// use demi_api::config::Config;
/// use demi_libos_catnap::CatnapSection;
///
/// let config = Config::parse("[catnap]\nrecv_bytes = 65536\n", "demi.toml")?;
/// assert_eq!(CatnapSection::load(&config)?.recv_bytes, 65536);
///
/// let config = Config::parse("[catnap]\nrecv_bytes = 1\n", "demi.toml")?;
/// assert!(CatnapSection::load(&config).unwrap_err().to_string().contains("demi.toml:2"));
/// # Ok::<(), demi_api::error::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatnapSection {
    /// Bytes that one receive from a stream, or one read from a file, asks for; default 16384, 512 to
    /// 4194304. A pop yields at most this much. Larger values save system calls in bulk transfers; every
    /// popped array above `copy_threshold` holds a buffer of this size until it is dropped.
    pub recv_bytes: usize,
    /// Receives of at most this many bytes are copied into a buffer of their own size; larger ones hand out
    /// the receive buffer itself. Default 512; 0: never copy. Copying costs time, handing out costs memory.
    pub copy_threshold: usize,
    /// Most queues that are tried directly on every turn, without asking the kernel which are ready;
    /// default 4, at most 16. 0: always ask, which adds about 0.8 µs to a round trip. A queue comes in when a
    /// pop on it has to wait and leaves when it has had nothing for a while.
    pub spin_queues: usize,
    /// Fruitless tries after which a queue is no longer tried directly; default 1024, at least 16. More keep
    /// a slow peer's latency low, fewer waste less time on queues that have fallen silent.
    pub spin_tries: u32,
    /// While queues are tried directly, the kernel is asked about all others every so many rounds of tries at
    /// the latest; default 32, at least 1. The interval shrinks to 1 while others have work.
    pub probe_turns: u32,
    /// Time after which a connect that got no answer fails, in ms; default 0: the kernel decides, which takes
    /// it about two minutes.
    pub connect_timeout_ms: u64,
    /// Operations on files under way at once; default 64, at most 4096; more wait their turn. 0: do not use
    /// io_uring; file operations then block the instance, as they do where io_uring is not permitted.
    pub file_ring_entries: u32,
}

impl Default for CatnapSection {
    fn default() -> CatnapSection {
        CatnapSection {
            recv_bytes: 16 << 10,
            copy_threshold: 512,
            spin_queues: 4,
            spin_tries: 1024,
            probe_turns: 32,
            connect_timeout_ms: 0,
            file_ring_entries: 64,
        }
    }
}

impl CatnapSection {
    /// Reads and checks the section. Errors name file, line and key.
    pub fn load(config: &Config) -> Result<CatnapSection, Error> {
        let section: CatnapSection = config.section("catnap")?;
        let range = |key, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(config.reject("catnap", key, &format!("= {value} is out of range: {low} to {high}")))
        };
        range("recv_bytes", section.recv_bytes as u64, 512, 4 << 20)?;
        range("copy_threshold", section.copy_threshold as u64, 0, section.recv_bytes as u64)?;
        range("spin_queues", section.spin_queues as u64, 0, MAX_SPIN_QUEUES as u64)?;
        range("spin_tries", section.spin_tries.into(), 16, 1 << 30)?;
        range("probe_turns", section.probe_turns.into(), 1, 1 << 20)?;
        range("connect_timeout_ms", section.connect_timeout_ms, 0, 24 * 3_600_000)?;
        range("file_ring_entries", section.file_ring_entries.into(), 0, 4096)?;
        Ok(section)
    }

    pub(crate) fn connect_timeout(&self) -> Option<Duration> {
        (self.connect_timeout_ms > 0).then(|| Duration::from_millis(self.connect_timeout_ms))
    }
}
