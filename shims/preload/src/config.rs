//! The `[preload]` section of the configuration: which sockets are claimed, and some bounds.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demi_api::config::Config;
use demi_api::error::Error;
use serde::Deserialize;

/// Keys of `[preload]`, all optional.
///
/// ```
/// use demi_api::config::Config;
/// use demi_preload::PreloadSection;
///
/// let text = "[[preload.rule]]\nport = [6379, 6379]\ndirection = \"in\"\n[[preload.rule]]\nclaim = false\n";
/// let section = PreloadSection::load(&Config::parse(text, "demi.toml")?)?;
/// assert_eq!(section.rule.len(), 2);
/// # Ok::<(), demi_api::error::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PreloadSection {
    /// Bytes that a program may have written to a connection and the libOS not yet delivered; default 1048576, 4096 to
    /// 1073741824. Beyond it a write blocks, or fails with EAGAIN.
    pub send_bytes: usize,
    /// Bytes that are received ahead of the program, per socket; default 262144, 4096 to 1073741824.
    pub recv_bytes: usize,
    /// Time after which a program that computes is relieved: its connections are then kept alive by a thread of the
    /// shim, in ms; default 10, 1 to 60000.
    pub guard_ms: u64,
    /// How long a program that ends is kept for what it has written to be delivered, in ms; default 1000, at most
    /// 60000.
    pub exit_ms: u64,
    /// The first rule that fits a socket decides. Without one that fits, everything is claimed but, where the libOS passes
    /// the kernel by, what is bound or connected to loopback.
    pub rule: Vec<Rule>,
}

/// One rule. A key that is missing fits everything.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Whether sockets that fit are the libOS's (default), or the kernel's.
    pub claim: bool,
    /// An address with the length of its prefix: `"10.0.0.0/8"`, `"::1/128"`.
    pub address: Option<Net>,
    /// First and last port.
    pub port: Option<[u16; 2]>,
    /// `"inet"` or `"inet6"`.
    pub family: Option<Family>,
    /// `"in"`: sockets that are bound and listen or receive. `"out"`: those that connect.
    pub direction: Option<Direction>,
}

/// Values of `family`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "described at the key")]
pub enum Family {
    Inet,
    Inet6,
}

/// Values of `direction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "described at the key")]
pub enum Direction {
    In,
    Out,
}

/// Addresses with a common prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Net {
    ip: IpAddr,
    bits: u8,
}

impl Default for PreloadSection {
    fn default() -> PreloadSection {
        PreloadSection {
            send_bytes: 1 << 20,
            recv_bytes: 256 << 10,
            guard_ms: 10,
            exit_ms: 1000,
            rule: Vec::new(),
        }
    }
}

impl Default for Rule {
    fn default() -> Rule {
        Rule { claim: true, address: None, port: None, family: None, direction: None }
    }
}

impl PreloadSection {
    /// Reads and checks the section. Errors name file, line and key.
    pub fn load(config: &Config) -> Result<PreloadSection, Error> {
        let section: PreloadSection = config.section("preload")?;
        let range = |key, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(config.reject("preload", key, &format!("= {value} is out of range: {low} to {high}")))
        };
        range("send_bytes", section.send_bytes as u64, 4096, 1 << 30)?;
        range("recv_bytes", section.recv_bytes as u64, 4096, 1 << 30)?;
        range("guard_ms", section.guard_ms, 1, 60_000)?;
        range("exit_ms", section.exit_ms, 0, 60_000)?;
        Ok(section)
    }

    pub(crate) fn guard(&self) -> Duration {
        Duration::from_millis(self.guard_ms)
    }

    pub(crate) fn exit(&self) -> Duration {
        Duration::from_millis(self.exit_ms)
    }

    /// Whether a socket is the libOS's that is about to use `addr`.
    pub(crate) fn claims(&self, addr: SocketAddr, direction: Direction, in_kernel: bool) -> bool {
        let rule = self.rule.iter().find(|rule| rule.fits(addr, direction));
        rule.map_or(in_kernel || !plain(addr.ip()).is_loopback(), |rule| rule.claim)
    }
}

