//! The checkpoint: all logs, their segments, and the segments that they will be given next.

use super::{Damage, Geometry, UNREACHABLE, crc32c, get16, get32, get64, put16, put32, put64};

const MAGIC: &[u8; 8] = b"DEMICKPT";

/// The state of all logs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    /// Rises by one with each.
    pub number: u64,
    /// First half of the image's identity.
    pub identity: u64,
    /// Highest epoch that there was.
    pub epoch: u32,
    /// Next sequence number of a segment.
    pub next_sequence: u64,
    /// Next log's number.
    pub next_log: u32,
    /// Nothing was written after this checkpoint.
    pub closed: bool,
    /// Segments that will be given away next, in order.
    pub set_aside: Vec<u32>,
    /// In rising order of numbers.
    pub logs: Vec<LogEntry>,
}

/// One log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogEntry {
    /// Never used for another.
    pub id: u32,
    /// 1 to 255 bytes.
    pub name: Vec<u8>,
    /// Position of the oldest element.
    pub head: u64,
    /// Everything before is valid and durable.
    pub tail: u64,
    /// Of what is written behind `tail`.
    pub epoch: u32,
    /// Ordinal of the first segment.
    pub first_ordinal: u64,
    /// In order.
    pub segments: Vec<Segment>,
}

/// A segment that a log has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Which.
    pub index: u32,
    /// Its sequence number.
    pub sequence: u64,
}

impl LogEntry {
    const FIXED_LEN: usize = 40;
    /// Longest name.
    pub const MAX_NAME: usize = 255;
    /// Most bytes that a log takes, but for its segments.
    pub const MAX_LEN: usize = LogEntry::FIXED_LEN + 256;
    /// Bytes for each segment.
    pub const SEGMENT_LEN: usize = 16;

    fn len(&self) -> usize {
        LogEntry::FIXED_LEN
            + self.name.len().next_multiple_of(8)
            + LogEntry::SEGMENT_LEN * self.segments.len()
    }

    /// Whether its numbers agree: the head is not behind the tail, and both are in its segments.
    fn is_sound(&self, geometry: &Geometry) -> bool {
        let Some(end) = self.first_ordinal.checked_add(self.segments.len() as u64) else { return false };
        let Some(last) = end.checked_mul(geometry.segment_size as u64) else { return false };
        if last >= UNREACHABLE {
            return false;
        }
        let first = self.first_ordinal * geometry.segment_size as u64;
        (first..=last).contains(&self.head)
            && (self.head..=last).contains(&self.tail)
            && self.head.is_multiple_of(8)
            && self.tail.is_multiple_of(geometry.block_size as u64)
    }
}

impl Checkpoint {
    /// Bytes before the first log.
    pub const HEADER_LEN: usize = 64;

    /// Bytes that it takes.
    #[allow(clippy::len_without_is_empty, reason = "no checkpoint is empty")]
    pub fn len(&self) -> usize {
        let aside = (4 * self.set_aside.len()).next_multiple_of(8);
        Checkpoint::HEADER_LEN + aside + self.logs.iter().map(LogEntry::len).sum::<usize>()
    }

    /// Writes it to the front of `out`, which is zero and at least [`len`](Checkpoint::len) long.
    pub fn emit(&self, out: &mut [u8], seed: u32) {
        let len = self.len();
        out[..8].copy_from_slice(MAGIC);
        put32(out, 12, len as u32);
        put64(out, 16, self.number);
        put64(out, 24, self.identity);
        put32(out, 32, self.epoch);
        put32(out, 36, self.logs.len() as u32);
        put64(out, 40, self.next_sequence);
        put32(out, 48, self.next_log);
        put32(out, 52, self.set_aside.len() as u32);
        put32(out, 56, u32::from(self.closed));
        let mut at = Checkpoint::HEADER_LEN;
        for (place, index) in self.set_aside.iter().enumerate() {
            put32(out, at + 4 * place, *index);
        }
        at += (4 * self.set_aside.len()).next_multiple_of(8);
        for log in &self.logs {
            put32(out, at, log.id);
            put32(out, at + 4, log.segments.len() as u32);
            put64(out, at + 8, log.head);
            put64(out, at + 16, log.tail);
            put64(out, at + 24, log.first_ordinal);
            put32(out, at + 32, log.epoch);
            put16(out, at + 36, log.name.len() as u16);
            at += LogEntry::FIXED_LEN;
            out[at..at + log.name.len()].copy_from_slice(&log.name);
            at += log.name.len().next_multiple_of(8);
            for segment in &log.segments {
                put64(out, at, segment.sequence);
                put32(out, at + 8, segment.index);
                at += LogEntry::SEGMENT_LEN;
            }
        }
        let crc = crc32c(seed, &out[12..len]);
        put32(out, 8, crc);
    }

