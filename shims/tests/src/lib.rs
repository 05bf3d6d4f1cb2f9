//! # Tests of the preload shim, with programs that know nothing of it
//!
//! A *subject* is a program that runs on a [`Stack`]: the kernel's, or that of a libOS under the shim. Its *peer* always
//! runs on the kernel. Every scenario passes on the kernel alone first: what a program sees there is what it must see
//! under the shim.
//!
//! | test | what it is |
//! |---|---|
//! | `posix` | the C programs of `posix/`, each both server and client, one of them a subject |
//! | `apps` | servers and clients as Debian ships them |
//! | `faults` | a device that goes away, a peer that floods, a heap that is too small |
//!
//! | module | what it is |
//! |---|---|
//! | [`bed`] | where subjects and peers run, and by which addresses they reach each other |
//! | [`child`] | a process whose every wait has a bound, and which is gone when its value is |
//! | [`net`] | two network namespaces and what joins them |
//! | [`shim`] | the libraries and `demi-run`, built when they are first asked for |
//!
//! catnap's subjects run over loopback. catnip's have one end of a `veth` pair by AF_XDP, in a namespace of their own;
//! that needs root and `ip`, and without them a test says SKIPPED on standard error and does nothing else.

pub mod bed;
pub mod child;
pub mod net;
pub mod shim;
#[path = "../../../examples/tests/kernel_peer/sys.rs"]
mod sys;

pub use self::bed::{Bed, Stack};
pub use self::child::{Child, eventually, text};

/// Says something that a test harness does not keep to itself.
pub fn skipped(name: &str, why: &str) {
    use std::io::Write;
    // In one piece, as others write as well.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {name}: {why}\n").as_bytes());
}
