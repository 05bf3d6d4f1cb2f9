//! Perfect RDMA hardware, in this process: what the seam asks for and nothing else, for any number of instances.
//!
//! It is the oracle of the seam's contract. With [`Conditions::strict`] it panics where real hardware would fail a queue pair through the
//! fault of its user: a message that finds no receive, or one too short; access to memory that is not granted; a
//! posting without room. Otherwise these fail as they do there. Delays, full queues and failures are seeded, so that a run can be repeated.
//!
//! Invariants: one-sided access happens whatever the other instance does, and signals nothing. Completions of quiet
//! postings are seen by nobody. Memory that was handed over is held until its event.
//!
//! | file | what it holds |
//! |---|---|
//! | `fabric` | what is between the instances: time, what is under way, connection management |
//! | `memory` | what peers may reach |

mod fabric;
mod memory;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use demi_api::error::Error;
use demi_api::memalloc::{Buf, BufMut};
use demi_api::sga::SgArray;
use demi_api::time::Instant;

pub use self::fabric::{Conditions, Fabric};
use self::fabric::{Outcome, Ready, What};
use super::{
    Access, Atomic, BURST, Caps, DeviceCx, Event, Fault, Grant, HEAD_MAX, HELLO_MAX, ListenId, NoRoom, Qp,
    RdmaDevice, Region, Remote, RequestId, Then,
};

/// One instance's device.
#[derive(Debug)]
pub struct Ideal {
    fabric: Fabric,
    end: usize,
    caps: Caps,
    signal: OwnedFd,
    receives: VecDeque<BufMut>,
    /// What is posted on each queue pair, oldest first.
    posted: Vec<VecDeque<Posting>>,
    /// Memory that peers may read, by the number of its grant.
    grants: Vec<Option<Buf>>,
    regions: Vec<Option<u32>>,
    /// Queue pairs whose end was told, perhaps behind something that is looked at before: their names are free with the next poll.
    gone: Vec<u32>,
    posts: u64,
    flushes: u64,
    polls: u64,
}

#[derive(Debug)]
enum Posting {
    Send(SgArray, Then),
    Read(BufMut, u64),
    Atomic(u64),
}

impl Ideal {
    fn new(fabric: Fabric, end: usize, caps: Caps, signal: OwnedFd) -> Ideal {
        Ideal {
            fabric,
            end,
            caps,
            signal,
            receives: VecDeque::new(),
            posted: Vec::new(),
            grants: Vec::new(),
            regions: Vec::new(),
            gone: Vec::new(),
            posts: 0,
            flushes: 0,
            polls: 0,
        }
    }

    /// Notes a posting and has the fabric carry it. Called after `room` was seen.
    fn post(&mut self, cx: &DeviceCx<'_>, qp: Qp, posting: Posting, what: What) {
        self.posts += 1;
        let tell = !matches!(posting, Posting::Send(_, Then::Quiet));
        self.queue(qp).push_back(posting);
        self.fabric.lock().post(cx.now, self.end, qp.0, what, tell);
    }

    fn queue(&mut self, qp: Qp) -> &mut VecDeque<Posting> {
        let index = qp.0 as usize;
        if self.posted.len() <= index {
            self.posted.resize_with(index + 1, VecDeque::new);
        }
        &mut self.posted[index]
    }

    fn has_room(&self, qp: Qp) -> bool {
        let free = self.fabric.lock().free(self.end, qp.0);
        if free == 0 {
            self.fabric.lock().want_room(self.end, qp.0);
        }
        free > 0
    }

    /// The oldest posting of a queue pair has ended.
    fn ended(&mut self, qp: Qp, outcome: Outcome) -> Option<Event> {
        let posting = self.queue(qp).pop_front().expect("the fabric ends what was posted, once");
        Some(match (posting, outcome) {
            (Posting::Send(held, then), outcome) => {
                drop(held);
                let result = outcome.result().map(|_| ());
                match then {
                    Then::Quiet if result.is_ok() => return None,
                    Then::Quiet => Event::Sent { qp, cookie: None, result },
                    Then::Tell(cookie) => Event::Sent { qp, cookie: Some(cookie), result },
                }
            }
            (Posting::Read(mut into, cookie), Outcome::Bytes(bytes)) => {
                into.copy_from_slice(&bytes);
                Event::Read { qp, cookie, into, result: Ok(()) }
            }
            (Posting::Read(into, cookie), outcome) => {
                Event::Read { qp, cookie, into, result: outcome.result().map(|_| ()) }
            }
            (Posting::Atomic(cookie), outcome) => {
                Event::Fetched { qp, cookie, result: outcome.result().map(|word| word.unwrap_or(0)) }
            }
        })
    }

