//! The server: one test after the other; whoever comes during one is told so.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use demi_api::aio::Operation;
use demi_api::{Demikernel, Error, LibOs, QDesc, SocketOption};
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use super::flow::{self, Flows};
use super::params::{Params, Results};
use super::wire::{Code, Conn, Cookie, Fault, LONGEST_PARAMETERS, LONGEST_RESULTS, PATIENCE, State};
use super::{Args, Progress, report};
use crate::cli::say;
use crate::net::Listener;

/// Connections whose cookie is awaited, beyond those that a test has room for.
const MOST_GREETINGS: usize = 32;

/// The longest test, where its client does not say how long it is.
const LONGEST: Duration = Duration::from_secs(86_400);

/// How long the last bytes of a test may take, once its client has said that it has sent them.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Runs tests for whoever comes.
pub(super) async fn run<L: LibOs + 'static>(
    demi: &Demikernel<L>,
    args: &Args,
    progress: &Progress,
) -> anyhow::Result<()> {
    let listener = Listener::open(demi, &args.listen.into())?;
    say(format_args!("listening on {}", listener.addr()));
    let mut door = Door { demi, listener, accept: None };
    loop {
        let mut control = Conn::new(demi, door.next().await?);
        progress.control.set(Some(control.qd));
        let outcome = test(demi, args, &mut door, &mut control).await;
        progress.control.set(None);
        match outcome {
            Ok(()) => progress.done.set(progress.done.get() + 1),
            Err(fault) => {
                tracing::warn!("a test has failed: {fault}");
                control.refuse(&fault).await;
            }
        }
        if args.one_off {
            door.listener.close(demi);
            return Ok(());
        }
    }
}

/// Where connections come in.
struct Door<'a, L: LibOs> {
    demi: &'a Demikernel<L>,
    listener: Listener,
    /// It outlives whoever waits for it, so that no connection is lost.
    accept: Option<Operation<L>>,
}

impl<L: LibOs + 'static> Door<'_, L> {
    async fn next(&mut self) -> Result<QDesc, Error> {
        loop {
            while let Some(patience) = self.listener.again(self.demi) {
                self.demi.sleep_async(patience).await;
            }
            let accept = match (&mut self.accept, self.listener.token()) {
                (Some(accept), _) => accept,
                (none, Some(token)) => none.insert(self.demi.operation(token)?),
                (None, None) => continue,
            };
            let completion = accept.await;
            self.accept = None;
            if let Some(qd) = self.listener.accepted(self.demi, completion?.result) {
                return Ok(qd);
            }
        }
    }

    /// Turns away whoever comes while `test` goes on.
    async fn shut<T>(&mut self, test: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let busy = async {
            loop {
                match self.next().await {
                    Ok(qd) => drop(Conn::new(self.demi, qd).send_state(State::AccessDenied)),
                    Err(error) => {
                        tracing::debug!("nobody can be turned away: {error}");
                        self.demi.sleep_async(PATIENCE).await;
                    }
                }
            }
        };
        match select(pin!(test), pin!(busy)).await {
            Either::Left((result, _)) => result,
            Either::Right((never, _)) => never,
        }
    }
}

/// One test, from its cookie to its end.
async fn test<L: LibOs + 'static>(
    demi: &Demikernel<L>,
    args: &Args,
    door: &mut Door<'_, L>,
    control: &mut Conn<L>,
) -> Result<(), Fault> {
    let greeting = async {
        let cookie = control.cookie().await?;
        control.send_state(State::ParamExchange)?;
        let params = Params::parse(&control.json(LONGEST_PARAMETERS, Code::Parameters).await?)?;
        Ok((cookie, params))
    };
    let (cookie, params) = door.shut(greeting).await?;
    control.send_state(State::CreateStreams)?;
    let conns = streams(demi, door, control, &cookie, &params).await?;
    let flows = Flows::new(demi, conns, &params, params.reverse).map_err(Fault::of(Code::Stream))?;
    let (ours, theirs) = door.shut(measure(demi, control, &params, flows)).await?;
    let (sent, received) = if params.reverse { (ours, theirs) } else { (theirs, ours) };
    report::tell(args.json, &params, &cookie, &sent, &received);
    // All is done: one that does not say so has gone.
    if let Err(fault) = door.shut(control.expect(State::IperfDone, PATIENCE)).await {
        tracing::debug!("after the test: {fault}");
    }
    Ok(())
}

