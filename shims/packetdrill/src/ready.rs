//! Who is ready for what: `poll` and `epoll`.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_short};
use std::os::fd::{AsRawFd, OwnedFd};

use demi_api::QueueKind;
use demi_c::errno::Errno;
use libc::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLRDHUP, epoll_event, pollfd};

use crate::stack::{File, Phase, Socket, Stack, new_fd};

/// Told of whether asked for or not.
const ALWAYS: u32 = (EPOLLERR | EPOLLHUP) as u32;

/// A set of sockets and of what is to be told of them.
pub(crate) struct Epoll {
    pub(crate) fd: OwnedFd,
    interests: BTreeMap<c_int, Interest>,
}

struct Interest {
    events: u32,
    data: u64,
    /// The socket's count of changes when it was told of last.
    told: Option<u64>,
}

impl Epoll {
    pub(crate) fn forget(&mut self, fd: c_int) {
        self.interests.remove(&fd);
    }
}

impl Socket {
    /// What it is ready for, as bits of `epoll`, of which those of `poll` are a part.
    fn readiness(&self) -> u32 {
        let mut bits = 0;
        let is_over = self.phase == Phase::Failed;
        let is_open = self.phase == Phase::Connected || self.kind == QueueKind::Message;
        if !self.held.is_empty() || self.ended || self.shut_read || !self.accepted.is_empty() || is_over {
            bits |= EPOLLIN;
        }
        // As Linux has it: when a third is free.
        if is_over || is_open && self.unacknowledged <= self.send_room - self.send_room.div_ceil(3) {
            bits |= EPOLLOUT;
        }
        if self.ended || self.shut_read || is_over {
            bits |= EPOLLRDHUP;
        }
        if self.failure.is_some() {
            bits |= EPOLLERR;
        }
        if is_over || self.phase == Phase::Fresh && self.kind == QueueKind::Stream {
            bits |= EPOLLHUP;
        }
        bits as u32
    }
}

impl Stack {
    /// Fills in what is ready; how many are, or `None` if none is.
    pub(crate) fn poll(&mut self, fds: &mut [pollfd]) -> Option<c_int> {
        let mut count = 0;
        for entry in fds {
            entry.revents = match self.files.get(&entry.fd) {
                _ if entry.fd < 0 => 0,
                Some(File::Socket(socket)) => {
                    // The bits of `poll` and `epoll` have the same places, and these all fit.
                    let wanted = entry.events as u16 as u32 | ALWAYS;
                    (socket.readiness() & wanted) as u16 as c_short
                }
                _ => libc::POLLNVAL,
            };
            count += c_int::from(entry.revents != 0);
        }
        (count > 0).then_some(count)
    }

    pub(crate) fn epoll_create(&mut self) -> Result<c_int, Errno> {
        let fd = new_fd()?;
        let number = fd.as_raw_fd();
        self.insert(number, File::Epoll(Epoll { fd, interests: BTreeMap::new() }));
        Ok(number)
    }

    fn epoll(&mut self, fd: c_int) -> Result<&mut Epoll, Errno> {
        match self.files.get_mut(&fd) {
            Some(File::Epoll(epoll)) => Ok(epoll),
            Some(File::Socket(_)) => Err(Errno(libc::EINVAL)),
            None => Err(Errno(libc::EBADF)),
        }
    }

    pub(crate) fn epoll_ctl(
        &mut self,
        epfd: c_int,
        op: c_int,
        fd: c_int,
        event: Option<epoll_event>,
    ) -> Result<c_int, Errno> {
        self.socket(fd)?;
        let interests = &mut self.epoll(epfd)?.interests;
        let is_there = interests.contains_key(&fd);
        if op == libc::EPOLL_CTL_DEL {
            return interests.remove(&fd).map(|_| 0).ok_or(Errno(libc::ENOENT));
        }
        let event = event.ok_or(Errno(libc::EFAULT))?;
        match op {
            libc::EPOLL_CTL_ADD if is_there => return Err(Errno(libc::EEXIST)),
            libc::EPOLL_CTL_MOD if !is_there => return Err(Errno(libc::ENOENT)),
            libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD => {}
            _ => return Err(Errno(libc::EINVAL)),
        }
        interests.insert(fd, Interest { events: event.events, data: event.u64, told: None });
        Ok(0)
    }

    /// Fills in what there is to be told; how many, or `None` if nothing.
    pub(crate) fn epoll_wait(
        &mut self,
        epfd: c_int,
        out: &mut [epoll_event],
    ) -> Result<Option<c_int>, Errno> {
        // Not a field of the stack for the time, so that the sockets can be looked at.
        let mut interests = std::mem::take(&mut self.epoll(epfd)?.interests);
        let mut count = 0;
        for (fd, interest) in &mut interests {
            let Some(File::Socket(socket)) = self.files.get(fd) else { continue };
            let bits = socket.readiness() & (interest.events | ALWAYS);
            let is_news = interest.events & EPOLLET as u32 == 0 || interest.told != Some(socket.edges);
            if bits == 0 || !is_news || interest.events == 0 || count == out.len() {
                continue;
            }
            out[count] = epoll_event { events: bits, u64: interest.data };
            count += 1;
            interest.told = Some(socket.edges);
            if interest.events & EPOLLONESHOT as u32 != 0 {
                interest.events = 0;
            }
        }
        self.epoll(epfd)?.interests = interests;
        Ok((count > 0).then_some(count as c_int))
    }
}
