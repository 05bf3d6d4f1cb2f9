//! One connection.
//!
//! Invariant: what a client can make the server hold is bounded. Requests are popped only when all earlier ones are
//! executed, and executed only while fewer than [`MOST_UNSENT`] bytes of replies wait to be sent. So a client that
//! does not read stops being read from.
//!
//! With a log, replies that tell of changes which are not durable are held, and those behind them too; the client is
//! read from meanwhile.
//!
//! On a stream requests are framed, and replies are bytes. Where the connection carries messages, one is popped at a time and its
//! requests are executed from first to last; each message that goes back holds whole replies.

use std::collections::VecDeque;

use demi_api::graph::frame::Codec;
use demi_api::{Demikernel, Error, LibOs, QDesc, QToken, QueueKind, SgArray};

use super::command::{Context, Flow, Session, execute};
use super::info::Server;
use super::log::Refusal;
use super::message::Message;
use super::reply::Replies;
use super::request::Request;
use super::store::Store;

/// Bytes of replies that may wait to be sent before no further request is executed.
const MOST_UNSENT: usize = 256 << 10;

/// Replies are pushed when there are this many bytes, although more requests wait.
const GATHER: usize = 64 << 10;

/// Requests that one pop takes at the most.
const BATCH: usize = 64;

/// Bytes of the longest reply to one request for many keys that goes into a message.
const LONGEST_MESSAGE: usize = 16 << 20;

/// What all clients share.
pub(super) struct Shared<'a, L: LibOs> {
    pub(super) demi: &'a Demikernel<L>,
    pub(super) store: Store,
    pub(super) replies: Replies,
    pub(super) request: Request,
    pub(super) commands: u64,
    /// Clients with replies that are held: until which element of the log is settled, and who. In the order of elements.
    pub(super) holding: VecDeque<(u64, QDesc, u64)>,
    /// Clients with requests that wait because too much is on its way to the log.
    pub(super) stalled: VecDeque<(QDesc, u64)>,
}

/// A connection and what is under way on it.
pub(super) struct Client {
    stream: QDesc,
    /// Yields whole requests, or messages of them: then it is the connection itself.
    framed: QDesc,
    carries: QueueKind,
    /// What is left of the message that was popped last.
    message: Option<Message>,
    pop: Option<QToken>,
    /// Pushes in the order in which they will complete, with their bytes.
    pushes: VecDeque<(QToken, usize)>,
    /// Bytes in pushes, and in replies that are held.
    unsent: usize,
    held: VecDeque<Held>,
    /// It is in the list of those that wait for the log to go on.
    stalled: bool,
    /// Replies written since the last that were sent or held.
    answered: u32,
    /// One of them is only a part of a reply.
    cut: bool,
    /// What was popped last; the first `executed` of these requests are empty by now.
    requests: Vec<SgArray>,
    executed: usize,
    /// The argument from which the next of them is to go on.
    resume: usize,
    /// There will be no further request: close when all replies are sent.
    leaving: bool,
    session: Session,
}

/// Replies that wait for the log.
struct Held {
    number: u64,
    array: SgArray,
    /// How many begin here.
    replies: u32,
    /// There are parts of a reply among them.
    cut: bool,
}

/// A client must be closed at once.
#[derive(Debug)]
pub(super) struct Gone;

impl Client {
    /// A client on a new connection; nothing is asked of it yet.
    pub(super) fn new<L: LibOs>(demi: &Demikernel<L>, stream: QDesc, id: u64) -> Result<Client, Error> {
        let carries = demi.kind(stream)?;
        let framed = match carries {
            QueueKind::Stream => demi.frame(stream, Codec::Resp)?,
            QueueKind::Message => stream,
        };
        Ok(Client {
            stream,
            framed,
            carries,
            message: None,
            pop: None,
            pushes: VecDeque::new(),
            unsent: 0,
            held: VecDeque::new(),
            stalled: false,
            answered: 0,
            cut: false,
            requests: Vec::new(),
            executed: 0,
            resume: 0,
            leaving: false,
            session: Session { id, name: Vec::new() },
        })
    }

    pub(super) fn queues(&self) -> [QDesc; 2] {
        [self.stream, self.framed]
    }

    /// Whether all is done that there was to do.
    pub(super) fn is_finished(&self) -> bool {
        let is_asked = !self.requests.is_empty() || self.message.is_some();
        self.leaving && !is_asked && self.pushes.is_empty() && self.held.is_empty()
    }

