//! The `[catmint]` section of the configuration.

use std::net::IpAddr;
use std::time::Duration;

use demi_api::config::Config;
use demi_api::error::Error;
use demi_api::memalloc::Heap;
use serde::Deserialize;

use crate::device::RdmaDevice;
use crate::device::ideal::{Conditions, Fabric};
use crate::regions::Limits;
use crate::soft::SoftSection;
#[cfg(feature = "verbs")]
use crate::verbs::{Verbs, VerbsConfig};
use crate::wire::{HEAD, RECEIVE_BYTES, RECEIVES, cost};

/// Keys of `[catmint]`, all optional.
///
/// ```
/// use demi_api::config::Config;
/// use demi_libos_catmint::CatmintSection;
///
/// let config = Config::parse("[catmint]\nreceives = 64\n", "demi.toml")?;
/// assert_eq!(CatmintSection::load(&config)?.receives, 64);
///
/// let config = Config::parse("[catmint]\nreceives = 3\n", "demi.toml")?;
/// assert!(CatmintSection::load(&config).unwrap_err().to_string().contains("demi.toml:2"));
/// # Ok::<(), demi_api::error::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatmintSection {
    /// Which device: `"loopback"` (default): none; the instance can talk to itself, at 127.0.0.1 and ::1. `"soft"`: RDMA in user
    /// space, as `[catmint.soft]` says. `"verbs"`: a real device, as `[catmint.verbs]` says, if this was built with the feature
    /// `verbs`.
    pub device: DeviceChoice,
    /// Messages of one peer that there is room for before the application looks; default 128, 4 to 32768. Each takes
    /// `receive_bytes` of the heap for as long as the peer is known. More keep many small messages under way.
    pub receives: u16,
    /// Bytes of one such message; default 4096, 256 to 1048576. Arrays that are longer, or more than a few KiB on a connection with a small
    /// window, are read by the peer from where they lie, which takes a round trip more and no copy.
    pub receive_bytes: u32,
    /// Bytes that a connection's peer may send ahead of the application at the most; default 262144, 1024 to 1073741824, and at least
    /// four times `receive_bytes`. It is less where many connections share a small heap.
    pub window: u32,
    /// Most bytes of an array that peers may push; default 67108864 (64 MiB), at most half of the heap.
    pub longest: u32,
    /// Connections with one peer at the most; default 4096, 1 to 65535. Each takes 8 bytes of memory that the peer can write,
    /// whether it is there or not.
    pub connections: u16,
    /// Peers at the most; default 256, 1 to 65536.
    pub peers: usize,
    /// How long a peer with open connections may be left in peace, in ms, before it is tried whether it is still there; default 1000,
    /// 1 to 3600000.
    pub keepalive_ms: u64,
    /// Queues that peers may have open on this instance's regions; default 1024, 0 to 65536.
    pub region_users: usize,
    /// How long a connect waits for an answer, in ms; default 10000, 1 to 3600000.
    pub connect_timeout_ms: u64,
    /// `[catmint.soft]`
    pub soft: SoftSection,
    /// `[catmint.verbs]`
    #[cfg(feature = "verbs")]
    pub verbs: VerbsConfig,
}

/// Values of `catmint.device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "described at the key")]
pub enum DeviceChoice {
    #[default]
    Loopback,
    Soft,
    Verbs,
}

impl Default for CatmintSection {
    fn default() -> CatmintSection {
        CatmintSection {
            device: DeviceChoice::Loopback,
            receives: 128,
            receive_bytes: 4096,
            window: 256 << 10,
            longest: 64 << 20,
            connections: 4096,
            peers: 256,
            keepalive_ms: 1000,
            region_users: 1024,
            connect_timeout_ms: 10_000,
            soft: SoftSection::default(),
            #[cfg(feature = "verbs")]
            verbs: VerbsConfig::default(),
        }
    }
}

