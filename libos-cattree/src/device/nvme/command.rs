//! Queue entries (Base 1.4 §4.2, §4.6): commands built, completions parsed.

use super::regs::PAGE;

/// A submission queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(pub(super) [u64; 8]);

/// Delete I/O Submission Queue is 00h, Create 01h (§5.4), and so on (figure 139).
mod admin {
    pub(super) const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
    pub(super) const CREATE_COMPLETION_QUEUE: u8 = 0x05;
    pub(super) const IDENTIFY: u8 = 0x06;
    pub(super) const ABORT: u8 = 0x08;
    pub(super) const SET_FEATURES: u8 = 0x09;
}

/// Of the NVM command set (Base 1.4 §6, figure 346).
mod nvm {
    pub(super) const FLUSH: u8 = 0x00;
    pub(super) const WRITE: u8 = 0x01;
    pub(super) const READ: u8 = 0x02;
    pub(super) const DATASET_MANAGEMENT: u8 = 0x09;
}

/// What Identify is asked for: CNS (§5.15.1, figure 244).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identify {
    Namespace = 0x00,
    Controller = 0x01,
    ActiveNamespaces = 0x02,
}

impl Entry {
    fn new(opcode: u8, namespace: u32) -> Entry {
        Entry([u64::from(opcode) | u64::from(namespace) << 32, 0, 0, 0, 0, 0, 0, 0])
    }

    /// Sets the command's dwords 10 and 11.
    fn dwords10(mut self, low: u32, high: u32) -> Entry {
        self.0[5] = u64::from(low) | u64::from(high) << 32;
        self
    }

    /// Sets the two entries that name memory.
    fn memory(mut self, (first, second): (u64, u64)) -> Entry {
        (self.0[3], self.0[4]) = (first, second);
        self
    }

    /// The same command under another identifier.
    pub(super) fn with_id(mut self, id: u16) -> Entry {
        self.0[0] = self.0[0] & !0xffff_0000 | u64::from(id) << 16;
        self
    }

    /// §5.15: 4096 bytes at `answer`.
    pub(super) fn identify(what: Identify, namespace: u32, answer: u64) -> Entry {
        Entry::new(admin::IDENTIFY, namespace).memory((answer, 0)).dwords10(what as u32, 0)
    }

    /// Set Features, Number of Queues (§5.21.1.7): one of each, as counts are less by one.
    pub(super) fn number_of_queues() -> Entry {
        Entry::new(admin::SET_FEATURES, 0).dwords10(0x07, 0)
    }

    /// §5.3: contiguous, and interrupting by vector 0.
    pub(super) fn create_completion_queue(id: u16, entries: usize, at: u64) -> Entry {
        let command = Entry::new(admin::CREATE_COMPLETION_QUEUE, 0).memory((at, 0));
        command.dwords10(u32::from(id) | (entries as u32 - 1) << 16, 0b11)
    }

    /// §5.4: contiguous, completing to the queue of the same number.
    pub(super) fn create_submission_queue(id: u16, entries: usize, at: u64) -> Entry {
        let command = Entry::new(admin::CREATE_SUBMISSION_QUEUE, 0).memory((at, 0));
        command.dwords10(u32::from(id) | (entries as u32 - 1) << 16, 1 | u32::from(id) << 16)
    }

    /// §5.1.
    pub(super) fn abort(queue: u16, id: u16) -> Entry {
        Entry::new(admin::ABORT, 0).dwords10(u32::from(queue) | u32::from(id) << 16, 0)
    }

    /// §6.9.
    pub(super) fn read(namespace: u32, block: u64, blocks: usize, memory: (u64, u64)) -> Entry {
        Entry::transfer(nvm::READ, namespace, block, blocks, memory)
    }

    /// §6.15. With `unit_access` (FUA), complete when it would survive a loss of power.
    pub(super) fn write(
        namespace: u32,
        block: u64,
        blocks: usize,
        memory: (u64, u64),
        unit_access: bool,
    ) -> Entry {
        let mut entry = Entry::transfer(nvm::WRITE, namespace, block, blocks, memory);
        entry.0[6] |= u64::from(unit_access) << 30;
        entry
    }

    fn transfer(opcode: u8, namespace: u32, block: u64, blocks: usize, memory: (u64, u64)) -> Entry {
        let mut entry = Entry::new(opcode, namespace).memory(memory);
        entry.0[5] = block;
        entry.0[6] = blocks as u64 - 1;
        entry
    }

    /// §6.8.
    pub(super) fn flush(namespace: u32) -> Entry {
        Entry::new(nvm::FLUSH, namespace)
    }

    /// Dataset Management, Deallocate (§6.7): `ranges` of them, at most 256, lie at `list`.
    pub(super) fn deallocate(namespace: u32, ranges: usize, list: u64) -> Entry {
        let command = Entry::new(nvm::DATASET_MANAGEMENT, namespace).memory((list, 0));
        command.dwords10(ranges as u32 - 1, 1 << 2)
    }
}

