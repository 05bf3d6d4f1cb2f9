//! The `[cattree]` section of the configuration.

use demi_api::config::Config;
use demi_api::error::Error;
use demi_api::memalloc::Heap;
use serde::Deserialize;

use crate::device::BlockDevice;
use crate::device::mem::{Mem, MemConfig};
use crate::device::nvme::{Nvme, NvmeConfig};
use crate::device::uring::{Uring, UringConfig};
use crate::store::MakeOptions;

/// Keys of `[cattree]`, all optional but `device`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CattreeSection {
    /// Where the logs are, by its `kind`: `"mem"` (default, memory of this process: gone with it), `"uring"` (a file or block
    /// device) or `"nvme"` (a controller of one's own).
    pub device: DeviceSection,
    /// Make an image where there is nothing (true, default): nothing that is there already is ever overwritten. False: fail.
    pub make: bool,
    /// With `make`: bytes of a block, a power of two, default 4096, 512 to 65536. Smaller blocks waste less space on small elements
    /// that are written one by one; an image opens only on devices whose blocks are not larger.
    pub block_size: usize,
    /// With `make`: bytes of a segment, a power of two of at least 16 blocks; default 0: about a thousandth of the device, 64 KiB to 16 MiB. A log
    /// takes at least one.
    pub segment_size: usize,
    /// Payloads of at least this many bytes are written from where they lie, if that is at a multiple of what the device
    /// needs; smaller ones, and others, are copied. Default 32768, at least one block.
    pub zero_copy_threshold: usize,
    /// Elements of at most this many bytes are copied out of what was read ahead; larger ones are parts of it, and keep it
    /// in memory until they are dropped. Default 512; 0: never copy.
    pub copy_threshold: usize,
}

/// `[cattree.device]`: which device, and its own keys.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DeviceSection {
    /// Memory of the process.
    Mem(MemSection),
    /// A file, or a block device of the kernel's.
    Uring(UringConfig),
    /// A namespace of an NVMe controller that this process drives.
    Nvme(NvmeConfig),
}

/// Keys of `[cattree.device]` with `kind = "mem"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemSection {
    /// Mebibytes; default 64.
    pub size_mib: usize,
}

impl Default for MemSection {
    fn default() -> MemSection {
        MemSection { size_mib: 64 }
    }
}

impl Default for DeviceSection {
    fn default() -> DeviceSection {
        DeviceSection::Mem(MemSection::default())
    }
}

impl Default for CattreeSection {
    fn default() -> CattreeSection {
        CattreeSection {
            device: DeviceSection::default(),
            make: true,
            block_size: 4096,
            segment_size: 0,
            zero_copy_threshold: 32 << 10,
            copy_threshold: 512,
        }
    }
}

impl CattreeSection {
    /// Reads the section, and checks what can be checked without the device.
    pub fn load(config: &Config) -> Result<CattreeSection, Error> {
        let section: CattreeSection = config.section("cattree")?;
        if !section.block_size.is_power_of_two() || !(512..=65536).contains(&section.block_size) {
            return Err(config.reject("cattree", "block_size", "must be a power of two from 512 to 65536"));
        }
        if section.segment_size != 0
            && (!section.segment_size.is_power_of_two() || section.segment_size < 16 * section.block_size)
        {
            return Err(config.reject(
                "cattree",
                "segment_size",
                "must be a power of two of at least 16 blocks, or 0",
            ));
        }
        if section.zero_copy_threshold < section.block_size {
            return Err(config.reject("cattree", "zero_copy_threshold", "must be at least one block"));
        }
        Ok(section)
    }

    /// How an image would be made.
    pub fn make_options(&self) -> MakeOptions {
        let segment_size = (self.segment_size != 0).then_some(self.segment_size);
        MakeOptions { block_size: self.block_size, segment_size }
    }
}

impl DeviceSection {
    /// Opens the device.
    pub fn open(&self, heap: &Heap) -> Result<Box<dyn BlockDevice>, Error> {
        match self {
            DeviceSection::Mem(MemSection { size_mib }) => {
                let size = size_mib
                    .checked_mul(1 << 20)
                    .ok_or(Error::Invalid("cattree.device.size_mib is too large"))?;
                Ok(Box::new(Mem::new(&MemConfig { size, ..MemConfig::default() })?))
            }
            DeviceSection::Uring(config) => Ok(Box::new(Uring::open(heap, config)?)),
            DeviceSection::Nvme(config) => Ok(Box::new(Nvme::open(heap, config)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let config = Config::parse(include_str!("../../docs/demi.toml"), "demi.toml").unwrap();
        assert_eq!(CattreeSection::load(&config), Ok(CattreeSection::default()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (key, value) in [
            ("block_size", "1000"),
            ("segment_size", "4096"),
            ("zero_copy_threshold", "100"),
            ("blok_size", "1"),
        ] {
            let config = Config::parse(&format!("[cattree]\n{key} = {value}\n"), "demi.toml").unwrap();
            let message = CattreeSection::load(&config).unwrap_err().to_string();
            assert!(message.contains("demi.toml") && message.contains(key), "{message}");
        }
    }
}
