//! The superblock: geometry, identity, and which checkpoint is complete.

use super::{Damage, Geometry, UNREACHABLE, crc32c, get32, get64, put32, put64};

/// Bytes of a superblock that mean something.
pub const SUPERBLOCK_LEN: usize = 128;

const MAGIC: &[u8; 8] = b"DEMILOGS";
const VERSION: u32 = 1;
const CRC_AT: usize = 124;

/// One slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The image's division. Checked against the device by whoever opens it.
    pub geometry: Geometry,
    /// Random, from the making of the image.
    pub identity: [u8; 16],
    /// Counts writes of the superblock.
    pub generation: u64,
    /// The newest complete checkpoint.
    pub checkpoint: u64,
}

impl Superblock {
    /// Reads a slot from the start of its block.
    pub fn parse(bytes: &[u8]) -> Result<Superblock, Damage> {
        let Some(bytes) = bytes.get(..SUPERBLOCK_LEN) else { return Err(Damage::Short) };
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(Damage::Blank);
        }
        if &bytes[..8] != MAGIC {
            return Err(Damage::Magic);
        }
        if get32(bytes, CRC_AT) != crc32c(0, &bytes[..CRC_AT]) {
            return Err(Damage::Checksum);
        }
        if get32(bytes, 8) != VERSION {
            return Err(Damage::Version(get32(bytes, 8)));
        }
        let (generation, checkpoint) = (get64(bytes, 56), get64(bytes, 64));
        if generation.max(checkpoint) >= UNREACHABLE {
            return Err(Damage::Field("generation"));
        }
        Ok(Superblock {
            geometry: Geometry {
                block_size: get32(bytes, 12) as usize,
                segment_size: get32(bytes, 16) as usize,
                segments: get32(bytes, 20),
                checkpoint_blocks: get32(bytes, 24),
                max_logs: get32(bytes, 28),
                reserve: get32(bytes, 32),
            },
            identity: bytes[40..56].try_into().expect("sixteen bytes were taken"),
            generation,
            checkpoint,
        })
    }

    /// The part of the identity that checkpoints bear.
    pub fn identity_half(&self) -> u64 {
        u64::from_le_bytes(self.identity[..8].try_into().expect("eight bytes were taken"))
    }

    /// What every other checksum of the image begins with, so that nothing of another image, which may have been in
    /// the same place, passes for a part of this one.
    pub fn seed(&self) -> u32 {
        crc32c(0, &self.identity)
    }

    /// Fills a block, which is at least [`SUPERBLOCK_LEN`] long.
    pub fn emit(&self, block: &mut [u8]) {
        block.fill(0);
        let Geometry { block_size, segment_size, segments, checkpoint_blocks, max_logs, reserve } =
            self.geometry;
        block[..8].copy_from_slice(MAGIC);
        put32(block, 8, VERSION);
        put32(block, 12, block_size as u32);
        put32(block, 16, segment_size as u32);
        put32(block, 20, segments);
        put32(block, 24, checkpoint_blocks);
        put32(block, 28, max_logs);
        put32(block, 32, reserve);
        block[40..56].copy_from_slice(&self.identity);
        put64(block, 56, self.generation);
        put64(block, 64, self.checkpoint);
        let crc = crc32c(0, &block[..CRC_AT]);
        put32(block, CRC_AT, crc);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_no_flipped_bit_goes_unnoticed() {
        let geometry = Geometry::plan(1 << 30, 4096, None).unwrap();
        let superblock = Superblock { geometry, identity: [7; 16], generation: 9, checkpoint: 5 };
        let mut block = [0xFF; 4096];
        superblock.emit(&mut block);
        assert_eq!(Superblock::parse(&block), Ok(superblock));
        for bit in 0..8 * SUPERBLOCK_LEN {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::parse(&block).is_err(), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        for far in [
            Superblock { generation: 1 << 62, ..superblock },
            Superblock { checkpoint: u64::MAX, ..superblock },
        ] {
            far.emit(&mut block);
            assert_eq!(Superblock::parse(&block), Err(Damage::Field("generation")));
        }
        assert_eq!(Superblock::parse(&[0; 4096]), Err(Damage::Blank));
        assert_eq!(Superblock::parse(&block[..100]), Err(Damage::Short));
    }
}
