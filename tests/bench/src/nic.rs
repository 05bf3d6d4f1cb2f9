//! A NIC from words on the command line: as the configuration of a catnip instance, and by itself.
//!
//! Invariant: both ends of a link follow from the same words. Which of the two one is decides addresses, and the role
//! where a device has two.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use demi_api::memalloc::Heap;
use demi_api::time::Clock;
use demi_api::{Config, Demikernel};
use demi_libos_catnip::device::{DeviceCx, Queue};
use demi_libos_catnip::{Catnip, CatnipSection, DeviceSection};

use crate::measure::Guard;

/// The port that servers listen at.
pub(crate) const PORT: u16 = 7;

/// Bits that the addresses of both ends have in common.
pub(crate) const PREFIX: u8 = 24;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Nic {
    /// The kind of device
    #[arg(long, value_enum, default_value_t = Kind::Memif)]
    device: Kind,
    /// Where the device is: a memif's socket (`@name` is an abstract one), or the name of an interface
    #[arg(long, default_value = "@demi-bench")]
    at: String,
    /// Largest packet behind the Ethernet header
    #[arg(long, default_value_t = 1500)]
    mtu: usize,
    /// Descriptors in each ring of a memif, as a power of two
    #[arg(long, default_value_t = 10)]
    ring_log2: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Kind {
    /// Shared memory between both ends.
    Memif,
    /// The queues of an interface, such as one end of a veth pair.
    AfXdp,
    /// An interface whose wire is this process; the kernel connects both.
    Tap,
}

/// Which end of the link to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Server,
    Client,
}

impl End {
    pub(crate) fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 61, 0, self.number())
    }

    /// The Ethernet address, which an interface must have been given: AF_XDP takes it as it is.
    pub(crate) fn mac(self) -> [u8; 6] {
        [2, 0xde, 0x31, 0, 0, self.number()]
    }

    fn number(self) -> u8 {
        match self {
            End::Server => 1,
            End::Client => 2,
        }
    }
}

/// Where the server of a link listens.
pub(crate) fn server() -> SocketAddr {
    (End::Server.ip(), PORT).into()
}

impl Nic {
    /// The configuration of an instance at `end`, which spins like everything that it is compared with.
    pub(crate) fn config(&self, end: End, heap_mib: usize) -> Result<Config> {
        Ok(Config::parse(&self.text(end, heap_mib), "the command line")?)
    }

    /// The same as text, for more sections to follow.
    pub(crate) fn text(&self, end: End, heap_mib: usize) -> String {
        let Nic { at, mtu, .. } = self;
        let mac = end.mac();
        let device = match self.device {
            Kind::Memif => {
                let role = if end == End::Server { "server" } else { "client" };
                format!(
                    "kind = \"memif\"\nsocket = {at:?}\nrole = {role:?}\nmtu = {mtu}\nmac = {mac:?}\nring_log2 = {}",
                    self.ring_log2
                )
            }
            Kind::AfXdp => format!("kind = \"af_xdp\"\ninterface = {at:?}"),
            Kind::Tap => format!("kind = \"tap\"\nname = {at:?}\nmtu = {mtu}\nmac = {mac:?}"),
        };
        format!(
            "[heap]\nsize_mib = {heap_mib}\n[wait]\nspin_min_us = 10000000\nspin_max_us = 10000000\n\
             [catnip.ip]\naddresses = [\"{}/{PREFIX}\"]\n[catnip.device]\n{device}\n",
            end.ip()
        )
    }

    /// An instance at `end`. A client's has a link.
    pub(crate) fn instance(&self, end: End, heap_mib: usize) -> Result<Demikernel<Catnip>> {
        let demi = Demikernel::<Catnip>::new(&self.config(end, heap_mib)?)?;
        if end == End::Server || self.device != Kind::Memif {
            return Ok(demi);
        }
        let mut guard = Guard::new();
        while !demi.counters()?.libos.iter().any(|(name, value)| *name == LINKS && *value > 0) {
            demi.poll()?;
            guard.spin()?;
        }
        Ok(demi)
    }

    /// The device by itself, with frames in `heap`. A client's has a link.
    pub(crate) fn open(&self, end: End, heap: &Heap) -> Result<Box<dyn Queue>> {
        let mut section = CatnipSection::load(&self.config(end, 2)?)?;
        if let DeviceSection::AfXdp(config) = &mut section.device {
            // What comes back has its IP addresses as they were.
            config.addresses = [End::Server, End::Client].map(|end| IpAddr::from(end.ip())).to_vec();
        }
        let mut device = section.open(heap)?;
        if self.device != Kind::AfXdp {
            ensure!(device.caps().mac == end.mac(), "the device has another address than it was given");
        }
        if end == End::Client && self.device == Kind::Memif {
            await_link(device.as_mut(), heap)?;
        }
        Ok(device)
    }
}

/// The counter that tells that a memif has a peer.
const LINKS: &str = "memif_links";

fn await_link(device: &mut dyn Queue, heap: &Heap) -> Result<()> {
    let (clock, mut guard) = (Clock::start(), Guard::new());
    let mut early = Vec::new();
    loop {
        let mut up = false;
        device.counters(&mut |name, value| up |= name == LINKS && value > 0);
        if up {
            return Ok(());
        }
        device.rx_burst(&DeviceCx { heap, now: clock.now() }, &mut early);
        guard.spin()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(device: Kind, at: &str) -> Nic {
        Nic { device, at: at.to_owned(), mtu: 1500, ring_log2: 10 }
    }

    #[test]
    fn every_device_makes_a_section_that_loads() {
        for end in [End::Server, End::Client] {
            for device in [Kind::Memif, Kind::AfXdp, Kind::Tap] {
                let config = nic(device, "@a \"b\\").config(end, 16).unwrap();
                let section = CatnipSection::load(&config).unwrap();
                assert_eq!(section.ip.addresses, [format!("{}/24", end.ip())], "{device:?}");
                assert!(!matches!(section.device, DeviceSection::Loopback), "{device:?}");
            }
        }
    }

    #[test]
    fn both_ends_of_a_memif_find_each_other() {
        let nic = nic(Kind::Memif, &format!("@demi-bench-nic-{}", std::process::id()));
        let server = nic.instance(End::Server, 4).unwrap();
        std::thread::scope(|scope| {
            let client = scope.spawn(|| nic.instance(End::Client, 4).map(drop));
            while !client.is_finished() {
                server.poll().unwrap();
            }
            client.join().unwrap().unwrap();
        });
    }
}
