//! The redirect program, frame by frame: on an interpreter here, and on the kernel's machine where that is permitted.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Once;

use demi_api::fd::Fd;

use super::net::announce;
use super::sys::run;
use crate::device::xdp::asm::*;
use crate::device::xdp::program::{Flows, Insn, XDP_PASS, assemble};
use crate::device::xdp::socket::Socket;
use crate::device::xdp::sys::{create_socket_map, load_program, set_socket};

const OURS4: [u8; 4] = [10, 1, 2, 3];
const ALSO4: [u8; 4] = [192, 168, 200, 254];
const PEER4: [u8; 4] = [10, 1, 2, 9];
const OURS6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xaa, 0xbb, 0xcc, 0xdd];
const PEER6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const SOLICITED: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xbb, 0xcc, 0xdd];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const PORTS: [RangeInclusive<u16>; 2] = [7000..=7009, 80..=80];

fn addresses() -> Vec<IpAddr> {
    vec![OURS4.into(), ALSO4.into(), OURS6.into()]
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &kind.to_be_bytes()[..], payload].concat()
}

fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, operation];
    ethernet(0x0806, &[&fixed[..], &[2, 0, 0, 0, 0, 2], &sender, &[0; 6], &target].concat())
}

/// `fragment`: flags and offset.
fn packet4(protocol: u8, from: [u8; 4], to: [u8; 4], fragment: u16, options: usize, body: &[u8]) -> Vec<u8> {
    let [high, low] = fragment.to_be_bytes();
    let len = (20 + options + body.len()) as u8;
    let version = 0x45 + (options / 4) as u8;
    let fixed = [version, 0, 0, len, 0, 1, high, low, 64, protocol, 0, 0];
    [&fixed[..], &from, &to, &vec![1; options], body].concat()
}

fn ipv4(protocol: u8, to: [u8; 4], fragment: u16, options: usize, body: &[u8]) -> Vec<u8> {
    ethernet(0x0800, &packet4(protocol, PEER4, to, fragment, options, body))
}

fn packet6(next: u8, from: [u8; 16], to: [u8; 16], body: &[u8]) -> Vec<u8> {
    [&[0x60, 0, 0, 0, 0, body.len() as u8, next, 255], &from[..], &to, body].concat()
}

fn ipv6(next: u8, to: [u8; 16], body: &[u8]) -> Vec<u8> {
    ethernet(0x86dd, &packet6(next, PEER6, to, body))
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 4]].concat()
}

fn icmp(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0], body].concat()
}

fn solicitation(target: [u8; 16]) -> Vec<u8> {
    icmp(135, &target)
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat()
}

