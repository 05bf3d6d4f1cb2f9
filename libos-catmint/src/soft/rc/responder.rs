//! The side that is asked: carries out requests in order, each once, and answers them.
//!
//! Invariants: `expected` moves by one with each packet that is carried out, and nothing else is carried out. Answers go out
//! in the order of their numbers, and an acknowledgement after all of them, as it stands for them too. What is read is looked up
//! packet by packet, when it goes out.
//!
//! What was carried out before and comes again is answered again: a READ is read again, the result of an atomic operation
//! is remembered for as many as the peer may have under way, all else is acknowledged.

use std::collections::VecDeque;

use demi_api::memalloc::BufMut;

use super::super::link::Payload;
use super::super::wire::{
    Aeth, AtomicEth, Header, MAX_HEADER_LEN, NakCode, Operation, Psn, Reth, Syndrome, Tail,
};
use super::memory::Denied;
use super::{Counters, Host, MAX_LEN, Memory, Params, Sink};
use crate::device::{Atomic, Event, Fault, Remote};

#[derive(Debug)]
pub(super) struct Responder {
    expected: Psn,
    /// Messages carried out, modulo 2^24.
    msn: u32,
    incoming: Incoming,
    /// What is to be said behind the answers.
    word: Word,
    /// The peer was told that packets are missing, or that it must wait: what is ahead is dropped without a word.
    told: bool,
    /// In the order of their numbers.
    answers: VecDeque<Answer>,
    /// Results of the last atomic operations.
    results: VecDeque<(Psn, u64)>,
    pub(super) counters: Counters,
}

/// The message of which some packets have come.
#[derive(Debug)]
enum Incoming {
    Nothing,
    Send { into: BufMut, filled: usize },
    Write { to: Remote, left: usize },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    Nothing,
    Acknowledge,
    /// At `expected`.
    Missing,
    /// At `expected`.
    NotReady,
    /// The last word.
    Refuse(Psn, NakCode),
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    /// What of a READ has not gone out.
    Read {
        next: Psn,
        from: Remote,
        left: usize,
        is_first: bool,
        msn: u32,
    },
    Atomic {
        psn: Psn,
        found: u64,
        msn: u32,
    },
}

impl Answer {
    fn psn(&self) -> Psn {
        match *self {
            Answer::Read { next, .. } => next,
            Answer::Atomic { psn, .. } => psn,
        }
    }

    fn packets(&self, params: &Params) -> u32 {
        match *self {
            Answer::Read { left, .. } => params.packets(left),
            Answer::Atomic { .. } => 1,
        }
    }
}

impl Responder {
    pub(super) fn new(params: &Params) -> Responder {
        Responder {
            expected: params.receive_psn,
            msn: 0,
            incoming: Incoming::Nothing,
            word: Word::Nothing,
            told: false,
            answers: VecDeque::with_capacity(2 * params.responder_resources),
            results: VecDeque::with_capacity(params.responder_resources),
            counters: Counters::default(),
        }
    }

    /// Takes a request in. An error is the end of the queue pair, once the peer has been told.
    #[inline]
    pub(super) fn request(
        &mut self,
        params: &Params,
        header: &Header,
        payload: &impl Payload,
        host: &mut Host<'_>,
    ) -> Result<(), Fault> {
        match header.psn.distance(self.expected) {
            0 => {}
            1.. => {
                self.counters.early += 1;
                if !self.told {
                    self.told = true;
                    self.word = Word::Missing;
                }
                return Ok(());
            }
            _ => {
                self.counters.repeated += 1;
                self.again(params, header);
                return Ok(());
            }
        }
        match self.carry_out(params, header, payload, host) {
            Ok(packets) => {
                self.expected += packets;
                self.told = false;
                let is_answered = matches!(
                    header.operation,
                    Operation::ReadRequest(_) | Operation::CompareSwap(_) | Operation::FetchAdd(_)
                );
                // An answer acknowledges all before it. What a word is put in the place of may have stood for an
                // acknowledgement, too.
                if is_answered {
                    self.word = Word::Nothing;
                } else if header.ack_request || self.word != Word::Nothing {
                    self.word = Word::Acknowledge;
                }
                Ok(())
            }
            Err(Refusal::NotReady) => {
                self.counters.not_ready += 1;
                self.told = true;
                self.word = Word::NotReady;
                Ok(())
            }
            Err(Refusal::Fatal(code, fault)) => {
                self.word = Word::Refuse(self.expected, code);
                Err(fault)
            }
        }
    }

