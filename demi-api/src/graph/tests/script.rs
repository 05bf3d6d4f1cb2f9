//! A libOS that does what a test tells it to: what arrives, when pushes complete, what is refused.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use crate::addr::{Domain, SocketKind};
use crate::config::Config;
use crate::desc::{QDesc, QueueTable};
use crate::error::Error;
use crate::fd::Fd;
use crate::instance::Demikernel;
use crate::libos::{Cx, LibOs, QueueKind, Setup, Shutdown};
use crate::op::{Atomic, Done, Op, Position, Step};
use crate::sga::SgArray;
use crate::sys;
use crate::time::Instant;
use crate::token::QToken;

pub(super) struct Script {
    queues: QueueTable<Queue>,
    fd: Fd,
}

pub(super) struct Queue {
    kind: QueueKind,
    incoming: VecDeque<Result<SgArray, Error>>,
    pub(super) pops: VecDeque<(QToken, usize)>,
    pub(super) sent: Vec<Vec<u8>>,
    /// Pushes stay pending until this is cleared.
    pub(super) holds: bool,
    pub(super) held: VecDeque<QToken>,
    pub(super) refuses: Option<Error>,
    pub(super) uncancellable: bool,
    pub(super) shut: bool,
}

impl Queue {
    fn next(&mut self, limit: usize) -> Option<Result<SgArray, Error>> {
        if let Some(Ok(sga)) = self.incoming.front_mut()
            && self.kind == QueueKind::Stream
        {
            if sga.is_empty() {
                return Some(Ok(SgArray::new()));
            }
            if sga.len() > limit {
                return Some(Ok(sga.split_to(limit)));
            }
        }
        self.incoming.pop_front()
    }
}

impl LibOs for Script {
    const NAME: &'static str = "script";

    fn create(setup: Setup<'_>) -> Result<Script, Error> {
        let (fd, _) = sys::pipe()?;
        Ok(Script { queues: QueueTable::new(setup.tag, 1 << 16), fd })
    }

    fn socket(&mut self, _: &mut Cx<'_>, _: Domain, kind: SocketKind) -> Result<QDesc, Error> {
        let kind = match kind {
            SocketKind::Stream => QueueKind::Stream,
            SocketKind::Datagram => QueueKind::Message,
        };
        self.queues.insert(Queue {
            kind,
            incoming: VecDeque::new(),
            pops: VecDeque::new(),
            sent: Vec::new(),
            holds: false,
            held: VecDeque::new(),
            refuses: None,
            uncancellable: false,
            shut: false,
        })
    }

    fn shutdown(&mut self, _: &mut Cx<'_>, qd: QDesc, _: Shutdown) -> Result<(), Error> {
        self.queues.get_mut(qd)?.shut = true;
        Ok(())
    }

    fn close(&mut self, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error> {
        let queue = self.queues.remove(qd)?;
        for (token, _) in queue.pops {
            cx.done.post(token, Err(Error::Cancelled));
        }
        for token in queue.held {
            cx.done.post(token, Ok(Done::Pushed(Position(77))));
        }
        Ok(())
    }

    fn kind(&self, qd: QDesc) -> Result<QueueKind, Error> {
        Ok(self.queues.get(qd)?.kind)
    }

    fn start(&mut self, _: &mut Cx<'_>, token: QToken, qd: QDesc, op: &mut Op) -> Result<Step, Error> {
        let queue = self.queues.get_mut(qd)?;
        match op {
            Op::Pop { limit } => {
                if queue.pops.is_empty()
                    && let Some(element) = queue.next(*limit)
                {
                    return Ok(Step::Done(element.map(Done::Popped)));
                }
                queue.pops.push_back((token, *limit));
                Ok(Step::Pending)
            }
            Op::Push { sga, .. } => {
                if let Some(error) = &queue.refuses {
                    return Err(error.clone());
                }
                queue.sent.push(std::mem::take(sga).to_vec());
                if queue.holds {
                    queue.held.push_back(token);
                    return Ok(Step::Pending);
                }
                Ok(Step::Done(Ok(Done::Pushed(Position(queue.sent.len() as u64)))))
            }
            Op::Flush => Ok(Step::Done(Ok(Done::Flushed))),
            Op::Accept | Op::Connect(_) => Err(Error::NotSupported("script")),
            Op::Atomic { change: Atomic::FetchAdd(add), .. } => Ok(Step::Done(Ok(Done::Fetched(*add)))),
            Op::Atomic { .. } => Err(Error::NotSupported("script")),
        }
    }

    fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc) -> Result<(), Error> {
        let queue = self.queues.get_mut(qd)?;
        let index = queue.pops.iter().position(|(pop, _)| *pop == token).ok_or(Error::NotCancellable)?;
        if queue.uncancellable {
            return Err(Error::NotCancellable);
        }
        queue.pops.remove(index);
        cx.done.post(token, Err(Error::Cancelled));
        Ok(())
    }

