//! A controller in memory: it does what the specification says, and what a test tells it to do wrong.

use std::cell::{RefCell, RefMut};
use std::io;
use std::rc::Rc;

use demi_api::memalloc::RegionInfo;

use super::super::command::{Entry, Status};
use super::super::identify::LEN;
use super::super::raw::Window;
use super::super::regs::{ACQ, AQA, ASQ, CAP, CC, CQE, CSTS, Hardware, PAGE, SQE, VS};
use super::raw;

pub(super) const HEAP: u64 = 1 << 32;
pub(super) const BLOCK: usize = 512;

/// The hardware's end, which the engine owns; the test keeps a clone.
#[derive(Clone)]
pub(super) struct Simulated(Rc<RefCell<Controller>>);

impl Simulated {
    pub(super) fn new(heap: RegionInfo, blocks: usize) -> Simulated {
        Simulated(Rc::new(RefCell::new(Controller {
            heap,
            memory: None,
            disk: vec![0; blocks * BLOCK],
            configuration: 0,
            status: 0,
            bases: [0; 3],
            queues: Default::default(),
            taken: Vec::new(),
            wrong: Wrong::default(),
            dma: false,
            admin: Vec::new(),
            written: Vec::new(),
        })))
    }

    pub(super) fn get(&self) -> RefMut<'_, Controller> {
        self.0.borrow_mut()
    }
}

/// What is wrong with it.
#[derive(Clone, Debug)]
pub(super) struct Wrong {
    /// CAP.
    pub(super) cap: u64,
    pub(super) absent: bool,
    pub(super) never_ready: bool,
    pub(super) never_stops: bool,
    pub(super) no_dma_control: bool,
    /// Takes I/O commands, and completes them when [`Controller::complete`] is called.
    pub(super) deferred: bool,
    /// Takes I/O commands, so many, and forgets them. An abort has them end if it `aborts`.
    pub(super) hang: usize,
    pub(super) aborts: bool,
    /// Answers no admin commands.
    pub(super) mute: bool,
    /// Refuses the admin command with this opcode.
    pub(super) refuse: Option<u8>,
    /// How the next I/O commands end.
    pub(super) ends: Vec<Status>,
    /// Completes I/O commands by other words than it should: those that the queue's entry is `^`ed with.
    pub(super) garble: Vec<u64>,
    pub(super) volatile_cache: bool,
    pub(super) namespace: u32,
    pub(super) read_only: bool,
}

impl Default for Wrong {
    fn default() -> Wrong {
        Wrong {
            cap: 1 << 37 | 1 << 24 | 63,
            absent: false,
            never_ready: false,
            never_stops: false,
            no_dma_control: false,
            deferred: false,
            hang: 0,
            aborts: true,
            mute: false,
            refuse: None,
            ends: Vec::new(),
            garble: Vec::new(),
            volatile_cache: true,
            namespace: 1,
            read_only: false,
        }
    }
}

#[derive(Default)]
struct Queue {
    submission: u64,
    submission_entries: usize,
    completion: u64,
    completion_entries: usize,
    head: usize,
    tail: usize,
    posted: usize,
    phase: bool,
}

pub(super) struct Controller {
    heap: RegionInfo,
    memory: Option<(Rc<Window>, u64)>,
    pub(super) disk: Vec<u8>,
    configuration: u32,
    pub(super) status: u32,
    /// AQA, ASQ, ACQ.
    bases: [u64; 3],
    queues: [Queue; 2],
    /// I/O commands that are not completed.
    pub(super) taken: Vec<Entry>,
    pub(super) wrong: Wrong,
    pub(super) dma: bool,
    /// Opcodes of admin commands so far.
    pub(super) admin: Vec<u8>,
    /// Of I/O commands that are not reads: opcode, and whether it has FUA.
    pub(super) written: Vec<(u8, bool)>,
}

impl Controller {
    fn memory(&self) -> (&Window, u64) {
        let (memory, iova) = self.memory.as_ref().expect("memory was shared before it is used");
        assert!(self.dma, "the device reaches memory that it was kept from");
        (memory, *iova)
    }

    fn reset(&mut self) {
        self.queues = Default::default();
        self.taken.clear();
        self.status = 0;
    }

