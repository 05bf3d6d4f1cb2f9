//! Connections: bytes that have come and not been read, bytes that were written and not delivered.
//!
//! Invariants: at most one pop is under way, and none while `recv_bytes` wait to be read. Every byte that was written is
//! counted in `unsent` until its push completes; a program can be ahead by `send_bytes`. What all connections have is
//! counted in the state: it changes with `come` and `unsent` in here, and when a connection goes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use demi_api::desc::QDesc;
use demi_api::instance::Demikernel;
use demi_api::memalloc::BufMut;
use demi_api::op::Done;
use demi_api::sga::SgArray;
use demi_api::slab::Key;
use demi_api::token::QToken;
use rustix::io::Errno;

use super::pump::What;
use super::socket::{ERR, HUP, IN, OUT, RDHUP};
use super::{Role, State};
use crate::carrier::Carrier;
use crate::errno::errno;
use crate::raw::{Gather, Places};

/// Most bytes of one push, and as many as there is memory for whatever else there is not, for a connection that has
/// nothing under way. A libOS is done with them when they are delivered, and not before.
const PUSH: usize = 64 << 10;
pub(super) const SCANT: usize = 768;

pub(crate) struct Stream {
    pub(crate) qd: QDesc,
    /// The descriptor that the libOS has of the kernel's socket.
    pub(crate) carried: Option<i32>,
    come: VecDeque<SgArray>,
    come_bytes: usize,
    pop: Option<QToken>,
    /// The peer has ended its side, or we have shut ours.
    ended: bool,
    shut: bool,
    /// The connection is broken: nothing more comes or goes.
    broken: bool,
    unsent: usize,
    /// What `unsent` may be, as of the last write.
    send_bytes: usize,
    /// A write found no room: when there is some again, that is an event.
    full: bool,
}

/// How long what could not be received for want of memory waits.
const FEED_AFTER: Duration = Duration::from_millis(10);

/// What a piece takes beyond its bytes, about: a program that writes byte by byte is bounded too, and so is a peer.
const OVERHEAD: usize = 256;

/// What a receive is asked to do.
#[derive(Clone, Copy, Default)]
pub(crate) struct Receive {
    pub(crate) peek: bool,
    /// Throw the bytes away.
    pub(crate) discard: bool,
}

impl Stream {
    pub(crate) fn new(qd: QDesc, carried: Option<i32>) -> Stream {
        Stream {
            qd,
            carried,
            come: VecDeque::new(),
            come_bytes: 0,
            pop: None,
            ended: false,
            shut: false,
            broken: false,
            unsent: 0,
            send_bytes: 0,
            full: false,
        }
    }

    pub(crate) fn bits(&self) -> u32 {
        let mut bits = 0;
        if self.come_bytes > 0 || self.ended || self.broken {
            bits |= IN;
        }
        if self.ended || self.broken {
            bits |= RDHUP;
        }
        if self.broken || (self.ended && self.shut) {
            bits |= HUP;
        }
        if self.has_room() || self.broken || self.shut {
            bits |= OUT;
        }
        bits
    }

    fn has_room(&self) -> bool {
        if self.unsent == 0 {
            return true;
        }
        // As the kernel has it: a third must be free before it is worth waking somebody.
        self.free() > if self.full { self.send_bytes / 3 } else { 0 }
    }

    /// Bytes that a write may have: none, once it has found no room, before there is a good deal again.
    fn room(&self) -> usize {
        if self.has_room() { self.free() } else { 0 }
    }

    /// Bytes that one more push could have.
    fn free(&self) -> usize {
        self.send_bytes.saturating_sub(self.unsent).saturating_sub(OVERHEAD)
    }

    /// Bytes that can be read at once.
    pub(crate) fn readable(&self) -> usize {
        self.come_bytes
    }

