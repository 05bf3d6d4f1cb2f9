//! Queues made of queues, over closures of C.
//!
//! A closure is given arrays that it may look at, and that are not its own: their handle is NULL. What `map` returns is
//! taken in like what is pushed; if it is an array of the program's, its handle passes to the queue.

use std::ffi::c_int;

use demi_api::{Codec, Endian, Error, LibOs, SgArray};

use crate::addr;
use crate::errno::Errno;
use crate::instance::Instance;
use crate::raw::{Change, Comparison, Out, Predicate, Thread};
use crate::transfer::{NO_ARRAY, descriptor};
use crate::types::{Array, Segment};

impl<L: LibOs + 'static> Instance<L> {
    pub(crate) fn queue(&self, qd: Out<'_, c_int>) -> Result<(), Errno> {
        qd.set(self.fresh(self.demi.queue()?));
        Ok(())
    }

    pub(crate) fn merge(&self, qd: Out<'_, c_int>, a: c_int, b: c_int) -> Result<(), Errno> {
        qd.set(self.fresh(self.demi.merge(descriptor(a)?, descriptor(b)?)?));
        Ok(())
    }

    pub(crate) fn filter(&self, qd: Out<'_, c_int>, from: c_int, predicate: Predicate) -> Result<(), Errno> {
        let derived = self.demi.filter(descriptor(from)?, move |sga| predicate.call(&borrowed(sga)))?;
        qd.set(self.fresh(derived));
        Ok(())
    }

    pub(crate) fn partition(
        &self,
        yes: Out<'_, c_int>,
        no: Out<'_, c_int>,
        from: c_int,
        predicate: Predicate,
    ) -> Result<(), Errno> {
        let (passes, others) =
            self.demi.partition(descriptor(from)?, move |sga| predicate.call(&borrowed(sga)))?;
        yes.set(self.fresh(passes));
        no.set(self.fresh(others));
        Ok(())
    }

    pub(crate) fn sort(&self, qd: Out<'_, c_int>, from: c_int, compare: Comparison) -> Result<(), Errno> {
        let derived =
            self.demi.sort(descriptor(from)?, move |a, b| compare.call(&borrowed(a), &borrowed(b)))?;
        qd.set(self.fresh(derived));
        Ok(())
    }

    pub(crate) fn map(
        &self,
        qd: Out<'_, c_int>,
        from: c_int,
        [on_pop, on_push]: [Change; 2],
    ) -> Result<(), Errno> {
        // The instance owns the operator, and so its closures, which cannot refer to it: they find it as calls do.
        let thread = self.thread;
        let derived = self.demi.map(
            descriptor(from)?,
            move |_, sga| changed(thread, sga, &on_pop),
            move |_, sga| changed(thread, sga, &on_push),
        )?;
        qd.set(self.fresh(derived));
        Ok(())
    }

    /// What a closure makes of an array.
    fn change(&self, sga: SgArray, change: &Change) -> Result<SgArray, Error> {
        let given = borrowed(&sga);
        let mut made = given;
        if let Some(errno) = change.call(&given, &mut made) {
            return Err(Error::System(errno));
        }
        let peer = sga.peer();
        let taken = self.take_in_from(&made, &given, sga);
        // An array of the program's is the queue's now, whatever came of it.
        if !made.buf.is_null() {
            let _ = self.sgafree(&mut made);
        }
        let mut taken = taken.map_err(|Errno(errno)| Error::System(errno))?;
        taken.set_peer(peer);
        Ok(taken)
    }

    /// As `take_in`, where segments may also be parts of those that the closure was given.
    fn take_in_from(&self, made: &Array, given: &Array, sga: SgArray) -> Result<SgArray, Errno> {
        let segments = made.segs.get(..made.numsegs as usize).ok_or(Errno(libc::EINVAL))?;
        if made.buf.is_null() && is_same(segments, &given.segs[..given.numsegs as usize]) {
            return Ok(sga);
        }
        let mut taken = SgArray::new();
        for segment in segments.iter().filter(|segment| segment.len > 0) {
            let within = sga.segments().iter().find_map(|buf| {
                let at = segment.buf.addr().checked_sub(buf.as_ptr().addr())?;
                let end = at.checked_add(segment.len as usize)?;
                (end <= buf.len()).then(|| buf.slice(at..end))
            });
            let part = match within {
                Some(part) => part.into(),
                None => self.take_in(&single(*segment))?,
            };
            for buf in part.into_segments() {
                taken.push(buf)?;
            }
        }
        Ok(taken)
    }

    pub(crate) fn frame(&self, qd: Out<'_, c_int>, from: c_int, framing: Codec) -> Result<(), Errno> {
        qd.set(self.fresh(self.demi.frame(descriptor(from)?, framing)?));
        Ok(())
    }

    /// Moves elements, and tells the program of the end by a token.
    pub(crate) fn qconnect_token(&self, token: Out<'_, u64>, from: c_int, to: c_int) -> Result<(), Errno> {
        token.set(self.demi.qconnect(descriptor(from)?, descriptor(to)?)?.raw());
        Ok(())
    }

    /// Moves elements, and tells nobody of the end.
    pub(crate) fn qconnect(&self, from: c_int, to: c_int) -> Result<(), Errno> {
        let token = self.demi.qconnect(descriptor(from)?, descriptor(to)?)?;
        if self.untold.get().is_none() {
            let _ = self.untold.set(self.demi.wait_set()?);
        }
        let Some(untold) = self.untold.get() else { return Err(Errno(libc::EDEADLK)) };
        untold.add(token)?;
        // What has ended since the last time is nobody's, and would take room for ever.
        let mut ended = Vec::new();
        let _ = untold.wait_n(&mut ended, usize::MAX, Some(std::time::Duration::ZERO));
        Ok(())
    }
}

