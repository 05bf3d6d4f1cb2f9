//! Two stacks of one libOS that face each other over a device, as one libOS: what the suite sends from one socket to another leaves
//! by one end of the device and comes in by the other.
//!
//! A stack delivers packets to its own addresses itself, so one stack with one device would keep them from it. Here each
//! stack has an end of the device and an address; one turn is a turn of both. A socket begins on the near stack, and
//! moves to the far one when it is bound to the far one's address. So whoever listens there and connects from an unbound
//! socket, or binds one datagram socket to each address, talks across the device.
//!
//! Invariant: a descriptor names one socket of one stack, and the stacks share nothing but heap and thread.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use demi_api::libos::{Cx, Setup};
use demi_api::op::{Op, Step};
use demi_api::time::Instant;
use demi_api::{
    Addr, Domain, Error, LibOs, OptionName, QDesc, QToken, QueueKind, Shutdown, SocketKind, SocketOption,
};
use rustix::event::epoll;

use super::cables::{V4, V6};

const NEAR: usize = 0;
const FAR: usize = 1;

/// What makes two stacks, each with its address, and connects them.
pub(crate) trait Between: Sized {
    /// Of what.
    type Stack: LibOs;

    /// The near one and the far one; and what is between them, which is to go after them.
    fn stacks(setup: &Setup<'_>) -> Result<([Self::Stack; 2], Self), Error>;
}

/// Two stacks, and what is between them.
#[derive(Debug)]
pub(crate) struct Facing<C: Between> {
    stacks: [C::Stack; 2],
    /// Sockets made by [`LibOs::socket`], by the near stack's descriptor.
    places: HashMap<QDesc, Place>,
    both: OwnedFd,
    // Last, as the devices are its ends.
    _cable: C,
}

/// Where a socket is.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Place {
    /// On the near stack, and still able to move.
    Fresh(SocketKind),
    Near,
    /// On the far stack, by this descriptor; the near one is kept as the socket's name.
    Far(QDesc),
}

impl<C: Between> Facing<C> {
    /// The stack and the descriptor there that `qd` stands for. One that is nobody's is the near stack's to refuse.
    fn find(&self, qd: QDesc) -> (usize, QDesc) {
        match self.places.get(&qd) {
            Some(Place::Far(moved)) => (FAR, *moved),
            Some(Place::Fresh(_) | Place::Near) => (NEAR, qd),
            // Connections that were accepted are on the stack whose descriptors they have.
            None if self.stacks[FAR].kind(qd).is_ok() => (FAR, qd),
            None => (NEAR, qd),
        }
    }
}

impl<C: Between> LibOs for Facing<C> {
    const NAME: &'static str = "facing";

    fn create(setup: Setup<'_>) -> Result<Facing<C>, Error> {
        let (stacks, cable) = C::stacks(&setup)?;
        let failed = |errno: rustix::io::Errno| Error::System(errno.raw_os_error());
        let both = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        for stack in &stacks {
            let data = epoll::EventData::new_u64(0);
            epoll::add(&both, stack.wait_fd(), data, epoll::EventFlags::IN).map_err(failed)?;
        }
        Ok(Facing { stacks, places: HashMap::new(), both, _cable: cable })
    }

    fn socket(&mut self, cx: &mut Cx<'_>, domain: Domain, kind: SocketKind) -> Result<QDesc, Error> {
        let qd = self.stacks[NEAR].socket(cx, domain, kind)?;
        self.places.insert(qd, Place::Fresh(kind));
        Ok(qd)
    }

