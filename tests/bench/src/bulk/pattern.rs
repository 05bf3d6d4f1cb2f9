//! A stream whose bytes tell where in it they belong: little-endian numbers of eight bytes, each its own place times an
//! odd constant, so that no two neighbourhoods are alike.

use anyhow::{Result, ensure};

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A place in the stream.
pub(super) struct Pattern {
    at: u64,
}

impl Pattern {
    pub(super) fn new() -> Pattern {
        Pattern { at: 0 }
    }

    /// Writes what comes next.
    pub(super) fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            let (word, skip) = self.word();
            let count = out.len().min(8 - skip);
            out[..count].copy_from_slice(&word[skip..skip + count]);
            self.at += count as u64;
            out = &mut out[count..];
        }
    }

    /// Compares what comes next.
    pub(super) fn check(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (word, skip) = self.word();
            let count = bytes.len().min(8 - skip);
            ensure!(bytes[..count] == word[skip..skip + count], "a wrong byte at or behind {}", self.at);
            self.at += count as u64;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// The word that the place lies in, and where in it.
    fn word(&self) -> ([u8; 8], usize) {
        ((self.at / 8).wrapping_mul(FACTOR).to_le_bytes(), (self.at % 8) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn what_is_moved_or_lost_is_found() {
        let mut bytes = vec![0; 1000];
        Pattern::new().fill(&mut bytes);
        let check = |parts: &[&[u8]]| {
            let mut pattern = Pattern::new();
            parts.iter().try_for_each(|part| pattern.check(part))
        };
        assert!(check(&[&bytes[..13], &bytes[13..700], &bytes[700..]]).is_ok());
        assert!(check(&[&bytes[..13], &bytes[14..]]).is_err());
        assert!(check(&[&bytes[..16], &bytes[24..]]).is_err());
        assert!(check(&[&bytes[8..16]]).is_err());
    }
}
