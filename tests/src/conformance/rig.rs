//! What a test of the suite is given: an instance, and short names for what every test does.
//!
//! Invariants: every wait is bounded. A test that ends leaves nothing pending, and the heap's account where it was.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use demi_api::{
    Addr, Completion, Config, Demikernel, Domain, Done, Error, LibOs, OpenOptions, Position, QDesc, QToken,
    QueueKind, SgArray, SocketKind,
};

/// No test waits longer for anything that is to happen.
pub const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));

/// How long to watch for what is not to happen.
const GLANCE: Option<Duration> = Some(Duration::from_millis(4));

/// What the suite must know about a libOS and its surroundings.
pub trait Harness {
    /// The libOS under test.
    type LibOs: LibOs + 'static;

    /// A new one for each test.
    fn new() -> Self;

    /// More lines of configuration, whole sections.
    fn config(&self) -> String {
        String::new()
    }

    /// An address that a stream socket can listen at, with port 0 where there are ports. `None`: no stream sockets.
    fn stream_addr(&self) -> Option<Addr>;

    /// What the connections of stream sockets are: byte streams, or queues that keep boundaries.
    fn connections(&self) -> QueueKind {
        QueueKind::Stream
    }

    /// Whether there are regions of memory that others can reach.
    fn has_regions(&self) -> bool {
        false
    }

    /// An address that a datagram socket can be bound to. `None`: no datagram sockets.
    fn datagram_addr(&self) -> Option<Addr>;

    /// The path of a file or log that does not exist. `None`: no storage.
    fn path(&self) -> Option<PathBuf>;

    /// Makes the libOS take hold of the memory that it keeps from its first use on.
    fn warm_up(&self, _rig: &Rig<Self>)
    where
        Self: Sized,
    {
    }

    /// What the surroundings lack for this libOS, root for example; its tests are skipped then, and say so.
    fn lacking() -> Option<String> {
        None
    }

    /// Looks behind every test at what only this libOS can tell.
    fn look_back(&self, _rig: &Rig<Self>)
    where
        Self: Sized,
    {
    }
}

/// An instance and its harness.
#[derive(Debug)]
pub struct Rig<H: Harness> {
    /// The instance.
    pub demi: Demikernel<H::LibOs>,
    /// What it was made by.
    pub harness: H,
}

/// Runs a test on a fresh instance, and looks at the accounts behind it.
pub fn run<H: Harness>(test: fn(&Rig<H>)) {
    if let Some(what) = H::lacking() {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        // In one piece, as others write as well; the test harness does not keep it to itself.
        let _ = std::io::stderr().write_all(format!("SKIPPED {name}: {what}\n").as_bytes());
        return;
    }
    let rig = Rig::<H>::new();
    rig.harness.warm_up(&rig);
    rig.settle();
    let before = rig.heap_account();
    test(&rig);
    rig.settle();
    rig.harness.warm_up(&rig);
    rig.settle();
    let counters = rig.demi.counters().unwrap();
    assert_eq!(counters.stale_posts, 0, "results were posted twice");
    assert_eq!(counters.operations_pending, 0, "operations are still under way");
    assert_eq!(rig.heap_account(), before, "objects and bytes that are live in the heap, after and before");
    rig.harness.look_back(&rig);
}

impl<H: Harness> Rig<H> {
    /// A rig with an instance of the usual size.
    pub fn new() -> Rig<H> {
        let harness = H::new();
        let demi = instance::<H>(&harness, "");
        Rig { demi, harness }
    }

    /// Another instance, with more lines of configuration.
    pub fn instance(&self, more: &str) -> Demikernel<H::LibOs> {
        instance::<H>(&self.harness, more)
    }

    // --- waiting

    /// The completion of `token`, which must come.
    #[track_caller]
    pub fn completion(&self, token: QToken) -> Completion {
        self.demi.wait(token, PATIENCE).unwrap_or_else(|error| panic!("{token}: {error}"))
    }

    /// How the operation of `token` ends, which it must.
    #[track_caller]
    pub fn outcome(&self, token: QToken) -> Result<Done, Error> {
        self.completion(token).result
    }

    /// How the operation of `token` fails, which it must.
    #[track_caller]
    pub fn failure(&self, token: QToken) -> Error {
        self.outcome(token).expect_err("the operation was to fail")
    }