    /// What has come and not been read takes about so many bytes: small pieces hold whole buffers.
    pub(super) fn held(&self) -> usize {
        self.come_bytes + self.come.len() * OVERHEAD
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Bytes that are on their way.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Takes what has come, or looks at it.
    fn take(&mut self, places: &mut Places<'_>, how: Receive) -> usize {
        let mut taken = 0;
        if how.peek {
            for sga in &self.come {
                for segment in sga.segments() {
                    taken += places.fill(segment);
                }
            }
            return taken;
        }
        while let Some(front) = self.come.front_mut() {
            let mut count = 0;
            for segment in front.segments() {
                count += if how.discard { places.pass(segment.len()) } else { places.fill(segment) };
            }
            taken += count;
            if count < front.len() {
                front.advance(count);
                break;
            }
            self.come.pop_front();
        }
        self.come_bytes -= taken;
        taken
    }
}

impl<C: Carrier> State<C> {
    fn stream(&mut self, key: Key) -> Result<&mut Stream, Errno> {
        match &mut self.socket(key)?.role {
            Role::Stream(stream) => Ok(stream),
            Role::Plain { .. }
            | Role::Listener(_)
            | Role::Connecting { .. }
            | Role::Datagram(_)
            | Role::Lost => Err(Errno::NOTCONN),
        }
    }

    /// Asks for what comes next, unless enough has come.
    pub(crate) fn pop_ahead(&mut self, key: Key) {
        let Ok(own) = self.stream(key).map(|stream| stream.held()) else { return };
        let limit = self.recv_bytes(own);
        let Some(demi) = self.demi.clone() else { return };
        let Ok(stream) = self.stream(key) else { return };
        if stream.pop.is_some() || stream.ended || stream.broken || stream.held() >= limit {
            return;
        }
        match demi.pop(stream.qd) {
            Ok(token) => {
                stream.pop = Some(token);
                self.routes.set(token, key, What::Pop);
                self.disturbed = true;
            }
            Err(error) => self.stream_broke(key, errno(&error)),
        }
    }

    /// Asks again for what there was no memory to receive into, once it is time.
    #[inline]
    pub(super) fn feed(&mut self) {
        if self.feed_at.is_some_and(|at| at <= Instant::now()) {
            self.feed_now();
        }
    }

    #[cold]
    fn feed_now(&mut self) {
        self.feed_at = None;
        for key in std::mem::take(&mut self.starved) {
            self.pop_ahead(key);
        }
    }

    /// Reads without waiting: `AGAIN` if there is nothing.
    pub(crate) fn read_stream(
        &mut self,
        key: Key,
        places: &mut Places<'_>,
        how: Receive,
    ) -> Result<usize, Errno> {
        let socket = self.socket(key)?;
        if let Role::Connecting { .. } = socket.role {
            return Err(Errno::AGAIN);
        }
        let Role::Stream(stream) = &mut socket.role else { return Err(Errno::NOTCONN) };
        if stream.come_bytes > 0 {
            let before = stream.held();
            let taken = stream.take(places, how);
            let given = before - stream.held();
            self.held -= given;
            self.pop_ahead(key);
            return Ok(taken);
        }
        if let Some(error) = socket.error.take() {
            return Err(error);
        }
        if stream.ended || stream.broken || places.is_empty() {
            return Ok(0);
        }
        if stream.pop.is_none() {
            self.pop_ahead(key);
        }
        Err(Errno::AGAIN)
    }

    /// Writes as much as there is room for without waiting: `AGAIN` if there is none.
    pub(crate) fn write_stream(
        &mut self,
        key: Key,
        gather: &Gather<'_>,
        from: usize,
    ) -> Result<usize, Errno> {
        let len = gather.len() - from;
        let mut done = 0;
        self.allot(key);
        loop {
            let demi = self.demi()?;
            let socket = self.socket(key)?;
            if let Role::Connecting { .. } = socket.role {
                return Err(Errno::AGAIN);
            }
            let Role::Stream(stream) = &mut socket.role else { return Err(Errno::NOTCONN) };
            if done == 0 {
                if let Some(error) = socket.error.take() {
                    return Err(error);
                }
                if stream.shut || stream.broken {
                    return Err(Errno::PIPE);
                }
            }
            let count = PUSH.min(len - done).min(stream.room());
            if count == 0 || stream.broken {
                stream.full |= done < len;
                break;
            }
            let (qd, is_idle) = (stream.qd, stream.unsent == 0);
            let Some(mut buffer) = self.buffer(&demi, count, is_idle) else {
                // What is on its way comes back as room.
                if done == 0 && is_idle {
                    return Err(Errno::NOBUFS);
                }
                self.stream(key)?.full = true;
                break;
            };
            let count = buffer.len();
            gather.copy_to(from + done, &mut buffer);
            match demi.push(qd, buffer) {
                Ok(token) => {
                    self.stream(key)?.unsent += count + OVERHEAD;
                    self.unsent += count + OVERHEAD;
                    done += count;
                    self.routes.set(token, key, What::Push(count as u32));
                    self.disturbed = true;
                    // What was done on the spot is settled by this, and what waits for a turn gets one.
                    self.take_results();
                }
                Err(refused) => {
                    let error = errno(&refused.error);
                    if done > 0 {
                        break;
                    }
                    return Err(error);
                }
            }
        }
        if done == 0 && len > 0 { Err(Errno::AGAIN) } else { Ok(done) }
    }