/// What it is, the frame, and whether it is taken: with own addresses, and with the ports of shared ones.
fn cases() -> Vec<(&'static str, Vec<u8>, bool, bool)> {
    let udp = |port| ports(5555, port);
    // An error's quotation: a packet that we sent.
    let sent4 = |from, port, fragment| packet4(17, from, PEER4, fragment, 0, &ports(port, 53));
    let sent6 = |from, port| packet6(6, from, PEER6, &ports(port, 443));
    let mut arp_of_another_kind = arp(1, PEER4, OURS4);
    arp_of_another_kind[15] = 6;
    let mut arp_of_other_lengths = arp(1, PEER4, OURS4);
    arp_of_other_lengths[18] = 8;
    let mut short_header = ipv4(17, OURS4, 0, 0, &udp(80));
    short_header[14] = 0x44;
    let mut other_group = SOLICITED;
    other_group[11] = 2;
    let hop_by_hop = [&[17, 0, 0, 0, 0, 0, 0, 0], &udp(80)[..]].concat();
    let fragment6 = [&[17, 0, 0, 1, 0, 0, 0, 7], &udp(80)[..]].concat();
    vec![
        ("ARP request for us", arp(1, PEER4, OURS4), true, false),
        ("ARP reply to us", arp(2, PEER4, ALSO4), true, false),
        ("ARP request for another", arp(1, PEER4, PEER4), false, false),
        ("ARP request from us", arp(1, OURS4, PEER4), false, false),
        ("ARP of another hardware", arp_of_another_kind, false, false),
        ("ARP with other lengths", arp_of_other_lengths, false, false),
        ("UDP to us, our port", ipv4(17, OURS4, 0, 0, &udp(7000)), true, true),
        ("UDP to us, the last of our ports", ipv4(17, OURS4, 0, 0, &udp(7009)), true, true),
        ("UDP to us, one port beyond", ipv4(17, OURS4, 0, 0, &udp(7010)), true, false),
        ("UDP to us, one port before", ipv4(17, OURS4, 0, 0, &udp(6999)), true, false),
        ("UDP to our second address", ipv4(17, ALSO4, 0, 0, &udp(80)), true, true),
        ("UDP from our port", ipv4(17, OURS4, 0, 0, &ports(80, 5555)), true, false),
        ("TCP to us, our port, may not be fragmented", ipv4(6, OURS4, 0x4000, 0, &udp(80)), true, true),
        ("TCP to us, ssh", ipv4(6, OURS4, 0x4000, 0, &udp(22)), true, false),
        ("SCTP to us, our port", ipv4(132, OURS4, 0, 0, &udp(80)), true, false),
        ("UDP to another, our port", ipv4(17, PEER4, 0, 0, &udp(80)), false, false),
        ("UDP to an address one bit off", ipv4(17, [10, 1, 2, 2], 0, 0, &udp(80)), false, false),
        ("UDP to all", ipv4(17, [255; 4], 0, 0, &udp(80)), false, false),
        ("IPv4 with options, our port", ipv4(6, OURS4, 0, 40, &udp(80)), true, true),
        ("IPv4 with options, another port", ipv4(6, OURS4, 0, 8, &udp(81)), true, false),
        ("IPv4 whose header is too short", short_header, true, false),
        ("the first fragment", ipv4(17, OURS4, 0x2000, 0, &udp(80)), true, false),
        ("a middle fragment", ipv4(17, OURS4, 0x2010, 0, &udp(80)), true, false),
        ("the last fragment", ipv4(17, OURS4, 0x0010, 0, &udp(80)), true, false),
        ("a fragment for another", ipv4(17, PEER4, 0x2000, 0, &udp(80)), false, false),
        ("echo request to us", ipv4(1, OURS4, 0, 0, &icmp(8, &[0; 40])), true, false),
        ("unreachable, our port", ipv4(1, OURS4, 0, 0, &icmp(3, &sent4(OURS4, 80, 0))), true, true),
        ("time exceeded, our port", ipv4(1, OURS4, 0, 4, &icmp(11, &sent4(OURS4, 7003, 0x4000))), true, true),
        (
            "unreachable, first fragment",
            ipv4(1, OURS4, 0, 0, &icmp(3, &sent4(OURS4, 80, 0x2000))),
            true,
            true,
        ),
        (
            "unreachable, later fragment",
            ipv4(1, OURS4, 0, 0, &icmp(3, &sent4(OURS4, 80, 0x2001))),
            true,
            false,
        ),
        ("unreachable, kernel's port", ipv4(1, OURS4, 0, 0, &icmp(3, &sent4(OURS4, 22, 0))), true, false),
        ("unreachable, not from us", ipv4(1, OURS4, 0, 0, &icmp(3, &sent4(ALSO4, 80, 0))), true, false),
        ("redirect", ipv4(1, OURS4, 0, 0, &icmp(5, &sent4(OURS4, 80, 0))), true, false),
        ("UDP over IPv6, our port", ipv6(17, OURS6, &udp(80)), true, true),
        ("TCP over IPv6, our port", ipv6(6, OURS6, &udp(7001)), true, true),
        ("TCP over IPv6, ssh", ipv6(6, OURS6, &udp(22)), true, false),
        ("IPv6 to another", ipv6(6, PEER6, &udp(80)), false, false),
        ("IPv6 hop-by-hop, our port", ipv6(0, OURS6, &hop_by_hop), true, false),
        ("IPv6 fragment", ipv6(44, OURS6, &fragment6), true, false),
        ("IPv6 too big, our port", ipv6(58, OURS6, &icmp(2, &sent6(OURS6, 80))), true, true),
        ("IPv6 too big, kernel's port", ipv6(58, OURS6, &icmp(2, &sent6(OURS6, 22))), true, false),
        ("IPv6 too big, not from us", ipv6(58, OURS6, &icmp(2, &sent6(PEER6, 80))), true, false),
        ("IPv6 echo request", ipv6(58, OURS6, &icmp(128, &sent6(OURS6, 80))), true, false),
        ("solicitation of us", ipv6(58, SOLICITED, &solicitation(OURS6)), true, false),
        ("solicitation of us, unicast", ipv6(58, OURS6, &solicitation(OURS6)), true, false),
        ("solicitation of one in our group", ipv6(58, SOLICITED, &solicitation(PEER6)), false, false),
        ("solicitation of us in a strange group", ipv6(58, other_group, &solicitation(OURS6)), false, false),
        ("advertisement to us", ipv6(58, OURS6, &icmp(136, &PEER6)), true, false),
        ("advertisement to all nodes", ipv6(58, ALL_NODES, &icmp(136, &PEER6)), false, false),
        ("router advertisement", ipv6(58, ALL_NODES, &icmp(134, &[0; 8])), false, false),
        ("listener query", ipv6(58, SOLICITED, &icmp(130, &[0; 16])), false, false),
        ("VLAN with a packet for us", tagged(&ipv4(17, OURS4, 0, 0, &udp(80))), false, false),
        ("VLAN with an ARP request for us", tagged(&arp(1, PEER4, OURS4)), false, false),
        ("802.3 with a length", ethernet(60, &[0; 60]), false, false),
        ("LLDP", ethernet(0x88cc, &[0; 60]), false, false),
    ]
}

