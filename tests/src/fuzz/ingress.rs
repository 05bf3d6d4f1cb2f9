//! Any frames, into an instance that has something to lose: a listener, a connection of either version, datagram
//! sockets, and in one variant only what DHCP and routers give it.

use std::time::Duration;

use demi_api::SocketKind;
use demi_libos_catnip::device::Checksum;

use super::host::{Host, MAC, pair};
use super::input::Input;
use super::packet::{self, mend};
use super::script::dhcp_reply;
use super::talk::{OPTIONS, Talk};

/// What stands before each frame: how many bytes it has, in two, and what is done to it and after it.
///
/// Bit 0: its checksums are made right; bit 1: it is to us; bit 2: the NIC vouches for it; bit 3: the NIC gives it in two
/// buffers; bits 4 to 7: how much time passes then.
pub fn ingress(data: &[u8]) {
    let mut input = Input::new(data);
    let mut host = match input.byte() % 4 {
        0 => unconfigured(),
        variant => inhabited(variant == 1),
    };
    while !input.is_empty() {
        let (len, how) = (usize::from(input.half()), input.byte());
        let mut frame = input.take(len.min(9018)).to_vec();
        if how & 2 != 0 && frame.len() >= 6 {
            frame[..6].copy_from_slice(&MAC);
        }
        if how & 1 != 0 {
            mend(&mut frame);
        }
        let cut = if how & 8 != 0 { frame.len() / 2 } else { frame.len() };
        let checksum = if how & 4 != 0 { Checksum::Verified } else { Checksum::Unknown };
        if !frame.is_empty() {
            host.arrive_in_parts(&frame, cut, checksum);
        }
        match how >> 4 {
            // What comes together.
            0..4 => {}
            scale => host.pass(Duration::from_micros(1 << (2 * scale - 8))),
        }
    }
    host.settle();
    assert!(host.counter("ip_neighbours") <= 16);
    host.end();
}

const LIMITS: &str = "neighbours_max = 16\nfragments_max = 4\nfragments_bytes = 65536\nneighbour_queue_bytes = 65536\n\
                      path_mtus_max = 4\n";

/// Half way to an address, and to a router.
fn unconfigured() -> Host {
    let mut host = Host::new(4, "", &format!("dhcp = true\nslaac = true\n{LIMITS}"));
    for kind in [2, 5] {
        host.settle();
        let question = host.take().into_iter().rev().find_map(|frame| dhcp_reply(&frame, kind, &[]));
        question.map(|reply| host.arrive(&reply));
    }
    host
}

/// With a connection that has data under way in both directions.
fn inhabited(v6: bool) -> Host {
    let ip = format!("addresses = [\"10.0.0.1/24\", \"fd00::1/64\"]\n{LIMITS}");
    let mut host = Host::new(4, "recv_buffer = 8192", &ip);
    let listener = host.socket(v6, SocketKind::Stream, 80);
    host.tokens.push(host.demi.accept(listener).expect("it listens"));
    let mut talk = Talk::call(&mut host, v6, 4000, 80, OPTIONS).expect("somebody listens");
    let accepted = host.reap().remove(0).accepted().expect("it was called");
    host.socket(v6, SocketKind::Datagram, 53);
    talk.send(&mut host, b"some of it arrived");
    host.tokens.push(
        host.demi
            .push(accepted.0, host.demi.copy_from(&[7; 3000]).expect("there is memory"))
            .expect("it is open"),
    );
    let (own, peer) = pair(v6);
    host.arrive_ip(packet::ip(peer, own, packet::protocol::UDP, &packet::udp(9, 53, b"hello")));
    host.settle();
    host.take();
    host
}
