//! An instance: a libOS, its heap, its tokens, its operators. One per thread, never shared between threads.
//!
//! [`Demikernel`] is a cheap handle; all of an instance's state lies in one cell behind it, borrowed for the
//! length of one call and never across a sleep. A closure of an operator that calls back meets the borrow
//! and gets [`Error::Reentrant`].

use std::cell::{RefCell, RefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use demi_memalloc::{BufMut, Heap, HeapStats};

use crate::addr::{Addr, Domain, SocketKind};
use crate::aio::sched::Scheduler;
use crate::config::Config;
use crate::desc::{QDesc, Tag};
use crate::error::Error;
use crate::fd::Fd;
use crate::graph::Graph;
use crate::libos::{Cx, LibOs, OpenOptions, OptionName, QueueKind, SeekTo, Setup, Shutdown, SocketOption};
use crate::op::{Atomic, Done, Op, Position, Refused, Step};
use crate::sga::SgArray;
use crate::sys;
use crate::time::{Clock, Instant};
use crate::token::{Completions, QToken};
use crate::wait::Policy;

/// A handle to an instance over the libOS `L`.
///
/// Every call that starts an operation returns a token at once; `wait*` returns its result. Errors of the
/// call itself (a bad descriptor, say) mean that nothing was started.
pub struct Demikernel<L> {
    shared: Rc<Shared<L>>,
}

struct Shared<L> {
    core: RefCell<Core<L>>,
    heap: Heap,
    device: Fd,
    kick: Fd,
    kicker: Fd,
}

/// All state of an instance. Fields drop in order: the libOS stops its devices before anything that they
/// might still write to goes.
pub(crate) struct Core<L> {
    pub(crate) libos: L,
    graph: Graph,
    pub(crate) done: Completions,
    pub(crate) scheduler: Scheduler,
    heap: Heap,
    rng: fastrand::Rng,
    pub(crate) clock: Clock,
    /// The time that everything begins at: that of the last turn, or of a later look at the clock.
    pub(crate) now: Instant,
    /// When the last turn, or the sleep after it, was.
    pub(crate) turned: Instant,
    pub(crate) policy: Policy,
    kick: Fd,
}

impl<L: LibOs> Demikernel<L> {
    /// A new instance.
    pub fn new(config: &Config) -> Result<Demikernel<L>, Error> {
        let rng = fastrand::Rng::with_seed(sys::seed());
        Demikernel::assemble(config, Clock::start(), rng, |setup, _| L::create(setup))
    }

    /// A new instance from parts of the caller's: its clock, its randomness, and a libOS made by hand. For simulations,
    /// which call [`poll`](Demikernel::poll) and `wait` with a time limit of zero, and move the clock on to the
    /// [next deadline](Demikernel::next_deadline): a wait for longer would wait for a clock that stands.
    pub fn assemble(
        config: &Config,
        clock: Clock,
        mut rng: fastrand::Rng,
        create: impl FnOnce(Setup<'_>, &mut fastrand::Rng) -> Result<L, Error>,
    ) -> Result<Demikernel<L>, Error> {
        config.check()?;
        let heap = Heap::new(&config.heap.to_heap_config())
            .map_err(|error| Error::Config(format!("heap of {} MiB: {error}", config.heap.size_mib)))?;
        let libos = create(Setup { config, heap: &heap, tag: Tag::First }, &mut rng)?;
        let (kick, kicker) = sys::pipe()?;
        let device = sys::duplicate(libos.wait_fd())?;
        let now = clock.now();
        let core = Core {
            libos,
            graph: Graph::new(&config.queues),
            done: Completions::beginning_at(config.tokens.max, rng.u32(1..=1 << 31)),
            scheduler: Scheduler::new(config.tasks.max, sys::duplicate(kicker.as_fd())?),
            heap: heap.clone(),
            rng,
            now,
            turned: now,
            clock,
            policy: Policy::new(config.wait.spin()),
            kick: sys::duplicate(kick.as_fd())?,
        };
        Ok(Demikernel { shared: Rc::new(Shared { core: RefCell::new(core), heap, device, kick, kicker }) })
    }

    /// A descriptor that polls readable when there is work for an instance that was
    /// [prepared for sleep](Demikernel::prepare_sleep). It stays the same while the instance lives.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.shared.device.as_fd()
    }

    /// When the instance must be polled at the latest, whatever its devices do: the next timer of its libOS or tasks.
    pub fn next_deadline(&self) -> Result<Option<Instant>, Error> {
        let core = self.core()?;
        Ok([core.libos.next_deadline(), core.scheduler.next_timer()].into_iter().flatten().min())
    }

    /// A new instance configured by the file that `DEMI_CONFIG` names, or by the defaults.
    pub fn from_env() -> Result<Demikernel<L>, Error> {
        Demikernel::new(&Config::from_env()?)
    }

    // --- memory

    /// The instance's heap. Usable from an operator's closure, where the instance itself is not.
    pub fn heap(&self) -> &Heap {
        &self.shared.heap
    }

    /// A writable buffer of `len` bytes. Its content is unspecified.
    pub fn alloc(&self, len: usize) -> Result<BufMut, Error> {
        Ok(self.shared.heap.alloc(len)?)
    }

    /// Copies foreign memory into the heap.
    pub fn copy_from(&self, bytes: &[u8]) -> Result<SgArray, Error> {
        SgArray::copy_from(&self.shared.heap, bytes)
    }

    // --- sockets

    /// A new socket.
    pub fn socket(&self, domain: Domain, kind: SocketKind) -> Result<QDesc, Error> {
        self.control(|libos, cx| libos.socket(cx, domain, kind))
    }

    /// Makes a queue of a socket of the kernel, connected, listening or fresh. For libOSes that work on such sockets.
    pub fn adopt(&self, socket: OwnedFd) -> Result<QDesc, Error> {
        self.control(|libos, cx| libos.adopt(cx, socket))
    }

    /// Gives a socket its local address; port 0 picks an ephemeral one, which `local_addr` tells.
    pub fn bind(&self, qd: QDesc, addr: impl Into<Addr>) -> Result<(), Error> {
        let addr = addr.into();
        self.control(|libos, cx| libos.bind(cx, qd, &addr))
    }

    /// Makes a bound stream socket accept connections, of which at most `backlog` wait.
    pub fn listen(&self, qd: QDesc, backlog: u32) -> Result<(), Error> {
        self.control(|libos, cx| libos.listen(cx, qd, backlog))
    }

    /// Starts to accept one connection.
    pub fn accept(&self, qd: QDesc) -> Result<QToken, Error> {
        self.submit(qd, &mut Op::Accept)
    }

    /// Starts to connect. A datagram socket connects too: it then sends to and receives from this peer only.
    pub fn connect(&self, qd: QDesc, addr: impl Into<Addr>) -> Result<QToken, Error> {
        let mut core = self.core()?;
        core.look_at_clock();
        core.submit(qd, &mut Op::Connect(addr.into()))
    }

    /// Ends one direction of a connection; what was pushed before is still sent.
    pub fn shutdown(&self, qd: QDesc, how: Shutdown) -> Result<(), Error> {
        let mut core = self.core()?;
        core.look_at_clock();
        let (libos, graph, mut cx) = core.parts();
        match qd.tag() {
            Some(Tag::Graph) => graph.shutdown(libos, &mut cx, qd, how),
            _ => libos.shutdown(&mut cx, qd, how),
        }
    }

    /// Sets a socket option. Here and below, an operator over one socket stands for it.
    pub fn set_option(&self, qd: QDesc, option: SocketOption) -> Result<(), Error> {
        self.at_base(qd, |libos, cx, qd| libos.set_option(cx, qd, option))
    }

    /// Reads a socket option back.
    pub fn option(&self, qd: QDesc, name: OptionName) -> Result<SocketOption, Error> {
        self.at_base(qd, |libos, _, qd| libos.option(qd, name))
    }

    /// What a socket has failed with, if that was not told by an operation. It may be told once only, as of the kernel's sockets,
    /// or for as long as the socket is open.
    pub fn socket_error(&self, qd: QDesc) -> Result<Option<Error>, Error> {
        self.at_base(qd, |libos, _, qd| libos.socket_error(qd))
    }

    /// The local address of a socket.
    pub fn local_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        self.at_base(qd, |libos, _, qd| libos.local_addr(qd))
    }

    /// The address of a connected socket's peer.
    pub fn peer_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        self.at_base(qd, |libos, _, qd| libos.peer_addr(qd))
    }

    // --- files and logs

    /// Opens a file or log, or, by a path that begins with `rdma://`, a region of memory of this or another instance.
    pub fn open(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<QDesc, Error> {
        self.control(|libos, cx| libos.open(cx, path.as_ref(), options))
    }

    /// Opens a file or log for appending and reading, new or emptied.
    pub fn creat(&self, path: impl AsRef<Path>) -> Result<QDesc, Error> {
        self.open(path, &OpenOptions { create: true, truncate: true, ..OpenOptions::default() })
    }

    /// Moves the read cursor; returns where it is.
    pub fn seek(&self, qd: QDesc, to: SeekTo) -> Result<Position, Error> {
        self.control(|libos, cx| libos.seek(cx, qd, to))
    }

    /// Discards what lies at and behind `position`.
    pub fn truncate(&self, qd: QDesc, position: Position) -> Result<(), Error> {
        self.control(|libos, cx| libos.truncate(cx, qd, position))
    }

    /// Discards what lies before `position`, so that its space can be used again.
    pub fn discard(&self, qd: QDesc, position: Position) -> Result<(), Error> {
        self.control(|libos, cx| libos.discard(cx, qd, position))
    }

    /// Removes a file or log. A log must not be open.
    pub fn unlink(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.control(|libos, cx| libos.unlink(cx, path.as_ref()))
    }

    /// The names of the logs that there are, in order.
    pub fn list(&self) -> Result<Vec<PathBuf>, Error> {
        let mut names = Vec::new();
        self.control(|libos, _| libos.list(&mut |name| names.push(name.to_owned())))?;
        names.sort();
        Ok(names)
    }

    /// Starts to make everything pushed so far durable.
    pub fn flush(&self, qd: QDesc) -> Result<QToken, Error> {
        self.submit(qd, &mut Op::Flush)
    }

    // --- words of regions

    /// Starts to replace a word of a region of memory by `new` if it is `expected`, in one step for all who change it this
    /// way. It completes as [`Done::Fetched`] with what was there: if that is `expected`, the word was replaced. A word is eight
    /// bytes at a multiple of eight, in the processor's order. The read and write cursor stays where it is.
    ///
    /// ```
    /// # use demi_api::{Demikernel, Error, LibOs, Position, QDesc};
    /// /// Takes the lock whose owner's number is the region's first word, unless somebody has it.
    /// fn try_lock<L: LibOs>(demi: &Demikernel<L>, region: QDesc, me: u64) -> Result<bool, Error> {
    ///     let token = demi.compare_and_swap(region, Position(0), 0, me)?;
    ///     Ok(demi.wait(token, None)?.fetched()? == 0)
    /// }
    /// ```
    pub fn compare_and_swap(
        &self,
        qd: QDesc,
        at: Position,
        expected: u64,
        new: u64,
    ) -> Result<QToken, Error> {
        self.submit(qd, &mut Op::Atomic { at, change: Atomic::CompareSwap { expected, new } })
    }

    /// Starts to add to a word of a region of memory, without regard to overflow, in one step for all who change it
    /// this way. It completes as [`Done::Fetched`] with what was there before. See
    /// [`compare_and_swap`](Demikernel::compare_and_swap).
    pub fn fetch_and_add(&self, qd: QDesc, at: Position, add: u64) -> Result<QToken, Error> {
        self.submit(qd, &mut Op::Atomic { at, change: Atomic::FetchAdd(add) })
    }

    // --- every queue

    /// Starts to append an array. The array's bytes are shared, not copied, and cannot change any more:
    ///
    /// ```compile_fail
    /// # fn f<L: demi_api::libos::LibOs>(demi: demi_api::Demikernel<L>, qd: demi_api::QDesc) {
    /// let mut buffer = demi.alloc(64).unwrap();
    /// let token = demi.push(qd, buffer);
    /// buffer[0] = 1; // the buffer is the queue's now
    /// # }
    /// ```
    ///
    /// Pushes on one queue complete in the order in which they were started, and waiting for any one of them
    /// makes progress. An array that an operator on the way down rejects never becomes a push of the queue
    /// below: its token completes at once, whatever is pending there. A refusal gives the array back.
    ///
    /// A libOS may carry out pushes together that are started one after the other, with no result handed out in between.
    /// They then go with the next wait that finds nothing done, after 32 results at the latest, or with
    /// [`poll`](Demikernel::poll): whoever pushes and does not wait polls.
    #[inline]
    pub fn push(&self, qd: QDesc, sga: impl Into<SgArray>) -> Result<QToken, Refused> {
        self.push_op(qd, Op::Push { sga: sga.into(), to: None })
    }

    /// Starts to send a datagram to `to`.
    #[inline]
    pub fn push_to(
        &self,
        qd: QDesc,
        sga: impl Into<SgArray>,
        to: impl Into<Addr>,
    ) -> Result<QToken, Refused> {
        self.push_op(qd, Op::Push { sga: sga.into(), to: Some(to.into()) })
    }

    /// Starts to take the oldest element: of a stream, the bytes that are there.
    #[inline]
    pub fn pop(&self, qd: QDesc) -> Result<QToken, Error> {
        let mut core = self.core()?;
        match core.pop_later(qd) {
            Some(token) => Ok(token),
            None => core.pop_any(qd),
        }
    }

    /// Starts a sized pop: of a stream, 1 to `count` bytes as one array; of a message queue, 1 to `count`
    /// elements, as many as are there once the first is, as [`Done::Batch`]. It asks
    /// for elements one after the other, so pops that are started later may complete before it.
    pub fn pop_n(&self, qd: QDesc, count: usize) -> Result<QToken, Error> {
        if count == 0 {
            return Err(Error::Invalid("pop_n of nothing"));
        }
        let mut core = self.core()?;
        let (libos, graph, mut cx) = core.parts();
        match graph.kind(libos, qd)? {
            QueueKind::Stream => core.submit(qd, &mut Op::Pop { limit: count }),
            QueueKind::Message => graph.pop_n(libos, &mut cx, qd, count),
        }
    }

    /// Recalls an operation: on `Ok` its token completes as [`Error::Cancelled`], and no element is lost.
    /// [`Error::NotCancellable`] if it is done already, or too far under way; wait for it then.
    pub fn cancel(&self, token: QToken) -> Result<(), Error> {
        self.core()?.cancel(token)
    }

    /// Closes a queue. The descriptor is gone at once; outstanding pops, accepts and connects complete as
    /// [`Error::Cancelled`], pushes with their true fate, within the linger time.
    pub fn close(&self, qd: QDesc) -> Result<(), Error> {
        let mut core = self.core()?;
        core.look_at_clock();
        let (libos, graph, mut cx) = core.parts();
        if qd.tag() == Some(Tag::Graph) {
            return graph.close(libos, &mut cx, qd);
        }
        libos.close(&mut cx, qd)?;
        graph.source_closed(libos, &mut cx, qd);
        Ok(())
    }

    /// Whether the queue keeps message boundaries.
    pub fn kind(&self, qd: QDesc) -> Result<QueueKind, Error> {
        let mut core = self.core()?;
        let (libos, graph, _) = core.parts();
        graph.kind(libos, qd)
    }

    // --- the instance

    /// Polls the libOS once without waiting: for applications that compute for long between waits.
    pub fn poll(&self) -> Result<(), Error> {
        self.core()?.turn();
        Ok(())
    }

    /// A handle with which a signal handler or another thread ends the current or next wait with
    /// [`Error::Interrupted`], by writing any byte but `W` to it.
    pub fn interrupter(&self) -> Result<Interrupter, Error> {
        Ok(Interrupter(sys::duplicate(self.shared.kicker.as_fd())?))
    }

    /// What the instance has counted so far.
    pub fn counters(&self) -> Result<Counters, Error> {
        let core = self.core()?;
        let mut libos = Vec::new();
        core.libos.counters(&mut |name, value| libos.push((name, value)));
        Ok(Counters {
            turns: core.policy.turns,
            sleeps: core.policy.sleeps,
            overdue_turns: core.policy.overdue,
            longest_gap: core.policy.longest_gap,
            operations_pending: core.done.pending(),
            operations_unreaped: core.done.live() - core.done.pending(),
            elements_dropped: core.graph.dropped(),
            stale_posts: core.done.stale_posts(),
            heap: core.heap.stats(),
            libos,
        })
    }

    /// The instance's state, with every result where it can be found.
    #[inline]
    pub(crate) fn core(&self) -> Result<RefMut<'_, Core<L>>, Error> {
        let mut core = self.core_as_is()?;
        core.done.put_down();
        Ok(core)
    }

    /// The instance's state, perhaps with a result in hand.
    #[inline]
    pub(crate) fn core_as_is(&self) -> Result<RefMut<'_, Core<L>>, Error> {
        match self.shared.core.try_borrow_mut() {
            Ok(core) => Ok(core),
            Err(_) => Err(Error::Reentrant),
        }
    }

    /// The same, unless a closure asks.
    #[inline(always)]
    pub(crate) fn core_if_free(&self) -> Option<RefMut<'_, Core<L>>> {
        self.shared.core.try_borrow_mut().ok()
    }

    pub(crate) fn sleep(&self, limit: Option<Duration>) {
        sys::sleep(self.shared.device.as_fd(), self.shared.kick.as_fd(), limit);
    }

    /// Runs `call` with the operator graph, for the constructors of operators.
    pub(crate) fn with_graph<T>(
        &self,
        call: impl FnOnce(&mut Graph, &mut L, &mut Cx<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut core = self.core()?;
        let (libos, graph, mut cx) = core.parts();
        call(graph, libos, &mut cx)
    }

    fn control<T>(&self, call: impl FnOnce(&mut L, &mut Cx<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let mut core = self.core()?;
        let (libos, _, mut cx) = core.parts();
        call(libos, &mut cx)
    }

    /// Runs `call` with the libOS's queue below `qd`.
    fn at_base<T>(
        &self,
        qd: QDesc,
        call: impl FnOnce(&mut L, &mut Cx<'_>, QDesc) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut core = self.core()?;
        let (libos, graph, mut cx) = core.parts();
        let qd = graph.base(qd)?;
        call(libos, &mut cx, qd)
    }

    fn submit(&self, qd: QDesc, op: &mut Op) -> Result<QToken, Error> {
        self.core()?.submit(qd, op)
    }

    #[inline]
    fn push_op(&self, qd: QDesc, mut op: Op) -> Result<QToken, Refused> {
        let mut core = match self.core() {
            Ok(core) => core,
            Err(error) => return Err(refused(error, op)),
        };
        if let Some(token) = core.push_now(qd, &mut op) {
            // There is nothing in it to drop, and finding that out again would cost more.
            std::mem::forget(op);
            return Ok(token);
        }
        match core.push_any(qd, &mut op) {
            Ok(token) => Ok(token),
            Err(error) => Err(refused(error, op)),
        }
    }
}

/// Gives a push back that was refused: it is left as it was.
#[cold]
fn refused(error: Error, op: Op) -> Refused {
    let Op::Push { sga, .. } = op else { unreachable!("only a push is given back") };
    Refused { error, sga }
}

impl<L: LibOs> Core<L> {
    /// The parts that work together: libOS and graph, and what they are called with.
    pub(crate) fn parts(&mut self) -> (&mut L, &mut Graph, Cx<'_>) {
        let cx = Cx { heap: &self.heap, now: self.now, rng: &mut self.rng, done: &mut self.done };
        (&mut self.libos, &mut self.graph, cx)
    }

    /// Brings the time up to date, for what begins to run off now: the application may have computed for long since the
    /// last turn. Time never goes back.
    pub(crate) fn look_at_clock(&mut self) {
        self.now = self.clock.now().max(self.now);
    }

    /// Starts an operation. Inlined, as there are few calls, and each knows which operation it is.
    #[inline(always)]
    pub(crate) fn submit(&mut self, qd: QDesc, op: &mut Op) -> Result<QToken, Error> {
        let (libos, graph, mut cx) = self.parts();
        if matches!(op, Op::Pop { .. }) && graph.is_claimed(qd) {
            return Err(Error::Claimed);
        }
        if qd.has_tag(Tag::Graph) {
            return graph.submit(libos, &mut cx, qd, op);
        }
        let token = cx.done.ask(qd)?;
        let step = libos.start(&mut cx, token, qd, op);
        // Looked at where it lies, and a push by itself: nothing of the size of the largest result is moved for it.
        match step {
            Ok(Step::Done(Ok(Done::Pushed(position)))) => {
                std::mem::forget(step);
                cx.done.hold_pushed(position);
            }
            Ok(Step::Done(result)) => cx.done.hold(result),
            Ok(Step::Pending) => cx.done.begun(token),
            Err(error) => {
                cx.done.refused();
                return Err(error);
            }
        }
        Ok(token)
    }

    /// Carries out a push that can be at once, as most can. `None`: nothing was done. Else nothing in it is left to drop.
    #[inline(always)]
    fn push_now(&mut self, qd: QDesc, op: &mut Op) -> Option<QToken> {
        let Op::Push { sga, to: to @ (None | Some(Addr::Inet(_))) } = op else { return None };
        let token = self.done.known_next()?;
        let (libos, _, mut cx) = self.parts();
        if qd.has_tag(Tag::Graph) || !libos.push_now(&mut cx, qd, sga, to.as_ref()) {
            return None;
        }
        debug_assert!(sga.is_vacant(), "what is pushed at once is taken out");
        cx.done.hold_pushed_at(qd, Position(0));
        Some(token)
    }

    #[inline(never)]
    fn push_any(&mut self, qd: QDesc, op: &mut Op) -> Result<QToken, Error> {
        self.submit(qd, op)
    }

    /// Starts a pop that has to wait, as most do. `None`: nothing was done.
    #[inline(always)]
    fn pop_later(&mut self, qd: QDesc) -> Option<QToken> {
        let token = self.done.known_next()?;
        let plain = !self.graph.is_claimed(qd) && !qd.has_tag(Tag::Graph);
        if !plain || !self.libos.pop_later(token, qd) {
            return None;
        }
        self.done.begun_at(qd);
        Some(token)
    }

    #[inline(never)]
    fn pop_any(&mut self, qd: QDesc) -> Result<QToken, Error> {
        let mut op = Op::Pop { limit: usize::MAX };
        let token = self.submit(qd, &mut op);
        // There is nothing in it to drop.
        std::mem::forget(op);
        token
    }

    pub(crate) fn cancel(&mut self, token: QToken) -> Result<(), Error> {
        self.done.check(token)?;
        if !self.done.is_pending(token)? {
            return Err(Error::NotCancellable);
        }
        let at = self.done.location(token)?;
        let (libos, graph, mut cx) = self.parts();
        match at.tag() {
            Some(Tag::Graph) => graph.cancel(libos, &mut cx, token, at),
            Some(Tag::First | Tag::Second) | None => libos.cancel(&mut cx, token, at),
        }
    }

    pub(crate) fn kick_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }
}

impl<L> Clone for Demikernel<L> {
    fn clone(&self) -> Demikernel<L> {
        Demikernel { shared: Rc::clone(&self.shared) }
    }
}

impl<L: LibOs> std::fmt::Debug for Demikernel<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Demikernel<{}>", L::NAME)
    }
}

