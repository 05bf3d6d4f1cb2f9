//! The redirect program: which frames are taken from the interface, in instructions of the kernel's BPF machine.
//!
//! Invariant: what it does not recognise, or cannot see whole, it leaves to the kernel (`XDP_PASS`). It loads nothing
//! beyond a bound that it has compared with the end of the data, and jumps forward only. The rules are in the
//! documentation of [`super`]; how instructions are put together is in [`asm`](super::asm).
//!
//! Registers: r6 is the context throughout. Until a decision is made, r2 is the frame's first byte and r3 its end;
//! r5, r7, r8 and r9 hold the words of an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::asm::{Asm, Label, R0, R1, R2, R3, R5, R6, R7, R8, R9, Reg};

pub(super) use super::asm::Insn;

/// Which frames are taken.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Flows<'a> {
    pub(super) addresses: &'a [IpAddr],
    pub(super) ports: Option<&'a [RangeInclusive<u16>]>,
    pub(super) all_nodes: bool,
    pub(super) dhcp: bool,
}

const ETHERNET: i16 = 14;
const TCP: i32 = 6;
const UDP: i32 = 17;
const ICMP: i32 = 1;
const ICMPV6: i32 = 58;
/// The four words of an IPv6 address, as they are compared.
const WORDS: [Reg; 4] = [R5, R7, R8, R9];

/// Assembles the program that sends what is in `flows` to the sockets in the map with the descriptor `map`.
pub(super) fn assemble(flows: &Flows<'_>, map: i32) -> Vec<Insn> {
    let mut asm = Asm::new();
    let [pass, take, arp, ipv4, ipv6, ports] = asm.labels();
    asm.copy(R6, R1);
    asm.load_word(R2, R1, 0);
    asm.load_word(R3, R1, 4);
    asm.need(ETHERNET, pass);
    asm.load_half(R5, R2, 12);
    asm.jump_if_half(R5, 0x0806, arp);
    asm.jump_if_half(R5, 0x0800, ipv4);
    asm.jump_if_half(R5, 0x86dd, ipv6);
    asm.jump(pass);

    let v4: Vec<Ipv4Addr> = flows.addresses.iter().filter_map(|address| v4(*address)).collect();
    let v6: Vec<Ipv6Addr> = flows.addresses.iter().filter_map(|address| v6(*address)).collect();
    let shared = flows.ports.is_some();

    asm.place(arp);
    if !shared {
        arp_rules(&mut asm, &v4, take, pass);
    }
    asm.jump(pass);

    asm.place(ipv4);
    let whole = if shared { None } else { Some(take) };
    ipv4_rules(&mut asm, &v4, flows.dhcp, whole, ports, pass);

    asm.place(ipv6);
    ipv6_rules(&mut asm, &v6, flows.all_nodes, whole, ports, pass);

    // The port is in r7, in network order.
    asm.place(ports);
    if let Some(ranges) = flows.ports {
        asm.half_to_host(R7);
        for range in ranges {
            asm.jump_if_between(R7, *range.start(), *range.end(), take);
        }
    }
    asm.jump(pass);

    // XDP_PASS is also what the map answers for a queue without a socket.
    asm.place(take);
    asm.load_word(R2, R6, 16);
    asm.load_map(R1, map);
    asm.set(R3, XDP_PASS);
    asm.call_redirect_map();
    asm.exit();
    asm.place(pass);
    asm.set(R0, XDP_PASS);
    asm.exit();
    asm.finish()
}

pub(super) const XDP_PASS: i32 = 2;

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_none() => Some(address),
        _ => None,
    }
}

/// RFC 826: Ethernet and IPv4, and the target is ours: requests for us, and replies to us.
fn arp_rules(asm: &mut Asm, addresses: &[Ipv4Addr], take: Label, pass: Label) {
    asm.need(ETHERNET + 28, pass);
    asm.load_word(R5, R2, ETHERNET);
    asm.jump_unless_word(R5, [0, 1, 8, 0], pass);
    asm.load_half(R5, R2, ETHERNET + 4);
    asm.jump_unless_half(R5, 0x0604, pass);
    asm.load_word(R5, R2, ETHERNET + 24);
    for address in addresses {
        asm.jump_if_word(R5, address.octets(), take);
    }
}

