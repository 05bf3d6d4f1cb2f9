//! Queues on regions of other instances: how they are found, and lost.
//!
//! ```text
//!            Established             fault, expelled, given up, closed and done
//!  Finding ───────────────▶ Found ──────────────────────▶ Leaving ── Gone ──▶ Lost, or no more if it was closed
//!     └──────── given up, closed ───────────────────────────▲                   ▲
//!     └──────── Refused, Gone ──────────────────────────────────────────────────┘
//! ```

use std::collections::VecDeque;
use std::net::SocketAddr;

use demi_api::error::Error;
use demi_api::libos::{Cx, OpenOptions, SeekTo};
use demi_api::op::Position;
use demi_api::slab::Key;
use demi_api::time::Instant;
use demi_api::token::QToken;

use super::hello::{self, Found};
use super::path::RegionPath;
use super::traffic::{Asked, Flying, What};
use super::{Owner, Queue, Regions, device_cx};
use crate::device::{Fault, Qp, RdmaDevice};

/// A queue on another instance's region.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) at: SocketAddr,
    pub(super) read_only: bool,
    pub(super) stage: Stage,
    pub(super) cursor: u64,
    /// What waits for the region to be found, or for room.
    pub(super) asked: VecDeque<Asked>,
    /// What is under way, and the cookie of the first.
    pub(super) flying: VecDeque<Flying>,
    pub(super) first: u64,
    /// Why it leaves, if that is known.
    pub(super) cause: Option<Error>,
    /// The end of its finding, or of its linger time.
    pub(super) deadline: Option<Instant>,
    closing: bool,
    /// It is in the list of those that wait for room.
    pub(super) starved: bool,
}

#[derive(Debug)]
pub(super) enum Stage {
    Finding(Qp),
    Found(Qp, Found),
    /// Its queue pair is being ended.
    Leaving,
    Lost(Error),
}

const FOREIGN: Error = Error::NotSupported("whoever answers there does not speak catmint");

impl Regions {
    pub(super) fn open_remote(
        &mut self,
        device: &mut dyn RdmaDevice,
        cx: &mut Cx<'_>,
        path: &RegionPath<'_>,
        at: SocketAddr,
        options: &OpenOptions,
    ) -> Result<Key, Error> {
        if path.size.is_some() || path.access.is_some() || options.truncate {
            return Err(Error::Invalid(
                "size, access and content are for the instance to say that exports it",
            ));
        }
        if at.port() == 0 || at.ip().is_unspecified() {
            return Err(Error::BadAddress);
        }
        let qp = device.connect(&device_cx(cx), at, &hello::request(path.name))?;
        let deadline = cx.now + self.limits.connect_timeout;
        let key = self.queues.insert(Queue::Remote(Box::new(Remote {
            at,
            read_only: options.read_only,
            stage: Stage::Finding(qp),
            cursor: 0,
            asked: VecDeque::new(),
            flying: VecDeque::new(),
            first: 0,
            cause: None,
            deadline: Some(deadline),
            closing: false,
            starved: false,
        })));
        self.own(qp, Owner::Queue(key));
        self.due_by(deadline);
        Ok(key)
    }

    pub(super) fn remote(&mut self, key: Key) -> Option<&mut Remote> {
        match self.queues.get_mut(key) {
            Some(Queue::Remote(remote)) => Some(remote),
            Some(Queue::Local(_)) | None => None,
        }
    }

    /// The queue of a queue pair, if it is one of this instance.
    pub(super) fn queue_of(&self, qp: Qp) -> Option<Key> {
        match self.owner(qp) {
            Owner::Queue(key) => Some(key),
            Owner::User(_) | Owner::Leaving | Owner::Nobody => None,
        }
    }

    pub(super) fn established(&mut self, device: &mut dyn RdmaDevice, cx: &mut Cx<'_>, qp: Qp, hello: &[u8]) {
        let Some(key) = self.queue_of(qp) else { return };
        let Some(remote) = self.remote(key) else { return };
        if !matches!(remote.stage, Stage::Finding(_)) {
            return;
        }
        let Some(found) = hello::parse_found(hello) else {
            return self.leave(device, cx, key, Some(FOREIGN));
        };
        remote.stage = Stage::Found(qp, found);
        if !remote.closing {
            remote.deadline = None;
        }
        self.counters.regions_found += 1;
        self.advance(device, cx, key);
    }

    pub(super) fn refused(&mut self, cx: &mut Cx<'_>, qp: Qp, hello: &[u8]) {
        let Some(key) = self.queue_of(qp) else { return };
        self.own(qp, Owner::Nobody);
        self.lost(cx, key, hello::why(hello));
    }

    pub(super) fn gone(&mut self, cx: &mut Cx<'_>, qp: Qp, why: Fault) {
        let owner = self.owner(qp);
        self.own(qp, Owner::Nobody);
        match owner {
            Owner::Nobody => {}
            Owner::User(_) | Owner::Leaving => self.user_gone(qp, owner),
            Owner::Queue(key) => {
                let Some(remote) = self.remote(key) else { return };
                let error = match remote.stage {
                    Stage::Finding(_) => unfound(why),
                    Stage::Found(..) | Stage::Leaving | Stage::Lost(_) => error_of(why),
                };
                self.lost(cx, key, error);
            }
        }
    }

    /// The queue pair of a queue is no more.
    fn lost(&mut self, cx: &mut Cx<'_>, key: Key, error: Error) {
        self.counters.regions_lost += 1;
        let Some(remote) = self.remote(key) else { return };
        let error = remote.cause.take().unwrap_or(error);
        remote.fail_all(cx, &error);
        remote.flying.clear();
        remote.deadline = None;
        remote.stage = Stage::Lost(error);
        if remote.closing {
            self.queues.remove(key);
        }
    }

