//! Loopback in each of its flavours, and a pair of it.

use std::marker::PhantomData;
use std::path::PathBuf;

use demi_api::{Addr, LibOs, Pair};
use demi_tests::Loopback;
use demi_tests::conformance::Harness;

/// IPv4 addresses and logs by name.
pub(crate) struct InProcess<L>(PhantomData<L>);

impl<L: LibOs + 'static> Harness for InProcess<L> {
    type LibOs = L;

    fn new() -> Self {
        InProcess(PhantomData)
    }

    fn stream_addr(&self) -> Option<Addr> {
        "127.0.0.1:0".parse().ok()
    }

    fn datagram_addr(&self) -> Option<Addr> {
        "[::1]:0".parse().ok()
    }

    fn path(&self) -> Option<PathBuf> {
        Some(format!("log {}", fastrand::u64(..)).into())
    }
}

mod on_the_spot {
    use super::*;

    demi_tests::conformance!(InProcess<Loopback<0>>: general streams datagrams storage);
}

mod next_turn {
    use super::*;

    demi_tests::conformance!(InProcess<Loopback<1>>: general streams datagrams storage);
}

mod some_turns_later {
    use super::*;

    demi_tests::conformance!(InProcess<Loopback<5>>: general streams datagrams storage);
}

mod pair {
    use super::*;

    type Both = Pair<Loopback<1>, Loopback<0>>;
    demi_tests::conformance!(InProcess<Both>: general streams datagrams storage);
}
