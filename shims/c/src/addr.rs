//! Addresses as C has them, and as the API has them.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use demi_api::Addr;

use crate::errno::Errno;
use crate::types::Address;

/// Bytes of the largest address, a `sockaddr_un`.
pub const LONGEST: usize = size_of::<libc::sockaddr_un>();

const FAMILY: usize = size_of::<libc::sa_family_t>();

/// Reads a `sockaddr` of as many bytes as the program says.
pub fn parse(bytes: &[u8]) -> Result<Addr, Errno> {
    let Some((family, rest)) = bytes.split_first_chunk::<FAMILY>() else { return Err(Errno(libc::EINVAL)) };
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => {
            let Some(body) = rest.first_chunk::<6>() else { return Err(Errno(libc::EINVAL)) };
            let [p, q, a, b, c, d] = *body;
            let addr = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([p, q]));
            Ok(Addr::Inet(SocketAddr::V4(addr)))
        }
        libc::AF_INET6 => {
            let Some(body) = rest.first_chunk::<26>() else { return Err(Errno(libc::EINVAL)) };
            let word = |at: usize| [body[at], body[at + 1], body[at + 2], body[at + 3]];
            let mut ip = [0; 16];
            ip.copy_from_slice(&body[6..22]);
            let port = u16::from_be_bytes([body[0], body[1]]);
            let (flow, scope) = (u32::from_be_bytes(word(2)), u32::from_ne_bytes(word(22)));
            Ok(Addr::Inet(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope))))
        }
        libc::AF_UNIX => match rest {
            [] => Ok(Addr::Unnamed),
            // An abstract name has all bytes that there are; a path ends at its first NUL.
            [0, ..] => Ok(Addr::Unix(Path::new(OsStr::from_bytes(rest)).into())),
            path => {
                let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
                Ok(Addr::Unix(Path::new(OsStr::from_bytes(&path[..end])).into()))
            }
        },
        _ => Err(Errno(libc::EAFNOSUPPORT)),
    }
}

/// Writes a `sockaddr` and returns its length. What does not fit is left out.
pub fn write(addr: &Addr, out: &mut [u8; LONGEST]) -> usize {
    match addr {
        Addr::Inet(SocketAddr::V4(v4)) => {
            out[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            out[2..4].copy_from_slice(&v4.port().to_be_bytes());
            out[4..8].copy_from_slice(&v4.ip().octets());
            out[8..16].fill(0);
            16
        }
        Addr::Inet(SocketAddr::V6(v6)) => {
            out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            out[2..4].copy_from_slice(&v6.port().to_be_bytes());
            out[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            out[8..24].copy_from_slice(&v6.ip().octets());
            out[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            28
        }
        Addr::Unix(path) => {
            out[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
            let path = path.as_os_str().as_bytes();
            let len = path.len().min(LONGEST - FAMILY);
            out[FAMILY..FAMILY + len].copy_from_slice(&path[..len]);
            // A path has a NUL behind it, where there is room for one; an abstract name ends with its last byte.
            let terminated = path.first() != Some(&0) && len < LONGEST - FAMILY;
            if terminated {
                out[FAMILY + len] = 0;
            }
            FAMILY + len + usize::from(terminated)
        }
        Addr::Unnamed => {
            out[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
            FAMILY
        }
    }
}

/// The address for the room that there is in an array: of a UNIX address the family only.
pub fn short(addr: &Addr) -> Address {
    let mut short = Address::default();
    if let Addr::Inet(SocketAddr::V4(v4)) = addr {
        short.0[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        short.0[2..4].copy_from_slice(&v4.port().to_be_bytes());
        short.0[4..8].copy_from_slice(&v4.ip().octets());
        return short;
    }
    let mut long = [0; LONGEST];
    let len = match (write(addr, &mut long), addr) {
        (len, Addr::Inet(_)) => len,
        (_, Addr::Unix(_) | Addr::Unnamed) => FAMILY,
    };
    short.0[..len].copy_from_slice(&long[..len]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_the_same() {
        for text in
            ["127.0.0.1:80", "255.1.2.3:65535", "[::1]:80", "[fe80::1%7]:9", "unix:/run/x", "unix:\0abstract"]
        {
            let addr: Addr = text.parse().unwrap();
            let mut bytes = [0xaa; LONGEST];
            let len = write(&addr, &mut bytes);
            assert_eq!(parse(&bytes[..len]), Ok(addr), "{text}");
        }
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for (family, least) in [(libc::AF_INET, 8), (libc::AF_INET6, 28)] {
            let mut bytes = [0; 28];
            bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
            for len in 0..28 {
                assert_eq!(parse(&bytes[..len]).is_ok(), len >= least, "{family} {len}");
            }
        }
        assert_eq!(parse(&77u16.to_ne_bytes()), Err(Errno(libc::EAFNOSUPPORT)));
    }

    #[test]
    fn a_path_of_any_length_stays_in_its_place() {
        for len in [1, 106, 107, 108, 109, 4000] {
            let path = "p".repeat(len);
            let mut bytes = [0xaa; LONGEST];
            let written = write(&Addr::Unix(Path::new(&path).into()), &mut bytes);
            assert!(written <= LONGEST && written >= FAMILY + len.min(108), "{len}: {written}");
        }
    }
}