impl CatmintSection {
    /// Reads and checks the section. Errors name file, line and key.
    pub fn load(config: &Config) -> Result<CatmintSection, Error> {
        let section: CatmintSection = config.section("catmint")?;
        let range = |key, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(config.reject("catmint", key, &format!("= {value} is out of range: {low} to {high}")))
        };
        range("receives", section.receives.into(), (*RECEIVES.start()).into(), (*RECEIVES.end()).into())?;
        let bytes = (u64::from(*RECEIVE_BYTES.start()), u64::from(*RECEIVE_BYTES.end()));
        range("receive_bytes", section.receive_bytes.into(), bytes.0, bytes.1)?;
        range("window", section.window.into(), 4 * u64::from(section.receive_bytes), 1 << 30)?;
        range("longest", section.longest.into(), section.receive_bytes.into(), 1 << 31)?;
        range("connections", section.connections.into(), 1, u16::MAX.into())?;
        range("peers", section.peers as u64, 1, 1 << 16)?;
        range("region_users", section.region_users as u64, 0, 1 << 16)?;
        range("keepalive_ms", section.keepalive_ms, 1, 3_600_000)?;
        range("connect_timeout_ms", section.connect_timeout_ms, 1, 3_600_000)?;
        Ok(section)
    }

    /// Opens the device.
    #[cfg_attr(not(feature = "verbs"), expect(unused_variables, reason = "real devices need the heap"))]
    pub(crate) fn open(&self, heap: &Heap, seed: u64) -> Result<Box<dyn RdmaDevice>, Error> {
        match self.device {
            DeviceChoice::Loopback => {
                let ips = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
                Ok(Box::new(Fabric::new(Conditions::default()).plug(&ips)?))
            }
            DeviceChoice::Soft => self.soft.open(seed),
            #[cfg(feature = "verbs")]
            DeviceChoice::Verbs => Ok(Box::new(Verbs::open(heap, &self.verbs)?)),
            #[cfg(not(feature = "verbs"))]
            DeviceChoice::Verbs => Err(Error::Config(
                "catmint.device = \"verbs\": this was built without it; build with `--features demi-libos-catmint/verbs`, \
                 which needs what `cargo xtask setup` installs"
                    .into(),
            )),
        }
    }

    pub(crate) fn policy(&self, heap: &Heap, linger: Duration) -> Policy {
        let heap = heap.region().len;
        Policy {
            receives: self.receives,
            receive_bytes: self.receive_bytes,
            window: self.window,
            least_window: 2 * cost(self.receive_bytes as usize - HEAD),
            budget: heap / 4,
            longest: self.longest.min(u32::try_from(heap / 2).unwrap_or(u32::MAX)),
            connections: self.connections,
            peers: self.peers,
            region_users: self.region_users,
            keepalive: Duration::from_millis(self.keepalive_ms),
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            linger,
        }
    }
}

/// What the configuration comes to on this heap.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) receives: u16,
    pub(crate) receive_bytes: u32,
    window: u32,
    least_window: u32,
    /// What the windows of all connections together should stay below.
    budget: usize,
    pub(crate) longest: u32,
    pub(crate) connections: u16,
    pub(crate) peers: usize,
    region_users: usize,
    pub(crate) keepalive: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) linger: Duration,
}

impl Policy {
    pub(crate) fn regions(&self) -> Limits {
        Limits {
            users: self.region_users,
            connect_timeout: self.connect_timeout,
            linger: self.linger,
            // Who uses a region owes nobody an answer in time: it is only to be noticed one day.
            watch: 8 * self.keepalive,
        }
    }

    /// What each of so many connections is granted.
    pub(crate) fn window(&self, connections: usize) -> u32 {
        let share = u32::try_from(self.budget / connections.max(1)).unwrap_or(u32::MAX);
        share.min(self.window).max(self.least_window)
    }
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::{HeapConfig, HugePages};

    use super::*;

    #[test]
    fn the_documented_configuration_is_the_default() {
        let config = Config::parse(include_str!("../../docs/demi.toml"), "demi.toml").unwrap();
        assert_eq!(CatmintSection::load(&config).unwrap(), CatmintSection::default());
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (line, key) in [
            ("receives = 40000", "receives"),
            ("receive_bytes = 255", "receive_bytes"),
            ("window = 16383", "window"),
            ("device = \"telegraph\"", "device"),
            ("connections = 0", "connections"),
        ] {
            let config = Config::parse(&format!("[catmint]\n{line}\n"), "demi.toml").unwrap();
            let message = CatmintSection::load(&config).unwrap_err().to_string();
            assert!(message.contains(key) && message.contains("demi.toml"), "{message}");
        }
    }

    #[test]
    fn windows_shrink_with_the_number_of_connections_but_never_below_two_messages() {
        let config = HeapConfig { size: 16 << 20, huge_pages: HugePages::Never, lock: false };
        let heap = Heap::new(&config).unwrap();
        let policy = CatmintSection::default().policy(&heap, Duration::ZERO);
        assert_eq!(policy.window(1), 256 << 10);
        assert_eq!(policy.window(64), 64 << 10);
        assert_eq!(policy.window(1_000_000), 2 * cost(4080));
    }
}