    fn bind(&mut self, cx: &mut Cx<'_>, qd: QDesc, addr: &Addr) -> Result<(), Error> {
        let is_far = addr.inet().is_some_and(|addr| match addr.ip() {
            IpAddr::V4(ip) => ip == V4[FAR],
            IpAddr::V6(ip) => ip == V6[FAR],
        });
        let kind = match self.places.get(&qd) {
            Some(Place::Fresh(kind)) if is_far => *kind,
            _ => {
                let (stack, qd) = self.find(qd);
                return self.stacks[stack].bind(cx, qd, addr);
            }
        };
        let moved = self.stacks[FAR].socket(cx, Domain::from(addr), kind)?;
        if let Err(error) = self.stacks[FAR].bind(cx, moved, addr) {
            self.stacks[FAR].close(cx, moved)?;
            return Err(error);
        }
        self.places.insert(qd, Place::Far(moved));
        Ok(())
    }

    fn listen(&mut self, cx: &mut Cx<'_>, qd: QDesc, backlog: u32) -> Result<(), Error> {
        let (stack, qd) = self.find(qd);
        self.stacks[stack].listen(cx, qd, backlog)
    }

    fn seek(
        &mut self,
        cx: &mut Cx<'_>,
        qd: QDesc,
        to: demi_api::SeekTo,
    ) -> Result<demi_api::Position, Error> {
        let (stack, qd) = self.find(qd);
        self.stacks[stack].seek(cx, qd, to)
    }

    fn truncate(&mut self, cx: &mut Cx<'_>, qd: QDesc, position: demi_api::Position) -> Result<(), Error> {
        let (stack, qd) = self.find(qd);
        self.stacks[stack].truncate(cx, qd, position)
    }

    fn shutdown(&mut self, cx: &mut Cx<'_>, qd: QDesc, how: Shutdown) -> Result<(), Error> {
        let (stack, qd) = self.find(qd);
        self.stacks[stack].shutdown(cx, qd, how)
    }

    fn close(&mut self, cx: &mut Cx<'_>, qd: QDesc) -> Result<(), Error> {
        let (stack, there) = self.find(qd);
        self.stacks[stack].close(cx, there)?;
        match self.places.remove(&qd) {
            Some(Place::Far(_)) => self.stacks[NEAR].close(cx, qd),
            _ => Ok(()),
        }
    }

    fn set_option(&mut self, cx: &mut Cx<'_>, qd: QDesc, option: SocketOption) -> Result<(), Error> {
        let (stack, qd) = self.find(qd);
        self.stacks[stack].set_option(cx, qd, option)
    }

    fn option(&self, qd: QDesc, name: OptionName) -> Result<SocketOption, Error> {
        let (stack, qd) = self.find(qd);
        self.stacks[stack].option(qd, name)
    }

    fn local_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        let (stack, qd) = self.find(qd);
        self.stacks[stack].local_addr(qd)
    }

    fn peer_addr(&self, qd: QDesc) -> Result<Addr, Error> {
        let (stack, qd) = self.find(qd);
        self.stacks[stack].peer_addr(qd)
    }

    fn kind(&self, qd: QDesc) -> Result<QueueKind, Error> {
        let (stack, qd) = self.find(qd);
        self.stacks[stack].kind(qd)
    }

    fn start(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc, op: &mut Op) -> Result<Step, Error> {
        let (stack, there) = self.find(qd);
        let step = self.stacks[stack].start(cx, token, there, op)?;
        // What has been used stays where it is.
        if let Some(place @ Place::Fresh(_)) = self.places.get_mut(&qd) {
            *place = Place::Near;
        }
        Ok(step)
    }

    fn cancel(&mut self, cx: &mut Cx<'_>, token: QToken, qd: QDesc) -> Result<(), Error> {
        let (stack, qd) = self.find(qd);
        self.stacks[stack].cancel(cx, token, qd)
    }

    fn poll(&mut self, cx: &mut Cx<'_>) -> usize {
        self.stacks.iter_mut().map(|stack| stack.poll(cx)).sum()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.stacks.iter().filter_map(LibOs::next_deadline).min()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.both.as_fd()
    }

    fn arm(&mut self, cx: &mut Cx<'_>) -> bool {
        self.stacks.iter_mut().all(|stack| stack.arm(cx))
    }

    /// Each name twice, the near stack's first.
    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.stacks.iter().for_each(|stack| stack.counters(visit));
    }
}
