//! What connects the two ends of a measurement: a NIC, and for the control the kernel's own network.
//!
//! A link says which words a role needs at each end, and where it runs.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use clap::ValueEnum;

use super::role::{Role, Roles};
use super::space::Space;

/// NICs that a bench can run over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Device {
    /// Memory that both processes share; without privileges. The control runs over the loopback interface
    Memif,
    /// AF_XDP sockets on both ends of a veth pair between two namespaces; the control over the same pair
    AfXdp,
    /// Two TAP interfaces that the kernel bridges; the control over a veth pair between two namespaces
    Tap,
}

impl Device {
    /// It takes interfaces and namespaces of its own.
    pub(crate) fn needs_root(self) -> bool {
        self != Device::Memif
    }

    /// As on a command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Device::Memif => "memif",
            Device::AfXdp => "af_xdp",
            Device::Tap => "tap",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Server,
    Client,
}

/// What a role speaks over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// The device.
    Nic,
    /// The kernel's sockets.
    Kernel,
}

/// The veth pair: its interface in either namespace, and the Ethernet addresses that roles over a NIC expect.
const VETH: &str = "veth0";
const MACS: [&str; 2] = ["02:de:31:00:00:01", "02:de:31:00:00:02"];

/// The TAP interfaces of either end.
const TAPS: [&str; 2] = ["tap1", "tap2"];

/// The kernel's addresses.
const KERNEL: [&str; 2] = ["10.62.0.1", "10.62.0.2"];

/// The kernel's at the client's end among those of NICs, for a client on sockets of a server over a NIC.
const NEAR_NIC: &str = "10.61.0.2";

#[derive(Debug)]
pub(crate) struct Link {
    device: Device,
    mtu: usize,
    /// The server's and the client's, unless there is nothing to keep apart.
    spaces: Option<[Space; 2]>,
}

impl Link {
    /// Makes what the device needs. It goes with the value.
    pub(crate) fn set_up(device: Device, mtu: usize) -> Result<Link> {
        if !device.needs_root() {
            return Ok(Link { device, mtu, spaces: None });
        }
        let spaces = [Space::new()?, Space::new()?];
        let [server, client] = &spaces;
        server.run(&format!(
            "ip link add {VETH} mtu {mtu} type veth peer name {VETH} mtu {mtu} netns {}",
            client.id()
        ))?;
        for (space, (mac, address)) in spaces.iter().zip(MACS.into_iter().zip(KERNEL)) {
            space.run(&format!("ip link set {VETH} addrgenmode none address {mac}"))?;
            space.run(&format!("ip addr add {address}/24 dev {VETH}"))?;
            space.run(&format!("ip link set {VETH} up"))?;
        }
        if device == Device::Tap {
            server.run("ip link add bridge0 type bridge")?;
            for tap in TAPS {
                server.run(&format!("ip tuntap add dev {tap} mode tap vnet_hdr"))?;
                server.run(&format!("ip link set {tap} mtu {mtu} master bridge0"))?;
                server.run(&format!("ip link set {tap} up"))?;
            }
            server.run("ip link set bridge0 up")?;
        }
        Ok(Link { device, mtu, spaces: Some(spaces) })
    }

    /// The words about the link for a server and its client.
    pub(crate) fn words(&self, over: Over) -> [String; 2] {
        if over == Over::Kernel {
            let bind = if self.spaces.is_some() { KERNEL[0] } else { "127.0.0.1" };
            return [format!("--bind {bind}"), String::new()];
        }
        static SOCKETS: AtomicU32 = AtomicU32::new(0);
        let ends = match self.device {
            Device::Memif => {
                let number = SOCKETS.fetch_add(1, Ordering::Relaxed);
                let socket = format!("@demi-bench-{}-{number}", std::process::id());
                [socket.clone(), socket]
            }
            Device::AfXdp => [VETH, VETH].map(str::to_owned),
            Device::Tap => TAPS.map(str::to_owned),
        };
        ends.map(|at| format!("--device {} --at {at} --mtu {}", self.device.name(), self.mtu))
    }

    /// Lets clients on sockets of the kernel reach a server over a NIC.
    pub(crate) fn admit_kernel_clients(&self) -> Result<()> {
        match &self.spaces {
            Some([_, client]) => client.run(&format!("ip addr add {NEAR_NIC}/24 dev {VETH}")),
            None => Ok(()),
        }
    }

    /// The words for such a client, whatever the server is over.
    pub(crate) fn words_of_kernel_client(&self, over: Over) -> String {
        let bind = if over == Over::Nic { NEAR_NIC } else { KERNEL[1] };
        format!("--bind {bind} --interface {VETH}")
    }

    /// Starts a role at one end.
    pub(crate) fn start(&self, roles: &Roles, end: End, over: Over, words: &str) -> Result<Role> {
        let mut command = match &self.spaces {
            None => Command::new(roles.program()),
            Some([server, _]) if self.device == Device::Tap && over == Over::Nic => {
                server.command(roles.program())
            }
            Some([server, _]) if end == End::Server => server.command(roles.program()),
            Some([_, client]) => client.command(roles.program()),
        };
        command.args(words.split_whitespace());
        let name = words.split_whitespace().next().unwrap_or("a role");
        roles.start_as(command, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_turn_over_memif_has_a_socket_of_its_own() {
        let link = Link::set_up(Device::Memif, 1500).unwrap();
        let [server, client] = link.words(Over::Nic);
        assert_eq!(server, client);
        assert_ne!(link.words(Over::Nic)[0], server);
        assert_eq!(link.words(Over::Kernel), ["--bind 127.0.0.1", ""]);
    }
}
