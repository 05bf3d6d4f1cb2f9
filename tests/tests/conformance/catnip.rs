//! Catnip: talking to itself, and across every device that a test can have both ends of.

use std::cell::Cell;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use demi_api::desc::Tag;
use demi_api::libos::Setup;
use demi_api::{Addr, Error};
use demi_libos_catnip::{Catnip, CatnipSection};
use demi_tests::conformance::{Harness, Rig};

use super::cables::{Cable, Memory, V4, V6, Veth};
use super::facing::{Between, Facing};

/// One family's address of an instance without a NIC.
pub(crate) struct Alone<const IPV6: bool>;

impl<const IPV6: bool> Harness for Alone<IPV6> {
    type LibOs = Catnip;

    fn new() -> Self {
        Alone
    }

    fn config(&self) -> String {
        "[catnip.ip]\naddresses = [\"10.0.0.1/24\"]\n".to_owned()
    }

    fn stream_addr(&self) -> Option<Addr> {
        Some(if IPV6 { "[::1]:0" } else { "10.0.0.1:0" }.parse().unwrap())
    }

    fn datagram_addr(&self) -> Option<Addr> {
        self.stream_addr()
    }

    fn path(&self) -> Option<PathBuf> {
        None
    }
}

mod inet {
    use super::*;

    demi_tests::conformance!(Alone<false>: general streams datagrams);
}

mod inet6 {
    use super::*;

    demi_tests::conformance!(Alone<true>: streams datagrams);
}

impl<C: Cable> Between for C {
    type Stack = Catnip;

    fn stacks(setup: &Setup<'_>) -> Result<([Catnip; 2], C), Error> {
        let (cable, [near, far]) = C::plug(setup.heap)?;
        let stack = |which: usize, device| {
            let mut section = CatnipSection::load(setup.config)?;
            section.ip.addresses = vec![format!("{}/24", V4[which]), format!("{}/64", V6[which])];
            let tag = [Tag::First, Tag::Second][which];
            let setup = Setup { config: setup.config, heap: setup.heap, tag };
            Catnip::over(&setup, &section, device, &mut fastrand::Rng::new())
        };
        Ok(([stack(0, near)?, stack(1, far)?], cable))
    }
}

/// Both stacks of [`Facing`], by one family's addresses.
pub(crate) struct Across<C, const IPV6: bool> {
    /// Datagram sockets so far: every other one is on the far side.
    datagrams: Cell<usize>,
    cable: PhantomData<C>,
}

impl<C, const IPV6: bool> Across<C, IPV6> {
    fn addr(which: usize) -> Option<Addr> {
        let ip = if IPV6 { IpAddr::from(V6[which]) } else { IpAddr::from(V4[which]) };
        Some(SocketAddr::from((ip, 0)).into())
    }
}

impl<C: Cable, const IPV6: bool> Harness for Across<C, IPV6> {
    type LibOs = Facing<C>;

    fn new() -> Self {
        Across { datagrams: Cell::new(0), cable: PhantomData }
    }

    fn lacking() -> Option<String> {
        C::lacking()
    }

    fn stream_addr(&self) -> Option<Addr> {
        Self::addr(1)
    }

    fn datagram_addr(&self) -> Option<Addr> {
        let which = self.datagrams.get();
        self.datagrams.set(which + 1);
        Self::addr(which % 2)
    }

    fn path(&self) -> Option<PathBuf> {
        None
    }

    /// The stacks learn where the other one is, and devices what they keep.
    fn warm_up(&self, rig: &Rig<Self>) {
        for (near, far) in [rig.connected(), rig.datagrams()] {
            rig.push(near, b"x").unwrap();
            rig.pop(far).unwrap();
            rig.close([near, far]);
        }
    }

    /// Whatever the transports have sent, the device has carried; and that was something.
    fn look_back(&self, rig: &Rig<Self>) {
        let counters = rig.demi.counters().unwrap().libos;
        let both = |name: &str| -> [u64; 2] {
            let values = counters.iter().filter(|(other, _)| *other == name).map(|(_, value)| *value);
            values.collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("{name} is not there twice"))
        };
        let [sent, received] = C::FRAMES.map(both);
        let [segments, datagrams] = ["tcp_sent", "udp_sent"].map(both);
        assert_eq!(both("ip_looped"), [0, 0], "packets that went past the device");
        for stack in [0, 1] {
            let packets = segments[stack] + datagrams[stack];
            assert!(packets > 0 && sent[stack] >= packets, "{packets} packets in {} frames", sent[stack]);
            assert!(received[stack] > 0, "nothing was received");
        }
    }
}

mod memif {
    use super::*;

    demi_tests::conformance!(Across<Memory, false>: general streams datagrams);
}

mod memif6 {
    use super::*;

    demi_tests::conformance!(Across<Memory, true>: streams datagrams);
}

mod af_xdp {
    use super::*;

    demi_tests::conformance!(Across<Veth, false>: general streams datagrams);
}

mod af_xdp6 {
    use super::*;

    demi_tests::conformance!(Across<Veth, true>: streams datagrams);
}
