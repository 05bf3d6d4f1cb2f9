//! What is done once, on the control path: the kernel's side of the interface, and addresses.

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::sga::MAX_SEGMENTS;
use rustix::event::epoll;
use rustix::io::Errno;

use super::super::Caps;
use super::super::kernel::link::{Links, MTU_MAX, MTU_MIN};
use super::super::kernel::{ETHERNET, check_mac, refused};
use super::TapConfig;

/// Sets the kernel's side up as configured; what is so already needs no privilege.
pub(super) fn set_up(name: &str, config: &TapConfig) -> Result<Caps, Error> {
    let reject = |text: &str| Err(Error::Config(format!("interface {name:?}: {text}")));
    let privilege = "grant CAP_NET_ADMIN, run as root, or set it up beforehand";
    let mut links = Links::open()?;
    let link = links.find(name)?;
    let Some(theirs) = link.mac else { return reject("it is no Ethernet: choose another name") };
    let mtu = config.mtu.unwrap_or(link.mtu);
    if !(MTU_MIN..=MTU_MAX - ETHERNET).contains(&mtu) {
        return reject(&format!("an MTU of {mtu} is out of range: 68 to 65521"));
    }
    let mac = config.mac.unwrap_or_else(|| random_mac(theirs));
    check_mac(name, mac)?;
    if mac == theirs {
        return reject(
            "the configured Ethernet address is that of the kernel's side: leave it out, or change one",
        );
    }
    if mtu != link.mtu {
        links.set_mtu(&link, mtu).map_err(|errno| refused(name, "cannot set its MTU", errno, privilege))?;
    }
    if !link.up {
        links.set_up(&link).map_err(|errno| refused(name, "cannot bring it up", errno, privilege))?;
    }
    for (addr, prefix) in &config.addresses {
        links.add_address(&link, *addr, *prefix).map_err(|errno| {
            let advice = match errno {
                Errno::ACCESS if addr.is_ipv6() => {
                    "enable IPv6 there: `sysctl net.ipv6.conf.INTERFACE.disable_ipv6=0`"
                }
                Errno::INVAL => "is the length of its prefix right?",
                _ => privilege,
            };
            refused(name, format_args!("cannot give it {addr}/{prefix}"), errno, advice)
        })?;
    }
    let (max_segs, max_seg_len) = (MAX_SEGMENTS, usize::MAX);
    Ok(Caps { mac, mtu, max_segs, max_seg_len, tx_checksum: true, zero_copy: false })
}

/// A station's address that nobody has assigned (IEEE 802 §8.4: locally administered), other than `theirs`.
fn random_mac(theirs: [u8; 6]) -> [u8; 6] {
    loop {
        let [mut mac @ .., _, _] = fastrand::u64(..).to_ne_bytes();
        mac[0] = mac[0] & 0xfc | 2;
        if mac != theirs {
            return mac;
        }
    }
}

/// A descriptor that polls readable when `fd` does.
pub(super) fn watch(fd: &Fd) -> Result<Fd, Errno> {
    let readable = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&readable, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    Ok(readable.into())
}
