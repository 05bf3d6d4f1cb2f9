//! Records: a header and a payload, or the head of a segment.

use super::{Damage, Geometry, crc32c, get16, get32, get64, put16, put32, put64};

/// Bytes of a record's header.
pub const HEADER_LEN: usize = 48;
/// Bytes that the head of a segment takes, header and payload.
pub const HEAD_LEN: usize = HEADER_LEN + Head::LEN;
/// If fewer bytes of a segment are left, the next record is in the next segment.
pub const MIN_ROOM: usize = 64;

const ENDS_BATCH: u8 = 1;

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The head of a segment.
    Head = 1,
    /// A whole element.
    Whole = 2,
    /// The first fragment of one.
    First = 3,
    /// A further one.
    Middle = 4,
    /// Its last.
    Last = 5,
}

/// A record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    /// The next record begins at the next block.
    pub ends_batch: bool,
    /// Bytes between header and payload.
    pub lead: u16,
    /// Bytes of payload in this record.
    pub length: u32,
    /// Bytes of the whole element.
    pub total: u32,
    /// The log's number.
    pub log: u32,
    /// The segment's sequence number.
    pub sequence: u64,
    /// Where in the segment the header is.
    pub offset: u32,
    /// When it was written.
    pub epoch: u32,
    /// Up to where the log was durable then.
    pub stable: u64,
    /// The checksum of the payload.
    pub payload_crc: u32,
}

/// Where the next record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// At this offset of the same segment.
    At(usize),
    /// Behind the head of the next segment.
    NextSegment,
}

impl Next {
    /// The place at or behind `offset` where a record can be.
    pub fn from(offset: usize, geometry: &Geometry) -> Next {
        if offset + MIN_ROOM > geometry.segment_size { Next::NextSegment } else { Next::At(offset) }
    }
}

impl Header {
    /// Reads a header of the image that `seed` belongs to. Its lengths are within the segment.
    pub fn parse(bytes: &[u8], geometry: &Geometry, seed: u32) -> Result<Header, Damage> {
        let Some(bytes) = bytes.get(..HEADER_LEN) else { return Err(Damage::Short) };
        if get32(bytes, 0) != crc32c(seed, &bytes[4..]) {
            let blank = bytes.iter().all(|byte| *byte == 0);
            return Err(if blank { Damage::Blank } else { Damage::Checksum });
        }
        let kind = match bytes[40] {
            1 => Kind::Head,
            2 => Kind::Whole,
            3 => Kind::First,
            4 => Kind::Middle,
            5 => Kind::Last,
            _ => return Err(Damage::Field("kind")),
        };
        if bytes[41] & !ENDS_BATCH != 0 {
            return Err(Damage::Field("flags"));
        }
        let header = Header {
            kind,
            ends_batch: bytes[41] & ENDS_BATCH != 0,
            lead: get16(bytes, 42),
            length: get32(bytes, 4),
            total: get32(bytes, 8),
            log: get32(bytes, 12),
            sequence: get64(bytes, 16),
            offset: get32(bytes, 24),
            epoch: get32(bytes, 28),
            stable: get64(bytes, 32),
            payload_crc: get32(bytes, 44),
        };
        let end = u64::from(header.offset)
            + (HEADER_LEN as u64)
            + u64::from(header.lead)
            + u64::from(header.length);
        if !header.offset.is_multiple_of(8) || end > geometry.segment_size as u64 {
            return Err(Damage::Field("length"));
        }
        if !header.lead.is_multiple_of(8) {
            return Err(Damage::Field("lead"));
        }
        let whole = matches!(kind, Kind::Head | Kind::Whole);
        if header.length > header.total || whole && header.length != header.total {
            return Err(Damage::Field("total"));
        }
        Ok(header)
    }

    /// Writes the header to the first [`HEADER_LEN`] bytes.
    pub fn emit(&self, bytes: &mut [u8], seed: u32) {
        put32(bytes, 4, self.length);
        put32(bytes, 8, self.total);
        put32(bytes, 12, self.log);
        put64(bytes, 16, self.sequence);
        put32(bytes, 24, self.offset);
        put32(bytes, 28, self.epoch);
        put64(bytes, 32, self.stable);
        bytes[40] = self.kind as u8;
        bytes[41] = if self.ends_batch { ENDS_BATCH } else { 0 };
        put16(bytes, 42, self.lead);
        put32(bytes, 44, self.payload_crc);
        let crc = crc32c(seed, &bytes[4..HEADER_LEN]);
        put32(bytes, 0, crc);
    }

    /// Whether it was written for this place.
    pub fn is_at(&self, log: u32, sequence: u64, offset: usize) -> bool {
        self.log == log && self.sequence == sequence && self.offset as usize == offset
    }

    /// Where the payload begins in the segment.
    pub fn payload_at(&self) -> usize {
        self.offset as usize + HEADER_LEN + self.lead as usize
    }

