//! The symbols.

use std::net::IpAddr;

use demi_api::config::Config;
use demi_libos_catnip::{Catnip, CatnipSection};

struct Carrier;

impl demi_preload::Carrier for Carrier {
    type LibOs = Catnip;

    const IN_KERNEL: bool = false;

    fn has_address(config: &Config, ip: IpAddr) -> Option<bool> {
        let section = CatnipSection::load(config).ok()?.ip;
        if ip.is_unspecified() || section.dhcp || section.slaac {
            return None;
        }
        let mut own =
            section.addresses.iter().filter_map(|own| own.split('/').next()?.parse::<IpAddr>().ok());
        // A link-local one comes with each of IPv6.
        let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        Some(ip.is_loopback() || is_link_local || own.any(|own| own == ip.to_canonical()))
    }
}

demi_preload::export!(Carrier);
