//! A second reader of images, written from `docs/log-format.md` alone: what it finds, and what the store finds, must agree.
//!
//! It knows no I/O, no speed and no recovery: an image in memory goes in, elements and their positions come out.

use std::collections::BTreeMap;

/// An element and where it lies.
pub(crate) type Placed = (u64, Vec<u8>);

/// Why an image cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Superblock,
    Checkpoint,
    /// A record in the middle of this log.
    Damaged,
}

struct Reader<'a> {
    image: &'a [u8],
    seed: u32,
    block: usize,
    segment: usize,
    first_segment: usize,
}

struct Log {
    name: String,
    number: u32,
    head: u64,
    tail: u64,
    first: u64,
    epoch: u32,
    /// Indices and sequence numbers.
    segments: Vec<(usize, u64)>,
}

/// A record, whose checksums are right and which is at its place.
struct Record<'a> {
    kind: u8,
    ends: bool,
    total: usize,
    epoch: u32,
    payload: &'a [u8],
    /// Where the next one is to be sought.
    next: u64,
}

/// The elements of all logs.
pub(crate) fn read(image: &[u8]) -> Result<BTreeMap<String, Vec<Placed>>, Unreadable> {
    let superblock = superblock(image).ok_or(Unreadable::Superblock)?;
    let block = u32_at(superblock, 12) as usize;
    let area = u32_at(superblock, 24) as usize * block;
    let reader = Reader {
        image,
        seed: crc32c::crc32c(&superblock[40..56]),
        block,
        segment: u32_at(superblock, 16) as usize,
        first_segment: 2 * block + 2 * area,
    };
    let checkpoint = [0, 1]
        .into_iter()
        .filter_map(|which| reader.checkpoint(which, area, &superblock[40..48]))
        .max_by_key(|checkpoint| u64_at(checkpoint, 16))
        .filter(|checkpoint| u64_at(checkpoint, 16) >= u64_at(superblock, 64))
        .ok_or(Unreadable::Checkpoint)?;
    let aside: Vec<usize> = (0..u32_at(checkpoint, 52) as usize)
        .map(|place| u32_at(checkpoint, 64 + 4 * place) as usize)
        .collect();
    let mut logs = logs(checkpoint, (4 * aside.len()).next_multiple_of(8));
    let closed = u32_at(checkpoint, 56) == 1;
    if !closed {
        for index in aside {
            reader.adopt(&mut logs, index, u64_at(checkpoint, 40));
        }
    }
    logs.iter().map(|log| Ok((log.name.clone(), reader.elements(log, closed)?))).collect()
}

fn superblock(image: &[u8]) -> Option<&[u8]> {
    let valid = |at: usize, size: Option<usize>| {
        let slot = image.get(at..at + 128)?;
        let right = &slot[..8] == b"DEMILOGS"
            && u32_at(slot, 124) == crc32c::crc32c(&slot[..124])
            && u32_at(slot, 8) == 1
            && size.is_none_or(|size| size == u32_at(slot, 12) as usize);
        right.then_some(slot)
    };
    let sizes = (9..=16).map(|shift| 1 << shift);
    let slots = [(0, None)].into_iter().chain(sizes.map(|size| (size, Some(size))));
    slots.filter_map(|(at, size)| valid(at, size)).max_by_key(|slot| u64_at(slot, 56))
}

fn logs(checkpoint: &[u8], aside: usize) -> Vec<Log> {
    let mut at = 64 + aside;
    let mut logs = Vec::new();
    for _ in 0..u32_at(checkpoint, 36) {
        let name_len = usize::from(u16::from_le_bytes([checkpoint[at + 36], checkpoint[at + 37]]));
        let name = String::from_utf8_lossy(&checkpoint[at + 40..at + 40 + name_len]).into_owned();
        let mut log = Log {
            name,
            number: u32_at(checkpoint, at),
            head: u64_at(checkpoint, at + 8),
            tail: u64_at(checkpoint, at + 16),
            first: u64_at(checkpoint, at + 24),
            epoch: u32_at(checkpoint, at + 32),
            segments: Vec::new(),
        };
        let count = u32_at(checkpoint, at + 4);
        at += 40 + name_len.next_multiple_of(8);
        for _ in 0..count {
            log.segments.push((u32_at(checkpoint, at + 8) as usize, u64_at(checkpoint, at)));
            at += 16;
        }
        logs.push(log);
    }
    logs
}

