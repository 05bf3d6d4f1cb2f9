//! Runs a script: one stack on a clock that stands still until the script moves it on, and the wire's other end.
//!
//! Invariant: every packet that the stack sends is asked for by a line, in order and at its time; one that no line asks
//! for fails the script at the next line that is not an expectation.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use demi_api::config::Config;
use demi_api::desc::QDesc;
use demi_api::instance::Demikernel;
use demi_api::sga::SgArray;
use demi_api::time::{Clock, Instant};
use demi_libos_catnip::device::{DeviceCx, Frame, Loopback, Queue, Wire};
use demi_libos_catnip::{Catnip, CatnipSection};

use crate::ast::{Icmp, IcmpKind, Line, Script, Spec, Statement, When};
use crate::flow::Flow;
use crate::wire::{self, Addrs, PEER_MAC, STACK_MAC, Seen};

/// What goes wrong, told to whoever reads the script.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// How much later than its time a packet may come: timers fire with the tick of a wheel.
const TOLERANCE: Duration = Duration::from_millis(1);

/// Turns without a step forward in time before the stack is taken to be spinning.
const TURNS: usize = 10_000;

pub(crate) struct World {
    pub(crate) host: Demikernel<Catnip>,
    pub(crate) addrs: Addrs,
    clock: Clock,
    peer: Loopback,
    wire: Wire,
    begin: Instant,
    /// When the last line happened.
    now: Instant,
    /// Sent by the stack and not asked for yet.
    seen: VecDeque<(Instant, Seen)>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) listener: Option<(u16, QDesc)>,
    pub(crate) trace: Vec<String>,
}