    /// Ends the queue pair of a queue, for a reason that is known, or will be told.
    pub(super) fn leave(&mut self, device: &mut dyn RdmaDevice, cx: &Cx<'_>, key: Key, cause: Option<Error>) {
        let Some(remote) = self.remote(key) else { return };
        if remote.cause.is_none() {
            remote.cause = cause;
        }
        if let Stage::Finding(qp) | Stage::Found(qp, _) = remote.stage {
            remote.stage = Stage::Leaving;
            device.disconnect(&device_cx(cx), qp);
        }
    }

    /// The region was not found in time, or the linger time is over.
    pub(super) fn give_up(&mut self, device: &mut dyn RdmaDevice, cx: &mut Cx<'_>, key: Key) {
        let Some(remote) = self.remote(key) else { return };
        remote.deadline = None;
        remote.fail_all(cx, &Error::TimedOut);
        self.leave(device, cx, key, Some(Error::TimedOut));
    }

    /// Somebody has sent a message where none is sent: whoever does means no good.
    pub(crate) fn expel(&mut self, device: &mut dyn RdmaDevice, cx: &Cx<'_>, qp: Qp) {
        match self.owner(qp) {
            Owner::Queue(key) => self.leave(device, cx, key, Some(FOREIGN)),
            Owner::User(_) => device.disconnect(&device_cx(cx), qp),
            Owner::Leaving | Owner::Nobody => {}
        }
    }

    pub(super) fn close_remote(&mut self, device: &mut dyn RdmaDevice, cx: &mut Cx<'_>, key: Key) {
        let deadline = cx.now + self.limits.linger;
        let Some(remote) = self.remote(key) else { return };
        remote.closing = true;
        remote.cancel_pops(cx);
        match remote.stage {
            Stage::Lost(_) => drop(self.queues.remove(key)),
            Stage::Leaving => {}
            Stage::Finding(_) | Stage::Found(..) if remote.is_idle() => self.leave(device, cx, key, None),
            Stage::Finding(_) | Stage::Found(..) => {
                remote.deadline = Some(deadline);
                self.due_by(deadline);
            }
        }
    }

    /// A closed queue goes when all is done that was asked of it.
    pub(super) fn settle(&mut self, device: &mut dyn RdmaDevice, cx: &Cx<'_>, key: Key) {
        if self.remote(key).is_some_and(|remote| remote.closing && remote.is_idle()) {
            self.leave(device, cx, key, None);
        }
    }
}

impl Remote {
    /// Moves the cursor, in its turn.
    pub(super) fn seek(&mut self, to: SeekTo) -> Result<Position, Error> {
        let at = match (to, &self.stage) {
            (SeekTo::Position(Position(at)), _) => at,
            (SeekTo::Head, _) => 0,
            (SeekTo::End, Stage::Found(_, found)) => found.len,
            (SeekTo::End, Stage::Lost(error)) => return Err(error.clone()),
            (SeekTo::End, Stage::Finding(_) | Stage::Leaving) => {
                return Err(Error::Invalid("the region's end is not known before it is found: flush first"));
            }
        };
        match self.asked.back_mut() {
            None => self.cursor = at,
            Some(Asked { what: What::Seek(last), .. }) => *last = at,
            Some(_) => self.asked.push_back(Asked { token: None, what: What::Seek(at) }),
        }
        Ok(Position(at))
    }

    /// Takes an operation out that has not begun.
    pub(super) fn recall(&mut self, token: QToken) -> Result<(), Error> {
        let place = self.asked.iter().position(|asked| asked.token == Some(token));
        self.asked.remove(place.ok_or(Error::NotCancellable)?);
        Ok(())
    }

    fn cancel_pops(&mut self, cx: &mut Cx<'_>) {
        for flying in &mut self.flying {
            if flying.is_pop()
                && let Some(token) = flying.token.take()
            {
                cx.done.post(token, Err(Error::Cancelled));
            }
        }
        for asked in &mut self.asked {
            if matches!(asked.what, What::Pop(_))
                && let Some(token) = asked.token.take()
            {
                cx.done.post(token, Err(Error::Cancelled));
            }
        }
    }

    /// Nobody waits for anything.
    fn is_idle(&self) -> bool {
        self.flying.iter().all(|flying| flying.token.is_none())
            && self.asked.iter().all(|asked| asked.token.is_none())
    }

    /// Everything that was asked has failed, but for what is done already.
    fn fail_all(&mut self, cx: &mut Cx<'_>, error: &Error) {
        for flying in &mut self.flying {
            if let Some(token) = flying.token.take() {
                cx.done.post(token, flying.outcome.take().unwrap_or_else(|| Err(error.clone())));
            }
        }
        for token in self.asked.drain(..).filter_map(|asked| asked.token) {
            cx.done.post(token, Err(error.clone()));
        }
    }
}

/// Why a region was not found.
fn unfound(why: Fault) -> Error {
    match why {
        Fault::Unreachable | Fault::Down => Error::Unreachable,
        Fault::Timeout => Error::TimedOut,
        _ => Error::ConnectionRefused,
    }
}

/// What the end of a queue pair says about the region.
pub(super) fn error_of(why: Fault) -> Error {
    match why {
        Fault::Disconnected | Fault::RemoteAccess => Error::Revoked,
        Fault::Flushed | Fault::Timeout | Fault::NotReady | Fault::Unreachable | Fault::Down => {
            Error::ConnectionReset
        }
        Fault::RemoteOperation | Fault::Local | Fault::TooLong => Error::Io,
    }
}
