//! The work requests of one queue pair, as libibverbs reads them: written one by one, handed over as a chain.
//!
//! Invariants: a chain is posted once, in the order in which it was written, and all that it points to lives then:
//! segments beside the requests, windows and registrations by their counts. What the device reads and writes afterwards is
//! kept by the [queue](super).

use std::ptr::{self, NonNull};
use std::rc::Rc;

use rdma_sys as ib;
use rustix::io::Errno;

use crate::device::Remote;
use crate::verbs::domain::raw::{Plain, Registration, Window};

/// Most segments of one request.
pub(in crate::verbs) const SEGMENTS: usize = 9;

/// Bytes of this side.
#[derive(Clone, Copy, Debug)]
pub(in crate::verbs) struct Segment {
    pub(in crate::verbs) addr: u64,
    pub(in crate::verbs) len: u32,
    pub(in crate::verbs) key: u32,
}

/// What a request asks for.
pub(in crate::verbs) enum Work {
    Send,
    Write(Remote),
    Read(Remote),
    CompareSwap {
        at: Remote,
        expected: u64,
        new: u64,
    },
    FetchAdd {
        at: Remote,
        add: u64,
    },
    /// Lets the peer read `len` bytes from `addr` of a registration under a key.
    Bind {
        window: Rc<Window>,
        key: u32,
        registration: Rc<Registration>,
        addr: u64,
        len: u64,
    },
    Invalidate {
        key: u32,
    },
}

/// What else there is to say of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::verbs) struct How {
    /// A completion is wanted also if all goes well.
    pub(in crate::verbs) signalled: bool,
    /// The bytes are copied when it is posted.
    pub(in crate::verbs) inline: bool,
}

/// What a request to bind points to, and the key that the window then has.
type Binding = (Rc<Window>, Rc<Registration>, u32);

/// Requests by their place, which is their number modulo the depth.
pub(in crate::verbs) struct Requests {
    requests: Box<[ib::ibv_send_wr]>,
    segments: Box<[[ib::ibv_sge; SEGMENTS]]>,
    bindings: Box<[Option<Binding>]>,
}

impl Requests {
    /// # Panics
    /// When the depth is no power of two.
    pub(in crate::verbs) fn new(depth: u32) -> Requests {
        assert!(depth.is_power_of_two(), "the configuration's bounds were checked");
        // SAFETY: a request consists of numbers and raw pointers, for which zeroes will do.
        let requests = (0..depth).map(|_| unsafe { std::mem::zeroed() }).collect();
        Requests {
            requests,
            segments: vec![[ib::ibv_sge::zeroed(); SEGMENTS]; depth as usize].into(),
            bindings: (0..depth).map(|_| None).collect(),
        }
    }

    #[inline]
    fn at(&self, number: u32) -> usize {
        number as usize & (self.requests.len() - 1)
    }