    /// Carries out the packet that is next. Gives how many numbers it takes.
    #[inline]
    fn carry_out(
        &mut self,
        params: &Params,
        header: &Header,
        payload: &impl Payload,
        host: &mut Host<'_>,
    ) -> Result<u32, Refusal> {
        let whole = payload.len() == params.mtu;
        let fits = payload.len() <= params.mtu;
        match header.operation {
            Operation::SendOnly(tail) => {
                self.check(matches!(self.incoming, Incoming::Nothing) && fits)?;
                let mut into = take_receive(payload.len(), host)?;
                if let Err(refusal) = invalidate(params, tail, host) {
                    host.receives.push_front(into);
                    return Err(refusal);
                }
                payload.copy(0, &mut into[..payload.len()]);
                into.truncate(payload.len());
                self.received(params, into, host);
            }
            Operation::SendFirst => {
                self.check(matches!(self.incoming, Incoming::Nothing) && whole)?;
                let mut into = take_receive(payload.len(), host)?;
                payload.copy(0, &mut into[..payload.len()]);
                self.incoming = Incoming::Send { into, filled: payload.len() };
            }
            Operation::SendMiddle => {
                self.check(whole)?;
                self.append(payload)?;
            }
            Operation::SendLast(tail) => {
                self.check(fits)?;
                self.append(payload)?;
                invalidate(params, tail, host)?;
                if let Incoming::Send { mut into, filled, .. } = self.taken() {
                    into.truncate(filled);
                    self.received(params, into, host);
                }
            }
            Operation::WriteOnly(reth, immediate) => {
                self.check(matches!(self.incoming, Incoming::Nothing) && fits)?;
                self.check(payload.len() == reth.len as usize)?;
                write(params, remote(reth), payload, host)?;
                self.written(params, immediate, host)?;
            }
            Operation::WriteFirst(reth) => {
                let len = reth.len as usize;
                self.check(matches!(self.incoming, Incoming::Nothing) && whole)?;
                self.check((payload.len()..=MAX_LEN).contains(&len))?;
                // All of it, so that half a message is not written before the other half is refused.
                host.memory.write(params.qp, remote(reth), len)?;
                write(params, remote(reth), payload, host)?;
                self.incoming =
                    Incoming::Write { to: beyond(remote(reth), payload.len()), left: len - payload.len() };
            }
            Operation::WriteMiddle => {
                let Incoming::Write { to, left } = self.incoming else { return Err(Refusal::INVALID) };
                self.check(whole && payload.len() <= left)?;
                write(params, to, payload, host)?;
                self.incoming = Incoming::Write { to: beyond(to, payload.len()), left: left - payload.len() };
            }
            Operation::WriteLast(immediate) => {
                let Incoming::Write { to, left } = self.incoming else { return Err(Refusal::INVALID) };
                self.check(fits && payload.len() == left)?;
                write(params, to, payload, host)?;
                self.written(params, immediate, host)?;
                self.incoming = Incoming::Nothing;
            }
            Operation::ReadRequest(reth) => {
                let len = reth.len as usize;
                self.check(matches!(self.incoming, Incoming::Nothing) && len <= MAX_LEN)?;
                self.check(self.may_answer(params))?;
                if len > 0 {
                    host.memory.read(params.qp, remote(reth), len)?;
                }
                self.count();
                self.answers.push_back(self.read(header.psn, reth));
                return Ok(params.packets(len));
            }
            Operation::CompareSwap(eth) => {
                let op = Atomic::CompareSwap { expected: eth.compare, new: eth.swap_or_add };
                self.atomic(params, header.psn, &eth, op, host)?;
            }
            Operation::FetchAdd(eth) => {
                self.atomic(params, header.psn, &eth, Atomic::FetchAdd(eth.swap_or_add), host)?;
            }
            Operation::ReadFirst(_)
            | Operation::ReadMiddle
            | Operation::ReadLast(_)
            | Operation::ReadOnly(_)
            | Operation::Acknowledge(_)
            | Operation::AtomicAcknowledge(..)
            | Operation::Datagram(_) => return Err(Refusal::INVALID),
        }
        Ok(1)
    }

    fn check(&self, sound: bool) -> Result<(), Refusal> {
        if sound { Ok(()) } else { Err(Refusal::INVALID) }
    }

    /// More of a SEND.
    fn append(&mut self, payload: &impl Payload) -> Result<(), Refusal> {
        let Incoming::Send { into, filled, .. } = &mut self.incoming else { return Err(Refusal::INVALID) };
        let place = into.get_mut(*filled..).and_then(|rest| rest.get_mut(..payload.len()));
        payload.copy(0, place.ok_or(Refusal::TOO_LONG)?);
        *filled += payload.len();
        Ok(())
    }

