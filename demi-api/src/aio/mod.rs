//! The asynchronous face: any operation can be awaited, tasks can be spawned, queues are streams and sinks.
//!
//! A token given to an [`Operation`] is that future's: `wait*` by the same token still works, `wait_next_n`
//! leaves it alone. Runnable tasks come before polling, but a busy set of tasks does not starve the libOS:
//! it is polled at least once every 64 steps.

pub(crate) mod sched;
mod stream;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::channel::oneshot;

pub use self::stream::{QueueSink, QueueStream};
use crate::addr::Addr;
use crate::desc::QDesc;
use crate::error::Error;
use crate::instance::Demikernel;
use crate::libos::LibOs;
use crate::op::{Completion, Done, Position};
use crate::sga::SgArray;
use crate::time::Instant;
use crate::token::{Owner, QToken};

const TASKS_PER_TURN: usize = 64;

impl<L: LibOs> Demikernel<L> {
    /// A future of the operation's result. Dropped before, it cancels the operation and forgets its result; a
    /// connection that it has accepted by then is closed.
    pub fn operation(&self, token: QToken) -> Result<Operation<L>, Error> {
        let mut core = self.core()?;
        core.done.check(token)?;
        core.done.give_to(token, Owner::Task)?;
        Ok(Operation { demi: self.clone(), token: Some(token) })
    }

    /// Pushes, and waits until the array is taken over.
    pub async fn push_async(&self, qd: QDesc, sga: impl Into<SgArray>) -> Result<Position, Error> {
        self.operation(self.push(qd, sga)?)?.await?.pushed()
    }

    /// Sends a datagram.
    pub async fn push_to_async(
        &self,
        qd: QDesc,
        sga: impl Into<SgArray>,
        to: impl Into<Addr>,
    ) -> Result<Position, Error> {
        self.operation(self.push_to(qd, sga, to)?)?.await?.pushed()
    }

    /// Pops one element; of a stream, one without bytes is its end.
    pub async fn pop_async(&self, qd: QDesc) -> Result<SgArray, Error> {
        self.operation(self.pop(qd)?)?.await?.popped()
    }

    /// Accepts one connection.
    pub async fn accept_async(&self, qd: QDesc) -> Result<(QDesc, Addr), Error> {
        self.operation(self.accept(qd)?)?.await?.accepted()
    }

    /// Connects.
    pub async fn connect_async(&self, qd: QDesc, addr: impl Into<Addr>) -> Result<(), Error> {
        match self.operation(self.connect(qd, addr)?)?.await?.result? {
            Done::Connected => Ok(()),
            _ => Err(Error::Invalid("the completed operation was not a connect")),
        }
    }

    /// Makes everything pushed so far durable.
    pub async fn flush_async(&self, qd: QDesc) -> Result<(), Error> {
        match self.operation(self.flush(qd)?)?.await?.result? {
            Done::Flushed => Ok(()),
            _ => Err(Error::Invalid("the completed operation was not a flush")),
        }
    }

    /// Completes after `duration`, by the clock of the wait loop.
    pub fn sleep_async(&self, duration: Duration) -> Sleep<L> {
        Sleep { demi: self.clone(), duration, timer: None }
    }

    /// The elements of a queue, until it ends.
    pub fn stream(&self, qd: QDesc) -> QueueStream<L> {
        QueueStream::new(self.clone(), qd)
    }

    /// A queue to send into, with at most `window` pushes outstanding.
    pub fn sink(&self, qd: QDesc, window: usize) -> QueueSink<L> {
        QueueSink::new(self.clone(), qd, window)
    }

    /// Starts a task. It runs inside [`block_on`](Demikernel::block_on); dropping the handle lets it run on.
    pub fn spawn<T: 'static>(
        &self,
        future: impl Future<Output = T> + 'static,
    ) -> Result<JoinHandle<T>, Error> {
        let (send, result) = oneshot::channel();
        let task = async move {
            let _ = send.send(future.await);
        };
        let spawned = self.core()?.scheduler.spawn(Box::pin(task));
        spawned.map_err(|(error, _)| error)?;
        Ok(JoinHandle { result })
    }

    /// Drops every spawned task. A task that holds a handle to its own instance keeps that alive: a program
    /// that drops an instance while tasks are pending calls this first.
    pub fn abort_tasks(&self) -> Result<(), Error> {
        // Dropped outside the borrow: a future's drop may call the instance.
        let tasks = self.core()?.scheduler.take_all();
        drop(tasks);
        Ok(())
    }

    /// Drives `future`, and all spawned tasks meanwhile, until it is done. Spins and sleeps as `wait` does.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        let driving = Driving::begin(self)?;
        self.drive(pin!(future), &driving.waker)
    }

    fn drive<T>(&self, mut future: Pin<&mut impl Future<Output = T>>, main: &Waker) -> Result<T, Error> {
        loop {
            for _ in 0..TASKS_PER_TURN {
                let Some(bit) = self.core()?.scheduler.next_ready() else { break };
                if bit == sched::MAIN {
                    if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(main)) {
                        // What it has started and not awaited is under way with this.
                        self.poll()?;
                        return Ok(value);
                    }
                } else {
                    self.run_task(bit)?;
                }
            }
            self.poll()?;
            self.wait_until(None, |core| Ok(core.scheduler.has_ready().then_some(())))?;
        }
    }

    fn run_task(&self, bit: usize) -> Result<(), Error> {
        let Some((mut task, waker)) = self.core()?.scheduler.check_out(bit) else { return Ok(()) };
        // A task that panics is finished too; the panic goes on to whoever drives it.
        let state = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut Context::from_waker(&waker))));
        let unfinished = match state {
            Ok(Poll::Pending) => Some(task),
            // Dropped here, outside the borrow: a future's drop may call the instance.
            Ok(Poll::Ready(())) | Err(_) => {
                drop(task);
                None
            }
        };
        self.core()?.scheduler.check_in(bit, unfinished);
        if let Err(panic) = state {
            resume_unwind(panic);
        }
        Ok(())
    }
}

