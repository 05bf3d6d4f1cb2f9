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