    fn received(&mut self, params: &Params, message: BufMut, host: &mut Host<'_>) {
        self.count();
        host.events.push(Event::Received { qp: params.qp, message: message.freeze() });
    }

    /// A WRITE with immediate data takes a receive, and is told of as a message without bytes.
    fn written(
        &mut self,
        params: &Params,
        immediate: Option<u32>,
        host: &mut Host<'_>,
    ) -> Result<(), Refusal> {
        if immediate.is_some() {
            let mut into = take_receive(0, host)?;
            into.truncate(0);
            host.events.push(Event::Received { qp: params.qp, message: into.freeze() });
        }
        self.count();
        Ok(())
    }

    fn read(&self, psn: Psn, reth: Reth) -> Answer {
        Answer::Read { next: psn, from: remote(reth), left: reth.len as usize, is_first: true, msn: self.msn }
    }

    fn atomic(
        &mut self,
        params: &Params,
        psn: Psn,
        eth: &AtomicEth,
        op: Atomic,
        host: &mut Host<'_>,
    ) -> Result<(), Refusal> {
        self.check(matches!(self.incoming, Incoming::Nothing))?;
        self.check(self.may_answer(params))?;
        let found = host.memory.atomic(params.qp, Remote { addr: eth.address, key: eth.key }, op)?;
        self.count();
        if self.results.len() == params.responder_resources {
            self.results.pop_front();
        }
        self.results.push_back((psn, found));
        self.answers.push_back(Answer::Atomic { psn, found, msn: self.msn });
        Ok(())
    }

    /// Whether the peer may ask for one more answer. There may be as many to repeated requests, which are no fault of its own.
    fn may_answer(&self, params: &Params) -> bool {
        self.answers.len() < 2 * params.responder_resources
    }

    fn count(&mut self) {
        self.msn = (self.msn + 1) & 0x00FF_FFFF;
    }

    /// A request that was carried out before.
    #[cold]
    fn again(&mut self, params: &Params, header: &Header) {
        let answer = match header.operation {
            Operation::ReadRequest(reth) => {
                let len = reth.len as usize;
                let after = header.psn.distance(self.expected) + params.packets(len.min(MAX_LEN)) as i32;
                // No READ reached into what is still expected.
                if len > MAX_LEN || after > 0 {
                    return;
                }
                self.read(header.psn, reth)
            }
            Operation::CompareSwap(_) | Operation::FetchAdd(_) => {
                let Some((psn, found)) = self.results.iter().find(|(psn, _)| *psn == header.psn) else {
                    return;
                };
                Answer::Atomic { psn: *psn, found: *found, msn: self.msn }
            }
            _ => {
                if self.word == Word::Nothing {
                    self.word = Word::Acknowledge;
                }
                return;
            }
        };
        // It takes the place of what it repeats, and stands before what comes after.
        let (first, after) = (answer.psn(), answer.psn() + answer.packets(params));
        self.answers.retain(|other| other.psn() >= after || other.psn() + other.packets(params) <= first);
        if self.answers.len() < params.responder_resources {
            let place = self.answers.partition_point(|other| other.psn() < first);
            self.answers.insert(place, answer);
        }
    }

    /// Whether [`transmit`](Responder::transmit) would send something.
    pub(super) fn is_ready(&self) -> bool {
        self.word != Word::Nothing || !self.answers.is_empty()
    }

    /// Sends answers, as long as there is `budget`, and then what else is to be said. An error is the end of the queue pair.
    pub(super) fn transmit(
        &mut self,
        params: &Params,
        memory: &Memory,
        sink: &mut impl Sink,
        mut budget: usize,
    ) -> Result<(), Fault> {
        let mut outcome = Ok(());
        while let Some(answer) = self.answers.front_mut() {
            if budget == 0 {
                return outcome;
            }
            match step(params, answer, memory, sink) {
                Step::Blocked => return outcome,
                Step::More => {}
                Step::Done => {
                    self.answers.pop_front();
                }
                Step::Refused(psn) => {
                    self.answers.clear();
                    self.word = Word::Refuse(psn, NakCode::RemoteAccess);
                    outcome = Err(Fault::Local);
                }
            }
            budget -= 1;
        }
        let (psn, syndrome) = match self.word {
            Word::Nothing => return outcome,
            Word::Acknowledge => (self.expected - 1, GOOD),
            Word::Missing => (self.expected, Syndrome::Nak(NakCode::Sequence)),
            Word::NotReady => (self.expected, Syndrome::RnrNak(params.rnr_timer)),
            Word::Refuse(psn, code) => (psn, Syndrome::Nak(code)),
        };
        let operation = Operation::Acknowledge(Aeth { syndrome, msn: self.msn });
        if emit(params, psn, operation, &[], sink) {
            self.word = Word::Nothing;
        }
        outcome
    }

