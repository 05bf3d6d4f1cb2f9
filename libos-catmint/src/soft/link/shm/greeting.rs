//! The one message that each side of a new path sends: who it is, and how it synchronizes. The side that connects attaches the memory.
//!
//! 32 bytes: magic and version (8), base-2 logarithm of the slots (1), whether this side orders its words by barriers (1),
//! 4 or 6 (1), zero (1), the address (16, an IPv4 address in the first four), zeros (4). Whatever is sent later is a single byte,
//! which wakes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a greeting.
pub(super) const GREETING_BYTES: usize = 32;

/// Base-2 logarithms of slots in a lane that are accepted: 2 to 1024 slots, at most 9 MiB for a path.
pub(super) const LOG2: std::ops::RangeInclusive<u8> = 1..=10;

const MAGIC: [u8; 8] = *b"DEMIshm1";

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Greeting {
    /// What the side that connects has chosen.
    pub(super) log2: u8,
    /// Before this side sleeps it makes all processors that run a program like itself pass a barrier.
    pub(super) barriers: bool,
    /// Who speaks, by its own word.
    pub(super) address: IpAddr,
}

impl Greeting {
    pub(super) fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = self.log2;
        bytes[9] = self.barriers.into();
        match self.address {
            IpAddr::V4(address) => {
                bytes[10] = 4;
                bytes[12..16].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                bytes[10] = 6;
                bytes[12..28].copy_from_slice(&address.octets());
            }
        }
        bytes
    }

    /// What a peer has sent.
    pub(super) fn decode(bytes: &[u8]) -> Result<Greeting, &'static str> {
        let Ok(bytes) = <[u8; GREETING_BYTES]>::try_from(bytes) else {
            return Err("a greeting of another size");
        };
        if bytes[..8] != MAGIC {
            return Err("a greeting of another protocol or version");
        }
        if !LOG2.contains(&bytes[8]) || bytes[9] > 1 {
            return Err("a greeting with values out of range");
        }
        let octets: [u8; 16] = bytes[12..28].try_into().unwrap_or_default();
        let address = match bytes[10] {
            4 => IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])),
            6 => IpAddr::V6(Ipv6Addr::from(octets)),
            _ => return Err("a greeting from an address of no known family"),
        };
        Ok(Greeting { log2: bytes[8], barriers: bytes[9] == 1, address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_understood_and_no_other() {
        for address in ["10.0.0.1", "fd00::7"].map(|text| text.parse().unwrap()) {
            let greeting = Greeting { log2: 8, barriers: true, address };
            let bytes = greeting.encode();
            assert_eq!(Greeting::decode(&bytes), Ok(greeting));
            assert!(Greeting::decode(&bytes[..31]).is_err() && Greeting::decode(&[]).is_err());
            for (at, value) in [(0, 0), (7, b'2'), (8, 0), (8, 11), (9, 2), (10, 5)] {
                let mut bytes = bytes;
                bytes[at] = value;
                assert!(Greeting::decode(&bytes).is_err(), "byte {at} is {value}");
            }
        }
    }
}
