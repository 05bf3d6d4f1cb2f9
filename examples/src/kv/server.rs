//! The wait loop: results in, each to its client; expired keys out.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use demi_api::{Completion, Demikernel, Done, LibOs, QDesc};

use super::Args;
use super::client::{Client, Gone, Shared};
use super::clients::Clients;
use super::info::Snapshot;
use super::log::{Journal, Log, Outcome, replay};
use super::reply::Replies;
use super::request::Request;
use super::store::{Moment, Store};
use crate::cli::{grouped, say};
use crate::net::Listener;
use crate::stop::{GRACE, Stop};

/// Serves until a signal comes, then sends what is pending and leaves.
pub(super) fn serve<L: LibOs>(demi: &Demikernel<L>, args: &Args, limit: usize) -> anyhow::Result<()> {
    let stop = Stop::on_signals(demi)?;
    let mut store = Store::new(demi.heap(), limit, args.copy_threshold);
    let mut log = None;
    if args.log.wanted() {
        let qd = crate::log::open(demi, "kv")?;
        if !replay(demi, qd, &mut store, &stop)? {
            return Ok(());
        }
        store.journal = Some(Box::new(Journal::new(demi.heap())?));
        log.insert(Log::new(qd)).look(demi, &mut store);
    }
    let listener = Listener::open(demi, &args.listen.addr())?;
    let mut server = Kv {
        shared: Shared {
            demi,
            store,
            replies: Replies::new(demi.heap(), args.copy_threshold)?,
            request: Request::default(),
            commands: 0,
            holding: VecDeque::new(),
            stalled: VecDeque::new(),
        },
        log,
        clock: Clock::new(),
        clients: Clients::default(),
        port: listener.addr().inet().map_or(0, |addr| addr.port()),
        max_clients: args.max_clients,
        accepted: 0,
    };
    say(format_args!("listening on {}", listener.addr()));
    server.run(listener, &stop)?;
    let (commands, accepted) = (grouped(server.shared.commands), grouped(server.accepted));
    say(format_args!(
        "stopped: {commands} commands of {accepted} clients, {} keys",
        server.shared.store.len()
    ));
    Ok(())
}

/// The time of day, which does not jump while the server runs.
struct Clock {
    start: Instant,
    /// In ms since 1970.
    at_start: Moment,
}

impl Clock {
    fn new() -> Clock {
        let at_start = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |passed| passed.as_millis() as Moment);
        Clock { start: Instant::now(), at_start: at_start.max(1) }
    }

    fn now(&self) -> Moment {
        self.at_start + self.start.elapsed().as_millis() as Moment
    }
}

struct Kv<'a, L: LibOs> {
    shared: Shared<'a, L>,
    log: Option<Log>,
    clock: Clock,
    clients: Clients,
    port: u16,
    max_clients: usize,
    accepted: u64,
}