#[test]
fn every_frame_meets_its_rule() {
    let (addresses, ports) = (addresses(), PORTS);
    let own = Flows { addresses: &addresses, ..Flows::default() };
    let shared = Flows { ports: Some(&ports), ..own.clone() };
    for (flows, place) in [(own, 2), (shared, 3)] {
        let machines = Machines::new(&flows);
        for (name, frame, own, shared) in cases() {
            let taken = if place == 2 { own } else { shared };
            assert_eq!(machines.takes(&frame), taken, "{name}, {flows:?}");
            // Cut short anywhere it is never taken wrongly, and above all never read beyond its end.
            for len in 0..frame.len() {
                let cut = machines.takes(&frame[..len]);
                assert!(taken || !cut, "{name}, cut to {len} bytes, {flows:?}");
            }
        }
    }
}

#[test]
fn all_nodes_brings_advertisements_and_nothing_else() {
    let addresses = addresses();
    let machines = Machines::new(&Flows { addresses: &addresses, all_nodes: true, ..Flows::default() });
    for (name, frame, own, _) in cases() {
        let advertised = ["advertisement to all nodes", "router advertisement"].contains(&name);
        assert_eq!(machines.takes(&frame), own || advertised, "{name}");
    }
    assert!(!machines.takes(&ipv6(58, ALL_NODES, &icmp(135, &OURS6))));
    assert!(!machines.takes(&ipv6(17, ALL_NODES, &ports(1, 80))));
}