impl<'a> Reader<'a> {
    fn checkpoint(&self, which: usize, area: usize, identity: &[u8]) -> Option<&'a [u8]> {
        let bytes = self.image.get(2 * self.block + which * area..)?.get(..area)?;
        let len = u32_at(bytes, 12) as usize;
        let right = &bytes[..8] == b"DEMICKPT"
            && (64..=area).contains(&len)
            && u32_at(bytes, 8) == crc32c::crc32c_append(self.seed, &bytes[12..len])
            && &bytes[24..32] == identity
            && u64_at(bytes, 16) % 2 == which as u64;
        right.then(|| &bytes[..len])
    }

    fn adopt(&self, logs: &mut [Log], index: usize, next: u64) {
        let bytes = self.segment(index);
        let (number, sequence) = (u32_at(bytes, 12), u64_at(bytes, 16));
        let Some(log) = logs.iter_mut().find(|log| log.number == number) else { return };
        let Some(head) = self.record(log.number, index, sequence, log.first, 0) else { return };
        let ordinal = log.first + log.segments.len() as u64;
        if head.kind == 1 && head.epoch == log.epoch && sequence >= next && u64_at(head.payload, 0) == ordinal
        {
            log.segments.push((index, sequence));
        }
    }

    /// Everything before the tail must be there; behind it batches count for as long as they are whole.
    fn elements(&self, log: &Log, closed: bool) -> Result<Vec<Placed>, Unreadable> {
        let mut elements = Vec::new();
        // The element of which not all fragments have come, and the elements of the batch that has not ended.
        let mut open: Option<(usize, Placed)> = None;
        let mut batch = Vec::new();
        let mut at = log.head;
        while !(closed && at >= log.tail) {
            let before_tail = at < log.tail;
            let Some(record) = self.at(log, at).filter(|record| before_tail || record.epoch == log.epoch)
            else {
                if before_tail {
                    return Err(Unreadable::Damaged);
                }
                break;
            };
            match (record.kind, &mut open) {
                (1, _) => {}
                (2, None) => batch.push((at, record.payload.to_vec())),
                (3, None) => open = Some((record.total, (at, record.payload.to_vec()))),
                (4 | 5, Some((total, (_, bytes)))) if *total == record.total => {
                    bytes.extend_from_slice(record.payload);
                    if record.kind == 5 {
                        batch.extend(open.take().map(|(_, element)| element));
                    }
                }
                _ if before_tail => return Err(Unreadable::Damaged),
                _ => break,
            }
            let ends = before_tail || record.ends || record.next % self.segment as u64 == 0;
            if ends && open.is_none() {
                elements.append(&mut batch);
            }
            at = record.next;
        }
        Ok(elements)
    }

    /// The record at a position. At the start of a segment, its head.
    fn at(&self, log: &Log, position: u64) -> Option<Record<'a>> {
        let ordinal = position / self.segment as u64;
        let offset = (position % self.segment as u64) as usize;
        let (index, sequence) = *log.segments.get(usize::try_from(ordinal.checked_sub(log.first)?).ok()?)?;
        self.record(log.number, index, sequence, ordinal, offset)
    }

    fn record(
        &self,
        log: u32,
        index: usize,
        sequence: u64,
        ordinal: u64,
        offset: usize,
    ) -> Option<Record<'a>> {
        let segment = self.segment(index);
        let header = segment.get(offset..offset + 48)?;
        let lead = usize::from(u16::from_le_bytes([header[42], header[43]]));
        let start = offset + 48 + lead;
        let end = start + u32_at(header, 4) as usize;
        let payload = segment.get(start..end)?;
        let right = u32_at(header, 0) == crc32c::crc32c_append(self.seed, &header[4..])
            && u32_at(header, 44) == crc32c::crc32c_append(self.seed, payload)
            && u32_at(header, 12) == log
            && u64_at(header, 16) == sequence
            && u32_at(header, 24) as usize == offset;
        if !right {
            return None;
        }
        let ends = header[41] & 1 == 1;
        let mut next = end.next_multiple_of(if ends { self.block } else { 8 });
        if next + 64 > self.segment {
            next = self.segment;
        }
        Some(Record {
            kind: header[40],
            ends,
            total: u32_at(header, 8) as usize,
            epoch: u32_at(header, 28),
            payload,
            next: ordinal * self.segment as u64 + next as u64,
        })
    }

    fn segment(&self, index: usize) -> &'a [u8] {
        &self.image[self.first_segment + index * self.segment..][..self.segment]
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
