//! The looks of segments: TCP options in the order in which Linux has them, and PSH wherever there is data.
//!
//! Scripts compare options one after the other, with what lies between to align them. The order means nothing (RFC 9293
//! §3.1), so a segment that says the same in Linux's order is the same. Where data is pushed is the sender's to choose
//! (§3.9.1.2), and Linux's choice follows from how it gives segments to a NIC; so that it is not compared, scripts are
//! changed in the same way before they run. What is not understood, or has a wrong checksum, is left as it is: that is
//! for the script to find.

const TCP: u8 = 6;
const SYN: u8 = 2;
const PSH: u8 = 8;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

/// Puts the options of a TCP packet in order, and sets PSH if it has data.
pub(crate) fn arrange(packet: &mut Vec<u8>) {
    if let Some(arranged) = arranged(packet) {
        *packet = arranged;
    }
}

fn arranged(packet: &[u8]) -> Option<Vec<u8>> {
    let v6 = *packet.first()? >> 4 == 6;
    let (header, protocol, addresses) = if v6 {
        (40, *packet.get(6)?, packet.get(8..40)?)
    } else {
        (usize::from(packet[0] & 15) * 4, *packet.get(9)?, packet.get(12..20)?)
    };
    let segment = packet.get(header..)?;
    let offset = usize::from(*segment.get(12)? >> 4) * 4;
    if protocol != TCP || offset < 20 || offset > segment.len() {
        return None;
    }
    if checksum(addresses, segment) != 0 {
        return None;
    }
    let options = in_order(&parse(&segment[20..offset])?, segment[13] & SYN != 0);
    if options.len() > 40 {
        return None;
    }
    let mut out = packet[..header + 20].to_vec();
    out.extend(&options);
    out.extend(&segment[offset..]);
    out[header + 13] &= !PSH;
    if segment.len() > offset {
        out[header + 13] |= PSH;
    }
    out[header + 12] = out[header + 12] & 15 | ((20 + options.len()) as u8 / 4) << 4;
    let len = out.len();
    if v6 {
        out[4..6].copy_from_slice(&u16::try_from(len - 40).ok()?.to_be_bytes());
    } else {
        out[2..4].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
        out[10..12].fill(0);
        let sum = fold(sum(&out[..header]));
        out[10..12].copy_from_slice(&(!sum).to_be_bytes());
    }
    out[header + 16..header + 18].fill(0);
    let check = checksum(addresses, &out[header..]);
    out[header + 16..header + 18].copy_from_slice(&check.to_be_bytes());
    Some(out)
}

/// Options with their kinds, without what only aligns them.
fn parse(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut options = Vec::new();
    while let [kind, rest @ ..] = bytes {
        match *kind {
            END => break,
            NOP => bytes = rest,
            _ => {
                let len = usize::from(*rest.first()?);
                if len < 2 {
                    return None;
                }
                options.push(bytes.get(..len)?);
                bytes = &bytes[len..];
            }
        }
    }
    Some(options)
}

fn in_order(options: &[&[u8]], syn: bool) -> Vec<u8> {
    let find = |kind| options.iter().find(|option| option[0] == kind).copied();
    let mut out = Vec::new();
    out.extend(find(MSS).unwrap_or_default());
    match (find(SACK_PERMITTED), find(TIMESTAMPS)) {
        (Some(permitted), Some(timestamps)) if syn => out.extend([permitted, timestamps].concat()),
        (permitted, timestamps) => {
            for option in [permitted, timestamps].into_iter().flatten() {
                out.extend([NOP, NOP]);
                out.extend(option);
            }
        }
    }
    for (kind, before) in [(SCALE, &[NOP][..]), (SACK, &[NOP, NOP])] {
        if let Some(option) = find(kind) {
            out.extend(before);
            out.extend(option);
        }
    }
    let known = [MSS, SACK_PERMITTED, TIMESTAMPS, SCALE, SACK];
    out.extend(options.iter().filter(|option| !known.contains(&option[0])).copied().flatten());
    out.resize(out.len().next_multiple_of(4), END);
    out
}

/// The checksum of a segment; zero if the one that is in it is right.
fn checksum(addresses: &[u8], segment: &[u8]) -> u16 {
    !fold(sum(addresses) + u64::from(TCP) + segment.len() as u64 + sum(segment))
}

/// The sum of 16-bit words, in order of the network.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    words.map(u64::from).sum()
}

pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u8, options: &[u8]) -> Vec<u8> {
        let mut out = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        out.extend([
            0,
            80,
            1,
            2,
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            (5 + options.len() as u8 / 4) << 4,
            flags,
            1,
            1,
            0,
            0,
            0,
            0,
        ]);
        out.extend(options);
        out.extend(b"abc");
        let len = out.len() as u16;
        out[2..4].copy_from_slice(&len.to_be_bytes());
        let check = checksum(&out[12..20], &out[20..]);
        out[36..38].copy_from_slice(&check.to_be_bytes());
        out
    }

    #[test]
    fn options_are_in_linux_order() {
        let scale_first = [3, 3, 7, 1, 4, 2, 2, 4, 5, 180, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
        let mut syn = packet(SYN, &scale_first);
        arrange(&mut syn);
        let wanted = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(syn, summed(packet(SYN | PSH, &wanted)));
        let mut plain = packet(16 | PSH, &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        arrange(&mut plain);
        assert_eq!(plain[40..52], [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(checksum(&plain[12..20], &plain[20..]), 0);
        assert_eq!(&plain[52..], b"abc");
        assert_eq!(plain[33], 16 | PSH);
    }

    #[test]
    fn what_is_not_understood_stays() {
        let mut wrong = packet(SYN, &[3, 3, 7, 0]);
        wrong[36] ^= 1;
        for mut bytes in [
            wrong,
            packet(SYN, &[3, 0, 7, 0]),
            packet(SYN, &[3, 9, 7, 0]),
            vec![],
            vec![0x45; 21],
            vec![0x60; 50],
        ] {
            let before = bytes.clone();
            arrange(&mut bytes);
            assert_eq!(bytes, before);
        }
    }

    fn summed(mut packet: Vec<u8>) -> Vec<u8> {
        let check = !fold(sum(&packet[..20]));
        packet[10..12].copy_from_slice(&check.to_be_bytes());
        packet
    }
}
