//! How queue pairs come about, and end.

use std::net::SocketAddr;

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::slab::Key;

use super::{Allowance, Peer, Stage};
use crate::catmint::Catmint;
use crate::deadlines::Of;
use crate::device::{Access, DeviceCx, Fault, ListenId, Qp, Region, Remote, RequestId};
use crate::wire::{BadHello, Hello, Word};

impl Catmint {
    /// What this instance says of itself.
    fn hello(&self, word: u16, region: Option<Region>) -> Hello {
        let place = region.and_then(|region| self.device.place(region));
        Hello {
            word,
            id: self.id,
            receives: self.policy.receives,
            connections: self.policy.connections,
            receive_bytes: self.policy.receive_bytes,
            longest: self.policy.longest,
            credits: place.unwrap_or(Remote { addr: 0, key: 0 }),
        }
    }

    /// What a peer takes of this side, whoever calls: its receives and its credit words.
    fn prepare(&mut self, cx: &DeviceCx<'_>) -> Result<Region, Error> {
        let full = self.peers.count >= self.policy.peers;
        if full || self.receives.promise(&mut *self.device, cx, self.policy.receives).is_err() {
            self.part_with_one(cx);
            return Err(Error::NoBuffers);
        }
        let words = 8 * (usize::from(self.policy.connections) + 1);
        let region = self.device.region(words, Access { write: true, ..Access::default() });
        if region.is_err() {
            self.receives.withdraw(self.policy.receives);
        }
        self.peers.count += usize::from(region.is_ok());
        region
    }

    /// Ends the queue pair that was used least lately of those that carry no connection: whoever comes later has room.
    fn part_with_one(&mut self, cx: &DeviceCx<'_>) {
        let idle = self.peers.table.entries_mut().filter(|(_, peer)| peer.is_idle());
        let Some((_, key)) = idle.map(|(key, peer)| (peer.posted, key)).min() else { return };
        self.peers.routes.retain(|_, other| *other != key);
        if let Some(peer) = self.peers.table.get_mut(key) {
            peer.expelled = true;
            self.device.disconnect(cx, peer.qp);
        }
    }

    /// Gives back what `prepare` took.
    fn unprepare(&mut self, region: Region) {
        self.device.unregion(region);
        self.receives.withdraw(self.policy.receives);
        self.peers.count -= 1;
    }

    fn meet(&mut self, cx: &Cx<'_>, stage: Stage, qp: Qp, region: Region) -> Key {
        let key = self.peers.table.insert(Peer {
            stage,
            qp,
            id: 0,
            receive_bytes: 0,
            longest: 0,
            connections: 0,
            words: Remote { addr: 0, key: 0 },
            region,
            local: None,
            remote: None,
            allowance: Allowance::new(0, self.policy.receives),
            owed: 0,
            slots: Vec::new(),
            free: Vec::new(),
            open: 0,
            waiting: Vec::new(),
            controls: Default::default(),
            refusals: 0,
            ready: Default::default(),
            grants: Default::default(),
            readers: Default::default(),
            reading: 0,
            busy: false,
            starved: false,
            posted: cx.now,
            look: None,
            expelled: false,
        });
        self.peers.note_qp(qp, key);
        key
    }

    /// Calls whoever listens at an address. `waiting` are told.
    pub(crate) fn call(
        &mut self,
        cx: &mut Cx<'_>,
        to: SocketAddr,
        renew: bool,
        waiting: Vec<Key>,
    ) -> Result<(), Error> {
        if self.down {
            return Err(Error::Unreachable);
        }
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        let region = self.prepare(&device_cx)?;
        let hello = self.hello(if renew { Word::RENEW } else { 0 }, Some(region));
        let qp = match self.device.connect(&device_cx, to, &hello.emit()) {
            Ok(qp) => qp,
            Err(error) => {
                self.unprepare(region);
                return Err(error);
            }
        };
        let at = cx.now + self.policy.connect_timeout;
        let key = self.meet(cx, Stage::Calling { to, renew, at }, qp, region);
        self.deadlines.set(at, Of::Peer(key));
        self.peers.routes.insert(to, key);
        if let Some(peer) = self.peers.table.get_mut(key) {
            peer.waiting = waiting;
        }
        Ok(())
    }

