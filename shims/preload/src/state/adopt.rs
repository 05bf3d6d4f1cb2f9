//! A program's socket becomes a queue.

use demi_api::addr::SocketKind;
use demi_api::libos::{OptionName, SocketOption};
use demi_api::slab::Key;
use rustix::io::Errno;

use super::datagram::Datagram;
use super::stream::Stream;
use super::{Object, Role, State};
use crate::carrier::Carrier;
use crate::errno::errno;
use crate::sys;

/// Part of the heap that one connection's buffers in the libOS may have, each.
const HEAP_PARTS: usize = 256;

impl<C: Carrier> State<C> {
    /// Makes a queue of a socket, if its time has come: what is first read, written or looked at for readiness. `fd` is
    /// a descriptor of it. True if it has a queue.
    pub(crate) fn realize(&mut self, key: Key, fd: i32) -> Result<bool, Errno> {
        let socket = self.socket(key)?;
        match (&socket.role, socket.kind) {
            (Role::Plain { backlog }, SocketKind::Stream) if C::IN_KERNEL => {
                // What listens, connects, or has failed to, is the kernel's affair.
                if backlog.is_some() || !sys::has_peer(fd) {
                    return Ok(false);
                }
                Ok(self.adopt_stream(key, fd).is_ok())
            }
            (Role::Plain { .. }, SocketKind::Datagram) if C::IN_KERNEL => {
                Ok(self.adopt_datagram(key, fd).is_ok())
            }
            (Role::Plain { backlog: Some(backlog) }, SocketKind::Stream) => {
                let backlog = *backlog;
                self.listen_now(key, fd, backlog)?;
                Ok(true)
            }
            (Role::Plain { .. }, SocketKind::Stream) => Ok(false),
            (Role::Plain { .. }, SocketKind::Datagram) => {
                self.open_datagram(key, fd)?;
                Ok(true)
            }
            (Role::Lost, _) => Ok(true),
            _ => Ok(true),
        }
    }

    /// A connection of the kernel's. Where that cannot be, it stays what it is, and works.
    fn adopt_stream(&mut self, key: Key, fd: i32) -> Result<(), Errno> {
        let demi = self.demi()?;
        let duplicate = sys::duplicate_high(fd)?;
        let carried = sys::number(&duplicate);
        let qd = demi.adopt(duplicate).map_err(|error| errno(&error))?;
        self.become_stream(key, qd, Some(carried))
    }

    fn adopt_datagram(&mut self, key: Key, fd: i32) -> Result<(), Errno> {
        let demi = self.demi()?;
        let duplicate = sys::duplicate_high(fd)?;
        let carried = sys::number(&duplicate);
        let qd = demi.adopt(duplicate).map_err(|error| errno(&error))?;
        let connected = sys::has_peer(fd);
        self.become_datagram(key, Datagram::new(qd, Some(carried), connected))
    }

    /// A connection has a queue from now on, and is read ahead.
    pub(crate) fn become_stream(
        &mut self,
        key: Key,
        qd: demi_api::desc::QDesc,
        carried: Option<i32>,
    ) -> Result<(), Errno> {
        self.socket(key)?.role = Role::Stream(Stream::new(qd, carried));
        self.streams += 1;
        self.pop_ahead(key);
        self.take_results();
        self.move_watches(key);
        Ok(())
    }

    /// Gives a queue what the program has said to the socket that stands for it.
    pub(crate) fn pass_options_on(&mut self, key: Key, fd: i32) {
        let Some(demi) = self.demi.clone() else { return };
        let Ok(socket) = self.socket(key) else { return };
        for qd in socket.queues().into_iter().flatten() {
            for name in [
                OptionName::KeepAlive,
                OptionName::ReuseAddr,
                OptionName::ReusePort,
                OptionName::NoDelay,
                OptionName::Broadcast,
                OptionName::KeepIdle,
                OptionName::KeepInterval,
                OptionName::KeepCount,
            ] {
                // The kernel's default is to hold small segments back while others of them are under way. A libOS that has
                // but Nagle's rule would hold back behind large ones too: it does so only if it is asked to.
                if let Some(option) =
                    sys::option(fd, name).filter(|option| *option != SocketOption::NoDelay(false))
                {
                    // What a queue of its kind does not know, it does not need.
                    let _ = demi.set_option(qd, option);
                }
            }
        }
    }

    /// A small heap is not for a few connections' buffers: so that many can have some.
    pub(crate) fn bound_buffers(&mut self, key: Key) {
        let Some((demi, settings)) = self.demi.clone().zip(self.settings.as_ref()) else { return };
        let part = (settings.config.heap.size_mib << 20) / HEAP_PARTS;
        let Ok(socket) = self.socket(key) else { return };
        for qd in socket.queues().into_iter().flatten() {
            if let Ok(SocketOption::RecvBuffer(bytes)) = demi.option(qd, OptionName::RecvBuffer)
                && bytes > part
            {
                let _ = demi.set_option(qd, SocketOption::RecvBuffer(part));
            }
            if let Ok(SocketOption::SendBuffer(bytes)) = demi.option(qd, OptionName::SendBuffer)
                && bytes > part
            {
                let _ = demi.set_option(qd, SocketOption::SendBuffer(part));
            }
        }
    }

    /// The same for one option that was just set.
    pub(crate) fn pass_option_on(&mut self, key: Key, option: SocketOption) {
        let Some(demi) = self.demi.clone() else { return };
        let Ok(socket) = self.socket(key) else { return };
        for qd in socket.queues().into_iter().flatten() {
            let _ = demi.set_option(qd, option);
        }
    }

    /// After a fork, in the child: sockets of the kernel are that again. What only the parent's instance has is lost to
    /// us; what only listens can do so here as well.
    pub(crate) fn orphan_sockets(&mut self) {
        let mut moved = Vec::new();
        for (key, object) in self.objects.entries_mut() {
            match object {
                Object::Socket(socket) => {
                    socket.waiters.clear();
                    let role = std::mem::replace(&mut socket.role, Role::Lost);
                    let carried = match &role {
                        Role::Stream(stream) => stream.carried,
                        Role::Datagram(datagram) => datagram.carried,
                        _ => None,
                    };
                    if let Some(carried) = carried {
                        // Or a connection that both close would stay open.
                        sys::close(carried);
                    }
                    socket.role = match &role {
                        Role::Plain { backlog } => Role::Plain { backlog: *backlog },
                        Role::Listener(listener) => Role::Plain { backlog: Some(listener.backlog) },
                        Role::Connecting { .. } | Role::Stream(_) if !C::IN_KERNEL => Role::Lost,
                        Role::Datagram(datagram) if !C::IN_KERNEL && datagram.is_connected() => Role::Lost,
                        Role::Connecting { .. } | Role::Stream(_) | Role::Datagram(_) => {
                            Role::Plain { backlog: None }
                        }
                        Role::Lost => Role::Lost,
                    };
                    // Its buffers are the parent's heap: their counts must not be touched.
                    std::mem::forget(role);
                    moved.push(key);
                }
                Object::Epoll(epoll) => epoll.waiters.clear(),
            }
        }
        for key in moved {
            self.move_watches(key);
        }
    }
}
