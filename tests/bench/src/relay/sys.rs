//! The relay over io_uring: one multishot receive into a ring of buffers, one send per datagram.
//!
//! Invariant: a buffer is either the kernel's (in the ring), or ours between its receive completion and the
//! completion of the send that reads it. It goes back into the ring only after that, so the kernel never
//! writes what it still reads. The mapping outlives the ring, which is dropped first.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail};
use io_uring::types::{BufRingEntry, Fixed};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use memmap2::MmapMut;
use rustix::io::Errno;

use super::LARGEST;
use crate::measure::Guard;

/// Buffers; a power of two. Their ring takes the first page.
const BUFFERS: u16 = 64;
const PAGE: usize = 4096;
const GROUP: u16 = 0;
const INPUT: Fixed = Fixed(0);
const OUTPUT: Fixed = Fixed(1);
/// Names the receive; a send is named by its buffer.
const RECEIVE: u64 = u64::MAX;

pub(super) fn run(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let input = UdpSocket::bind(listen)?;
    let output = UdpSocket::bind((listen.ip(), 0))?;
    output.connect(to)?;
    let mut relay = Relay::new(&input, &output)?;
    super::announce(input.local_addr()?)?;
    relay.receive()?;
    let mut guard = Guard::new();
    let mut seen = Vec::with_capacity(2 * BUFFERS as usize);
    loop {
        relay.enter()?;
        seen.extend(relay.ring.completion());
        if seen.is_empty() {
            guard.spin()?;
            continue;
        }
        guard = Guard::new();
        for entry in seen.drain(..) {
            if entry.user_data() != RECEIVE {
                relay.give_back(entry.user_data() as u16);
                continue;
            }
            if !cqueue::more(entry.flags()) {
                relay.receive()?;
            }
            match (entry.result(), cqueue::buffer_select(entry.flags())) {
                (0, _) => return Ok(()),
                (count, Some(buffer)) if count > 0 => relay.send(buffer, count as u32)?,
                (error, _) if error == -Errno::NOBUFS.raw_os_error() => {}
                (error, _) => bail!("receive: {}", std::io::Error::from_raw_os_error(-error)),
            }
        }
    }
}

struct Relay {
    ring: IoUring,
    memory: MmapMut,
    tail: u16,
}

impl Relay {
    fn new(input: &UdpSocket, output: &UdpSocket) -> Result<Relay> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(u32::from(BUFFERS) * 2)
            .context("io_uring is not available")?;
        ring.submitter().register_files(&[input.as_raw_fd(), output.as_raw_fd()])?;
        let memory = MmapMut::map_anon(PAGE + usize::from(BUFFERS) * LARGEST)?;
        // SAFETY: the address is that of a mapping of at least a page, page-aligned, which `Relay` keeps until
        // after its ring is dropped; a page has room for `BUFFERS` entries of 16 bytes.
        unsafe { ring.submitter().register_buf_ring_with_flags(memory.as_ptr() as u64, BUFFERS, GROUP, 0) }?;
        let mut relay = Relay { ring, memory, tail: 0 };
        for buffer in 0..BUFFERS {
            relay.give_back(buffer);
        }
        Ok(relay)
    }

    fn address(&self, buffer: u16) -> *const u8 {
        self.memory[PAGE + usize::from(buffer) * LARGEST..].as_ptr()
    }

    fn receive(&mut self) -> Result<()> {
        let entry = opcode::RecvMulti::new(INPUT, GROUP).build().user_data(RECEIVE);
        self.submit(&entry)
    }

    fn send(&mut self, buffer: u16, count: u32) -> Result<()> {
        let entry = opcode::Send::new(OUTPUT, self.address(buffer), count).build();
        self.submit(&entry.user_data(u64::from(buffer)))
    }

    fn submit(&mut self, entry: &squeue::Entry) -> Result<()> {
        // SAFETY: a send's bytes lie in `memory`, in a buffer that is given back only when the send has
        // completed; a receive has no address of its own.
        unsafe { self.ring.submission().push(entry) }.context("more entries than buffers")
    }

    /// One system call: submits what there is, and lets the kernel run what has come in.
    fn enter(&mut self) -> Result<()> {
        let count = self.ring.submission().len() as u32;
        // SAFETY: no signal mask is passed, so there is no pointer that the kernel would follow.
        unsafe { self.ring.submitter().enter::<()>(count, 0, EnterFlags::GETEVENTS.bits(), None) }
            .context("io_uring_enter")?;
        Ok(())
    }

    fn give_back(&mut self, buffer: u16) {
        let address = self.address(buffer) as u64;
        let ring = self.memory.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: the masked index lies within the first page. The kernel reads an entry only below the tail,
        // which is advanced after it is written; of entry 0 the tail's own bytes are not touched by the setters.
        let entry = unsafe { &mut *ring.add(usize::from(self.tail & (BUFFERS - 1))) };
        entry.set_addr(address);
        entry.set_len(LARGEST as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `ring` is the address of the ring's first entry, whose tail field is a 2-byte aligned u16 that
        // is accessed atomically from here on, by the kernel as by us.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(ring).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