    /// Its number among all clients that there were.
    pub(super) fn id(&self) -> u64 {
        self.session.id
    }

    /// No request after those that are here.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether the token is that of the outstanding pop; it is not outstanding any more then.
    #[inline]
    pub(super) fn ends_pop(&mut self, token: QToken) -> bool {
        let is_pop = self.pop == Some(token);
        if is_pop {
            self.pop = None;
        }
        is_pop
    }

    /// Takes note of a finished push; false if it is none of this client's.
    #[inline]
    pub(super) fn ends_push(&mut self, token: QToken) -> bool {
        match self.pushes.front() {
            Some((first, bytes)) if *first == token => {
                self.unsent -= bytes;
                self.pushes.pop_front();
                true
            }
            _ => false,
        }
    }

    /// Takes in what a pop has yielded.
    pub(super) fn received(&mut self, batch: Vec<SgArray>) {
        debug_assert!(self.requests.is_empty(), "there is no pop while requests wait");
        self.requests = batch;
        self.executed = 0;
    }

    /// Takes in a message.
    pub(super) fn received_message(&mut self, array: SgArray) {
        self.message = Some(Message::new(array));
    }

    /// Takes the next requests out of the message, if all that are here are executed; whether there are any.
    fn refill<L: LibOs>(&mut self, shared: &mut Shared<'_, L>) -> Result<bool, Gone> {
        let Some(message) = self.message.as_mut().filter(|_| self.requests.is_empty()) else {
            return Ok(false);
        };
        self.executed = 0;
        while self.requests.len() < BATCH {
            match message.next() {
                Ok(Some(request)) => self.requests.push(request),
                Ok(None) => {
                    self.message = None;
                    break;
                }
                // What stands before it is executed first.
                Err(_) if !self.requests.is_empty() => break,
                Err(error) => {
                    self.message = None;
                    self.failed(shared, &error)?;
                    break;
                }
            }
        }
        Ok(!self.requests.is_empty())
    }