/// Ends waits from a signal handler or another thread. The descriptor may be handed to whatever writes a
/// byte to a pipe when a signal comes.
#[derive(Debug)]
pub struct Interrupter(Fd);

impl Interrupter {
    /// Ends the current or next wait of the instance with [`Error::Interrupted`].
    pub fn interrupt(&self) {
        sys::kick(self.0.as_fd(), b'X');
    }
}

impl From<Interrupter> for OwnedFd {
    fn from(interrupter: Interrupter) -> OwnedFd {
        interrupter.0.into()
    }
}

/// A snapshot of what an instance has counted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Counters {
    /// Turns of the wait loop.
    pub turns: u64,
    /// Times that it slept.
    pub sleeps: u64,
    /// Turns that came more than 1 ms after the one before, other than by sleeping: the application computed
    /// for too long.
    pub overdue_turns: u64,
    /// The longest of these gaps.
    pub longest_gap: Duration,
    /// Operations under way.
    pub operations_pending: usize,
    /// Results that nobody has waited for yet.
    pub operations_unreaped: usize,
    /// Elements dropped by filters, and by operators closed with elements in them.
    pub elements_dropped: u64,
    /// Faults of the libOS: completions for tokens that were not pending. Always zero.
    pub stale_posts: u64,
    /// The heap's own accounts.
    pub heap: HeapStats,
    /// The libOS's counters, by name.
    pub libos: Vec<(&'static str, u64)>,
}
