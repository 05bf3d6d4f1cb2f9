//! One path: two lanes, and the socket that they were handed over on, which wakes and whose end is the path's.
//!
//! Invariant: who is about to sleep says so in the lane, and looks again behind a barrier; who has put something in looks whether the
//! other sleeps, behind a barrier as well. So one of the two sees the other. Where both processes take part in barriers
//! that the sleeper makes, those who are awake spend nothing on theirs.

use std::net::IpAddr;
use std::sync::atomic::{Ordering, compiler_fence, fence};

use demi_api::fd::Fd;

use super::greeting::Greeting;
use super::ring::{Receiver, Sender, Violation};
use super::sys::{self, Received};

/// What wakes the other side: any byte.
const BELL: [u8; 1] = [0];

/// See the module.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) control: Fd,
    /// Readable when the peer's process has ended.
    pub(super) process: Option<Fd>,
    pub(super) tx: Sender,
    pub(super) rx: Receiver,
    /// The peer makes barriers before it sleeps, and we take part.
    barriers: bool,
    /// Something was put in or taken out since the last [`wake`](Peer::wake).
    pub(super) touched: bool,
    /// A packet had no room.
    pub(super) full: bool,
    /// The peer is gone. What it has sent is still to be received.
    pub(super) dead: bool,
}

impl Peer {
    pub(super) fn new(address: IpAddr, control: Fd, tx: Sender, rx: Receiver, barriers: bool) -> Peer {
        let process = sys::process_behind(&control);
        Peer { address, control, process, tx, rx, barriers, touched: false, full: false, dead: false }
    }

    /// Wakes the peer, if it sleeps and has something to do now. Says whether it slept.
    #[inline]
    pub(super) fn wake(&mut self) -> bool {
        self.touched = false;
        if self.barriers {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
        let sleeps = self.tx.reader_sleeps() | self.rx.writer_waits();
        if sleeps {
            self.ring();
        }
        sleeps
    }

    #[cold]
    fn ring(&self) {
        // If there is no room for a bell the peer has been woken by those that it has not heard; if it is gone the socket
        // says so.
        let _ = sys::send(&self.control, &BELL, None);
    }

    /// Whether this side sleeps. Takes effect with the barrier that follows.
    pub(super) fn sleep(&self, sleeps: bool) {
        self.rx.sleep(sleeps);
        self.tx.wait(sleeps && self.full);
    }

    /// Whether there is something to do: a packet, or room that was missed.
    pub(super) fn has_work(&mut self) -> Result<bool, Violation> {
        let has_room = self.full && self.tx.has_room()?;
        self.full &= !has_room;
        Ok(has_room || self.rx.has_packet())
    }

    /// Reads what came by the socket, at most a few messages: bells, and the answer to our greeting. `joined`: we take part in
    /// barriers.
    pub(super) fn hear(&mut self, joined: bool) {
        for _ in 0..16 {
            match sys::receive(&self.control) {
                Received::Nothing => return,
                Received::Closed => {
                    self.dead = true;
                    return;
                }
                Received::Message(bytes, len, _) => {
                    if let Ok(greeting) = Greeting::decode(&bytes[..len]) {
                        self.barriers = greeting.barriers && joined;
                    }
                }
            }
        }
    }
}