    /// Turns the loop for a short while.
    pub fn idle(&self) {
        let set = self.demi.wait_set().unwrap();
        assert_eq!(set.wait(GLANCE).map(|done| done.token), Err(Error::TimedOut));
    }

    /// Checks that `token` does not complete for a short while.
    #[track_caller]
    pub fn stays_pending(&self, token: QToken) {
        match self.demi.wait(token, GLANCE) {
            Err(Error::TimedOut) => {}
            other => panic!("{token} was to stay pending: {other:?}"),
        }
    }

    /// Turns the loop until `condition` holds.
    #[track_caller]
    pub fn until(&self, mut condition: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !condition() {
            assert!(Some(begin.elapsed()) < PATIENCE, "what was waited for did not come about");
            self.idle();
        }
    }

    // --- elements

    /// An array of these bytes.
    pub fn sga(&self, bytes: &[u8]) -> SgArray {
        self.demi.copy_from(bytes).unwrap()
    }

    /// Pushes and waits.
    #[track_caller]
    pub fn push(&self, qd: QDesc, bytes: &[u8]) -> Result<Position, Error> {
        self.completion(self.demi.push(qd, self.sga(bytes))?).pushed()
    }

    /// Begins a push that must not be refused.
    #[track_caller]
    pub fn start_push(&self, qd: QDesc, bytes: &[u8]) -> QToken {
        self.demi.push(qd, self.sga(bytes)).unwrap()
    }

    /// Pops and waits.
    #[track_caller]
    pub fn pop(&self, qd: QDesc) -> Result<Vec<u8>, Error> {
        self.completion(self.demi.pop(qd)?).popped().map(|sga| sga.to_vec())
    }

    /// What a pop of `token` yielded.
    #[track_caller]
    pub fn popped(&self, token: QToken) -> Vec<u8> {
        self.completion(token).popped().unwrap().to_vec()
    }

    /// Pops `count` bytes of a stream, and not one more; of a queue that keeps boundaries, as many elements as have these bytes.
    #[track_caller]
    pub fn pop_exactly(&self, qd: QDesc, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.is_message(qd) {
            while bytes.len() < count {
                bytes.extend(self.pop(qd).unwrap());
            }
            assert_eq!(bytes.len(), count, "an element goes beyond what was expected");
            return bytes;
        }
        while bytes.len() < count {
            let token = self.demi.pop_n(qd, count - bytes.len()).unwrap();
            let part = self.popped(token);
            assert!(!part.is_empty(), "the stream ended after {} of {count} bytes", bytes.len());
            bytes.extend(part);
        }
        assert_eq!(bytes.len(), count);
        bytes
    }

