//! Catmint over perfect hardware: talking to itself, two instances facing each other, and paired with cattree; and two
//! facing each other over soft devices.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;

use demi_api::desc::Tag;
use demi_api::libos::Setup;
use demi_api::{Addr, Error, Pair, QueueKind};
use demi_libos_catmint::device::ideal::{Conditions, Fabric};
use demi_libos_catmint::{Catmint, CatmintSection};
use demi_libos_cattree::Cattree;
use demi_tests::conformance::{Harness, Rig};
use tempfile::TempDir;

use super::cables::{V4, V6};
use super::facing::{Between, Facing};

/// What the suite does before it counts: an instance keeps the receives of a peer for good.
fn meet<H: Harness>(rig: &Rig<H>) {
    // The second time it calls somebody whom it knows already, at an address that it does not.
    for _ in 0..2 {
        let (near, far) = rig.connected();
        rig.push(near, b"x").unwrap();
        rig.pop(far).unwrap();
        rig.close([near, far]);
    }
}

/// An instance that talks to itself.
struct Alone<const IPV6: bool>;

impl<const IPV6: bool> Harness for Alone<IPV6> {
    type LibOs = Catmint;

    fn new() -> Self {
        Alone
    }

    fn stream_addr(&self) -> Option<Addr> {
        Some(if IPV6 { "[::1]:0" } else { "127.0.0.1:0" }.parse().unwrap())
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

    fn warm_up(&self, rig: &Rig<Self>) {
        meet(rig);
    }

    fn look_back(&self, rig: &Rig<Self>) {
        nobody_was_expelled(rig);
    }
}

fn nobody_was_expelled<H: Harness>(rig: &Rig<H>) {
    let counters = rig.demi.counters().unwrap().libos;
    let of =
        |name: &str| counters.iter().filter(|(other, _)| *other == name).map(|(_, value)| value).sum::<u64>();
    assert_eq!([of("peers_expelled"), of("peers_lost"), of("connections")], [0; 3]);
}

mod inet {
    use super::*;

    demi_tests::conformance!(Alone<false>: general messages);
}

mod inet6 {
    use super::*;

    demi_tests::conformance!(Alone<true>: messages);
}

/// Two instances, with perfect hardware between them.
#[derive(Debug)]
struct Perfect;

impl Between for Perfect {
    type Stack = Catmint;

    fn stacks(setup: &Setup<'_>) -> Result<([Catmint; 2], Perfect), Error> {
        let section = CatmintSection::load(setup.config)?;
        // A send queue that is full now and then, and one that is short.
        let fabric = Fabric::new(Conditions { depth: 24, full: 10, ..Conditions::default() });
        let stack = |which: usize| {
            let device = fabric.plug(&[V4[which].into(), V6[which].into()])?;
            let tag = [Tag::First, Tag::Second][which];
            let setup = Setup { config: setup.config, heap: setup.heap, tag };
            Catmint::over(&setup, &section, Box::new(device), &mut fastrand::Rng::new())
        };
        Ok(([stack(0)?, stack(1)?], Perfect))
    }
}

/// Two instances on soft devices, with shared memory between them, in a directory that goes with them.
#[derive(Debug)]
struct Shared {
    _directory: TempDir,
}

impl Between for Shared {
    type Stack = Catmint;

    fn stacks(setup: &Setup<'_>) -> Result<([Catmint; 2], Shared), Error> {
        let directory = tempfile::tempdir().map_err(|error| Error::Config(error.to_string()))?;
        let stack = |which: usize| {
            let mut section = CatmintSection::load(setup.config)?;
            section.soft.shm.directory = directory.path().to_owned();
            section.soft.shm.address = V4[which].into();
            let device = section.soft.open(fastrand::u64(..))?;
            let tag = [Tag::First, Tag::Second][which];
            let setup = Setup { config: setup.config, heap: setup.heap, tag };
            Catmint::over(&setup, &section, device, &mut fastrand::Rng::new())
        };
        Ok(([stack(0)?, stack(1)?], Shared { _directory: directory }))
    }
}

/// Whoever listens does so on the far instance, and whoever connects, on the near one.
struct Across<B>(PhantomData<B>);

impl<B: Between + 'static> Harness for Across<B> {
    type LibOs = Facing<B>;

    fn new() -> Self {
        Across(PhantomData)
    }

    fn config(&self) -> String {
        "[catmint]\nreceives = 8\nreceive_bytes = 1024\nwindow = 16384\n".to_owned()
    }

    fn stream_addr(&self) -> Option<Addr> {
        Some(SocketAddr::new(V4[1].into(), 0).into())
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

    fn warm_up(&self, rig: &Rig<Self>) {
        meet(rig);
    }

    fn look_back(&self, rig: &Rig<Self>) {
        nobody_was_expelled(rig);
    }
}

mod across {
    use super::*;

    demi_tests::conformance!(Across<Perfect>: general messages);
}

mod soft {
    use super::*;

    demi_tests::conformance!(Across<Shared>: general messages);
}

/// Connections, and logs on a device in memory.
struct Both;

impl Harness for Both {
    type LibOs = Pair<Catmint, Cattree>;

    fn new() -> Self {
        Both
    }

    fn stream_addr(&self) -> Option<Addr> {
        "127.0.0.1:0".parse().ok()
    }

    fn connections(&self) -> QueueKind {
        QueueKind::Message
    }

    fn has_regions(&self) -> bool {
        true
    }

    fn datagram_addr(&self) -> Option<Addr> {
        None
    }

    fn path(&self) -> Option<PathBuf> {
        Some(format!("log {}", fastrand::u64(..)).into())
    }

    fn warm_up(&self, rig: &Rig<Self>) {
        meet(rig);
    }

    fn look_back(&self, rig: &Rig<Self>) {
        nobody_was_expelled(rig);
    }
}

mod pair {
    use super::*;

    demi_tests::conformance!(Both: general messages storage);
}
