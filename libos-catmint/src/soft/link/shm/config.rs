//! What a link over shared memory is made from.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use demi_api::error::Error;
use serde::Deserialize;

use super::greeting::LOG2;

/// `[catmint.soft.shm]`
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShmConfig {
    /// The directory of the machine's instances, each with a UNIX socket that is named like its address. Default
    /// `/run/demi/rdma`. Made if it is not there, for its user alone: whoever may write to it may be reached and reach others.
    pub directory: PathBuf,
    /// The instance's address, by which others find it in the directory; no interface needs to have it. Default `127.0.0.1`.
    pub address: IpAddr,
    /// Base-2 logarithm of the packets that a direction holds, 1 to 10; default 8. Each takes 4.25 KiB. The side that connects
    /// chooses.
    pub ring_log2: u8,
    /// Most paths to other instances, those from them included; default 256.
    pub peers: usize,
}

impl Default for ShmConfig {
    fn default() -> ShmConfig {
        ShmConfig {
            directory: PathBuf::from("/run/demi/rdma"),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ring_log2: 8,
            peers: 256,
        }
    }
}

impl ShmConfig {
    pub(super) fn check(&self) -> Result<(), Error> {
        if !LOG2.contains(&self.ring_log2) {
            return Err(Error::Invalid("catmint.soft.shm.ring_log2: 1 to 10"));
        }
        if self.address.is_unspecified() || self.address.is_multicast() {
            return Err(Error::Invalid("catmint.soft.shm.address: give the address of one instance"));
        }
        if !(1..=1 << 16).contains(&self.peers) {
            return Err(Error::Invalid("catmint.soft.shm.peers: 1 to 65536"));
        }
        Ok(())
    }
}
