//! The NVMe driver against a real controller, or an emulated one.
//!
//! What `DEMI_NVME` names, by PCI addresses, is **overwritten**: it must be bound to vfio-pci, with namespace 1 of 512-byte
//! and namespaces 2 and 3 of 4096-byte blocks, the last of which is slow. `cargo xtask test` runs this in a virtual machine that has one; without the
//! variable there are no tests. `DEMI_NVME_KERNEL` names a controller that the kernel's driver has.

mod data;
mod host;
mod life;

use libtest_mimic::{Arguments, Failed, Trial};

use self::host::Host;

type Test = fn(&Place) -> Result<(), Failed>;

/// Where the controllers are.
#[derive(Clone, Debug)]
struct Place {
    ours: String,
    kernels: Option<String>,
}

fn main() {
    let mut arguments = Arguments::from_args();
    // They share one controller.
    arguments.test_threads = Some(1);
    let ours = std::env::var("DEMI_NVME").ok().and_then(|all| Some(all.split(' ').next()?.to_owned()));
    let kernels = std::env::var("DEMI_NVME_KERNEL").ok();
    let tests: Vec<(&str, Test)> = [data::tests(), life::tests()].concat();
    let trials = ours.into_iter().flat_map(|ours| {
        let place = Place { ours, kernels: kernels.clone() };
        tests.iter().map(move |(name, test)| {
            let (place, test) = (place.clone(), *test);
            Trial::test(*name, move || test(&place))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