impl Rule {
    fn fits(&self, addr: SocketAddr, direction: Direction) -> bool {
        let family = if addr.is_ipv4() { Family::Inet } else { Family::Inet6 };
        self.address.is_none_or(|net| net.contains(plain(addr.ip())))
            && self.port.is_none_or(|[first, last]| (first..=last).contains(&addr.port()))
            && self.family.is_none_or(|wanted| wanted == family)
            && self.direction.is_none_or(|wanted| wanted == direction)
    }
}

/// An IPv4 address as such, also where it comes in IPv6's clothes.
fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

impl Net {
    fn contains(self, ip: IpAddr) -> bool {
        let (ours, theirs) = match (self.ip, ip) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u128::from(ours.to_bits()) << 96, u128::from(theirs.to_bits()) << 96)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        self.bits == 0 || (ours ^ theirs) >> (128 - u32::from(self.bits)) == 0
    }
}

impl TryFrom<String> for Net {
    type Error = String;

    fn try_from(text: String) -> Result<Net, String> {
        let wrong = || format!("{text:?} is not ADDRESS/BITS, such as \"10.0.0.0/8\" or \"::1/128\"");
        let (ip, bits) = text.split_once('/').ok_or_else(wrong)?;
        let net = Net { ip: ip.parse().map_err(|_| wrong())?, bits: bits.parse().map_err(|_| wrong())? };
        if net.bits > if net.ip.is_ipv4() { 32 } else { 128 } {
            return Err(wrong());
        }
        Ok(net)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> PreloadSection {
        PreloadSection::load(&Config::parse(text, "x.toml").unwrap()).unwrap()
    }

    fn claims(section: &PreloadSection, addr: &str, direction: Direction) -> bool {
        section.claims(addr.parse().unwrap(), direction, false)
    }

    #[test]
    fn without_rules_loopback_is_left_to_the_kernel() {
        let section = section("");
        for addr in ["127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert!(!claims(&section, addr, Direction::In), "{addr}");
            assert!(section.claims(addr.parse().unwrap(), Direction::In, true));
        }
        for addr in ["10.0.0.1:80", "0.0.0.0:80", "[fd00::1]:80"] {
            assert!(claims(&section, addr, Direction::Out), "{addr}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let section = section(
            "[[preload.rule]]\naddress = \"10.1.0.0/16\"\nport = [80, 90]\nclaim = false\n\
             [[preload.rule]]\ndirection = \"out\"\nfamily = \"inet\"\n[[preload.rule]]\nclaim = false\n",
        );
        assert!(!claims(&section, "10.1.2.3:80", Direction::Out));
        assert!(claims(&section, "10.1.2.3:91", Direction::Out));
        assert!(claims(&section, "10.2.2.3:80", Direction::Out));
        assert!(!claims(&section, "10.2.2.3:80", Direction::In));
        assert!(!claims(&section, "[fd00::1]:80", Direction::Out));
        assert!(!claims(&section, "[::ffff:10.1.0.9]:85", Direction::Out));
    }

    #[test]
    fn the_documented_file_shows_the_defaults() {
        assert_eq!(section(include_str!("../../../docs/demi.toml")), PreloadSection::default());
    }

    #[test]
    fn bad_values_name_line_and_key() {
        for (text, part) in [
            ("[preload]\nguard_ms = 0\n", "x.toml:2"),
            ("[[preload.rule]]\naddress = \"10.0.0.0\"\n", "ADDRESS/BITS"),
            ("[[preload.rule]]\naddress = \"10.0.0.0/33\"\n", "ADDRESS/BITS"),
            ("[[preload.rule]]\ndirection = \"up\"\n", "up"),
        ] {
            let config = Config::parse(text, "x.toml").unwrap();
            let message = PreloadSection::load(&config).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