    fn configure(&mut self, value: u32) {
        let before = std::mem::replace(&mut self.configuration, value);
        if before & 1 == 1 && value & 1 == 0 && !self.wrong.never_stops {
            self.reset();
        }
        if before & 1 == 0 && value & 1 == 1 {
            assert_eq!(value >> 16 & 0xff, 0x46, "entries of 64 and 16 bytes");
            let [sizes, submission, completion] = self.bases;
            self.queues[0] = Queue {
                submission,
                submission_entries: (sizes & 0xfff) as usize + 1,
                completion,
                completion_entries: (sizes >> 16 & 0xfff) as usize + 1,
                phase: true,
                ..Queue::default()
            };
            self.status |= u32::from(!self.wrong.never_ready);
        }
        if value >> 14 & 3 == 1 {
            self.status |= 2 << 2;
        }
    }

    fn doorbell(&mut self, at: usize, value: u32) {
        let (queue, is_head) = (at / 8, at / 4 % 2 == 1);
        if is_head {
            return;
        }
        assert!((value as usize) < self.queues[queue].submission_entries, "the tail is in the queue");
        self.queues[queue].tail = value as usize;
        while self.queues[queue].head != self.queues[queue].tail {
            let entry = self.fetch(queue);
            if queue == 0 {
                self.administer(entry);
            } else if self.wrong.hang > 0 {
                self.wrong.hang -= 1;
                self.taken.push(entry);
            } else if self.wrong.deferred {
                self.taken.push(entry);
            } else {
                self.carry_out(entry);
            }
        }
    }

    fn fetch(&mut self, queue: usize) -> Entry {
        let (memory, iova) = self.memory();
        let (submission, head) = (self.queues[queue].submission, self.queues[queue].head);
        let at = (submission - iova) as usize + head * SQE;
        let entry = Entry(std::array::from_fn(|word| memory.read64(at + 8 * word)));
        self.queues[queue].head = (head + 1) % self.queues[queue].submission_entries;
        entry
    }

    fn administer(&mut self, entry: Entry) {
        let opcode = entry.0[0] as u8;
        self.admin.push(opcode);
        if self.wrong.mute {
            return;
        }
        if self.wrong.refuse == Some(opcode) {
            return self.post(0, entry, Status::new(0, 1, true));
        }
        let (low, high) = (entry.0[5] as u32, (entry.0[5] >> 32) as u32);
        match opcode {
            0x06 => self.identify(&entry, low),
            0x05 => {
                let completion_entries = (low >> 16) as usize + 1;
                self.queues[1] =
                    Queue { completion: entry.0[3], completion_entries, phase: true, ..Queue::default() };
            }
            0x01 => {
                assert_eq!(high >> 16, 1, "the completion queue's number");
                self.queues[1].submission = entry.0[3];
                self.queues[1].submission_entries = (low >> 16) as usize + 1;
            }
            0x08 if self.wrong.aborts => {
                let id = low >> 16;
                if let Some(at) = self.taken.iter().position(|taken| taken.0[0] >> 16 & 0xffff == id.into()) {
                    let aborted = self.taken.swap_remove(at);
                    self.post(1, aborted, Status::new(0, 7, false));
                }
            }
            0x08 | 0x09 => {}
            other => panic!("admin command {other:x}h"),
        }
        self.post(0, entry, Status::new(0, 0, false));
    }

    fn identify(&mut self, entry: &Entry, what: u32) {
        let mut answer = [0; LEN];
        match what {
            1 => {
                answer[4..8].copy_from_slice(b"simu");
                // Transfers of 16 KiB, entry sizes, deallocation.
                (answer[77], answer[512], answer[513], answer[520]) = (2, 0x66, 0x44, 4);
                answer[525] = self.wrong.volatile_cache.into();
            }
            2 => answer[..4].copy_from_slice(&self.wrong.namespace.to_le_bytes()),
            _ => {
                answer[..8].copy_from_slice(&((self.disk.len() / BLOCK) as u64).to_le_bytes());
                answer[99] = self.wrong.read_only.into();
                answer[130] = 9;
            }
        }
        let (memory, iova) = self.memory();
        let at = (entry.0[3] - iova) as usize;
        for (word, bytes) in answer.chunks_exact(8).enumerate() {
            memory.write64s(at + 8 * word, &[u64::from_le_bytes(bytes.try_into().expect("eight"))]);
        }
    }

    /// Completes the command at `at` among those that were taken.
    pub(super) fn complete(&mut self, at: usize) {
        let entry = self.taken.swap_remove(at);
        self.carry_out(entry);
    }

    fn carry_out(&mut self, entry: Entry) {
        let status = self.wrong.ends.pop().unwrap_or(Status::new(0, 0, false));
        if status.is_success() {
            self.transfer(&entry);
        }
        self.post(1, entry, status);
    }

