//! Frames that fit what the instance does, between calls of its application: the right addresses, ports, sequence numbers
//! and checksums, but for what the input changes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use demi_api::{QDesc, Shutdown, SocketKind, SocketOption};
use demi_libos_catnip::device::Checksum;

use super::host::{HOST4, HOST6, Host, MAC, MTU, PEER_MAC, PEER4, PEER6, arp, pair};
use super::input::Input;
use super::packet::{self, BROADCAST, Tcp, flag, kind, protocol};
use super::talk::{OPTIONS, Talk};

/// Connections at a time, and operations.
const TALKS: usize = 6;
const TOKENS: usize = 64;

const LISTENS: u16 = 80;
const DATAGRAMS: u16 = 53;

/// An instance, its application, and its peer, all driven by the input.
struct Play<'a> {
    input: Input<'a>,
    host: Host,
    talks: Vec<Talk>,
    datagrams: [QDesc; 2],
    listeners: [QDesc; 2],
    /// What the instance has sent last.
    last: Vec<u8>,
    /// Whether the NIC vouches for checksums.
    checksum: Checksum,
    cut: usize,
}

/// Commands of one byte each, with what they need behind them, to the end of the input; then everything is closed, and
/// nothing may be left.
pub fn script(data: &[u8]) {
    let mut input = Input::new(data);
    let variant = input.byte();
    let mut more = String::new();
    if variant & 1 != 0 {
        more += "congestion = \"newreno\"\n";
    }
    if variant & 2 != 0 {
        more += "recv_buffer = 4096\nsend_buffer = 4096\n";
    }
    if variant & 64 != 0 {
        more += "ecn = \"on\"\n";
    }
    if variant & 128 != 0 {
        more += "syn_cookies = \"always\"\n";
    }
    let mut ip = String::from("neighbours_max = 16\nfragments_max = 4\npath_mtus_max = 4\n");
    ip += "addresses = [\"10.0.0.1/24\", \"fd00::1/64\"]\n";
    if variant & 4 != 0 {
        ip += "dhcp = true\nslaac = true\ngateway4 = \"10.0.0.2\"\ngateway6 = \"fd00::2\"\n";
    }
    let mut host = Host::new(if variant & 8 != 0 { 2 } else { 4 }, &more, &ip);
    host.room = if variant & 16 != 0 { 2048 } else { 0 };
    let sockets = |host: &mut Host, kind, port| [false, true].map(|v6| host.socket(v6, kind, port));
    let listeners = sockets(&mut host, SocketKind::Stream, LISTENS);
    let datagrams = sockets(&mut host, SocketKind::Datagram, DATAGRAMS);
    let mut play = Play {
        input,
        host,
        talks: Vec::new(),
        datagrams,
        listeners,
        last: Vec::new(),
        checksum: Checksum::Unknown,
        cut: MTU,
    };
    for listener in listeners {
        play.host.tokens.push(play.host.demi.accept(listener).expect("it listens"));
    }
    play.call(variant & 32 != 0, OPTIONS);
    while !play.input.is_empty() {
        play.step();
        play.listen();
    }
    for name in ["ip_neighbours", "ip_reassembling"] {
        assert!(play.host.counter(name) <= 16, "{name}");
    }
    play.host.end();
}

