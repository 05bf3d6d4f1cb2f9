//! A TCP peer made by hand: it keeps count of both directions, so that whoever plays it can stick to them or not.

use std::net::SocketAddr;

use demi_api::QDesc;

use super::host::{self, Host, MTU};
use super::packet::{self, Tcp, flag, protocol, sound};

/// Options of a SYN: MSS 1460, window scale 7, SACK permitted, timestamps.
pub const OPTIONS: &[u8] = &[2, 4, 5, 180, 3, 3, 7, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1];

/// One connection, as the instance's peer sees it.
#[derive(Clone, Debug)]
pub struct Talk {
    /// The peer's end.
    pub local: SocketAddr,
    /// The instance's end.
    pub remote: SocketAddr,
    /// The peer's next sequence number.
    pub seq: u32,
    /// The instance's next sequence number, as far as it has arrived in order.
    pub ack: u32,
    /// What the instance has acknowledged last.
    pub acked: u32,
    /// The window to advertise, as it stands in the header.
    pub window: u16,
    /// The window that the instance advertised last, as it stood in the header.
    pub offered: u16,
    /// The instance's last timestamp, if it sends any, and the peer's clock.
    pub stamp: Option<(u32, u32)>,
    /// What the instance has sent, in order; not more than the first MiB of it.
    pub received: Vec<u8>,
    /// The instance has sent its FIN, or a RST.
    pub ended: bool,
    /// The instance has sent a RST.
    pub reset: bool,
}

impl Talk {
    /// The peer calls: a SYN with `options` from a port of its to one of the instance's. `None`: it is not answered.
    pub fn call(host: &mut Host, v6: bool, from: u16, to: u16, options: &[u8]) -> Option<Talk> {
        let mut talk = Talk::new(v6, from, to);
        host.exchange();
        talk.say(host, &Tcp { flags: flag::SYN, options, ..talk.segment() });
        talk.seq += 1;
        let frames = host.exchange();
        if !frames.iter().fold(false, |heard, frame| talk.hear(frame) | heard) || talk.reset {
            return None;
        }
        talk.acknowledge(host);
        host.exchange();
        Some(talk)
    }

    /// The instance calls from `qd`, which is not connected, and the peer answers with `options`. `None`: it did not call.
    pub fn answer(host: &mut Host, v6: bool, qd: QDesc, port: u16, options: &[u8]) -> Option<Talk> {
        let (_, peer) = host::pair(v6);
        let connect = host.demi.connect(qd, SocketAddr::new(peer, port)).ok()?;
        let mut talk = Talk::new(v6, port, 0);
        for frame in host.exchange() {
            let syn = segment(&frame).filter(|(_, _, tcp)| tcp.to == port && tcp.flags == flag::SYN);
            if let Some((_, _, tcp)) = syn {
                talk.remote.set_port(tcp.from);
                talk.hear(&frame);
            }
        }
        if talk.remote.port() == 0 {
            return None;
        }
        talk.say(host, &Tcp { flags: flag::SYN | flag::ACK, options, ..talk.segment() });
        talk.seq += 1;
        for frame in host.exchange() {
            talk.hear(&frame);
        }
        host.result(connect)?.result.ok()?;
        Some(talk)
    }

    fn new(v6: bool, from: u16, to: u16) -> Talk {
        let (host, peer) = host::pair(v6);
        Talk {
            local: SocketAddr::new(peer, from),
            remote: SocketAddr::new(host, to),
            seq: 1000,
            ack: 0,
            acked: 0,
            window: 0x4000,
            offered: 0,
            stamp: None,
            received: Vec::new(),
            ended: false,
            reset: false,
        }
    }

    /// What a segment of the peer's looks like now: to be changed and [said](Talk::say).
    pub fn segment(&self) -> Tcp<'static> {
        Tcp {
            from: self.local.port(),
            to: self.remote.port(),
            seq: self.seq,
            ack: self.ack,
            flags: flag::ACK,
            window: self.window,
            options: &[],
            payload: &[],
        }
    }

    /// The timestamps option as it should be now; empty if there is none.
    pub fn stamps(&self) -> Vec<u8> {
        let Some((theirs, ours)) = self.stamp else { return Vec::new() };
        [&[1, 1, 8, 10][..], &ours.to_be_bytes(), &theirs.to_be_bytes()].concat()
    }

    /// Lets a segment arrive, whatever it says, with the checksum right and the timestamps option in front of its own if
    /// it is no SYN and has none. False: there is no memory for it.
    pub fn say(&self, host: &mut Host, tcp: &Tcp<'_>) -> bool {
        let stamps =
            if tcp.flags & flag::SYN == 0 && tcp.option(8).is_none() { self.stamps() } else { vec![] };
        let options = [&stamps, tcp.options].concat();
        self.say_exactly(host, &Tcp { options: &options, ..*tcp })
    }

    /// The same without the timestamps.
    pub fn say_exactly(&self, host: &mut Host, tcp: &Tcp<'_>) -> bool {
        host.arrive_ip(packet::ip(self.local.ip(), self.remote.ip(), protocol::TCP, &tcp.emit()))
    }

    /// Sends data as it should be sent.
    pub fn send(&mut self, host: &mut Host, payload: &[u8]) -> bool {
        let arrived = self.say(host, &Tcp { payload, flags: flag::ACK | flag::PSH, ..self.segment() });
        self.seq = self.seq.wrapping_add(payload.len() as u32);
        arrived
    }

    /// Says what has arrived.
    pub fn acknowledge(&mut self, host: &mut Host) -> bool {
        if let Some((_, ours)) = &mut self.stamp {
            *ours += 1;
        }
        self.say(host, &self.segment())
    }

    /// Takes in what the instance sent, if it is of this connection.
    pub fn hear(&mut self, frame: &[u8]) -> bool {
        let Some((from, to, tcp)) = segment(frame) else { return false };
        let ends = (SocketAddr::new(from, tcp.from), SocketAddr::new(to, tcp.to));
        if ends != (self.remote, self.local) {
            return false;
        }
        if tcp.flags & flag::RST != 0 {
            (self.reset, self.ended) = (true, true);
            return true;
        }
        if let Some([a, b, c, d, ..]) = tcp.option(8) {
            let theirs = u32::from_be_bytes([*a, *b, *c, *d]);
            self.stamp = Some((theirs, self.stamp.map_or(1, |(_, ours)| ours)));
        }
        if tcp.flags & flag::ACK != 0 {
            (self.acked, self.offered) = (tcp.ack, tcp.window);
        }
        if tcp.flags & flag::SYN != 0 {
            self.ack = tcp.seq.wrapping_add(1);
        } else if tcp.seq == self.ack {
            self.ack = self.ack.wrapping_add(tcp.space());
            if self.received.len() < 1 << 20 {
                self.received.extend(tcp.payload);
            }
            self.ended |= tcp.flags & flag::FIN != 0;
        }
        true
    }

    /// Settles, and takes in what the instance sent to this connection.
    pub fn listen(&mut self, host: &mut Host) -> usize {
        host.exchange().iter().filter(|frame| self.hear(frame)).count()
    }
}

/// The TCP segment in a frame, and its addresses.
pub fn segment(frame: &[u8]) -> Option<(std::net::IpAddr, std::net::IpAddr, Tcp<'_>)> {
    let sent = sound(frame, MTU)?;
    if sent.protocol != protocol::TCP || sent.fragment {
        return None;
    }
    Tcp::parse(sent.payload).map(|tcp| (sent.from, sent.to, tcp))
}