    /// Somebody calls.
    pub(crate) fn called(&mut self, cx: &mut Cx<'_>, _listener: ListenId, request: RequestId, bytes: &[u8]) {
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        let answer = match Hello::parse(bytes) {
            Ok(theirs) if self.knows(&theirs) => Err(Word::ALREADY),
            Ok(theirs) => self.prepare(&device_cx).map_err(|_| Word::NO_ROOM).map(|region| (theirs, region)),
            Err(BadHello::Version(_)) => Err(Word::VERSION),
            Err(BadHello::Foreign | BadHello::Malformed) => Err(Word::MALFORMED),
        };
        let (theirs, region) = match answer {
            Ok(both) => both,
            Err(word) => {
                self.counters.requests_rejected += 1;
                let refusal = self.hello(word, None).emit();
                return self.device.reject(&device_cx, request, &refusal);
            }
        };
        let hello = self.hello(0, Some(region)).emit();
        let Ok(qp) = self.device.accept(&device_cx, request, &hello) else {
            return self.unprepare(region);
        };
        let key = self.meet(cx, Stage::Answering, qp, region);
        if let Some(peer) = self.peers.table.get_mut(key) {
            peer.learn(&theirs);
        }
    }

    fn knows(&self, theirs: &Hello) -> bool {
        let known = self.peers.by_id.get(&theirs.id).and_then(|key| self.peers.table.get(*key));
        theirs.word & Word::RENEW == 0 && known.is_some_and(|peer| peer.is_up() && !peer.expelled)
    }

    /// A queue pair is connected.
    pub(crate) fn established(&mut self, cx: &mut Cx<'_>, qp: Qp, hello: &[u8]) {
        let Some(key) = self.peers.of_qp(qp) else { return };
        let addrs = self.device.addrs(qp);
        let Some(peer) = self.peers.table.get_mut(key) else { return };
        match peer.stage {
            Stage::Calling { .. } => match Hello::parse(hello) {
                Ok(theirs) => peer.learn(&theirs),
                Err(_) => return self.expel(cx, key),
            },
            Stage::Answering => {}
            Stage::Up => return,
        }
        peer.stage = Stage::Up;
        (peer.local, peer.remote) = addrs.unzip();
        let waiting = std::mem::take(&mut peer.waiting);
        self.peers.by_id.insert(peer.id, key);
        self.counters.peers_met += 1;
        for connection in waiting {
            self.open_on(cx, connection, key);
        }
        self.watch_over(cx, key);
        self.peers.rouse(key);
    }

    /// Somebody who was called has refused.
    pub(crate) fn call_refused(&mut self, cx: &mut Cx<'_>, qp: Qp, hello: &[u8]) {
        let Some(key) = self.peers.of_qp(qp) else { return };
        let Some(mut peer) = self.forget(key) else { return };
        let Stage::Calling { to, renew, .. } = peer.stage else { return };
        let waiting = std::mem::take(&mut peer.waiting);
        let error = match Hello::refusal(hello) {
            Some((Word::ALREADY, id)) if !renew => {
                let known = self.peers.by_id.get(&id).copied();
                let at_address = |peer: &Peer| peer.remote.is_some_and(|addr| addr.ip() == to.ip());
                match known.filter(|key| self.peers.table.get(*key).is_some_and(at_address)) {
                    Some(known) => {
                        self.peers.routes.insert(to, known);
                        return waiting
                            .into_iter()
                            .for_each(|connection| self.open_on(cx, connection, known));
                    }
                    None => match self.call(cx, to, true, waiting.clone()) {
                        Ok(()) => return,
                        Err(error) => error,
                    },
                }
            }
            Some((Word::VERSION, _)) => {
                Error::NotSupported("the peer speaks another version of catmint: run the same at both ends")
            }
            _ => Error::ConnectionRefused,
        };
        for connection in waiting {
            self.opening_failed(cx, connection, error.clone());
        }
    }

