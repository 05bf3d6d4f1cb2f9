//! The device under a connection, from the words of a command line.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use demi_api::memalloc::{Heap, HeapConfig};
use demi_api::{Config, Demikernel};
use demi_libos_catnip::device::Queue;
use demi_libos_catnip::device::memif::Memif;
use demi_libos_catnip::device::xdp::Xdp;
use demi_libos_catnip::{Catnip, CatnipSection, DeviceSection};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::smol::Stack;

/// The network of both ends.
const PREFIX: u8 = 24;

/// Where the server of a connection is, and its client.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Which end of the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Server,
    Client,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Device {
    Memif,
    AfXdp,
}

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Nic {
    #[arg(long, value_enum, default_value_t = Device::Memif)]
    device: Device,
    /// memif: the socket of both ends
    #[arg(long)]
    socket: Option<PathBuf>,
    /// AF_XDP: the interface
    #[arg(long)]
    interface: Option<String>,
    /// AF_XDP: the network namespace to enter, by its file
    #[arg(long)]
    netns: Option<PathBuf>,
    /// memif: largest packet
    #[arg(long, default_value_t = 1500)]
    mtu: usize,
    /// Never sleep
    #[arg(long)]
    spin: bool,
    /// Heap of the instance in MiB
    #[arg(long, default_value_t = 64)]
    heap_mib: usize,
}

impl Nic {
    /// Enters the network namespace that the interface is in.
    pub(crate) fn enter(&self) -> Result<()> {
        let Some(path) = &self.netns else { return Ok(()) };
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {}", path.display()))
    }

    /// A catnip over it.
    pub(crate) fn catnip(&self, end: End) -> Result<Demikernel<Catnip>> {
        Ok(Demikernel::new(&self.config(end)?)?)
    }

    /// A smoltcp over it.
    pub(crate) fn smoltcp(&self, end: End) -> Result<Stack> {
        let config = self.config(end)?;
        let section = CatnipSection::load(&config)?;
        let heap = Heap::new(&HeapConfig { size: self.heap_mib << 20, ..HeapConfig::default() })?;
        let device: Box<dyn Queue> = match &section.device {
            DeviceSection::Memif(config) => Box::new(Memif::open(config)?),
            DeviceSection::AfXdp(config) => Box::new(Xdp::open(&heap, config)?),
            other => bail!("{other:?} is not measured"),
        };
        Stack::over(heap, device, IpAddr::V4(end.addr()), PREFIX)
    }

    fn config(&self, end: End) -> Result<Config> {
        let spin = if self.spin { "[wait]\nspin_min_us = 10000000\nspin_max_us = 10000000" } else { "" };
        let mut text = format!("[heap]\nsize_mib = {}\n{spin}\n[catnip]\n", self.heap_mib);
        let addr = end.addr();
        writeln!(text, "[catnip.ip]\naddresses = [\"{addr}/{PREFIX}\"]\n[catnip.device]")?;
        match self.device {
            Device::Memif => {
                let socket = self.socket.as_ref().context("memif needs --socket")?;
                let role = if end == End::Server { "server" } else { "client" };
                writeln!(
                    text,
                    "kind = \"memif\"\nsocket = {socket:?}\nrole = \"{role}\"\nmtu = {}",
                    self.mtu
                )?;
            }
            Device::AfXdp => {
                let interface = self.interface.as_ref().context("AF_XDP needs --interface")?;
                // More than a receive window takes, so that even what waits for a lost segment stays where it is.
                let buffers = "rx_buffers = 4096";
                writeln!(
                    text,
                    "kind = \"af_xdp\"\ninterface = {interface:?}\naddresses = [\"{addr}\"]\n{buffers}"
                )?;
            }
        }
        Ok(Config::parse(&text, "the command line")?)
    }
}

impl End {
    pub(crate) fn addr(self) -> Ipv4Addr {
        match self {
            End::Server => SERVER,
            End::Client => CLIENT,
        }
    }
}