    /// Gives back the receive that a message has begun to fill.
    pub(super) fn fail(&mut self, host: &mut Host<'_>) {
        self.answers.clear();
        if let Incoming::Send { into, .. } = self.taken() {
            host.receives.push_front(into);
        }
    }

    fn taken(&mut self) -> Incoming {
        std::mem::replace(&mut self.incoming, Incoming::Nothing)
    }
}

const GOOD: Syndrome = Syndrome::Ack { credits: Syndrome::NO_CREDITS };

/// Why a request is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refusal {
    NotReady,
    Fatal(NakCode, Fault),
}

impl Refusal {
    const INVALID: Refusal = Refusal::Fatal(NakCode::InvalidRequest, Fault::Local);
    const TOO_LONG: Refusal = Refusal::Fatal(NakCode::InvalidRequest, Fault::TooLong);
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        let code = match denied {
            Denied::Access => NakCode::RemoteAccess,
            Denied::Misaligned => NakCode::InvalidRequest,
        };
        Refusal::Fatal(code, Fault::Local)
    }
}

/// The next receive, if it is long enough.
#[inline]
fn take_receive(len: usize, host: &mut Host<'_>) -> Result<BufMut, Refusal> {
    match host.receives.front() {
        None => Err(Refusal::NotReady),
        Some(first) if first.len() < len => Err(Refusal::TOO_LONG),
        Some(_) => host.receives.pop_front().ok_or(Refusal::NotReady),
    }
}

fn write(params: &Params, to: Remote, payload: &impl Payload, host: &mut Host<'_>) -> Result<(), Refusal> {
    // A write of nothing needs no key.
    if !payload.is_empty() {
        payload.copy(0, host.memory.write(params.qp, to, payload.len())?);
    }
    Ok(())
}

fn invalidate(params: &Params, tail: Tail, host: &mut Host<'_>) -> Result<(), Refusal> {
    match tail {
        Tail::Plain | Tail::Immediate(_) => Ok(()),
        Tail::Invalidate(key) => Ok(host.memory.invalidate(params.qp, key)?),
    }
}

fn remote(reth: Reth) -> Remote {
    Remote { addr: reth.address, key: reth.key }
}

fn beyond(remote: Remote, by: usize) -> Remote {
    Remote { addr: remote.addr.wrapping_add(by as u64), ..remote }
}

enum Step {
    /// The link takes no more.
    Blocked,
    More,
    Done,
    /// The key is not valid any more.
    Refused(Psn),
}

/// Sends the next packet of an answer.
fn step(params: &Params, answer: &mut Answer, memory: &Memory, sink: &mut impl Sink) -> Step {
    match answer {
        Answer::Atomic { psn, found, msn } => {
            let aeth = Aeth { syndrome: GOOD, msn: *msn };
            if emit(params, *psn, Operation::AtomicAcknowledge(aeth, *found), &[], sink) {
                Step::Done
            } else {
                Step::Blocked
            }
        }
        Answer::Read { next, from, left, is_first, msn } => {
            let aeth = Aeth { syndrome: GOOD, msn: *msn };
            let len = params.mtu.min(*left);
            let operation = match (*is_first, *left <= params.mtu) {
                (true, true) => Operation::ReadOnly(aeth),
                (true, false) => Operation::ReadFirst(aeth),
                (false, false) => Operation::ReadMiddle,
                (false, true) => Operation::ReadLast(aeth),
            };
            let bytes = if len == 0 { Ok(&[][..]) } else { memory.read(params.qp, *from, len) };
            let Ok(bytes) = bytes else { return Step::Refused(*next) };
            if !emit(params, *next, operation, &[bytes], sink) {
                return Step::Blocked;
            }
            *left -= len;
            *from = beyond(*from, len);
            *next += 1;
            *is_first = false;
            if *left == 0 { Step::Done } else { Step::More }
        }
    }
}

/// False: the link takes no more.
fn emit(params: &Params, psn: Psn, operation: Operation, payload: &[&[u8]], sink: &mut impl Sink) -> bool {
    let mut out = [0; MAX_HEADER_LEN];
    let bytes = payload.iter().map(|piece| piece.len()).sum();
    let len = Header::new(params.remote, psn, operation).emit(bytes, &mut out);
    sink.packet(&out[..len], payload)
}
