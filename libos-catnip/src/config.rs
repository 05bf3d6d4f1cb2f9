//! The `[catnip]` section of the configuration.

use std::time::Duration;

use demi_api::config::Config;
use demi_api::error::Error;
use demi_api::memalloc::Heap;
use serde::Deserialize;

use crate::aids::{FaultSection, PcapSection};
use crate::device::memif::{Memif, MemifConfig};
use crate::device::packet::{Packet, PacketConfig};
use crate::device::tap::{Tap, TapConfig};
use crate::device::xdp::{Xdp, XdpConfig};
use crate::device::{Queue, Wire};
use crate::ip::IpConfig;
use crate::siblings::Siblings;
use crate::tcp::{Algorithm, EcnPolicy, Policy, SynCookies};

/// The wire that an instance without a NIC talks to itself on.
const OWN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// A device, and the other instances on its interface, if it is shared.
pub(crate) type AmongOthers = (Box<dyn Queue>, Option<Box<Siblings>>);

/// Keys of `[catnip]`, all optional but `device`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatnipSection {
    /// Addresses, routes and how to learn them.
    pub ip: IpConfig,
    /// The NIC, by its `kind`: `"loopback"` (default, a wire with nothing else on it), `"memif"`, `"af_xdp"`,
    /// `"af_packet"` or `"tap"`.
    pub device: DeviceSection,
    /// Bytes that a connection's peer may send ahead of the application at the most; default 1048576, 2048 to 1073741824.
    /// It begins with 131072 and grows while the application takes what comes as fast as it does.
    pub recv_buffer: u32,
    /// Bytes that a connection takes from small pushes at the most before they have to wait; default 1048576, 2048 to
    /// 1073741824. It is 131072 until the congestion window is half of that, and then follows it.
    pub send_buffer: u32,
    /// Bytes of datagrams that a socket keeps for the application; default 1048576.
    pub datagram_buffer: usize,
    /// `"cubic"` (default) or `"newreno"`.
    pub congestion: CongestionChoice,
    /// How long a closed connection's ports stay reserved, in ms; default 60000, at most 240000 (RFC 9293 §3.4.2 asks for
    /// twice the time that a segment can live). A newer connection of the same peer may take them before.
    pub time_wait_ms: u64,
    /// Spread what is sent over the round trip (true, default), where that takes half a millisecond or more, instead of
    /// sending it in bursts that overflow short queues on the way.
    pub pacing: bool,
    /// Congestion marks of routers (RFC 3168): `"accept"` (default) with peers that ask for them, `"on"`: ask peers as
    /// well, `"off"`.
    pub ecn: EcnChoice,
    /// Handshakes that a listener keeps at a time; default 1024, 1 to 65536. Each takes what a connection does.
    pub half_open: usize,
    /// What becomes of calls beyond `half_open`: `"auto"` (default) answers them with cookies (RFC 4987), which keep
    /// nothing, but round the segment size down and know no options without timestamps; `"always"` does so with every call;
    /// `"off"` drops them.
    pub syn_cookies: CookieChoice,
    /// Faults between the device and the stack; none without the section.
    pub fault: Option<FaultSection>,
    /// A recording of all frames; none without the section.
    pub pcap: Option<PcapSection>,
}

/// Values of `catnip.congestion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "described at the key")]
pub enum CongestionChoice {
    Cubic,
    NewReno,
}

/// Values of `catnip.ecn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "described at the key")]
pub enum EcnChoice {
    Off,
    Accept,
    On,
}

/// Values of `catnip.syn_cookies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "described at the key")]
pub enum CookieChoice {
    Off,
    Auto,
    Always,
}

/// `[catnip.device]`: which NIC, and its own keys.
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum DeviceSection {
    /// A wire in memory: the instance can talk to itself.
    #[default]
    Loopback,
    /// Shared memory with another process.
    Memif(MemifConfig),
    /// The queues of an interface, over the instance's own memory. Without `addresses`, those of `[catnip.ip]`.
    AfXdp(XdpConfig),
    /// Every frame of an interface, by a ring that the kernel copies to.
    AfPacket(PacketConfig),
    /// A new interface of the kernel, or one that stays, whose wire is this process.
    Tap(TapConfig),
}

impl Default for CatnipSection {
    fn default() -> CatnipSection {
        CatnipSection {
            ip: IpConfig::default(),
            device: DeviceSection::default(),
            recv_buffer: 1 << 20,
            send_buffer: 1 << 20,
            datagram_buffer: 1 << 20,
            congestion: CongestionChoice::Cubic,
            time_wait_ms: 60_000,
            pacing: true,
            ecn: EcnChoice::Accept,
            half_open: 1024,
            syn_cookies: CookieChoice::Auto,
            fault: None,
            pcap: None,
        }
    }
}

