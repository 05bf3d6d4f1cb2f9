//! What a poll does, in this order: packets are taken in, timers are looked at, then everything that is due goes out, and the
//! connection manager's events are carried out.
//!
//! Invariant: a turn is bounded: [`BURST`] packets in, what one call of [`QueuePair::transmit`] sends for each queue pair that has
//! something to send, and what the connection manager has to say.

use std::ops::Range;

use demi_api::time::Instant;

use super::Soft;
use super::connect::Peer;
use super::link::{Link, Packet, Payload};
use super::rc::{Host, QueuePair, Sink};
use super::table::Stage;
use super::wire::{Deth, GSI_QKEY, Header, MAD_LEN, MAX_HEADER_LEN, Operation, Qpn};
use crate::device::{BURST, Event, Fault, Qp};

/// What has happened, in numbers.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) packets: u64,
    pub(super) malformed: u64,
    pub(super) unknown: u64,
    pub(super) connects: u64,
    pub(super) requests: u64,
    pub(super) established: u64,
    pub(super) refused: u64,
    pub(super) gone: u64,
    pub(super) failed: u64,
}

impl Counters {
    pub(super) fn visit(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let Counters { packets, malformed, unknown, connects, requests, .. } = *self;
        visit("soft_packets_in", packets);
        visit("soft_packets_malformed", malformed);
        visit("soft_packets_unknown", unknown);
        visit("soft_connects", connects);
        visit("soft_requests", requests);
        visit("soft_established", self.established);
        visit("soft_refused", self.refused);
        visit("soft_gone", self.gone);
        visit("soft_failed", self.failed);
    }
}

/// A path of a link, as queue pairs see it.
struct Way<'a, L: Link> {
    link: &'a mut L,
    path: L::Path,
    is_full: bool,
}

impl<L: Link> Sink for Way<'_, L> {
    #[inline]
    fn packet(&mut self, header: &[u8], payload: &[&[u8]]) -> bool {
        let taken = self.link.send(self.path, header, payload).is_ok();
        self.is_full = !taken;
        taken
    }
}

impl<L: Link> Soft<L> {
    pub(super) fn turn(&mut self, now: Instant, inbox: &mut Vec<Event>) -> usize {
        let before = inbox.len();
        self.table.begin_turn();
        if !self.pending.is_empty() {
            inbox.append(&mut self.pending);
        }
        self.take_in(now, inbox);
        while let Some(path) = self.link.ended() {
            self.path_ended(now, path, inbox);
        }
        if self.earliest.is_some_and(|earliest| now >= earliest) {
            self.tick(now, inbox);
        }
        if !self.due.is_empty() {
            self.send_due(now, inbox);
        }
        if !self.failed.is_empty() {
            self.end_failed(now, inbox);
        }
        self.manage(now, inbox);
        if self.link.is_up() != self.is_up {
            self.is_up = !self.is_up;
            inbox.push(if self.is_up { Event::Up } else { Event::Down(Fault::Down) });
        }
        self.table.end_turn();
        inbox.len() - before
    }

    /// Takes packets in. What is to be said to them is said later in the turn.
    #[inline]
    fn take_in(&mut self, now: Instant, inbox: &mut Vec<Event>) {
        let Soft { link, table, cm, memory, receives, due, failed, counters, mads, managed, .. } = self;
        link.receive(now, BURST, |path, packet| {
            counters.packets += 1;
            let Ok((header, range)) = Header::parse_front(packet.front(), packet.len()) else {
                counters.malformed += 1;
                return;
            };
            let Some(qp) = table.find(header.destination) else {
                match datagram(&header, packet, range) {
                    Some(mad) => mads.push((path, mad)),
                    None => counters.unknown += 1,
                }
                return;
            };
            let Some(entry) = table.get_mut(qp).filter(|entry| entry.path == path) else {
                counters.unknown += 1;
                return;
            };
            if let Stage::Answering(_) = entry.stage {
                // Its first packet says what its last message, which may be late, would have said.
                cm.heard(entry.conn, managed);
                entry.rise(qp, inbox);
            }
            let Stage::Up(pair) = &mut entry.stage else {
                counters.unknown += 1;
                return;
            };
            let mut host = Host { receives: &mut *receives, memory: &mut *memory, events: &mut *inbox };
            pair.packet(now, &header, &packet.payload(range), &mut host);
            if pair.failed().is_some() {
                failed.push(qp);
            }
            if !entry.is_due {
                entry.is_due = true;
                due.push(qp);
            }
        });
    }

