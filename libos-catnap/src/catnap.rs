//! The libOS as the API sees it: one table of descriptors, and each call sent to whoever owns the queue.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::desc::{QDesc, QueueTable};
use demi_api::error::Error;
use demi_api::libos::{Cx, LibOs, OpenOptions, OptionName, QueueKind, SeekTo, Setup, Shutdown, SocketOption};
use demi_api::op::{Op, Position, Step};
use demi_api::time::Instant;
use demi_api::token::QToken;

use crate::config::CatnapSection;
use crate::files::Files;
use crate::net::Net;
use crate::sys::file;
use demi_api::slab::Key;

/// The POSIX libOS. See the [crate's documentation](crate).
#[derive(Debug)]
pub struct Catnap {
    queues: QueueTable<Queue>,
    net: Net,
    files: Files,
    max_queues: usize,
}

/// What a descriptor names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Queue {
    Socket(Key),
    File(Key),
}

impl Catnap {
    fn socket_key(&self, qd: QDesc) -> Result<Key, Error> {
        match *self.queues.get(qd)? {
            Queue::Socket(key) => Ok(key),
            Queue::File(_) => Err(Error::NotSupported("a socket call on a file")),
        }
    }

    fn file_key(&self, qd: QDesc) -> Result<Key, Error> {
        match *self.queues.get(qd)? {
            Queue::File(key) => Ok(key),
            Queue::Socket(_) => Err(Error::NotSupported("a file call on a socket")),
        }
    }
}

impl LibOs for Catnap {
    const NAME: &'static str = "catnap";

    fn create(setup: Setup<'_>) -> Result<Catnap, Error> {
        let section = CatnapSection::load(setup.config)?;
        let max_queues = setup.config.queues.max;
        let linger = Duration::from_millis(setup.config.queues.linger_ms);
        Ok(Catnap {
            queues: QueueTable::new(setup.tag, max_queues),
            net: Net::new(&section, max_queues, linger)?,
            files: Files::new(&section, linger),
            max_queues,
        })
    }

    fn socket(&mut self, _cx: &mut Cx<'_>, domain: Domain, kind: SocketKind) -> Result<QDesc, Error> {
        self.net.socket(&mut self.queues, domain, kind)
    }

    fn adopt(&mut self, _cx: &mut Cx<'_>, socket: OwnedFd) -> Result<QDesc, Error> {
        self.net.adopt(&mut self.queues, socket.into())
    }

    fn bind(&mut self, _cx: &mut Cx<'_>, qd: QDesc, addr: &Addr) -> Result<(), Error> {
        self.net.bind(self.socket_key(qd)?, addr)
    }

    fn listen(&mut self, _cx: &mut Cx<'_>, qd: QDesc, backlog: u32) -> Result<(), Error> {
        self.net.listen(self.socket_key(qd)?, backlog)
    }

    fn open(&mut self, _cx: &mut Cx<'_>, path: &Path, options: &OpenOptions) -> Result<QDesc, Error> {
        if self.queues.len() >= self.max_queues {
            return Err(Error::TooManyQueues(self.max_queues));
        }
        let Net { readiness, io, .. } = &mut self.net;
        let key = self.files.open(readiness, &mut io.counters, path, options)?;
        self.queues.insert(Queue::File(key))
    }

    fn seek(&mut self, _cx: &mut Cx<'_>, qd: QDesc, to: SeekTo) -> Result<Position, Error> {
        let key = self.file_key(qd)?;
        self.files.seek(&mut self.net.io.counters, key, to)
    }

    fn truncate(&mut self, _cx: &mut Cx<'_>, qd: QDesc, position: Position) -> Result<(), Error> {
        let key = self.file_key(qd)?;
        self.files.truncate(&mut self.net.io.counters, key, position)
    }

    fn unlink(&mut self, _cx: &mut Cx<'_>, path: &Path) -> Result<(), Error> {
        file::unlink(path)
    }

    fn shutdown(&mut self, cx: &mut Cx<'_>, qd: QDesc, how: Shutdown) -> Result<(), Error> {
        self.net.shutdown(cx, self.socket_key(qd)?, how)
    }

    fn close(&mut self, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error> {
        match self.queues.remove(qd)? {
            Queue::Socket(key) => self.net.close(cx, key),
            Queue::File(key) => self.files.close(cx, key),
        }
        Ok(())
    }

    fn set_option(&mut self, _cx: &mut Cx<'_>, qd: QDesc, option: SocketOption) -> Result<(), Error> {
        self.net.set_option(self.socket_key(qd)?, option)
    }

    fn option(&self, qd: QDesc, name: OptionName) -> Result<SocketOption, Error> {
        self.net.option(self.socket_key(qd)?, name)
    }

    fn socket_error(&self, qd: QDesc) -> Result<Option<Error>, Error> {
        self.net.error(self.socket_key(qd)?)
    }

    fn local_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        self.net.local_addr(self.socket_key(qd)?)
    }

    fn peer_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        self.net.peer_addr(self.socket_key(qd)?)
    }

    fn kind(&self, qd: QDesc) -> Result<QueueKind, Error> {
        match *self.queues.get(qd)? {
            Queue::Socket(key) => self.net.kind(key),
            Queue::File(_) => Ok(QueueKind::Stream),
        }
    }

    #[inline]
    fn start(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc, op: &mut Op) -> Result<Step, Error> {
        match *self.queues.get(qd)? {
            Queue::Socket(key) => self.net.start(&mut self.queues, cx, token, key, op),
            Queue::File(key) => self.files.start(cx, &mut self.net.io.counters, token, key, op),
        }
    }

    fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc) -> Result<(), Error> {
        match self.queues.get(qd) {
            Ok(Queue::Socket(key)) => self.net.cancel(cx, token, *key),
            Ok(Queue::File(key)) => self.files.cancel(cx, token, *key),
            // Only pushes outlive their descriptor, and those are on their way.
            Err(_) => Err(Error::NotCancellable),
        }
    }

    #[inline]
    fn poll(&mut self, cx: &mut Cx<'_>) -> usize {
        self.net.poll(&mut self.queues, cx) + self.files.poll(cx, &mut self.net.io.counters)
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.net.next_deadline(), self.files.next_deadline()].into_iter().flatten().min()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.net.readiness.fd()
    }

    fn arm(&mut self, cx: &mut Cx<'_>) -> bool {
        self.net.arm(&mut self.queues, cx) && self.files.poll(cx, &mut self.net.io.counters) == 0
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.net.io.counters.visit(visit);
    }
}