fn changed<L: LibOs + 'static>(thread: Thread<L>, sga: SgArray, change: &Change) -> Result<SgArray, Error> {
    // Without an instance there is nothing left to be changed for.
    thread.with(|it| it.change(sga, change)).unwrap_or(Err(Error::Cancelled))
}

/// An array as a closure sees it.
#[inline]
fn borrowed(sga: &SgArray) -> Array {
    let mut array = NO_ARRAY;
    array.numsegs = sga.segments().len() as u32;
    array.addr = sga.peer().map(|peer| addr::short(&peer)).unwrap_or_default();
    for (place, segment) in array.segs.iter_mut().zip(sga.segments()) {
        *place = Segment { buf: segment.as_ptr().cast_mut().cast(), len: segment.len() as u32 };
    }
    array
}

fn single(segment: Segment) -> Array {
    let mut array = NO_ARRAY;
    array.numsegs = 1;
    array.segs[0] = segment;
    array
}

fn is_same(a: &[Segment], b: &[Segment]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.buf == b.buf && a.len == b.len)
}

/// The codec of a `struct demi_codec` and its delimiter.
pub(crate) fn codec(codec: &crate::types::Codec, delimiter: &[u8]) -> Result<Codec, Errno> {
    use crate::types::{CODEC_DELIMITER, CODEC_LENGTH, CODEC_RESP};
    match u32::try_from(codec.kind) {
        Ok(CODEC_LENGTH) => Ok(Codec::LengthPrefix {
            bytes: u8::try_from(codec.length_bytes).map_err(|_| Errno(libc::EINVAL))?,
            endian: if codec.little_endian != 0 { Endian::Little } else { Endian::Big },
        }),
        Ok(CODEC_DELIMITER) => Ok(Codec::Delimiter(delimiter.to_vec())),
        Ok(CODEC_RESP) => Ok(Codec::Resp),
        _ => Err(Errno(libc::EINVAL)),
    }
}