    fn event(&mut self, ready: Ready) -> Option<Event> {
        Some(match ready {
            Ready::Message { qp, bytes } => {
                let mut into = self.receives.pop_front().expect("the fabric has counted the receives");
                into.set_len(bytes.len());
                into.copy_from_slice(&bytes);
                Event::Received { qp: Qp(qp), message: into.freeze() }
            }
            Ready::Ended { qp, outcome, .. } => return self.ended(Qp(qp), outcome),
            Ready::Revoked { grant, cookie } => {
                let data = self.grants[grant as usize].take().expect("a grant ends once");
                Event::Revoked { cookie, data }
            }
            Ready::Request { listener, id, from, hello } => {
                Event::Request { listener: ListenId(listener), id: RequestId(id), from, hello }
            }
            Ready::Established { qp, hello } => Event::Established { qp: Qp(qp), hello },
            Ready::Refused { qp, hello } => {
                self.gone.push(qp);
                Event::Refused { qp: Qp(qp), hello }
            }
            Ready::Gone { qp, why } => {
                assert!(self.queue(Qp(qp)).is_empty(), "all postings end before their queue pair");
                self.gone.push(qp);
                Event::Gone { qp: Qp(qp), why }
            }
            Ready::Port(true) => Event::Up,
            Ready::Port(false) => Event::Down(Fault::Down),
            Ready::Room => return None,
        })
    }
}

impl RdmaDevice for Ideal {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn listen(&mut self, cx: &DeviceCx<'_>, addr: SocketAddr) -> Result<(ListenId, SocketAddr), Error> {
        let (id, addr) = self.fabric.lock().listen(cx.now, self.end, addr)?;
        Ok((ListenId(id), addr))
    }

    fn unlisten(&mut self, cx: &DeviceCx<'_>, id: ListenId) {
        self.fabric.lock().unlisten(cx.now, self.end, id.0);
    }

    fn connect(&mut self, cx: &DeviceCx<'_>, to: SocketAddr, hello: &[u8]) -> Result<Qp, Error> {
        assert!(hello.len() <= HELLO_MAX);
        Ok(Qp(self.fabric.lock().connect(cx.now, self.end, to, hello)))
    }

    fn accept(&mut self, cx: &DeviceCx<'_>, request: RequestId, hello: &[u8]) -> Result<Qp, Error> {
        assert!(hello.len() <= HELLO_MAX);
        let qp = self.fabric.lock().accept(cx.now, self.end, request.0, hello);
        qp.map(Qp).ok_or(Error::ConnectionAborted)
    }

    fn reject(&mut self, cx: &DeviceCx<'_>, request: RequestId, hello: &[u8]) {
        assert!(hello.len() <= HELLO_MAX);
        self.fabric.lock().reject(cx.now, request.0, hello);
    }

    fn disconnect(&mut self, cx: &DeviceCx<'_>, qp: Qp) {
        self.fabric.lock().disconnect(cx.now, self.end, qp.0);
    }

    fn addrs(&self, qp: Qp) -> Option<(SocketAddr, SocketAddr)> {
        self.fabric.lock().addrs(self.end, qp.0)
    }

    fn receive(&mut self, cx: &DeviceCx<'_>, into: BufMut) -> Result<(), BufMut> {
        if self.receives.len() >= self.caps.receives {
            return Err(into);
        }
        self.fabric.lock().receive(cx.now, self.end, into.len());
        self.receives.push_back(into);
        Ok(())
    }

    fn room(&self, qp: Qp) -> usize {
        let mut shared = self.fabric.lock();
        let room = shared.room(self.end, qp.0);
        if room == 0 {
            shared.want_room(self.end, qp.0);
        }
        room
    }

    fn send(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        head: &[u8],
        data: SgArray,
        then: Then,
    ) -> Result<(), SgArray> {
        assert!(head.len() <= HEAD_MAX && data.segments().len() <= self.caps.max_segs);
        if !self.has_room(qp) {
            return Err(data);
        }
        let mut bytes = head.to_vec();
        data.segments().iter().for_each(|segment| bytes.extend_from_slice(segment));
        assert!(bytes.len() <= self.caps.max_len, "a message of {} bytes", bytes.len());
        // What was copied is not held.
        let held = if bytes.len() <= self.caps.inline { SgArray::new() } else { data };
        self.post(cx, qp, Posting::Send(held, then), What::Message(bytes));
        Ok(())
    }

