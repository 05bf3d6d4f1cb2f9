//! Two network namespaces with a veth pair between them, which go with the value that stands for them.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use demi_api::error::Error;
use demi_api::memalloc::{Heap, HeapConfig, HugePages};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::sys::packet_socket;
use crate::device::xdp::interface::Interface;
use crate::device::xdp::{Xdp, XdpConfig};

/// The interface of both namespaces.
pub(crate) const LINK: &str = "v0";

/// The Ethernet addresses of its two ends.
pub(crate) const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// Says something that the test harness does not keep to itself.
pub(crate) fn announce(what: &str) {
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    // In one piece, as others write as well.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {name}: {what}\n").as_bytes());
}

/// Two namespaces, `0` and `1`.
pub(crate) struct Net {
    names: [String; 2],
}

impl Net {
    /// `None`, said aloud: this needs root, `ip`, bpf and AF_XDP.
    pub(crate) fn new(mtu: usize, queues: usize) -> Option<Net> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            announce("making network namespaces needs root");
            return None;
        }
        if let Err(errno) = crate::device::xdp::sys::create_socket_map(1) {
            announce(&format!("AF_XDP or bpf is not to be had here: {errno}"));
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let names = ["a", "b"].map(|side| format!("demi-xdp-{}-{number}{side}", std::process::id()));
        let net = Net { names };
        let [a, b] = &net.names;
        if !ip(&format!("netns add {a}")).status.success() {
            announce("`ip netns add` failed");
            return None;
        }
        run_ip(&format!("netns add {b}"));
        let count = format!("numtxqueues {queues} numrxqueues {queues}");
        run_ip(&format!(
            "link add {LINK} netns {a} mtu {mtu} {count} type veth peer name {LINK} netns {b} mtu {mtu} {count}"
        ));
        for (name, mac) in net.names.iter().zip(["02:00:00:00:00:01", "02:00:00:00:00:02"]) {
            run_ip(&format!("-n {name} link set {LINK} addrgenmode none address {mac}"));
            run_ip(&format!("-n {name} link set {LINK} up"));
            run_ip(&format!("-n {name} link set lo up"));
        }
        Some(net)
    }

    /// Runs `ip` about one namespace.
    pub(crate) fn ip(&self, side: usize, what: &str) {
        run_ip(&format!("-n {} {what}", self.names[side]));
    }

    /// What `ip netns` calls a namespace.
    pub(crate) fn name(&self, side: usize) -> &str {
        &self.names[side]
    }

    pub(crate) fn inside<T>(&self, side: usize, action: impl FnOnce() -> T) -> T {
        inside(&self.names[side], action)
    }

    /// Opens the device at one end.
    pub(crate) fn open(&self, side: usize, heap: &Heap, config: &XdpConfig) -> Result<Xdp, Error> {
        self.inside(side, || Xdp::open(heap, config))
    }

    /// Opens a packet socket at one end.
    pub(crate) fn packets(&self, side: usize) -> OwnedFd {
        self.inside(side, || packet_socket(Interface::find(LINK).unwrap().index).unwrap())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns del {name}"));
        }
    }
}

/// Does something with this thread in a namespace, and comes back.
pub(crate) fn inside<T>(name: &str, action: impl FnOnce() -> T) -> T {
    let enter = |path: &str| {
        let namespace = std::fs::File::open(path).unwrap();
        move |_: ()| {
            use std::os::fd::AsFd;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        }
    };
    let back = enter("/proc/thread-self/ns/net");
    enter(&format!("/var/run/netns/{name}"))(());
    let result = action();
    back(());
    result
}

fn ip(arguments: &str) -> Output {
    Command::new("ip").args(arguments.split_whitespace()).output().unwrap()
}

fn run_ip(arguments: &str) {
    let output = ip(arguments);
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A heap of a few MiB.
pub(crate) fn heap(mib: usize) -> Heap {
    Heap::new(&HeapConfig { size: mib << 20, huge_pages: HugePages::Never, lock: false }).unwrap()
}

/// The device at one end of a pair that owns 10.0.0.1 or 10.0.0.2.
pub(crate) fn config(side: usize) -> XdpConfig {
    let addresses = vec![[10, 0, 0, 1 + side as u8].into()];
    XdpConfig { interface: LINK.into(), addresses, rx_buffers: 256, tx_segments: 256, ..XdpConfig::default() }
}