    /// Writes request `number`, of at most [`SEGMENTS`] segments; `name` is what its completion says.
    #[inline]
    pub(in crate::verbs) fn write(
        &mut self,
        number: u32,
        name: u64,
        work: Work,
        segments: impl Iterator<Item = Segment>,
        how: How,
    ) {
        let at = self.at(number);
        let mut count = 0;
        for (place, segment) in self.segments[at].iter_mut().zip(segments) {
            *place = ib::ibv_sge { addr: segment.addr, length: segment.len, lkey: segment.key };
            count += 1;
        }
        let request = &mut self.requests[at];
        request.wr_id = name;
        request.next = ptr::null_mut();
        request.sg_list = self.segments[at].as_mut_ptr();
        request.num_sge = count;
        // Providers refuse what has one without a use for it.
        request.imm_data_invalidated_rkey_union.invalidated_rkey = 0;
        let mut flags = ib::ibv_send_flags(0);
        if how.signalled {
            flags |= ib::ibv_send_flags::IBV_SEND_SIGNALED;
        }
        if how.inline {
            flags |= ib::ibv_send_flags::IBV_SEND_INLINE;
        }
        request.send_flags = flags.0;
        use ib::ibv_wr_opcode as is;
        let to =
            |remote: Remote| ib::wr_t { rdma: ib::rdma_t { remote_addr: remote.addr, rkey: remote.key } };
        let atomic = |at: Remote, compare_add, swap| ib::wr_t {
            atomic: ib::atomic_t { remote_addr: at.addr, compare_add, swap, rkey: at.key },
        };
        match work {
            Work::Send => request.opcode = is::IBV_WR_SEND,
            Work::Write(remote) => {
                (request.opcode, request.wr) = (is::IBV_WR_RDMA_WRITE, to(remote));
            }
            Work::Read(remote) => {
                (request.opcode, request.wr) = (is::IBV_WR_RDMA_READ, to(remote));
            }
            Work::CompareSwap { at, expected, new } => {
                (request.opcode, request.wr) = (is::IBV_WR_ATOMIC_CMP_AND_SWP, atomic(at, expected, new));
            }
            Work::FetchAdd { at, add } => {
                (request.opcode, request.wr) = (is::IBV_WR_ATOMIC_FETCH_AND_ADD, atomic(at, add, 0));
            }
            Work::Bind { window, key, registration, addr, len } => {
                request.opcode = is::IBV_WR_BIND_MW;
                request.bind_mw_tso_union.bind_mw = ib::bind_mw_t {
                    mw: window.as_ptr(),
                    rkey: key,
                    bind_info: ib::ibv_mw_bind_info {
                        mr: registration.as_ptr(),
                        addr,
                        length: len,
                        mw_access_flags: ib::ibv_access_flags::IBV_ACCESS_REMOTE_READ.0,
                    },
                };
                self.bindings[at] = Some((window, registration, key));
            }
            Work::Invalidate { key } => {
                request.opcode = is::IBV_WR_LOCAL_INV;
                request.imm_data_invalidated_rkey_union.invalidated_rkey = key;
            }
        }
    }

    /// Asks for a completion of a request that was written and not posted.
    #[inline]
    pub(in crate::verbs) fn signal(&mut self, number: u32) {
        let at = self.at(number);
        self.requests[at].send_flags |= ib::ibv_send_flags::IBV_SEND_SIGNALED.0;
    }

    /// Posts the requests `from..to`, which were written, with one call.
    ///
    /// # Errors
    /// How many of them were taken, and why the next was not.
    #[inline]
    pub(in crate::verbs) fn post(
        &mut self,
        qp: NonNull<ib::ibv_qp>,
        from: u32,
        to: u32,
    ) -> Result<(), (u32, Errno)> {
        if from == to {
            return Ok(());
        }
        let first = self.requests.as_mut_ptr();
        let mut number = from.wrapping_add(1);
        while number != to {
            let (before, this) = (self.at(number.wrapping_sub(1)), self.at(number));
            self.requests[before].next = first.wrapping_add(this);
            number = number.wrapping_add(1);
        }
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair lives, as whoever names it holds its identifier. Requests are chained within the array, the last
        // one's `next` is null since it was written, and there are no more than there are places, so the chain has no loop.
        // Segments lie beside them, and windows and registrations are kept in `bindings`. All is copied by the call.
        let code = unsafe { ib::ibv_post_send(qp.as_ptr(), first.wrapping_add(self.at(from)), &mut bad) };
        let taken = if code == 0 {
            to.wrapping_sub(from)
        } else {
            let of = |number: u32| first.wrapping_add(self.at(number));
            (0..to.wrapping_sub(from)).find(|count| ptr::eq(of(from.wrapping_add(*count)), bad)).unwrap_or(0)
        };
        for count in 0..taken {
            let at = self.at(from.wrapping_add(count));
            if let Some((window, _, key)) = self.bindings[at].take() {
                window.set_key(key);
            }
        }
        if code == 0 { Ok(()) } else { Err((taken, Errno::from_raw_os_error(code.abs()))) }
    }
}
