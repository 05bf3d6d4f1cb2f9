//! Which frames come out of the kernel: a program for its classic packet filter, in a handful of instructions.
//!
//! Accepted are frames to groups, and frames to our Ethernet address; of the latter, if IP addresses are given, only ARP
//! and packets to one of these. So ARP, NDP and broadcasts always pass.

use std::net::IpAddr;

/// Most IP addresses that a filter knows.
pub(super) const MAX_ADDRESSES: usize = 64;

/// Accepts a frame whole.
const ACCEPT: u32 = u32::MAX;

const ETHERTYPE: u32 = 12;
const DESTINATION_V4: u32 = 14 + 16;
const DESTINATION_V6: u32 = 14 + 24;

/// The program for a station.
pub(super) fn program(mac: [u8; 6], addresses: &[IpAddr]) -> Vec<libc::sock_filter> {
    let [a, b, c, d, e, f] = mac;
    let mut code = vec![
        load_byte(0),
        statement(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, 1),
        accept(),
        load_word(0),
        skip_unless(u32::from_be_bytes([a, b, c, d]), 2),
        load_half(4),
        skip_if(u32::from(u16::from_be_bytes([e, f])), 1),
        reject(),
    ];
    if addresses.is_empty() {
        code.push(accept());
        return code;
    }
    let four: Vec<u32> = addresses
        .iter()
        .filter_map(|addr| if let IpAddr::V4(addr) = addr { Some(addr.to_bits()) } else { None })
        .collect();
    // Each address of version 4 is two instructions; more than a conditional jump can pass over.
    let four_len = 2 + 2 * four.len() as u32;
    code.extend([load_half(ETHERTYPE), skip_unless(libc::ETH_P_ARP as u32, 1), accept()]);
    code.extend([skip_if(libc::ETH_P_IP as u32, 1), skip_always(four_len)]);
    code.push(load_word(DESTINATION_V4));
    for addr in four {
        code.extend([skip_unless(addr, 1), accept()]);
    }
    code.extend([reject(), skip_if(libc::ETH_P_IPV6 as u32, 1), reject()]);
    for addr in addresses {
        let IpAddr::V6(addr) = addr else { continue };
        for (place, word) in (0..).zip(addr.octets().as_chunks::<4>().0) {
            code.push(load_word(DESTINATION_V6 + 4 * place));
            // Over the rest of this address: two instructions for each word to come, and the acceptance.
            code.push(skip_unless(u32::from_be_bytes(*word), (2 * (3 - place) + 1) as u8));
        }
        code.push(accept());
    }
    code.push(reject());
    code
}

fn load_byte(at: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, at)
}

fn load_half(at: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, at)
}

fn load_word(at: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at)
}

fn skip_if(value: u32, count: u8) -> libc::sock_filter {
    statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, count, 0, value)
}

fn skip_unless(value: u32, count: u8) -> libc::sock_filter {
    statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, count, value)
}

fn skip_always(count: u32) -> libc::sock_filter {
    statement(libc::BPF_JMP | libc::BPF_JA, 0, 0, count)
}

fn accept() -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, 0, 0, ACCEPT)
}

fn reject() -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, 0, 0, 0)
}

fn statement(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does, for the instructions that are used here.
    fn run(code: &[libc::sock_filter], frame: &[u8]) -> u32 {
        let (mut pc, mut a) = (0, 0);
        for _ in 0..code.len() {
            let step = &code[pc];
            pc += 1;
            let at = step.k as usize;
            let size = match u32::from(step.code) & 0x18 {
                libc::BPF_W => 4,
                libc::BPF_H => 2,
                _ => 1,
            };
            match u32::from(step.code) & 7 {
                // A load beyond the frame rejects it.
                libc::BPF_LD => {
                    let Some(bytes) = frame.get(at..at + size) else { return 0 };
                    a = bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
                }
                libc::BPF_RET => return step.k,
                libc::BPF_JMP => {
                    let hit = match u32::from(step.code) & 0xf0 {
                        libc::BPF_JA => {
                            pc += at;
                            continue;
                        }
                        libc::BPF_JEQ => a == step.k,
                        libc::BPF_JSET => a & step.k != 0,
                        other => panic!("jump {other:#x}"),
                    };
                    pc += usize::from(if hit { step.jt } else { step.jf });
                }
                other => panic!("class {other:#x}"),
            }
        }
        panic!("a program of {} instructions took more steps", code.len());
    }

    const MAC: [u8; 6] = [2, 0xfe, 0xdc, 0xba, 0x98, 0x76];
    const OTHER: [u8; 6] = [2, 0xfe, 0xdc, 0xba, 0x98, 0x77];
    const GROUP: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

    fn frame(to: [u8; 6], ethertype: u16, to_ip: Option<IpAddr>) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[..6].copy_from_slice(&to);
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        match to_ip {
            Some(IpAddr::V4(addr)) => frame[30..34].copy_from_slice(&addr.octets()),
            Some(IpAddr::V6(addr)) => frame[38..54].copy_from_slice(&addr.octets()),
            None => {}
        }
        frame
    }

    #[test]
    fn without_addresses_all_that_is_for_the_station_passes() {
        let code = program(MAC, &[]);
        for (to, passes) in [(MAC, true), (GROUP, true), ([0xff; 6], true), (OTHER, false), ([2; 6], false)] {
            for ethertype in [0x0800, 0x0806, 0x86dd, 0x88b5] {
                assert_eq!(run(&code, &frame(to, ethertype, None)) != 0, passes, "{to:?} {ethertype:#x}");
            }
        }
    }

    #[test]
    fn with_addresses_only_theirs_pass() {
        let four: Vec<IpAddr> = (0..32).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let six: Vec<IpAddr> = (0..32).map(|n| IpAddr::from([0xfd00, 0, 0, n, 0, n, 0, n])).collect();
        for (v4, v6) in [(0, 32), (1, 0), (0, 1), (1, 1), (32, 32), (32, 0)] {
            let known = [&four[..v4], &six[..v6]].concat();
            let code = program(MAC, &known);
            for (list, ethertype) in [(&four, 0x0800), (&six, 0x86dd)] {
                for addr in list {
                    let passes = known.contains(addr);
                    assert_eq!(run(&code, &frame(MAC, ethertype, Some(*addr))) != 0, passes, "{addr}");
                    assert_eq!(run(&code, &frame(OTHER, ethertype, Some(*addr))), 0, "{addr}");
                    assert_ne!(run(&code, &frame(GROUP, ethertype, Some(*addr))), 0, "{addr}");
                }
            }
            assert_ne!(run(&code, &frame(MAC, 0x0806, None)), 0);
            assert_eq!(run(&code, &frame(MAC, 0x88b5, None)), 0);
            assert_eq!(run(&code, &[2, 0xfe, 0xdc]), 0);
        }
    }
}
