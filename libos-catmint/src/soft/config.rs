//! What a device is made from.

use demi_api::error::Error;
use serde::Deserialize;

use super::link::shm::{Shm, ShmConfig};
use super::link::udp::{Udp, UdpConfig};
use super::{Settings, Soft};
use crate::device::RdmaDevice;

/// `[catmint.soft]`: RDMA in user space.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SoftSection {
    /// What carries packets. `"shm"` (default): shared memory, between the instances of one machine. `"udp"`: a network.
    pub link: LinkChoice,
    /// Most queue pairs, one for each peer, 1 to 65536; default 4096.
    pub pairs: usize,
    /// Most postings of a queue pair that are not done, 16 to 4096; default 128. Each keeps 256 bytes.
    pub depth: usize,
    /// `[catmint.soft.shm]`
    pub shm: ShmConfig,
    /// `[catmint.soft.udp]`
    pub udp: UdpConfig,
}

/// Values of `catmint.soft.link`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "described at the key")]
pub enum LinkChoice {
    #[default]
    Shm,
    Udp,
}

impl Default for SoftSection {
    fn default() -> SoftSection {
        let Settings { pairs, depth, .. } = Settings::default();
        SoftSection {
            link: LinkChoice::default(),
            pairs,
            depth,
            shm: ShmConfig::default(),
            udp: UdpConfig::default(),
        }
    }
}

impl SoftSection {
    /// Opens the device. `seed` should come from the operating system.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key out of its range, and what the link's `open` says.
    pub fn open(&self, seed: u64) -> Result<Box<dyn RdmaDevice>, Error> {
        if !(1..=1 << 16).contains(&self.pairs) {
            return Err(Error::Invalid("catmint.soft.pairs: 1 to 65536"));
        }
        if !(16..=4096).contains(&self.depth) {
            return Err(Error::Invalid("catmint.soft.depth: 16 to 4096"));
        }
        let settings = Settings { pairs: self.pairs, depth: self.depth, seed, ..Settings::default() };
        Ok(match self.link {
            LinkChoice::Shm => Box::new(Soft::new(Shm::open(&self.shm)?, settings)),
            LinkChoice::Udp => Box::new(Soft::new(Udp::open(&self.udp)?, settings)),
        })
    }
}
