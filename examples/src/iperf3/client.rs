//! The client: one test with a server, which leads through it.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::anyhow;
use demi_api::{Addr, Demikernel, LibOs, SocketKind};
use futures::FutureExt;

use super::flow::{self, Flows};
use super::params::{Params, Results};
use super::wire::{COOKIE, Code, Conn, Cookie, Fault, LONGEST_RESULTS, PATIENCE, State, within};
use super::{Args, Progress, report};
use crate::net;

/// What cookies are made of.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// How long the server may take to close, once all is done.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs one test.
pub(super) async fn run<L: LibOs + 'static>(
    demi: &Demikernel<L>,
    args: &Args,
    addr: SocketAddr,
    progress: &Progress,
) -> anyhow::Result<()> {
    let addr = Addr::from(addr);
    let params = Params {
        streams: args.parallel as usize,
        reverse: args.reverse,
        len: args.length as usize,
        bytes: args.bytes.unwrap_or(0),
        time: if args.bytes.is_some() { Duration::ZERO } else { Duration::from_secs(args.time) },
        window: None,
    };
    let cookie = cookie();
    let mut control = Conn::new(demi, net::connect(demi, &addr, SocketKind::Stream)?);
    progress.control.set(Some(control.qd));
    let outcome = test(demi, &params, &addr, &cookie, &mut control).await;
    progress.control.set(None);
    match outcome {
        Ok((sent, received)) => report::tell(args.json, &params, &cookie, &sent, &received),
        Err(fault) => {
            let _ = control.send_state(State::ClientTerminate);
            return Err(anyhow!("no test with {addr}: {fault}"));
        }
    }
    // Done is done, whatever it says.
    let _ = within(demi, FAREWELL, control.take(1)).await;
    Ok(())
}

/// What was sent and what was received.
async fn test<L: LibOs + 'static>(
    demi: &Demikernel<L>,
    params: &Params,
    addr: &Addr,
    cookie: &Cookie,
    control: &mut Conn<L>,
) -> Result<(Results, Results), Fault> {
    control.send(cookie).map_err(Fault::of(Code::Closed))?;
    control.expect(State::ParamExchange, PATIENCE).await?;
    control.send_json(&params.to_json())?;
    control.expect(State::CreateStreams, PATIENCE).await?;
    let mut conns = Vec::with_capacity(params.streams);
    for _ in 0..params.streams {
        let qd = net::connect(demi, addr, SocketKind::Stream).map_err(Fault::of(Code::Stream))?;
        let conn = Conn::new(demi, qd);
        conn.send(cookie).map_err(Fault::of(Code::Stream))?;
        conns.push(conn);
    }
    control.expect(State::TestStart, PATIENCE).await?;
    control.expect(State::TestRunning, PATIENCE).await?;
    let flows = Flows::new(demi, conns, params, !params.reverse).map_err(Fault::of(Code::Stream))?;
    {
        let mut moving = pin!(flows.run().fuse());
        {
            let over = async {
                match params.bytes {
                    0 => demi.sleep_async(params.time).await,
                    bytes => flows.moved(bytes).await,
                }
            };
            let (mut over, mut idle) = (pin!(over.fuse()), pin!(flows.idle().fuse()));
            let mut said = pin!(control.state().fuse());
            futures::select_biased! {
                state = said => {
                    return Err(Fault::new(Code::Message, format!("{:?} came during the test", state?)));
                }
                moved = moving => moved?,
                () = over => {}
                () = idle => return Err(Fault::new(Code::Idle, "the streams stand still")),
            }
        }
        flows.stop();
        if !params.reverse {
            flow::finish(demi, moving.as_mut()).await?;
        }
        control.send_state(State::TestEnd)?;
        control.expect(State::ExchangeResults, PATIENCE + PATIENCE).await?;
        // A server that sends closes its streams behind the last byte.
        flow::finish(demi, moving.as_mut()).await?;
    }
    let ours = flows.results();
    control.send_json(&ours.to_json(!params.reverse))?;
    let theirs = control.json(LONGEST_RESULTS, Code::Results).await?;
    let theirs = Results::parse(&theirs, params.streams)?;
    control.expect(State::DisplayResults, PATIENCE).await?;
    control.send_state(State::IperfDone)?;
    Ok(if params.reverse { (theirs, ours) } else { (ours, theirs) })
}

/// Names the test to its server.
fn cookie() -> Cookie {
    let mut cookie = [0; COOKIE];
    cookie[..COOKIE - 1].fill_with(|| ALPHABET[fastrand::usize(..ALPHABET.len())]);
    cookie
}
