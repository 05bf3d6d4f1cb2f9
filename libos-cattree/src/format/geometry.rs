//! How an image is divided: blocks, checkpoint areas, segments.

use super::checkpoint::{Checkpoint, LogEntry};

/// Smallest and largest block.
const BLOCK: std::ops::RangeInclusive<usize> = 512..=65536;
/// Fewest blocks of a segment.
const MIN_SEGMENT_BLOCKS: usize = 16;
/// Largest segment.
const MAX_SEGMENT: usize = 1 << 30;
/// Fewest segments that are worth an image.
const MIN_SEGMENTS: u64 = 4;
/// Most segments: the checkpoint lists each.
const MAX_SEGMENTS: u64 = 1 << 22;

/// Sizes of an image's parts, in bytes unless they say otherwise. Always consistent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// The unit of writing.
    pub block_size: usize,
    /// What a log takes at a time.
    pub segment_size: usize,
    /// How many segments there are.
    pub segments: u32,
    /// Blocks of one checkpoint area.
    pub checkpoint_blocks: u32,
    /// Most logs.
    pub max_logs: u32,
    /// Most segments that a checkpoint sets aside.
    pub reserve: u32,
}

/// Why an image cannot be divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GeometryError {
    /// Not a power of two, or out of range.
    #[error("block size {0} is not a power of two from 512 to 65536")]
    Block(usize),
    /// Not a power of two, or out of range.
    #[error("segment size {0} is not a power of two from 16 blocks to 1 GiB")]
    Segment(usize),
    /// There is no room.
    #[error(
        "{capacity} bytes are too few: at least {least} are needed with these sizes of block and segment"
    )]
    TooSmall {
        /// Bytes that there are.
        capacity: u64,
        /// Bytes that there should be.
        least: u64,
    },
    /// There are more segments than can be listed.
    #[error("there would be more than {MAX_SEGMENTS} segments: choose a larger segment size")]
    TooMany,
    /// The numbers of an image contradict each other.
    #[error("its sizes do not fit together")]
    Inconsistent,
}

impl Geometry {
    /// Divides `capacity` bytes. Without a `segment_size` there will be about a thousand segments of 64 KiB to 16 MiB.
    pub fn plan(
        capacity: u64,
        block_size: usize,
        segment_size: Option<usize>,
    ) -> Result<Geometry, GeometryError> {
        check_block(block_size)?;
        let segment_size = segment_size.unwrap_or_else(|| {
            let smallest = (64 << 10).max(block_size * MIN_SEGMENT_BLOCKS);
            usize::try_from(capacity / 1024)
                .unwrap_or(MAX_SEGMENT)
                .clamp(smallest, 16 << 20)
                .next_power_of_two()
        });
        check_segment(segment_size, block_size)?;
        let at_most = capacity / segment_size as u64;
        if at_most > MAX_SEGMENTS {
            return Err(GeometryError::TooMany);
        }
        let mut geometry = Geometry::of_segments(block_size, segment_size, at_most as u32);
        let over = geometry.total().saturating_sub(capacity).div_ceil(segment_size as u64);
        geometry.segments = geometry.segments.saturating_sub(over as u32);
        if u64::from(geometry.segments) < MIN_SEGMENTS {
            let least = Geometry::of_segments(block_size, segment_size, MIN_SEGMENTS as u32).total();
            return Err(GeometryError::TooSmall { capacity, least });
        }
        geometry.reserve = geometry.reserve.min(geometry.segments);
        Ok(geometry)
    }

    fn of_segments(block_size: usize, segment_size: usize, segments: u32) -> Geometry {
        let max_logs = segments.clamp(16, 1024);
        let reserve = ((64 << 20) / segment_size).clamp(4, 64) as u32;
        let longest = Checkpoint::HEADER_LEN
            + 4 * (reserve as usize + 1)
            + max_logs as usize * LogEntry::MAX_LEN
            + segments as usize * LogEntry::SEGMENT_LEN;
        let checkpoint_blocks = longest.div_ceil(block_size) as u32;
        Geometry { block_size, segment_size, segments, checkpoint_blocks, max_logs, reserve }
    }

