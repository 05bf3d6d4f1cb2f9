//! `relay`: UDP datagrams of clients go to a server, its replies go back to the client they are for.
//!
//! As in the relay of the SOSP'21 evaluation a datagram is never copied: the array that was popped is pushed. Each
//! client has a socket of its own towards the server, so that replies need no address in them. The table of clients
//! is bounded; the one that has been silent for longest gives way.

mod flows;

use demi_api::{Addr, Completion, Demikernel, Done, Error, LibOs, QDesc, QToken, SgArray, SocketKind};

use self::flows::{Flow, Flows};
use crate::cli::{Arguments, Common, grouped, say};
use crate::net::{self, Endpoint};
use crate::stop::Stop;

/// Pushes under way before datagrams are dropped, as a network would.
const MOST_PENDING: usize = 1024;

/// Relay datagrams.
#[derive(Debug, clap::Parser)]
#[command(
    version,
    about = "UDP relay: what clients send goes to a server, its replies come back",
    after_help = "Examples:\n  \
        {bin} --listen 127.0.0.1:9000 --forward 127.0.0.1:9001\n  \
        {bin} --listen '[::1]:9000' --forward 127.0.0.1:9001 --clients 64"
)]
pub struct Args {
    /// Where clients send to: IP:PORT or [IPv6]:PORT; port 0 picks a free one
    #[arg(long, value_name = "ADDR")]
    listen: Endpoint,
    /// The server
    #[arg(long, value_name = "ADDR")]
    forward: Endpoint,
    /// Most clients at a time
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    clients: u32,
    #[command(flatten)]
    common: Common,
}

impl Arguments for Args {
    fn common(&self) -> &Common {
        &self.common
    }
}

/// Relays until a signal comes.
pub fn run<L: LibOs>(demi: &Demikernel<L>, args: Args) -> anyhow::Result<()> {
    let stop = Stop::on_signals(demi)?;
    let listen = net::bind_datagram(demi, &args.listen.addr())?;
    let mut relay = Relay {
        demi,
        listen,
        pop: demi.pop(listen)?,
        forward: args.forward.addr(),
        flows: Flows::new(args.clients as usize),
        pending: 0,
        counts: Counts::default(),
    };
    say(format_args!("listening on {}", demi.local_addr(listen)?));
    let mut results = Vec::new();
    while stop.wait(demi, &mut results, None)? {
        for completion in results.drain(..) {
            relay.step(completion)?;
        }
    }
    let Counts { forwarded, returned, dropped, clients } = relay.counts;
    let (forwarded, returned, dropped) = (grouped(forwarded), grouped(returned), grouped(dropped));
    say(format_args!(
        "stopped: {forwarded} forwarded, {returned} returned, {dropped} dropped; {clients} clients"
    ));
    Ok(())
}

struct Relay<'a, L: LibOs> {
    demi: &'a Demikernel<L>,
    listen: QDesc,
    pop: QToken,
    forward: Addr,
    flows: Flows,
    /// Pushes under way.
    pending: usize,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    forwarded: u64,
    returned: u64,
    dropped: u64,
    clients: u64,
}

impl<L: LibOs> Relay<'_, L> {
    #[inline]
    fn step(&mut self, Completion { token, qd, result }: Completion) -> Result<(), Error> {
        if let Ok(Done::Pushed(_)) = result {
            self.pending -= 1;
            return Ok(());
        }
        if token == self.pop {
            if let Ok(Done::Popped(sga)) = result {
                self.forward_on(sga);
            }
            self.pop = self.demi.pop(self.listen)?;
        } else if let Some(place) =
            self.flows.place_of(qd).filter(|place| self.flows.get(*place).pop == token)
        {
            if let Ok(Done::Popped(sga)) = result {
                self.send_back(sga, place);
            }
            self.flows.get_mut(place).pop = self.demi.pop(qd)?;
        } else if !matches!(result, Ok(Done::Popped(_)) | Err(Error::Cancelled)) {
            // A push that failed: nobody listens there, for instance.
            self.pending -= 1;
            self.counts.dropped += 1;
        }
        Ok(())
    }

    fn forward_on(&mut self, sga: SgArray) {
        let Some(client) = sga.peer() else { return };
        let place = match self.flows.find(&client) {
            Some(place) => place,
            None => match self.open(client) {
                Ok(place) => place,
                Err(error) => {
                    tracing::warn!(%error, "a client was turned away");
                    self.counts.dropped += 1;
                    return;
                }
            },
        };
        let upstream = self.flows.get(place).upstream;
        if self.has_room() && self.demi.push(upstream, sga).is_ok() {
            self.pending += 1;
            self.counts.forwarded += 1;
        } else {
            self.counts.dropped += 1;
        }
    }

    fn send_back(&mut self, sga: SgArray, place: usize) {
        let client = self.flows.get(place).client.clone();
        if self.has_room() && self.demi.push_to(self.listen, sga, client).is_ok() {
            self.pending += 1;
            self.counts.returned += 1;
        } else {
            self.counts.dropped += 1;
        }
    }

    fn has_room(&self) -> bool {
        self.pending < MOST_PENDING
    }

    /// A new client, in place of the one silent for longest if there are too many.
    fn open(&mut self, client: Addr) -> Result<usize, Error> {
        if self.flows.is_full()
            && let Some(old) = self.flows.remove_oldest()
        {
            tracing::debug!(client = %old.client, "gave way");
            self.demi.close(old.upstream)?;
        }
        let upstream = self.demi.socket((&self.forward).into(), SocketKind::Datagram)?;
        let connected = || {
            let connect = self.demi.connect(upstream, self.forward.clone())?;
            self.demi.wait(connect, None)?.result?;
            self.demi.pop(upstream)
        };
        match connected() {
            Ok(pop) => {
                tracing::debug!(%client, "new client");
                self.counts.clients += 1;
                Ok(self.flows.insert(Flow { client, upstream, pop, used: 0 }))
            }
            Err(error) => {
                self.demi.close(upstream)?;
                Err(error)
            }
        }
    }
}
