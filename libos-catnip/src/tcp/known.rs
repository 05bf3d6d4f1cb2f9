//! The short way up for the next segment of a conversation that is under way.
//!
//! Invariant: what passes here would come out of [`Tcp::receive`] with the same result; whatever there could be a question
//! about is left to that, with nothing changed. A flow names its connection by a key, which outlives neither the
//! connection nor its place in the table of ends.

use std::net::IpAddr;

use demi_api::sga::SgArray;

use super::PROTOCOL;
use super::conn::Io;
use super::demux::Ends;
use super::expected::Next;
use super::segment::{Flags, HEADER, TIMESTAMPS};
use super::seq::SeqNum;
use super::sockets::{Env, Socket, Tcp};
use crate::device::Checksum;
use crate::flow::{self, Flow, half, word};
use crate::ip::{ETHERNET, IPV4};

/// Where the TCP header begins, and where the text does, with timestamps as the only option.
const SEGMENT: usize = ETHERNET + IPV4;
const TEXT: usize = SEGMENT + HEADER + TIMESTAMPS;

/// Length of the header and flags, where the header has them, of a segment that acknowledges and no more.
pub(super) const PLAIN: u16 = (((HEADER + TIMESTAMPS) / 4) << 12) as u16 | Flags::ACK.0 as u16;

/// What timestamps begin with where they are aligned.
pub(super) const ALIGNED: u32 = 0x0101_080a;

impl Tcp {
    /// Takes a frame, if it is the next of a known flow. False: nothing was done.
    #[inline(always)]
    pub(crate) fn receive_known(
        &mut self,
        env: &mut Env<'_, '_>,
        data: &mut SgArray,
        checksum: Checksum,
    ) -> bool {
        let Some(only) = data.single_mut() else { return false };
        let Some(head) = only.first_chunk::<TEXT>() else { return false };
        let Some(key) = self.flows.find(head, env.ip.epoch()) else { return false };
        let Some(end) = flow::end_of(head, only.len(), PROTOCOL) else { return false };
        // No flag that means anything, and the option laid out as RFC 7323 Appendix A recommends.
        let flags = half(head, SEGMENT + 12);
        let plain = flags & !u16::from(Flags::PSH.0) == PLAIN
            && word(head, SEGMENT + HEADER) == ALIGNED
            && end >= TEXT;
        if !plain || !flow::is_sound(&only[..end], PROTOCOL, checksum) {
            return false;
        }
        let next = Next {
            seq: SeqNum(word(head, SEGMENT + 4)),
            ack: SeqNum(word(head, SEGMENT + 8)),
            window: half(head, SEGMENT + 14),
            timestamps: Some((word(head, TEXT - 8), word(head, TEXT - 4))),
            len: (end - TEXT) as u32,
            pushed: flags & u16::from(Flags::PSH.0) != 0,
        };
        let ecn = head[ETHERNET + 1] & 3;
        let Some(Socket::Connection(entry)) = self.sockets.get_mut(key) else { return false };
        if !entry.conn.expects(&next, ecn) {
            return false;
        }
        only.keep(TEXT..end);
        env.ip.count_delivered();
        self.counters.received += 1;
        let mut io = Io { cx: env.cx, ip: env.ip, counters: &mut self.counters };
        entry.conn.take_expected(&mut io, &next, data);
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
