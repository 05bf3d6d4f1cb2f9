//! Listening and connecting where the libOS does it, and the kernel only has the numbers.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::libos::SocketOption;
use demi_api::op::Done;
use demi_api::slab::Key;
use rustix::io::Errno;

use super::pump::What;
use super::socket::{ERR, HUP, IN, Listener, OUT};
use super::{Object, Role, State, abandon};
use crate::carrier::Carrier;
use crate::errno::errno;
use crate::sys;

/// Connections that are taken from the libOS ahead of the program.
const AHEAD: usize = 64;

impl<C: Carrier> State<C> {
    /// Makes a queue that listens of a socket that is to.
    pub(super) fn listen_now(&mut self, key: Key, fd: i32, backlog: u32) -> Result<(), Errno> {
        let demi = self.demi()?;
        let socket = self.socket(key)?;
        let (domain, dual) = (socket.domain, socket.dual);
        let local = socket.local.unwrap_or_else(|| any(domain));
        let mut queues = [None, None];
        for (place, addr) in both(local, dual).into_iter().flatten().enumerate() {
            let domain = Domain::from(&Addr::from(addr));
            let qd = demi.socket(domain, SocketKind::Stream).map_err(|error| errno(&error))?;
            if sys::shares_port(fd) {
                // It says something to a bind alone.
                let _ = demi.set_option(qd, SocketOption::ReusePort(true));
            }
            let listening = demi.bind(qd, addr).and_then(|()| demi.listen(qd, backlog.max(1)));
            if let Err(error) = listening {
                let _ = demi.close(qd);
                // An instance that has addresses of one family alone serves that one.
                if place > 0 || (dual && addr.ip().is_unspecified()) {
                    continue;
                }
                return Err(errno(&error));
            }
            queues[place] = Some((qd, None));
        }
        if let [None, Some(_)] = queues {
            queues.swap(0, 1);
        }
        let Some((first, _)) = queues[0] else { return Err(Errno::ADDRNOTAVAIL) };
        let bound = demi.local_addr(first).ok().and_then(|addr| addr.inet());
        let socket = self.socket(key)?;
        if let (Some(local), Some(bound)) = (&mut socket.local, bound) {
            local.set_port(bound.port());
        }
        socket.role = Role::Listener(Listener { queues, backlog, ready: VecDeque::new() });
        self.pass_options_on(key, fd);
        self.bound_buffers(key);
        self.accept_ahead(key);
        self.take_results();
        self.move_watches(key);
        Ok(())
    }

    /// Asks for the next connection, unless many wait already.
    fn accept_ahead(&mut self, key: Key) {
        let Some(demi) = self.demi.clone() else { return };
        let Ok(socket) = self.socket(key) else { return };
        let Role::Listener(listener) = &mut socket.role else { return };
        if listener.ready.len() >= AHEAD.min(listener.backlog.max(1) as usize) {
            return;
        }
        let mut asked = [None, None];
        for (queue, asked) in listener.queues.iter_mut().zip(&mut asked) {
            if let Some((qd, accept @ None)) = queue
                && let Ok(token) = demi.accept(*qd)
            {
                *accept = Some(token);
                *asked = Some(token);
            }
        }
        for token in asked.into_iter().flatten() {
            self.routes.set(token, key, What::Accept);
            self.disturbed = true;
        }
    }

