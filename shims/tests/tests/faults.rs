//! What goes wrong beneath a server under the shim: its interface is deleted, peers flood it or read nothing, its heap
//! is as small as it can be. It sees ordinary errors, goes on, and ends when it is told to.
//!
//! The server is `faults/server.c`, an echo that says the name of every error it sees.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use demi_shim_tests::child::PATIENCE;
use demi_shim_tests::{Bed, Child, Stack, bed, skipped, text};
use libtest_mimic::{Arguments, Trial};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use rustix::process::Signal;

const PORT: u16 = 7;

/// What a program may be told by a socket whose device, peer or memory has failed.
const ORDINARY: [&str; 17] = [
    "EADDRNOTAVAIL",
    "ECONNABORTED",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTDOWN",
    "EHOSTUNREACH",
    "EIO",
    "EMSGSIZE",
    "ENETDOWN",
    "ENETUNREACH",
    "ENOBUFS",
    "ENODEV",
    "ENOMEM",
    "ENOTCONN",
    "ENXIO",
    "EPIPE",
    "ETIMEDOUT",
];

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let all: [(&str, fn()); 7] = [
        ("an_interface_is_deleted_under_a_server", an_interface_is_deleted_under_a_server),
        ("datagrams_flood_a_server", datagrams_flood_a_server),
        ("segments_flood_a_server", segments_flood_a_server),
        ("peers_do_not_read", peers_do_not_read),
        ("there_is_hardly_any_memory", there_is_hardly_any_memory),
        ("nothing_can_be_started_without_memory", nothing_can_be_started_without_memory),
        ("nothing_can_be_started_without_a_device", nothing_can_be_started_without_a_device),
    ];
    let trial = |(name, run): (&str, fn())| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    let conclusion = libtest_mimic::run(&args, all.map(trial).into());
    // Nothing is dropped after this.
    bed::tear_down();
    conclusion.exit_code()
}

struct Echo {
    bed: Bed,
    child: Child,
    port: u16,
}

impl Echo {
    /// Starts the server; `None`, said aloud, if its stack cannot be had.
    fn start(stack: Stack, heap: u32, more: &str) -> Option<Echo> {
        let bed = Bed::new(stack).inspect_err(|why| skipped("faults", why)).ok()?;
        let port = if stack == Stack::Catnip { PORT } else { free_port() };
        let mut command = bed.subject_with(binary(), heap, more);
        command.args([bed.subject_addr(false), &port.to_string()]);
        let mut child = Child::start(command);
        let line = child.line(PATIENCE).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(line, "ready", "{}", child.report());
        Some(Echo { bed, child, port })
    }

    fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.bed.subject_addr(false).parse().unwrap(), self.port)
    }

    /// Does something where peers are.
    fn there<T>(&self, action: impl FnOnce() -> T) -> T {
        match self.bed.net() {
            Some(net) => net.in_theirs(action),
            None => action(),
        }
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = self.there(|| TcpStream::connect_timeout(&self.addr(), Duration::from_secs(5)))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(stream)
    }

    /// A new connection is served, in the end.
    #[track_caller]
    fn serves(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.connect().and_then(|mut stream| echo(&mut stream, 100_000)) {
                Ok(()) => return,
                Err(error) if Instant::now() > deadline || !self.child.runs() => {
                    panic!("it does not serve: {error}\n{}", self.child.report())
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// It runs, ends when it is asked to, and all that it was told were ordinary errors; which.
    #[track_caller]
    fn ends_well(mut self) -> Vec<String> {
        assert!(self.child.runs(), "it has ended: {}", self.child.report());
        let status = self.child.stop(Signal::TERM);
        let report = self.child.report();
        assert!(status.success(), "{status}\n{report}");
        let complaints = self.child.complaints();
        assert!(!complaints.contains("panicked"), "{report}");
        let said = self.child.succeed(PATIENCE);
        let errors: Vec<String> =
            said.lines().filter_map(|line| Some(line.split_once(": ")?.1.to_owned())).collect();
        let odd: Vec<&String> = errors.iter().filter(|name| !ORDINARY.contains(&name.as_str())).collect();
        assert!(odd.is_empty(), "{odd:?}\n{report}");
        errors
    }
}

/// So many bytes there and back.
fn echo(stream: &mut TcpStream, length: usize) -> std::io::Result<()> {
    let bytes: Vec<u8> = (0..length).map(|place| (place / 3) as u8).collect();
    let mut got = vec![0; 8192];
    for piece in bytes.chunks(8192) {
        stream.write_all(piece)?;
        stream.read_exact(&mut got[..piece.len()])?;
        if got[..piece.len()] != *piece {
            return Err(std::io::Error::other("other bytes came back"));
        }
    }
    Ok(())
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap().port()
}

/// The server, compiled at the first call.
fn binary() -> &'static str {
    static BINARY: OnceLock<String> = OnceLock::new();
    BINARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let binary = folder.join(format!("faults-server-{}", std::process::id()));
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-o"]).arg(&binary);
        cc.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/faults/server.c")).stdin(Stdio::null());
        let output =
            cc.output().unwrap_or_else(|error| panic!("cc: {error}: `cargo xtask setup` installs it"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let shown = folder.join("faults-server");
        // What another run has started is not written over.
        std::fs::rename(&binary, &shown).unwrap();
        shown.display().to_string()
    })
}

fn an_interface_is_deleted_under_a_server() {
    let Some(mut server) = Echo::start(Stack::Catnip, 64, "") else { return };
    let mut streams: Vec<TcpStream> = (0..20).map(|_| server.connect().unwrap()).collect();
    for stream in &mut streams {
        echo(stream, 10_000).unwrap_or_else(|error| panic!("{error}\n{}", server.child.report()));
    }
    // Something is under way when it goes.
    for stream in &mut streams {
        stream.write_all(&[1; 5000]).unwrap();
    }
    server.bed.net().unwrap().cut();
    thread::sleep(Duration::from_secs(2));
    server.bed.spoil();
    server.ends_well();
}

/// Calls `action` until it is told to stop.
fn meanwhile<T>(action: impl Fn() + Send + Sync, other: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                action();
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(other));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Datagrams of every length, to the server's port and to others.
fn datagrams_flood_a_server() {
    for stack in [Stack::Catnap, Stack::Catnip] {
        let Some(mut server) = Echo::start(stack, 64, "") else { continue };
        server.serves();
        let addr = server.addr();
        let sender = server.there(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let bytes = [7; 1400];
        let flood = || {
            for length in (0..bytes.len()).step_by(7) {
                for port in [addr.port(), addr.port(), 9999] {
                    // It may say that nobody is at one of the ports, or that its own queue is full.
                    let _ = sender.send_to(&bytes[..length], (addr.ip(), port));
                }
            }
        };
        meanwhile(flood, || {
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                server.serves();
            }
        });
        server.serves();
        server.ends_well();
    }
}

/// Requests for connections that nobody makes, and segments of connections that there are not.
fn segments_flood_a_server() {
    let Some(mut server) = Echo::start(Stack::Catnip, 64, "") else { return };
    server.serves();
    let SocketAddr::V4(addr) = server.addr() else { unreachable!("it is IPv4") };
    let raw = server.there(|| socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::TCP))).unwrap();
    let from: Ipv4Addr = server.bed.peer_addr(false).parse().unwrap();
    let state = std::sync::atomic::AtomicU64::new(1);
    let flood = || {
        for _ in 0..50 {
            let number = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let mixed = (number ^ number >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            // Half are SYNs; the rest have any flags, lengths of header among them that cannot be.
            let flags = if mixed & 1 == 0 { 0x5002 } else { (mixed >> 40) as u16 };
            let bytes = segment(from, *addr.ip(), (mixed >> 8) as u16, addr.port(), mixed as u32, flags);
            let _ = sendto(&raw, &bytes, SendFlags::DONTWAIT, &SocketAddrV4::new(*addr.ip(), 0));
        }
        thread::sleep(Duration::from_micros(200));
    };
    meanwhile(flood, || {
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            server.serves();
        }
    });
    server.serves();
    server.ends_well();
}