    /// Sends what queue pairs have to send.
    #[inline]
    fn send_due(&mut self, now: Instant, inbox: &mut Vec<Event>) {
        self.more = false;
        std::mem::swap(&mut self.due, &mut self.round);
        while let Some(qp) = self.round.pop() {
            self.send_for(now, qp, inbox);
        }
    }

    /// Sends what one queue pair has to send.
    #[inline]
    fn send_for(&mut self, now: Instant, qp: Qp, events: &mut Vec<Event>) {
        let Soft { link, table, memory, receives, due, failed, earliest, more, .. } = self;
        let Some(entry) = table.get_mut(qp) else { return };
        entry.is_due = false;
        let Stage::Up(pair) = &mut entry.stage else { return };
        let mut is_full = false;
        if pair.is_ready() {
            let mut way = Way { link, path: entry.path, is_full: false };
            pair.transmit(now, &mut way, &mut Host { receives, memory, events });
            is_full = way.is_full;
            if pair.failed().is_some() {
                failed.push(qp);
            } else if pair.is_ready() {
                *more |= !is_full;
                entry.is_due = true;
                due.push(qp);
            }
        }
        let _ = is_full;
        note(earliest, pair.deadline());
    }

    /// Sends what was just posted.
    #[inline]
    pub(super) fn posted(&mut self, now: Instant, qp: Qp) {
        let mut events = std::mem::take(&mut self.pending);
        // Unless it waits for its turn already.
        if self.table.get(qp).is_some_and(|entry| !entry.is_due) {
            self.send_for(now, qp, &mut events);
        }
        self.pending = events;
    }

    /// Looks at the timers of all queue pairs.
    #[cold]
    fn tick(&mut self, now: Instant, inbox: &mut Vec<Event>) {
        let Soft { table, memory, receives, due, failed, earliest, .. } = self;
        *earliest = None;
        for (qp, entry) in table.all_mut() {
            let Stage::Up(pair) = &mut entry.stage else { continue };
            if pair.deadline().is_some_and(|deadline| now >= deadline) {
                pair.tick(now, &mut Host { receives, memory, events: inbox });
                if pair.failed().is_some() {
                    failed.push(qp);
                }
                if !entry.is_due {
                    entry.is_due = true;
                    due.push(qp);
                }
            }
            note(earliest, pair.deadline());
        }
    }

    #[cold]
    fn end_failed(&mut self, now: Instant, inbox: &mut Vec<Event>) {
        while let Some(qp) = self.failed.pop() {
            let fault = self.table.up(qp).and_then(|pair| pair.failed());
            if let Some(fault) = fault {
                self.counters.failed += 1;
                self.end(now, qp, fault, Peer::Told, inbox);
            }
        }
    }

    /// Lets a queue pair that is about to go say its last word, if it has one.
    pub(super) fn last_word(
        &mut self,
        now: Instant,
        path: L::Path,
        pair: &mut QueuePair,
        events: &mut Vec<Event>,
    ) {
        let Soft { link, memory, receives, .. } = self;
        if pair.is_ready() {
            let mut way = Way { link, path, is_full: false };
            pair.transmit(now, &mut way, &mut Host { receives, memory, events });
        }
    }

    /// Sends a connection manager's message. If the link takes none now it is lost, as on a network, and sent again.
    pub(super) fn send_mad(&mut self, path: L::Path, mad: &[u8; MAD_LEN]) {
        let deth = Deth { qkey: GSI_QKEY, source: Qpn::GSI };
        self.mad_psn += 1;
        let mut out = [0; MAX_HEADER_LEN];
        let len = Header::new(Qpn::GSI, self.mad_psn, Operation::Datagram(deth)).emit(MAD_LEN, &mut out);
        let _ = self.link.send(path, &out[..len], &[mad]);
    }
}

/// The earlier of what is known and what is new.
#[inline]
fn note(earliest: &mut Option<Instant>, deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        *earliest = Some(earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }
}

/// What a connection manager said, in private memory.
#[cold]
fn datagram(header: &Header, packet: &impl Packet, range: Range<usize>) -> Option<[u8; MAD_LEN]> {
    let Operation::Datagram(deth) = header.operation else { return None };
    let payload = packet.payload(range);
    if header.destination != Qpn::GSI || deth.qkey != GSI_QKEY || payload.len() != MAD_LEN {
        return None;
    }
    let mut mad = [0; MAD_LEN];
    payload.copy(0, &mut mad);
    Some(mad)
}