    fn transfer(&mut self, entry: &Entry) {
        let opcode = entry.0[0] as u8;
        let (block, blocks) = (entry.0[5] as usize, (entry.0[6] & 0xffff) as usize + 1);
        let mut at = block * BLOCK;
        if opcode != 2 {
            self.written.push((opcode, entry.0[6] >> 30 & 1 == 1));
        }
        match opcode {
            0 => {}
            1 | 2 => {
                for (iova, len) in self.pieces(entry, blocks * BLOCK) {
                    let offset = (iova - HEAP) as usize;
                    if opcode == 1 {
                        raw::read(&self.heap, offset, &mut self.disk[at..at + len]);
                    } else {
                        raw::write(&self.heap, offset, &self.disk[at..at + len]);
                    }
                    at += len;
                }
            }
            9 => {
                for range in 0..=(entry.0[5] & 0xff) as usize {
                    let (memory, iova) = self.memory();
                    let place = (entry.0[3] - iova) as usize + 16 * range;
                    let (blocks, block) =
                        ((memory.read64(place) >> 32) as usize, memory.read64(place + 8) as usize);
                    self.disk[block * BLOCK..(block + blocks) * BLOCK].fill(0);
                }
            }
            other => panic!("I/O command {other:x}h"),
        }
    }

    /// The memory that a command's entries name.
    fn pieces(&self, entry: &Entry, len: usize) -> Vec<(u64, usize)> {
        let in_page = |iova: u64| PAGE - (iova as usize % PAGE);
        let first = entry.0[3];
        let mut pieces = vec![(first, in_page(first).min(len))];
        let mut left = len - pieces[0].1;
        let (memory, base) = self.memory();
        let is_list = left > PAGE;
        let mut list = entry.0[4];
        while left > 0 {
            let page = if is_list { memory.read64((list - base) as usize) } else { list };
            assert!(page.is_multiple_of(PAGE as u64), "an entry has an offset");
            pieces.push((page, left.min(PAGE)));
            left -= left.min(PAGE);
            list += 8;
        }
        pieces
    }

    fn post(&mut self, queue: usize, entry: Entry, status: Status) {
        let garble = if queue == 1 { self.wrong.garble.pop().unwrap_or(0) } else { 0 };
        let state = &self.queues[queue];
        let id = entry.0[0] >> 16 & 0xffff;
        let half = state.head as u64 | (queue as u64) << 16 | id << 32 | u64::from(state.phase) << 48;
        let half = (half | u64::from(status.bits()) << 49) ^ (garble & !(1 << 48));
        let (memory, iova) = self.memory();
        memory.write64s((state.completion - iova) as usize + state.posted * CQE + 8, &[half]);
        let state = &mut self.queues[queue];
        state.posted += 1;
        if state.posted == state.completion_entries {
            (state.posted, state.phase) = (0, !state.phase);
        }
    }
}

impl Hardware for Simulated {
    fn read(&self, at: usize) -> u32 {
        let this = self.get();
        if this.wrong.absent {
            return u32::MAX;
        }
        match at {
            CAP => this.wrong.cap as u32,
            4 => (this.wrong.cap >> 32) as u32,
            VS => 0x0001_0400,
            CC => this.configuration,
            CSTS => this.status,
            other => panic!("the register at {other:#x} is not read"),
        }
    }

    fn write(&self, at: usize, value: u32) {
        let mut this = self.get();
        let low = |wide: u64| wide & !0xffff_ffff | u64::from(value);
        let high = |wide: u64| wide & 0xffff_ffff | u64::from(value) << 32;
        match at {
            _ if this.wrong.absent => {}
            AQA => this.bases[0] = value.into(),
            ASQ => this.bases[1] = low(this.bases[1]),
            0x2c => this.bases[1] = high(this.bases[1]),
            ACQ => this.bases[2] = low(this.bases[2]),
            0x34 => this.bases[2] = high(this.bases[2]),
            CC => this.configure(value),
            0x1000.. => this.doorbell(at - 0x1000, value),
            other => panic!("the register at {other:#x} is not written"),
        }
    }

    fn len(&self) -> usize {
        0x2000
    }

    fn share(&mut self, memory: &Rc<Window>, iova: u64) -> io::Result<()> {
        self.get().memory = Some((Rc::clone(memory), iova));
        Ok(())
    }

    fn set_dma(&self, allowed: bool) -> io::Result<()> {
        let mut this = self.get();
        if this.wrong.no_dma_control && !allowed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        this.dma = allowed;
        Ok(())
    }
}
