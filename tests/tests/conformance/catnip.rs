//! Catnip, talking to itself.

use std::path::PathBuf;

use demi_api::Addr;
use demi_libos_catnip::Catnip;
use demi_tests::conformance::{Harness, Rig};

/// One family's address of an instance without a NIC.
pub(crate) struct Alone<const V6: bool>;

impl<const V6: bool> Harness for Alone<V6> {
    type LibOs = Catnip;

    fn new() -> Self {
        Alone
    }

    fn config(&self) -> String {
        "[catnip.ip]\naddresses = [\"10.0.0.1/24\"]\n".to_owned()
    }

    fn stream_addr(&self) -> Option<Addr> {
        Some(if V6 { "[::1]:0" } else { "10.0.0.1:0" }.parse().unwrap())
    }

    fn datagram_addr(&self) -> Option<Addr> {
        self.stream_addr()
    }

    fn path(&self) -> Option<PathBuf> {
        None
    }

    fn warm_up(&self, _rig: &Rig<Self>) {}
}

mod inet {
    use super::*;

    demi_tests::conformance!(Alone<false>: general streams datagrams);
}

mod inet6 {
    use super::*;

    demi_tests::conformance!(Alone<true>: streams datagrams);
}