    /// Memory for so many bytes of a push, or for fewer.
    fn buffer(&self, demi: &Demikernel<C::LibOs>, count: usize, is_idle: bool) -> Option<BufMut> {
        let mut sizes = std::iter::successors(Some(count), |count| (*count > SCANT).then_some(count / 2));
        sizes.find_map(|count| demi.alloc(count).ok()).or_else(|| {
            let mut buffer = self.scant.as_ref().filter(|_| is_idle)?.take()?;
            buffer.truncate(count);
            Some(buffer)
        })
    }

    /// Notes how far the program may be ahead with a connection.
    fn allot(&mut self, key: Key) {
        let Ok(own) = self.stream(key).map(|stream| stream.unsent) else { return };
        let send_bytes = self.send_bytes(own);
        if let Ok(stream) = self.stream(key) {
            stream.send_bytes = send_bytes;
        }
    }

    /// Bytes that a write would take now.
    pub(crate) fn room(&mut self, key: Key) -> Result<usize, Errno> {
        self.allot(key);
        let stream = self.stream(key)?;
        if stream.broken || stream.shut {
            return Ok(usize::MAX);
        }
        let room = stream.room();
        stream.full |= room == 0;
        Ok(room)
    }

    /// Ends one side or both.
    pub(crate) fn shut_stream(&mut self, key: Key, how: demi_api::libos::Shutdown) -> Result<(), Errno> {
        use demi_api::libos::Shutdown;
        let demi = self.demi()?;
        let stream = self.stream(key)?;
        if stream.broken {
            return Err(Errno::NOTCONN);
        }
        demi.shutdown(stream.qd, how).map_err(|error| errno(&error))?;
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            stream.shut = true;
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            stream.ended = true;
        }
        self.disturbed = true;
        self.tell(key, IN | OUT | RDHUP | HUP);
        self.take_results();
        Ok(())
    }

    /// A pop has ended.
    pub(super) fn stream_popped(&mut self, key: Key, result: Result<Done, demi_api::error::Error>) {
        let Ok(stream) = self.stream(key) else { return };
        stream.pop = None;
        match result {
            Ok(Done::Popped(sga)) if sga.is_empty() => {
                stream.ended = true;
                self.tell(key, IN | RDHUP | HUP);
            }
            Ok(Done::Popped(sga)) => {
                let before = stream.held();
                stream.come_bytes += sga.len();
                stream.come.push_back(sga);
                let more = stream.held() - before;
                self.held += more;
                self.tell(key, IN);
                self.pop_ahead(key);
            }
            // No other end belongs to a pop.
            Ok(_) => {}
            Err(demi_api::error::Error::OutOfMemory(_)) => {
                self.starved.push(key);
                self.feed_at.get_or_insert_with(|| Instant::now() + FEED_AFTER);
            }
            Err(error) => self.stream_broke(key, errno(&error)),
        }
    }

    /// A push of `count` bytes has ended.
    pub(super) fn stream_pushed(&mut self, key: Key, count: u32, result: Result<(), demi_api::error::Error>) {
        let Ok(stream) = self.stream(key) else { return };
        let sent = count as usize + OVERHEAD;
        stream.unsent -= sent;
        self.unsent -= sent;
        let Ok(stream) = self.stream(key) else { return };
        if let Err(error) = result {
            return self.stream_broke(key, errno(&error));
        }
        if stream.full && stream.has_room() {
            stream.full = false;
            self.tell(key, OUT);
        }
    }

    fn stream_broke(&mut self, key: Key, error: Errno) {
        let Ok(socket) = self.socket(key) else { return };
        let Role::Stream(stream) = &mut socket.role else { return };
        if error == Errno::CANCELED {
            return;
        }
        if !std::mem::replace(&mut stream.broken, true) {
            socket.error = Some(error).filter(|error| *error != Errno::PIPE);
        }
        self.tell(key, IN | OUT | ERR | HUP | RDHUP);
    }
}