    fn poll(&mut self, cx: &mut Cx<'_>) -> usize {
        let mut work = 0;
        let open: Vec<QDesc> = self.queues.iter().map(|(qd, _)| qd).collect();
        for qd in open {
            let queue = self.queues.get_mut(qd).expect("it was listed");
            while let Some((token, limit)) = queue.pops.front().copied()
                && let Some(element) = queue.next(limit)
            {
                queue.pops.pop_front();
                cx.done.post(token, element.map(Done::Popped));
                work += 1;
            }
            while !queue.holds
                && let Some(token) = queue.held.pop_front()
            {
                cx.done.post(token, Ok(Done::Pushed(Position(0))));
                work += 1;
            }
        }
        work
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn arm(&mut self, _: &mut Cx<'_>) -> bool {
        true
    }

    fn counters(&self, _: &mut dyn FnMut(&'static str, u64)) {}
}

/// An instance over a script, and short words for what tests do with it.
pub(super) struct Host {
    pub(super) demi: Demikernel<Script>,
}

impl Host {
    pub(super) fn new() -> Host {
        Host::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Host {
        let mut config = Config::default();
        config.heap.size_mib = 4;
        config.heap.lock = false;
        change(&mut config);
        Host { demi: Demikernel::new(&config).expect("a small instance") }
    }

    pub(super) fn stream(&self) -> QDesc {
        self.demi.socket(Domain::Inet, SocketKind::Stream).expect("sockets cost nothing here")
    }

    pub(super) fn messages(&self) -> QDesc {
        self.demi.socket(Domain::Inet, SocketKind::Datagram).expect("sockets cost nothing here")
    }

    /// Has bytes arrive; none at all on a stream are its end.
    pub(super) fn feed(&self, qd: QDesc, bytes: &[u8]) {
        let sga = if bytes.is_empty() { SgArray::new() } else { self.array(bytes) };
        self.feed_array(qd, sga);
    }

    pub(super) fn feed_array(&self, qd: QDesc, sga: SgArray) {
        self.base(qd, |queue| queue.incoming.push_back(Ok(sga)));
    }

    pub(super) fn fail(&self, qd: QDesc, error: Error) {
        self.base(qd, |queue| queue.incoming.push_back(Err(error)));
    }

    pub(super) fn base<T>(&self, qd: QDesc, look: impl FnOnce(&mut Queue) -> T) -> T {
        let mut core = self.demi.core().expect("no closure runs");
        look(core.libos.queues.get_mut(qd).expect("a queue of the script"))
    }

    pub(super) fn sent(&self, qd: QDesc) -> Vec<Vec<u8>> {
        self.base(qd, |queue| std::mem::take(&mut queue.sent))
    }

    pub(super) fn array(&self, bytes: &[u8]) -> SgArray {
        self.demi.copy_from(bytes).expect("room for a test's bytes")
    }

    pub(super) fn push(&self, qd: QDesc, bytes: &[u8]) -> QToken {
        self.demi.push(qd, self.array(bytes)).map_err(Error::from).expect("the push is not refused")
    }

    /// The result, or `None` if the operation is still pending after more turns than a result takes.
    pub(super) fn result(&self, token: QToken) -> Option<Result<Done, Error>> {
        for _ in 0..256 {
            if let Some(completion) =
                self.demi.core().expect("no closure runs").done.take(token).expect("a token")
            {
                return Some(completion.result);
            }
            self.demi.poll().expect("no closure runs");
        }
        None
    }

    pub(super) fn is_pending(&self, token: QToken) -> bool {
        self.demi.poll().expect("no closure runs");
        self.demi.core().expect("no closure runs").done.is_pending(token) == Ok(true)
    }

    pub(super) fn popped(&self, token: QToken) -> Result<Vec<u8>, Error> {
        match self.result(token).expect("the pop is done")? {
            Done::Popped(sga) => Ok(sga.to_vec()),
            other => panic!("not a pop: {other:?}"),
        }
    }

    pub(super) fn pop(&self, qd: QDesc) -> Result<Vec<u8>, Error> {
        self.popped(self.demi.pop(qd).expect("the pop begins"))
    }

    pub(super) fn batch(&self, token: QToken) -> Result<Vec<Vec<u8>>, Error> {
        match self.result(token).expect("the pop is done")? {
            Done::Batch(elements) => Ok(elements.iter().map(SgArray::to_vec).collect()),
            other => panic!("not a batch: {other:?}"),
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.demi.counters().expect("no closure runs").elements_dropped
    }

    /// After everything is closed, not a token and not a byte is left.
    pub(super) fn assert_clean(&self) {
        for _ in 0..8 {
            self.demi.poll().expect("no closure runs");
        }
        let counters = self.demi.counters().expect("no closure runs");
        assert_eq!(counters.operations_pending, 0, "operations are pending");
        assert_eq!(counters.operations_unreaped, 0, "operations are unreaped");
        assert_eq!(counters.stale_posts, 0, "something completed twice");
        assert_eq!(counters.heap.bytes_live, 0, "buffers are alive");
    }
}