    /// The pop has failed: the peer is gone, or what it sends is no request.
    pub(super) fn failed<L: LibOs>(&mut self, shared: &mut Shared<'_, L>, error: &Error) -> Result<(), Gone> {
        tracing::debug!(client = self.session.id, %error, "no further request");
        self.leaving = true;
        match error {
            Error::BadFrame(why) => self.complain(shared, why.strip_prefix("RESP: ").unwrap_or(why)),
            Error::TooLarge { .. } => self.complain(shared, "invalid bulk length"),
            // It may still read: what was asked is answered.
            Error::EndOfStream | Error::Truncated => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Executes what may be executed, sends the replies, and asks for more when all is executed.
    pub(super) fn advance<L: LibOs>(
        &mut self,
        shared: &mut Shared<'_, L>,
        server: &dyn Server,
    ) -> Result<(), Gone> {
        loop {
            self.execute_all(shared, server)?;
            if self.executed >= self.requests.len() {
                self.requests.clear();
            }
            if self.unsent >= MOST_UNSENT || self.stalled || !self.refill(shared)? {
                break;
            }
        }
        shared.request.clear();
        self.send(shared)?;
        let is_idle = self.pop.is_none() && self.requests.is_empty() && self.message.is_none();
        if is_idle && !self.leaving && self.unsent < MOST_UNSENT {
            let pop = match self.carries {
                QueueKind::Stream => shared.demi.pop_n(self.framed, BATCH),
                QueueKind::Message => shared.demi.pop(self.framed),
            };
            self.pop = Some(pop.map_err(|_| Gone)?);
        }
        Ok(())
    }

    /// Executes the requests that are here, as far as may be.
    fn execute_all<L: LibOs>(&mut self, shared: &mut Shared<'_, L>, server: &dyn Server) -> Result<(), Gone> {
        while self.unsent < MOST_UNSENT
            && let Some(message) = self.requests.get_mut(self.executed)
        {
            if shared.store.is_congested() {
                self.stall(shared);
                break;
            }
            if let Err(why) = shared.request.read(shared.demi.heap(), message) {
                self.leave_early();
                self.complain(shared, &why.to_string())?;
                break;
            }
            self.executed += 1;
            if shared.request.len() > 0 && !self.execute(shared, server)? {
                self.leave_early();
                break;
            }
        }
        Ok(())
    }

    #[cold]
    fn stall<L: LibOs>(&mut self, shared: &mut Shared<'_, L>) {
        if !std::mem::replace(&mut self.stalled, true) {
            shared.stalled.push_back((self.stream, self.session.id));
        }
    }

    /// It may go on.
    pub(super) fn resume(&mut self) {
        self.stalled = false;
    }

    /// Executes no request any more, not even of those that are here.
    fn leave_early(&mut self) {
        self.requests.clear();
        self.message = None;
        self.leaving = true;
    }

    /// Executes the request that was just read; false if it is the last.
    fn execute<L: LibOs>(&mut self, shared: &mut Shared<'_, L>, server: &dyn Server) -> Result<bool, Gone> {
        let mut context = Context {
            store: &mut shared.store,
            out: &mut shared.replies,
            server,
            session: &mut self.session,
            enough: match self.carries {
                QueueKind::Stream => GATHER,
                QueueKind::Message => LONGEST_MESSAGE,
            },
        };
        let from = std::mem::take(&mut self.resume);
        let flow = execute(&mut context, &shared.request, from);
        self.answered += u32::from(!matches!(flow, Flow::More(_)));
        self.cut |= from > 0 || matches!(flow, Flow::More(_));
        if shared.replies.bytes() >= GATHER {
            self.send(shared)?;
        }
        match flow {
            Flow::Done => shared.commands += 1,
            // Half a reply is no message.
            Flow::More(_) if self.carries == QueueKind::Message => return Err(Gone),
            Flow::More(from) => {
                self.executed -= 1;
                self.requests[self.executed] = shared.request.bytes().into();
                self.resume = from;
            }
            Flow::Close => return Ok(false),
        }
        Ok(true)
    }

    /// Pushes what was written for this client, unless it must wait for the log.
    fn send<L: LibOs>(&mut self, shared: &mut Shared<'_, L>) -> Result<(), Gone> {
        if let Some(number) = shared.store.pending() {
            self.hold(shared, number);
            return if shared.replies.take_starved() { Err(Gone) } else { Ok(()) };
        }
        (self.answered, self.cut) = (0, false);
        self.push_all(shared)
    }

    /// Pushes what was written: on a stream in as many arrays as it takes, else as one message.
    fn push_all<L: LibOs>(&mut self, shared: &mut Shared<'_, L>) -> Result<(), Gone> {
        if self.carries == QueueKind::Message {
            shared.replies.join();
        }
        let mut sent = Ok(());
        for array in shared.replies.take() {
            sent = sent.and(self.push(shared.demi, array));
        }
        if shared.replies.take_starved() { Err(Gone) } else { sent }
    }

    /// Past the frame, which adds nothing to replies.
    fn push<L: LibOs>(&mut self, demi: &Demikernel<L>, array: SgArray) -> Result<(), Gone> {
        let bytes = array.len();
        let token = demi.push(self.stream, array).map_err(|_| Gone)?;
        self.unsent += bytes;
        self.pushes.push_back((token, bytes));
        Ok(())
    }

    fn hold<L: LibOs>(&mut self, shared: &mut Shared<'_, L>, number: u64) {
        let is_known = self.held.back().is_some_and(|held| held.number == number);
        let before = self.held.len();
        if self.carries == QueueKind::Message {
            shared.replies.join();
        }
        for array in shared.replies.take() {
            self.unsent += array.len();
            let (replies, cut) = (std::mem::take(&mut self.answered), self.cut);
            self.held.push_back(Held { number, array, replies, cut });
        }
        self.cut = false;
        if !is_known && self.held.len() > before {
            shared.holding.push_back((number, self.stream, self.session.id));
        }
    }

    /// An element of the log has met its fate: what waited for it is sent. If it has failed, errors are, one for each reply.
    pub(super) fn settled<L: LibOs>(
        &mut self,
        shared: &mut Shared<'_, L>,
        number: u64,
        result: &Result<(), Refusal>,
    ) -> Result<(), Gone> {
        while self.held.front().is_some_and(|held| held.number <= number)
            && let Some(Held { array, replies, cut, .. }) = self.held.pop_front()
        {
            self.unsent -= array.len();
            match result {
                Ok(()) => self.push(shared.demi, array)?,
                // What has begun as a reply cannot become an error.
                Err(_) if cut => return Err(Gone),
                Err(why) => (0..replies).for_each(|_| shared.replies.error(&why.text())),
            }
        }
        self.push_all(shared)
    }

    fn complain<L: LibOs>(&mut self, shared: &mut Shared<'_, L>, why: &str) -> Result<(), Gone> {
        shared.replies.error(&format!("ERR Protocol error: {why}"));
        self.answered += 1;
        self.send(shared)
    }
}
