//! The verbs provider against a real RDMA device, or the kernel's soft-RoCE.
//!
//! `DEMI_RDMA` names the device by its IP address; both ends of every test are on it. `cargo xtask test` runs this in a
//! virtual machine that has one; without the variable there are no tests. `DEMI_RDMA_6` is another address of it, of IPv6, and
//! `DEMI_RDMA_INTERFACE` the network interface, which a test takes down: without them the tests that need them are left out.

mod child;
mod connecting;
mod ends;
mod failing;
mod memory;
mod messages;

use std::net::IpAddr;

use libtest_mimic::{Arguments, Failed, Trial};

type Test = fn(&Place) -> Result<(), Failed>;

/// Where the device is.
#[derive(Clone, Debug)]
struct Place {
    ip: IpAddr,
    ip6: Option<IpAddr>,
    interface: Option<String>,
}

fn main() {
    if let Ok(role) = std::env::var(child::ROLE) {
        return child::run(&role);
    }
    let mut arguments = Arguments::from_args();
    // They share one device, and one of them takes it down.
    arguments.test_threads = Some(1);
    let address = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let place = address("DEMI_RDMA").map(|ip| Place {
        ip,
        ip6: address("DEMI_RDMA_6"),
        interface: std::env::var("DEMI_RDMA_INTERFACE").ok(),
    });
    let tests = [connecting::tests(), messages::tests(), memory::tests(), failing::tests()].concat();
    let trials = place.into_iter().flat_map(|place| {
        tests.iter().map(move |(name, test)| {
            let (place, test) = (place.clone(), *test);
            Trial::test(*name, move || test(&place))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