    /// The next connection that has come: `AGAIN` if there is none.
    pub(crate) fn accept_next(&mut self, key: Key) -> Result<(QDesc, SocketAddr), Errno> {
        let socket = self.socket(key)?;
        let Role::Listener(listener) = &mut socket.role else { return Err(Errno::INVAL) };
        let next = listener.ready.pop_front();
        let error = socket.error.take();
        self.accept_ahead(key);
        match (next, error) {
            (Some(next), _) => Ok(next),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Errno::AGAIN),
        }
    }

    /// A connection that there was no descriptor for waits on.
    pub(crate) fn accept_later(&mut self, key: Key, connection: (QDesc, SocketAddr)) {
        if let Ok(socket) = self.socket(key)
            && let Role::Listener(listener) = &mut socket.role
        {
            listener.ready.push_front(connection);
            return;
        }
        if let Some(demi) = &self.demi {
            let _ = demi.close(connection.0);
        }
    }

    pub(super) fn accepted(&mut self, key: Key, at: QDesc, result: Result<Done, Error>) {
        let found = match self.socket(key) {
            Ok(socket) => match &mut socket.role {
                Role::Listener(listener) => Some((listener, &mut socket.error)),
                _ => None,
            },
            Err(_) => None,
        };
        let Some((listener, failure)) = found else {
            // The listener has gone meanwhile: whoever has called is told so.
            if let (Ok(Done::Accepted { qd, .. }), Some(demi)) = (result, &self.demi) {
                let _ = demi.close(qd);
            }
            return;
        };
        for (qd, accept) in listener.queues.iter_mut().flatten() {
            if *qd == at {
                *accept = None;
            }
        }
        match result {
            Ok(Done::Accepted { qd, peer }) => {
                let unknown = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
                listener.ready.push_back((qd, peer.inet().unwrap_or(unknown)));
            }
            Ok(_) | Err(Error::Cancelled) => return,
            Err(error) => {
                *failure = Some(errno(&error));
                self.tell(key, IN | ERR);
                return;
            }
        }
        self.tell(key, IN);
        self.accept_ahead(key);
    }

    /// Begins to connect.
    pub(crate) fn connect_now(&mut self, key: Key, fd: i32, peer: SocketAddr) -> Result<(), Errno> {
        let demi = self.demi()?;
        let socket = self.socket(key)?;
        match &socket.role {
            Role::Plain { backlog: None } => {}
            Role::Connecting { .. } => return Err(Errno::ALREADY),
            Role::Plain { backlog: Some(_) } | Role::Listener(_) | Role::Stream(_) => {
                return Err(Errno::ISCONN);
            }
            Role::Datagram(_) | Role::Lost => return Err(Errno::INVAL),
        }
        let local = socket.local;
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let domain = Domain::from(&Addr::from(peer));
        let qd = demi.socket(domain, SocketKind::Stream).map_err(|error| errno(&error))?;
        let bound = match local {
            Some(local) if local.port() != 0 || !local.ip().is_unspecified() => {
                demi.bind(qd, SocketAddr::new(local.ip().to_canonical(), local.port()))
            }
            _ => Ok(()),
        };
        let token = match bound.and_then(|()| demi.connect(qd, peer)) {
            Ok(token) => token,
            Err(error) => {
                let _ = demi.close(qd);
                return Err(errno(&error));
            }
        };
        self.routes.set(token, key, What::Connect);
        self.disturbed = true;
        self.socket(key)?.role = Role::Connecting { qd };
        self.pass_options_on(key, fd);
        self.bound_buffers(key);
        self.take_results();
        Ok(())
    }

    /// How a connect has ended, if it has.
    pub(crate) fn connect_outcome(&mut self, key: Key) -> Option<Result<(), Errno>> {
        let socket = match self.socket(key) {
            Ok(socket) => socket,
            Err(errno) => return Some(Err(errno)),
        };
        match &socket.role {
            Role::Connecting { .. } => None,
            Role::Stream(_) => Some(Ok(())),
            _ => Some(Err(socket.error.take().unwrap_or(Errno::CONNREFUSED))),
        }
    }

    /// A listener is shut down: it listens no more.
    pub(crate) fn stop_listening(&mut self, key: Key) -> Result<(), Errno> {
        let demi = self.demi()?;
        let socket = self.socket(key)?;
        let role = std::mem::replace(&mut socket.role, Role::Plain { backlog: None });
        if let Role::Listener(listener) = role {
            for (qd, _) in listener.queues.into_iter().flatten() {
                let _ = demi.close(qd);
            }
            for (qd, _) in listener.ready {
                abandon(&demi, qd);
            }
        }
        self.disturbed = true;
        self.tell(key, IN | HUP);
        Ok(())
    }

    /// Whether another socket is bound where this one is to be.
    pub(crate) fn is_taken(&mut self, kind: SocketKind, addr: SocketAddr) -> bool {
        self.objects.entries_mut().any(|(_, object)| match object {
            Object::Socket(socket) => {
                let is_bound = !matches!(socket.role, Role::Stream(_) | Role::Lost);
                is_bound && socket.kind == kind && socket.local == Some(addr)
            }
            Object::Epoll(_) => false,
        })
    }

    pub(super) fn connected(&mut self, key: Key, result: Result<Done, Error>) {
        let Ok(socket) = self.socket(key) else { return };
        let Role::Connecting { qd } = socket.role else { return };
        match result {
            Ok(_) => {
                // It is there: nothing else is asked of it.
                let _ = self.become_stream(key, qd, None);
                self.tell(key, OUT);
            }
            Err(error) => {
                socket.role = Role::Plain { backlog: None };
                socket.error = Some(errno(&error));
                if let Some(demi) = &self.demi {
                    let _ = demi.close(qd);
                }
                self.tell(key, IN | OUT | ERR | HUP);
            }
        }
    }
}

fn any(domain: Domain) -> SocketAddr {
    match domain {
        Domain::Inet => SocketAddr::from(([0; 4], 0)),
        Domain::Inet6 | Domain::Unix => SocketAddr::from(([0; 16], 0)),
    }
}

/// The addresses that a socket listens at: one of IPv6 that is not for that alone has a second one.
fn both(local: SocketAddr, dual: bool) -> [Option<SocketAddr>; 2] {
    match local.ip() {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            [Some(SocketAddr::new(ip.to_canonical(), local.port())), None]
        }
        IpAddr::V6(ip) if dual && ip.is_unspecified() => {
            [Some(local), Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), local.port()))]
        }
        _ => [Some(local), None],
    }
}