impl<L: LibOs> Kv<'_, L> {
    fn run(&mut self, mut listener: Listener, stop: &Stop) -> anyhow::Result<()> {
        let demi = self.shared.demi;
        let mut results = Vec::new();
        loop {
            let log = self.log.as_ref().and_then(Log::patience);
            let timeouts = [self.shared.store.until_expiry(), listener.patience(), log];
            let go_on = stop.wait(demi, &mut results, timeouts.into_iter().flatten().min())?;
            self.shared.store.tick(self.clock.now());
            for completion in results.drain(..) {
                if !listener.owns(&completion) {
                    self.step(completion);
                } else if let Some(stream) = listener.accepted(demi, completion.result) {
                    self.accept(stream);
                }
            }
            self.end_turn();
            listener.again(demi);
            if !go_on {
                break;
            }
        }
        listener.close(demi);
        self.finish();
        Ok(())
    }

    fn accept(&mut self, stream: QDesc) {
        let demi = self.shared.demi;
        if self.clients.len() >= self.max_clients {
            if let Ok(sga) = demi.copy_from(b"-ERR max number of clients reached\r\n") {
                let _ = demi.push(stream, sga);
            }
            let _ = demi.close(stream);
            return;
        }
        self.accepted += 1;
        match Client::new(demi, stream, self.accepted) {
            Ok(client) => {
                let place = self.clients.insert(client);
                self.advance(place);
            }
            Err(error) => {
                tracing::warn!(%error, "a client was turned away");
                let _ = demi.close(stream);
            }
        }
    }

    /// Has what was changed in this turn logged, and sends what waited for the log.
    #[inline]
    fn end_turn(&mut self) {
        let demi = self.shared.demi;
        loop {
            let Some(log) = &mut self.log else { return };
            let outcome = match log.outcome() {
                None => {
                    log.turn(demi, &mut self.shared.store);
                    log.outcome()
                }
                some => some,
            };
            let Some(outcome) = outcome else { return };
            self.release(&outcome);
            self.resume();
        }
    }

    /// Lets clients go on that waited for the log to go on.
    fn resume(&mut self) {
        for _ in 0..self.shared.stalled.len() {
            if self.shared.store.is_congested() {
                return;
            }
            let Some((stream, id)) = self.shared.stalled.pop_front() else { return };
            let Some(place) = self.clients.place_of(stream) else { continue };
            if let Some(client) = self.clients.get_mut(place).filter(|client| client.id() == id) {
                client.resume();
                self.advance(place);
            }
        }
    }

    /// Sends the replies that waited for an element.
    fn release(&mut self, outcome: &Outcome) {
        while let Some((_, stream, id)) =
            self.shared.holding.front().copied().filter(|(number, ..)| *number <= outcome.number)
        {
            self.shared.holding.pop_front();
            let Some(place) = self.clients.place_of(stream) else { continue };
            let Some(client) = self.clients.get_mut(place).filter(|client| client.id() == id) else {
                continue;
            };
            if client.settled(&mut self.shared, outcome.number, &outcome.result).is_err() {
                self.close(place);
            } else if outcome.result.is_err() {
                self.advance(place);
            }
        }
    }

    #[inline]
    fn step(&mut self, completion: Completion) {
        if let Some(log) = &mut self.log
            && log.owns(&completion)
        {
            return log.completed(&mut self.shared.store, completion);
        }
        let Some(place) = self.clients.place_of(completion.qd) else { return };
        let Some(client) = self.clients.get_mut(place) else { return };
        if client.ends_push(completion.token) {
            if completion.result.is_err() {
                return self.close(place);
            }
        } else if client.ends_pop(completion.token) {
            match completion.result {
                Ok(Done::Batch(batch)) => client.received(batch),
                Ok(Done::Popped(message)) => client.received_message(message),
                Ok(_) => {}
                Err(error) => {
                    if let Err(Gone) = client.failed(&mut self.shared, &error) {
                        return self.close(place);
                    }
                }
            }
        } else {
            return;
        }
        self.advance(place);
    }

    fn advance(&mut self, place: usize) {
        let clients = self.clients.len();
        let Some(client) = self.clients.get_mut(place) else { return };
        let snapshot = Snapshot {
            demi: self.shared.demi,
            port: self.port,
            clients,
            accepted: self.accepted,
            commands: self.shared.commands,
            uptime: self.clock.start.elapsed(),
            log: self.log.as_ref(),
        };
        if client.advance(&mut self.shared, &snapshot).is_err() || client.is_finished() {
            self.close(place);
        }
    }

    fn close(&mut self, place: usize) {
        if let Some(client) = self.clients.remove(place) {
            let [stream, framed] = client.queues();
            // Closing the frame closes the stream below it.
            if self.shared.demi.close(framed).is_err() {
                let _ = self.shared.demi.close(stream);
            }
        }
    }

    /// Answers what was received, within a bound of time, and closes every connection.
    fn finish(&mut self) {
        for place in self.clients.places() {
            if let Some(client) = self.clients.get_mut(place) {
                client.leave();
            }
            self.advance(place);
        }
        self.end_turn();
        let deadline = Instant::now() + GRACE;
        let mut results = Vec::new();
        while self.clients.len() > 0 || self.log.as_ref().is_some_and(|log| !log.is_quiet()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                break;
            }
            let _ = self.shared.demi.wait_next_n(&mut results, usize::MAX, Some(left));
            results.drain(..).for_each(|completion| self.step(completion));
            self.end_turn();
        }
        for place in self.clients.places() {
            self.close(place);
        }
    }
}
