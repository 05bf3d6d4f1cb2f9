//! The symbols.

use std::net::IpAddr;

use demi_api::config::Config;
use demi_libos_catnap::Catnap;

struct Carrier;

impl demi_preload::Carrier for Carrier {
    type LibOs = Catnap;

    const IN_KERNEL: bool = true;

    fn has_address(_config: &Config, _ip: IpAddr) -> Option<bool> {
        None
    }
}

demi_preload::export!(Carrier);
