//! Input from those who mean harm, or do not know what they do: an error that says what is wrong, no panic, no leak.
#![forbid(unsafe_code)]

mod catnip;
mod connections;
mod frames;
mod numbers;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use demi_api::{Config, Demikernel, Domain, Error, QDesc, SocketKind};
use demi_libos_catnap::Catnap;

const LIMIT: Duration = Duration::from_secs(10);
const PATIENCE: Option<Duration> = Some(LIMIT);

fn catnap(more: &str) -> Demikernel<Catnap> {
    let heap = "[heap]\nsize_mib = 16\nhuge_pages = \"never\"\nlock = false\n";
    let text = format!("{heap}[wait]\nspin_max_us = 50\n{more}");
    Demikernel::new(&Config::parse(&text, "hostile").unwrap()).unwrap()
}

/// A server that listens, and where.
fn server(demi: &Demikernel<Catnap>) -> (QDesc, SocketAddr) {
    let qd = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    demi.bind(qd, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    demi.listen(qd, 512).unwrap();
    (qd, demi.local_addr(qd).unwrap().inet().unwrap())
}

/// A plain client, and the server's end of its connection.
fn client(demi: &Demikernel<Catnap>, (listener, addr): (QDesc, SocketAddr)) -> (TcpStream, QDesc) {
    let peer = TcpStream::connect(addr).unwrap();
    peer.set_read_timeout(PATIENCE).unwrap();
    peer.set_write_timeout(PATIENCE).unwrap();
    let (qd, _) = demi.wait(demi.accept(listener).unwrap(), PATIENCE).unwrap().accepted().unwrap();
    (peer, qd)
}

fn pop(demi: &Demikernel<Catnap>, qd: QDesc) -> Result<Vec<u8>, Error> {
    demi.wait(demi.pop(qd)?, PATIENCE)?.popped().map(|sga| sga.to_vec())
}

/// Live objects and bytes of the heap, once what the libOS keeps for itself is there.
fn account(demi: &Demikernel<Catnap>, server: (QDesc, SocketAddr)) -> (usize, usize) {
    let (mut peer, qd) = client(demi, server);
    peer.write_all(b"x").unwrap();
    pop(demi, qd).unwrap();
    demi.close(qd).unwrap();
    let counters = demi.counters().unwrap();
    assert_eq!(counters.operations_pending, 0);
    assert_eq!(counters.stale_posts, 0);
    (counters.heap.objects_live, counters.heap.bytes_live)
}
