//! Two libOSes as one: one descriptor space, one heap, one wait loop.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::addr::{Addr, Domain, SocketKind};
use crate::desc::{QDesc, Tag};
use crate::error::Error;
use crate::fd::Fd;
use crate::libos::{
    Cx, LibOs, OpenOptions, OptionName, QueueKind, SeekTo, Setup, Shutdown, SocketOption, names_region,
};
use crate::op::{Op, Position, Step};
use crate::sga::SgArray;
use crate::sys;
use crate::time::Instant;
use crate::token::QToken;

/// A network libOS `N` and a storage libOS `S`.
///
/// Sockets are opened on `N`, files and logs on `S`, regions of memory, whose paths begin with `rdma://`, on `N`; every other call finds its side by the descriptor's tag.
/// A turn polls each side once, and each does bounded work, so neither starves the other.
#[derive(Debug)]
pub struct Pair<N, S> {
    network: N,
    storage: S,
    both: Fd,
}

/// Calls a method of the side that a descriptor belongs to.
macro_rules! route {
    ($self:ident, $qd:expr, $side:ident => $call:expr) => {
        match $qd.tag() {
            Some(Tag::First) => {
                let $side = &mut $self.network;
                $call
            }
            Some(Tag::Second) => {
                let $side = &mut $self.storage;
                $call
            }
            Some(Tag::Graph) | None => Err(Error::BadDescriptor),
        }
    };
}

impl<N: LibOs, S: LibOs> LibOs for Pair<N, S> {
    const NAME: &'static str = "pair";

    fn create(setup: Setup<'_>) -> Result<Self, Error> {
        let Setup { config, heap, tag } = setup;
        if tag != Tag::First {
            return Err(Error::Invalid("a pair cannot be part of a pair"));
        }
        let network = N::create(Setup { config, heap, tag: Tag::First })?;
        let storage = S::create(Setup { config, heap, tag: Tag::Second })?;
        let both = sys::either(network.wait_fd(), storage.wait_fd())?;
        Ok(Pair { network, storage, both })
    }

    fn socket(&mut self, cx: &mut Cx<'_>, domain: Domain, kind: SocketKind) -> Result<QDesc, Error> {
        self.network.socket(cx, domain, kind)
    }

    fn open(&mut self, cx: &mut Cx<'_>, path: &Path, options: &OpenOptions) -> Result<QDesc, Error> {
        if names_region(path) {
            return self.network.open(cx, path, options);
        }
        self.storage.open(cx, path, options)
    }

    fn bind(&mut self, cx: &mut Cx<'_>, qd: QDesc, addr: &Addr) -> Result<(), Error> {
        route!(self, qd, side => side.bind(cx, qd, addr))
    }

    fn listen(&mut self, cx: &mut Cx<'_>, qd: QDesc, backlog: u32) -> Result<(), Error> {
        route!(self, qd, side => side.listen(cx, qd, backlog))
    }

    fn seek(&mut self, cx: &mut Cx<'_>, qd: QDesc, to: SeekTo) -> Result<Position, Error> {
        route!(self, qd, side => side.seek(cx, qd, to))
    }

    fn truncate(&mut self, cx: &mut Cx<'_>, qd: QDesc, position: Position) -> Result<(), Error> {
        route!(self, qd, side => side.truncate(cx, qd, position))
    }

    fn discard(&mut self, cx: &mut Cx<'_>, qd: QDesc, position: Position) -> Result<(), Error> {
        route!(self, qd, side => side.discard(cx, qd, position))
    }

    fn unlink(&mut self, cx: &mut Cx<'_>, path: &Path) -> Result<(), Error> {
        if names_region(path) {
            return self.network.unlink(cx, path);
        }
        self.storage.unlink(cx, path)
    }

    fn list(&self, visit: &mut dyn FnMut(&Path)) -> Result<(), Error> {
        self.storage.list(visit)
    }

    fn shutdown(&mut self, cx: &mut Cx<'_>, qd: QDesc, how: Shutdown) -> Result<(), Error> {
        route!(self, qd, side => side.shutdown(cx, qd, how))
    }

    fn close(&mut self, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error> {
        route!(self, qd, side => side.close(cx, qd))
    }

    fn set_option(&mut self, cx: &mut Cx<'_>, qd: QDesc, option: SocketOption) -> Result<(), Error> {
        route!(self, qd, side => side.set_option(cx, qd, option))
    }

    fn option(&self, qd: QDesc, name: OptionName) -> Result<SocketOption, Error> {
        match qd.tag() {
            Some(Tag::First) => self.network.option(qd, name),
            Some(Tag::Second) => self.storage.option(qd, name),
            Some(Tag::Graph) | None => Err(Error::BadDescriptor),
        }
    }

    fn local_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        match qd.tag() {
            Some(Tag::First) => self.network.local_addr(qd),
            Some(Tag::Second) => self.storage.local_addr(qd),
            Some(Tag::Graph) | None => Err(Error::BadDescriptor),
        }
    }

    fn socket_error(&self, qd: QDesc) -> Result<Option<Error>, Error> {
        match qd.tag() {
            Some(Tag::First) => self.network.socket_error(qd),
            Some(Tag::Second) => self.storage.socket_error(qd),
            Some(Tag::Graph) | None => Err(Error::BadDescriptor),
        }
    }

    fn peer_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        match qd.tag() {
            Some(Tag::First) => self.network.peer_addr(qd),
            Some(Tag::Second) => self.storage.peer_addr(qd),
            Some(Tag::Graph) | None => Err(Error::BadDescriptor),
        }
    }

    fn kind(&self, qd: QDesc) -> Result<QueueKind, Error> {
        match qd.tag() {
            Some(Tag::First) => self.network.kind(qd),
            Some(Tag::Second) => self.storage.kind(qd),
            Some(Tag::Graph) | None => Err(Error::BadDescriptor),
        }
    }

    fn start(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc, op: &mut Op) -> Result<Step, Error> {
        route!(self, qd, side => side.start(cx, token, qd, op))
    }

    #[inline]
    fn push_now(&mut self, cx: &mut Cx<'_>, qd: QDesc, sga: &mut SgArray, to: Option<&Addr>) -> bool {
        match qd.tag() {
            Some(Tag::First) => self.network.push_now(cx, qd, sga, to),
            Some(Tag::Second) => self.storage.push_now(cx, qd, sga, to),
            Some(Tag::Graph) | None => false,
        }
    }

    #[inline]
    fn pop_later(&mut self, token: QToken, qd: QDesc) -> bool {
        match qd.tag() {
            Some(Tag::First) => self.network.pop_later(token, qd),
            Some(Tag::Second) => self.storage.pop_later(token, qd),
            Some(Tag::Graph) | None => false,
        }
    }

    fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc) -> Result<(), Error> {
        route!(self, qd, side => side.cancel(cx, token, qd))
    }

    fn poll(&mut self, cx: &mut Cx<'_>) -> usize {
        self.network.poll(cx) + self.storage.poll(cx)
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.network.next_deadline(), self.storage.next_deadline()].into_iter().flatten().min()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.both.as_fd()
    }

    fn arm(&mut self, cx: &mut Cx<'_>) -> bool {
        self.network.arm(cx) && self.storage.arm(cx)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.network.counters(visit);
        self.storage.counters(visit);
    }
}
