//! Sockets: made, named, connected, closed.

use std::ffi::c_int;

use demi_api::{Addr, Domain, LibOs, QDesc, Shutdown, SocketKind};

use crate::addr::{self, LONGEST};
use crate::errno::Errno;
use crate::instance::Instance;
use crate::raw::Out;
use crate::transfer::descriptor;

impl<L: LibOs + 'static> Instance<L> {
    pub(crate) fn socket(
        &self,
        qd: Out<'_, c_int>,
        domain: c_int,
        kind: c_int,
        protocol: c_int,
    ) -> Result<(), Errno> {
        let domain = match domain {
            libc::AF_INET => Domain::Inet,
            libc::AF_INET6 => Domain::Inet6,
            libc::AF_UNIX => Domain::Unix,
            _ => return Err(Errno(libc::EAFNOSUPPORT)),
        };
        // Queues do not block, and are not inherited.
        let (kind, expected) = match kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) {
            libc::SOCK_STREAM => (SocketKind::Stream, libc::IPPROTO_TCP),
            libc::SOCK_DGRAM => (SocketKind::Datagram, libc::IPPROTO_UDP),
            _ => return Err(Errno(libc::ESOCKTNOSUPPORT)),
        };
        if protocol != 0 && (protocol != expected || domain == Domain::Unix) {
            return Err(Errno(libc::EPROTONOSUPPORT));
        }
        qd.set(self.fresh(self.demi.socket(domain, kind)?));
        Ok(())
    }

    pub(crate) fn bind(&self, qd: c_int, addr: &[u8]) -> Result<(), Errno> {
        Ok(self.demi.bind(descriptor(qd)?, addr::parse(addr)?)?)
    }

    /// As of the system's call, a backlog below zero is none.
    pub(crate) fn listen(&self, qd: c_int, backlog: c_int) -> Result<(), Errno> {
        Ok(self.demi.listen(descriptor(qd)?, u32::try_from(backlog).unwrap_or(0))?)
    }

    pub(crate) fn accept(&self, token: Out<'_, u64>, qd: c_int) -> Result<(), Errno> {
        token.set(self.demi.accept(descriptor(qd)?)?.raw());
        Ok(())
    }

    pub(crate) fn connect(&self, token: Out<'_, u64>, qd: c_int, addr: &[u8]) -> Result<(), Errno> {
        token.set(self.demi.connect(descriptor(qd)?, addr::parse(addr)?)?.raw());
        Ok(())
    }

    pub(crate) fn shutdown(&self, qd: c_int, how: c_int) -> Result<(), Errno> {
        let how = match how {
            libc::SHUT_RD => Shutdown::Read,
            libc::SHUT_WR => Shutdown::Write,
            libc::SHUT_RDWR => Shutdown::Both,
            _ => return Err(Errno(libc::EINVAL)),
        };
        Ok(self.demi.shutdown(descriptor(qd)?, how)?)
    }

    pub(crate) fn close(&self, qd: c_int) -> Result<(), Errno> {
        self.demi.close(descriptor(qd)?)?;
        self.limits.by_queue.borrow_mut().remove(&qd);
        Ok(())
    }

    /// The address of either end, in `out`; its full length, which may be more than there is room for.
    pub(crate) fn name(
        &self,
        qd: c_int,
        out: &mut [u8; LONGEST],
        of: impl FnOnce(&Instance<L>, QDesc) -> Result<Addr, demi_api::Error>,
    ) -> Result<usize, Errno> {
        Ok(addr::write(&of(self, descriptor(qd)?)?, out))
    }
}