impl Play<'_> {
    fn step(&mut self) {
        match self.input.byte() % 32 {
            0 => {
                let scale = self.input.byte() % 38;
                self.host.pass(Duration::from_nanos(1 << scale));
            }
            1 => {
                self.host.to_deadline();
            }
            2 | 3 => self.segment(),
            4 => self.with_talk(|talk, host| {
                talk.acknowledge(host);
            }),
            5 => {
                let len = usize::from(self.input.half()) % 1449;
                self.with_talk(|talk, host| {
                    talk.send(host, &vec![len as u8; len]);
                });
            }
            6 => self.finish(),
            7 | 8 => self.push(),
            9 => self.pop(),
            10 => self.close(),
            11 => self.option(),
            12 => {
                let v6 = self.input.byte() & 1 != 0;
                let options = self.input.run();
                self.call(v6, options);
            }
            13 => {
                let v6 = self.input.byte() & 1 != 0;
                self.call(v6, OPTIONS);
            }
            14 => self.connect(),
            15 => {
                let listener = self.listeners[usize::from(self.input.byte() & 1)];
                if self.host.tokens.len() < TOKENS
                    && let Ok(accept) = self.host.demi.accept(listener)
                {
                    self.host.tokens.push(accept);
                }
            }
            16 => {
                let (v6, to, len) = (self.input.byte() & 1 != 0, self.port(), self.input.half());
                let payload = vec![1; usize::from(len) % 1453];
                let (own, peer) = pair(v6);
                self.packet(packet::ip(peer, own, protocol::UDP, &packet::udp(9, to, &payload)));
            }
            17 => self.push_datagram(),
            18 => self.ipv4(),
            19 => self.ipv6(),
            20 => {
                let bytes = self.input.run().to_vec();
                self.frame(&bytes);
            }
            21 => self.icmp_error(),
            22 => {
                let mut mirrored = self.last.clone();
                if mirrored.len() > 34 {
                    mirrored[..6].copy_from_slice(&MAC);
                    let (at, value) = (usize::from(self.input.half()) % mirrored.len(), self.input.byte());
                    mirrored[at] ^= value;
                    packet::mend(&mut mirrored);
                    self.frame(&mirrored);
                }
            }
            23 => {
                let (operation, mac, addr) = (self.input.byte(), self.input.byte(), self.input.byte());
                let addr = Ipv4Addr::new(10, 0, 0, addr);
                self.frame(&arp(operation & 3, [2, 0, 0, 0, 0, mac], addr));
            }
            24 => self.ndp(),
            25 => {
                let (kind, options) = (self.input.byte(), self.input.run());
                if let Some(reply) = dhcp_reply(&self.last, kind, options) {
                    self.frame(&reply);
                }
            }
            26 => {
                let place = usize::from(self.input.byte());
                if let Some(token) = self.host.tokens.get(place) {
                    // What is too far under way says so.
                    let _ = self.host.demi.cancel(*token);
                }
            }
            27 => {
                let stuck = self.input.byte() & 1 != 0;
                self.host.stick(stuck);
            }
            28 => self.fragments(),
            29 => {
                let what = self.input.byte();
                self.checksum = match what % 4 {
                    0 | 1 => Checksum::Unknown,
                    2 => Checksum::Verified,
                    _ => Checksum::Partial { start: self.input.half() % 64, at: self.input.half() % 64 },
                };
                self.cut = if what & 4 != 0 { 128 } else { MTU };
            }
            30 => self.trickle(),
            _ => {
                let window = self.input.half();
                self.with_talk(|talk, _| talk.window = window);
            }
        }
    }

    /// Takes in what the instance has sent.
    fn listen(&mut self) {
        for frame in self.host.exchange() {
            for talk in &mut self.talks {
                talk.hear(&frame);
            }
            self.last = frame;
        }
        self.host.reap();
    }

    fn frame(&mut self, frame: &[u8]) {
        if !frame.is_empty() {
            self.host.arrive_in_parts(frame, self.cut, self.checksum);
        }
    }

    fn packet(&mut self, (kind, packet): (u16, Vec<u8>)) {
        self.frame(&packet::ethernet(MAC, PEER_MAC, kind, &packet));
    }

    fn with_talk(&mut self, then: impl FnOnce(&mut Talk, &mut Host)) {
        let which = usize::from(self.input.byte());
        let count = self.talks.len().max(1);
        if let Some(talk) = self.talks.get_mut(which % count) {
            then(talk, &mut self.host);
        }
    }

    fn remember(&mut self, talk: Option<Talk>) {
        let Some(talk) = talk else { return };
        if self.talks.len() == TALKS {
            self.talks.remove(0);
        }
        self.talks.push(talk);
    }

    fn call(&mut self, v6: bool, options: &[u8]) {
        let port = 4000 + u16::from(self.input.byte());
        let talk = Talk::call(&mut self.host, v6, port, LISTENS, options);
        self.remember(talk);
    }

    fn connect(&mut self) {
        let (v6, options) = (self.input.byte() & 1 != 0, self.input.run());
        if self.host.open.len() >= 32 {
            return;
        }
        let qd = self.host.socket(v6, SocketKind::Stream, 0);
        if options.is_empty() {
            // Left for the input to answer.
            let to = SocketAddr::new(pair(v6).1, 7001);
            self.host.tokens.extend(self.host.demi.connect(qd, to));
            return;
        }
        let options = if options.len() == 1 { OPTIONS } else { options };
        let talk = Talk::answer(&mut self.host, v6, qd, 7000, options);
        self.remember(talk);
    }

    /// A segment that is right but for what the input says.
    fn segment(&mut self) {
        let (how, flags) = (self.input.byte(), self.input.byte());
        let (seq, ack) = (self.input.offset(), self.input.offset());
        let window = if how & 1 != 0 { Some(self.input.half()) } else { None };
        let mut options = if how & 2 != 0 { self.input.run().to_vec() } else { Vec::new() };
        let blocks = usize::from(how >> 2 & 3);
        let offsets: Vec<u32> = (0..2 * blocks).map(|_| self.input.offset()).collect();
        let len = match how >> 4 {
            8.. => usize::from(self.input.byte()),
            _ => 0,
        };
        let (bare, from_edge) = (how & 16 != 0, how & 32 != 0);
        self.with_talk(|talk, host| {
            if blocks > 0 {
                options.extend([1, 1, 5, 2 + 8 * blocks as u8]);
                options
                    .extend(offsets.iter().flat_map(|offset| talk.ack.wrapping_add(*offset).to_be_bytes()));
            }
            let base = if from_edge { talk.acked } else { talk.seq };
            let tcp = Tcp {
                flags,
                seq: base.wrapping_add(seq),
                ack: talk.ack.wrapping_add(ack),
                window: window.unwrap_or(talk.window),
                options: &options,
                payload: &vec![3; len],
                ..talk.segment()
            };
            if bare {
                talk.say_exactly(host, &tcp)
            } else {
                talk.say(host, &tcp)
            };
        });
    }

    /// The peer's FIN, or RST.
    fn finish(&mut self) {
        let flags = if self.input.byte() & 1 == 0 { flag::FIN | flag::ACK } else { flag::RST };
        self.with_talk(|talk, host| {
            talk.say(host, &Tcp { flags, ..talk.segment() });
            talk.seq = talk.seq.wrapping_add(1);
        });
    }

    /// Many segments of few bytes, in order or with holes between them.
    fn trickle(&mut self) {
        let (count, step) = (self.input.byte(), self.input.byte());
        self.with_talk(|talk, host| {
            for index in 0..u32::from(count) {
                let seq = talk.seq.wrapping_add(index * u32::from(step));
                talk.say(host, &Tcp { seq, payload: &[index as u8], ..talk.segment() });
            }
        });
    }

    fn queue(&mut self) -> Option<QDesc> {
        let which = usize::from(self.input.byte());
        self.host.open.get(which % self.host.open.len().max(1)).copied()
    }

    fn port(&mut self) -> u16 {
        match self.input.byte() {
            0..192 => DATAGRAMS,
            192..224 => 68,
            _ => self.input.half(),
        }
    }

    fn push(&mut self) {
        let len = match self.input.byte() {
            len @ 0..128 => usize::from(len),
            len => (usize::from(len) - 127) * 200,
        };
        let Some(qd) = self.queue().filter(|_| self.host.tokens.len() < TOKENS) else { return };
        // A full heap, or a queue that takes no pushes now, says so.
        let Ok(sga) = self.host.demi.copy_from(&vec![5; len]) else { return };
        self.host.tokens.extend(self.host.demi.push(qd, sga));
    }

    fn push_datagram(&mut self) {
        let (which, to, len) = (self.input.byte(), self.input.byte(), self.input.half());
        let v6 = which & 1 != 0;
        let addr: IpAddr = match (to, v6) {
            (0..128, _) => pair(v6).1,
            (128..160, _) => pair(v6).0,
            (to, false) => Ipv4Addr::new(10, to & 3, 0, to).into(),
            (to, true) => [0xfe80, 0, 0, 0, 0, 0, 0, u16::from(to)].into(),
        };
        let Ok(sga) = self.host.demi.copy_from(&vec![6; usize::from(len)]) else { return };
        let to = SocketAddr::new(addr, DATAGRAMS);
        self.host.tokens.extend(self.host.demi.push_to(self.datagrams[usize::from(v6)], sga, to));
    }

    fn pop(&mut self) {
        let limit = usize::from(self.input.half());
        let Some(qd) = self.queue().filter(|_| self.host.tokens.len() < TOKENS) else { return };
        self.host.tokens.extend(self.host.demi.pop_n(qd, limit));
    }

    /// Of a connection, that is; the sockets that all begins with stay.
    fn close(&mut self) {
        let how = self.input.byte();
        let Some(qd) = self.queue() else { return };
        let all = [self.listeners, self.datagrams];
        if all.as_flattened().contains(&qd) {
            return;
        }
        // What is not connected says so.
        let _ = match how % 4 {
            0 => self.host.demi.shutdown(qd, Shutdown::Write),
            1 => self.host.demi.shutdown(qd, Shutdown::Read),
            _ => {
                self.host.close(qd);
                Ok(())
            }
        };
    }

    fn option(&mut self) {
        let (what, value) = (self.input.byte(), self.input.word());
        let Some(qd) = self.queue() else { return };
        let time = Duration::from_millis(u64::from(value) % 100_000);
        let option = match what % 8 {
            0 => SocketOption::Linger(Some(time)),
            1 => SocketOption::KeepAlive(value & 1 != 0),
            2 => SocketOption::KeepIdle(time),
            3 => SocketOption::KeepInterval(time),
            4 => SocketOption::SendBuffer(value as usize),
            5 => SocketOption::RecvBuffer(value as usize),
            6 => SocketOption::MaxSegment(value),
            _ => SocketOption::UserTimeout(time),
        };
        // A datagram socket knows few of them.
        let _ = self.host.demi.set_option(qd, option);
    }

    fn ipv4(&mut self) {
        let (protocol, fragment, ident) = (self.input.byte(), self.input.half(), self.input.byte());
        let mut payload = self.input.run().to_vec();
        if fragment & 0x3fff == 0 {
            packet::seal(PEER4.into(), HOST4.into(), protocol, &mut payload);
        }
        self.packet((kind::IPV4, packet::ipv4(PEER4, HOST4, protocol, ident.into(), fragment, &payload)));
    }

    fn ipv6(&mut self) {
        let (next, hops) = (self.input.byte(), self.input.byte());
        let payload = self.input.run();
        let packet = packet::ipv6(PEER6, HOST6, next, hops, payload);
        let mut frame = packet::ethernet(MAC, PEER_MAC, kind::IPV6, &packet);
        packet::mend(&mut frame);
        self.frame(&frame);
    }

    /// About what the instance has sent last.
    fn icmp_error(&mut self) {
        let (what, code, more) = (self.input.byte(), self.input.byte(), self.input.word());
        let quoted = usize::from(self.input.byte());
        let Some(packet) = self.last.get(14..).filter(|packet| packet.len() >= 20) else { return };
        let v6 = packet[0] >> 4 == 6;
        let mut message = vec![what, code, 0, 0];
        message.extend(more.to_be_bytes());
        message.extend(packet.iter().take(if quoted == 0 { 512 } else { quoted }));
        let (own, peer) = pair(v6);
        self.packet(packet::ip(peer, own, if v6 { protocol::ICMP6 } else { protocol::ICMP }, &message));
    }

    fn ndp(&mut self) {
        let (what, flags, from) = (self.input.byte(), self.input.byte(), self.input.byte());
        let mut message = vec![133 + what % 5, flags, 0, 0];
        message.extend(self.input.run());
        let from = if from & 1 != 0 { PEER6 } else { [0xfe80, 0, 0, 0, 0, 0, 0, 2].into() };
        let (kind, packet) = packet::ip(from.into(), HOST6.into(), protocol::ICMP6, &message);
        let mut frame = packet::ethernet(MAC, PEER_MAC, kind, &packet);
        frame[14 + 7] = 255;
        self.frame(&frame);
    }

    /// A datagram in pieces, of which the input says where each begins and ends.
    fn fragments(&mut self) {
        let (v6, ident, len) = (self.input.byte() & 1 != 0, self.input.byte(), self.input.half());
        let mut datagram = packet::udp(9, DATAGRAMS, &vec![8; usize::from(len) % 8000]);
        let (own, peer) = pair(v6);
        packet::seal(peer, own, protocol::UDP, &mut datagram);
        for _ in 0..self.input.byte() % 8 {
            let (begin, count, more) = (self.input.byte(), self.input.byte(), self.input.byte());
            let begin = (usize::from(begin) * 8).min(datagram.len());
            let end = (begin + usize::from(count) * 8).min(datagram.len());
            let more = if more == 255 { 0 } else { u16::from(end < datagram.len()) };
            let part = &datagram[begin..end];
            let packet = if v6 {
                let mut payload = vec![protocol::UDP, 0];
                payload.extend((begin as u16 | more).to_be_bytes());
                payload.extend([0, 0, 0, ident]);
                payload.extend(part);
                (kind::IPV6, packet::ipv6(PEER6, HOST6, protocol::FRAGMENT, 64, &payload))
            } else {
                let field = more << 13 | (begin / 8) as u16;
                (kind::IPV4, packet::ipv4(PEER4, HOST4, protocol::UDP, ident.into(), field, part))
            };
            self.packet(packet);
        }
    }
}

/// A server's answer of type `what` to a DHCP message of the instance's, which offers it 10.0.0.1 for an hour, but for what
/// `options` say before that.
pub(super) fn dhcp_reply(frame: &[u8], what: u8, options: &[u8]) -> Option<Vec<u8>> {
    let message = frame.get(42..)?;
    if frame[12..14] != [8, 0]
        || frame[23] != protocol::UDP
        || frame[36..38] != [0, 67]
        || message.len() < 240
    {
        return None;
    }
    let mut reply = message[..236].to_vec();
    reply[0] = 2;
    reply[16..20].copy_from_slice(&HOST4.octets());
    reply.extend([99, 130, 83, 99, 53, 1, what]);
    reply.extend(options);
    reply.extend([54, 4, 10, 0, 0, 2, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 0, 2, 51, 4, 0, 0, 14, 16, 255]);
    let (kind, packet) =
        packet::ip(PEER4.into(), Ipv4Addr::BROADCAST.into(), protocol::UDP, &packet::udp(67, 68, &reply));
    Some(packet::ethernet(BROADCAST, PEER_MAC, kind, &packet))
}