/// Blocks of one range of Dataset Management (§6.7, figure 365), at most.
pub(super) const MAX_RANGE: u64 = u32::MAX as u64;
/// Ranges of one Dataset Management, at most; they fill a page.
pub(super) const MAX_RANGES: usize = PAGE / 16;

/// A range of Dataset Management.
pub(super) fn range(block: u64, blocks: u64) -> [u64; 2] {
    [blocks << 32, block]
}

/// A completion queue entry, all of which is what the device says, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Completed {
    /// How far the device has taken the submission queue.
    pub(super) head: u16,
    /// The submission queue that the command came by.
    pub(super) queue: u16,
    pub(super) id: u16,
    pub(super) status: Status,
}

impl Completed {
    /// From the second half of an entry. The other holds what a command answers.
    pub(super) fn parse(half: u64) -> Completed {
        Completed {
            head: half as u16,
            queue: (half >> 16) as u16,
            id: (half >> 32) as u16,
            status: Status((half >> 49) as u16),
        }
    }

    /// The phase tag (§4.6) of an entry.
    pub(super) fn phase(half: u64) -> bool {
        half >> 48 & 1 == 1
    }
}

/// How a command ended (§4.6.1): code, code type, and whether to try again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(u16);

impl Status {
    #[cfg(test)]
    pub(super) fn new(kind: u16, code: u16, final_: bool) -> Status {
        Status(code | kind << 8 | u16::from(final_) << 14)
    }

    #[cfg(test)]
    pub(super) fn bits(self) -> u16 {
        self.0
    }

    pub(super) fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Do Not Retry: it would fail again.
    pub(super) fn is_final(self) -> bool {
        self.0 >> 14 & 1 == 1
    }

    fn is(self, kind: u16, code: u16) -> bool {
        self.0 & 0x7ff == kind << 8 | code
    }

    /// Capacity Exceeded (figure 127).
    pub(super) fn is_no_space(self) -> bool {
        self.is(0, 0x81)
    }

    /// Namespace is Write Protected (figure 126), Attempted Write to Read Only Range (figure 130).
    pub(super) fn is_read_only(self) -> bool {
        self.is(0, 0x20) || self.is(1, 0x82)
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {:x}h of type {:x}h", self.0 & 0xff, self.0 >> 8 & 7)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_lie_as_the_specification_draws_them() {
        let dwords = |entry: Entry| -> Vec<u32> {
            entry.0.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]).collect()
        };
        let write = dwords(Entry::write(7, 0x1_0000_0002, 8, (0x3000, 0x5000), true).with_id(0x123));
        assert_eq!(write[..2], [0x0123_0001, 7]);
        assert_eq!(write[6..16], [0x3000, 0, 0x5000, 0, 2, 1, 0x4000_0007, 0, 0, 0]);
        let queue = dwords(Entry::create_submission_queue(1, 129, 0x1_0000_4000));
        assert_eq!((queue[6], queue[7], queue[10], queue[11]), (0x4000, 1, 0x0080_0001, 0x0001_0001));
        let queue = dwords(Entry::create_completion_queue(1, 129, 0x4000));
        assert_eq!((queue[0], queue[10], queue[11]), (5, 0x0080_0001, 3));
        let abort = dwords(Entry::abort(1, 0x85));
        assert_eq!((abort[0], abort[10]), (8, 0x0085_0001));
        let trim = dwords(Entry::deallocate(1, 2, 0x9000));
        assert_eq!((trim[0], trim[10], trim[11]), (9, 1, 4));
        assert_eq!(range(0x77, 0x10), [0x10_0000_0000, 0x77]);
        assert_eq!(
            Entry::read(1, 0, 1, (0, 0)).with_id(9).with_id(3),
            Entry::read(1, 0, 1, (0, 0)).with_id(3)
        );
    }

    #[test]
    fn a_completion_is_taken_apart() {
        let status = Status::new(0, 0x81, true);
        let half = 5 | 1 << 16 | 0x1234 << 32 | 1 << 48 | u64::from(status.0) << 49;
        let completed = Completed::parse(half);
        assert_eq!(completed, Completed { head: 5, queue: 1, id: 0x1234, status });
        assert!(Completed::phase(half) && !Completed::phase(half & !(1 << 48)));
        assert!(status.is_no_space() && status.is_final() && !status.is_success());
        assert!(Status::new(0, 0, true).is_success(), "what succeeded did so, whatever else is said");
        assert!(Status::new(1, 0x82, false).is_read_only() && Status::new(0, 0x20, true).is_read_only());
        assert!(!Status::new(2, 0x81, false).is_no_space());
    }
}
