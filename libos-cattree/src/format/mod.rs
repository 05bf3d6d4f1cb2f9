//! What lies on the device: `docs/log-format.md` in code.
//!
//! Everything read is parsed here, once, into plain values that are in range; everything written is emitted here. Nothing
//! here does I/O, and no bytes, however hostile, make it panic.

mod checkpoint;
mod geometry;
mod record;
mod superblock;

pub use self::checkpoint::{Checkpoint, LogEntry, Segment};
pub use self::geometry::{Geometry, GeometryError};
pub use self::record::{HEAD_LEN, HEADER_LEN, Head, Header, Kind, MIN_ROOM, Next, payload_crc};
pub use self::superblock::{SUPERBLOCK_LEN, Superblock};

use crc_fast::{CrcAlgorithm, Digest};

/// Why something cannot be what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// There is nothing.
    #[error("nothing was ever written here")]
    Blank,
    /// It does not begin as it should.
    #[error("it does not begin with the right signature")]
    Magic,
    /// A newer format.
    #[error("it is of format version {0}, and this program knows version 1 only")]
    Version(u32),
    /// The checksum is wrong.
    #[error("its checksum is wrong")]
    Checksum,
    /// It belongs elsewhere.
    #[error("it belongs to another place, log or time")]
    Misplaced,
    /// A number is out of range, although the checksum is right.
    #[error("its field `{0}` is out of range")]
    Field(&'static str),
    /// It goes on beyond what was given.
    #[error("it is cut off")]
    Short,
}

/// CRC-32C (RFC 3720 §12.1, appendix B.4) of one more piece: `sum` is that of the pieces before, or what the checksum begins with.
#[inline]
pub(crate) fn crc32c(sum: u32, piece: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!sum));
    digest.update(piece);
    digest.finalize() as u32
}
/// Nothing that is counted comes near this, so that numbers below it can be added to. What is not below it was not
/// written by a store.
const UNREACHABLE: u64 = 1 << 62;

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

fn get64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(0, &[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(0, &rising), 0x46dd_794e);
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        let large: Vec<u8> = (0..70_000_u32).map(|byte| (byte * 7) as u8).collect();
        let (front, back) = large.split_at(4097);
        assert_eq!(crc32c(crc32c(5, front), back), crc32c(5, &large));
    }
}
