//! What can be between two stacks: shared memory, or a virtual Ethernet with AF_XDP at both ends.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use demi_api::Error;
use demi_api::memalloc::Heap;
use demi_api::time::Clock;
use demi_libos_catnip::device::memif::{Memif, MemifConfig, Role};
use demi_libos_catnip::device::xdp::{Mode, Xdp, XdpConfig};
use demi_libos_catnip::device::{DeviceCx, Queue};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::sys::Namespace;

/// The addresses of the two stacks at a cable, the near one's first.
pub(crate) const V4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
pub(crate) const V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)];

/// A kind of device, seen as something with two ends.
pub(crate) trait Cable: Sized + 'static {
    /// The counter of frames that an end has taken to transmit, and of those it has received.
    const FRAMES: [&'static str; 2];

    /// What is missing here to make one.
    fn lacking() -> Option<String>;

    /// A new one, whose ends reach each other.
    fn plug(heap: &Heap) -> Result<(Self, [Box<dyn Queue>; 2]), Error>;
}

/// memif. The near end is the server.
#[derive(Debug)]
pub(crate) struct Memory;

impl Cable for Memory {
    const FRAMES: [&'static str; 2] = ["memif_tx_frames", "memif_rx_frames"];

    fn lacking() -> Option<String> {
        None
    }

    fn plug(heap: &Heap) -> Result<(Self, [Box<dyn Queue>; 2]), Error> {
        // Abstract, so that there is nothing to clean up.
        let name = format!("@demi-conformance-{}-{:x}", std::process::id(), fastrand::u64(..));
        let open =
            |role| Memif::open(&MemifConfig { socket: name.clone().into(), role, ..MemifConfig::default() });
        let mut ends = [open(Role::Server)?, open(Role::Client)?];
        let (clock, begin) = (Clock::start(), Instant::now());
        while !ends.iter().all(Memif::is_up) {
            assert!(begin.elapsed() < Duration::from_secs(10), "the ends do not find each other");
            for end in &mut ends {
                end.rx_burst(&DeviceCx { heap, now: clock.now() }, &mut Vec::new());
            }
        }
        Ok((Memory, ends.map(|end| Box::new(end) as Box<dyn Queue>)))
    }
}

/// AF_XDP in the kernel's stack, as every driver has it, at both ends of a virtual Ethernet, which goes with this.
#[derive(Debug)]
pub(crate) struct Veth {
    names: [String; 2],
}

impl Cable for Veth {
    const FRAMES: [&'static str; 2] = ["xdp_tx_frames", "xdp_rx_frames"];

    fn lacking() -> Option<String> {
        namespace().as_ref().err().cloned()
    }

    fn plug(heap: &Heap) -> Result<(Veth, [Box<dyn Queue>; 2]), Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let names = ["near", "far"].map(|end| format!("{end}{number}"));
        let namespace = namespace().as_ref().map_err(|lacking| Error::Config(lacking.clone()))?;
        namespace.inside(|| {
            let [near, far] = &names;
            let add = format!("link add {near} type veth peer name {far}");
            ip(&[&add, &format!("link set {near} up"), &format!("link set {far} up")])?;
            let veth = Veth { names };
            let ends = [veth.open(0, heap)?, veth.open(1, heap)?];
            Ok((veth, ends))
        })
    }
}

impl Veth {
    fn open(&self, end: usize, heap: &Heap) -> Result<Box<dyn Queue>, Error> {
        let config = XdpConfig {
            interface: self.names[end].clone(),
            addresses: vec![IpAddr::from(V4[end]), IpAddr::from(V6[end])],
            // Who asks from an address that it is not yet sure of is answered there, if its place is not known.
            all_nodes: true,
            mode: Mode::Generic,
            rx_buffers: 256,
            tx_segments: 256,
            ..XdpConfig::default()
        };
        Ok(Box::new(Xdp::open(heap, &config)?))
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        if let Ok(namespace) = namespace() {
            // What stays goes with the namespace.
            let _ = namespace.inside(|| ip(&[&format!("link del {}", self.names[0])]));
        }
    }
}

/// Where all virtual Ethernets of this process are, or why there can be none.
fn namespace() -> &'static Result<Namespace, String> {
    static NAMESPACE: OnceLock<Result<Namespace, String>> = OnceLock::new();
    NAMESPACE.get_or_init(|| {
        let refused = |errno| format!("a network namespace is refused ({errno}): run as root");
        let namespace = Namespace::new().map_err(refused)?;
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, flags, None);
        socket.map_err(|errno| format!("this kernel has no AF_XDP ({errno})"))?;
        namespace
            .inside(|| {
                // The kernel's own neighbour discovery has no business here.
                let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
                ip(&["link set lo up"])
            })
            .map_err(|error| error.to_string())?;
        Ok(namespace)
    })
}

/// Has `ip` do something in the namespace of this thread.
fn ip(lines: &[&str]) -> Result<(), Error> {
    let missing = |error| Error::Config(format!("there is no `ip` command ({error}): install iproute2"));
    let mut child =
        Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that has ended already says why by its status.
        let _ = stdin.write_all(lines.join("\n").as_bytes());
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        outcome => Err(Error::Config(format!("ip {lines:?}: {outcome:?}"))),
    }
}