impl World {
    fn new(script: &Script) -> Outcome<World> {
        let (stack, peer, own): (IpAddr, IpAddr, _) = if script.ipv6 {
            ([0xfd00, 0, 0, 0, 0, 0, 0, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 2].into(), "fd00::1/64")
        } else {
            ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), "10.0.0.1/24")
        };
        let mut text = String::from("[heap]\nsize_mib = 32\nlock = false\nhuge_pages = \"never\"\n");
        let own = ("catnip.ip".to_string(), format!("addresses = [\"{own}\"]"));
        let mut config: Vec<_> = script.config.iter().chain([&own]).collect();
        config.sort_by_key(|(section, _)| section.clone());
        let mut last = "";
        for (section, line) in config {
            if section != last {
                text.push_str(&format!("[{section}]\n"));
            }
            text.push_str(&format!("{line}\n"));
            last = section;
        }
        let fault = |error: demi_api::Error| error.to_string();
        let config = Config::parse(&text, "script").map_err(fault)?;
        let section = CatnipSection::load(&config).map_err(fault)?;
        let clock = Clock::manual(Instant::from_nanos(1_000_000_000));
        let wire = Wire::new();
        let mtu = script.mtu.unwrap_or(1500);
        let plug = |mac| wire.plug(mac, mtu).map_err(|error| error.to_string());
        let (device, peer_end) = (Box::new(plug(STACK_MAC)?), plug(PEER_MAC)?);
        let rng = fastrand::Rng::with_seed(script.seed);
        let host = Demikernel::assemble(&config, clock.clone(), rng, |setup, rng| {
            Catnip::over(&setup, &section, device, rng)
        })
        .map_err(fault)?;
        let begin = Instant::from_nanos(5_000_000_000);
        let addrs = Addrs { stack, peer };
        let mut world = World {
            host,
            addrs,
            clock,
            peer: peer_end,
            wire,
            begin,
            now: begin,
            seen: VecDeque::new(),
            flows: Vec::new(),
            listener: None,
            trace: Vec::new(),
        };
        // Own addresses are tentative for a while.
        world.advance(begin)?;
        world.seen.clear();
        Ok(world)
    }

    /// Notes something for the trace.
    pub(crate) fn note(&mut self, text: &str) {
        let at = self.clock.now().since(self.begin);
        self.trace.push(format!("{:>12.6}  {text}", at.as_secs_f64()));
    }

    // --- time

    /// Lets the stack work until it has nothing left to do now.
    pub(crate) fn settle(&mut self) -> Outcome {
        let mut quiet = 0;
        for _ in 0..TURNS {
            self.host.poll().map_err(|error| error.to_string())?;
            let received = self.receive()?;
            let deadline = self.host.next_deadline().map_err(|error| error.to_string())?;
            let busy =
                received || self.wire.waiting() > 0 || deadline.is_some_and(|at| at <= self.clock.now());
            quiet = if busy { 0 } else { quiet + 1 };
            // What it does at the beginning of its next turn, it has to be given a turn for.
            if quiet > 2 {
                return Ok(());
            }
        }
        Err("the stack never comes to rest".into())
    }

    /// Moves on to the stack's next deadline, at most to `limit`. False: that is reached.
    fn step(&mut self, limit: Instant) -> Outcome<bool> {
        self.settle()?;
        let deadline = self.host.next_deadline().map_err(|error| error.to_string())?;
        let next = deadline.map_or(limit, |at| at.min(limit));
        if next <= self.clock.now() {
            return Ok(false);
        }
        self.clock.set(next);
        self.settle()?;
        Ok(true)
    }

    fn advance(&mut self, to: Instant) -> Outcome {
        while self.step(to)? {}
        Ok(())
    }

    /// Milliseconds of the peer's clock.
    fn stamp(&self) -> u32 {
        1000 + self.clock.now().since(self.begin).as_millis() as u32
    }

    // --- the wire

    /// Takes what the stack has sent; true: it was something.
    fn receive(&mut self) -> Outcome<bool> {
        let heap = self.host.heap().clone();
        let cx = DeviceCx { heap: &heap, now: self.clock.now() };
        let mut frames = Vec::new();
        while self.peer.rx_burst(&cx, &mut frames) > 0 {}
        let any = !frames.is_empty();
        for frame in frames {
            let bytes = frame.data.to_vec();
            if let Some(answer) = wire::neighbour(&bytes, self.addrs) {
                if let Some(answer) = answer {
                    self.transmit(&answer)?;
                }
                continue;
            }
            let seen = wire::parse(&bytes, self.addrs)
                .map_err(|what| format!("the stack sent a bad packet: {what}"))?;
            if let Seen::Tcp { segment, .. } = &seen
                && let Some(flow) = self.flows.iter_mut().rev().find(|flow| flow.owns(segment))
            {
                flow.learn(segment);
            }
            let text = self.show(&seen);
            self.note(&format!("> {text}"));
            self.seen.push_back((self.clock.now(), seen));
        }
        Ok(any)
    }

    fn transmit(&mut self, bytes: &[u8]) -> Outcome {
        let heap = self.host.heap().clone();
        let cx = DeviceCx { heap: &heap, now: self.clock.now() };
        let data = SgArray::copy_from(&heap, bytes).map_err(|error| error.to_string())?;
        let mut outbox = VecDeque::from([Frame::new(data)]);
        self.peer.tx_burst(&cx, &mut outbox);
        Ok(())
    }

    /// A packet of the stack's as a script would write it.
    fn show(&self, seen: &Seen) -> String {
        let (ecn, segment) = match seen {
            Seen::Tcp { ip, segment } => (ip.ecn, segment),
            Seen::Other(what) => return what.clone(),
        };
        match self.flows.iter().rev().find(|flow| flow.owns(segment)) {
            Some(flow) => format!("{}{}", prefix(flow), flow.show(segment, true, ecn)),
            None => format!("between ports of no flow: {segment:?}"),
        }
    }

    fn send(&mut self, flow: usize, spec: &Spec) -> Outcome {
        let stamp = self.stamp();
        for (segment, manner) in self.flows[flow].build(spec, stamp) {
            let flow = &self.flows[flow];
            let text = format!("< {}{}", prefix(flow), flow.show(&segment, false, manner.ecn));
            self.note(&text);
            self.transmit(&segment.frame(self.addrs, &manner))?;
        }
        Ok(())
    }

    fn send_icmp(&mut self, flow: usize, icmp: &Icmp) -> Outcome {
        let quoted = self.flows[flow].quote(icmp.seq).ok_or("there is no segment to quote yet")?;
        let v6 = self.addrs.stack.is_ipv6();
        let (kind, code, parameter) = match (icmp.kind, v6) {
            (IcmpKind::Net, false) => (3, 0, 0),
            (IcmpKind::Host, false) => (3, 1, 0),
            (IcmpKind::Protocol, false) => (3, 2, 0),
            (IcmpKind::Port, false) => (3, 3, 0),
            (IcmpKind::Prohibited, false) => (3, 13, 0),
            (IcmpKind::TooBig(mtu), false) => (3, 4, mtu),
            (IcmpKind::TimeExceeded, false) => (11, 0, 0),
            (IcmpKind::Quench, false) => (4, 0, 0),
            (IcmpKind::Net, true) => (1, 0, 0),
            (IcmpKind::Prohibited, true) => (1, 1, 0),
            (IcmpKind::Host, true) => (1, 3, 0),
            (IcmpKind::Port, true) => (1, 4, 0),
            (IcmpKind::TooBig(mtu), true) => (2, 0, mtu),
            (IcmpKind::TimeExceeded, true) => (3, 0, 0),
            (IcmpKind::Protocol, true) => (4, 1, 6),
            (IcmpKind::Quench, true) => return Err("IPv6 has no source quench".into()),
        };
        let size = icmp.size.unwrap_or(if v6 { 40 } else { 20 } + 20 + quoted.payload.len());
        self.note(&format!("< icmp {:?}", icmp.kind));
        self.transmit(&wire::icmp(self.addrs, kind, code, parameter, &quoted, size))
    }

    // --- lines

    /// The flow of a name; a new name is a new flow.
    fn flow(&mut self, name: &str) -> usize {
        if let Some(place) = self.flows.iter().position(|flow| flow.name == name) {
            return place;
        }
        self.flows.push(Flow::new(name, self.flows.len() as u16));
        self.flows.len() - 1
    }

    fn line(&mut self, line: &Line) -> Outcome {
        let flow = self.flow(&line.flow);
        for time in 0..line.repeat {
            if let [Statement::Expect(spec)] = &line.statements[..] {
                self.expect(flow, spec, line.when)?;
                continue;
            }
            self.settle()?;
            if let When::At(delay) = line.when {
                self.now = self.now + delay;
                self.advance(self.now)?;
            } else {
                self.now = self.now.max(self.clock.now());
            }
            if time == 0 && !matches!(line.statements[0], Statement::Expect(_) | Statement::Ignore) {
                self.nothing_unasked()?;
            }
            for statement in &line.statements {
                self.statement(flow, statement)?;
            }
            if line.repeat > 1 {
                self.settle()?;
            }
        }
        Ok(())
    }

    fn statement(&mut self, flow: usize, statement: &Statement) -> Outcome {
        match statement {
            Statement::Expect(spec) => self.expect(flow, spec, When::Now),
            Statement::Send(spec) => self.send(flow, spec),
            Statement::Icmp(icmp) => self.send_icmp(flow, icmp),
            Statement::App(app, outcome) => self.app(flow, app, outcome.as_ref()),
            Statement::Nothing => self.nothing_unasked(),
            Statement::Ignore => {
                self.seen.clear();
                Ok(())
            }
        }
    }

    fn nothing_unasked(&mut self) -> Outcome {
        match self.seen.pop_front() {
            None => Ok(()),
            Some((at, seen)) => {
                let at = at.since(self.begin).as_secs_f64();
                Err(format!("expected: nothing\n  came: {} at {at:.6}", self.show(&seen)))
            }
        }
    }

    fn expect(&mut self, flow: usize, spec: &Spec, when: When) -> Outcome {
        let step = spec.by.unwrap_or(spec.len.max(1));
        let mut from = 0;
        let mut when = when;
        loop {
            let len = step.min(spec.len - from);
            let mut part = spec.clone();
            if from + len < spec.len {
                // Of several segments, the last alone ends a push or the stream.
                part.flags &= !(wire::PSH | wire::FIN);
            }
            self.expect_one(flow, &part, (from, len), when)?;
            from += len;
            when = When::Now;
            if from >= spec.len {
                return Ok(());
            }
        }
    }

    fn expect_one(&mut self, flow: usize, spec: &Spec, part: (usize, usize), when: When) -> Outcome {
        let (earliest, latest) = match when {
            When::Now => (self.now, self.now + TOLERANCE),
            When::At(delay) => (self.now + delay, self.now + delay + TOLERANCE),
            When::Within(low, high) => (self.now + low, self.now + high),
        };
        self.settle()?;
        while self.seen.is_empty() && self.step(latest)? {}
        let after = |at: Instant| Duration::from_nanos(at.as_nanos().saturating_sub(self.now.as_nanos()));
        let wanted = format!("between {:?} and {:?} after the last line", after(earliest), after(latest));
        let Some((at, seen)) = self.seen.pop_front() else {
            return Err(format!("expected: a packet {wanted}\n  came: nothing"));
        };
        let Seen::Tcp { ip, segment } = &seen else {
            return Err(format!("expected: a segment\n  came: {}", self.show(&seen)));
        };
        if at < earliest || at > latest {
            let came = after(at);
            return Err(format!(
                "expected: a packet {wanted}\n  came: {} {came:?} after it",
                self.show(&seen)
            ));
        }
        if !self.flows[flow].owns(segment) {
            return Err(format!(
                "expected: a segment of flow {}\n  came: {}",
                self.flows[flow].name,
                self.show(&seen)
            ));
        }
        if let Some(wrong) = self.flows[flow].compare(spec, part, *ip, segment) {
            let came = self.flows[flow].show(segment, true, ip.ecn);
            return Err(format!("expected: what the line says\n  came: {came}\n  wrong: {wrong}"));
        }
        self.now = self.now.max(at);
        Ok(())
    }
}

