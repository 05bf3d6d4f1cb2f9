//! The receive buffers: chunks of the UMEM, lent to the kernel and handed on with what was received in them.
//!
//! The UMEM is the heap's whole region, so a chunk is an ordinary buffer, from a pool that is set aside for the device.
//!
//! Invariants: while a chunk is lent, its only buffer lies in the table here and nobody looks into it. What the kernel
//! gives back must name a chunk that is lent, and bytes inside it; anything else is refused.

use demi_api::memalloc::{Buf, BufMut, Heap, OutOfMemory, Pool};

use super::raw::Desc;

/// Pieces of the region by which chunks are found. A pool's buffers are dense in some and absent from the others.
const BLOCK: usize = 256 << 10;

/// No chunk lies in this block.
const ABSENT: u32 = u32::MAX;

/// The chunks of one device.
pub(super) struct Umem {
    pool: Pool,
    chunk: usize,
    /// By block of the region: where its chunks begin in `lent`.
    blocks: Vec<u32>,
    lent: Vec<Option<BufMut>>,
    /// By chunk: the queue that it is lent to.
    to: Vec<u32>,
}

/// Received bytes: in which chunk, and where in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    chunk: u32,
    start: u16,
    pub(super) len: u16,
}

impl Umem {
    /// Sets `count` chunks of `chunk` bytes aside, 2048 or 4096.
    pub(super) fn new(heap: &Heap, chunk: usize, count: usize) -> Result<Umem, OutOfMemory> {
        let pool = heap.pool(chunk, count)?;
        let mut blocks = vec![ABSENT; heap.region().len.div_ceil(BLOCK)];
        let mut present = 0;
        let all: Vec<BufMut> = std::iter::from_fn(|| pool.take()).collect();
        for buf in &all {
            let block = &mut blocks[buf.offset() / BLOCK];
            if *block == ABSENT {
                *block = present;
                present += (BLOCK / chunk) as u32;
            }
        }
        drop(all);
        let lent = (0..present).map(|_| None).collect();
        Ok(Umem { pool, chunk, blocks, lent, to: vec![0; present as usize] })
    }

    /// Takes a chunk from the pool for the kernel, for a queue; returns its address.
    #[inline]
    pub(super) fn lend(&mut self, queue: u32) -> Option<u64> {
        let buf = self.pool.take()?;
        let offset = buf.offset();
        let at = self.index(offset)?;
        self.lent[at] = Some(buf);
        self.to[at] = queue;
        Some(offset as u64)
    }

    #[inline]
    fn index(&self, offset: usize) -> Option<usize> {
        let first = *self.blocks.get(offset / BLOCK)?;
        let at = (first as usize).checked_add(offset % BLOCK / self.chunk)?;
        (at < self.lent.len()).then_some(at)
    }

    /// What a descriptor of the kernel's names. `None`: nothing that it could have written to.
    #[inline]
    pub(super) fn received(&self, desc: &Desc) -> Option<Received> {
        let base = usize::try_from(desc.addr & ((1 << 48) - 1)).ok()?;
        let start = (desc.addr >> 48) as usize;
        let at = self.index(base)?;
        let lent = self.lent[at].as_ref()?;
        let end = start.checked_add(desc.len as usize)?;
        let sound = lent.offset() == base && desc.len > 0 && end <= self.chunk;
        sound.then_some(Received { chunk: at as u32, start: start as u16, len: desc.len as u16 })
    }

    /// The bytes, while they stay here. Empty if they are not.
    pub(super) fn bytes(&self, received: &Received) -> &[u8] {
        let start = usize::from(received.start);
        let lent = self.lent[received.chunk as usize].as_deref().unwrap_or_default();
        lent.get(start..start + usize::from(received.len)).unwrap_or_default()
    }

    /// The bytes in the chunk that they were received in, for good. `None`: it is not lent.
    #[inline]
    pub(super) fn hand_out(&mut self, received: &Received) -> Option<Buf> {
        let mut buf = self.lent[received.chunk as usize].take()?;
        buf.advance(usize::from(received.start));
        buf.truncate(usize::from(received.len));
        Some(buf.freeze())
    }

    /// The address to lend the chunk under again, its bytes forgotten. `None`: it is not lent.
    pub(super) fn again(&self, received: &Received) -> Option<u64> {
        self.lent[received.chunk as usize].as_ref().map(|buf| buf.offset() as u64)
    }

    /// Takes back what is lent to a queue whose socket has been closed, with which the kernel's copying has ended.
    pub(super) fn take_back(&mut self, queue: u32) {
        let lent = self.lent.iter_mut().zip(&self.to).filter(|(_, to)| **to == queue);
        lent.for_each(|(lent, _)| *lent = None);
    }

    /// Gives up every chunk that is lent without releasing it.
    pub(super) fn leak(&mut self) {
        self.lent.iter_mut().filter_map(Option::take).for_each(std::mem::forget);
    }
}
