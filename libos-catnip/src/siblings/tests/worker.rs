//! Not a test by itself: an instance in a process of its own, and how the tests run it.

use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use demi_api::addr::{Domain, SocketKind};
use demi_api::config::Config;
use demi_api::desc::QDesc;
use demi_api::op::Done;
use demi_api::{Demikernel, Error};

use crate::Catnip;
use crate::device::xdp::tests::net::{LINK, inside};

/// Longer than anything takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a message of a caller, and how many it sends on each connection.
const MESSAGE: usize = 3000;
const MESSAGES: usize = 10;

/// A process with an instance.
pub(super) struct Worker {
    pub(super) child: Child,
    lines: Receiver<String>,
    /// Connections that it has accepted, as far as was read.
    pub(super) accepted: usize,
    /// Which of its threads have.
    pub(super) threads: BTreeSet<String>,
}

impl Worker {
    /// Starts one of two in a namespace. `what`: `serve`, `serve udp`, `threads`, `call N`, `idle`.
    pub(super) fn start(namespace: &str, what: &str) -> Worker {
        Worker::start_one_of(2, namespace, what)
    }

    /// Starts one of several.
    pub(super) fn start_one_of(share: u32, namespace: &str, what: &str) -> Worker {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["siblings::tests::worker::worker", "--exact", "--ignored", "--nocapture"])
            .env("DEMI_SIBLING", format!("{namespace} {share} {what}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut worker = Worker { child, lines, accepted: 0, threads: BTreeSet::new() };
        worker.until("ready");
        worker
    }

    /// Reads lines until one has this in it.
    #[track_caller]
    pub(super) fn until(&mut self, what: &str) -> String {
        let limit = Instant::now() + PATIENCE;
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {what:?}"));
            self.note(&line);
            if line.contains(what) {
                return line;
            }
        }
    }

    /// What was said meanwhile.
    pub(super) fn catch_up(&mut self) {
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(100)) {
            self.note(&line);
        }
    }

    fn note(&mut self, line: &str) {
        if let Some((_, thread)) = line.split_once("accepted by ") {
            self.accepted += 1;
            self.threads.insert(thread.into());
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "run by the tests of several processes"]
fn worker() {
    let Ok(what) = std::env::var("DEMI_SIBLING") else { return };
    let words: Vec<&str> = what.split(' ').collect();
    let config = format!(
        "[heap]\nsize_mib = 64\nhuge_pages = \"never\"\n[catnip.ip]\naddresses = [\"10.0.0.1/24\", \"fd00::1/64\"]\n\
         [catnip.device]\nkind = \"af_xdp\"\ninterface = \"{LINK}\"\nshare = {}\nrx_buffers = 512\nattach_wait_ms = 10000\n",
        words[1]
    );
    let config = Config::parse(&config, "worker").unwrap();
    let instance = || inside(words[0], || Demikernel::<Catnip>::new(&config)).unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    if words[2..] == ["threads"] {
        return std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| serve(&instance(), false, end));
            }
        });
    }
    let demi = instance();
    match words[2..] {
        ["serve"] => serve(&demi, false, end),
        ["serve", "udp"] => serve(&demi, true, end),
        ["call", count] => call(&demi, count.parse().unwrap()),
        ["idle"] => {
            println!("ready");
            idle(&demi, end);
        }
        _ => panic!("{what}"),
    }
}

