//! One connection: requests go out several together, and what is on its way knows what its answer must be.

use std::collections::VecDeque;
use std::io::{Cursor, Write};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use demi_api::graph::frame::Codec;
use demi_api::{Demikernel, Error, LibOs, QDesc, QueueKind, SgArray};

use super::report::Report;
use super::{BATCH, Client, Kind, content};
use crate::kv::message::Message;

/// More than what stands around a value in a request.
pub(super) const LONGEST_HEAD: u64 = 96;

pub(super) struct Worker {
    connection: QDesc,
    /// Yields whole replies, or messages of them: then it is the connection itself.
    replies: QDesc,
    carries: QueueKind,
    number: u32,
    kind: Kind,
    size: usize,
    /// The version of each key that it was set to last; 0: it was not, by this run.
    versions: Vec<u64>,
    next_key: usize,
    last_version: u64,
    random: fastrand::Rng,
    under_way: VecDeque<Asked>,
    /// Requests that it is still to send.
    unsent: u64,
}

/// A request on its way.
struct Asked {
    key: usize,
    /// Of a get: the version that must come, 0 for any, or none at all.
    get: Option<u64>,
    at: Instant,
}

impl Worker {
    pub(super) fn new<L: LibOs>(
        demi: &Demikernel<L>,
        connection: QDesc,
        number: u32,
        args: &Client,
    ) -> anyhow::Result<Worker> {
        let carries = demi.kind(connection)?;
        let clients = u64::from(args.clients);
        let replies = match carries {
            QueueKind::Stream => demi.frame(connection, Codec::Resp)?,
            QueueKind::Message => connection,
        };
        Ok(Worker {
            connection,
            replies,
            carries,
            number,
            kind: args.requests,
            size: args.size as usize,
            versions: vec![0; args.keys as usize],
            next_key: 0,
            last_version: 0,
            random: fastrand::Rng::with_seed(number.into()),
            under_way: VecDeque::with_capacity(args.pipeline as usize),
            unsent: args.count / clients + u64::from(u64::from(number) < args.count % clients),
        })
    }

    pub(super) fn queues(&self) -> [QDesc; 2] {
        [self.connection, self.replies]
    }

    /// So many requests more, if there are: at first as many as may be under way, then one for each answer.
    #[inline]
    pub(super) fn go_on<L: LibOs>(&mut self, demi: &Demikernel<L>, most: u64) -> anyhow::Result<()> {
        let count = most.min(self.unsent);
        if count > 0 {
            self.unsent -= count;
            self.ask(demi, count)?;
        }
        if self.under_way.is_empty() { Ok(()) } else { self.pop(demi) }
    }

    pub(super) fn close<L: LibOs>(&self, demi: &Demikernel<L>) {
        // Closing the frame closes the stream below it.
        if demi.close(self.replies).is_err() {
            let _ = demi.close(self.connection);
        }
    }

    fn pop<L: LibOs>(&self, demi: &Demikernel<L>) -> anyhow::Result<()> {
        match self.carries {
            QueueKind::Stream => demi.pop_n(self.replies, BATCH)?,
            QueueKind::Message => demi.pop(self.replies)?,
        };
        Ok(())
    }

    /// Pushes so many requests, side by side.
    fn ask<L: LibOs>(&mut self, demi: &Demikernel<L>, count: u64) -> anyhow::Result<()> {
        let room = count as usize * (self.size + LONGEST_HEAD as usize);
        let mut buffer = demi.alloc(room)?;
        let mut out = Cursor::new(&mut buffer[..]);
        let at = Instant::now();
        for _ in 0..count {
            let asked = self.write(&mut out, at).context("a request outgrew its buffer")?;
            self.under_way.push_back(asked);
        }
        let len = out.position() as usize;
        demi.push(self.connection, buffer.freeze().slice(0..len)).map_err(Error::from)?;
        Ok(())
    }