#[test]
fn dhcp_brings_answers_and_nothing_else() {
    let addresses = addresses();
    for addresses in [&addresses[..], &[]] {
        let machines = Machines::new(&Flows { addresses, dhcp: true, ..Flows::default() });
        for (name, frame, own, _) in cases() {
            assert_eq!(machines.takes(&frame), own && !addresses.is_empty(), "{name}");
        }
        for to in [[255; 4], PEER4] {
            assert!(machines.takes(&ipv4(17, to, 0, 0, &ports(67, 68))));
            assert!(!machines.takes(&ipv4(17, to, 0, 0, &ports(68, 67))));
            assert!(!machines.takes(&ipv4(6, to, 0, 0, &ports(67, 68))));
            assert!(!machines.takes(&ipv4(17, to, 0x2000, 0, &ports(67, 68))));
            assert!(!machines.takes(&ipv4(17, to, 0, 4, &ports(67, 68))));
            assert!(!machines.takes(&ipv4(17, to, 0, 0, &ports(67, 68)[..7])));
        }
    }
    let alone = Machines::new(&Flows { all_nodes: true, ..Flows::default() });
    assert!(alone.takes(&ipv6(58, ALL_NODES, &icmp(134, &[0; 8]))));
    assert!(!alone.takes(&ipv6(58, SOLICITED, &solicitation(OURS6))));
    assert!(!alone.takes(&arp(1, PEER4, OURS4)) && !alone.takes(&ipv4(17, OURS4, 0, 0, &ports(1, 2))));
}

#[test]
fn one_family_alone_and_the_largest_program_are_accepted() {
    let four: Vec<IpAddr> = vec![OURS4.into()];
    let six: Vec<IpAddr> = vec![OURS6.into()];
    let many: Vec<IpAddr> = (0..64_u8)
        .map(|at| if at % 2 == 0 { IpAddr::from([10, 9, 8, at]) } else { IpAddr::from([at; 16]) })
        .collect();
    let all: Vec<_> = (0..64_u16).map(|at| at * 100 + 1..=at * 100 + 50).collect();
    for addresses in [&four, &six, &many] {
        for ports in [None, Some(&all[..])] {
            for all_nodes in [false, true] {
                let machines = Machines::new(&Flows { addresses, ports, all_nodes, dhcp: all_nodes });
                let taken = addresses.contains(&OURS4.into());
                assert_eq!(machines.takes(&ipv4(17, OURS4, 0, 0, &super::program::ports(1, 150))), taken);
                assert_eq!(
                    machines.takes(&ipv4(17, OURS4, 0, 0, &super::program::ports(1, 160))),
                    taken && ports.is_none()
                );
            }
        }
    }
}

#[test]
fn mapped_addresses_are_those_of_ipv4() {
    let mapped: Vec<IpAddr> = vec![std::net::Ipv4Addr::from(OURS4).to_ipv6_mapped().into()];
    let machines = Machines::new(&Flows { addresses: &mapped, ..Flows::default() });
    assert!(machines.takes(&ipv4(17, OURS4, 0, 0, &ports(1, 2))));
    assert!(!machines.takes(&ipv4(17, PEER4, 0, 0, &ports(1, 2))));
}

/// The program on an interpreter and, if it may be loaded, in the kernel. Both must agree.
struct Machines {
    insns: Vec<Insn>,
    /// Program, map and the socket in it.
    kernel: Option<(Fd, Fd, Socket)>,
}

impl Machines {
    fn new(flows: &Flows<'_>) -> Machines {
        let kernel = create_socket_map(1).and_then(|map| Ok((map, Socket::new()?)));
        let Ok((map, socket)) = kernel else {
            static SAID: Once = Once::new();
            SAID.call_once(|| announce("the kernel's machine is left out: bpf or AF_XDP is not permitted"));
            return Machines { insns: assemble(flows, 3), kernel: None };
        };
        set_socket(map.as_fd(), 0, socket.as_fd()).unwrap();
        let insns = assemble(flows, map.as_fd().as_raw_fd());
        let program = load_program(&insns, true, "demi").unwrap();
        Machines { insns, kernel: Some((program, map, socket)) }
    }

