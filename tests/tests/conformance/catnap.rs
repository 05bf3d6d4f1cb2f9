//! Catnap over TCP and UDP, both families, and UNIX sockets; and paired with Loopback's logs.

use std::marker::PhantomData;
use std::path::PathBuf;

use demi_api::{Addr, LibOs, Pair};
use demi_libos_catnap::Catnap;
use demi_tests::Loopback;
use demi_tests::conformance::{Harness, Rig};
use tempfile::TempDir;

/// Which addresses to use.
pub(crate) trait Family {
    fn addr(dir: &TempDir) -> Addr;
}

pub(crate) struct V4;
pub(crate) struct V6;
pub(crate) struct Unix;

impl Family for V4 {
    fn addr(_: &TempDir) -> Addr {
        "127.0.0.1:0".parse().unwrap()
    }
}

impl Family for V6 {
    fn addr(_: &TempDir) -> Addr {
        "[::1]:0".parse().unwrap()
    }
}

impl Family for Unix {
    fn addr(dir: &TempDir) -> Addr {
        Addr::from(dir.path().join(format!("{:x}", fastrand::u32(..))))
    }
}

/// The kernel's sockets of one family, and its files, in a directory of its own.
pub(crate) struct Kernel<L, F> {
    dir: TempDir,
    kind: PhantomData<(L, F)>,
}

impl<L: LibOs + 'static, F: Family> Harness for Kernel<L, F> {
    type LibOs = L;

    fn new() -> Self {
        Kernel { dir: tempfile::tempdir().unwrap(), kind: PhantomData }
    }

    fn stream_addr(&self) -> Option<Addr> {
        Some(F::addr(&self.dir))
    }

    fn datagram_addr(&self) -> Option<Addr> {
        Some(F::addr(&self.dir))
    }

    fn path(&self) -> Option<PathBuf> {
        Some(self.dir.path().join(format!("file {}", fastrand::u64(..))))
    }

    /// Catnap keeps a receive buffer for streams and one for datagrams.
    fn warm_up(&self, rig: &Rig<Self>) {
        for (near, far) in [rig.connected(), rig.datagrams()] {
            rig.push(near, b"x").unwrap();
            rig.pop(far).unwrap();
            rig.close([near, far]);
        }
    }
}

mod inet {
    use super::*;

    demi_tests::conformance!(Kernel<Catnap, V4>: general streams datagrams storage);
}

mod inet6 {
    use super::*;

    demi_tests::conformance!(Kernel<Catnap, V6>: streams datagrams);
}

mod unix {
    use super::*;

    demi_tests::conformance!(Kernel<Catnap, Unix>: general streams datagrams);
}

mod pair {
    use super::*;

    type Both = Pair<Catnap, Loopback>;
    demi_tests::conformance!(Kernel<Both, V4>: general streams datagrams storage);
}
