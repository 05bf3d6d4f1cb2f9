//! A connection, as plain data: its windows, what is pushed, what has come.
//!
//! Invariants: `pushes[..next]` are posted, the rest waits; they complete from the front. What has come is popped from the
//! front; an offer at the front that is not read holds up what lies behind it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use arrayvec::ArrayVec;
use demi_api::desc::QDesc;
use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::Buf;
use demi_api::op::{Done, Position};
use demi_api::sga::{MAX_SEGMENTS, SgArray};
use demi_api::slab::Key;
use demi_api::time::Instant;
use demi_api::token::QToken;

use crate::device::Remote;
use crate::wire::Name;

/// Windows further ahead than this are none.
const FAR: u32 = 1 << 30;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Conn {
    /// `None`: nobody holds it, or it waits for being accepted.
    pub(crate) qd: Option<QDesc>,
    /// Until it is up, at the end that connects.
    pub(crate) opening: Option<Box<Opening>>,
    /// Where it waits for being accepted.
    pub(crate) listener: Key,
    pub(crate) peer: Key,
    pub(crate) name: Name,
    pub(crate) remote: Name,
    pub(crate) here: SocketAddr,
    pub(crate) there: SocketAddr,
    /// Bound by the application, and so to be given back.
    pub(crate) bound: bool,
    pub(crate) send: Sending,
    pub(crate) recv: Receiving,
    pub(crate) pushes: VecDeque<Push>,
    /// The number of the first push.
    pub(crate) first: u32,
    /// How many of the pushes are posted.
    pub(crate) next: usize,
    pub(crate) inbox: VecDeque<Element>,
    /// Bytes in the inbox, and being read; and how many offers are in it that are not read whole.
    pub(crate) held: usize,
    pub(crate) unread: u32,
    pub(crate) pops: VecDeque<QToken>,
    /// Reads under way.
    pub(crate) reads: u32,
    pub(crate) linger: Option<Duration>,
    pub(crate) deadline: Option<Instant>,
    /// Why nothing goes any more.
    pub(crate) failed: Option<Error>,
    /// It is in the peer's list of those that have something to push, of windows to be written, of those with offers to read.
    pub(crate) listed: bool,
    pub(crate) grant_listed: bool,
    pub(crate) reader_listed: bool,
    /// How often the device has not let the peer into the next push.
    pub(crate) refused: u16,
    /// It waits for its window, and has said so.
    pub(crate) stalled: bool,
    pub(crate) blocked_said: bool,
    /// The peer sleeps until it is granted more.
    pub(crate) wake: bool,
    /// A grant is among what waits to be said.
    pub(crate) grant_said: bool,
    /// The acceptance waits to be said: the peer cannot know the name yet.
    pub(crate) unanswered: bool,
    /// No more is pushed here; that was said; no more comes.
    pub(crate) end_wanted: bool,
    pub(crate) end_said: bool,
    pub(crate) heard_end: bool,
    /// The application has closed it; in disorder.
    pub(crate) closing: bool,
    pub(crate) abort: bool,
    pub(crate) said_close: bool,
    pub(crate) heard_close: bool,
    /// The peer closed before it had taken all that was pushed.
    pub(crate) broken: bool,
    /// The application reads no more.
    pub(crate) deaf: bool,
}

/// A connection that is not up yet.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) token: Option<QToken>,
    /// What it was before.
    pub(crate) fresh: super::Fresh,
    /// The peer was found by an earlier connection to that address.
    pub(crate) by_route: bool,
}

/// What may be pushed: all modulo 2³².
#[derive(Debug, Default)]
pub(crate) struct Sending {
    pub(crate) spent: u32,
    pub(crate) granted: u32,
    /// Most that a push may cost, or it is offered.
    pub(crate) most: u32,
}

impl Sending {
    #[inline]
    pub(crate) fn covers(&self, cost: u32) -> bool {
        let left = self.granted.wrapping_sub(self.spent);
        left < FAR * 2 && left >= cost
    }

