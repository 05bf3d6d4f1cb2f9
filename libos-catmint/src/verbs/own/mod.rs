//! What the device does for this side alone, by a queue pair that is connected to itself: atomic operations on regions, which
//! then are atomic towards those of peers, as most devices are atomic towards themselves only; and whether it keeps a peer
//! inside of memory windows.

#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdma_sys::ibv_wc_status;
use rustix::io::{Errno, Result};

use self::raw::SelfConnected;
use super::completions::raw::{CompletionQueue, Done};
use super::config::Windows;
use super::domain::raw::{Domain, Registration, Rights, Window};
use super::memory::Shared;
use super::memory::raw::Mapping;
use super::queue::raw::{How, Requests, Segment, Work};
use crate::device::{Access, Atomic, Remote};

/// How long one operation may take: it does not leave the device.
const LIMIT: Duration = Duration::from_millis(200);
/// Postings that there is room for; one at a time is under way.
const DEPTH: u32 = 4;

/// A queue pair that is connected to itself.
pub(super) struct Own {
    // In the order in which they must go.
    queue_pair: SelfConnected,
    completions: Rc<CompletionQueue>,
    result: Shared,
    requests: Requests,
    next: u32,
    done: Vec<Done>,
}

impl Own {
    pub(super) fn new(domain: &Rc<Domain>) -> Result<Own> {
        let completions = CompletionQueue::new(domain, DEPTH)?;
        Ok(Own {
            queue_pair: SelfConnected::new(domain, &completions, DEPTH)?,
            completions,
            result: Shared::new(domain, 4096, Access::default())?,
            requests: Requests::new(DEPTH),
            next: 0,
            done: Vec::new(),
        })
    }

    /// Carries it out, and waits for it. After an error this is of no more use.
    pub(super) fn atomic(&mut self, at: Remote, op: Atomic) -> Result<u64> {
        let work = match op {
            Atomic::CompareSwap { expected, new } => Work::CompareSwap { at, expected, new },
            Atomic::FetchAdd(add) => Work::FetchAdd { at, add },
        };
        match self.run(work, 8)? {
            ibv_wc_status::IBV_WC_SUCCESS => {
                let word = self.result.mapping.word(0).ok_or(Errno::IO)?;
                Ok(word.load(Ordering::Acquire))
            }
            _ => Err(Errno::IO),
        }
    }

    /// Has one thing done, the result of which is some bytes; the status of its completion.
    fn run(&mut self, work: Work, len: u32) -> Result<ibv_wc_status::Type> {
        let (addr, key) = (self.result.mapping.address(0), self.result.registration.local());
        let result = Some(Segment { addr, len, key }).filter(|result| result.len > 0);
        let number = self.next;
        self.next = number.wrapping_add(1);
        let how = How { signalled: true, inline: false };
        self.requests.write(number, number.into(), work, result.into_iter(), how);
        self.requests.post(self.queue_pair.as_ptr(), number, self.next).map_err(|(_, errno)| errno)?;
        let begin = Instant::now();
        self.done.clear();
        while self.completions.poll::<1>(&mut self.done) == 0 {
            if begin.elapsed() > LIMIT {
                return Err(Errno::TIMEDOUT);
            }
            std::hint::spin_loop();
        }
        let done = self.done.first().filter(|done| done.name == u64::from(number));
        done.map(|done| done.status).ok_or(Errno::IO)
    }
}

/// How memory can be opened to peers: binds a window to the begin of a registration, and reads behind its end.
pub(super) fn try_windows(domain: &Rc<Domain>) -> Result<Windows> {
    const LEN: u32 = 64;
    let mut own = Own::new(domain)?;
    let mapping = Mapping::new(4096)?;
    let rights = Rights { window: true, ..Rights::default() };
    let registration = Rc::new(Registration::new(domain, mapping.base(), mapping.len(), rights)?);
    let window = Window::new(domain)?;
    let (addr, key) = (mapping.address(0), window.next_key());
    let bind = Work::Bind {
        window: Rc::clone(&window),
        key,
        registration: Rc::clone(&registration),
        addr,
        len: LEN.into(),
    };
    let is_bound = own.run(bind, 0)? == ibv_wc_status::IBV_WC_SUCCESS;
    let from = Remote { addr, key };
    let is_open = is_bound && own.run(Work::Read(from), LEN)? == ibv_wc_status::IBV_WC_SUCCESS;
    let is_closed = is_open && own.run(Work::Read(from), LEN + 1)? == ibv_wc_status::IBV_WC_REM_ACCESS_ERR;
    // The window, then what it is bound to: the queue pair, the registration.
    drop(window);
    drop(own);
    drop(registration);
    Ok(match (is_open, is_closed) {
        (false, _) => Windows::Off,
        (true, false) => Windows::Narrow,
        (true, true) => Windows::Auto,
    })
}