/// Waits for the streams of a test. Whoever brings another cookie is turned away, whoever brings none is let go of with
/// the test's beginning.
async fn streams<L: LibOs + 'static>(
    demi: &Demikernel<L>,
    door: &mut Door<'_, L>,
    control: &mut Conn<L>,
    cookie: &Cookie,
    params: &Params,
) -> Result<Vec<Conn<L>>, Fault> {
    let (mut greetings, mut come) = (FuturesUnordered::new(), 0);
    let mut conns: Vec<(usize, Conn<L>)> = Vec::with_capacity(params.streams);
    let mut too_late = pin!(demi.sleep_async(PATIENCE).fuse());
    let mut said = pin!(control.state().fuse());
    while conns.len() < params.streams {
        futures::select_biased! {
            () = too_late => return Err(Fault::new(Code::Idle, "not all streams were connected")),
            state = said => {
                return Err(Fault::new(Code::Message, format!("{:?} came instead of streams", state?)));
            }
            (place, conn, found) = greetings.select_next_some() => match found {
                Ok(found) if found == *cookie => conns.push((place, conn)),
                _ => drop(conn.send_state(State::AccessDenied)),
            },
            qd = door.next().fuse() => {
                let mut conn = Conn::new(demi, qd.map_err(Fault::of(Code::Stream))?);
                // Its drop closes one that there is no room for.
                if greetings.len() < params.streams + MOST_GREETINGS {
                    if let Some(bytes) = params.window {
                        widen(demi, conn.qd, bytes)?;
                    }
                    let place = come;
                    come += 1;
                    greetings.push(async move {
                        let found = conn.cookie().await;
                        (place, conn, found)
                    });
                }
            }
        }
    }
    // They are numbered in the order in which they came, on both sides.
    conns.sort_unstable_by_key(|(place, _)| *place);
    Ok(conns.into_iter().map(|(_, conn)| conn).collect())
}

fn widen<L: LibOs + 'static>(demi: &Demikernel<L>, qd: QDesc, bytes: usize) -> Result<(), Fault> {
    let set = |option| demi.set_option(qd, option);
    let done = set(SocketOption::SendBuffer(bytes)).and_then(|()| set(SocketOption::RecvBuffer(bytes)));
    done.map_err(Fault::of(Code::BufferSize))
}

/// The bytes of a test, and the exchange of its results: ours and the client's.
async fn measure<L: LibOs + 'static>(
    demi: &Demikernel<L>,
    control: &mut Conn<L>,
    params: &Params,
    flows: Flows<L>,
) -> Result<(Results, Results), Fault> {
    control.send_state(State::TestStart)?;
    control.send_state(State::TestRunning)?;
    let time = if params.time.is_zero() { LONGEST } else { params.time };
    let mut theirs = None;
    {
        let mut moving = pin!(flows.run().fuse());
        {
            let mut idle = pin!(flows.idle().fuse());
            let mut end = pin!(control.expect(State::TestEnd, time + PATIENCE).fuse());
            loop {
                futures::select_biased! {
                    end = end => break end?,
                    () = idle => return Err(Fault::new(Code::Idle, "the streams stand still")),
                    moved = moving => moved?,
                }
            }
        }
        flows.stop();
        if params.reverse {
            flow::finish(demi, moving.as_mut()).await?;
        } else {
            // What the client has sent is known before it is told what has come, so that this can still come.
            let results = theirs.insert(exchange(control, params).await?);
            futures::select_biased! {
                _ = moving => {}
                () = pin!(flows.caught_up(results).fuse()) => {}
                () = pin!(demi.sleep_async(CATCH_UP).fuse()) => {}
            }
        }
    }
    let ours = flows.results();
    // A client that receives goes on until its streams end.
    drop(flows);
    let theirs = match theirs {
        Some(theirs) => theirs,
        None => exchange(control, params).await?,
    };
    control.send_json(&ours.to_json(params.reverse))?;
    control.send_state(State::DisplayResults)?;
    Ok((ours, theirs))
}

/// What the client says of the test.
async fn exchange<L: LibOs + 'static>(control: &mut Conn<L>, params: &Params) -> Result<Results, Fault> {
    control.send_state(State::ExchangeResults)?;
    Results::parse(&control.json(LONGEST_RESULTS, Code::Results).await?, params.streams)
}
