//! The wait loop: results in, each to its connection.

use demi_api::{Completion, Demikernel, Done, Error, LibOs, QDesc};

use super::Args;
use super::client::Client;
use super::content::Content;
use crate::cli::{grouped, say};
use crate::net::Listener;
use crate::stop::Stop;

/// Serves until a signal comes.
pub(super) fn serve<L: LibOs>(demi: &Demikernel<L>, args: &Args, content: &Content) -> anyhow::Result<()> {
    let stop = Stop::on_signals(demi)?;
    let mut listener = Listener::open(demi, &args.listen.addr())?;
    say(format_args!("listening on {}", listener.addr()));
    let mut server = Server {
        demi,
        content,
        clients: Vec::new(),
        open: 0,
        most: args.max_clients,
        accepted: 0,
        answered: 0,
    };
    let mut results = Vec::new();
    while stop.wait(demi, &mut results, listener.patience())? {
        for completion in results.drain(..) {
            if !listener.owns(&completion) {
                server.step(completion);
            } else if let Some(qd) = listener.accepted(demi, completion.result) {
                server.accept(qd);
            }
        }
        listener.again(demi);
    }
    listener.close(demi);
    say(format_args!(
        "stopped: {} requests of {} clients answered",
        grouped(server.answered),
        grouped(server.accepted)
    ));
    Ok(())
}

struct Server<'a, L: LibOs> {
    demi: &'a Demikernel<L>,
    content: &'a Content,
    /// By the number of the descriptor. It may name a new connection while a result of the old one is still to come, so
    /// a client looks at tokens.
    clients: Vec<Option<Client<'a>>>,
    open: usize,
    most: usize,
    accepted: u64,
    answered: u64,
}

impl<L: LibOs> Server<'_, L> {
    fn accept(&mut self, qd: QDesc) {
        if self.open >= self.most {
            if let Ok(sga) =
                self.demi.copy_from(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
            {
                let _ = self.demi.push(qd, sga);
            }
            let _ = self.demi.close(qd);
            return;
        }
        match Client::new(self.demi, qd) {
            Ok(client) => {
                let place = qd.raw() as usize;
                if self.clients.len() <= place {
                    self.clients.resize_with((place + 1).next_power_of_two(), || None);
                }
                self.clients[place] = Some(client);
                self.open += 1;
                self.accepted += 1;
            }
            Err(error) => {
                tracing::warn!(%error, "a client was turned away");
                let _ = self.demi.close(qd);
            }
        }
    }

    fn step(&mut self, Completion { token, qd, result }: Completion) {
        let Some(client) = self.clients.get_mut(qd.raw() as usize).and_then(Option::as_mut) else { return };
        let is_pop = client.ends_pop(token);
        if !is_pop && !client.ends_push(token) {
            return;
        }
        let outcome = match result {
            Ok(Done::Popped(sga)) => {
                client.received(sga);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        let outcome = outcome.and_then(|()| client.advance(self.demi, self.content, &mut self.answered));
        match outcome {
            Ok(()) if !client.is_finished() => {}
            Ok(()) => self.close(qd, &Error::EndOfStream),
            Err(error) => self.close(qd, &error),
        }
    }

    fn close(&mut self, qd: QDesc, why: &Error) {
        tracing::debug!(%qd, %why, "closed");
        self.clients[qd.raw() as usize] = None;
        self.open -= 1;
        let _ = self.demi.close(qd);
    }
}