    /// Returns whether this is news.
    #[inline]
    pub(crate) fn note_granted(&mut self, granted: u32) -> bool {
        let news = granted.wrapping_sub(self.granted);
        let sound = news != 0 && news < FAR && granted.wrapping_sub(self.spent) < FAR * 2;
        if sound {
            self.granted = granted;
        }
        sound
    }
}

/// What the peer may push: all modulo 2³².
#[derive(Debug, Default)]
pub(crate) struct Receiving {
    /// What has come.
    pub(crate) used: u32,
    /// What was taken of it.
    pub(crate) consumed: u32,
    /// What of it is not granted again yet: offers to which the answer waits to be said.
    pub(crate) unsaid: u32,
    /// What the peer was told.
    pub(crate) granted: u32,
}

impl Receiving {
    /// Something has come. False: it was not granted.
    #[inline]
    pub(crate) fn note_used(&mut self, cost: u32) -> bool {
        self.used = self.used.wrapping_add(cost);
        self.granted.wrapping_sub(self.used) <= FAR * 2
    }

    fn untold(&self, window: u32) -> u32 {
        let ahead = self.consumed.wrapping_sub(self.unsaid).wrapping_add(window).wrapping_sub(self.granted);
        // More was granted than would be now.
        if ahead > FAR * 2 { 0 } else { ahead }
    }

    /// Whether so much is untold that it should be told by itself.
    #[inline]
    pub(crate) fn is_due(&self, window: u32) -> bool {
        self.untold(window) >= window / 2
    }

    /// What to tell the peer, which is then told.
    #[inline]
    pub(crate) fn grant(&mut self, window: u32) -> u32 {
        self.granted = self.granted.wrapping_add(self.untold(window));
        self.granted
    }
}

/// A push that is not complete.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) token: Option<QToken>,
    pub(crate) state: PushState,
    pub(crate) sga: SgArray,
}

#[derive(Debug)]
pub(crate) enum PushState {
    Waiting,
    /// The device will tell.
    Flying,
    Offered(Box<Offered>),
    Done,
    Failed(Error),
}

/// Memory that the peer reads.
#[derive(Debug, Default)]
pub(crate) struct Offered {
    pub(crate) grants: ArrayVec<crate::device::Grant, MAX_SEGMENTS>,
    /// How many of them are taken back, and whether the peer has said so.
    pub(crate) revoked: usize,
    pub(crate) answered: bool,
    pub(crate) read: bool,
}

/// Something to be popped.
#[derive(Debug)]
pub(crate) enum Element {
    Whole(SgArray, u32),
    Offer(Box<Offer>),
}

/// Something to be read.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) number: u32,
    pub(crate) len: usize,
    pub(crate) segments: ArrayVec<(Remote, u32), MAX_SEGMENTS>,
    /// What was read, or is not yet; empty before it was begun.
    pub(crate) parts: ArrayVec<Part, MAX_SEGMENTS>,
    pub(crate) missing: usize,
}

#[derive(Debug)]
pub(crate) enum Part {
    /// To be read from there into this.
    Planned(Remote, demi_api::memalloc::BufMut),
    Reading,
    Read(Buf),
}

/// What posting a connection's next push came to.
pub(crate) enum Posted {
    /// There is more to post.
    More,
    /// There is not, for now.
    Last,
    /// It waits for what comes with time.
    Aside,
    NoRoom,
}

impl Conn {
    pub(crate) fn new(peer: Key, here: SocketAddr, there: SocketAddr) -> Conn {
        Conn {
            qd: None,
            opening: None,
            listener: Key::NONE,
            peer,
            name: Name::NONE,
            remote: Name::NONE,
            here,
            there,
            bound: false,
            send: Sending::default(),
            recv: Receiving::default(),
            pushes: VecDeque::new(),
            first: 0,
            next: 0,
            inbox: VecDeque::new(),
            held: 0,
            unread: 0,
            pops: VecDeque::new(),
            reads: 0,
            linger: None,
            deadline: None,
            failed: None,
            listed: false,
            grant_listed: false,
            reader_listed: false,
            refused: 0,
            stalled: false,
            blocked_said: false,
            wake: false,
            grant_said: false,
            unanswered: false,
            end_wanted: false,
            end_said: false,
            heard_end: false,
            closing: false,
            abort: false,
            said_close: false,
            heard_close: false,
            broken: false,
            deaf: false,
        }
    }

