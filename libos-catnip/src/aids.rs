//! What the configuration puts before any device: faults, to see how a program fares on a bad network, and a
//! recording of what the stack sees.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use demi_api::config::Config;
use demi_api::error::Error;
use serde::Deserialize;

use crate::device::Queue as Device;
use crate::device::fault::{Fault, FaultConfig, Faults};
use crate::device::pcap::{Pcap, PcapConfig};

/// Keys of `[catnip.fault]`: what goes wrong with frames, in each direction by chances of its own. A test aid; without
/// the section nothing stands before the device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultSection {
    /// What chance grows from; default 1. The same seed gives the same sequence of fates.
    pub seed: u64,
    /// Probability that a frame is lost, 0 (default) to 1.
    pub loss: f64,
    /// Probability that a frame comes twice, 0 (default) to 1.
    pub duplicate: f64,
    /// Probability that one bit of a frame is turned, 0 (default) to 1.
    pub corrupt: f64,
    /// Probability that a frame is held back while others pass it, 0 (default) to 1.
    pub reorder: f64,
    /// Most time that such a frame is held back, in µs; default 1000, at most 60000000.
    pub reorder_by_us: u64,
    /// Time that every frame takes, in µs; default 0, at most 60000000.
    pub delay_us: u64,
    /// Most time that is added to it at random, in µs; default 0, at most 60000000. It does not change the order.
    pub jitter_us: u64,
    /// Bytes per second that pass; default 0, which is any number. Up to 256 KiB wait for their turn, more are dropped.
    pub rate: u64,
}

impl Default for FaultSection {
    fn default() -> FaultSection {
        FaultSection {
            seed: 1,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            reorder: 0.0,
            reorder_by_us: 1000,
            delay_us: 0,
            jitter_us: 0,
            rate: 0,
        }
    }
}

/// Keys of `[catnip.pcap]`: a recording of what the stack receives and transmits, behind the faults if there are any.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcapSection {
    /// The file, made or overwritten: pcapng, for Wireshark, tshark and tcpdump. No default.
    pub file: PathBuf,
    /// Bytes of each frame that are recorded, 14 to 262144; default 65549, any frame whole.
    #[serde(default = "whole_frames")]
    pub snap_len: usize,
}

fn whole_frames() -> usize {
    PcapConfig::default().snap_len
}

impl FaultSection {
    pub(crate) fn check(&self, config: &Config) -> Result<(), Error> {
        let reject = |key, why: String| Err(config.reject("catnip.fault", key, &why));
        for (key, chance) in [
            ("loss", self.loss),
            ("duplicate", self.duplicate),
            ("corrupt", self.corrupt),
            ("reorder", self.reorder),
        ] {
            if !(0.0..=1.0).contains(&chance) {
                return reject(key, format!("= {chance} is no probability: 0 to 1"));
            }
        }
        for (key, micros) in [
            ("reorder_by_us", self.reorder_by_us),
            ("delay_us", self.delay_us),
            ("jitter_us", self.jitter_us),
        ] {
            if micros > 60_000_000 {
                return reject(key, format!("= {micros} is out of range: 0 to 60000000"));
            }
        }
        Ok(())
    }

    fn faults(&self) -> Faults {
        Faults {
            loss: self.loss,
            duplicate: self.duplicate,
            corrupt: self.corrupt,
            reorder: self.reorder,
            reorder_by: Duration::from_micros(self.reorder_by_us),
            delay: Duration::from_micros(self.delay_us),
            jitter: Duration::from_micros(self.jitter_us),
            rate: self.rate,
            ..Faults::default()
        }
    }

    /// The device with these faults before it.
    pub(crate) fn before(&self, device: Box<dyn Device>) -> Box<dyn Device> {
        Box::new(Fault::new(device, FaultConfig { seed: self.seed, rx: self.faults(), tx: self.faults() }))
    }
}

impl PcapSection {
    pub(crate) fn check(&self, config: &Config) -> Result<(), Error> {
        if !(14..=262_144).contains(&self.snap_len) {
            let why = format!("= {} is out of range: 14 to 262144", self.snap_len);
            return Err(config.reject("catnip.pcap", "snap_len", &why));
        }
        Ok(())
    }

    /// The device, recorded from now on.
    pub(crate) fn before(&self, device: Box<dyn Device>) -> Result<Box<dyn Device>, Error> {
        // The instance's clock has started just before: times in the file are late by how long the heap took to make.
        let base = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let config =
            PcapConfig { path: self.file.clone(), snap_len: self.snap_len, base, ..PcapConfig::default() };
        Ok(Box::new(Pcap::create(device, &config)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CatnipSection;

    fn load(text: &str) -> Result<CatnipSection, Error> {
        CatnipSection::load(&Config::parse(text, "demi.toml").unwrap())
    }

    #[test]
    fn the_documented_sections_show_the_defaults() {
        let file = include_str!("../../docs/demi.toml");
        let (_, aids) = file.split_once("# [catnip.fault]\n").unwrap();
        let (aids, _) = aids.split_once("\n[").unwrap();
        let keys = |line: &&str| line.starts_with("# [") || line.split(' ').nth(2) == Some("=");
        let lines: Vec<&str> = aids.lines().filter(keys).map(|line| &line[2..]).collect();
        let section = load(&format!("[catnip.fault]\n{}\n", lines.join("\n"))).unwrap();
        assert_eq!(section.fault, Some(FaultSection::default()));
        let pcap = section.pcap.unwrap();
        assert_eq!((pcap.file.to_str(), pcap.snap_len), (Some("/tmp/catnip.pcapng"), whole_frames()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(load("").unwrap().fault, None);
        assert_eq!(load("[catnip.fault]\n").unwrap().fault, Some(FaultSection::default()));
        for (text, expected) in [
            ("[catnip.fault]\nloss = 1.5\n", "demi.toml:2: catnip.fault.loss = 1.5 is no probability"),
            ("[catnip.fault]\nreorder = -0.1\n", "demi.toml:2: catnip.fault.reorder"),
            ("[catnip.fault]\ncorrupt = nan\n", "demi.toml:2: catnip.fault.corrupt"),
            ("[catnip.fault]\ndelay_us = 60000001\n", "demi.toml:2: catnip.fault.delay_us"),
            ("[catnip.fault]\nlosses = 1\n", "losses"),
            ("[catnip.pcap]\n", "file"),
            ("[catnip.pcap]\nfile = \"x\"\nsnap_len = 1\n", "demi.toml:3: catnip.pcap.snap_len"),
        ] {
            let message = load(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
