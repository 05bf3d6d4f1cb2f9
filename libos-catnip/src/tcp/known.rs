//! The short way up for the next segment of a conversation that is under way.
//!
//! Invariant: what passes here would come out of [`Tcp::receive`] with the same result; whatever there could be a question
//! about is left to that, with nothing changed. A flow names its connection by a key, which outlives neither the
//! connection nor its place in the table of ends.

use std::net::IpAddr;

use super::PROTOCOL;
use super::conn::Io;
use super::demux::Ends;
use super::expected::Next;
use super::segment::{Flags, HEADER, TIMESTAMPS};
use super::seq::SeqNum;
use super::sockets::{Env, Socket, Tcp};
use crate::device::Frame;
use crate::flow::{self, Flow, half, word};
use crate::ip::{ETHERNET, IPV4};

/// Where the TCP header begins, and where the text does, with timestamps as the only option.
const SEGMENT: usize = ETHERNET + IPV4;
const TEXT: usize = SEGMENT + HEADER + TIMESTAMPS;

/// Length of the header, in words, where the header has it.
const OFFSET: u8 = (((HEADER + TIMESTAMPS) / 4) << 4) as u8;

impl Tcp {
    /// Takes a frame, if it is the next of a known flow. False: nothing was done.
    #[inline(always)]
    pub(crate) fn receive_known(&mut self, env: &mut Env<'_, '_>, frame: &mut Frame) -> bool {
        let [only] = frame.data.segments() else { return false };
        let Some(head) = only.first_chunk::<TEXT>() else { return false };
        let Some(key) = self.flows.find(head, env.ip.epoch()) else { return false };
        let Some(end) = flow::end_of(only, PROTOCOL) else { return false };
        let flags = head[SEGMENT + 13];
        // No flag that means anything, and the option laid out as RFC 7323 Appendix A recommends.
        let plain = flags & !Flags::PSH.0 == Flags::ACK.0
            && head[SEGMENT + 12] == OFFSET
            && word(head, SEGMENT + HEADER) == 0x0101_080a
            && end >= TEXT;
        if !plain || !flow::is_sound(&only[..end], PROTOCOL, frame.checksum) {
            return false;
        }
        let next = Next {
            seq: SeqNum(word(head, SEGMENT + 4)),
            ack: SeqNum(word(head, SEGMENT + 8)),
            window: half(head, SEGMENT + 14),
            timestamps: Some((word(head, TEXT - 8), word(head, TEXT - 4))),
            len: (end - TEXT) as u32,
            pushed: flags & Flags::PSH.0 != 0,
        };
        let ecn = head[ETHERNET + 1] & 3;
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else { return false };
        if !entry.conn.expects(&next, ecn) {
            return false;
        }
        env.ip.count_delivered();
        self.counters.received += 1;
        if let [only] = frame.data.segments_mut() {
            only.keep(TEXT..end);
        }
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        entry.conn.take_expected(&mut io, &next, &mut frame.data);
        entry.settle_timers(env.cx.now, key, &mut self.soon, &mut self.wheel);
        true
    }

    /// Notes a packet between these addresses that was of no known flow.
    pub(crate) fn note_flow(&mut self, flow: &Flow, local: IpAddr, remote: IpAddr) {
        if !self.flows.note(flow) {
            return;
        }
        let (remote_port, local_port) = flow.ports();
        let Some(key) = self.demux.find(&Ends { local, remote, local_port, remote_port }) else { return };
        if let Some(Socket::Connection(_)) = self.sockets.get(key) {
            self.flows.learn(flow, key);
        }
    }
}
