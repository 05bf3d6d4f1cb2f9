//! How a region is asked for, and what the answer says. See "Regions" in `docs/catmint-wire.md`.
//!
//! Invariant: whatever bytes come in, parsing yields a place that can be computed with, or nothing.

use demi_api::error::Error;

use crate::device::{Access, HELLO_MAX, Remote};
use crate::wire::{VERSION, Word};

/// Most bytes of a region's name.
pub(crate) const NAME_MAX: usize = HELLO_MAX - HEAD;

const MAGIC: [u8; 4] = *b"DEMI";
const HEAD: usize = 8;

const READ: u8 = 1;
const WRITE: u8 = 2;
const ATOMIC: u8 = 4;

/// A region at another instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) place: Remote,
    pub(crate) len: u64,
    pub(crate) access: Access,
}

fn begin(word: u16) -> [u8; HELLO_MAX] {
    let mut out = [0; HELLO_MAX];
    out[..4].copy_from_slice(&MAGIC);
    out[4..6].copy_from_slice(&VERSION.to_le_bytes());
    out[6..8].copy_from_slice(&word.to_le_bytes());
    out
}

/// Whether a request to connect is about a region, in whatever version.
pub(crate) fn is_request(hello: &[u8]) -> bool {
    hello.get(..4) == Some(&MAGIC) && u16_at(hello, 6).is_some_and(|word| word & Word::REGION != 0)
}

/// Asks for a region. The name is at most [`NAME_MAX`] bytes.
pub(crate) fn request(name: &str) -> [u8; HELLO_MAX] {
    let mut out = begin(Word::REGION);
    out[HEAD..][..name.len()].copy_from_slice(name.as_bytes());
    out
}

/// Which region is asked for; otherwise the word to refuse with.
pub(crate) fn asked(hello: &[u8]) -> Result<&str, u16> {
    if u16_at(hello, 4) != Some(VERSION) {
        return Err(Word::VERSION);
    }
    let name = hello.get(HEAD..).unwrap_or_default();
    let name = &name[..name.len().min(NAME_MAX)];
    let end = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    match std::str::from_utf8(&name[..end]) {
        Ok(name) if !name.is_empty() && !name.contains('\0') => Ok(name),
        _ => Err(Word::MALFORMED),
    }
}

/// The answer to a question: here it is.
pub(crate) fn found(found: &Found) -> [u8; HELLO_MAX] {
    let mut out = begin(0);
    out[8..16].copy_from_slice(&found.place.addr.to_le_bytes());
    out[16..24].copy_from_slice(&found.len.to_le_bytes());
    out[24..28].copy_from_slice(&found.place.key.to_le_bytes());
    let Access { read, write, atomic } = found.access;
    let bits = [(read, READ), (write, WRITE), (atomic, ATOMIC)];
    out[28] = bits.iter().filter(|(is, _)| *is).map(|(_, bit)| bit).sum();
    out
}

/// The answer to a question: no.
pub(crate) fn refusal(word: u16) -> [u8; HELLO_MAX] {
    begin(word)
}

/// What an answer says. `None`: it is not one.
pub(crate) fn parse_found(hello: &[u8]) -> Option<Found> {
    if hello.get(..4) != Some(&MAGIC) || u16_at(hello, 4) != Some(VERSION) || u16_at(hello, 6) != Some(0) {
        return None;
    }
    let place = Remote { addr: u64_at(hello, 8)?, key: u32_at(hello, 24)? };
    let len = u64_at(hello, 16)?;
    let bits = *hello.get(28)?;
    let access = Access { read: bits & READ != 0, write: bits & WRITE != 0, atomic: bits & ATOMIC != 0 };
    let sound = len > 0
        && len <= i64::MAX as u64
        && place.addr.checked_add(len).is_some()
        && (!access.atomic || place.addr.is_multiple_of(8));
    sound.then_some(Found { place, len, access })
}

/// What a refusal means.
pub(crate) fn why(hello: &[u8]) -> Error {
    if hello.get(..4) != Some(&MAGIC) {
        return Error::ConnectionRefused;
    }
    match u16_at(hello, 6) {
        Some(Word::NO_REGION) => Error::NotFound,
        Some(Word::VERSION) => {
            Error::NotSupported("the peer speaks another version of catmint: run the same at both ends")
        }
        Some(Word::NO_ROOM) => Error::InUse("the region, by as many queues as its instance allows"),
        _ => Error::ConnectionRefused,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::path::{ALL, READ};
    use super::*;

    #[test]
    fn questions_come_back() {
        let longest = "x".repeat(NAME_MAX);
        for name in ["a", "tables/über", &longest] {
            let hello = request(name);
            assert!(is_request(&hello));
            assert_eq!(asked(&hello), Ok(name));
        }
        assert_eq!(asked(&request("")), Err(Word::MALFORMED));
        let mut bytes = request("ab");
        bytes[8] = 0;
        assert_eq!(asked(&bytes), Err(Word::MALFORMED), "a zero inside");
        bytes[8] = 0xff;
        assert_eq!(asked(&bytes), Err(Word::MALFORMED), "not UTF-8");
        bytes[4] = 9;
        assert!(is_request(&bytes));
        assert_eq!(asked(&bytes), Err(Word::VERSION));
        assert_eq!(asked(&bytes[..6]), Err(Word::VERSION));
        assert!(!is_request(b"DEMI"));
        // Padding behind the longest name is no part of it.
        let padded = [&request(&longest)[..], &[0; 8]].concat();
        assert_eq!(asked(&padded), Ok(&longest[..]));
    }

    #[test]
    fn answers_come_back_and_impossible_ones_do_not() {
        let place = Remote { addr: 0x7f00_0000_1000, key: 0xdead_beef };
        for access in [ALL, READ] {
            let answer = Found { place, len: 4096, access };
            let bytes = found(&answer);
            assert_eq!(parse_found(&bytes), Some(answer));
            assert_eq!(parse_found(&bytes[..28]), None);
        }
        let impossible = [
            Found { place, len: 0, access: ALL },
            Found { place, len: u64::MAX, access: ALL },
            Found { place: Remote { addr: u64::MAX - 8, ..place }, len: 4096, access: READ },
            Found { place: Remote { addr: place.addr + 4, ..place }, len: 4096, access: ALL },
        ];
        for answer in impossible {
            assert_eq!(parse_found(&found(&answer)), None, "{answer:?}");
        }
        assert_eq!(parse_found(&refusal(Word::NO_REGION)), None);
        assert_eq!(why(&refusal(Word::NO_REGION)), Error::NotFound);
        assert_eq!(why(b""), Error::ConnectionRefused);
        assert_eq!(why(&refusal(Word::MALFORMED)), Error::ConnectionRefused);
    }
}
