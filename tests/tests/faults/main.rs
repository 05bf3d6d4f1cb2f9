//! The faults that the best-known implementation of this architecture has, each by its number, and a test that fails
//! where it is present. Peers are plain sockets of the standard library in threads of their own.
//!
//! Nothing here asserts on elapsed time, but that what must end does end. What is about cost is counted: memory
//! asked for by this thread, and queues that a libOS looked at. How long it takes is `cargo xtask bench`'s affair.

mod catnip;
mod configuration;
mod cost;
mod streams;
mod sys;
mod waiting;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use demi_api::{Config, Demikernel, Domain, LibOs, QDesc, SocketKind};
use demi_libos_catnap::Catnap;

#[global_allocator]
static ALLOCATOR: sys::Counting = sys::Counting;

const LIMIT: Duration = Duration::from_secs(10);
const PATIENCE: Option<Duration> = Some(LIMIT);

fn instance<L: LibOs>() -> Demikernel<L> {
    let heap = "[heap]\nsize_mib = 16\nhuge_pages = \"never\"\nlock = false\n";
    Demikernel::new(&Config::parse(&format!("{heap}[wait]\nspin_max_us = 50\n"), "faults").unwrap()).unwrap()
}

/// A connection of the instance to a plain socket.
fn connected(demi: &Demikernel<Catnap>) -> (QDesc, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let qd = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    let connect = demi.connect(qd, listener.local_addr().unwrap()).unwrap();
    let peer = listener.accept().unwrap().0;
    peer.set_read_timeout(PATIENCE).unwrap();
    peer.set_write_timeout(PATIENCE).unwrap();
    demi.wait(connect, PATIENCE).unwrap().result.unwrap();
    (qd, peer)
}

/// Runs something that a fault would make hang.
fn within_limit<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, result) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = send.send(action());
    });
    match result.recv_timeout(2 * LIMIT) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it would have sent its value"),
        },
    }
}

fn localhost() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn send(mut peer: &TcpStream, bytes: &[u8]) {
    peer.write_all(bytes).unwrap();
}