/// Sends back what comes to port 7.
fn serve(demi: &Demikernel<Catnip>, udp: bool, end: Instant) {
    let addr: SocketAddr = ([10, 0, 0, 1], 7).into();
    let listener = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    demi.bind(listener, addr).unwrap();
    demi.listen(listener, 128).unwrap();
    demi.accept(listener).unwrap();
    let datagrams = udp.then(|| {
        let qd = demi.socket(Domain::Inet, SocketKind::Datagram).unwrap();
        demi.bind(qd, addr).unwrap();
        demi.pop(qd).unwrap();
        qd
    });
    println!("ready");
    let mut results = Vec::new();
    while Instant::now() < end {
        match demi.wait_next_n(&mut results, 64, Some(Duration::from_secs(1))) {
            Ok(_) | Err(Error::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        for completion in results.drain(..) {
            match completion.result {
                Ok(Done::Accepted { qd, .. }) => {
                    println!("accepted by {:?}", std::thread::current().id());
                    demi.pop(qd).unwrap();
                    demi.accept(listener).unwrap();
                }
                Ok(Done::Popped(sga)) if Some(completion.qd) == datagrams => {
                    let to = sga.peer().unwrap();
                    demi.push_to(completion.qd, sga, to).unwrap();
                    demi.pop(completion.qd).unwrap();
                }
                Ok(Done::Popped(sga)) if sga.is_empty() => demi.close(completion.qd).unwrap(),
                Ok(Done::Popped(sga)) => {
                    let _ = demi.push(completion.qd, sga);
                    demi.pop(completion.qd).unwrap();
                }
                Ok(_) => {}
                Err(_) => drop(demi.close(completion.qd)),
            }
        }
    }
}

/// One connection of a caller.
#[derive(Default)]
struct Call {
    number: usize,
    sent: usize,
    got: Vec<u8>,
}

impl Call {
    fn message(&self) -> Vec<u8> {
        (0..MESSAGE).map(|at| (at * 7 + self.number * 31 + self.sent * 3) as u8).collect()
    }
}

/// Connects to the echo server of the kernel's side many times at once, and holds what comes back against what was sent.
fn call(demi: &Demikernel<Catnip>, count: usize) {
    println!("ready");
    let peers: [SocketAddr; 2] = [([10, 0, 0, 2], 9).into(), ([0xfd00, 0, 0, 0, 0, 0, 0, 2], 9).into()];
    let mut calls: HashMap<QDesc, Call> = HashMap::new();
    for number in 0..count {
        let domain = [Domain::Inet, Domain::Inet6][number % 2];
        let qd = demi.socket(domain, SocketKind::Stream).unwrap();
        demi.connect(qd, peers[number % 2]).unwrap();
        calls.insert(qd, Call { number, ..Call::default() });
    }
    let mut results = Vec::new();
    while !calls.is_empty() {
        demi.wait_next_n(&mut results, 64, Some(PATIENCE)).unwrap();
        for completion in results.drain(..) {
            let qd = completion.qd;
            let push = |call: &Call| demi.push(qd, demi.copy_from(&call.message()).unwrap()).unwrap();
            match completion.result.unwrap() {
                Done::Connected => {
                    push(&calls[&qd]);
                    demi.pop(qd).unwrap();
                }
                Done::Popped(sga) => {
                    let call = calls.get_mut(&qd).unwrap();
                    assert!(!sga.is_empty(), "connection {} ended early", call.number);
                    call.got.extend(sga.to_vec());
                    if call.got.len() < MESSAGE {
                        demi.pop(qd).unwrap();
                        continue;
                    }
                    assert!(call.got == call.message(), "connection {}", call.number);
                    call.got.clear();
                    call.sent += 1;
                    if call.sent == MESSAGES {
                        calls.remove(&qd);
                        demi.close(qd).unwrap();
                    } else {
                        push(call);
                        demi.pop(qd).unwrap();
                    }
                }
                _ => {}
            }
        }
    }
    // Nobody has this port. The kernel sends few errors a second, so few are asked for.
    for _ in 0..2 {
        let qd = demi.socket(Domain::Inet, SocketKind::Datagram).unwrap();
        let connected = demi.connect(qd, SocketAddr::from(([10, 0, 0, 2], 10))).unwrap();
        demi.wait(connected, Some(PATIENCE)).unwrap().result.unwrap();
        let pushed = demi.push(qd, demi.copy_from(b"for nobody").unwrap()).unwrap();
        demi.wait(pushed, Some(PATIENCE)).unwrap().result.unwrap();
        let popped = demi.pop(qd).unwrap();
        let refused = demi.wait(popped, Some(PATIENCE)).unwrap().result;
        assert!(matches!(refused, Err(Error::ConnectionRefused)), "{refused:?}");
    }
    let heard = demi.counters().unwrap().libos.iter().find(|(name, _)| *name == "siblings_heard").unwrap().1;
    println!("called {count}, heard {heard}");
    // The other may still need what comes by this one's queue.
    idle(demi, Instant::now() + Duration::from_secs(120));
}

/// Does nothing but what an instance does by itself.
fn idle(demi: &Demikernel<Catnip>, end: Instant) {
    while Instant::now() < end {
        let _ = demi.wait_next_n(&mut Vec::new(), 1, Some(Duration::from_secs(1)));
    }
}
