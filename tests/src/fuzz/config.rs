//! Configurations.

use demi_api::{Config, Error};
use demi_libos_catnip::{CatnipSection, DeviceSection};

use super::host::Host;

/// A configuration is accepted, or refused with a message that names the file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text, "fuzz.toml") {
        Ok(config) => {
            assert!(config.heap.size_mib >= 2);
            section(&config);
        }
        Err(Error::Config(message)) => assert!(message.contains("fuzz.toml"), "{message}"),
        Err(other) => panic!("{other}"),
    }
}

/// A section `[catnip]` is accepted, or refused with a text; one that is accepted makes an instance, or says which of its
/// addresses and routes do not go together.
fn section(config: &Config) {
    match CatnipSection::load(config) {
        // Other devices are the system's affair.
        Ok(section) if section.device == DeviceSection::Loopback => match Host::over(&section) {
            Ok(mut host) => {
                for _ in 0..20 {
                    host.settle();
                    host.to_deadline();
                }
            }
            Err(Error::Config(_)) => {}
            Err(other) => panic!("{other}"),
        },
        Ok(_) | Err(Error::Config(_)) => {}
        Err(other) => panic!("{other}"),
    }
}
