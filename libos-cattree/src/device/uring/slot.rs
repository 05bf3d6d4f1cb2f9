//! A request under way: what it holds, how much of it is done, and what follows from each answer of the kernel.

use arrayvec::ArrayVec;
use demi_api::error::Error;
use demi_api::memalloc::BufMut;
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use rustix::io::Errno;

/// How often in a row a request is begun again that the kernel has interrupted before it did anything.
const TRIES: u8 = 16;

/// What a request asks for, and keeps alive.
#[derive(Debug)]
pub(super) enum Held {
    Read(BufMut),
    Write { data: SgArray, durable: bool },
    Flush,
    Discard { len: u64 },
}

impl Held {
    fn len(&self) -> usize {
        match self {
            Held::Read(buf) => buf.len(),
            Held::Write { data, .. } => data.len(),
            Held::Flush | Held::Discard { .. } => 0,
        }
    }
}

/// A request that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) tag: u64,
    pub(super) held: Held,
    pub(super) result: Result<(), Error>,
}

/// What to do after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Done,
    Failed(Error),
    /// The rest, once more.
    Again,
}

/// A place for a request.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) held: Option<Held>,
    pub(super) offset: u64,
    /// Bytes that are read or written.
    pub(super) done: usize,
    /// Segments for the kernel, which may read this for as long as the request is under way.
    pub(super) iovecs: ArrayVec<libc::iovec, MAX_SEGMENTS>,
    tag: u64,
    len: usize,
    generation: u32,
    tries: u8,
    /// The kernel could not do it without waiting: one of its own threads is to.
    pub(super) may_wait: bool,
}

impl Slot {
    #[inline]
    pub(super) fn occupy(&mut self, tag: u64, offset: u64, held: Held) {
        self.generation = self.generation.wrapping_add(1);
        (self.tag, self.offset, self.len) = (tag, offset, held.len());
        (self.done, self.tries, self.may_wait) = (0, 0, false);
        self.held = Some(held);
    }

    /// Ends the request. `None`: there is none.
    #[inline]
    pub(super) fn vacate(&mut self, result: Result<(), Error>) -> Option<Ended> {
        self.held.take().map(|held| Ended { tag: self.tag, held, result })
    }

    /// What the kernel knows the request by.
    #[inline]
    pub(super) fn name(&self, index: u32) -> u64 {
        u64::from(self.generation) << 32 | u64::from(index)
    }

    /// Whether this is what the request here is known by.
    #[inline]
    pub(super) fn is_named(&self, name: u64) -> bool {
        self.held.is_some() && (name >> 32) as u32 == self.generation
    }

    pub(super) fn is_durable(&self) -> bool {
        matches!(self.held, Some(Held::Write { durable: true, .. }))
    }

    /// Points at what is still to be written.
    pub(super) fn point(&mut self) {
        self.iovecs.clear();
        let Some(Held::Write { data, .. }) = &self.held else { return };
        let mut skip = self.done;
        for segment in data.segments() {
            let skipped = skip.min(segment.len());
            skip -= skipped;
            if skipped < segment.len() {
                let rest = &segment[skipped..];
                self.iovecs
                    .push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
            }
        }
    }

    /// Notes an answer: how many bytes, or which error.
    #[inline]
    pub(super) fn advance(&mut self, answer: Result<usize, Errno>) -> Step {
        match (answer, &self.held) {
            (Ok(_), Some(Held::Discard { .. })) => Step::Done,
            // It was but advice.
            (Err(Errno::OPNOTSUPP), Some(Held::Discard { .. })) => Step::Done,
            // Nothing, and nothing wrong: behind the end of a file that has been cut off.
            (Ok(0), _) => Step::Failed(Error::Io),
            (Ok(count), _) => {
                self.tries = 0;
                self.done = self.done.saturating_add(count);
                match self.done.cmp(&self.len) {
                    std::cmp::Ordering::Less => Step::Again,
                    std::cmp::Ordering::Equal => Step::Done,
                    std::cmp::Ordering::Greater => Step::Failed(Error::Io),
                }
            }
            (Err(errno @ (Errno::INTR | Errno::AGAIN)), _) if self.tries < TRIES => {
                self.tries += 1;
                self.may_wait |= errno == Errno::AGAIN;
                Step::Again
            }
            (Err(errno), _) => Step::Failed(error_of(errno)),
        }
    }
}

/// What an error means here.
#[cold]
pub(super) fn error_of(errno: Errno) -> Error {
    match errno {
        Errno::NOSPC | Errno::DQUOT => Error::NoSpace,
        Errno::ROFS | Errno::PERM | Errno::ACCESS => Error::ReadOnly,
        Errno::NOMEM | Errno::NOBUFS => Error::NoBuffers,
        Errno::CANCELED => Error::Cancelled,
        Errno::INVAL => {
            Error::Invalid("refused by the file system: the file was cut off, or alignment has changed")
        }
        Errno::OPNOTSUPP => Error::NotSupported("refused by the device or file system"),
        // What is left, of what these requests can end with, are the medium's own faults.
        _ => Error::Io,
    }
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::{Heap, HeapConfig, HugePages};

    use super::*;

    fn heap() -> Heap {
        Heap::new(&HeapConfig { size: 2 << 20, huge_pages: HugePages::Never, lock: false }).unwrap()
    }

    #[test]
    fn a_short_write_goes_on_where_it_ended() {
        let heap = heap();
        let mut slot = Slot::default();
        let data: SgArray = (0..3).map(|_| heap.alloc(1024).unwrap().freeze()).collect();
        let starts: Vec<_> = data.segments().iter().map(|segment| segment.as_ptr()).collect();
        slot.occupy(1, 0, Held::Write { data, durable: false });
        slot.point();
        assert_eq!(slot.iovecs.len(), 3);

        assert_eq!(slot.advance(Ok(1536)), Step::Again);
        slot.point();
        assert_eq!(slot.iovecs.len(), 2);
        assert_eq!(slot.iovecs[0].iov_base.cast_const().cast(), starts[1].wrapping_add(512));
        assert_eq!(slot.iovecs[0].iov_len, 512);
        assert_eq!(slot.iovecs[1].iov_base.cast_const().cast(), starts[2]);

        assert_eq!(slot.advance(Ok(1536)), Step::Done);
    }

    #[test]
    fn no_progress_is_an_error_and_interruptions_have_an_end() {
        let heap = heap();
        let mut slot = Slot::default();
        slot.occupy(1, 0, Held::Read(heap.alloc(512).unwrap()));
        assert_eq!(slot.advance(Ok(0)), Step::Failed(Error::Io));
        assert_eq!(slot.advance(Ok(513)), Step::Failed(Error::Io), "more than was asked for");
        slot.occupy(1, 0, Held::Read(heap.alloc(512).unwrap()));
        for _ in 0..TRIES {
            assert_eq!(slot.advance(Err(Errno::AGAIN)), Step::Again);
            assert!(slot.may_wait);
        }
        assert_eq!(slot.advance(Err(Errno::AGAIN)), Step::Failed(Error::Io));
    }

    #[test]
    fn a_name_is_that_of_one_request_only() {
        let mut slot = Slot::default();
        slot.occupy(7, 0, Held::Flush);
        let name = slot.name(3);
        assert!(slot.is_named(name));
        assert_eq!(slot.vacate(Ok(())).unwrap().tag, 7);
        assert!(!slot.is_named(name), "it is over");
        slot.occupy(8, 0, Held::Flush);
        assert!(!slot.is_named(name), "it was another's");
    }
}
