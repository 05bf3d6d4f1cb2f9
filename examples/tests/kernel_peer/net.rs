//! Two namespaces joined by one link, which go with the value that stands for them.
//!
//! In `ours` runs catnip, in `theirs` the kernel alone. Our host has the addresses that end in 1, theirs those that end
//! in 2; on `veth` the kernel of `ours` shares the interface, with the addresses that end in 3.

use std::fmt::Write as _;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::support::{self, Server, text, wait_output};
use super::sys;

pub(crate) const ECHO: &str = env!("CARGO_BIN_EXE_echo-catnip");
pub(crate) const KERNEL_ECHO: &str = env!("CARGO_BIN_EXE_echo-catnap");

/// Our addresses, and theirs, and those of the kernel beside us.
pub(crate) const OURS: [&str; 2] = ["10.9.0.1", "fd09::1"];
pub(crate) const THEIRS: [&str; 2] = ["10.9.0.2", "fd09::2"];
pub(crate) const BESIDE: [&str; 2] = ["10.9.0.3", "fd09::3"];

/// The interface of every namespace.
const LINK: &str = "v0";

/// Which device catnip has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Device {
    AfXdp,
    AfPacket,
    Tap,
}

pub(crate) const DEVICES: [Device; 3] = [Device::AfXdp, Device::AfPacket, Device::Tap];

pub(crate) struct Net {
    device: Device,
    ours: String,
    theirs: String,
    folder: tempfile::TempDir,
}

impl Net {
    /// `None`, said aloud: this needs root, `ip`, and the tools that are named.
    pub(crate) fn new(device: Device, tools: &[&str]) -> Option<Net> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return skip("making network namespaces needs root");
        }
        for tool in [&["ip"], tools].concat() {
            let help = Command::new(tool).arg("-V").stdin(Stdio::null()).output();
            if help.is_err() {
                return skip(&format!("{tool} is not installed: `cargo xtask setup` installs it"));
            }
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("demi-peer-{}-{number}{side}", std::process::id());
        let net = Net { device, ours: name('a'), theirs: name('b'), folder: tempfile::tempdir().unwrap() };
        if !ip(&format!("netns add {}", net.ours)).status.success() {
            return skip("`ip netns add` is refused here");
        }
        run_ip(&format!("netns add {}", net.theirs));
        for namespace in [&net.ours, &net.theirs] {
            // Addresses are used at once.
            inside(namespace, || std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")).unwrap();
        }
        if device == Device::Tap {
            // Catnip makes the interface in their namespace, and is all that lies behind it.
            return Some(net);
        }
        let (ours, theirs) = (&net.ours, &net.theirs);
        run_ip(&format!("link add {LINK} netns {ours} type veth peer name {LINK} netns {theirs}"));
        for (namespace, addresses) in [(ours, BESIDE), (theirs, THEIRS)] {
            run_ip(&format!("-n {namespace} link set {LINK} up"));
            run_ip(&format!("-n {namespace} link set lo up"));
            run_ip(&format!("-n {namespace} addr add {}/24 dev {LINK}", addresses[0]));
            run_ip(&format!("-n {namespace} addr add {}/64 dev {LINK} nodad", addresses[1]));
            // AF_XDP has no word for a checksum that is left to a device.
            inside(namespace, || sys::complete_checksums(LINK)).unwrap();
        }
        Some(net)
    }

    /// A command of catnip's, with a configuration for this network and `more` in it.
    pub(crate) fn catnip(&self, program: &str, args: &[&str], more: &str) -> Command {
        let [v4, v6] = OURS;
        let mut config = format!(
            "[heap]\nsize_mib = 64\nhuge_pages = \"never\"\n[catnip.ip]\naddresses = [\"{v4}/24\", \"{v6}/64\"]\n\
             [catnip.device]\n"
        );
        match self.device {
            Device::AfXdp => write!(config, "kind = \"af_xdp\"\ninterface = \"{LINK}\"\n"),
            Device::AfPacket => write!(
                config,
                "kind = \"af_packet\"\ninterface = \"{LINK}\"\naddresses = [\"{v4}\", \"{v6}\"]\n"
            ),
            Device::Tap => write!(
                config,
                "kind = \"tap\"\nname = \"{LINK}\"\naddresses = [[\"{}\", 24], [\"{}\", 64]]\n",
                THEIRS[0], THEIRS[1]
            ),
        }
        .unwrap();
        config.push_str(more);
        let path = self.folder.path().join("demi.toml");
        std::fs::write(&path, config).unwrap();
        let namespace = if self.device == Device::Tap { &self.theirs } else { &self.ours };
        let mut command = self.in_namespace(namespace, program, args);
        command.env("DEMI_CONFIG", path);
        command
    }

    /// Starts a server of catnip's, which says where it listens.
    pub(crate) fn serve(&self, program: &str, args: &[&str], more: &str) -> Server {
        Server::start_with(self.catnip(program, args, more), 1)
    }

    /// A command in the namespace of the kernel that is our peer.
    pub(crate) fn theirs(&self, program: &str, args: &[&str]) -> Command {
        self.in_namespace(&self.theirs, program, args)
    }

    /// A command in the namespace of the kernel that shares our interface.
    pub(crate) fn beside(&self, program: &str, args: &[&str]) -> Command {
        self.in_namespace(&self.ours, program, args)
    }

    fn in_namespace(&self, namespace: &str, program: &str, args: &[&str]) -> Command {
        let mut command = support::command("ip", &[&["netns", "exec", namespace, program], args].concat());
        command.env_remove("DEMI_CONFIG");
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.ours, &self.theirs] {
            ip(&format!("netns del {name}"));
        }
    }
}

/// Runs a command, which must succeed; what it prints.
#[track_caller]
pub(crate) fn run(mut command: Command) -> String {
    let shown = format!("{command:?}");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let Output { status, stdout, stderr } = wait_output(child);
    assert!(status.success(), "{shown}: {status}: {}{}", text(&stdout), text(&stderr));
    text(&stdout)
}

/// An address as tools take it before a port.
pub(crate) fn with_port(addr: &str, port: u16) -> String {
    std::net::SocketAddr::from((addr.parse::<IpAddr>().unwrap(), port)).to_string()
}

/// Says something that the test harness does not keep to itself.
fn skip(why: &str) -> Option<Net> {
    use std::io::Write;
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    // In one piece, as others write as well.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {name}: {why}\n").as_bytes());
    None
}

/// Does something with this thread in a namespace, and comes back.
fn inside<T>(name: &str, action: impl FnOnce() -> T) -> T {
    let enter = |namespace: &File| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    };
    let back = File::open("/proc/thread-self/ns/net").unwrap();
    enter(&File::open(format!("/var/run/netns/{name}")).unwrap());
    let result = action();
    enter(&back);
    result
}

fn ip(arguments: &str) -> Output {
    Command::new("ip").args(arguments.split_whitespace()).output().unwrap()
}

#[track_caller]
fn run_ip(arguments: &str) {
    let output = ip(arguments);
    assert!(output.status.success(), "ip {arguments}: {}", text(&output.stderr));
}
