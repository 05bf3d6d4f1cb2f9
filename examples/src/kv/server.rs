//! The wait loop: results in, each to its client; expired keys out.

use std::time::{Duration, Instant};

use demi_api::{Completion, Demikernel, Done, LibOs, QDesc};

use super::Args;
use super::client::{Client, Gone, Shared};
use super::clients::Clients;
use super::info::Snapshot;
use super::reply::Replies;
use super::request::Request;
use super::store::Store;
use crate::cli::{grouped, say};
use crate::net::Listener;
use crate::stop::{GRACE, Stop};

/// Serves until a signal comes, then sends what is pending and leaves.
pub(super) fn serve<L: LibOs>(demi: &Demikernel<L>, args: &Args, limit: usize) -> anyhow::Result<()> {
    let stop = Stop::on_signals(demi)?;
    let listener = Listener::open(demi, &args.listen.addr())?;
    let mut server = Kv {
        shared: Shared {
            demi,
            store: Store::new(demi.heap(), limit, args.copy_threshold),
            replies: Replies::new(demi.heap(), args.copy_threshold)?,
            request: Request::default(),
            commands: 0,
        },
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

struct Kv<'a, L: LibOs> {
    shared: Shared<'a, L>,
    clients: Clients,
    port: u16,
    max_clients: usize,
    accepted: u64,
}

impl<L: LibOs> Kv<'_, L> {
    fn run(&mut self, mut listener: Listener, stop: &Stop) -> anyhow::Result<()> {
        let demi = self.shared.demi;
        let start = Instant::now();
        let mut results = Vec::new();
        loop {
            let timeout = [self.shared.store.until_expiry(), listener.patience()].into_iter().flatten().min();
            let go_on = stop.wait(demi, &mut results, timeout)?;
            self.shared.store.tick(start.elapsed());
            for completion in results.drain(..) {
                if !listener.owns(&completion) {
                    self.step(completion);
                } else if let Some(stream) = listener.accepted(demi, completion.result) {
                    self.accept(stream);
                }
            }
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

    #[inline]
    fn step(&mut self, completion: Completion) {
        let Some(place) = self.clients.place_of(completion.qd) else { return };
        let Some(client) = self.clients.get_mut(place) else { return };
        if client.ends_push(completion.token) {
            if completion.result.is_err() {
                return self.close(place);
            }
        } else if client.ends_pop(completion.token) {
            match completion.result {
                Ok(Done::Batch(batch)) => client.received(batch),
                Ok(Done::Popped(sga)) => client.received(vec![sga]),
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
        let deadline = Instant::now() + GRACE;
        let mut results = Vec::new();
        while self.clients.len() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                break;
            }
            let _ = self.shared.demi.wait_next_n(&mut results, usize::MAX, Some(left));
            results.drain(..).for_each(|completion| self.step(completion));
        }
        for place in self.clients.places() {
            self.close(place);
        }
    }
}
