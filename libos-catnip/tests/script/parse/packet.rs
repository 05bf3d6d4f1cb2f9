//! Packets as scripts write them.

use super::{Parsed, Words, hex, matcher, nothing_left, num, number};
use crate::ast::{Icmp, IcmpKind, Mark, Num, OptSpec, Spec};
use crate::wire::{ACK, FIN, PSH, RST, SYN};

pub(super) fn spec(words: &mut Words<'_>) -> Parsed<Spec> {
    let flags = flags(words.need("the flags")?)?;
    let (seq, len) = range(words.need("the sequence numbers")?)?;
    let mut spec = Spec { flags, seq, len, by: None, ack: None, win: None, options: None, marks: Vec::new() };
    while let Some(word) = words.next() {
        match word {
            "by" => spec.by = Some(words.number::<usize>("the size")?.max(1)),
            "ack" => spec.ack = Some(num(words.need("the acknowledgement")?)?),
            "win" => spec.win = Some(matcher(words.need("the window")?)?),
            list if list.starts_with('<') => spec.options = Some(options(list)?),
            list if list.starts_with('[') => spec.marks = marks(list)?,
            other => return Err(format!("{other:?} is not understood in a packet")),
        }
    }
    if spec.flags & ACK != 0 && spec.ack.is_none() {
        return Err("a segment with . needs an ack".into());
    }
    Ok(spec)
}

pub(super) fn icmp(words: &mut Words<'_>) -> Parsed<Icmp> {
    let kind = match words.need("the kind of error")? {
        "net" => IcmpKind::Net,
        "host" => IcmpKind::Host,
        "protocol" => IcmpKind::Protocol,
        "port" => IcmpKind::Port,
        "prohibited" => IcmpKind::Prohibited,
        "time_exceeded" => IcmpKind::TimeExceeded,
        "quench" => IcmpKind::Quench,
        "too_big" => IcmpKind::TooBig(words.number("the MTU")?),
        other => return Err(format!("{other:?} is no ICMP error")),
    };
    let mut icmp = Icmp { kind, seq: None, size: None };
    while let Some(word) = words.next() {
        match word {
            "seq" => icmp.seq = Some(num(words.need("the sequence number")?)?),
            "size" => icmp.size = Some(words.number("the size")?),
            other => return Err(format!("{other:?} is not understood in an ICMP error")),
        }
    }
    Ok(icmp)
}

fn flags(text: &str) -> Parsed<u8> {
    text.bytes().try_fold(0, |all, letter| {
        Ok(all
            | match letter {
                b'-' => 0,
                b'F' => FIN,
                b'S' => SYN,
                b'R' => RST,
                b'P' => PSH,
                b'.' => ACK,
                b'U' => 0x20,
                b'E' => 0x40,
                b'W' => 0x80,
                other => {
                    return Err(format!("{:?} is no flag: F S R P . U E W, or - for none", other as char));
                }
            })
    })
}

/// `1:1001(1000)`.
fn range(text: &str) -> Parsed<(Num, usize)> {
    let fault = || format!("{text:?} is no range of sequence numbers, as in 1:1001(1000)");
    let (seq, rest) = text.split_once(':').ok_or_else(fault)?;
    let (end, len) = rest.strip_suffix(')').and_then(|rest| rest.split_once('(')).ok_or_else(fault)?;
    let (seq, end, len) = (num(seq)?, num(end)?, number::<usize>(len)?);
    let fits = match (seq, end) {
        (Num::Rel(seq), Num::Rel(end)) => end - seq == len as i64,
        (Num::Abs(seq), Num::Abs(end)) => end.wrapping_sub(seq) as usize == len,
        (Num::Any, Num::Any) => true,
        _ => false,
    };
    if fits { Ok((seq, len)) } else { Err(format!("{text:?} contradicts itself")) }
}

pub(super) fn options(text: &str) -> Parsed<Vec<OptSpec>> {
    let inside =
        text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).ok_or("an option list has no end")?;
    let one = |text: &str| {
        let mut words = Words { rest: text };
        let stamp = |text: &str| if text == "*" { Ok(None) } else { number(text).map(Some) };
        let option = match words.need("an option")? {
            "*" => OptSpec::Rest,
            "eol" => OptSpec::End,
            "nop" => OptSpec::Nop,
            "mss" => OptSpec::Mss(matcher(words.need("the MSS")?)?),
            "wscale" => OptSpec::Scale(matcher(words.need("the shift")?)?),
            "sackOK" => OptSpec::SackOk,
            "ts" => OptSpec::Ts(stamp(words.need("a value")?)?, stamp(words.need("an echo")?)?),
            "sack" => {
                let mut blocks = Vec::new();
                while let Some(block) = words.next() {
                    let (left, right) = block.split_once(':').ok_or("a SACK block is left:right")?;
                    blocks.push((num(left)?, num(right)?));
                }
                OptSpec::Sack(blocks)
            }
            "raw" => OptSpec::Raw(hex(words.need("bytes")?)?),
            other => return Err(format!("{other:?} is no option")),
        };
        nothing_left(&mut words).map(|()| option)
    };
    inside.split(',').filter(|text| !text.trim().is_empty()).map(|text| one(text.trim())).collect()
}

fn marks(text: &str) -> Parsed<Vec<Mark>> {
    let one = |text: &str| {
        let mut words = Words { rest: text };
        let mark = match words.need("a mark")? {
            "noecn" => Mark::Ecn(0),
            "ect1" => Mark::Ecn(1),
            "ect0" => Mark::Ecn(2),
            "ce" => Mark::Ecn(3),
            "badsum" => Mark::BadSum,
            "badipsum" => Mark::BadIpSum,
            "broadcast" => Mark::Broadcast,
            "nopsh" => Mark::NoPsh,
            "df" => Mark::DontFragment,
            "urg" => Mark::Urgent(words.number("the urgent pointer")?),
            "reserved" => Mark::Reserved(words.number("four bits")?),
            "offset" => Mark::Offset(words.number("the data offset")?),
            "hops" => Mark::Hops(words.number("the hop limit")?),
            "from" => Mark::From(words.number("an address")?),
            "ipopt" => Mark::IpOptions(hex(words.need("bytes")?)?),
            "data" => Mark::Data(hex(words.need("bytes")?)?),
            other => return Err(format!("{other:?} is no mark of a packet")),
        };
        nothing_left(&mut words).map(|()| mark)
    };
    text.trim_matches(['[', ']']).split(',').map(|text| one(text.trim())).collect()
}
