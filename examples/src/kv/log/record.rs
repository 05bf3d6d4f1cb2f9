//! What lies in the log: `docs/kv-log.md` in code, without I/O.
//!
//! Invariant: parsing takes any bytes. What it does not know is an error that says where, never a guess.

use std::fmt;
use std::ops::Range;

/// First bytes of every element: the format's name, its version, and zero.
pub(crate) const ELEMENT_HEADER: [u8; 4] = [b'K', b'V', 1, 0];

/// Bytes of the longest record, keys and values aside.
pub(crate) const LONGEST: usize = 1 + 4 + 4 + 8;

const SET: u8 = 1;
const DELETE: u8 = 2;
const EXPIRE: u8 = 3;
const CLEAR: u8 = 4;
const START: u8 = 5;

/// A change of the state, with what it has led to: replaying it twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// A key has a value, which lies at these bytes of the element, and expires at a moment; 0: never.
    Set { key: &'a [u8], value: Range<usize>, deadline: u64 },
    /// A key is gone.
    Delete { key: &'a [u8] },
    /// A key expires at another moment; 0: never.
    Expire { key: &'a [u8], deadline: u64 },
    /// All keys are gone.
    Clear,
    /// A server has started, which chose this number.
    Start { number: u64 },
}

/// The fixed part of a record: what stands before its key and value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Head {
    pub(crate) fn set(key: usize, value: usize, deadline: u64) -> Head {
        Head::new(SET)
            .number(&(key as u32).to_le_bytes())
            .number(&(value as u32).to_le_bytes())
            .long(deadline)
    }

    pub(crate) fn delete(key: usize) -> Head {
        Head::new(DELETE).number(&(key as u32).to_le_bytes())
    }

    pub(crate) fn expire(key: usize, deadline: u64) -> Head {
        Head::new(EXPIRE).number(&(key as u32).to_le_bytes()).long(deadline)
    }

    pub(crate) fn clear() -> Head {
        Head::new(CLEAR)
    }

    pub(crate) fn start(number: u64) -> Head {
        Head::new(START).long(number)
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    #[inline]
    fn new(kind: u8) -> Head {
        let mut bytes = [0; LONGEST];
        bytes[0] = kind;
        Head { bytes, len: 1 }
    }

    #[inline]
    fn number(mut self, bytes: &[u8]) -> Head {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }

    #[inline]
    fn long(self, value: u64) -> Head {
        self.number(&value.to_le_bytes())
    }
}

/// Why an element cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Offset in the element.
    pub(crate) at: usize,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Foreign,
    Version(u8),
    Kind(u8),
    CutOff,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: ", self.at)?;
        match self.why {
            Why::Foreign => f.write_str("this is not of a key-value server; choose another log"),
            Why::Version(version) => {
                write!(f, "format version {version} is not known here; a newer program may have written it")
            }
            Why::Kind(kind) => write!(f, "a record of the unknown kind {kind}"),
            Why::CutOff => f.write_str("a record is cut off"),
        }
    }
}

/// The records of one element.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    element: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn of(element: &'a [u8]) -> Result<Records<'a>, Wrong> {
        let wrong = |why| Err(Wrong { at: 0, why });
        match element.first_chunk() {
            Some(&ELEMENT_HEADER) => Ok(Records { element, at: ELEMENT_HEADER.len() }),
            Some(&[b'K', b'V', version, _]) => wrong(Why::Version(version)),
            _ => wrong(Why::Foreign),
        }
    }

    /// The next record; none behind the last.
    pub(crate) fn next(&mut self) -> Result<Option<Record<'a>>, Wrong> {
        let Some((&kind, rest)) = self.element[self.at..].split_first() else { return Ok(None) };
        let cut_off = Wrong { at: self.at, why: Why::CutOff };
        let mut fields = Fields { rest };
        let record = match kind {
            SET => fields.set(self.element.len()),
            DELETE => fields.length().and_then(|len| Some(Record::Delete { key: fields.take(len)? })),
            EXPIRE => fields.length().and_then(|len| {
                let deadline = fields.long()?;
                Some(Record::Expire { key: fields.take(len)?, deadline })
            }),
            CLEAR => Some(Record::Clear),
            START => fields.long().map(|number| Record::Start { number }),
            kind => return Err(Wrong { at: self.at, why: Why::Kind(kind) }),
        };
        let record = record.ok_or(cut_off)?;
        self.at = self.element.len() - fields.rest.len();
        Ok(Some(record))
    }
}

/// What of an element has not been read.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn set(&mut self, whole: usize) -> Option<Record<'a>> {
        let (key, value) = (self.length()?, self.length()?);
        let deadline = self.long()?;
        let key = self.take(key)?;
        let start = whole - self.rest.len();
        self.take(value)?;
        Some(Record::Set { key, value: start..start + value, deadline })
    }

    fn length(&mut self) -> Option<usize> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    }

    fn long(&mut self) -> Option<u64> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element() -> Vec<u8> {
        let mut bytes = ELEMENT_HEADER.to_vec();
        for (head, rest) in [
            (Head::set(3, 5, 77), &b"keyvalue"[..]),
            (Head::set(0, 0, 0), b""),
            (Head::delete(1), b"d"),
            (Head::expire(2, u64::MAX), b"ex"),
            (Head::clear(), b""),
            (Head::start(9), b""),
        ] {
            bytes.extend_from_slice(head.bytes());
            bytes.extend_from_slice(rest);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Record<'_>>, Wrong> {
        let mut records = Records::of(bytes)?;
        std::iter::from_fn(|| records.next().transpose()).collect()
    }

    #[test]
    fn records_are_read_as_written() {
        let bytes = element();
        let records = read(&bytes).unwrap();
        let Record::Set { key: b"key", value, deadline: 77 } = &records[0] else { panic!("{records:?}") };
        assert_eq!(&bytes[value.clone()], b"value");
        assert!(matches!(&records[1], Record::Set { key: b"", value, deadline: 0 } if value.is_empty()));
        assert_eq!(
            records[2..],
            [
                Record::Delete { key: b"d" },
                Record::Expire { key: b"ex", deadline: u64::MAX },
                Record::Clear,
                Record::Start { number: 9 }
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let whole = element();
        let said = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(said(b"").contains("byte 0") && said(b"DEMI....").contains("not of a key-value server"));
        assert!(said(b"KV\x02\0").contains("version 2"));
        let unknown = [&ELEMENT_HEADER[..], Head::clear().bytes(), &[200]].concat();
        assert_eq!(said(&unknown), "at byte 5: a record of the unknown kind 200");
        let long = [&ELEMENT_HEADER[..], Head::set(u32::MAX as usize, u32::MAX as usize, 0).bytes()].concat();
        assert_eq!(said(&long), "at byte 4: a record is cut off");
        // Cut anywhere, it reads as its first records, or as damaged.
        for end in 0..whole.len() {
            if let Ok(records) = read(&whole[..end]) {
                assert_eq!(records, read(&whole).unwrap()[..records.len()]);
            }
        }
    }

    #[test]
    fn noise_is_read_to_an_end() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let mut bytes = element();
            for _ in 0..rng.u8(1..5) {
                let place = rng.usize(4..bytes.len());
                bytes[place] = rng.u8(..);
            }
            let _ = read(&bytes).map(|records| assert!(records.len() < bytes.len()));
        }
    }
}
