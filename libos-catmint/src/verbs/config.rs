//! How a device is used: [`VerbsConfig`], and what it is checked for.

use std::net::IpAddr;

use demi_api::error::Error;
use serde::Deserialize;

/// Which RDMA device, and how: section `[catmint.verbs]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerbsConfig {
    /// The device's name, as `ibv_devices` lists it; default: the first whose port is active.
    pub device: String,
    /// The address that connections are made from, one of the device's; default: what the way to the peer suggests.
    pub address: Option<IpAddr>,
    /// Postings under way on a queue pair, a power of two, 32 to 4096; default 128. Each takes 1 KiB, half of it locked.
    pub send_depth: u32,
    /// Buffers in the shared receive queue, 16 to 65,536; default 8192. Less if the device has less.
    pub receives: u32,
    /// Queue pairs, which is peers, 1 to 4096; default 256. Less if the device has less, or its completion
    /// queues cannot be long enough for the postings of so many.
    pub queue_pairs: u32,
    /// Milliseconds after which a peer that does not answer is given up, 10 to 60,000; default 2000. The device rounds
    /// to a power of two, and may take up to four times as long.
    pub answer_ms: u32,
    /// Milliseconds that connecting may take, 10 to 600,000; default 5000.
    pub connect_ms: u32,
    /// How memory is opened that a peer is to read; default `"auto"`.
    pub windows: Windows,
}

/// How a part of the heap is opened to one peer, for one transfer. In all cases nothing else of the heap can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Windows {
    /// By a memory window on the heap, for that peer's queue pair alone, without a system call. Whether the device keeps
    /// peers inside of windows is tried out when it is opened; if not (rxe does not), as `Narrow`; if there are
    /// no windows, as `Off`.
    #[default]
    Auto,
    /// By a window as well, but on a registration of just these bytes: a system call for each transfer.
    Narrow,
    /// By a registration of just these bytes: a system call for each transfer, and other peers that guess its
    /// key could read them too.
    Off,
}

impl Default for VerbsConfig {
    fn default() -> VerbsConfig {
        VerbsConfig {
            device: String::new(),
            address: None,
            send_depth: 128,
            receives: 8192,
            queue_pairs: 256,
            answer_ms: 2000,
            connect_ms: 5000,
            windows: Windows::Auto,
        }
    }
}

impl VerbsConfig {
    /// Refuses what cannot be meant.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.send_depth.is_power_of_two() || !(32..=4096).contains(&self.send_depth) {
            let what = format!("`send_depth` = {} is no power of two of 32 to 4096", self.send_depth);
            return Err(self.failed(what));
        }
        for (name, value, range) in [
            ("receives", self.receives, 16..=65_536),
            ("queue_pairs", self.queue_pairs, 1..=4096),
            ("answer_ms", self.answer_ms, 10..=60_000),
            ("connect_ms", self.connect_ms, 10..=600_000),
        ] {
            if !range.contains(&value) {
                let (least, most) = (range.start(), range.end());
                return Err(self.failed(format!("`{name}` = {value} is out of range: {least} to {most}")));
            }
        }
        Ok(())
    }

    /// What is wrong with this device.
    pub(super) fn failed(&self, what: impl std::fmt::Display) -> Error {
        let name = if self.device.is_empty() { "RDMA device" } else { &self.device };
        Error::Config(format!("catmint.verbs: {name}: {what}"))
    }

    /// The device's own wait for one answer, 4.096 µs × 2^n (InfiniBand specification, local ACK timeout), such that all
    /// of its attempts come to what is configured.
    pub(super) fn answer_exponent(&self) -> u8 {
        let attempts = u64::from(super::cm::raw::RETRIES) + 1;
        let nanos = u64::from(self.answer_ms) * 1_000_000 / attempts;
        (1..31).find(|exponent| 4096 << exponent >= nanos).unwrap_or(31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_and_checked() {
        let read = |text: &str| toml::from_str::<VerbsConfig>(text);
        let config = read("device = \"rxe0\"\nwindows = \"off\"\naddress = \"fd00::1\"\nsend_depth = 64")
            .expect("it is one");
        assert_eq!((config.device.as_str(), config.send_depth, config.check()), ("rxe0", 64, Ok(())));
        assert_eq!(config.windows, Windows::Off);
        assert!(read("devise = \"rxe0\"").is_err_and(|error| error.to_string().contains("devise")));
        for (text, reason) in [
            ("send_depth = 100", "power of two"),
            ("send_depth = 16", "32 to 4096"),
            ("send_depth = 8192", "32 to 4096"),
            ("receives = 1", "16 to 65536"),
            ("queue_pairs = 0", "1 to 4096"),
            ("answer_ms = 1", "10 to 60000"),
            ("connect_ms = 0", "10 to 600000"),
        ] {
            let Err(error) = read(text).expect("it can be read").check() else { panic!("{text} passes") };
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn all_attempts_together_take_what_is_configured() {
        for answer_ms in [10, 100, 2000, 60_000] {
            let config = VerbsConfig { answer_ms, ..VerbsConfig::default() };
            let all = 8 * (4096_u64 << config.answer_exponent());
            let wanted = u64::from(answer_ms) * 1_000_000;
            assert!((wanted..2 * wanted).contains(&all), "{answer_ms} ms becomes {all} ns");
        }
    }
}