/// RFC 791. `whole`: where to go with all that is for our address; `None`: only ports are taken.
fn ipv4_rules(
    asm: &mut Asm,
    addresses: &[Ipv4Addr],
    dhcp: bool,
    whole: Option<Label>,
    ports: Label,
    pass: Label,
) {
    let [ours, transport, error] = asm.labels();
    asm.need(ETHERNET + 20, pass);
    asm.load_word(R5, R2, ETHERNET + 16);
    for address in addresses {
        asm.jump_if_word(R5, address.octets(), whole.unwrap_or(ours));
    }
    if let Some(take) = whole.filter(|_| dhcp) {
        dhcp_rules(asm, take, pass);
    }
    asm.jump(pass);
    asm.place(ours);
    // A fragment: only the first has ports, and the rest must not go another way.
    asm.load_half(R7, R2, ETHERNET + 6);
    asm.jump_if_any_half(R7, 0x3fff, pass);
    // r9: the address, once more; r0: the protocol; r5: where the IP header's options end.
    asm.copy(R9, R5);
    asm.load_byte(R0, R2, ETHERNET + 9);
    asm.load_byte(R5, R2, ETHERNET);
    asm.and(R5, 15);
    asm.shift_left(R5, 2);
    asm.jump_if_less(R5, 20, pass);
    asm.add(R5, R2);
    asm.jump_if(R0, TCP, transport);
    asm.jump_if(R0, UDP, transport);
    asm.jump_if(R0, ICMP, error);
    asm.jump(pass);
    asm.place(transport);
    asm.need_from(R5, ETHERNET + 4, pass);
    asm.load_half(R7, R5, ETHERNET + 2);
    asm.jump(ports);

    // RFC 792: an error quotes the packet it is about, which must be from our address and port.
    let [quoted, known] = asm.labels();
    let quote = ETHERNET + 8;
    asm.place(error);
    asm.need_from(R5, quote + 24, pass);
    asm.load_byte(R7, R5, ETHERNET);
    for kind in [3, 11, 12] {
        asm.jump_if(R7, kind, quoted);
    }
    asm.jump(pass);
    asm.place(quoted);
    asm.load_byte(R7, R5, quote);
    asm.jump_unless(R7, 0x45, pass);
    asm.load_half(R7, R5, quote + 6);
    asm.jump_if_any_half(R7, 0x1fff, pass);
    asm.load_word(R7, R5, quote + 12);
    asm.jump_unless_same(R7, R9, pass);
    asm.load_byte(R7, R5, quote + 9);
    asm.jump_if(R7, TCP, known);
    asm.jump_unless(R7, UDP, pass);
    asm.place(known);
    asm.load_half(R7, R5, quote + 20);
    asm.jump(ports);
}

/// RFC 2131 §4.1: answers come to port 68, at the address on offer or at all.
fn dhcp_rules(asm: &mut Asm, take: Label, pass: Label) {
    asm.need(ETHERNET + 28, pass);
    asm.load_byte(R5, R2, ETHERNET);
    asm.jump_unless(R5, 0x45, pass);
    asm.load_byte(R5, R2, ETHERNET + 9);
    asm.jump_unless(R5, UDP, pass);
    asm.load_half(R5, R2, ETHERNET + 6);
    asm.jump_if_any_half(R5, 0x3fff, pass);
    asm.load_half(R5, R2, ETHERNET + 22);
    asm.jump_if_half(R5, 68, take);
}

