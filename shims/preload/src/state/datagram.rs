//! Datagram sockets: whole messages, with their senders.

use std::collections::VecDeque;
use std::net::SocketAddr;

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::libos::SocketOption;
use demi_api::op::Done;
use demi_api::sga::SgArray;
use demi_api::slab::Key;
use demi_api::token::QToken;
use rustix::io::Errno;

use super::pump::What;
use super::socket::{ERR, IN, OUT};
use super::stream::Receive;
use super::{Role, State};
use crate::carrier::Carrier;
use crate::errno::errno;
use crate::raw::{Gather, Places};
use crate::sys;

/// Datagrams that are received ahead of the program. What comes beyond stays with the libOS.
const AHEAD: usize = 64;

/// Bytes of the longest datagram that is sent.
const LONGEST: usize = 65_507;

pub(crate) struct Datagram {
    pub(crate) qd: QDesc,
    pub(crate) carried: Option<i32>,
    connected: bool,
    come: VecDeque<SgArray>,
    pop: Option<QToken>,
    unsent: usize,
    full: bool,
}

/// What was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Bytes that were copied.
    pub(crate) count: usize,
    /// Bytes that there were.
    pub(crate) len: usize,
    pub(crate) from: Option<SocketAddr>,
}

impl Datagram {
    pub(crate) fn new(qd: QDesc, carried: Option<i32>, connected: bool) -> Datagram {
        Datagram { qd, carried, connected, come: VecDeque::new(), pop: None, unsent: 0, full: false }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(crate) fn bits(&self) -> u32 {
        let read = if self.come.is_empty() { 0 } else { IN };
        let write = if self.full { 0 } else { OUT };
        read | write
    }

    /// Bytes of the next datagram.
    pub(crate) fn readable(&self) -> usize {
        self.come.front().map_or(0, SgArray::len)
    }
}

impl<C: Carrier> State<C> {
    /// A queue for a datagram socket that has none.
    pub(super) fn open_datagram(&mut self, key: Key, fd: i32) -> Result<(), Errno> {
        let demi = self.demi()?;
        let socket = self.socket(key)?;
        let local = socket.local.map(|local| SocketAddr::new(local.ip().to_canonical(), local.port()));
        let domain = local.map_or(socket.domain, |local| Domain::from(&Addr::from(local)));
        let qd = demi.socket(domain, SocketKind::Datagram).map_err(|error| errno(&error))?;
        if sys::shares_port(fd) {
            // It says something to a bind alone.
            let _ = demi.set_option(qd, SocketOption::ReusePort(true));
        }
        if let Some(local) = local
            && let Err(error) = demi.bind(qd, local)
        {
            let _ = demi.close(qd);
            return Err(errno(&error));
        }
        self.become_datagram(key, Datagram::new(qd, None, false))?;
        self.pass_options_on(key, fd);
        Ok(())
    }

    pub(crate) fn become_datagram(&mut self, key: Key, datagram: Datagram) -> Result<(), Errno> {
        self.socket(key)?.role = Role::Datagram(datagram);
        self.datagram_ahead(key);
        self.take_results();
        self.move_watches(key);
        Ok(())
    }

    fn datagram(&mut self, key: Key) -> Result<&mut Datagram, Errno> {
        match &mut self.socket(key)?.role {
            Role::Datagram(datagram) => Ok(datagram),
            _ => Err(Errno::NOTCONN),
        }
    }

    fn datagram_ahead(&mut self, key: Key) {
        let Some(demi) = self.demi.clone() else { return };
        let Ok(datagram) = self.datagram(key) else { return };
        if datagram.pop.is_some() || datagram.come.len() >= AHEAD {
            return;
        }
        if let Ok(token) = demi.pop(datagram.qd) {
            datagram.pop = Some(token);
            self.routes.set(token, key, What::Pop);
            self.disturbed = true;
        }
    }

    /// The next datagram: `AGAIN` if there is none.
    pub(crate) fn read_datagram(
        &mut self,
        key: Key,
        places: &mut Places<'_>,
        how: Receive,
    ) -> Result<Received, Errno> {
        let socket = self.socket(key)?;
        let Role::Datagram(datagram) = &mut socket.role else { return Err(Errno::NOTCONN) };
        let Some(front) = datagram.come.front() else {
            if let Some(error) = socket.error.take() {
                return Err(error);
            }
            self.datagram_ahead(key);
            return Err(Errno::AGAIN);
        };
        let count = front.segments().iter().map(|segment| places.fill(segment)).sum();
        let received = Received { count, len: front.len(), from: front.peer().and_then(|peer| peer.inet()) };
        if !how.peek {
            datagram.come.pop_front();
            self.datagram_ahead(key);
        }
        Ok(received)
    }

