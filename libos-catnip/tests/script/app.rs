//! What a script has the application do.

use std::net::SocketAddr;
use std::time::Duration;

use demi_api::desc::QDesc;
use demi_api::op::{Completion, Done};
use demi_api::token::QToken;
use demi_api::{Domain, Error, SocketKind, SocketOption};

use crate::ast::{App, Kind, Outcome as Wanted};
use crate::flow::content;
use crate::parse::duration;
use crate::run::{Outcome, World, peer_addr};

/// How an operation stands, compared with what the script says.
fn describe(result: &Result<Done, Error>) -> String {
    match result {
        Ok(Done::Popped(sga)) if sga.is_empty() => "eof".into(),
        Ok(Done::Popped(sga)) => sga.len().to_string(),
        Ok(_) => "ok".into(),
        Err(error) => format!("error {error:?}"),
    }
}

impl World {
    pub(crate) fn app(&mut self, flow: usize, app: &App, wanted: Option<&Wanted>) -> Outcome {
        self.note(&format!("  {}{app:?}", if flow == 0 { String::new() } else { format!("@{flow} ") }));
        match app {
            App::Listen { port, backlog, once } => {
                let port = match port {
                    Ok(port) => *port,
                    Err(name) => {
                        let other = self.flows.iter().find(|flow| flow.name == *name);
                        other.and_then(|flow| flow.stack_port).ok_or("that flow has no port yet")?
                    }
                };
                self.flows[flow].stack_port = Some(port);
                if *once && self.listener.is_some_and(|(listening, _)| listening == port) {
                    return Ok(());
                }
                let result = self.socket(flow).and_then(|qd| {
                    self.host.bind(qd, SocketAddr::new(self.addrs.stack, port))?;
                    self.host.listen(qd, *backlog)?;
                    Ok(qd)
                });
                self.flows[flow].qd = None;
                let result = result.map(|qd| self.listener = Some((port, qd)));
                verdict(result.map(|()| Done::Connected), wanted)
            }
            App::Accept => {
                let (_, listener) = self.listener.ok_or("accept needs a listen before it")?;
                let token = self.host.accept(listener);
                self.begun(flow, Kind::Accept, token, wanted)
            }
            App::Bind(port) => {
                let addr = SocketAddr::new(self.addrs.stack, *port);
                let result = self.socket(flow).and_then(|qd| self.host.bind(qd, addr));
                verdict(result.map(|()| Done::Connected), wanted)
            }
            App::Connect(to) => {
                let mut peer = peer_addr(self, flow);
                peer.set_ip(to.unwrap_or(peer.ip()));
                let token = self.socket(flow).and_then(|qd| self.host.connect(qd, peer));
                self.begun(flow, Kind::Connect, token, wanted)
            }
            App::Push(len) => {
                let qd = self.qd(flow)?;
                let bytes = content(1 + self.flows[flow].pushed, *len, true);
                let sga = self.host.copy_from(&bytes).map_err(|error| error.to_string())?;
                let token = self.host.push(qd, sga).map_err(Error::from);
                if token.is_ok() {
                    self.flows[flow].pushed += *len as u32;
                }
                self.begun(flow, Kind::Push, token, wanted)
            }
            App::Pop(limit) => {
                let qd = self.qd(flow)?;
                let token = match limit {
                    Some(limit) => self.host.pop_n(qd, *limit),
                    None => self.host.pop(qd),
                };
                self.begun(flow, Kind::Pop, token, wanted)
            }
            App::Read(len) => self.read(flow, *len),
            App::Close => {
                let qd = self.qd(flow)?;
                self.flows[flow].qd = None;
                verdict(self.host.close(qd).map(|()| Done::Connected), wanted)
            }
            App::CloseListener => {
                let (_, listener) = self.listener.take().ok_or("nothing listens")?;
                verdict(self.host.close(listener).map(|()| Done::Connected), wanted)
            }
            App::Shutdown(how) => {
                let qd = self.qd(flow)?;
                verdict(self.host.shutdown(qd, *how).map(|()| Done::Connected), wanted)
            }
            App::Set(name, value) => {
                let option = option(name, value)?;
                let result = self.socket(flow).and_then(|qd| self.host.set_option(qd, option));
                verdict(result.map(|()| Done::Connected), wanted)
            }
            App::Await(kind) => {
                let place = self.flows[flow].tokens.iter().position(|(other, _)| other == kind);
                let place = place.ok_or(format!("no {kind:?} is outstanding"))?;
                let (_, token) = self.flows[flow].tokens[place];
                match self.take(token)? {
                    Some(done) => {
                        self.flows[flow].tokens.remove(place);
                        self.finished(flow, done, wanted)
                    }
                    None if wanted == Some(&Wanted::Pending) => Ok(()),
                    None => Err(format!("expected: {wanted:?}\n  came: it is pending")),
                }
            }
            App::Cancel(kind) => {
                let place = self.flows[flow].tokens.iter().position(|(other, _)| other == kind);
                let (_, token) =
                    self.flows[flow].tokens[place.ok_or(format!("no {kind:?} is outstanding"))?];
                verdict(self.host.cancel(token).map(|()| Done::Connected), wanted)
            }
            App::Ports(stack, peer) => {
                (self.flows[flow].stack_port, self.flows[flow].peer_port) = (Some(*stack), *peer);
                Ok(())
            }
            App::Iss(number) => {
                self.flows[flow].peer_iss = *number;
                Ok(())
            }
            App::Count(name, wanted) => {
                let counters = self.host.counters().map_err(|error| error.to_string())?.libos;
                let found =
                    counters.iter().find(|(other, _)| other == name).ok_or(format!("no counter {name}"))?.1;
                if wanted.takes(found) {
                    Ok(())
                } else {
                    Err(format!("expected: {wanted:?}\n  came: {found}"))
                }
            }
        }
    }

