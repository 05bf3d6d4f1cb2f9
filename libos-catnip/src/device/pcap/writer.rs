//! The file: blocks gathered in a buffer of fixed size, written in whole ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::sga::SgArray;
use demi_api::time::Instant;
use rustix::fs::{Mode, OFlags, ftruncate, open};
use rustix::io::{Errno, retry_on_intr, write};

use super::{Direction, PcapConfig};

/// Bytes gathered before they are written, at least.
const BUFFER: usize = 256 << 10;

/// Most that tools read of one frame.
const SNAP_MAX: usize = 262_144;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;
const OPTION_FLAGS: u16 = 2;
const OPTION_TIME_RESOLUTION: u16 = 9;

/// An enhanced packet block without the bytes of its frame: 28 before them; behind, an option of 8, the end of options
/// and the length.
const BLOCK_OVERHEAD: usize = 28 + 8 + 4 + 4;

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    /// `None` when writing has failed.
    file: Option<Fd>,
    pub(super) buffer: Vec<u8>,
    /// Bytes of whole blocks in the file.
    written: u64,
    snap_len: usize,
    /// Nanoseconds since 1970 at the clock's zero.
    base: u64,
    flush_every: Duration,
    /// When the oldest block in the buffer was recorded.
    oldest: Option<Instant>,
    /// Frames in the file, in the buffer, and in neither.
    frames: u64,
    gathered: u64,
    missed: u64,
    failures: u64,
}

impl Writer {
    pub(super) fn create(config: &PcapConfig) -> Result<Writer, Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let refused = |what: &str, errno: Errno| match errno {
            Errno::MFILE | Errno::NFILE => Error::TooManyFiles,
            errno => Error::Config(format!(
                "capture file {}: cannot be {what}: {errno}; choose another path",
                config.path.display()
            )),
        };
        let file =
            retry_on_intr(|| open(&config.path, flags, mode)).map_err(|errno| refused("made", errno))?;
        let snap_len = config.snap_len.min(SNAP_MAX);
        let mut writer = Writer {
            path: config.path.clone(),
            file: Some(file.into()),
            buffer: Vec::with_capacity(BUFFER.max(BLOCK_OVERHEAD + snap_len.next_multiple_of(4))),
            written: 0,
            snap_len,
            base: u64::try_from(config.base.as_nanos()).unwrap_or(u64::MAX),
            flush_every: config.flush_every,
            oldest: None,
            frames: 0,
            gathered: 0,
            missed: 0,
            failures: 0,
        };
        writer.put_header();
        writer.try_flush().map_err(|errno| refused("written", errno))?;
        Ok(writer)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the recording goes on.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// The section header block (draft-ietf-opsawg-pcapng §4.1) and the one interface (§4.2).
    fn put_header(&mut self) {
        let section_len = 28;
        self.words(&[SECTION_HEADER, section_len, BYTE_ORDER]);
        self.halves(&[1, 0]);
        // The section's length is not known.
        self.words(&[u32::MAX, u32::MAX, section_len]);

        let interface_len = 32;
        self.words(&[INTERFACE, interface_len]);
        self.halves(&[LINKTYPE_ETHERNET, 0]);
        self.words(&[self.snap_len as u32]);
        self.halves(&[OPTION_TIME_RESOLUTION, 1]);
        // 10 to the power of minus 9, padded; then the end of options.
        self.buffer.extend([9, 0, 0, 0]);
        self.words(&[0, interface_len]);
    }

    /// Adds a frame: an enhanced packet block (§4.3).
    #[inline]
    pub(super) fn record(&mut self, now: Instant, direction: Direction, data: &SgArray) {
        let len = data.len();
        let captured = len.min(self.snap_len);
        let padded = captured.next_multiple_of(4);
        if self.buffer.len() + BLOCK_OVERHEAD + padded > self.buffer.capacity() {
            self.flush();
        }
        if self.file.is_none() {
            self.missed += 1;
            return;
        }
        let nanos = self.base.saturating_add(now.as_nanos());
        let total = (BLOCK_OVERHEAD + padded) as u32;
        let (high, low) = ((nanos >> 32) as u32, nanos as u32);
        self.words(&[
            ENHANCED_PACKET,
            total,
            0,
            high,
            low,
            captured as u32,
            u32::try_from(len).unwrap_or(u32::MAX),
        ]);
        let end = self.buffer.len() + padded;
        let mut rest = captured;
        for segment in data.segments() {
            let part = segment.len().min(rest);
            self.buffer.extend_from_slice(&segment[..part]);
            rest -= part;
        }
        self.buffer.resize(end, 0);
        self.halves(&[OPTION_FLAGS, 4]);
        let flags = match direction {
            Direction::In => 1,
            Direction::Out => 2,
        };
        self.words(&[flags, 0, total]);
        self.gathered += 1;
        self.oldest.get_or_insert(now);
    }

    /// Counts frames that are not recorded any more.
    pub(super) fn miss(&mut self, count: usize) {
        self.missed += count as u64;
    }

    /// Writes out what has waited for long enough.
    #[inline]
    pub(super) fn flush_if_due(&mut self, now: Instant) {
        if self.oldest.is_some_and(|oldest| now - oldest >= self.flush_every) {
            self.flush();
        }
    }

    /// Writes out everything. A failure ends the recording: the file is cut behind its last whole block.
    pub(super) fn flush(&mut self) {
        if self.try_flush().is_ok() {
            return;
        }
        self.failures += 1;
        if let Some(file) = self.file.take() {
            // A pipe cannot be cut; whoever reads it sees it end.
            let _ = ftruncate(&file, self.written);
        }
        self.missed += std::mem::take(&mut self.gathered);
        self.buffer = Vec::new();
        self.oldest = None;
    }

    fn try_flush(&mut self) -> Result<(), Errno> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            match retry_on_intr(|| write(file, rest))? {
                0 => return Err(Errno::IO),
                count => rest = &rest[count..],
            }
        }
        self.written += self.buffer.len() as u64;
        self.frames += std::mem::take(&mut self.gathered);
        self.buffer.clear();
        self.oldest = None;
        Ok(())
    }

    fn words(&mut self, words: &[u32]) {
        words.iter().for_each(|word| self.buffer.extend_from_slice(&word.to_ne_bytes()));
    }

    fn halves(&mut self, halves: &[u16]) {
        halves.iter().for_each(|half| self.buffer.extend_from_slice(&half.to_ne_bytes()));
    }

    pub(super) fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("pcap_frames", self.frames + self.gathered);
        visit("pcap_bytes", self.written + self.buffer.len() as u64);
        visit("pcap_missed", self.missed);
        visit("pcap_failures", self.failures);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flush();
    }
}