fn prefix(flow: &Flow) -> String {
    if flow.name == "a" { String::new() } else { format!("@{} ", flow.name) }
}

/// Runs a script that has been parsed. The error is all that its reader needs.
pub(crate) fn run(file: &str, script: &Script) -> Outcome {
    let mut world = World::new(script).map_err(|what| format!("{file}: {what}"))?;
    let mut result = Ok(());
    for line in &script.lines {
        result = world.line(line).map_err(|what| (line.number, line.text.clone(), what));
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        let end = |what| (script.lines.last().map_or(0, |line| line.number), "the end".into(), what);
        result = world.settle().and_then(|()| world.nothing_unasked()).map_err(end);
    }
    if let Err((number, text, what)) = result {
        let trace = world.trace.join("\n  ");
        return Err(format!("{file}:{number}: {text}\n  {what}\n  the trace so far, in seconds:\n  {trace}"));
    }
    let counters = world.host.counters().map_err(|error| error.to_string())?;
    if counters.stale_posts != 0 {
        return Err(format!("{file}: {} operations completed twice", counters.stale_posts));
    }
    let heap = world.host.heap().clone();
    drop(world);
    match heap.stats().objects_live {
        0 => Ok(()),
        left => Err(format!("{file}: {left} buffers were lost")),
    }
}

/// The address that a flow connects to.
pub(crate) fn peer_addr(world: &World, flow: usize) -> SocketAddr {
    SocketAddr::new(world.addrs.peer, world.flows[flow].peer_port)
}
