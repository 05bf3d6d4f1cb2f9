//! By which receive queue a TCP connection comes, where the NIC's driver tells how it spreads them.
//!
//! The rule is that of receive-side scaling: Toeplitz' hash of both addresses and both ports, under a key, is looked up in
//! a table of queues. It is a preference and no promise, as an administrator may change key and table at any time.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use super::sys::{ETHTOOL_GRXFH, InterfaceRequest};

/// `RXH_IP_SRC`, `RXH_IP_DST`, `RXH_L4_B_0_1`, `RXH_L4_B_2_3`: what is hashed.
const BOTH_ENDS: u32 = 0xf0;
/// `TCP_V4_FLOW` and `TCP_V6_FLOW`.
const TCP_FLOWS: [u32; 2] = [1, 5];
/// Words of `struct ethtool_rxfh` before the table.
const HEAD: usize = 6;
/// `ETH_RSS_HASH_TOP`.
const TOEPLITZ: u8 = 1;
/// Bytes of the shortest key that suffices for two IPv6 addresses and two ports.
const KEY: usize = 40;

/// How connections are spread over queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    key: Vec<u8>,
    table: Vec<u32>,
    /// Whether it is so for IPv4, and for IPv6.
    families: [bool; 2],
}

impl Spread {
    /// Asks the driver. `None`: it does not say, or does it in another way.
    pub(super) fn ask(request: &mut InterfaceRequest, socket: BorrowedFd<'_>) -> Option<Spread> {
        let mut hashes_ends = |flow| {
            let mut words = [0; 64];
            (words[0], words[1]) = (ETHTOOL_GRXFH, flow);
            let asked = request.ask_driver(socket, &mut words);
            // A number of 64 bits, of which all that matters lies in one half.
            let fields = u64::from(words[2]) | u64::from(words[3]);
            asked.is_ok() && fields == BOTH_ENDS.into()
        };
        let families = TCP_FLOWS.map(&mut hashes_ends);
        if families == [false; 2] {
            return None;
        }
        Spread::parse(&request.ask_spread(socket).ok()?, families)
    }

    /// From a `struct ethtool_rxfh`.
    fn parse(words: &[u32], families: [bool; 2]) -> Option<Spread> {
        let (head, rest) = words.split_at_checked(HEAD)?;
        let [function, transform, ..] = head[4].to_ne_bytes();
        let (table, rest) = rest.split_at_checked(head[2] as usize)?;
        let key: Vec<u8> = rest.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let key = key.get(..head[3] as usize)?.to_vec();
        let known = function == TOEPLITZ && transform == 0 && !table.is_empty() && key.len() >= KEY;
        known.then(|| Spread { key, table: table.to_vec(), families })
    }

    /// The queue by which what `peer` sends to `local` comes. `None`: that is not known.
    pub(crate) fn queue(&self, local: SocketAddr, peer: SocketAddr) -> Option<u32> {
        let mut input = [0; 36];
        let mut len = 0;
        let mut put = |bytes: &[u8]| {
            input[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        for addr in [peer.ip(), local.ip()] {
            match addr {
                IpAddr::V4(addr) => put(&addr.octets()),
                IpAddr::V6(addr) => put(&addr.octets()),
            }
        }
        put(&peer.port().to_be_bytes());
        put(&local.port().to_be_bytes());
        let known = self.families[usize::from(local.is_ipv6())] && local.is_ipv4() == peer.is_ipv4();
        known.then(|| self.table[toeplitz(&self.key, &input[..len]) as usize % self.table.len()])
    }
}

/// For each bit of the input that is set, the 32 bits of the key that begin at its place. The key is longer than the input
/// by four bytes at least.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let mut hash = 0;
    for (at, byte) in input.iter().enumerate() {
        let window = key.get(at..at + 5).and_then(|window| window.first_chunk::<5>());
        let Some([a, b, c, d, e]) = window.copied() else { break };
        let window = u64::from_be_bytes([0, 0, 0, a, b, c, d, e]);
        for bit in (0..8).filter(|bit| byte >> (7 - bit) & 1 == 1) {
            hash ^= (window >> (8 - bit)) as u32;
        }
    }
    hash
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The key of the verification suite that Microsoft publishes with the definition of receive-side scaling.
    const SUITE: [u8; KEY] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    /// What a driver says that has this key and this table.
    fn answer(table: &[u32]) -> Vec<u32> {
        let head = [0x46, 0, table.len() as u32, KEY as u32, u32::from_ne_bytes([TOEPLITZ, 0, 0, 0]), 0];
        let key = SUITE.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word));
        head.into_iter().chain(table.iter().copied()).chain(key).collect()
    }

    /// A NIC with as many queues, for IPv4 and IPv6.
    pub(crate) fn spread(queues: u32) -> Spread {
        let table: Vec<u32> = (0..128).map(|at| at % queues).collect();
        Spread::parse(&answer(&table), [true; 2]).unwrap()
    }

    #[test]
    fn the_hash_is_that_of_the_verification_suite() {
        let identity: Vec<u32> = (0..1 << 16).collect();
        let all = Spread::parse(&answer(&identity), [true; 2]).unwrap();
        for (peer, local, hash) in [
            ("66.9.149.187:2794", "161.142.100.80:1766", 0x51cc_c178_u32),
            ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626_b0ea),
            ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x4020_7d3d),
        ] {
            let queue = all.queue(local.parse().unwrap(), peer.parse().unwrap());
            assert_eq!(queue, Some(hash & 0xffff), "{peer} to {local}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let (v4, v6) = ("10.0.0.1:80".parse().unwrap(), "[fd00::1]:80".parse().unwrap());
        let only_v6 = Spread::parse(&answer(&[0, 1]), [false, true]).unwrap();
        assert!(only_v6.queue(v4, v4).is_none() && only_v6.queue(v6, v6).is_some());
        assert!(only_v6.queue(v6, v4).is_none());
        let whole = answer(&[0, 1]);
        for cut in 0..whole.len() {
            assert_eq!(Spread::parse(&whole[..cut], [true; 2]), None, "{cut}");
        }
        for (word, value) in [(2, 0), (2, u32::MAX), (3, 39), (3, u32::MAX), (4, 0), (4, 2), (4, 0x0101)] {
            let mut other = whole.clone();
            other[word] = if word == 4 { u32::from_le(value) } else { value };
            assert_eq!(Spread::parse(&other, [true; 2]), None, "{word} {value}");
        }
    }
}