    fn takes(&self, frame: &[u8]) -> bool {
        let verdict = interpret(&self.insns, frame);
        if let Some((program, ..)) = &self.kernel
            && frame.len() >= 14
        {
            assert_eq!(run(program.as_fd(), frame), Ok(verdict), "the machines differ on {frame:x?}");
        }
        match verdict {
            4 => true,
            2 => false,
            other => panic!("{other} is no verdict"),
        }
    }
}

/// Runs a program on a frame. Panics where the kernel's verifier would have refused it.
fn interpret(program: &[Insn], frame: &[u8]) -> u32 {
    const CONTEXT: u64 = 1 << 32;
    const DATA: u64 = 1 << 16;
    let end = DATA + frame.len() as u64;
    let mut regs = [None; 10];
    regs[1] = Some(CONTEXT);
    let mut at = 0;
    for _ in 0..program.len() {
        let insn = program[at];
        at += 1;
        let (dst, src) = (usize::from(insn.regs & 15), usize::from(insn.regs >> 4));
        let read = |reg: usize| regs[reg].expect("a register is read before it is set");
        let constant = i64::from(insn.constant).cast_unsigned();
        let load = |size: u64| {
            let address = read(src).wrapping_add_signed(insn.offset.into());
            match address.checked_sub(CONTEXT) {
                Some(0) => DATA,
                Some(4) => end,
                Some(16) => 0,
                _ => {
                    assert!(address >= DATA && address + size <= end, "a load beyond the frame");
                    let bytes = &frame[(address - DATA) as usize..][..size as usize];
                    let mut word = [0; 8];
                    word[..bytes.len()].copy_from_slice(bytes);
                    u64::from_le_bytes(word)
                }
            }
        };
        let jump = match insn.code {
            LOAD_WORD => (regs[dst] = Some(load(4)), false).1,
            LOAD_HALF => (regs[dst] = Some(load(2)), false).1,
            LOAD_BYTE => (regs[dst] = Some(load(1)), false).1,
            SET => (regs[dst] = Some(constant), false).1,
            COPY => (regs[dst] = Some(read(src)), false).1,
            ADD => (regs[dst] = Some(read(dst).wrapping_add(read(src))), false).1,
            ADD_CONSTANT => (regs[dst] = Some(read(dst).wrapping_add(constant)), false).1,
            AND => (regs[dst] = Some(read(dst) & constant), false).1,
            SHIFT_LEFT => (regs[dst] = Some(read(dst) << constant), false).1,
            TO_BIG_ENDIAN => (regs[dst] = Some(u64::from((read(dst) as u16).to_be())), false).1,
            LOAD_WIDE => {
                assert_eq!(src, usize::from(MAP_DESCRIPTOR));
                regs[dst] = Some(0xdead);
                at += 1;
                false
            }
            JUMP => true,
            JUMP_EQUAL => read(dst) == constant,
            JUMP_NOT_EQUAL => read(dst) != constant,
            JUMP_NOT_EQUAL_REG => read(dst) != read(src),
            JUMP_BITS => read(dst) & constant != 0,
            JUMP_MORE => read(dst) > constant,
            JUMP_MORE_REG => read(dst) > read(src),
            JUMP_LESS => read(dst) < constant,
            JUMP_LESS_EQUAL => read(dst) <= constant,
            JUMP32_EQUAL => read(dst) as u32 == constant as u32,
            JUMP32_NOT_EQUAL => read(dst) as u32 != constant as u32,
            CALL => {
                assert_eq!(
                    (insn.constant, read(1), read(2), read(3)),
                    (REDIRECT_MAP, 0xdead, 0, XDP_PASS as u64)
                );
                (regs[0] = Some(4), false).1
            }
            EXIT => return read(0) as u32,
            other => panic!("{other:#x} is not an instruction that the program uses"),
        };
        if jump {
            assert!(insn.offset >= 0, "a jump backward");
            at += insn.offset as usize;
        }
    }
    panic!("the program does not end");
}
