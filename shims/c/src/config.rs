//! The `[c]` section of the configuration.

use demi_api::{Config, Error};
use serde::Deserialize;

use crate::types::MAX_SEGMENTS;

/// Keys of `[c]`, all optional.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CSection {
    /// Most segments of a popped array, 1 to 8; default 1. Programs that were written for one segment read only the first, so
    /// what comes in more is copied into one. A queue can be given another limit: `setsockopt(3)`, `SOL_DEMI`.
    pub max_segments: usize,
    /// Look whether what is pushed is written to before its token has completed; default false. Such a push
    /// fails with `EFAULT`, and a line on standard error names its token. It costs two passes over the bytes.
    pub check_writes: bool,
}

impl Default for CSection {
    fn default() -> CSection {
        CSection { max_segments: 1, check_writes: false }
    }
}

impl CSection {
    /// Reads the section.
    pub fn load(config: &Config) -> Result<CSection, Error> {
        let section: CSection = config.section("c")?;
        if !(1..=MAX_SEGMENTS).contains(&section.max_segments) {
            return Err(config.reject("c", "max_segments", "must be 1 to 8"));
        }
        Ok(section)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let config = Config::parse(include_str!("../../../docs/demi.toml"), "demi.toml").unwrap();
        assert_eq!(CSection::load(&config), Ok(CSection::default()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (key, value) in [("max_segments", "0"), ("max_segments", "9"), ("check_writs", "true")] {
            let config = Config::parse(&format!("[c]\n{key} = {value}\n"), "demi.toml").unwrap();
            let message = CSection::load(&config).unwrap_err().to_string();
            assert!(message.contains("demi.toml") && message.contains(key), "{message}");
        }
    }
}