    /// Whether the numbers, which come from an image of `capacity` bytes, are possible.
    pub fn check(&self, capacity: u64) -> Result<(), GeometryError> {
        check_block(self.block_size)?;
        check_segment(self.segment_size, self.block_size)?;
        let known = u64::from(self.segments) <= MAX_SEGMENTS
            && u64::from(self.segments) >= MIN_SEGMENTS
            && (1..=self.segments).contains(&self.reserve)
            && (1..=1 << 20).contains(&self.max_logs)
            && u64::from(self.checkpoint_blocks) * self.block_size as u64 <= 1 << 30;
        if !known || self.checkpoint_blocks == 0 {
            return Err(GeometryError::Inconsistent);
        }
        if self.total() > capacity {
            return Err(GeometryError::TooSmall { capacity, least: self.total() });
        }
        Ok(())
    }

    /// Bytes of the whole image.
    pub fn total(&self) -> u64 {
        self.segment_at(0) + u64::from(self.segments) * self.segment_size as u64
    }

    /// Where a superblock slot is.
    pub fn superblock_at(&self, generation: u64) -> u64 {
        generation % 2 * self.block_size as u64
    }

    /// Bytes of a checkpoint area.
    pub fn checkpoint_len(&self) -> usize {
        self.checkpoint_blocks as usize * self.block_size
    }

    /// Where the area of a checkpoint is.
    pub fn checkpoint_at(&self, number: u64) -> u64 {
        2 * self.block_size as u64 + number % 2 * self.checkpoint_len() as u64
    }

    /// Where a segment is.
    pub fn segment_at(&self, index: u32) -> u64 {
        2 * (self.block_size + self.checkpoint_len()) as u64 + u64::from(index) * self.segment_size as u64
    }

    /// The ordinal and the offset that a position means.
    pub fn split(&self, position: u64) -> (u64, usize) {
        (position / self.segment_size as u64, (position % self.segment_size as u64) as usize)
    }

    /// The position of an offset in the segment of an ordinal.
    pub fn position(&self, ordinal: u64, offset: usize) -> u64 {
        ordinal * self.segment_size as u64 + offset as u64
    }

    /// The next multiple of the block size.
    pub fn block_up(&self, offset: usize) -> usize {
        offset.next_multiple_of(self.block_size)
    }
}

fn check_block(block_size: usize) -> Result<(), GeometryError> {
    if !block_size.is_power_of_two() || !BLOCK.contains(&block_size) {
        return Err(GeometryError::Block(block_size));
    }
    Ok(())
}

fn check_segment(segment_size: usize, block_size: usize) -> Result<(), GeometryError> {
    let fits = (block_size * MIN_SEGMENT_BLOCKS..=MAX_SEGMENT).contains(&segment_size);
    if !segment_size.is_power_of_two() || !fits {
        return Err(GeometryError::Segment(segment_size));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_fits_and_is_possible() {
        for block_size in [512, 4096, 65536] {
            for capacity in [6 << 20, 64 << 20, (1 << 30) + 12345, 1 << 34, 1 << 40] {
                let Ok(geometry) = Geometry::plan(capacity, block_size, None) else {
                    assert!(
                        block_size == 65536 && capacity < 64 << 20,
                        "{capacity} in blocks of {block_size}"
                    );
                    continue;
                };
                assert_eq!(geometry.check(capacity), Ok(()), "{geometry:?}");
                assert!(geometry.total() <= capacity);
                assert!(
                    geometry.total() + 2 * geometry.segment_size as u64 + (1 << 20) > capacity,
                    "{geometry:?} of {capacity}"
                );
            }
        }
    }

    #[test]
    fn what_is_too_small_says_what_would_do() {
        let Err(GeometryError::TooSmall { least, .. }) = Geometry::plan(100_000, 4096, None) else {
            panic!()
        };
        assert!(Geometry::plan(least, 4096, Some(64 << 10)).is_ok());
        assert_eq!(Geometry::plan(1 << 30, 1000, None), Err(GeometryError::Block(1000)));
        assert_eq!(Geometry::plan(1 << 30, 4096, Some(32 << 10)), Err(GeometryError::Segment(32 << 10)));
    }
}