    /// Where the payload ends in the segment.
    pub fn end(&self) -> usize {
        self.payload_at() + self.length as usize
    }

    /// Where the next record begins.
    pub fn next(&self, geometry: &Geometry) -> Next {
        let aligned =
            if self.ends_batch { geometry.block_up(self.end()) } else { self.end().next_multiple_of(8) };
        Next::from(aligned, geometry)
    }
}

/// The payload of the record that begins a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The segment's place in its log.
    pub ordinal: u64,
    /// The log's head when the segment was taken.
    pub head: u64,
    /// The newest complete checkpoint then.
    pub checkpoint: u64,
}

impl Head {
    /// Bytes of the payload.
    pub const LEN: usize = 24;

    /// Reads the payload, whose checksum the header gives.
    pub fn parse(header: &Header, payload: &[u8], seed: u32) -> Result<Head, Damage> {
        let Some(payload) = payload.get(..Head::LEN) else { return Err(Damage::Short) };
        if header.kind != Kind::Head
            || header.length as usize != Head::LEN
            || header.lead != 0
            || header.offset != 0
        {
            return Err(Damage::Field("head"));
        }
        if payload_crc(seed, payload) != header.payload_crc {
            return Err(Damage::Checksum);
        }
        Ok(Head { ordinal: get64(payload, 0), head: get64(payload, 8), checkpoint: get64(payload, 16) })
    }

    /// The payload.
    pub fn emit(&self) -> [u8; Head::LEN] {
        let mut payload = [0; Head::LEN];
        put64(&mut payload, 0, self.ordinal);
        put64(&mut payload, 8, self.head);
        put64(&mut payload, 16, self.checkpoint);
        payload
    }
}

/// The checksum of a payload, a piece at a time: `sum` is that of the pieces before, the image's seed at first.
#[inline]
pub fn payload_crc(sum: u32, piece: &[u8]) -> u32 {
    crc32c(sum, piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u32 = 0x1234_5678;

    fn header() -> Header {
        Header {
            kind: Kind::First,
            ends_batch: true,
            lead: 4048,
            length: 100,
            total: 300,
            log: 7,
            sequence: 1 << 40,
            offset: 4096,
            epoch: 3,
            stable: 1 << 41,
            payload_crc: 5,
        }
    }

    #[test]
    fn what_is_written_is_read_and_no_flipped_bit_goes_unnoticed() {
        let geometry = Geometry::plan(64 << 20, 4096, None).unwrap();
        let mut bytes = [0; HEADER_LEN];
        header().emit(&mut bytes, SEED);
        assert_eq!(Header::parse(&bytes, &geometry, SEED), Ok(header()));
        for bit in 0..8 * HEADER_LEN {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::parse(&bytes, &geometry, SEED), Err(Damage::Checksum), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Header::parse(&[0; HEADER_LEN], &geometry, SEED), Err(Damage::Blank));
    }

    #[test]
    fn a_record_of_another_image_is_none() {
        let geometry = Geometry::plan(64 << 20, 4096, None).unwrap();
        let mut bytes = [0; HEADER_LEN];
        header().emit(&mut bytes, SEED);
        assert_eq!(Header::parse(&bytes, &geometry, SEED + 1), Err(Damage::Checksum));
    }

    #[test]
    fn lengths_beyond_the_segment_are_refused_although_the_checksum_is_right() {
        let geometry = Geometry::plan(64 << 20, 4096, None).unwrap();
        let mut bytes = [0; HEADER_LEN];
        for (length, offset) in [(u32::MAX, 0), (65536, 8), (0, 65528), (0, u32::MAX - 7), (0, 12)] {
            Header { length, total: u32::MAX, lead: 0, offset, ..header() }.emit(&mut bytes, SEED);
            assert_eq!(
                Header::parse(&bytes, &geometry, SEED),
                Err(Damage::Field("length")),
                "{length} at {offset}"
            );
        }
        Header { total: 99, ..header() }.emit(&mut bytes, SEED);
        assert_eq!(Header::parse(&bytes, &geometry, SEED), Err(Damage::Field("total")));
    }

    #[test]
    fn the_next_record_is_aligned_and_has_room() {
        let geometry = Geometry::plan(64 << 20, 4096, None).unwrap();
        let at = |offset, length, ends_batch| {
            Header { lead: 0, offset, length, ends_batch, ..header() }.next(&geometry)
        };
        assert_eq!(at(0, 1, false), Next::At(56));
        assert_eq!(at(0, 8, false), Next::At(56));
        assert_eq!(at(0, 8, true), Next::At(4096));
        assert_eq!(at(0, 65536 - 64 - 48, false), Next::At(65536 - 64));
        assert_eq!(at(0, 65536 - 64 - 47, false), Next::NextSegment);
        assert_eq!(at(61440, 8, true), Next::NextSegment);
    }
}