/// A header of TCP with a correct checksum.
fn segment(from: Ipv4Addr, to: Ipv4Addr, source: u16, port: u16, seq: u32, flags: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20);
    bytes.extend(source.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend(seq.to_be_bytes());
    bytes.extend((seq ^ 0x5555_5555).to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend([0x20, 0, 0, 0, 0, 0]);
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 6, 0, 20], &bytes].concat();
    let mut sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes
}

/// Peers that send and never read: the server's memory is full of what it cannot get rid of.
fn stalled_peers(stack: Stack, heap: u32, more: &str, count: usize) -> Option<Vec<String>> {
    let mut server = Echo::start(stack, heap, more)?;
    server.serves();
    let mut streams = Vec::new();
    for _ in 0..count {
        // With too little memory it is right to refuse some.
        let Ok(mut stream) = server.connect() else { continue };
        stream.set_nonblocking(true).unwrap();
        let bytes = [9; 65536];
        for _ in 0..32 {
            if stream.write(&bytes).is_err() {
                break;
            }
        }
        streams.push(stream);
    }
    assert!(!streams.is_empty(), "nobody was let in\n{}", server.child.report());
    // They push for as long as anything goes.
    let end = Instant::now() + Duration::from_millis(700);
    while Instant::now() < end {
        for stream in &mut streams {
            let _ = stream.write(&[9; 65536]);
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert!(server.child.runs(), "it has ended: {}", server.child.report());
    // Others are served meanwhile, and once they are gone it is as before.
    server.serves();
    drop(streams);
    server.serves();
    Some(server.ends_well())
}

fn peers_do_not_read() {
    for stack in [Stack::Catnap, Stack::Catnip] {
        let Some(errors) = stalled_peers(stack, 64, "", 20) else { continue };
        assert!(!errors.contains(&"ENOMEM".to_owned()), "{errors:?}");
    }
}

fn there_is_hardly_any_memory() {
    // The least that there can be, and for catnip the least that its device takes besides.
    stalled_peers(Stack::Catnap, 2, "", 40);
    for heap in [6, 8] {
        stalled_peers(Stack::Catnip, heap, "rx_buffers = 128\ntx_segments = 64\n", 40);
    }
}

/// A heap that the device's buffers do not fit in.
fn nothing_can_be_started_without_memory() {
    cannot_start(2, "rx_buffers = 16384\n");
}

/// Queues that the interface does not have.
fn nothing_can_be_started_without_a_device() {
    cannot_start(64, "queues = [99]\n");
}

/// A call fails, and says so; no signal ends the program, and whoever runs it is told the reason.
fn cannot_start(heap: u32, more: &str) {
    let Ok(bed) = Bed::new(Stack::Catnip) else { return };
    let mut command = bed.subject_with(binary(), heap, more);
    command.args([bed.subject_addr(false), "7"]);
    let mut child = Child::start(command);
    let ended = child.ended(PATIENCE);
    let report = child.report();
    assert_eq!(ended.and_then(|status| status.code()), Some(3), "{report}");
    assert!(ORDINARY.iter().any(|name| report.contains(&format!(": {name}\n"))), "{report}");
    assert!(child.complaints().contains("demi"), "{report}");
}
