//! How an interface is used: [`XdpConfig`], and what it is checked for.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use demi_api::error::Error;
use serde::Deserialize;

use super::program::Flows;

/// Most addresses, and most ranges of ports: each is a comparison per frame.
const MAX_RULES: usize = 64;

/// Which interface, which of its frames, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct XdpConfig {
    /// Name of the interface, in the network namespace of the calling thread. No default.
    pub interface: String,
    /// The addresses that this instance owns, at most 64, and at least 1 unless it has yet to be given one by `dhcp` or
    /// finds one with `all_nodes`: frames for them are taken from the interface.
    /// All others reach the kernel as before. No default.
    pub addresses: Vec<IpAddr>,
    /// With ranges of ports (at most 64), the addresses are shared with the kernel: only TCP and UDP to these ports
    /// is taken, and errors about what was sent from them. Default `None`: all packets to the addresses are taken.
    pub ports: Option<Vec<RangeInclusive<u16>>>,
    /// Whether ICMPv6 router advertisements, and neighbour advertisements to all nodes, are taken too. The kernel
    /// then learns no router from this interface. Without effect with `ports`. Default `false`.
    pub all_nodes: bool,
    /// Whether answers to DHCP clients (UDP to port 68) are taken, whatever address they are for. A client of the kernel's
    /// side then gets none on this interface. Without effect with `ports`. Default `false`.
    pub dhcp: bool,
    /// Where the program runs. Default [`Mode::Auto`]. Without effect for an instance that joins others.
    pub mode: Mode,
    /// Whether the NIC reads and writes the heap itself. Default [`CopyMode::Auto`].
    pub copy: CopyMode,
    /// The receive queues that are served; what arrives at others reaches the kernel. Default: none named, which means
    /// all there are. Frames are transmitted through the first.
    pub queues: Vec<u32>,
    /// How many instances share the interface, each with its own receive queues, and all with the same `addresses`, `ports`
    /// and user; 1 (default) to 256. Above 1, an instance takes, if none are named in `queues`, the next part that is free
    /// of as many parts as this, serves parts that nobody has as well until somebody comes for them (unless the NIC uses
    /// the heap itself), and hands over what reached it by the choice of the NIC but is another's. Joining others needs
    /// CAP_SYS_ADMIN.
    pub share: u32,
    /// Receive buffers of each queue, 128 to 16384, rounded up to a power of two; default 1024. The application can hold
    /// on to half of them before received frames are copied. Each takes 2 KiB of the heap, or 4 KiB with an MTU above
    /// 1774. With `share` above 1, there are about twice as many.
    pub rx_buffers: u32,
    /// Segments under way at most, 64 to 16384, rounded up to a power of two; default 1024.
    pub tx_segments: u32,
    /// How long to wait for a previous owner of the interface to be gone, in ms; default 2000, at most 60000. After a
    /// crash the kernel needs some tens of milliseconds.
    pub attach_wait_ms: u64,
}

/// Where the redirect program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// In the driver if it can, otherwise in the stack. On `veth` in the stack, which is faster there, unless the interface
    /// is shared: there the stack does not know by which queue a frame came.
    #[default]
    Auto,
    /// In the driver, before the kernel makes a packet of the frame.
    Native,
    /// In the stack, which works with every driver.
    Generic,
}

/// Who copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyMode {
    /// Nobody if the driver can, otherwise the kernel.
    #[default]
    Auto,
    /// Nobody: the NIC reads and writes the heap.
    ZeroCopy,
    /// The kernel, between its buffers and the heap.
    Copy,
}

impl Default for XdpConfig {
    fn default() -> XdpConfig {
        XdpConfig {
            interface: String::new(),
            addresses: Vec::new(),
            ports: None,
            all_nodes: false,
            dhcp: false,
            mode: Mode::Auto,
            copy: CopyMode::Auto,
            queues: Vec::new(),
            share: 1,
            rx_buffers: 1024,
            tx_segments: 1024,
            attach_wait_ms: 2000,
        }
    }
}

impl XdpConfig {
    /// Refuses what cannot be meant.
    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::Config(format!("AF_XDP on `{}`: {what}", self.interface)));
        if self.interface.is_empty() {
            return Err(Error::Config("AF_XDP: name the `interface`".into()));
        }
        let least = if (self.dhcp || self.all_nodes) && self.ports.is_none() { 0 } else { 1 };
        if !(least..=MAX_RULES).contains(&self.addresses.len()) {
            return refuse(format!("{} `addresses`, must be {least} to {MAX_RULES}", self.addresses.len()));
        }
        let foreign = |address: &&IpAddr| address.is_multicast() || address.is_unspecified();
        if let Some(address) = self.addresses.iter().find(foreign) {
            return refuse(format!("{address} in `addresses` is not the address of one host"));
        }
        if let Some(ports) = &self.ports {
            if ports.is_empty() || ports.len() > MAX_RULES {
                return refuse(format!("{} ranges of `ports`, must be 1 to {MAX_RULES}", ports.len()));
            }
            if let Some(range) = ports.iter().find(|range| range.is_empty()) {
                return refuse(format!("{} to {} in `ports` is empty", range.start(), range.end()));
            }
        }
        if !(1..=256).contains(&self.share) {
            return refuse(format!("`share` = {} is out of range: 1 to 256", self.share));
        }
        if self.is_shared() && self.dhcp {
            return refuse("`dhcp` asks for an address of one instance: name `addresses` to `share`".into());
        }
        // Half of the receive buffers are at least two bursts.
        for (key, value, least) in
            [("rx_buffers", self.rx_buffers, 128), ("tx_segments", self.tx_segments, 64)]
        {
            if !(least..=16384).contains(&value) {
                return refuse(format!("`{key}` = {value} is out of range: {least} to 16384"));
            }
        }
        if self.attach_wait_ms > 60_000 {
            return refuse(format!("`attach_wait_ms` = {} is out of range: 0 to 60000", self.attach_wait_ms));
        }
        if self.mode == Mode::Generic && self.copy == CopyMode::ZeroCopy {
            return refuse("zero copy needs the program in the driver: set `mode` to native or auto".into());
        }
        Ok(())
    }

    pub(super) fn is_shared(&self) -> bool {
        self.share > 1
    }

    pub(super) fn flows(&self) -> Flows<'_> {
        Flows {
            addresses: &self.addresses,
            ports: self.ports.as_deref(),
            all_nodes: self.all_nodes,
            dhcp: self.dhcp,
        }
    }

    pub(super) fn attach_wait(&self) -> Duration {
        Duration::from_millis(self.attach_wait_ms)
    }
}
