//! The Linux kernel on the other side of a TAP interface, in a network of its own.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use demi_api::time::Clock;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto, socket_with,
};

use super::*;
use crate::device::tap::{Tap, TapConfig};
use crate::device::{DeviceCx, Queue};

/// The port that answers; others are refused.
const ECHO: u16 = 7;

/// A stack on a TAP interface whose transport sends datagrams back.
struct Echo {
    host: Host,
    tap: Tap,
    clock: Clock,
    inbox: Vec<Frame>,
}

impl Echo {
    fn turn(&mut self) {
        self.host.now = self.clock.now();
        let heap = self.host.heap.clone();
        let device = DeviceCx { heap: &heap, now: self.host.now };
        self.tap.rx_burst(&device, &mut self.inbox);
        for frame in std::mem::take(&mut self.inbox) {
            let got = self.host.run(|ip, cx| ip.receive(cx, frame));
            self.answer(got);
        }
        self.host.poll();
        self.tap.tx_burst(&device, &mut self.host.ip.outbox);
    }

    fn answer(&mut self, got: Received) {
        let Received::Transport(datagram) = got else { return };
        let bytes = datagram.data.to_vec();
        if datagram.protocol != UDP || bytes[2..4] != ECHO.to_be_bytes() {
            return self.host.run(|ip, cx| ip.reject_port(cx, &datagram));
        }
        let pseudo = path::pseudo_sum(datagram.remote, datagram.local, UDP, bytes.len());
        assert!(datagram.checksum != Checksum::Unknown || checksum::verify(pseudo, &datagram.data));
        let mut header = [&bytes[2..4], &bytes[..2], &bytes[4..6], &[0, 0]].concat();
        let sum = pseudo + checksum::sum(&header) + checksum::sum(&bytes[8..]);
        header[6..8].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        let local = Some(datagram.local);
        let mut path = self.host.run(|ip, cx| ip.path(cx, local, datagram.remote)).unwrap();
        let packet = Packet { dont_fragment: false, ..self.host.packet(&path, &header, &bytes[8..]) };
        self.host.run(|ip, cx| ip.send(cx, &mut path, packet));
    }

    fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let limit = std::time::Instant::now() + Duration::from_secs(10);
        while !done() {
            self.turn();
            assert!(std::time::Instant::now() < limit, "{what}");
        }
    }
}

/// Runs a test in a thread with a network of its own, or says why it cannot.
fn in_a_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        let ip = |args: &str| {
            Command::new("ip").args(args.split(' ')).status().is_ok_and(|status| status.success())
        };
        if !sys::unshare_network() || !ip("link set lo up") {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "SKIPPED ip against the kernel: run as root, with iproute2");
            return;
        }
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/router_solicitations", "0");
        test();
    });
    thread.join().unwrap();
}

#[test]
fn the_kernel_understands_and_is_understood() {
    in_a_network(|| {
        let addresses = vec![(addr("10.7.0.1"), 24), (addr("fd07::1"), 64)];
        let tap = Tap::open(&TapConfig { mtu: Some(1500), addresses, ..TapConfig::default() }).unwrap();
        let host = Host::with(1, &config(&["10.7.0.2/24", "fd07::2/64"]), tap.caps(), &heap());
        let mut echo = Echo { host, tap, clock: Clock::start(), inbox: Vec::new() };
        echo.turn();
        for (ours, theirs) in [("10.7.0.2", "10.7.0.1"), ("fd07::2", "fd07::1")] {
            let (ours, theirs) = (addr(ours), addr(theirs));
            // Datagrams, whole and in fragments: the kernel verifies what comes back.
            let socket = UdpSocket::bind((theirs, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            for len in [1, 1000, 1473, 4001, 20_000] {
                let bytes: Vec<u8> = (0..len).map(|n| (n % 253) as u8).collect();
                socket.send_to(&bytes, (ours, ECHO)).unwrap();
                let mut got = vec![0; 65536];
                echo.until(&format!("{len} bytes do not come back from {ours}"), || {
                    matches!(socket.recv_from(&mut got), Ok((count, from))
                        if got[..count] == bytes && from == SocketAddr::from((ours, ECHO)))
                });
            }
            // A port that nobody has.
            socket.connect((ours, 9)).unwrap();
            socket.send(b"anybody?").unwrap();
            echo.until("the kernel is not told that the port is closed", || {
                socket.recv(&mut [0; 8]).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            });
            // A port of the kernel's that nobody has.
            let mut path = echo.host.run(|ip, cx| ip.path(cx, None, theirs)).unwrap();
            let mut header = [0, 7, 0, 9, 0, 8, 0, 0];
            let sum = path.pseudo_sum(UDP, 8) + checksum::sum(&header);
            header[6..].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
            let packet = echo.host.packet(&path, &header, &[]);
            echo.host.run(|ip, cx| ip.send(cx, &mut path, packet));
            let before = echo.host.counter("icmp_errors_received");
            for _ in 0..1_000_000 {
                echo.turn();
                if echo.host.counter("icmp_errors_received") > before {
                    break;
                }
            }
            assert_eq!(echo.host.counter("icmp_errors_received"), before + 1);
            ping(&mut echo, ours, 8);
            ping(&mut echo, ours, 4000);
        }
        for name in [
            "ip_malformed",
            "ip_bad_checksum",
            "ip_martian",
            "ip_address_conflicts",
            "ip_reassembly_given_up",
        ] {
            assert_eq!(echo.host.counter(name), 0, "{name}");
        }
    });
}

/// An echo request by a raw socket of the kernel's.
fn ping(echo: &mut Echo, to: IpAddr, len: usize) {
    let (family, protocol, request, reply, skipped) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0, 20),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129, 0),
    };
    let socket = socket_with(family, SocketType::RAW, SocketFlags::NONBLOCK, Some(protocol)).unwrap();
    let mut message = [&[request, 0, 0, 0, 0, 7, 0, 1][..], &vec![0x5a; len]].concat();
    // Of ICMPv6, the kernel sums itself.
    let sum = !checksum::fold(checksum::sum(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    sendto(&socket, &message, SendFlags::empty(), &SocketAddr::from((to, 0))).unwrap();
    let mut got = vec![0; 65536];
    echo.until(&format!("no answer to {len} bytes from {to}"), || {
        matches!(recv(&socket, &mut got[..], RecvFlags::DONTWAIT), Ok((count, _))
            if count == skipped + message.len() && got[skipped] == reply && got[skipped + 4..count] == message[4..])
    });
}