    /// The flow's descriptor; a socket that is still to be connected or listened on is made when it is first used.
    fn socket(&mut self, flow: usize) -> Result<QDesc, Error> {
        if let Some(qd) = self.flows[flow].qd {
            return Ok(qd);
        }
        let domain = if self.addrs.stack.is_ipv6() { Domain::Inet6 } else { Domain::Inet };
        let qd = self.host.socket(domain, SocketKind::Stream)?;
        self.flows[flow].qd = Some(qd);
        Ok(qd)
    }

    fn qd(&self, flow: usize) -> Outcome<QDesc> {
        self.flows[flow].qd.ok_or_else(|| "the flow has no descriptor: connect or accept first".into())
    }

    fn take(&mut self, token: QToken) -> Outcome<Option<Completion>> {
        match self.host.wait(token, Some(Duration::ZERO)) {
            Ok(completion) => Ok(Some(completion)),
            Err(Error::TimedOut) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// An operation was started: without an outcome asked for, it stays to be awaited.
    fn begun(
        &mut self,
        flow: usize,
        kind: Kind,
        token: Result<QToken, Error>,
        wanted: Option<&Wanted>,
    ) -> Outcome {
        let token = match token {
            Ok(token) => token,
            Err(error) => return verdict(Err(error), Some(wanted.unwrap_or(&Wanted::Ok))),
        };
        self.flows[flow].tokens.push_back((kind, token));
        if wanted.is_none() {
            return Ok(());
        }
        match (self.take(token)?, wanted) {
            (None, Some(Wanted::Pending)) => Ok(()),
            (None, _) => Err(format!("expected: {wanted:?}\n  came: it is pending")),
            (Some(done), _) => {
                self.flows[flow].tokens.pop_back();
                self.finished(flow, done, wanted)
            }
        }
    }

    fn finished(&mut self, flow: usize, done: Completion, wanted: Option<&Wanted>) -> Outcome {
        if let Ok(Done::Accepted { qd, .. }) = &done.result {
            self.flows[flow].qd = Some(*qd);
        }
        if let (Ok(Done::Popped(sga)), true) = (&done.result, !matches!(wanted, Some(Wanted::Data(_)))) {
            let bytes = sga.to_vec();
            let at = 1 + self.flows[flow].popped;
            if bytes != content(at, bytes.len(), false) {
                return Err(format!(
                    "the {} bytes popped from place {at} on are not those sent",
                    bytes.len()
                ));
            }
        }
        if let Ok(Done::Popped(sga)) = &done.result {
            self.flows[flow].popped += sga.len() as u32;
        }
        verdict(done.result, wanted)
    }

    /// Pops until there were so many bytes, all of which must be there.
    fn read(&mut self, flow: usize, len: usize) -> Outcome {
        let qd = self.qd(flow)?;
        let mut left = len;
        while left > 0 {
            let token = self.host.pop_n(qd, left).map_err(|error| error.to_string())?;
            self.settle()?;
            let Some(done) = self.take(token)? else {
                return Err(format!("expected: {len} bytes\n  came: {} of them", len - left));
            };
            let before = self.flows[flow].popped;
            self.finished(flow, done, None)?;
            let count = (self.flows[flow].popped - before) as usize;
            if count == 0 {
                return Err(format!("expected: {len} bytes\n  came: {} of them, and the end", len - left));
            }
            left -= count;
        }
        Ok(())
    }
}

fn verdict(result: Result<Done, Error>, wanted: Option<&Wanted>) -> Outcome {
    let fits = match (wanted, &result) {
        (None, result) => result.is_ok(),
        (Some(Wanted::Ok), Ok(done)) => !matches!(done, Done::Popped(_)),
        (Some(Wanted::Eof), Ok(Done::Popped(sga))) => sga.is_empty(),
        (Some(Wanted::Bytes(count)), Ok(Done::Popped(sga))) => sga.len() == *count && *count > 0,
        (Some(Wanted::Data(bytes)), Ok(Done::Popped(sga))) => sga.to_vec() == *bytes,
        (Some(Wanted::Error(name)), Err(error)) => format!("{error:?}").starts_with(name.as_str()),
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("expected: {wanted:?}\n  came: {}", describe(&result))) }
}

fn option(name: &str, value: &str) -> Outcome<SocketOption> {
    let switch = || match value {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("{other:?} is neither on nor off")),
    };
    let count = || value.parse::<u32>().map_err(|_| format!("{value:?} is no number"));
    Ok(match name {
        "nodelay" => SocketOption::NoDelay(switch()?),
        "linger" => SocketOption::Linger(Some(duration(value)?)),
        "keepalive" => SocketOption::KeepAlive(switch()?),
        "keepidle" => SocketOption::KeepIdle(duration(value)?),
        "keepinterval" => SocketOption::KeepInterval(duration(value)?),
        "keepcount" => SocketOption::KeepCount(count()?),
        "sndbuf" => SocketOption::SendBuffer(count()? as usize),
        "rcvbuf" => SocketOption::RecvBuffer(count()? as usize),
        "maxseg" => SocketOption::MaxSegment(count()?),
        "usertimeout" => SocketOption::UserTimeout(duration(value)?),
        other => return Err(format!("{other:?} is no option of a socket here")),
    })
}
