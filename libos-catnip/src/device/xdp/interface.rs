//! What an interface is: its number, address, MTU, driver and queues, as they were when it was looked at.

use demi_api::error::Error;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::spread::Spread;
use super::sys::{ETHTOOL_GCHANNELS, ETHTOOL_GDRVINFO, EthtoolWords, InterfaceRequest};

/// An interface of this thread's network namespace.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    pub(super) mtu: usize,
    pub(super) driver: String,
    /// How many receive queues are in use.
    pub(super) rx_queues: u32,
    /// How TCP connections are spread over them, if the driver says so.
    pub(super) spread: Option<Spread>,
}

impl Interface {
    /// Looks at the interface of this name.
    pub(super) fn find(name: &str) -> Result<Interface, Error> {
        let refuse = |what: &str| Error::Config(format!("AF_XDP on `{name}`: {what}"));
        let mut request =
            InterfaceRequest::new(name).ok_or_else(|| refuse("an interface's name has 1 to 15 bytes"))?;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| refuse(&format!("cannot open a socket to look at the interface: {errno}")))?;
        let socket = std::os::fd::AsFd::as_fd(&socket);
        let mut ask = |what| match request.ask(socket, what) {
            Ok(()) => Ok(request.data),
            Err(Errno::NODEV) => Err(refuse("there is no such interface here (`ip link` lists them)")),
            Err(errno) => Err(refuse(&format!("cannot be looked at: {errno}"))),
        };
        let index = word(&ask(libc::SIOCGIFINDEX)?, 0);
        let flags = word(&ask(libc::SIOCGIFFLAGS)?, 0) as u16;
        let mtu = word(&ask(libc::SIOCGIFMTU)?, 0) as usize;
        let hardware = ask(libc::SIOCGIFHWADDR)?;
        if i32::from(flags) & libc::IFF_UP == 0 {
            return Err(refuse(&format!("the interface is down: `ip link set {name} up`")));
        }
        let kind = u16::from_ne_bytes([hardware[0], hardware[1]]);
        if ![libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&kind) {
            return Err(refuse("not an Ethernet interface"));
        }
        let mut mac = [0; 6];
        mac.copy_from_slice(&hardware[2..8]);
        let mut words = [0; 64];
        let mut ask_driver = |command: u32| {
            words = [0; 64];
            words[0] = command;
            request.ask_driver(socket, &mut words).ok().map(|()| words)
        };
        let driver = ask_driver(ETHTOOL_GDRVINFO).map(|words| driver_name(&words)).unwrap_or_default();
        // `struct ethtool_channels`: four maxima, then how many receive, transmit, other and combined queues there are.
        let queues = ask_driver(ETHTOOL_GCHANNELS).map_or(1, |words| words[5].saturating_add(words[8]));
        let rx_queues = queues.clamp(1, MAX_QUEUES);
        let spread = if rx_queues > 1 { Spread::ask(&mut request, socket) } else { None };
        let mtu = mtu.clamp(68, 65535);
        Ok(Interface { name: name.into(), index, mac, mtu, driver, rx_queues, spread })
    }
}

/// No interface has more receive queues, and none serves more at once.
const MAX_QUEUES: u32 = 256;

fn word(data: &[u8; 24], at: usize) -> u32 {
    data[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// `struct ethtool_drvinfo`: the command, then the driver's name in 32 bytes.
fn driver_name(words: &EthtoolWords) -> String {
    let bytes =
        words[1..9].iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8(bytes).unwrap_or_default()
}
