//! Cattree on memory and on a file, alone and paired with catnap.

use std::path::PathBuf;

use demi_api::{Addr, Pair};
use demi_libos_catnap::Catnap;
use demi_libos_cattree::Cattree;
use demi_tests::conformance::{Harness, Rig};
use tempfile::NamedTempFile;

fn name() -> Option<PathBuf> {
    Some(format!("log {}", fastrand::u64(..)).into())
}

/// Logs on a device in memory.
struct Logs;

impl Harness for Logs {
    type LibOs = Cattree;

    fn new() -> Self {
        Logs
    }

    fn stream_addr(&self) -> Option<Addr> {
        None
    }

    fn datagram_addr(&self) -> Option<Addr> {
        None
    }

    fn path(&self) -> Option<PathBuf> {
        name()
    }
}

/// Logs in a file, through io_uring. The file is in memory: what is tested is not the disk.
struct File(NamedTempFile);

impl Harness for File {
    type LibOs = Cattree;

    fn new() -> Self {
        let file = tempfile::Builder::new().tempfile_in("/dev/shm").unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        File(file)
    }

    fn config(&self) -> String {
        format!("[cattree.device]\nkind = \"uring\"\npath = {:?}\n", self.0.path())
    }

    fn stream_addr(&self) -> Option<Addr> {
        None
    }

    fn datagram_addr(&self) -> Option<Addr> {
        None
    }

    fn path(&self) -> Option<PathBuf> {
        name()
    }
}

/// The kernel's sockets, and logs on a device in memory.
struct Both;

impl Harness for Both {
    type LibOs = Pair<Catnap, Cattree>;

    fn new() -> Self {
        Both
    }

    fn stream_addr(&self) -> Option<Addr> {
        "127.0.0.1:0".parse().ok()
    }

    fn datagram_addr(&self) -> Option<Addr> {
        "127.0.0.1:0".parse().ok()
    }

    fn path(&self) -> Option<PathBuf> {
        name()
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

mod alone {
    use super::*;

    demi_tests::conformance!(Logs: storage);
}

mod uring {
    use super::*;

    demi_tests::conformance!(File: storage);
}

mod pair {
    use super::*;

    demi_tests::conformance!(Both: general streams datagrams storage);
}
