//! The conformance suite over logs on an NVMe controller that is driven from user space.
//!
//! `DEMI_NVME` names the controller by its PCI address; its namespace 1 must be all zero, or hold logs. `cargo xtask test`
//! runs this in a virtual machine; without the variable all is skipped.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use demi_api::Addr;
use demi_libos_cattree::Cattree;
use demi_tests::conformance::Harness;

/// There is one controller for all tests.
static CONTROLLER: Mutex<()> = Mutex::new(());

fn address() -> Option<String> {
    Some(std::env::var("DEMI_NVME").ok()?.split(' ').next()?.to_owned())
}

struct Controller {
    _taken: MutexGuard<'static, ()>,
}

impl Harness for Controller {
    type LibOs = Cattree;

    fn new() -> Self {
        // A test that has failed has closed the controller all the same.
        Controller { _taken: CONTROLLER.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    fn config(&self) -> String {
        let address = address().expect("it was looked for");
        format!("[cattree.device]\nkind = \"nvme\"\naddress = \"{address}\"\nnamespace = 1\n")
    }

    fn stream_addr(&self) -> Option<Addr> {
        None
    }

    fn datagram_addr(&self) -> Option<Addr> {
        None
    }

    fn path(&self) -> Option<PathBuf> {
        Some(format!("log {}", fastrand::u64(..)).into())
    }

    fn lacking() -> Option<String> {
        address().is_none().then(|| "no controller is named in DEMI_NVME".into())
    }
}

demi_tests::conformance!(Controller: storage);