impl CatnipSection {
    /// Reads and checks the section. Errors name file, line and key.
    pub fn load(config: &Config) -> Result<CatnipSection, Error> {
        let section: CatnipSection = config.section("catnip")?;
        let range = |key, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(config.reject("catnip", key, &format!("= {value} is out of range: {low} to {high}")))
        };
        range("recv_buffer", section.recv_buffer.into(), 2048, 1 << 30)?;
        range("send_buffer", section.send_buffer.into(), 2048, 1 << 30)?;
        range("datagram_buffer", section.datagram_buffer as u64, 2048, 1 << 30)?;
        range("time_wait_ms", section.time_wait_ms, 0, 240_000)?;
        range("half_open", section.half_open as u64, 1, 65_536)?;
        section.ip.check()?;
        section.fault.as_ref().map_or(Ok(()), |fault| fault.check(config))?;
        section.pcap.as_ref().map_or(Ok(()), |pcap| pcap.check(config))?;
        Ok(section)
    }

    /// Opens the device, whose frames are to lie in `heap`, with what stands before it: what an instance does at its start, for programs that use
    /// the device without it.
    pub fn open(&self, heap: &Heap) -> Result<Box<dyn Queue>, Error> {
        self.open_among_others(heap).map(|(device, _)| device)
    }

    /// The same, and the other instances, if it is an interface that is shared.
    pub(crate) fn open_among_others(&self, heap: &Heap) -> Result<AmongOthers, Error> {
        let mut siblings = None;
        let mut device: Box<dyn Queue> = match &self.device {
            DeviceSection::Loopback => {
                let plugged = Wire::new().plug(OWN_MAC, 1500);
                Box::new(plugged.map_err(|errno| Error::System(errno.raw_os_error()))?)
            }
            DeviceSection::Memif(config) => Box::new(Memif::open(config)?),
            DeviceSection::AfXdp(config) => {
                let mut config = config.clone();
                if config.addresses.is_empty() {
                    config.addresses = self.ip.cidrs()?.into_iter().map(|cidr| cidr.addr).collect();
                }
                if config.share > 1 && self.ip.dhcp {
                    return Err(Error::Config(
                        "catnip.ip.dhcp asks for an address of one instance: name `addresses` to `share` an interface"
                            .into(),
                    ));
                }
                if config.share > 1 {
                    // Others then keep off what is ours, and are known before we receive what may be theirs.
                    let joined = Siblings::join(&Xdp::shares(&config)?)?;
                    config.queues = joined.own().to_vec();
                    siblings = Some(joined);
                }
                Box::new(Xdp::open(heap, &config)?)
            }
            DeviceSection::AfPacket(config) => Box::new(Packet::open(config)?),
            DeviceSection::Tap(config) => Box::new(Tap::open(config)?),
        };
        if let Some(fault) = &self.fault {
            device = fault.before(device);
        }
        if let Some(pcap) = &self.pcap {
            device = pcap.before(device)?;
        }
        if let Some(siblings) = &mut siblings {
            siblings.watch(device.wait_fd())?;
        }
        Ok((device, siblings))
    }

    /// What of it concerns TCP.
    pub(crate) fn policy(&self, linger: Duration) -> Policy {
        Policy {
            algorithm: match self.congestion {
                CongestionChoice::Cubic => Algorithm::Cubic,
                CongestionChoice::NewReno => Algorithm::NewReno,
            },
            linger,
            time_wait: Duration::from_millis(self.time_wait_ms),
            pacing: self.pacing,
            ecn: match self.ecn {
                EcnChoice::Off => EcnPolicy::Off,
                EcnChoice::Accept => EcnPolicy::Accept,
                EcnChoice::On => EcnPolicy::On,
            },
            syn_cookies: match self.syn_cookies {
                CookieChoice::Off => SynCookies::Off,
                CookieChoice::Auto => SynCookies::Auto,
                CookieChoice::Always => SynCookies::Always,
            },
            half_open: self.half_open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_configuration_is_the_default() {
        let config = Config::parse(include_str!("../../docs/demi.toml"), "demi.toml").unwrap();
        assert_eq!(CatnipSection::load(&config).unwrap(), CatnipSection::default());
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (line, key) in [
            ("half_open = 0", "half_open"),
            ("ecn = \"maybe\"", "ecn"),
            ("time_wait_ms = 240001", "time_wait_ms"),
        ] {
            let config = Config::parse(&format!("[catnip]\n{line}\n"), "demi.toml").unwrap();
            let message = CatnipSection::load(&config).unwrap_err().to_string();
            assert!(message.contains(key) && message.contains("demi.toml"), "{message}");
        }
    }
}
