//! The streams of a test: some push one shared block again and again, the others pop and count.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use demi_api::{Buf, Demikernel, Error, LibOs};
use futures::StreamExt;
use futures::future::{Either, Fuse, FusedFuture, select};
use futures::stream::FuturesUnordered;

use super::params::{Params, Results};
use super::wire::{Code, Conn, Fault, PATIENCE};

/// Bytes that all streams together have pushed and that are not taken over, if that is two blocks of each at the
/// least: as many as a path of 10 Gbit/s and 3 ms holds. No more, for a sender that stops waits for all.
const WINDOW: usize = 4 << 20;
const MOST_PUSHES: usize = 64;

/// Operations of a stream before it lets others have a turn: kernel sockets may complete each at once, for ever.
const AT_A_TIME: u32 = 16;

/// Time without one byte after which a test is given up.
const IDLE: Duration = Duration::from_secs(30);

/// All streams of one test, in the order of their connections.
pub(super) struct Flows<L: LibOs> {
    demi: Demikernel<L>,
    streams: Vec<Stream<L>>,
    sends: bool,
    block: Buf,
    /// Bytes that may still be pushed, all streams together.
    budget: Cell<u64>,
    started: Instant,
    ended: Cell<Option<Instant>>,
}

struct Stream<L: LibOs> {
    conn: Conn<L>,
    bytes: Cell<u64>,
}

impl<L: LibOs + 'static> Flows<L> {
    pub(super) fn new(
        demi: &Demikernel<L>,
        conns: Vec<Conn<L>>,
        params: &Params,
        sends: bool,
    ) -> Result<Flows<L>, Error> {
        let mut block = demi.alloc(params.len)?;
        block.fill(b'd');
        Ok(Flows {
            demi: demi.clone(),
            streams: conns.into_iter().map(|conn| Stream { conn, bytes: Cell::new(0) }).collect(),
            sends,
            block: block.freeze(),
            budget: Cell::new(if params.bytes > 0 { params.bytes } else { u64::MAX }),
            started: Instant::now(),
            ended: Cell::new(None),
        })
    }

    /// Moves bytes until all streams have ended: a sender's when all is sent that may be, a receiver's when the peer ends
    /// them. Here ends the time that counts.
    pub(super) async fn run(&self) -> Result<(), Fault> {
        let mut running: FuturesUnordered<_> = self
            .streams
            .iter()
            .map(async |stream| if self.sends { self.send(stream).await } else { self.receive(stream).await })
            .collect();
        while let Some(result) = running.next().await {
            result.map_err(Fault::of(Code::Stream))?;
        }
        self.ended.set(Some(Instant::now()));
        Ok(())
    }

    async fn send(&self, stream: &Stream<L>) -> Result<(), Error> {
        let most = (WINDOW / self.streams.len() / self.block.len()).clamp(2, MOST_PUSHES);
        let mut pushes = VecDeque::with_capacity(most);
        let mut count = 0;
        loop {
            while pushes.len() < most && self.budget.get() > 0 {
                let len = self.budget.get().min(self.block.len() as u64);
                self.budget.set(self.budget.get() - len);
                let token = self.demi.push(stream.conn.qd, self.block.slice(..len as usize))?;
                pushes.push_back((self.demi.operation(token)?, len));
            }
            let Some((push, len)) = pushes.pop_front() else { return Ok(()) };
            push.await?.pushed()?;
            stream.bytes.set(stream.bytes.get() + len);
            step_aside(&mut count).await;
        }
    }

    async fn receive(&self, stream: &Stream<L>) -> Result<(), Error> {
        let mut count = 0;
        loop {
            let sga = self.demi.pop_async(stream.conn.qd).await?;
            if sga.is_empty() {
                return Ok(());
            }
            stream.bytes.set(stream.bytes.get() + sga.len() as u64);
            step_aside(&mut count).await;
        }
    }

    /// A sender pushes no more; what is pushed is still sent.
    pub(super) fn stop(&self) {
        self.budget.set(0);
    }

    /// Completes when so many bytes have been moved.
    pub(super) async fn moved(&self, bytes: u64) {
        while self.total() < bytes {
            self.demi.sleep_async(Duration::from_millis(1)).await;
        }
    }

    /// Completes when each stream has moved at least as many bytes as `other` says.
    pub(super) async fn caught_up(&self, other: &Results) {
        while self.streams.iter().zip(&other.bytes).any(|(stream, bytes)| stream.bytes.get() < *bytes) {
            self.demi.sleep_async(Duration::from_millis(1)).await;
        }
    }

    /// Completes when nothing has moved for too long.
    pub(super) async fn idle(&self) {
        let mut before = None;
        while before != Some(self.total()) {
            before = Some(self.total());
            self.demi.sleep_async(IDLE).await;
        }
    }

    fn total(&self) -> u64 {
        self.streams.iter().map(|stream| stream.bytes.get()).sum()
    }

    /// What has been moved, up to now or up to the end of [`Flows::run`].
    pub(super) fn results(&self) -> Results {
        let ended = self.ended.get().unwrap_or_else(Instant::now);
        Results {
            bytes: self.streams.iter().map(|stream| stream.bytes.get()).collect(),
            seconds: (ended - self.started).as_secs_f64(),
        }
    }
}

/// Lets flows come to their end, which is near.
pub(super) async fn finish<L: LibOs + 'static, F: Future<Output = Result<(), Fault>>>(
    demi: &Demikernel<L>,
    flows: Pin<&mut Fuse<F>>,
) -> Result<(), Fault> {
    if flows.is_terminated() {
        return Ok(());
    }
    match select(flows, pin!(demi.sleep_async(PATIENCE))).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(Fault::new(Code::Idle, "the streams did not end with the test")),
    }
}

/// Now and then, lets everything else have a turn.
async fn step_aside(count: &mut u32) {
    *count += 1;
    if *count < AT_A_TIME {
        return;
    }
    *count = 0;
    let mut aside = false;
    poll_fn(|context| {
        if std::mem::replace(&mut aside, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