    /// A queue pair has ended.
    pub(crate) fn gone(&mut self, cx: &mut Cx<'_>, qp: Qp, why: Fault) {
        let Some(key) = self.peers.of_qp(qp) else { return };
        let Some(mut peer) = self.forget(key) else { return };
        let error = match (&peer.stage, why) {
            (Stage::Calling { .. }, Fault::Unreachable | Fault::Down) => Error::Unreachable,
            (Stage::Calling { .. }, Fault::Timeout) => Error::TimedOut,
            (Stage::Calling { .. }, _) if peer.expelled => {
                Error::NotSupported("whoever answers there does not speak catmint")
            }
            (Stage::Calling { .. }, _) => Error::ConnectionRefused,
            (Stage::Answering | Stage::Up, _) => Error::ConnectionReset,
        };
        self.counters.peers_lost += u64::from(!matches!(peer.stage, Stage::Calling { .. }));
        for connection in std::mem::take(&mut peer.waiting) {
            self.opening_failed(cx, connection, error.clone());
        }
        let occupants: Vec<Key> = peer.occupants().collect();
        for connection in occupants {
            self.connection_lost(cx, connection, Error::ConnectionReset);
        }
    }

    /// Takes a peer out of all tables. Its queue pair is gone already, or was never there.
    fn forget(&mut self, key: Key) -> Option<Peer> {
        let peer = self.peers.table.remove(key)?;
        self.peers.note_qp(peer.qp, Key::NONE);
        if self.peers.by_id.get(&peer.id) == Some(&key) {
            self.peers.by_id.remove(&peer.id);
        }
        self.peers.routes.retain(|_, other| *other != key);
        for list in [&mut self.peers.busy, &mut self.peers.starved, &mut self.peers.owing] {
            list.retain(|other| *other != key);
        }
        self.unprepare(peer.region);
        Some(peer)
    }

    /// Ends a queue pair whose other side breaks the rules.
    pub(crate) fn expel(&mut self, cx: &Cx<'_>, key: Key) {
        let Some(peer) = self.peers.table.get_mut(key) else { return };
        if !std::mem::replace(&mut peer.expelled, true) {
            self.counters.peers_expelled += 1;
            self.device.disconnect(&DeviceCx { heap: cx.heap, now: cx.now }, peer.qp);
        }
    }

    /// A look at a peer: one that has not answered is given up; one that has long been left in peace is tried.
    pub(crate) fn look_at_peer(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(peer) = self.peers.table.get_mut(key) else { return };
        let device_cx = DeviceCx { heap: cx.heap, now: cx.now };
        match peer.stage {
            Stage::Calling { at, .. } if at <= cx.now => {
                let qp = peer.qp;
                self.device.disconnect(&device_cx, qp);
                // Whoever asks for that address from now on calls again.
                self.peers.routes.retain(|_, other| *other != key);
                for connection in std::mem::take(&mut peer.waiting) {
                    self.opening_failed(cx, connection, Error::TimedOut);
                }
            }
            Stage::Calling { .. } => {}
            // Something may be open on it before it is known to be connected.
            Stage::Answering => {
                peer.look = None;
                self.watch_over(cx, key);
            }
            Stage::Up => {
                if peer.look.is_none_or(|at| at > cx.now) {
                    return;
                }
                peer.look = None;
                if cx.now.since(peer.posted) >= self.policy.keepalive {
                    self.keep_alive(cx, key);
                }
                self.watch_over(cx, key);
            }
        }
    }

    /// Has a peer looked at in a while.
    pub(crate) fn watch_over(&mut self, cx: &Cx<'_>, key: Key) {
        let Some(peer) = self.peers.table.get_mut(key) else { return };
        if peer.look.is_none() {
            let at = cx.now + self.policy.keepalive;
            peer.look = Some(at);
            self.deadlines.set(at, Of::Peer(key));
        }
    }
}

impl Peer {
    fn learn(&mut self, theirs: &Hello) {
        self.id = theirs.id;
        self.receive_bytes = theirs.receive_bytes as usize;
        self.longest = theirs.longest;
        self.connections = theirs.connections;
        self.words = theirs.credits;
        self.allowance.set_theirs(theirs.receives);
    }
}