/// One `block_on` under way: while there is one, another thread may still wake what it drives.
struct Driving<'a, L: LibOs> {
    demi: &'a Demikernel<L>,
    waker: Waker,
}

impl<L: LibOs> Driving<'_, L> {
    fn begin(demi: &Demikernel<L>) -> Result<Driving<'_, L>, Error> {
        let scheduler = &mut demi.core()?.scheduler;
        scheduler.count_driving(1);
        let waker = scheduler.main_waker();
        waker.wake_by_ref();
        Ok(Driving { demi, waker })
    }
}

impl<L: LibOs> Drop for Driving<'_, L> {
    fn drop(&mut self) {
        if let Ok(mut core) = self.demi.core() {
            core.scheduler.count_driving(-1);
        }
        // For a `block_on` around this one, whose wake-up this one may have taken.
        self.waker.wake_by_ref();
    }
}

/// A future of one operation's result.
#[derive(Debug)]
#[must_use = "a dropped operation is cancelled"]
pub struct Operation<L: LibOs> {
    demi: Demikernel<L>,
    token: Option<QToken>,
}

impl<L: LibOs> Future for Operation<L> {
    type Output = Result<Completion, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(token) = self.token else { return Poll::Ready(Err(Error::BadToken)) };
        let outcome = self.demi.core().and_then(|mut core| match core.done.take(token)? {
            Some(completion) => Ok(Some(completion)),
            None => core.done.set_waker(token, context.waker()).map(|()| None),
        });
        match outcome {
            Ok(None) => Poll::Pending,
            Ok(Some(completion)) => {
                self.token = None;
                Poll::Ready(Ok(completion))
            }
            Err(error) => {
                self.token = None;
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<L: LibOs> Drop for Operation<L> {
    fn drop(&mut self) {
        let Some(token) = self.token else { return };
        // In an operator's closure the instance cannot be entered: the token then lives as long as it does.
        if let Ok(mut core) = self.demi.core() {
            let unseen = core.done.take(token);
            // What cannot be recalled completes later, and its result is dropped then.
            let _ = core.cancel(token);
            let _ = core.done.give_to(token, Owner::Discard);
            drop(core);
            // A connection that nobody has a name for could never be closed.
            if let Ok(Some(Completion { result: Ok(Done::Accepted { qd, .. }), .. })) = unseen {
                let _ = self.demi.close(qd);
            }
        }
    }
}

/// A future of a moment. See [`Demikernel::sleep_async`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep<L: LibOs> {
    demi: Demikernel<L>,
    duration: Duration,
    timer: Option<(Instant, u64)>,
}

impl<L: LibOs> Future for Sleep<L> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let demi = self.demi.clone();
        // A future is never polled by an operator's closure, which alone could hold the borrow.
        let Ok(mut core) = demi.core() else { return Poll::Pending };
        match self.timer {
            Some(timer) if core.scheduler.renew_timer(timer, context.waker()) => Poll::Pending,
            Some(_) => {
                self.timer = None;
                Poll::Ready(())
            }
            None => {
                let at = core.clock.now() + self.duration;
                self.timer = Some(core.scheduler.add_timer(at, context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<L: LibOs> Drop for Sleep<L> {
    fn drop(&mut self) {
        if let Some(timer) = self.timer
            && let Ok(mut core) = self.demi.core()
        {
            core.scheduler.remove_timer(timer);
        }
    }
}

/// The result of a spawned task, once it has one. [`Error::Cancelled`] if the task was dropped with its instance.
#[derive(Debug)]
pub struct JoinHandle<T> {
    result: oneshot::Receiver<T>,
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(context).map_err(|_| Error::Cancelled)
    }
}
