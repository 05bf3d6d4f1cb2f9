//! Queues as `futures::Stream` and `futures::Sink`.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{Sink, Stream};

use super::Operation;
use crate::desc::QDesc;
use crate::error::Error;
use crate::instance::Demikernel;
use crate::libos::{LibOs, QueueKind};
use crate::sga::SgArray;

/// The elements of a queue. Ends at the end of a stream; an error is the last item.
#[derive(Debug)]
pub struct QueueStream<L: LibOs> {
    demi: Demikernel<L>,
    qd: QDesc,
    pop: Option<Operation<L>>,
    ended: bool,
}

impl<L: LibOs> QueueStream<L> {
    pub(super) fn new(demi: Demikernel<L>, qd: QDesc) -> QueueStream<L> {
        QueueStream { demi, qd, pop: None, ended: false }
    }

    fn begin(&self) -> Result<Operation<L>, Error> {
        self.demi.operation(self.demi.pop(self.qd)?)
    }

    fn is_end(&self, sga: &SgArray) -> bool {
        sga.is_empty() && self.demi.kind(self.qd) == Ok(QueueKind::Stream)
    }
}

impl<L: LibOs> Stream for QueueStream<L> {
    type Item = Result<SgArray, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut pop = match self.pop.take() {
            Some(pop) => pop,
            None => match self.begin() {
                Ok(pop) => pop,
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            },
        };
        let Poll::Ready(result) = Pin::new(&mut pop).poll(context) else {
            self.pop = Some(pop);
            return Poll::Pending;
        };
        match result.and_then(|completion| completion.popped()) {
            Ok(sga) if self.is_end(&sga) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Ok(sga) => Poll::Ready(Some(Ok(sga))),
            Err(Error::EndOfStream) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Err(error) => {
                self.ended = true;
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

/// A queue to push into. `flush` and `close` wait until every push is done; `close` then leaves the queue
/// open, as its descriptor is the application's.
#[derive(Debug)]
pub struct QueueSink<L: LibOs> {
    demi: Demikernel<L>,
    qd: QDesc,
    window: usize,
    pushes: VecDeque<Operation<L>>,
}

impl<L: LibOs> QueueSink<L> {
    pub(super) fn new(demi: Demikernel<L>, qd: QDesc, window: usize) -> QueueSink<L> {
        QueueSink { demi, qd, window: window.max(1), pushes: VecDeque::new() }
    }

    /// Reaps finished pushes, which finish in order, until at most `most` are outstanding.
    fn reap(&mut self, most: usize, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while let Some(push) = self.pushes.front_mut() {
            let Poll::Ready(result) = Pin::new(push).poll(context) else { break };
            self.pushes.pop_front();
            result?.pushed()?;
        }
        if self.pushes.len() <= most { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl<L: LibOs> Sink<SgArray> for QueueSink<L> {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let most = self.window - 1;
        self.reap(most, context)
    }

    fn start_send(mut self: Pin<&mut Self>, sga: SgArray) -> Result<(), Error> {
        let token = self.demi.push(self.qd, sga)?;
        let push = self.demi.operation(token)?;
        self.pushes.push_back(push);
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.reap(0, context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.reap(0, context))?;
        Poll::Ready(Ok(()))
    }
}