/// RFC 8200. Ports are looked for only directly behind the fixed header.
fn ipv6_rules(
    asm: &mut Asm,
    addresses: &[Ipv6Addr],
    all_nodes: bool,
    whole: Option<Label>,
    ports: Label,
    pass: Label,
) {
    let [ours, nodes] = asm.labels();
    asm.need(ETHERNET + 40, pass);
    load_address(asm, R2, ETHERNET + 24);
    for address in addresses {
        jump_if_address(asm, *address, whole.unwrap_or(ours));
    }
    let Some(take) = whole else {
        asm.jump(pass);
        asm.place(ours);
        return shared_ipv6_rules(asm, ports, pass);
    };
    if all_nodes {
        jump_if_address(asm, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), nodes);
    }
    if !addresses.is_empty() {
        solicitation_rules(asm, addresses, take, pass);
    }
    asm.jump(pass);

    // RFC 4861 §4.2 and §4.4: advertisements of routers, and unsolicited ones of neighbours.
    asm.place(nodes);
    asm.load_byte(R5, R2, ETHERNET + 6);
    asm.jump_unless(R5, ICMPV6, pass);
    asm.need(ETHERNET + 41, pass);
    asm.load_byte(R5, R2, ETHERNET + 40);
    asm.jump_if(R5, 134, take);
    asm.jump_if(R5, 136, take);
    asm.jump(pass);
}

/// What is for a solicited-node group; the group's address is in the four registers.
fn solicitation_rules(asm: &mut Asm, addresses: &[Ipv6Addr], take: Label, pass: Label) {
    // RFC 4291 §2.7.1: solicited-node groups are ff02::1:ff00:0/104.
    asm.jump_unless_word(R5, [0xff, 2, 0, 0], pass);
    asm.jump_unless_word(R7, [0; 4], pass);
    asm.jump_unless_word(R8, [0, 0, 0, 1], pass);
    asm.load_byte(R9, R2, ETHERNET + 36);
    asm.jump_unless(R9, 0xff, pass);
    // RFC 4861 §4.3: the group is shared by many addresses, the target of the solicitation is one.
    asm.load_byte(R5, R2, ETHERNET + 6);
    asm.jump_unless(R5, ICMPV6, pass);
    asm.need(ETHERNET + 40 + 24, pass);
    asm.load_byte(R5, R2, ETHERNET + 40);
    asm.jump_unless(R5, 135, pass);
    load_address(asm, R2, ETHERNET + 48);
    for address in addresses {
        jump_if_address(asm, *address, take);
    }
}

/// What is for our address, which the kernel has too; the address is in its four registers.
fn shared_ipv6_rules(asm: &mut Asm, ports: Label, pass: Label) {
    let [transport] = asm.labels();
    asm.load_byte(R0, R2, ETHERNET + 6);
    asm.jump_if(R0, TCP, transport);
    asm.jump_if(R0, UDP, transport);
    asm.jump_unless(R0, ICMPV6, pass);
    // RFC 4443 §3: errors 1 to 4 quote the packet they are about, which must be from our address and port.
    let quote = ETHERNET + 48;
    asm.need(quote + 44, pass);
    asm.load_byte(R0, R2, ETHERNET + 40);
    asm.jump_if_less(R0, 1, pass);
    asm.jump_if_more(R0, 4, pass);
    for (word, reg) in WORDS.into_iter().enumerate() {
        asm.load_word(R0, R2, quote + 8 + 4 * word as i16);
        asm.jump_unless_same(R0, reg, pass);
    }
    asm.load_byte(R0, R2, quote + 6);
    asm.load_half(R7, R2, quote + 40);
    asm.jump_if(R0, TCP, ports);
    asm.jump_if(R0, UDP, ports);
    asm.jump(pass);
    asm.place(transport);
    asm.need(ETHERNET + 44, pass);
    asm.load_half(R7, R2, ETHERNET + 42);
    asm.jump(ports);
}

fn load_address(asm: &mut Asm, base: Reg, at: i16) {
    for (word, reg) in WORDS.into_iter().enumerate() {
        asm.load_word(reg, base, at + 4 * word as i16);
    }
}

fn jump_if_address(asm: &mut Asm, address: Ipv6Addr, to: Label) {
    let [other] = asm.labels();
    for (reg, word) in WORDS.into_iter().zip(address.octets().as_chunks::<4>().0) {
        asm.jump_unless_word(reg, *word, other);
    }
    asm.jump(to);
    asm.place(other);
}
