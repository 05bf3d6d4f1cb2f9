//! The controller's registers (Base 1.4 §3.1), parsed.
//!
//! Not in here: how they are reached, which is the [`Hardware`]'s affair, and what is done with them.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::raw::Window;

/// Controller Capabilities, 8 bytes (§3.1.1).
pub(super) const CAP: usize = 0x00;
/// Version (§3.1.2).
pub(super) const VS: usize = 0x08;
/// Controller Configuration (§3.1.5).
pub(super) const CC: usize = 0x14;
/// Controller Status (§3.1.6).
pub(super) const CSTS: usize = 0x1c;
/// Admin Queue Attributes (§3.1.8).
pub(super) const AQA: usize = 0x24;
/// Admin Submission Queue Base Address, 8 bytes (§3.1.9).
pub(super) const ASQ: usize = 0x28;
/// Admin Completion Queue Base Address, 8 bytes (§3.1.10).
pub(super) const ACQ: usize = 0x30;
/// The first doorbell (§3.1.24, §3.1.25).
const DOORBELLS: usize = 0x1000;

/// Bytes of a submission queue entry, as [`CC_ENABLE`] says.
pub(super) const SQE: usize = 64;
/// Bytes of a completion queue entry, as [`CC_ENABLE`] says.
pub(super) const CQE: usize = 16;

/// The one page size that is used: memory page size 2^12.
pub(super) const PAGE: usize = 4096;

/// Entries of 2^4 and 2^6 bytes, round robin, pages of 4 KiB, the NVM command set, enabled (§3.1.5).
pub(super) const CC_ENABLE: u32 = 4 << 20 | 6 << 16 | 1;
/// Enabled, as above, and asked to shut down normally (§3.1.5, §7.6.2).
pub(super) const CC_SHUT_DOWN: u32 = CC_ENABLE | 1 << 14;

/// What answers in place of a device that is gone.
pub(super) const ABSENT: u32 = u32::MAX;

/// A controller as it is plugged in: its registers, and its way to memory.
pub(super) trait Hardware {
    /// Reads four bytes.
    fn read(&self, at: usize) -> u32;

    /// Writes four bytes, after everything that was written to memory before.
    fn write(&self, at: usize, value: u32);

    /// Bytes from the first register to the end of what is mapped.
    fn len(&self) -> usize;

    /// Lets the device reach this memory, at `iova`, for as long as it is there.
    ///
    /// # Errors
    /// What the kernel says.
    fn share(&mut self, memory: &Rc<Window>, iova: u64) -> io::Result<()>;

    /// Lets the device reach memory, or keeps it from doing so, even if it does not follow orders any more.
    ///
    /// # Errors
    /// What the kernel says. The device may then be able to reach memory, or not.
    fn set_dma(&self, allowed: bool) -> io::Result<()>;

    /// Reads eight bytes, the lower half first.
    fn read_wide(&self, at: usize) -> u64 {
        u64::from(self.read(at)) | u64::from(self.read(at + 4)) << 32
    }

    /// Writes eight bytes, the lower half first.
    fn write_wide(&self, at: usize, value: u64) {
        self.write(at, value as u32);
        self.write(at + 4, (value >> 32) as u32);
    }
}

/// What the controller can do (§3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// Most entries of an I/O queue, 2 to 65,536.
    pub(super) entries: usize,
    /// Longest time that it takes to become ready, or to stop.
    pub(super) timeout: Duration,
    /// Bytes between doorbells.
    stride: usize,
    /// Whether it has the NVM command set.
    pub(super) nvm: bool,
    /// The smallest memory page that it can be set to.
    pub(super) smallest_page: usize,
}

impl Capabilities {
    pub(super) fn parse(cap: u64) -> Capabilities {
        Capabilities {
            entries: (cap & 0xffff) as usize + 1,
            // In units of half a second; zero is not a time.
            timeout: Duration::from_millis(500) * ((cap >> 24 & 0xff) as u32).max(1),
            stride: 4 << (cap >> 32 & 0xf),
            nvm: cap >> 37 & 1 == 1,
            smallest_page: PAGE << (cap >> 48 & 0xf),
        }
    }

    /// Where the tail of submission queue `queue` is written to (§3.1.24).
    pub(super) fn tail_doorbell(&self, queue: u16) -> usize {
        DOORBELLS + 2 * usize::from(queue) * self.stride
    }

    /// Where the head of completion queue `queue` is written to (§3.1.25).
    pub(super) fn head_doorbell(&self, queue: u16) -> usize {
        DOORBELLS + (2 * usize::from(queue) + 1) * self.stride
    }
}

/// How the controller is (§3.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) ready: bool,
    /// It has failed, and nothing but a reset helps.
    pub(super) fatal: bool,
    /// What was asked for by [`CC_SHUT_DOWN`] is done.
    pub(super) shut_down: bool,
    /// It is not there any more.
    pub(super) absent: bool,
}

impl Status {
    pub(super) fn parse(csts: u32) -> Status {
        let absent = csts == ABSENT;
        Status {
            ready: !absent && csts & 1 == 1,
            fatal: !absent && csts >> 1 & 1 == 1,
            shut_down: !absent && csts >> 2 & 3 == 2,
            absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_taken_apart() {
        // What QEMU's controller says: 2048 entries, 7.5 s, stride 4, NVM, pages from 4 KiB.
        let cap = Capabilities::parse(0x0048_0020_0f01_07ff | 1 << 37);
        assert_eq!((cap.entries, cap.timeout, cap.nvm), (2048, Duration::from_millis(7500), true));
        assert_eq!((cap.tail_doorbell(0), cap.head_doorbell(0)), (0x1000, 0x1004));
        assert_eq!((cap.tail_doorbell(1), cap.head_doorbell(1)), (0x1008, 0x100c));
        let wide = Capabilities::parse(15 << 32 | 3 << 48);
        assert_eq!(wide.head_doorbell(1), 0x1000 + 3 * (4 << 15));
        assert_eq!((wide.smallest_page, wide.timeout), (32768, Duration::from_millis(500)));
    }

    #[test]
    fn a_device_that_is_gone_is_neither_ready_nor_failed() {
        let gone = Status::parse(ABSENT);
        assert!(gone.absent && !gone.ready && !gone.fatal && !gone.shut_down);
        assert!(Status::parse(1).ready && Status::parse(3).fatal && Status::parse(8).shut_down);
    }
}
