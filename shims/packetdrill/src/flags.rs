//! What `--so_flags` says: words separated by semicolons.
//!
//! `real` and `virtual` choose the clock, `mtu=1500` is the device's, and every other `key=value` is a key of the section
//! `[catnip]` with its value as TOML has it, `ip.hop_limit=64` one of `[catnip.ip]`. What is not given is as
//! packetdrill's scripts take it to be: its own addresses, no pacing, no marks of congestion, and a window scale of 8.

use std::collections::BTreeMap;

use demi_api::Error;

/// What packetdrill calls its own, and the prefixes that its gateways lie in.
const ADDRESSES: &str = "[\"192.168.0.1/16\", \"fd3d:a0b:17d6::1/48\"]";

/// Keys that are set unless a flag sets them.
const DEFAULTS: [(&str, &str); 6] = [
    ("recv_buffer", "15728640"),
    ("pacing", "false"),
    ("ecn", "\"off\""),
    ("ip.addresses", ADDRESSES),
    ("ip.gateway4", "\"192.168.0.2\""),
    ("ip.gateway6", "\"fd3d:a0b:17d6:8888::1\""),
];

/// Least and greatest MTU that a stack for both families can have.
const MTU: std::ops::RangeInclusive<usize> = 1280..=65_535;

/// The flags, understood.
#[derive(Debug, PartialEq)]
pub(crate) struct Flags {
    /// The clock is set by hand.
    pub(crate) is_virtual: bool,
    /// The device's MTU.
    pub(crate) mtu: usize,
    /// The instance's configuration, as TOML.
    pub(crate) config: String,
}

impl Flags {
    pub(crate) fn parse(text: &str) -> Result<Flags, Error> {
        let mut keys: BTreeMap<&str, &str> = DEFAULTS.into();
        let mut flags = Flags { is_virtual: true, mtu: 1500, config: String::new() };
        for word in text.split(';').map(str::trim).filter(|word| !word.is_empty()) {
            match word.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                None if word == "real" => flags.is_virtual = false,
                None if word == "virtual" => flags.is_virtual = true,
                Some(("mtu", value)) => {
                    let mtu = value.parse().ok().filter(|mtu| MTU.contains(mtu));
                    flags.mtu = mtu.ok_or_else(|| refusal(word, "an MTU is a number from 1280 to 65535"))?;
                }
                // Another line, or section, would be no value of this key.
                Some((key, value)) if !value.contains('\n') && is_key(key) => {
                    keys.insert(key, value);
                }
                _ => return Err(refusal(word, "a flag is \"real\", \"virtual\", or KEY=VALUE")),
            }
        }
        let (ip, own): (Vec<_>, Vec<_>) = keys.iter().partition(|(key, _)| key.starts_with("ip."));
        let lines = |keys: Vec<(&&str, &&str)>| -> String {
            keys.iter().map(|(key, value)| format!("{} = {value}\n", key.trim_start_matches("ip."))).collect()
        };
        flags.config = format!(
            "[heap]\nsize_mib = 32\nlock = false\nhuge_pages = \"never\"\n[catnip]\n{}[catnip.ip]\n{}",
            lines(own),
            lines(ip)
        );
        Ok(flags)
    }
}

fn is_key(key: &str) -> bool {
    let key = key.strip_prefix("ip.").unwrap_or(key);
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn refusal(word: &str, why: &str) -> Error {
    Error::Config(format!("--so_flags: {word:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_before_defaults() {
        let flags = Flags::parse("real; mtu=9000;ecn=\"on\";ip.hop_limit=3").unwrap();
        assert!(!flags.is_virtual && flags.mtu == 9000);
        let config = demi_api::config::Config::parse(&flags.config, "flags").unwrap();
        let section = demi_libos_catnip::CatnipSection::load(&config).unwrap();
        assert_eq!(section.ecn, demi_libos_catnip::EcnChoice::On);
        assert_eq!((section.ip.hop_limit, section.recv_buffer), (3, 15 << 20));
        assert!(Flags::parse("").unwrap().is_virtual);
    }

    #[test]
    fn what_is_no_flag_is_refused_by_name() {
        for text in ["fast", "mtu=10", "mtu=", "=3", "ecn=\"on\"\n[heap]", "a b=1"] {
            let error = Flags::parse(text).unwrap_err().to_string();
            assert!(error.contains("--so_flags"), "{text}: {error}");
        }
    }
}
