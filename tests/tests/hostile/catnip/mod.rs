//! Whoever can send a frame to an instance of catnip: memory stays within its bounds, and those who mean no harm are served
//! meanwhile.

mod floods;
mod forged;
mod noise;
mod peers;
mod processes;

use demi_api::{QDesc, QToken, SocketKind};
use demi_tests::fuzz::host::Host;
use demi_tests::fuzz::talk::{OPTIONS, Talk};

/// An echo server's connection with a peer that means no harm.
struct Echo {
    talk: Talk,
    qd: QDesc,
    pop: QToken,
    rounds: usize,
}

impl Echo {
    fn begin(host: &mut Host, v6: bool, port: u16) -> Echo {
        let (talk, qd) = accepted(host, v6, port);
        let pop = host.demi.pop(qd).unwrap();
        Echo { talk, qd, pop, rounds: 0 }
    }

    /// A message there and back.
    #[track_caller]
    fn round(&mut self, host: &mut Host) {
        let message = format!("round {}", self.rounds);
        self.rounds += 1;
        self.talk.received.clear();
        assert!(self.talk.send(host, message.as_bytes()), "no memory for a frame");
        self.talk.listen(host);
        let done = host.result(self.pop);
        let done = done.unwrap_or_else(|| panic!("nothing was delivered: {:?}", host.counters()));
        let sga = done.popped().unwrap();
        assert_eq!(sga.to_vec(), message.as_bytes());
        host.tokens.push(host.demi.push(self.qd, sga).unwrap());
        self.pop = host.demi.pop(self.qd).unwrap();
        self.talk.listen(host);
        assert_eq!(self.talk.received, message.as_bytes(), "{:?}", host.counters());
        self.talk.acknowledge(host);
        host.exchange();
        assert!(host.reap().into_iter().all(|done| done.pushed().is_ok()));
    }
}

/// A connection from a peer to a server at port 80, and its descriptor.
fn accepted(host: &mut Host, v6: bool, port: u16) -> (Talk, QDesc) {
    let listener = host.socket(v6, SocketKind::Stream, 80);
    let accept = host.demi.accept(listener).unwrap();
    let talk = Talk::call(host, v6, port, 80, OPTIONS).expect("a listener answers");
    let (qd, _) = host.result(accept).expect("it was called").accepted().unwrap();
    host.close(listener);
    host.open.push(qd);
    (talk, qd)
}

/// Live bytes of the heap.
fn held(host: &Host) -> usize {
    host.demi.heap().stats().bytes_live
}
