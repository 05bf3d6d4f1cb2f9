//! Two instances in two processes on one interface with two queues, with the kernel as their peer.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use super::worker::{PATIENCE, Worker};
use crate::device::xdp::tests::net::{LINK, Net, announce};
use crate::device::xdp::tests::sys::complete_checksums;

const OURS: &str = "10.0.0.1:7";

/// Namespace 0 is for the instances; in 1 is their peer. Each kernel has an address of its own.
fn network(queues: usize) -> Option<Net> {
    let net = Net::new(1500, queues)?;
    net.ip(0, "addr add 10.0.0.11/24 dev v0");
    net.ip(1, "addr add 10.0.0.2/24 dev v0");
    net.ip(1, "addr add fd00::2/64 dev v0 nodad");
    for side in 0..2 {
        net.inside(side, || complete_checksums(LINK)).unwrap();
    }
    Some(net)
}

fn connect(net: &Net) -> TcpStream {
    let stream = net.inside(1, || TcpStream::connect(OURS)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends something and gets it back.
fn exchange(stream: &mut TcpStream, seed: usize) -> std::io::Result<()> {
    let bytes: Vec<u8> = (0..10_000).map(|at| (at * 11 + seed * 5) as u8).collect();
    stream.write_all(&bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    assert!(back == bytes, "connection {seed}");
    Ok(())
}

/// Sends more than any window holds, and gets it back meanwhile.
fn exchange_much(stream: &TcpStream) {
    let bytes: Vec<u8> = (0..4 << 20).map(|at: u32| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| (&*stream).write_all(&bytes).unwrap());
        let mut back = vec![0; bytes.len()];
        (&*stream).read_exact(&mut back).unwrap();
        assert!(back == bytes);
    });
}

#[test]
fn both_serve_one_port() {
    let Some(net) = network(2) else { return };
    let mut workers = [0, 1].map(|_| Worker::start(net.name(0), "serve"));
    let mut streams: Vec<_> = (0..64).map(|_| connect(&net)).collect();
    for round in 0..3 {
        for (seed, stream) in streams.iter_mut().enumerate() {
            exchange(stream, seed + round).unwrap();
        }
    }
    workers.iter_mut().for_each(Worker::catch_up);
    let accepted = workers.each_ref().map(|worker| worker.accepted);
    println!("accepted {accepted:?}");
    assert_eq!(accepted.iter().sum::<usize>(), 64);
    assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");

    // An address is answered for once, and the kernel's own traffic on the interface goes on, whichever queue it takes.
    match Command::new("ip")
        .args(["netns", "exec", net.name(1), "ping", "-c", "5", "-i", "0.2", "10.0.0.1"])
        .output()
    {
        Ok(output) if output.status.code() != Some(127) && !output.stdout.is_empty() => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("5 received") && !text.contains("DUP"), "{text}");
        }
        _ => announce("there is no ping here"),
    }
    let listener = net.inside(0, || TcpListener::bind("10.0.0.11:22")).unwrap();
    for seed in 0..16 {
        let mut client = net.inside(1, || TcpStream::connect("10.0.0.11:22")).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[seed; 1000]).unwrap();
        let mut bytes = [0; 1000];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [seed; 1000]);
    }
    // What nobody listens for is refused, by whomever it comes to.
    for _ in 0..8 {
        let refused = net.inside(1, || TcpStream::connect("10.0.0.1:8")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn one_of_three_serves_what_comes_to_any() {
    let Some(net) = network(3) else { return };
    let mut workers = ["idle", "serve", "idle"].map(|what| Worker::start_one_of(3, net.name(0), what));
    let mut streams: Vec<_> = (0..32).map(|_| connect(&net)).collect();
    for (seed, stream) in streams.iter_mut().enumerate() {
        exchange(stream, seed).unwrap();
    }
    workers[1].catch_up();
    assert_eq!(workers[1].accepted, 32);
    // When all have been asked, the last refuses.
    for _ in 0..16 {
        let refused = net.inside(1, || TcpStream::connect("10.0.0.1:8")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn threads_of_one_process_are_siblings_too() {
    let Some(net) = network(2) else { return };
    let mut worker = Worker::start(net.name(0), "threads");
    worker.until("ready");
    let mut streams: Vec<_> = (0..32).map(|_| connect(&net)).collect();
    for (seed, stream) in streams.iter_mut().enumerate() {
        exchange(stream, seed).unwrap();
    }
    worker.catch_up();
    assert_eq!((worker.accepted, worker.threads.len()), (32, 2));
}

#[test]
fn answers_that_come_to_the_other_find_their_connection() {
    const CALLS: usize = 32;
    let Some(net) = network(2) else { return };
    let listener = net.inside(1, || TcpListener::bind("[::]:9")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(2 * CALLS) {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = vec![0; 4096];
                while let Ok(len @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..len]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    let mut workers = [0, 1].map(|_| Worker::start(net.name(0), &format!("call {CALLS}")));
    let lines = workers.each_mut().map(|worker| worker.until("called"));
    println!("{lines:?}");
    for line in lines {
        assert!(line.contains("called 32") && !line.contains("heard 0"), "some were handed over: {line}");
    }
}

#[test]
fn datagrams_find_the_one_socket_whole_or_in_fragments() {
    let Some(net) = network(2) else { return };
    let _workers = ["serve", "serve udp"].map(|what| Worker::start(net.name(0), what));
    for seed in 0..16_u8 {
        let socket = net.inside(1, || UdpSocket::bind("10.0.0.2:0")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(OURS).unwrap();
        for len in [100, 4000] {
            socket.send(&vec![seed; len]).unwrap();
            let mut bytes = [0; 5000];
            assert_eq!(socket.recv(&mut bytes).unwrap(), len);
            assert!(bytes[..len].iter().all(|byte| *byte == seed));
        }
        // An instance sends ten errors in a row, and no more for a while.
        if seed % 2 == 1 {
            continue;
        }
        socket.connect("10.0.0.1:8").unwrap();
        socket.send(b"for nobody").unwrap();
        assert_eq!(socket.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn one_is_killed_while_the_other_goes_on() {
    let Some(net) = network(2) else { return };
    let mut survivor = Worker::start(net.name(0), "serve");
    for round in 0..2 {
        let mut victim = Worker::start(net.name(0), "serve");
        let mut streams: Vec<_> = (0..32).map(|_| connect(&net)).collect();
        for (seed, stream) in streams.iter_mut().enumerate() {
            exchange(stream, seed).unwrap();
        }
        victim.catch_up();
        survivor.catch_up();
        let theirs = victim.accepted;
        assert!(theirs > 0 && survivor.accepted > 0);
        drop(victim);
        // The other half's connections come to the survivor, at the latest with the first SYN that is sent again.
        let start = Instant::now();
        let mut meanwhile: Vec<_> = (0..16).map(|_| connect(&net)).collect();
        for (seed, stream) in meanwhile.iter_mut().enumerate() {
            exchange(stream, seed).unwrap();
        }
        println!("round {round}: 16 connections within {:?} without the other", start.elapsed());
        let start = Instant::now();
        let mut next = Worker::start(net.name(0), "serve");
        println!("round {round}: a new one after {:?}", start.elapsed());
        // Half of these come by the queue of the new one now, which hands them over.
        for (seed, stream) in meanwhile.iter_mut().enumerate() {
            exchange(stream, seed).unwrap();
        }
        let start = Instant::now();
        meanwhile.iter().take(4).for_each(exchange_much);
        println!("round {round}: 16 MiB there and back in {:?}", start.elapsed());
        survivor.catch_up();
        let mut ended = 0;
        for (seed, stream) in streams.iter_mut().enumerate() {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            match exchange(stream, seed) {
                Ok(()) => {}
                Err(error) => {
                    let reset = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::UnexpectedEof];
                    assert!(reset.contains(&error.kind()), "connection {seed}: {error}");
                    ended += 1;
                }
            }
        }
        assert_eq!(ended, theirs, "those of the dead, and only they");
        let before = survivor.accepted;
        let mut more: Vec<_> = (0..32).map(|_| connect(&net)).collect();
        for (seed, stream) in more.iter_mut().enumerate() {
            exchange(stream, seed).unwrap();
        }
        next.catch_up();
        survivor.catch_up();
        assert_eq!(next.accepted + survivor.accepted - before, 32);
        assert!(next.accepted > 0 && survivor.accepted > before);
        // The roles change.
        survivor = next;
        survivor.accepted = 0;
    }
}