    /// Sends a datagram, to the socket's peer if no other is named: `AGAIN` if there is no room.
    pub(crate) fn write_datagram(
        &mut self,
        key: Key,
        gather: &Gather<'_>,
        to: Option<SocketAddr>,
    ) -> Result<usize, Errno> {
        let limit = self.send_bytes(0);
        let demi = self.demi()?;
        let socket = self.socket(key)?;
        let Role::Datagram(datagram) = &mut socket.role else { return Err(Errno::NOTCONN) };
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        let len = gather.len();
        if len > LONGEST {
            return Err(Errno::MSGSIZE);
        }
        if datagram.unsent > 0 && datagram.unsent + len > limit {
            datagram.full = true;
            return Err(Errno::AGAIN);
        }
        let Ok(mut buffer) = demi.alloc(len.max(1)) else { return Err(Errno::NOBUFS) };
        buffer.truncate(len);
        gather.copy_to(0, &mut buffer);
        let pushed = match to {
            Some(to) => demi.push_to(datagram.qd, buffer, SocketAddr::new(to.ip().to_canonical(), to.port())),
            None if !datagram.connected => return Err(Errno::DESTADDRREQ),
            None => demi.push(datagram.qd, buffer),
        };
        let token = pushed.map_err(|refused| errno(&refused.error))?;
        datagram.unsent += len;
        self.routes.set(token, key, What::Push(len as u32));
        self.disturbed = true;
        self.take_results();
        Ok(len)
    }

    /// Gives a datagram socket its peer.
    pub(crate) fn connect_datagram(&mut self, key: Key, peer: SocketAddr) -> Result<(), Errno> {
        let demi = self.demi()?;
        let qd = self.datagram(key)?.qd;
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let token = demi.connect(qd, peer).map_err(|error| errno(&error))?;
        self.disturbed = true;
        // It is done on the spot: nothing is asked of anybody.
        match demi.wait(token, Some(std::time::Duration::ZERO)) {
            Ok(completion) => completion.result.map_err(|error| errno(&error))?,
            Err(error) => return Err(errno(&error)),
        };
        self.datagram(key)?.connected = true;
        Ok(())
    }

    /// A datagram socket has no peer any more.
    pub(crate) fn disconnect_datagram(&mut self, key: Key) {
        let demi = self.demi.clone();
        let Ok(socket) = self.socket(key) else { return };
        let Role::Datagram(datagram) = &mut socket.role else { return };
        datagram.connected = false;
        if !C::IN_KERNEL
            && let Some(demi) = demi
        {
            // It gets another queue, which never had one.
            let qd = datagram.qd;
            socket.role = Role::Plain { backlog: None };
            let _ = demi.close(qd);
        }
    }

    pub(super) fn datagram_popped(&mut self, key: Key, result: Result<Done, Error>) {
        let Ok(socket) = self.socket(key) else { return };
        let Role::Datagram(datagram) = &mut socket.role else { return };
        datagram.pop = None;
        match result {
            Ok(Done::Popped(sga)) => {
                datagram.come.push_back(sga);
                self.tell(key, IN);
                self.datagram_ahead(key);
            }
            Ok(_) | Err(Error::Cancelled | Error::OutOfMemory(_)) => {}
            Err(error) => {
                socket.error = Some(errno(&error));
                self.tell(key, IN | OUT | ERR);
            }
        }
    }

    pub(super) fn datagram_pushed(&mut self, key: Key, count: u32, result: Result<(), Error>) {
        let Ok(socket) = self.socket(key) else { return };
        let Role::Datagram(datagram) = &mut socket.role else { return };
        datagram.unsent = datagram.unsent.saturating_sub(count as usize);
        let had_room = !std::mem::take(&mut datagram.full);
        if let Err(error) = result {
            socket.error = Some(errno(&error));
            self.tell(key, IN | OUT | ERR);
        } else if !had_room {
            self.tell(key, OUT);
        }
    }
}
