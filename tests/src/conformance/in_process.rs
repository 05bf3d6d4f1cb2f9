//! The surroundings of a libOS without any: IPv4 streams, IPv6 datagrams, logs by name.

use std::marker::PhantomData;
use std::path::PathBuf;

use demi_api::{Addr, LibOs};

use super::Harness;

/// A harness for [`Loopback`](crate::Loopback) and what is made of it.
#[derive(Debug)]
pub struct InProcess<L>(PhantomData<L>);

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
