//! Two namespaces joined by a `veth` pair, which go with the value that stands for them.
//!
//! In `ours` run catnip's subjects, in `theirs` the kernel alone. catnip has the addresses that end in 1, their kernel
//! those that end in 2; the kernel of `ours` shares the interface, with the addresses that end in 3.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{sys, text};

/// Our addresses, theirs, and those of the kernel beside us.
pub const OURS: [&str; 2] = ["10.9.0.1", "fd09::1"];
/// Addresses of the kernel that is the peer.
pub const THEIRS: [&str; 2] = ["10.9.0.2", "fd09::2"];
/// Addresses of the kernel that shares the interface.
pub const BESIDE: [&str; 2] = ["10.9.0.3", "fd09::3"];

/// The interface of either namespace.
pub const LINK: &str = "v0";

/// Two namespaces and what joins them.
pub struct Net {
    ours: String,
    theirs: String,
}

impl Net {
    /// Makes them, or says why not.
    pub fn new() -> Result<Net, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            return Err("making network namespaces needs root".to_owned());
        }
        if Command::new("ip").arg("-V").stdin(Stdio::null()).output().is_err() {
            return Err("ip is not installed: `cargo xtask setup` installs it".to_owned());
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("demi-shim-{}-{number}{side}", std::process::id());
        let net = Net { ours: name('a'), theirs: name('b') };
        ip(&format!("netns add {}", net.ours))?;
        ip(&format!("netns add {}", net.theirs))?;
        let (ours, theirs) = (&net.ours, &net.theirs);
        for namespace in [ours, theirs] {
            // Addresses are used at once.
            inside(namespace, || std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0"))
                .map_err(|error| error.to_string())?;
        }
        // As many queues as a subject has processes that each take one.
        let queues = "numtxqueues 4 numrxqueues 4";
        ip(&format!(
            "link add {LINK} netns {ours} {queues} type veth peer name {LINK} netns {theirs} {queues}"
        ))?;
        for (namespace, addresses) in [(ours, BESIDE), (theirs, THEIRS)] {
            ip(&format!("-n {namespace} link set {LINK} up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
            ip(&format!("-n {namespace} addr add {}/24 dev {LINK}", addresses[0]))?;
            ip(&format!("-n {namespace} addr add {}/64 dev {LINK} nodad", addresses[1]))?;
            // AF_XDP has no word for a checksum that is left to a device.
            inside(namespace, || sys::complete_checksums(LINK)).map_err(|error| error.to_string())?;
        }
        Ok(net)
    }

    /// A command where catnip runs.
    pub fn ours(&self, program: &str) -> Command {
        within(&self.ours, program)
    }

    /// A command where the peer's kernel is.
    pub fn theirs(&self, program: &str) -> Command {
        within(&self.theirs, program)
    }

    /// Takes the interface away from both.
    pub fn cut(&self) {
        let _ = ip(&format!("-n {} link del {LINK}", self.ours));
    }

    /// Does something with this thread where the peer's kernel is.
    pub fn in_theirs<T>(&self, action: impl FnOnce() -> T) -> T {
        inside(&self.theirs, action)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.ours, &self.theirs] {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn within(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
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

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).stdin(Stdio::null()).output();
    let Output { status, stderr, .. } = output.map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", text(&stderr).trim())) }
}
