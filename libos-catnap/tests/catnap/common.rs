//! Short names for what every test does. Every wait is bounded.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use demi_api::addr::{Addr, Domain, SocketKind};
use demi_api::config::Config;
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::instance::Demikernel;
use demi_api::op::{Completion, Done, Position};
use demi_api::token::QToken;
use demi_libos_catnap::Catnap;

pub(crate) type Demi = Demikernel<Catnap>;

const LIMIT: Option<Duration> = Some(Duration::from_secs(10));

/// An instance with a small heap.
pub(crate) fn demi() -> Demi {
    demi_with("")
}

/// An instance with more lines of configuration.
pub(crate) fn demi_with(more: &str) -> Demi {
    let text = format!("[heap]\nsize_mib = 16\nlock = false\n[wait]\nspin_max_us = 100\n{more}");
    Demikernel::new(&Config::parse(&text, "test").unwrap()).unwrap()
}

pub(crate) fn local(domain: Domain) -> Addr {
    match domain {
        Domain::Inet => "127.0.0.1:0".parse().unwrap(),
        Domain::Inet6 => "[::1]:0".parse().unwrap(),
        Domain::Unix => {
            // The socket removes its file itself.
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let name =
                format!("demi-catnap-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            Addr::from(std::env::temp_dir().join(name))
        }
    }
}

pub(crate) fn wait(demi: &Demi, token: QToken) -> Result<Done, Error> {
    demi.wait(token, LIMIT).expect("within the limit").result
}

pub(crate) fn completion(demi: &Demi, token: QToken) -> Completion {
    demi.wait(token, LIMIT).expect("within the limit")
}

/// Whether the operation is still under way after some turns.
pub(crate) fn is_pending(demi: &Demi, token: QToken) -> bool {
    matches!(demi.wait(token, Some(Duration::from_millis(20))), Err(Error::TimedOut))
}

pub(crate) fn push(demi: &Demi, qd: QDesc, bytes: &[u8]) -> Result<Position, Error> {
    let token = demi.push(qd, demi.copy_from(bytes).unwrap())?;
    completion(demi, token).pushed()
}

pub(crate) fn pop(demi: &Demi, qd: QDesc) -> Result<Vec<u8>, Error> {
    let token = demi.pop(qd)?;
    completion(demi, token).popped().map(|sga| sga.to_vec())
}

/// Pops until `count` bytes are there.
pub(crate) fn pop_exactly(demi: &Demi, qd: QDesc, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let token = demi.pop_n(qd, count - bytes.len()).unwrap();
        let part = completion(demi, token).popped().unwrap().to_vec();
        assert!(!part.is_empty(), "stream ended after {} of {count} bytes", bytes.len());
        bytes.extend(part);
    }
    bytes
}

pub(crate) fn listener(demi: &Demi, domain: Domain) -> (QDesc, Addr) {
    let qd = demi.socket(domain, SocketKind::Stream).unwrap();
    demi.bind(qd, local(domain)).unwrap();
    demi.listen(qd, 64).unwrap();
    (qd, demi.local_addr(qd).unwrap())
}

pub(crate) fn connect(demi: &Demi, to: &Addr) -> Result<QDesc, Error> {
    let qd = demi.socket(Domain::from(to), SocketKind::Stream).unwrap();
    let token = demi.connect(qd, to.clone())?;
    wait(demi, token).map(|_| qd)
}

pub(crate) fn accept(demi: &Demi, listener: QDesc) -> (QDesc, Addr) {
    let token = demi.accept(listener).unwrap();
    completion(demi, token).accepted().unwrap()
}

/// Both ends of a connection, each a queue of the same instance.
pub(crate) fn pair(demi: &Demi, domain: Domain) -> (QDesc, QDesc) {
    let (listening, addr) = listener(demi, domain);
    let client = connect(demi, &addr).unwrap();
    let (server, _) = accept(demi, listening);
    demi.close(listening).unwrap();
    (client, server)
}

pub(crate) fn counter(demi: &Demi, name: &str) -> u64 {
    let counters = demi.counters().unwrap();
    counters.libos.iter().find(|(other, _)| *other == name).unwrap_or_else(|| panic!("no counter {name}")).1
}

/// Heap bytes in use.
pub(crate) fn live(demi: &Demi) -> usize {
    demi.heap().stats().bytes_live
}

pub(crate) fn inet(addr: &Addr) -> SocketAddr {
    addr.inet().unwrap()
}

/// Bytes that show where they stand.
pub(crate) fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}
