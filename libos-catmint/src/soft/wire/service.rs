//! The RDMA IP CM service (annex A11): TCP ports as service numbers, and in a request's private data the IP addresses that
//! it is between. `rdma_cm` of an operating system speaks it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::WireError;
use super::bytes::{array, get16, put16};
use super::mad::REQUEST_DATA;

/// What of a request's private data is left for who asks.
pub const USER_DATA: usize = REQUEST_DATA - IpService::LEN;

/// `RDMA_PS_TCP` in its place.
const TCP: u64 = 0x0000_0000_0106_0000;

/// The service number of a port.
pub const fn tcp_service(port: u16) -> u64 {
    TCP | port as u64
}

/// The port of a service number; `None` if it is no TCP port's.
pub const fn tcp_port(service: u64) -> Option<u16> {
    if service & !0xFFFF == TCP { Some(service as u16) } else { None }
}

/// An address as RoCE's global identifier.
pub fn gid(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

/// The address that a global identifier stands for.
pub fn gid_addr(gid: [u8; 16]) -> IpAddr {
    let addr = Ipv6Addr::from(gid);
    addr.to_ipv4_mapped().map_or(addr.into(), IpAddr::from)
}

/// The header in front of a request's private data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpService {
    /// Who asks.
    pub source: IpAddr,
    /// From which port.
    pub source_port: u16,
    /// Who is asked; of the same family.
    pub destination: IpAddr,
}

impl IpService {
    /// Bytes on the wire.
    pub const LEN: usize = 36;

    /// Reads a request's private data. Gives what follows the header.
    ///
    /// # Errors
    /// When it is too short, or of another version.
    pub fn parse(private: &[u8]) -> Result<(IpService, &[u8]), WireError> {
        let Some((header, rest)) = private.split_at_checked(IpService::LEN) else {
            return Err(WireError::Short);
        };
        if header[0] != 0 {
            return Err(WireError::Field("version of the IP service"));
        }
        let addr = |at: usize| -> Result<IpAddr, WireError> {
            match header[1] >> 4 {
                4 => Ok(Ipv4Addr::from(array::<4>(header, at + 12)).into()),
                6 => Ok(Ipv6Addr::from(array::<16>(header, at)).into()),
                _ => Err(WireError::Field("IP version")),
            }
        };
        let service = IpService { source: addr(4)?, source_port: get16(header, 2), destination: addr(20)? };
        Ok((service, rest))
    }

    /// Writes it with `user` behind it, which is cut if it is longer than [`USER_DATA`].
    pub fn emit(&self, user: &[u8]) -> [u8; REQUEST_DATA] {
        let mut out = [0; REQUEST_DATA];
        out[1] = if self.source.is_ipv4() { 4 << 4 } else { 6 << 4 };
        put16(&mut out, 2, self.source_port);
        for (at, addr) in [(4, self.source), (20, self.destination)] {
            match addr {
                IpAddr::V4(addr) => out[at + 12..at + 16].copy_from_slice(&addr.octets()),
                IpAddr::V6(addr) => out[at..at + 16].copy_from_slice(&addr.octets()),
            }
        }
        let user = &user[..user.len().min(USER_DATA)];
        out[IpService::LEN..][..user.len()].copy_from_slice(user);
        out
    }
}
