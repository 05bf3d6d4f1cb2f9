//! The completion queue of libibverbs.
//!
//! Invariant: it is destroyed once, after all queue pairs that report to it, which hold counts of it.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use rdma_sys as ib;
use rustix::io::Result;

use crate::verbs::domain::raw::{Domain, checked, last, set_nonblocking};

/// The completion queue, with the descriptor that says when there is something in it.
pub(in crate::verbs) struct CompletionQueue {
    cq: NonNull<ib::ibv_cq>,
    channel: NonNull<ib::ibv_comp_channel>,
    _domain: Rc<Domain>,
}

/// A completion.
#[derive(Clone, Copy, Debug)]
pub(in crate::verbs) struct Done {
    pub(in crate::verbs) name: u64,
    pub(in crate::verbs) status: u32,
    /// Of a receive.
    pub(in crate::verbs) len: u32,
    pub(in crate::verbs) queue_pair: u32,
}

impl CompletionQueue {
    pub(in crate::verbs) fn new(domain: &Rc<Domain>, entries: u32) -> Result<Rc<CompletionQueue>> {
        let context = domain.context.as_ptr();
        // SAFETY: the context is open.
        let channel = unsafe { ib::ibv_create_comp_channel(context) };
        let channel = NonNull::new(channel).ok_or_else(last)?;
        let entries = c_int::try_from(entries).unwrap_or(c_int::MAX);
        // SAFETY: as above; the channel was just made.
        let cq = unsafe { ib::ibv_create_cq(context, entries, ptr::null_mut(), channel.as_ptr(), 0) };
        let Some(cq) = NonNull::new(cq) else {
            let errno = last();
            // SAFETY: nothing hangs on it; it is not used any more.
            unsafe { ib::ibv_destroy_comp_channel(channel.as_ptr()) };
            return Err(errno);
        };
        let queue = CompletionQueue { cq, channel, _domain: Rc::clone(domain) };
        set_nonblocking(queue.fd())?;
        Ok(Rc::new(queue))
    }

    /// Appends at most `N` completions.
    #[inline]
    pub(in crate::verbs) fn poll<const N: usize>(&self, done: &mut Vec<Done>) -> usize {
        let mut entries = [const { MaybeUninit::<ib::ibv_wc>::zeroed() }; N];
        // SAFETY: the queue lives, and the array has room for `N` entries.
        let count = unsafe { ib::ibv_poll_cq(self.cq.as_ptr(), N as c_int, entries.as_mut_ptr().cast()) };
        let count = usize::try_from(count).unwrap_or(0);
        for entry in &entries[..count.min(N)] {
            // SAFETY: all of it are numbers, zero at first; the first `count` entries were written, as far as their kind goes.
            let entry = unsafe { entry.assume_init_ref() };
            done.push(Done {
                name: entry.wr_id,
                status: entry.status,
                len: entry.byte_len,
                queue_pair: entry.qp_num,
            });
        }
        count
    }

    /// Asks for the descriptor to become readable at the next completion.
    pub(in crate::verbs) fn notify(&self) -> Result<()> {
        // SAFETY: the queue lives.
        checked(unsafe { ib::ibv_req_notify_cq(self.cq.as_ptr(), 0) })
    }

    /// Makes the descriptor unreadable again.
    pub(in crate::verbs) fn take_notices(&self) {
        let (mut queue, mut context) = (ptr::null_mut(), ptr::null_mut());
        let mut count = 0;
        // SAFETY: the channel lives and does not block; both places are written to and not looked at, as one queue only is
        // on the channel. Each notice is acknowledged once.
        unsafe {
            while ib::ibv_get_cq_event(self.channel.as_ptr(), &mut queue, &mut context) == 0 {
                count += 1;
            }
            if count > 0 {
                ib::ibv_ack_cq_events(self.cq.as_ptr(), count);
            }
        }
    }

    pub(in crate::verbs) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as the channel, which `self` keeps.
        unsafe { BorrowedFd::borrow_raw((*self.channel.as_ptr()).fd) }
    }

    pub(in crate::verbs) fn as_ptr(&self) -> *mut ib::ibv_cq {
        self.cq.as_ptr()
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: all queue pairs hold a count of it, so none is left; each is destroyed once.
        unsafe {
            ib::ibv_destroy_cq(self.cq.as_ptr());
            ib::ibv_destroy_comp_channel(self.channel.as_ptr());
        }
    }
}