    /// Whether anything may be said on it.
    #[inline]
    pub(crate) fn speaks(&self) -> bool {
        !self.said_close && self.opening.is_none() && self.peer != Key::NONE
    }

    /// Posts the fate of all pushes at the front that have met it.
    pub(crate) fn complete(&mut self, cx: &mut Cx<'_>) {
        while let Some(Push { state, token, .. }) = self.pushes.front_mut() {
            let result = match state {
                PushState::Done => Ok(Done::Pushed(Position(0))),
                PushState::Failed(error) => Err(error.clone()),
                PushState::Waiting | PushState::Flying | PushState::Offered(_) => return,
            };
            if let Some(token) = token {
                cx.done.post(*token, result);
            }
            self.pushes.pop_front();
            self.first = self.first.wrapping_add(1);
            self.next -= 1;
        }
    }

    /// The push of a number, if it is not complete.
    pub(crate) fn push_mut(&mut self, number: u32) -> Option<&mut Push> {
        self.pushes.get_mut(number.wrapping_sub(self.first) as usize)
    }

    /// Whether all pushes are posted, and none is offered.
    pub(crate) fn is_through(&self) -> bool {
        self.pushes.iter().all(|push| !matches!(push.state, PushState::Waiting | PushState::Offered(_)))
    }

    /// How a pop ends for which there is nothing; `None`: it waits.
    pub(crate) fn end(&self) -> Option<Error> {
        if let Some(error) = &self.failed {
            return Some(error.clone());
        }
        if self.deaf {
            return Some(Error::EndOfStream);
        }
        if !self.inbox.is_empty() || !(self.heard_end || self.heard_close) {
            return None;
        }
        Some(if self.broken { Error::ConnectionReset } else { Error::EndOfStream })
    }
}

impl Element {
    pub(crate) fn len(&self) -> usize {
        match self {
            Element::Whole(sga, _) => sga.len(),
            Element::Offer(offer) => offer.len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_run_round() {
        let start = u32::MAX - 100;
        let mut send = Sending { spent: start, granted: start, most: 0 };
        let mut recv = Receiving { used: start, consumed: start, unsaid: 0, granted: start };
        assert!(recv.is_due(4096) && !send.covers(128));
        assert!(send.note_granted(recv.grant(4096)) && send.covers(4096) && !send.covers(4097));
        send.spent = send.spent.wrapping_add(4000);
        assert!(recv.note_used(4000) && !send.covers(128) && !recv.is_due(4096));
        recv.consumed = recv.consumed.wrapping_add(4000);
        assert!(recv.is_due(4096));
        // A smaller window than before is not granted until what was granted before is used up.
        assert!(!recv.is_due(64));
        assert!(send.note_granted(recv.grant(4096)) && send.covers(4096));
        assert!(!recv.note_used(4097), "more than was granted");
    }

    #[test]
    fn offers_are_granted_again_once_they_are_answered() {
        let mut recv = Receiving::default();
        recv.grant(4096);
        recv.note_used(4096);
        recv.unsaid = 4096;
        assert_eq!(recv.grant(4096), 4096);
        recv.consumed = 4096;
        assert!(!recv.is_due(4096) && recv.grant(4096) == 4096);
        recv.unsaid = 0;
        assert!(recv.is_due(4096) && recv.grant(4096) == 8192);
    }

    #[test]
    fn absurd_grants_are_none() {
        let mut send = Sending { spent: 10, granted: 100, most: 0 };
        for absurd in [100, 99, 0, u32::MAX, 1 << 31, (1 << 30) + 100] {
            assert!(!send.note_granted(absurd), "{absurd}");
        }
        assert!(send.note_granted((1 << 30) + 99));
    }
}
