//! Sockets of the kernel that were made elsewhere and are queues from then on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use demi_api::addr::Addr;
use demi_api::error::Error;
use demi_api::libos::QueueKind;

use crate::common::*;

#[test]
fn a_connection_goes_on_as_a_queue_and_its_file_keeps_its_flags() {
    let demi = demi();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.write_all(b"before").unwrap();
    let ours = OwnedFd::from(server);
    let kept = ours.try_clone().unwrap();
    let qd = demi.adopt(ours).unwrap();
    assert_eq!(demi.kind(qd).unwrap(), QueueKind::Stream);
    assert_eq!(demi.peer_addr(qd).unwrap(), Addr::from(client.local_addr().unwrap()));
    assert_eq!(pop_exactly(&demi, qd, 6), b"before");
    push(&demi, qd, b"answer").unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    let flags = rustix::fs::fcntl_getfl(kept.as_fd()).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    // A pop that has to wait does not wait in the kernel.
    let pop = demi.pop(qd).unwrap();
    assert!(is_pending(&demi, pop));
    drop(client);
    assert!(completion(&demi, pop).popped().unwrap().is_empty());
    // The queue's descriptor is its own: whoever has another goes on.
    demi.close(qd).unwrap();
    assert!(TcpStream::from(kept).local_addr().is_ok());
}

#[test]
fn a_listener_accepts_and_does_not_block() {
    let demi = demi();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let qd = demi.adopt(listener.into()).unwrap();
    let token = demi.accept(qd).unwrap();
    assert!(is_pending(&demi, token));
    let client = TcpStream::connect(addr).unwrap();
    let (_, peer) = completion(&demi, token).accepted().unwrap();
    assert_eq!(peer, Addr::from(client.local_addr().unwrap()));
}

#[test]
fn a_fresh_socket_connects() {
    let demi = demi();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fresh = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    let qd = demi.adopt(fresh.unwrap()).unwrap();
    assert_eq!(demi.pop(qd), Err(Error::NotConnected));
    let token = demi.connect(qd, listener.local_addr().unwrap()).unwrap();
    wait(&demi, token).unwrap();
    listener.accept().unwrap();
}

#[test]
fn datagram_sockets_keep_their_peer() {
    let demi = demi();
    let [one, other] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    one.connect(other.local_addr().unwrap()).unwrap();
    other.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let qd = demi.adopt(one.into()).unwrap();
    assert_eq!(demi.kind(qd).unwrap(), QueueKind::Message);
    push(&demi, qd, b"x").unwrap();
    let mut byte = [0; 4];
    assert_eq!(other.recv(&mut byte).unwrap(), 1);
}

#[test]
fn what_is_no_socket_is_refused() {
    let demi = demi();
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    assert!(demi.adopt(reader).is_err());
}

#[test]
fn a_sleep_of_the_callers_own_ends_when_there_is_work() {
    let demi = demi();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let qd = demi.adopt(listener.accept().unwrap().0.into()).unwrap();
    let token = demi.pop(qd).unwrap();
    let limit = demi.prepare_sleep().unwrap().expect("nothing has come");
    assert_eq!(limit, Duration::MAX);
    client.write_all(b"x").unwrap();
    let wait_fd = demi.wait_fd();
    let mut fds = [rustix::event::PollFd::new(&wait_fd, rustix::event::PollFlags::IN)];
    let ten_seconds = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&ten_seconds)), Ok(1));
    demi.poll().unwrap();
    assert_eq!(demi.prepare_sleep().unwrap(), None, "a result waits");
    assert_eq!(completion(&demi, token).popped().unwrap().to_vec(), b"x");
}
