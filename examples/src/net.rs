//! Listening and connecting, with errors that say what to do next.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use demi_api::{Addr, Completion, Demikernel, Done, Error, LibOs, QDesc, QToken, SocketKind, SocketOption};

/// Connections that the system keeps for us until we accept them.
const BACKLOG: u32 = 1024;

/// Time until an accept is tried again that failed for want of a resource.
const RETRY: Duration = Duration::from_millis(50);

/// An address as an argument of a program: `IP:PORT`, `[IPv6]:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// IPv4 or IPv6 with port.
    Inet(SocketAddr),
    /// A UNIX-domain socket's path.
    Unix(PathBuf),
}

impl Endpoint {
    /// The address, as queues take it.
    pub fn addr(&self) -> Addr {
        match self {
            Endpoint::Inet(addr) => Addr::from(*addr),
            Endpoint::Unix(path) => Addr::from(path.clone()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Endpoint, Error> {
        match text.parse()? {
            Addr::Inet(addr) => Ok(Endpoint::Inet(addr)),
            Addr::Unix(path) => Ok(Endpoint::Unix(path.to_path_buf())),
            Addr::Unnamed => Err(Error::BadAddress),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr().fmt(f)
    }
}

/// Binds a datagram socket.
pub fn bind_datagram<L: LibOs>(demi: &Demikernel<L>, addr: &Addr) -> anyhow::Result<QDesc> {
    let qd = demi.socket(addr.into(), SocketKind::Datagram)?;
    demi.bind(qd, addr.clone()).map_err(|error| explain("listen on", addr, &error))?;
    Ok(qd)
}

/// Connects, and waits until that is done.
pub fn connect<L: LibOs>(demi: &Demikernel<L>, addr: &Addr, kind: SocketKind) -> anyhow::Result<QDesc> {
    let attempt = || -> Result<QDesc, Error> {
        let qd = demi.socket(addr.into(), kind)?;
        let token = demi.connect(qd, addr.clone())?;
        demi.wait(token, Some(Duration::from_secs(10)))?.result?;
        no_delay(demi, qd, kind);
        Ok(qd)
    };
    attempt().map_err(|error| explain("connect to", addr, &error))
}

/// A listening socket with one accept outstanding.
#[derive(Debug)]
pub struct Listener {
    qd: QDesc,
    addr: Addr,
    accept: Option<QToken>,
    /// Since the last connection, an accept has failed for want of a resource: the next may not begin before this.
    retry_at: Option<Instant>,
}

impl Listener {
    /// Binds and listens.
    pub fn open<L: LibOs>(demi: &Demikernel<L>, addr: &Addr) -> anyhow::Result<Listener> {
        let open = || -> Result<Listener, Error> {
            let qd = demi.socket(addr.into(), SocketKind::Stream)?;
            if addr.inet().is_some() {
                demi.set_option(qd, SocketOption::ReuseAddr(true))?;
            }
            demi.bind(qd, addr.clone())?;
            demi.listen(qd, BACKLOG)?;
            let addr = demi.local_addr(qd)?;
            Ok(Listener { qd, addr, accept: Some(demi.accept(qd)?), retry_at: None })
        };
        open().map_err(|error| explain("listen on", addr, &error))
    }

    /// Where it listens.
    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    /// Whether a result is of this listener.
    #[inline]
    pub fn owns(&self, completion: &Completion) -> bool {
        self.accept == Some(completion.token)
    }

    /// The accept that is outstanding, for who awaits it.
    pub fn token(&self) -> Option<QToken> {
        self.accept
    }

    /// The connection that an accept has brought, and the next accept. A failure is logged; where it is one of
    /// resources, [`Listener::again`] tries again later.
    pub fn accepted<L: LibOs>(&mut self, demi: &Demikernel<L>, result: Result<Done, Error>) -> Option<QDesc> {
        self.accept = None;
        let connection = match result {
            Ok(Done::Accepted { qd, peer }) => {
                tracing::debug!(%peer, %qd, "connected");
                no_delay(demi, qd, SocketKind::Stream);
                self.retry_at = None;
                Some(qd)
            }
            Ok(other) => {
                tracing::warn!(?other, "an accept yielded something else");
                None
            }
            Err(error @ (Error::TooManyFiles | Error::NoBuffers | Error::TooManyQueues(_))) => {
                self.postpone(&error);
                return None;
            }
            Err(error) => {
                tracing::debug!(%error, "a connection was gone before it was accepted");
                None
            }
        };
        self.again(demi);
        connection
    }

    /// Starts an accept unless one is outstanding, or one has failed just now. Returns after which time to call
    /// again, if need be.
    pub fn again<L: LibOs>(&mut self, demi: &Demikernel<L>) -> Option<Duration> {
        if self.patience() == Some(Duration::ZERO) {
            match demi.accept(self.qd) {
                Ok(token) => self.accept = Some(token),
                Err(error) => self.postpone(&error),
            }
        }
        self.patience()
    }

    /// After which time [`Listener::again`] should be called, if at all.
    #[inline]
    pub fn patience(&self) -> Option<Duration> {
        if self.accept.is_some() {
            return None;
        }
        Some(self.retry_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now())))
    }

    /// Says once that there is a shortage, however long it lasts.
    #[cold]
    fn postpone(&mut self, error: &Error) {
        if self.retry_at.replace(Instant::now() + RETRY).is_none() {
            tracing::warn!(%error, "cannot accept for now");
        }
    }

    /// Stops listening, and removes the name of a UNIX socket.
    pub fn close<L: LibOs>(self, demi: &Demikernel<L>) {
        let _ = demi.close(self.qd);
        if let Addr::Unix(path) = &self.addr {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// One line: what was tried, why it failed, what to do.
fn explain(what: &str, addr: &Addr, error: &Error) -> anyhow::Error {
    let next = match error {
        Error::AddressInUse => "; choose another port, or stop the program that has it",
        Error::AddressNotAvailable => "; use an address of this machine, such as 127.0.0.1 or [::1]",
        Error::PermissionDenied => "; ports below 1024 need privileges, so choose a higher one",
        Error::ConnectionRefused | Error::NotFound => "; is the server running?",
        Error::TimedOut => "; is the address right, and the server running?",
        _ => "",
    };
    anyhow!("cannot {what} {addr}: {error}{next}")
}

/// Small answers go out at once. A libOS without the option does so anyway.
fn no_delay<L: LibOs>(demi: &Demikernel<L>, qd: QDesc, kind: SocketKind) {
    if kind == SocketKind::Stream {
        let _ = demi.set_option(qd, SocketOption::NoDelay(true));
    }
}
