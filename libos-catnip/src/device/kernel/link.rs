//! Network interfaces of the kernel, asked about and set up over rtnetlink (RFC 3549, `rtnetlink(7)`).
//!
//! For the control path: calls are synchronous, since the kernel answers within the call that asks. What it answers is
//! read by checked lengths all the same.

use std::net::IpAddr;

use demi_api::error::Error;
use demi_api::fd::Fd;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use super::refused;

const HEADER: usize = 16;
const IFINFO: usize = 16;

/// Longest name of an interface, without the zero behind it.
pub(in crate::device) const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Smallest MTU that carries IPv4 (RFC 791 §3.2).
pub(in crate::device) const MTU_MIN: usize = 68;
/// Largest MTU that [`Caps`](super::super::Caps) can state.
pub(in crate::device) const MTU_MAX: usize = 65535;

/// What is known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::device) struct Link {
    pub(in crate::device) index: u32,
    pub(in crate::device) mtu: usize,
    pub(in crate::device) up: bool,
    /// `None`: it is no Ethernet.
    pub(in crate::device) mac: Option<[u8; 6]>,
}

/// A conversation with the kernel about its interfaces.
#[derive(Debug)]
pub(in crate::device) struct Links {
    fd: Fd,
    number: u32,
}

impl Links {
    pub(in crate::device) fn open() -> Result<Links, Error> {
        let flags = SocketFlags::CLOEXEC;
        match retry_on_intr(|| socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)) {
            Ok(fd) => Ok(Links { fd: fd.into(), number: 0 }),
            Err(Errno::MFILE | Errno::NFILE) => Err(Error::TooManyFiles),
            Err(_) => Err(Error::NotSupported("this system lets nobody ask for its interfaces (rtnetlink)")),
        }
    }

    /// The interface of that name.
    pub(in crate::device) fn find(&mut self, name: &str) -> Result<Link, Error> {
        let request = Request::new(libc::RTM_GETLINK, 0, &ifinfo(0, 0, 0))
            .attribute(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        match self.ask(request) {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Error::Config(format!("interface {name:?}: the kernel says nothing of it"))),
            Err(errno) => {
                Err(refused(name, "not found", errno, "`ip link` lists those of this network namespace"))
            }
        }
    }

    pub(in crate::device) fn set_mtu(&mut self, link: &Link, mtu: usize) -> Result<(), Errno> {
        let request = Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK, &ifinfo(link.index, 0, 0))
            .attribute(libc::IFLA_MTU, &(mtu as u32).to_ne_bytes());
        self.ask(request).map(drop)
    }

    pub(in crate::device) fn set_up(&mut self, link: &Link) -> Result<(), Errno> {
        let up = libc::IFF_UP.cast_unsigned();
        self.ask(Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK, &ifinfo(link.index, up, up))).map(drop)
    }

    /// Gives the kernel's side an address, at once usable. One that it has already stays as it is.
    pub(in crate::device) fn add_address(
        &mut self,
        link: &Link,
        addr: IpAddr,
        prefix: u8,
    ) -> Result<(), Errno> {
        let (family, bytes) = match addr {
            IpAddr::V4(addr) => (libc::AF_INET, addr.octets().to_vec()),
            IpAddr::V6(addr) => (libc::AF_INET6, addr.octets().to_vec()),
        };
        let no_detection = libc::IFA_F_NODAD as u8;
        let mut body = vec![family as u8, prefix, no_detection, libc::RT_SCOPE_UNIVERSE];
        body.extend(link.index.to_ne_bytes());
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let request = Request::new(libc::RTM_NEWADDR, flags, &body)
            .attribute(libc::IFA_LOCAL, &bytes)
            .attribute(libc::IFA_ADDRESS, &bytes);
        self.ask(request).map(drop)
    }

    /// Sends a request and reads up to its answer or its acknowledgement.
    fn ask(&mut self, request: Request) -> Result<Option<Link>, Errno> {
        self.number = self.number.wrapping_add(1);
        let message = request.finish(self.number);
        retry_on_intr(|| send(&self.fd, &message, SendFlags::empty()))?;
        let mut reply = vec![0; 32 << 10];
        loop {
            let (got, _) = retry_on_intr(|| recv(&self.fd, &mut reply[..], RecvFlags::DONTWAIT))?;
            let mut rest = &reply[..got.min(reply.len())];
            while let Some((message, next)) = split(rest, u32_at(rest, 0)) {
                rest = next;
                if u32_at(message, 8) != Some(self.number) {
                    continue;
                }
                match u16_at(message, 4).map(i32::from) {
                    Some(libc::NLMSG_ERROR) => {
                        let code = u32_at(message, HEADER).ok_or(Errno::BADMSG)?.cast_signed();
                        return match code {
                            0 => Ok(None),
                            -4095..0 => Err(Errno::from_raw_os_error(-code)),
                            _ => Err(Errno::BADMSG),
                        };
                    }
                    Some(kind) if kind == i32::from(libc::RTM_NEWLINK) => {
                        return parse_link(message).map(Some).ok_or(Errno::BADMSG);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// `struct ifinfomsg`.
fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFO] {
    let mut body = [0; IFINFO];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: i32, body: &[u8]) -> Request {
        let flags = (libc::NLM_F_REQUEST | flags) as u16;
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend(body);
        Request(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Request {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self, number: u32) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&number.to_ne_bytes());
        self.0
    }
}

/// The interface that an RTM_NEWLINK message describes.
fn parse_link(message: &[u8]) -> Option<Link> {
    let ethernet = u16_at(message, HEADER + 2)? == libc::ARPHRD_ETHER;
    let index = u32_at(message, HEADER + 4)?;
    let up = u32_at(message, HEADER + 8)? & libc::IFF_UP.cast_unsigned() != 0;
    let mut link = Link { index, mtu: 0, up, mac: None };
    let mut rest = message.get(HEADER + IFINFO..)?;
    while let Some((attribute, next)) = split(rest, u16_at(rest, 0).map(u32::from)) {
        rest = next;
        match u16_at(attribute, 2)? {
            libc::IFLA_MTU => link.mtu = u32_at(attribute, 4)? as usize,
            libc::IFLA_ADDRESS if ethernet => link.mac = attribute.get(4..10)?.try_into().ok(),
            _ => {}
        }
    }
    Some(link)
}

/// The first piece, of `len` bytes, and what comes behind it and its padding. `None`: there is no whole piece.
fn split(bytes: &[u8], len: Option<u32>) -> Option<(&[u8], &[u8])> {
    let len = len? as usize;
    if len < 4 {
        return None;
    }
    let piece = bytes.get(..len)?;
    Some((piece, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found_and_is_no_ethernet() {
        let link = Links::open().unwrap().find("lo").unwrap();
        assert!(link.index > 0 && link.mtu >= 1500 && link.mac.is_none(), "{link:?}");
    }

    #[test]
    fn an_unknown_interface_is_named() {
        let error = Links::open().unwrap().find("nowhere0").unwrap_err().to_string();
        assert!(error.contains("nowhere0") && error.contains("ip link"), "{error}");
    }

    #[test]
    fn cut_and_lying_messages_are_read_within_their_bytes() {
        let whole = Request::new(libc::RTM_NEWLINK, 0, &ifinfo(7, 1, 0))
            .attribute(libc::IFLA_MTU, &1500_u32.to_ne_bytes())
            .finish(1);
        assert_eq!(parse_link(&whole), Some(Link { index: 7, mtu: 1500, up: true, mac: None }));
        for cut in 0..whole.len() {
            let _ = parse_link(&whole[..cut]);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = (parse_link(&bytes), split(&bytes, u32_at(&bytes, 0)));
            }
        }
    }
}