    /// How long the checkpoint is that begins with `bytes`, at least [`HEADER_LEN`](Checkpoint::HEADER_LEN) of them.
    pub fn declared_len(bytes: &[u8], geometry: &Geometry) -> Result<usize, Damage> {
        let Some(bytes) = bytes.get(..Checkpoint::HEADER_LEN) else { return Err(Damage::Short) };
        if &bytes[..8] != MAGIC {
            let blank = bytes.iter().all(|byte| *byte == 0);
            return Err(if blank { Damage::Blank } else { Damage::Magic });
        }
        let len = get32(bytes, 12) as usize;
        if !(Checkpoint::HEADER_LEN..=geometry.checkpoint_len()).contains(&len) {
            return Err(Damage::Field("length"));
        }
        Ok(len)
    }

    /// Reads a checkpoint. Every index is a segment's, no segment is used twice, positions are in their log's segments.
    pub fn parse(bytes: &[u8], geometry: &Geometry, seed: u32) -> Result<Checkpoint, Damage> {
        let len = Checkpoint::declared_len(bytes, geometry)?;
        let Some(bytes) = bytes.get(..len) else { return Err(Damage::Short) };
        if get32(bytes, 8) != crc32c(seed, &bytes[12..]) {
            return Err(Damage::Checksum);
        }
        let mut used = vec![false; geometry.segments as usize];
        let mut take = |index: u32| match used.get_mut(index as usize) {
            Some(used) if !*used => {
                *used = true;
                Ok(index)
            }
            _ => Err(Damage::Field("segment")),
        };
        let mut checkpoint = Checkpoint {
            number: get64(bytes, 16),
            identity: get64(bytes, 24),
            epoch: get32(bytes, 32),
            next_sequence: get64(bytes, 40),
            next_log: get32(bytes, 48),
            closed: get32(bytes, 56) == 1,
            ..Checkpoint::default()
        };
        if checkpoint.number.max(checkpoint.next_sequence) >= UNREACHABLE {
            return Err(Damage::Field("number"));
        }
        let (logs, aside) = (get32(bytes, 36), get32(bytes, 52));
        if logs > geometry.max_logs {
            return Err(Damage::Field("logs"));
        }
        if aside > geometry.reserve {
            return Err(Damage::Field("set aside"));
        }
        let mut rest = Rest(&bytes[Checkpoint::HEADER_LEN..]);
        let indices = rest.take((4 * aside as usize).next_multiple_of(8))?;
        for place in 0..aside as usize {
            checkpoint.set_aside.push(take(get32(indices, 4 * place))?);
        }
        for _ in 0..logs {
            let fixed = rest.take(LogEntry::FIXED_LEN)?;
            let name_len = get16(fixed, 36) as usize;
            if !(1..=LogEntry::MAX_NAME).contains(&name_len) {
                return Err(Damage::Field("name"));
            }
            let name = rest.take(name_len.next_multiple_of(8))?[..name_len].to_vec();
            let count = get32(fixed, 4) as usize;
            if count > geometry.segments as usize {
                return Err(Damage::Field("segments"));
            }
            let mut segments = Vec::with_capacity(count);
            for each in rest.take(count * LogEntry::SEGMENT_LEN)?.chunks_exact(LogEntry::SEGMENT_LEN) {
                let segment = Segment { index: take(get32(each, 8))?, sequence: get64(each, 0) };
                if segment.sequence >= checkpoint.next_sequence {
                    return Err(Damage::Field("sequence number"));
                }
                segments.push(segment);
            }
            let log = LogEntry {
                id: get32(fixed, 0),
                name,
                head: get64(fixed, 8),
                tail: get64(fixed, 16),
                epoch: get32(fixed, 32),
                first_ordinal: get64(fixed, 24),
                segments,
            };
            let rising = checkpoint.logs.last().is_none_or(|before| before.id < log.id);
            if !log.is_sound(geometry)
                || !rising
                || log.id >= checkpoint.next_log
                || log.epoch > checkpoint.epoch
                || log.segments.iter().any(|segment| segment.sequence >= checkpoint.next_sequence)
            {
                return Err(Damage::Field("log"));
            }
            checkpoint.logs.push(log);
        }
        if !rest.0.is_empty() {
            return Err(Damage::Field("length"));
        }
        Ok(checkpoint)
    }
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let Some((taken, rest)) = self.0.split_at_checked(len) else { return Err(Damage::Short) };
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        let segment = |index, sequence| Segment { index, sequence };
        Checkpoint {
            number: 12,
            identity: 99,
            epoch: 4,
            next_sequence: 31,
            next_log: 8,
            closed: true,
            set_aside: vec![9, 3, 11],
            logs: vec![
                LogEntry { id: 1, name: b"a".to_vec(), ..LogEntry::default() },
                LogEntry {
                    id: 7,
                    name: b"orders/2026".to_vec(),
                    head: 5 * 65536 + 80,
                    tail: 6 * 65536 + 8192,
                    epoch: 4,
                    first_ordinal: 5,
                    segments: vec![segment(2, 17), segment(30, 30)],
                },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read_and_no_flipped_bit_goes_unnoticed() {
        let geometry = Geometry::plan(8 << 20, 4096, None).unwrap();
        let mut bytes = vec![0; geometry.checkpoint_len()];
        sample().emit(&mut bytes, 5);
        assert_eq!(Checkpoint::parse(&bytes, &geometry, 5), Ok(sample()));
        assert_eq!(Checkpoint::parse(&bytes[..sample().len() - 1], &geometry, 5), Err(Damage::Short));
        for bit in 0..8 * sample().len() {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::parse(&bytes, &geometry, 5).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused_although_the_checksum_is_right() {
        let geometry = Geometry::plan(8 << 20, 4096, None).unwrap();
        let spoil: [fn(&mut Checkpoint); 12] = [
            |c| c.logs[1].segments[0].sequence = u64::MAX,
            |c| c.set_aside[0] = 2,
            |c| c.logs[1].segments[0].index = geometry_segments(),
            |c| c.logs[1].tail = 9 * 65536,
            |c| c.logs[1].head = 0,
            |c| c.logs[0].id = 7,
            |c| c.next_log = 7,
            |c| c.logs[1].epoch = 5,
            |c| c.number = u64::MAX,
            |c| c.next_sequence = 1 << 62,
            |c| c.next_sequence = 30,
            |c| {
                let far = (1 << 62) / 65536 - 1;
                let log = &mut c.logs[1];
                (log.first_ordinal, log.head, log.tail) = (far, far << 16, far << 16);
            },
        ];
        fn geometry_segments() -> u32 {
            Geometry::plan(8 << 20, 4096, None).unwrap().segments
        }
        for (which, spoil) in spoil.into_iter().enumerate() {
            let mut checkpoint = sample();
            spoil(&mut checkpoint);
            let mut bytes = vec![0; geometry.checkpoint_len()];
            checkpoint.emit(&mut bytes, 5);
            assert!(
                matches!(Checkpoint::parse(&bytes, &geometry, 5), Err(Damage::Field(_))),
                "spoiled by {which}"
            );
        }
    }
}
