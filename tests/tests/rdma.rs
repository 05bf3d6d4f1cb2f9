//! The conformance suite over a real RDMA device, or the kernel's soft-RoCE.
//!
//! `DEMI_RDMA` names the device by its IP address, `DEMI_RDMA_6` by another one of IPv6. `cargo xtask test` runs this in a
//! virtual machine; without the variable all is skipped.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use demi_api::{Addr, QueueKind};
use demi_libos_catmint::Catmint;
use demi_tests::conformance::{Harness, Rig};

fn address(name: &str) -> Option<Addr> {
    let ip: std::net::IpAddr = std::env::var(name).ok()?.parse().ok()?;
    Some(std::net::SocketAddr::new(ip, 0).into())
}

/// An instance that talks to itself, by way of the device.
struct Alone<const IPV6: bool>;

impl<const IPV6: bool> Harness for Alone<IPV6> {
    type LibOs = Catmint;

    fn new() -> Self {
        Alone
    }

    fn config(&self) -> String {
        "[catmint]\ndevice = \"verbs\"\n".into()
    }

    fn stream_addr(&self) -> Option<Addr> {
        address(if IPV6 { "DEMI_RDMA_6" } else { "DEMI_RDMA" })
    }

    fn connections(&self) -> QueueKind {
        QueueKind::Message
    }

    fn datagram_addr(&self) -> Option<Addr> {
        None
    }

    fn path(&self) -> Option<PathBuf> {
        None
    }

    /// An instance keeps the receives of a peer for good, and the second time it calls one that it knows.
    fn warm_up(&self, rig: &Rig<Self>) {
        for _ in 0..2 {
            let (near, far) = rig.connected();
            rig.push(near, b"x").unwrap();
            rig.pop(far).unwrap();
            rig.close([near, far]);
        }
    }

    fn look_back(&self, rig: &Rig<Self>) {
        let counters = rig.demi.counters().unwrap().libos;
        let of = |name: &str| {
            let named = counters.iter().filter(|(other, _)| *other == name);
            named.map(|(_, value)| value).sum::<u64>()
        };
        assert_eq!(["peers_expelled", "peers_lost", "connections", "verbs_failures"].map(of), [0; 4]);
        assert!(of("verbs_posts") > 0, "it was by way of the device");
    }

    fn lacking() -> Option<String> {
        let name = if IPV6 { "DEMI_RDMA_6" } else { "DEMI_RDMA" };
        address(name).is_none().then(|| format!("no RDMA device is named in {name}"))
    }
}

mod inet {
    use super::*;

    demi_tests::conformance!(Alone<false>: general messages);
}

mod inet6 {
    use super::*;

    demi_tests::conformance!(Alone<true>: messages);
}
