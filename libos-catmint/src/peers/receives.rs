//! The shared receive queue: as many receives as all peers together were promised.
//!
//! Invariant: where there is memory for it, `posted` and what is owed are together at least what is promised. A receive that there is
//! no memory for is owed to the peer whose message took it, who is not told that it was taken before it is replaced; if it was
//! nobody's, it is replaced after all that is owed.

use demi_api::error::Error;
use demi_api::memalloc::{BufMut, Heap};

use crate::device::{DeviceCx, RdmaDevice};

/// The account of the shared receive queue.
#[derive(Debug)]
pub(crate) struct Receives {
    size: usize,
    posted: usize,
    promised: usize,
    /// The most that were promised at a time. So many are kept: peers come again.
    kept: usize,
}

impl Receives {
    /// None yet, of so many bytes each.
    pub(crate) fn new(size: u32) -> Receives {
        Receives { size: size as usize, posted: 0, promised: 0, kept: 0 }
    }

    /// Promises a peer so many. Fails if there is no memory or the device has no room for them.
    pub(crate) fn promise(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &DeviceCx<'_>,
        count: u16,
    ) -> Result<(), Error> {
        self.promised += usize::from(count);
        while self.posted < self.promised {
            let posted = self.post_new(device, cx);
            if let Err(error) = posted {
                self.promised -= usize::from(count);
                return Err(error);
            }
        }
        self.kept = self.kept.max(self.promised);
        Ok(())
    }

    /// Takes a promise back. What is posted stays, for the next.
    pub(crate) fn withdraw(&mut self, count: u16) {
        self.promised -= usize::from(count);
    }

    /// Whether there are fewer than were promised.
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        self.posted < self.promised
    }

    /// A message took one.
    #[inline]
    pub(crate) fn note_taken(&mut self) {
        self.posted = self.posted.saturating_sub(1);
    }

    /// Puts another in its place. False: there is no memory.
    #[inline]
    pub(crate) fn replace(&mut self, device: &mut dyn RdmaDevice, cx: &DeviceCx<'_>) -> bool {
        self.posted >= self.kept || self.post_new(device, cx).is_ok()
    }

    /// The same with the buffer that the message lay in.
    #[inline]
    pub(crate) fn put_back(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &DeviceCx<'_>,
        mut buf: BufMut,
    ) -> bool {
        if self.posted >= self.kept {
            return true;
        }
        if buf.capacity() < self.size {
            return self.replace(device, cx);
        }
        buf.set_len(self.size);
        let taken = device.receive(cx, buf).is_ok();
        self.posted += usize::from(taken);
        taken
    }

    fn post_new(&mut self, device: &mut dyn RdmaDevice, cx: &DeviceCx<'_>) -> Result<(), Error> {
        let buf = Heap::alloc(cx.heap, self.size)?;
        device.receive(cx, buf).map_err(|_| Error::NoBuffers)?;
        self.posted += 1;
        Ok(())
    }
}