    fn write(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        to: Remote,
        data: SgArray,
        then: Then,
    ) -> Result<(), SgArray> {
        if !self.has_room(qp) {
            return Err(data);
        }
        let bytes = data.to_vec();
        self.post(cx, qp, Posting::Send(data, then), What::Write(to, bytes));
        Ok(())
    }

    fn write_word(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        to: Remote,
        word: u64,
        then: Then,
    ) -> Result<(), NoRoom> {
        if !self.has_room(qp) {
            return Err(NoRoom);
        }
        let what = What::Write(to, word.to_ne_bytes().to_vec());
        self.post(cx, qp, Posting::Send(SgArray::new(), then), what);
        Ok(())
    }

    fn read(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        from: Remote,
        into: BufMut,
        cookie: u64,
    ) -> Result<(), BufMut> {
        if !self.has_room(qp) {
            return Err(into);
        }
        assert!(into.len() <= self.caps.max_len);
        let len = into.len();
        self.post(cx, qp, Posting::Read(into, cookie), What::Read(from, len));
        Ok(())
    }

    fn atomic(
        &mut self,
        cx: &DeviceCx<'_>,
        qp: Qp,
        at: Remote,
        op: Atomic,
        cookie: u64,
    ) -> Result<(), NoRoom> {
        if !self.has_room(qp) {
            return Err(NoRoom);
        }
        self.post(cx, qp, Posting::Atomic(cookie), What::Atomic(at, op));
        Ok(())
    }

    fn grant(&mut self, _cx: &DeviceCx<'_>, qp: Qp, data: Buf) -> Result<(Grant, Remote), Buf> {
        let free = self.grants.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.grants.push(None);
            self.grants.len() - 1
        });
        let Some(remote) = self.fabric.lock().grant(self.end, qp.0, index as u32, &data) else {
            return Err(data);
        };
        self.grants[index] = Some(data);
        Ok((Grant(index as u32), remote))
    }

    fn revoke(&mut self, cx: &DeviceCx<'_>, grant: Grant, cookie: u64) {
        self.fabric.lock().revoke(cx.now, self.end, grant.0, cookie);
    }

    fn region(&mut self, len: usize, access: Access) -> Result<Region, Error> {
        let key = self.fabric.lock().region(self.end, len, access);
        self.regions.push(Some(key));
        Ok(Region(self.regions.len() as u32 - 1))
    }

    fn place(&self, region: Region) -> Option<Remote> {
        self.fabric.lock().place(self.key(region)?)
    }

    fn load(&self, region: Region, offset: usize) -> u64 {
        let mut word = [0; 8];
        self.copy_out(region, offset, &mut word);
        u64::from_ne_bytes(word)
    }

    fn copy_out(&self, region: Region, offset: usize, out: &mut [u8]) -> bool {
        self.key(region).is_some_and(|key| self.fabric.lock().copy_out(key, offset, out))
    }

    fn copy_in(&mut self, region: Region, offset: usize, bytes: &[u8]) -> bool {
        self.key(region).is_some_and(|key| self.fabric.lock().copy_in(key, offset, bytes))
    }

    fn atomic_here(&mut self, region: Region, offset: usize, op: Atomic) -> Option<u64> {
        let key = self.key(region)?;
        self.fabric.lock().atomic_at(key, offset, op)
    }

    fn unregion(&mut self, region: Region) {
        if let Some(key) = self.regions.get_mut(region.0 as usize).and_then(Option::take) {
            self.fabric.lock().forget(key);
        }
    }

    fn flush(&mut self, _cx: &DeviceCx<'_>) {
        self.flushes += 1;
    }

    fn poll(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Event>) -> usize {
        self.polls += 1;
        for qp in self.gone.drain(..) {
            self.fabric.lock().release(self.end, qp);
        }
        self.fabric.lock().advance(cx.now);
        let before = inbox.len();
        while inbox.len() - before < BURST {
            let Some(ready) = self.fabric.lock().take_ready(self.end) else { break };
            inbox.extend(self.event(ready));
        }
        inbox.len() - before
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }

    fn arm(&mut self, cx: &DeviceCx<'_>) -> bool {
        let mut shared = self.fabric.lock();
        shared.advance(cx.now);
        shared.arm(self.end)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        visit("ideal_posts", self.posts);
        visit("ideal_polls", self.polls);
        visit("ideal_flushes", self.flushes);
    }
}

impl Ideal {
    fn key(&self, region: Region) -> Option<u32> {
        *self.regions.get(region.0 as usize)?
    }

    /// Addresses that it answers at.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.fabric.lock().ips(self.end)
    }
}

impl Drop for Ideal {
    fn drop(&mut self) {
        self.fabric.lock().unplug(self.end);
    }
}
