//! The shared receive queue of libibverbs.
//!
//! Invariant: it is destroyed once, after all queue pairs that draw from it, which hold counts of it.

use std::ptr::{self, NonNull};
use std::rc::Rc;

use rdma_sys as ib;
use rustix::io::Result;

use crate::verbs::domain::raw::{Domain, Plain, last};

/// Most receives that are handed over at once.
pub(in crate::verbs) const POSTS: usize = 32;

/// The shared receive queue.
pub(in crate::verbs) struct SharedQueue {
    srq: NonNull<ib::ibv_srq>,
    _domain: Rc<Domain>,
}

/// A buffer for the next message.
#[derive(Clone, Copy, Debug)]
pub(in crate::verbs) struct Receive {
    pub(in crate::verbs) name: u64,
    pub(in crate::verbs) addr: u64,
    pub(in crate::verbs) len: u32,
    pub(in crate::verbs) key: u32,
}

impl SharedQueue {
    pub(in crate::verbs) fn new(domain: &Rc<Domain>, depth: u32) -> Result<Rc<SharedQueue>> {
        let mut attributes = ib::ibv_srq_init_attr::zeroed();
        attributes.attr.max_wr = depth;
        attributes.attr.max_sge = 1;
        // SAFETY: the domain lives; the attributes are read and written during the call only.
        let srq = unsafe { ib::ibv_create_srq(domain.pd.as_ptr(), &mut attributes) };
        Ok(Rc::new(SharedQueue { srq: NonNull::new(srq).ok_or_else(last)?, _domain: Rc::clone(domain) }))
    }

    /// Posts at most [`POSTS`] buffers with one call; returns how many it took. Each must lie still and untouched until its
    /// completion, or until the queue and all its queue pairs are gone.
    pub(in crate::verbs) fn post(&self, receives: &[Receive]) -> usize {
        let mut segments = [ib::ibv_sge::zeroed(); POSTS];
        let mut requests = [ib::ibv_recv_wr::zeroed(); POSTS];
        let count = receives.len().min(POSTS);
        if count == 0 {
            return 0;
        }
        for (segment, receive) in segments.iter_mut().zip(receives) {
            *segment = ib::ibv_sge { addr: receive.addr, length: receive.len, lkey: receive.key };
        }
        let (first_segment, first) = (segments.as_mut_ptr(), requests.as_mut_ptr());
        for at in 0..count {
            let next = if at + 1 < count { first.wrapping_add(at + 1) } else { ptr::null_mut() };
            requests[at] = ib::ibv_recv_wr {
                wr_id: receives[at].name,
                next,
                sg_list: first_segment.wrapping_add(at),
                num_sge: 1,
            };
        }
        let mut bad = ptr::null_mut();
        // SAFETY: the queue lives. Requests and segments are chained within the arrays, which live through the call, and
        // copied by it.
        let code = unsafe { ib::ibv_post_srq_recv(self.srq.as_ptr(), requests.as_mut_ptr(), &mut bad) };
        if code == 0 {
            return count;
        }
        let refused = requests.iter().position(|request| ptr::eq(request, bad));
        refused.unwrap_or(0)
    }

    pub(in crate::verbs) fn as_ptr(&self) -> *mut ib::ibv_srq {
        self.srq.as_ptr()
    }
}

impl Drop for SharedQueue {
    fn drop(&mut self) {
        // SAFETY: all queue pairs hold a count of it, so none is left; it is destroyed once.
        let code = unsafe { ib::ibv_destroy_srq(self.srq.as_ptr()) };
        if code != 0 {
            tracing::warn!(code, "a device keeps a shared receive queue");
        }
    }
}