    fn write(&mut self, out: &mut Cursor<&mut [u8]>, at: Instant) -> std::io::Result<Asked> {
        let (key, is_set) = match self.kind {
            Kind::Mixed => (self.random.usize(0..self.versions.len()), self.random.bool()),
            in_turn => {
                let key = self.next_key;
                self.next_key = if key + 1 == self.versions.len() { 0 } else { key + 1 };
                (key, in_turn == Kind::Set)
            }
        };
        // Names of one length, so that all requests of a run are alike.
        let number = self.number;
        if !is_set {
            write!(out, "*2\r\n$3\r\nGET\r\n$19\r\nkey:{number:06}:{key:08}\r\n")?;
            return Ok(Asked { key, get: Some(self.versions[key]), at });
        }
        self.last_version += 1;
        self.versions[key] = self.last_version;
        write!(out, "*3\r\n$3\r\nSET\r\n$19\r\nkey:{number:06}:{key:08}\r\n${}\r\n", self.size)?;
        let start = out.position() as usize;
        let id = self.id(key);
        match out.get_mut().get_mut(start..start + self.size) {
            Some(value) => content::fill(value, id, self.last_version),
            None => return Err(std::io::ErrorKind::WriteZero.into()),
        }
        out.set_position((start + self.size) as u64);
        out.write_all(b"\r\n")?;
        Ok(Asked { key, get: None, at })
    }

    /// Takes in a message of replies; how many there were.
    pub(super) fn popped<L: LibOs>(
        &mut self,
        demi: &Demikernel<L>,
        message: SgArray,
        report: &mut Report,
    ) -> anyhow::Result<u64> {
        let mut message = Message::new(message);
        let (mut taken, now) = (0, Instant::now());
        while let Some(reply) = message.next()? {
            self.take(demi, reply, now, report)?;
            taken += 1;
        }
        Ok(taken)
    }

    /// Takes in framed replies; how many there were.
    pub(super) fn answered<L: LibOs>(
        &mut self,
        demi: &Demikernel<L>,
        replies: Vec<SgArray>,
        report: &mut Report,
    ) -> anyhow::Result<u64> {
        let (taken, now) = (replies.len() as u64, Instant::now());
        for reply in replies {
            self.take(demi, reply, now, report)?;
        }
        Ok(taken)
    }

    fn take<L: LibOs>(
        &mut self,
        demi: &Demikernel<L>,
        reply: SgArray,
        now: Instant,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let asked = self.under_way.pop_front().context("a reply came that nothing was asked for")?;
        report.latencies.record(now - asked.at);
        let reply = reply.into_contiguous(demi.heap())?;
        if let Some(why) = reply.strip_prefix(b"-") {
            bail!("the server says: {}", why.trim_ascii().escape_ascii());
        }
        let Some(expected) = asked.get else {
            ensure!(reply[..] == *b"+OK\r\n", "a set was answered by {}", reply.escape_ascii());
            return Ok(());
        };
        if reply[..] == *b"$-1\r\n" {
            ensure!(expected == 0, "key {} of connection {} is lost", asked.key, self.number);
            report.missing += 1;
            return Ok(());
        }
        let version = bulk(&reply).and_then(|value| content::version(value, self.id(asked.key)));
        let is_right = version.is_some_and(|version| expected == 0 || version == expected);
        ensure!(
            is_right,
            "key {} of connection {} has a value that it was not set to",
            asked.key,
            self.number
        );
        report.verified += 1;
        Ok(())
    }

    fn id(&self, key: usize) -> u64 {
        u64::from(self.number) << 32 | key as u64
    }
}

/// What a bulk string holds.
fn bulk(reply: &[u8]) -> Option<&[u8]> {
    let reply = reply.strip_prefix(b"$")?.strip_suffix(b"\r\n")?;
    let end = reply.windows(2).position(|pair| pair == b"\r\n")?;
    Some(&reply[end + 2..])
}
