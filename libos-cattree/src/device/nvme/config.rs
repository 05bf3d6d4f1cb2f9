//! How a controller is used: [`NvmeConfig`], and what it is checked for.

use std::time::Duration;

use demi_api::error::Error;
use serde::Deserialize;

/// Which controller, which of its namespaces, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NvmeConfig {
    /// PCI address of the controller, as `0000:00:04.0` (`lspci -D -d ::0108` lists them). It has to be bound to
    /// `vfio-pci`, and is wholly this instance's. No default.
    pub address: String,
    /// The namespace that is used; default 1.
    pub namespace: u32,
    /// Commands that the controller is given at once, 1 to 1024; default 128. Less if the controller's queues are
    /// shorter. Each takes about a page of locked memory for queue entries and lists.
    pub depth: u16,
    /// Milliseconds that a command may take, 10 to 600,000; default 30,000. Then it is aborted; if that does not help, the
    /// controller is reset, and what was under way is given to it again.
    pub timeout_ms: u64,
    /// How often a command is given to the controller again, after resets and failures that may pass, before its
    /// request fails; at most 100, default 3.
    pub retries: u8,
}

impl Default for NvmeConfig {
    fn default() -> NvmeConfig {
        NvmeConfig { address: String::new(), namespace: 1, depth: 128, timeout_ms: 30_000, retries: 3 }
    }
}

impl NvmeConfig {
    /// Refuses what cannot be meant.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.address.is_empty() {
            return Err(Error::Config("NVMe: give the PCI `address` of the controller".into()));
        }
        let refuse = |what: String| Err(self.failed(what));
        if !is_pci_address(&self.address) {
            return refuse(
                "`address` is no PCI address like 0000:00:04.0; `lspci -D -d ::0108` lists them".into(),
            );
        }
        // All ones means all namespaces, zero none (Base 1.4 §6.1).
        if self.namespace == 0 || self.namespace == u32::MAX {
            return refuse(format!("`namespace` = {} names no namespace: they count from 1", self.namespace));
        }
        if !(1..=1024).contains(&self.depth) {
            return refuse(format!("`depth` = {} is out of range: 1 to 1024", self.depth));
        }
        if !(10..=600_000).contains(&self.timeout_ms) {
            return refuse(format!("`timeout_ms` = {} is out of range: 10 to 600000", self.timeout_ms));
        }
        if self.retries > 100 {
            return refuse(format!("`retries` = {} is out of range: 0 to 100", self.retries));
        }
        Ok(())
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// What is wrong with this controller.
    pub(super) fn failed(&self, what: impl std::fmt::Display) -> Error {
        Error::Config(format!("NVMe controller {}: {what}", self.address))
    }
}

/// Domain, bus, device and function, all hexadecimal but for the last, which is 0 to 7.
fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let Some((domain, rest)) = text.split_once(':') else { return false };
    let Some((bus, rest)) = rest.split_once(':') else { return false };
    let Some((device, function)) = rest.split_once('.') else { return false };
    let function = function.len() == 1 && function.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    (hex(domain, 4) || hex(domain, 5)) && hex(bus, 2) && hex(device, 2) && function
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_and_checked() {
        let read = |text: &str| toml::from_str::<NvmeConfig>(text);
        let config = read("address = \"0000:00:04.0\"\nnamespace = 2\ndepth = 32").expect("it is one");
        assert_eq!((config.namespace, config.depth, config.retries, config.check()), (2, 32, 3, Ok(())));
        assert!(read("adress = \"0000:00:04.0\"").is_err_and(|error| error.to_string().contains("adress")));
        for (text, reason) in [
            ("", "give the PCI `address`"),
            ("address = \"04:00.0\"", "no PCI address"),
            ("address = \"0000:00:04.8\"", "no PCI address"),
            ("address = \"../../x:00:04.0\"", "no PCI address"),
            ("address = \"0000:00:04.0\"\nnamespace = 0", "count from 1"),
            ("address = \"0000:00:04.0\"\ndepth = 0", "1 to 1024"),
            ("address = \"0000:00:04.0\"\ndepth = 1025", "1 to 1024"),
            ("address = \"0000:00:04.0\"\ntimeout_ms = 1", "10 to 600000"),
            ("address = \"0000:00:04.0\"\nretries = 101", "0 to 100"),
        ] {
            let Err(error) = read(text).expect("it can be read").check() else { panic!("{text} passes") };
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