    /// Pops up to the end.
    #[track_caller]
    pub fn pop_to_end(&self, qd: QDesc) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(part) = self.pop_unless_ended(qd) {
            bytes.extend(part);
        }
        bytes
    }

    /// Pops, unless the end has come: an array without bytes on a stream, an error of its own where those are elements.
    #[track_caller]
    pub fn pop_unless_ended(&self, qd: QDesc) -> Option<Vec<u8>> {
        match self.pop(qd) {
            Err(Error::EndOfStream) if self.is_message(qd) => None,
            popped => Some(popped.unwrap()).filter(|part| self.is_message(qd) || !part.is_empty()),
        }
    }

    /// Checks that the end has come.
    #[track_caller]
    pub fn has_ended(&self, qd: QDesc) {
        let popped = self.pop_unless_ended(qd);
        assert_eq!(popped, None, "the end was to come");
    }

    /// Whether this is how a pop of a connection finds the end.
    pub fn is_end(&self, result: &Result<Done, Error>) -> bool {
        match result {
            Ok(Done::Popped(sga)) => self.harness.connections() == QueueKind::Stream && sga.is_empty(),
            Err(Error::EndOfStream) => self.harness.connections() == QueueKind::Message,
            _ => false,
        }
    }

    // --- sockets, files and logs

    /// A listening socket and its address.
    pub fn listener(&self) -> (QDesc, Addr) {
        let addr = self.harness.stream_addr().expect("the libOS has stream sockets");
        let qd = self.demi.socket(Domain::from(&addr), SocketKind::Stream).unwrap();
        self.demi.bind(qd, addr).unwrap();
        self.demi.listen(qd, 64).unwrap();
        (qd, self.demi.local_addr(qd).unwrap())
    }

    /// A stream socket that is nothing yet.
    pub fn stream_socket(&self) -> QDesc {
        let addr = self.harness.stream_addr().expect("the libOS has stream sockets");
        self.demi.socket(Domain::from(&addr), SocketKind::Stream).unwrap()
    }

    /// Both ends of a connection, the one that connected first.
    #[track_caller]
    pub fn connected(&self) -> (QDesc, QDesc) {
        let (listener, addr) = self.listener();
        let accept = self.demi.accept(listener).unwrap();
        let near = self.stream_socket();
        let connect = self.demi.connect(near, addr).unwrap();
        let (far, _) = self.completion(accept).accepted().unwrap();
        assert!(matches!(self.outcome(connect), Ok(Done::Connected)));
        self.demi.close(listener).unwrap();
        (near, far)
    }

    /// A datagram socket and where it is bound.
    pub fn datagram_socket(&self) -> (QDesc, Addr) {
        let addr = self.harness.datagram_addr().expect("the libOS has datagram sockets");
        let qd = self.demi.socket(Domain::from(&addr), SocketKind::Datagram).unwrap();
        self.demi.bind(qd, addr).unwrap();
        (qd, self.demi.local_addr(qd).unwrap())
    }

    /// Two datagram sockets that are connected to each other.
    pub fn datagrams(&self) -> (QDesc, QDesc) {
        let ((near, near_addr), (far, far_addr)) = (self.datagram_socket(), self.datagram_socket());
        for (qd, peer) in [(near, far_addr), (far, near_addr)] {
            let connect = self.demi.connect(qd, peer).unwrap();
            assert!(matches!(self.outcome(connect), Ok(Done::Connected)));
        }
        (near, far)
    }

    /// A new file or log.
    pub fn storage(&self) -> (QDesc, PathBuf) {
        let path = self.harness.path().expect("the libOS has storage");
        let options = OpenOptions { create: true, exclusive: true, ..OpenOptions::default() };
        (self.demi.open(&path, &options).unwrap(), path)
    }

    /// Whether a queue keeps boundaries.
    pub fn is_message(&self, qd: QDesc) -> bool {
        self.demi.kind(qd).unwrap() == QueueKind::Message
    }

    /// Closes queues, which must be open.
    #[track_caller]
    pub fn close(&self, queues: impl IntoIterator<Item = QDesc>) {
        for qd in queues {
            self.demi.close(qd).unwrap_or_else(|error| panic!("{qd:?}: {error}"));
        }
    }

    // --- accounts

    /// Objects and bytes that are live.
    fn heap_account(&self) -> (usize, usize) {
        let stats = self.demi.heap().stats();
        (stats.objects_live, stats.bytes_live)
    }

    /// Reaps what is left until nothing is pending.
    fn settle(&self) {
        let begin = Instant::now();
        loop {
            self.demi.poll().unwrap();
            let mut left = Vec::new();
            while let Ok(1..) = self.demi.wait_next_n(&mut left, 64, Some(Duration::ZERO)) {}
            drop(left);
            let pending = self.demi.counters().unwrap().operations_pending;
            if pending == 0 || Some(begin.elapsed()) > PATIENCE {
                break;
            }
        }
        // What is finished may take some turns more until its buffers are free.
        self.idle();
    }
}

impl<H: Harness> Default for Rig<H> {
    fn default() -> Rig<H> {
        Rig::new()
    }
}

fn instance<H: Harness>(harness: &H, more: &str) -> Demikernel<H::LibOs> {
    let heap = "[heap]\nsize_mib = 16\nhuge_pages = \"never\"\nlock = false\n";
    let wait = "[wait]\nspin_min_us = 0\nspin_max_us = 50\n";
    let text = format!("{heap}{wait}{more}\n{}", harness.config());
    Demikernel::new(&Config::parse(&text, "conformance").unwrap()).unwrap()
}

/// Bytes that show where they stand.
pub fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8 ^ (at / 251 % 251) as u8).collect()
}
