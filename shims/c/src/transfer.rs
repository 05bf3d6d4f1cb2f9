//! Arrays: allocated, freed, pushed, and handed out when they are popped.

use std::ffi::{c_int, c_void};
use std::ptr;

use demi_api::{Addr, Buf, LibOs, QDesc, QToken, QueueKind, Refused, SgArray};

use crate::addr;
use crate::errno::Errno;
use crate::instance::Instance;
use crate::memory::Handle;
use crate::raw::{NOTHING, Out, copy_in, give_back, share};
use crate::types::{Address, Array, MAX_SEGMENTS, Segment};

/// No array: that of a failed allocation.
pub(crate) const NO_ARRAY: Array = Array {
    buf: ptr::null_mut(),
    numsegs: 0,
    segs: [Segment { buf: ptr::null_mut(), len: 0 }; MAX_SEGMENTS],
    addr: Address([0; 28]),
};

/// A descriptor as C has it.
#[inline]
pub(crate) fn descriptor(qd: c_int) -> Result<QDesc, Errno> {
    u32::try_from(qd).map(QDesc::from_raw).map_err(|_| Errno(libc::EBADF))
}

impl<L: LibOs + 'static> Instance<L> {
    /// Allocates an array of one segment. None without bytes, so that an array that is not one can be told.
    pub(crate) fn sgaalloc(&self, len: usize, out: Out<'_, Array>) -> Result<(), Errno> {
        if len == 0 {
            return Err(Errno(libc::EINVAL));
        }
        let buf = self.heap.alloc(len).map_err(|_| Errno(libc::ENOMEM))?;
        self.hand_out(&mut buf.into(), None, out)
    }

    /// Takes an array from the program. What is in flight of it goes when it has arrived.
    #[inline(always)]
    pub(crate) fn sgafree(&self, array: &mut Array) -> Result<(), Errno> {
        let handle = Handle(array.buf.addr() as u64);
        if handle != Handle::EMPTY {
            self.memory.borrow_mut().take_back(handle)?;
        }
        array.buf = ptr::null_mut();
        Ok(())
    }

    /// Memory that can be pushed from without a copy. NULL if there is not so much.
    pub(crate) fn malloc(&self, len: usize) -> *mut c_void {
        // As of the C library's, of no bytes, too, each has an address of its own.
        match self.heap.alloc(len.max(1)) {
            Ok(buf) => self.memory.borrow_mut().allocate(buf).cast(),
            Err(_) => ptr::null_mut(),
        }
    }

    /// Takes memory back. What is in flight of it goes when it has arrived.
    pub(crate) fn free(&self, ptr: *mut c_void) -> Result<(), Errno> {
        if ptr.is_null() {
            return Ok(());
        }
        let taken = self.memory.borrow_mut().deallocate(ptr.cast_const().cast());
        give_back(&self.heap, taken.ok_or(Errno(libc::EINVAL))?);
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn push(&self, token: Out<'_, u64>, qd: c_int, array: &Array) -> Result<(), Errno> {
        let qd = descriptor(qd)?;
        if self.watch.is_none()
            && let Some(part) = self.part(array)
        {
            match self.demi.push(qd, part) {
                Ok(started) => token.set(started.raw()),
                Err(refused) => return Err(refused.into()),
            }
            return Ok(());
        }
        self.push_slowly(token, qd, array)
    }

    #[cold]
    #[inline(never)]
    fn push_slowly(&self, token: Out<'_, u64>, qd: QDesc, array: &Array) -> Result<(), Errno> {
        let sga = self.take_in(array)?;
        let started = match self.watch {
            Some(_) => self.push_watched(qd, sga, None),
            None => self.demi.push(qd, sga),
        };
        token.set(started?.raw());
        Ok(())
    }

    pub(crate) fn push_to(
        &self,
        token: Out<'_, u64>,
        qd: c_int,
        array: &Array,
        to: &[u8],
    ) -> Result<(), Errno> {
        let (qd, to) = (descriptor(qd)?, addr::parse(to)?);
        let sga = self.take_in(array)?;
        // A stream goes to its peer only; that it is named is no reason to refuse.
        let to = match self.demi.kind(qd)? {
            QueueKind::Message => Some(to),
            QueueKind::Stream if self.demi.peer_addr(qd)? == to => None,
            QueueKind::Stream => return Err(Errno(libc::EISCONN)),
        };
        let started = match (&self.watch, to) {
            (Some(_), to) => self.push_watched(qd, sga, to),
            (None, Some(to)) => self.demi.push_to(qd, sga, to),
            (None, None) => self.demi.push(qd, sga),
        };
        token.set(started?.raw());
        Ok(())
    }

    /// Pushes, and keeps what is needed to see whether it was written to.
    #[cold]
    fn push_watched(&self, qd: QDesc, sga: SgArray, to: Option<Addr>) -> Result<QToken, Refused> {
        let copy = sga.clone();
        let token = match to {
            Some(to) => self.demi.push_to(qd, sga, to)?,
            None => self.demi.push(qd, sga)?,
        };
        if let Some(watch) = &self.watch {
            watch.borrow_mut().pushed(token, copy);
        }
        Ok(token)
    }

    /// The bytes of an array of one segment, where they lie in one that is lent.
    #[inline(always)]
    fn part(&self, array: &Array) -> Option<Buf> {
        let only = &array.segs[0];
        if array.numsegs != 1 || only.len == 0 {
            return None;
        }
        let handle = Handle(array.buf.addr() as u64);
        self.memory.borrow().part(handle, only.buf.cast_const().cast(), only.len as usize)
    }

    /// An array of the program, by reference: in the heap as it lies there, from elsewhere as a copy.
    pub(crate) fn take_in(&self, array: &Array) -> Result<SgArray, Errno> {
        match self.part(array) {
            Some(part) => Ok(part.into()),
            None => self.take_in_slowly(array),
        }
    }

    #[inline(never)]
    fn take_in_slowly(&self, array: &Array) -> Result<SgArray, Errno> {
        let segments = array.segs.get(..array.numsegs as usize).filter(|segments| !segments.is_empty());
        let mut sga = SgArray::new();
        for segment in segments.ok_or(Errno(libc::EINVAL))? {
            if segment.len == 0 {
                continue;
            }
            let buf = if self.heap.contains(segment.buf.cast_const().cast()) {
                share(&self.heap, &self.memory.borrow(), segment).ok_or(Errno(libc::EFAULT))?
            } else {
                copy_in(&self.heap, segment)?
            };
            sga.push(buf)?;
        }
        Ok(sga)
    }

    #[inline]
    pub(crate) fn pop(&self, token: Out<'_, u64>, qd: c_int) -> Result<(), Errno> {
        token.set(self.demi.pop(descriptor(qd)?)?.raw());
        Ok(())
    }

    pub(crate) fn pop_n(&self, token: Out<'_, u64>, qd: c_int, count: usize) -> Result<(), Errno> {
        token.set(self.demi.pop_n(descriptor(qd)?, count)?.raw());
        Ok(())
    }

    pub(crate) fn cancel(&self, token: u64) -> Result<(), Errno> {
        Ok(self.demi.cancel(QToken::from_raw(token))?)
    }

    /// Hands an array to the program, in as many segments as one of `qd` may have. Nothing is left in `sga` then; without the
    /// memory for it, everything is.
    #[inline(always)]
    pub(crate) fn hand_out(
        &self,
        sga: &mut SgArray,
        qd: Option<QDesc>,
        out: Out<'_, Array>,
    ) -> Result<(), Errno> {
        match sga.single() {
            Some(one) if !one.is_empty() && !sga.has_peer() => {
                let one = segment(one);
                match self.memory.borrow_mut().lend(sga) {
                    Some(handle) => {
                        out.set_single(handle, one);
                        Ok(())
                    }
                    None => Err(Errno(libc::ENOMEM)),
                }
            }
            _ => self.hand_out_any(sga, qd, out.zeroed()),
        }
    }

    #[inline(never)]
    fn hand_out_any(&self, sga: &mut SgArray, qd: Option<QDesc>, out: &mut Array) -> Result<(), Errno> {
        out.addr = sga.peer().map(|peer| addr::short(&peer)).unwrap_or_default();
        if sga.is_empty() {
            *sga = SgArray::new();
            // One segment without bytes: programs look at the first one's length.
            out.buf = Handle::EMPTY.as_ptr();
            out.numsegs = 1;
            out.segs[0].buf = ptr::from_ref(&NOTHING).cast_mut().cast();
            return Ok(());
        }
        self.gather(sga, self.limit_of(qd))?;
        out.numsegs = sga.segments().len() as u32;
        for (place, one) in out.segs.iter_mut().zip(sga.segments()) {
            *place = segment(one);
        }
        let handle = self.memory.borrow_mut().lend(sga).ok_or(Errno(libc::ENOMEM))?;
        out.buf = handle.as_ptr();
        Ok(())
    }

    /// Copies the last segments into one, so that there are at most `limit`.
    #[cold]
    pub(crate) fn gather(&self, sga: &mut SgArray, limit: usize) -> Result<(), Errno> {
        if sga.segments().len() <= limit {
            return Ok(());
        }
        let (kept, rest) = sga.segments().split_at(limit.clamp(1, MAX_SEGMENTS) - 1);
        let last = self.heap.join(rest.iter()).map_err(|_| Errno(libc::ENOMEM))?;
        let mut gathered: SgArray = kept.iter().cloned().chain([last.freeze()]).collect();
        gathered.set_peer(sga.peer());
        *sga = gathered;
        Ok(())
    }

    /// How many segments an array that is popped from `qd` may have.
    pub(crate) fn limit_of(&self, qd: Option<QDesc>) -> usize {
        let own = qd.and_then(|qd| self.limits.by_queue.borrow().get(&(qd.raw() as c_int)).copied());
        own.unwrap_or(self.limits.all.get())
    }
}

#[inline]
fn segment(buf: &Buf) -> Segment {
    Segment { buf: buf.as_ptr().cast_mut().cast(), len: buf.len() as u32 }
}
