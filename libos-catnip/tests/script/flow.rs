//! One connection as a script sees it: its ports, where its numbers begin, and what has been said on it.

use std::collections::VecDeque;
use std::fmt::Write;

use demi_api::desc::QDesc;
use demi_api::token::QToken;

use crate::ast::{Kind, Mark, Num, OptSpec, Spec};
use crate::wire::{ACK, Header, Manner, Opt, PSH, SYN, Tcp};

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) name: String,
    pub(crate) stack_port: Option<u16>,
    pub(crate) peer_port: u16,
    /// Initial sequence numbers. The stack's is learned from its SYN.
    pub(crate) stack_iss: Option<u32>,
    pub(crate) peer_iss: u32,
    /// Which SYNs carried timestamps: if both did, every segment is to.
    stack_stamps: bool,
    peer_stamps: bool,
    /// The stack's first timestamp, and its last.
    stamp_base: Option<u32>,
    last_stamp: u32,
    win: u16,
    /// The last segment of the stack's that occupied sequence numbers.
    pub(crate) last: Option<Tcp>,
    pub(crate) qd: Option<QDesc>,
    pub(crate) tokens: VecDeque<(Kind, QToken)>,
    /// Bytes pushed, and bytes popped.
    pub(crate) pushed: u32,
    pub(crate) popped: u32,
}

/// The byte that belongs at a place of a direction's stream. The first has sequence number 1.
fn byte(at: u32, of_stack: bool) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 16) as u8 ^ u8::from(of_stack)
}

/// The bytes from sequence number `seq` on.
pub(crate) fn content(seq: u32, len: usize, of_stack: bool) -> Vec<u8> {
    (0..len as u32).map(|place| byte(seq.wrapping_add(place), of_stack)).collect()
}

const LETTERS: [(u8, char); 8] =
    [(1, 'F'), (2, 'S'), (4, 'R'), (8, 'P'), (0x20, 'U'), (0x40, 'E'), (0x80, 'W'), (0x10, '.')];

impl Flow {
    pub(crate) fn new(name: &str, number: u16) -> Flow {
        Flow {
            name: name.into(),
            stack_port: None,
            peer_port: 4000 + number,
            stack_iss: None,
            // Close to where numbers wrap, so that a few kilobytes cross it.
            peer_iss: 0xffff_f000u32.wrapping_add(u32::from(number) << 24),
            stack_stamps: false,
            peer_stamps: false,
            stamp_base: None,
            last_stamp: 0,
            win: u16::MAX,
            last: None,
            qd: None,
            tokens: VecDeque::new(),
            pushed: 0,
            popped: 0,
        }
    }

    fn has_stamps(&self) -> bool {
        self.stack_stamps && self.peer_stamps
    }

    fn absolute(num: Num, base: u32) -> u32 {
        match num {
            Num::Any => base,
            Num::Rel(offset) => base.wrapping_add(offset as u32),
            Num::Abs(number) => number,
        }
    }

    fn stack(&self, num: Num) -> u32 {
        Flow::absolute(num, self.stack_iss.unwrap_or(0))
    }

    fn peer(&self, num: Num) -> u32 {
        Flow::absolute(num, self.peer_iss)
    }

    /// The number of a segment of the stack's, for an ICMP error.
    pub(crate) fn quote(&self, seq: Option<Num>) -> Option<Tcp> {
        let mut quoted = self.last.clone()?;
        if let Some(seq) = seq {
            quoted.seq = self.stack(seq);
        }
        Some(quoted)
    }

    /// The segments that a line sends. `clock` is the peer's, for timestamps.
    pub(crate) fn build(&mut self, spec: &Spec, clock: u32) -> Vec<(Tcp, Manner)> {
        if let Some(win) = spec.win
            && let crate::ast::Match::Is(win) = win
        {
            self.win = win as u16;
        }
        let mut options: Vec<Opt> = Vec::new();
        match &spec.options {
            Some(list) => options.extend(list.iter().filter_map(|option| self.option(option, clock))),
            None if self.has_stamps() && spec.flags & SYN == 0 => {
                options.extend([Opt::Nop, Opt::Nop, Opt::Ts(clock, self.last_stamp)]);
            }
            None => {}
        }
        if spec.flags & SYN != 0 {
            self.peer_stamps = options.iter().any(|option| matches!(option, Opt::Ts(..)));
        }
        let mut manner = Manner::default();
        let (mut urgent, mut reserved, mut data) = (0, 0, None);
        for mark in &spec.marks {
            match mark {
                Mark::Ecn(bits) => manner.ecn = *bits,
                Mark::BadSum => manner.bad_sum = true,
                Mark::BadIpSum => manner.bad_ip_sum = true,
                Mark::Broadcast => manner.broadcast = true,
                Mark::Offset(words) => manner.offset = Some(*words),
                Mark::Urgent(pointer) => urgent = *pointer,
                Mark::Reserved(bits) => reserved = *bits,
                Mark::Data(bytes) => data = Some(bytes.clone()),
                Mark::From(addr) => manner.from = Some(*addr),
                Mark::IpOptions(bytes) => manner.ip_options = bytes.clone(),
                Mark::NoPsh | Mark::DontFragment | Mark::Hops(_) => {}
            }
        }
        let seq = self.peer(spec.seq);
        let ack = spec.ack.map_or(0, |ack| self.stack(ack));
        let first = seq.wrapping_sub(self.peer_iss).wrapping_add(u32::from(spec.flags & SYN != 0));
        let payload = data.unwrap_or_else(|| content(first, spec.len, false));
        let step = spec.by.unwrap_or(payload.len().max(1));
        let mut parts: Vec<&[u8]> = payload.chunks(step).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let mut at = seq;
        let (mut all, count) = (Vec::new(), parts.len());
        for (place, part) in parts.into_iter().enumerate() {
            // Of several segments, the last alone ends a push or the stream.
            let flags = if place + 1 < count { spec.flags & !(PSH | 1) } else { spec.flags };
            let segment = Tcp {
                from: self.peer_port,
                to: self.stack_port.unwrap_or(80),
                seq: at,
                ack,
                reserved,
                flags,
                win: self.win,
                urgent,
                options: options.clone(),
                payload: part.to_vec(),
            };
            at = at.wrapping_add(part.len() as u32);
            all.push((segment, manner.clone()));
        }
        all
    }

    fn option(&self, option: &OptSpec, clock: u32) -> Option<Opt> {
        use crate::ast::Match;
        let number = |value: &Match| if let Match::Is(value) = value { *value } else { 0 };
        Some(match option {
            OptSpec::Rest => return None,
            OptSpec::End => Opt::End,
            OptSpec::Nop => Opt::Nop,
            OptSpec::Mss(mss) => Opt::Mss(number(mss) as u16),
            OptSpec::Scale(shift) => Opt::Scale(number(shift) as u8),
            OptSpec::SackOk => Opt::SackOk,
            OptSpec::Ts(value, echo) => Opt::Ts(
                value.map_or(clock, |value| value as u32),
                echo.map_or(self.last_stamp, |echo| self.stamp_base.unwrap_or(0).wrapping_add(echo as u32)),
            ),
            OptSpec::Sack(blocks) => Opt::Sack(
                blocks.iter().map(|(left, right)| (self.stack(*left), self.stack(*right))).collect(),
            ),
            OptSpec::Raw(bytes) => Opt::Raw(bytes.clone()),
        })
    }

    /// Whether a segment of the stack's is on this flow.
    pub(crate) fn owns(&self, segment: &Tcp) -> bool {
        segment.to == self.peer_port && self.stack_port.is_none_or(|port| port == segment.from)
    }

    /// Takes note of what the stack says, before it is compared.
    pub(crate) fn learn(&mut self, segment: &Tcp) {
        self.stack_port = Some(segment.from);
        let stamp = segment.options.iter().find_map(|option| match option {
            Opt::Ts(value, _) => Some(*value),
            _ => None,
        });
        if segment.flags & SYN != 0 {
            self.stack_iss.get_or_insert(segment.seq);
            self.stack_stamps = stamp.is_some();
        }
        if let Some(stamp) = stamp {
            self.stamp_base.get_or_insert(stamp);
            self.last_stamp = stamp;
        }
        if !segment.payload.is_empty() || segment.flags & (SYN | 1) != 0 {
            self.last = Some(segment.clone());
        }
    }

    /// What is wrong with a segment of the stack's. `from` and `len` are the part of the line's range to be met.
    pub(crate) fn compare(
        &self,
        spec: &Spec,
        (from, len): (usize, usize),
        ip: Header,
        found: &Tcp,
    ) -> Option<String> {
        let mut wrong = String::new();
        let mut check = |what: &str, fits: bool| {
            if !fits {
                let _ = write!(wrong, "{}{what}", if wrong.is_empty() { "" } else { ", " });
            }
        };
        // PSH is a matter of taste where the script does not ask for it.
        let ignored = if spec.flags & PSH != 0 || spec.marks.contains(&Mark::NoPsh) { 0 } else { PSH };
        check("flags", spec.flags & !ignored == found.flags & !ignored);
        let seq = self.stack(spec.seq).wrapping_add(from as u32);
        check("sequence number", spec.seq == Num::Any || found.seq == seq);
        check("length", found.payload.len() == len);
        if let Some(ack) = spec.ack {
            check("acknowledgement", ack == Num::Any || found.ack == self.peer(ack));
        }
        if spec.flags & ACK == 0 {
            check("an acknowledgement number without ACK", found.ack == 0);
        }
        check("window", spec.win.is_none_or(|win| win.takes(found.win.into())));
        let first = found.seq.wrapping_sub(self.stack_iss.unwrap_or(0));
        check("content", found.payload == content(first, found.payload.len(), true));
        let (mut wanted_ecn, mut reserved, mut urgent) = (0, 0, 0);
        for mark in &spec.marks {
            match mark {
                Mark::Ecn(bits) => wanted_ecn = *bits,
                Mark::Reserved(bits) => reserved = *bits,
                Mark::Urgent(pointer) => urgent = *pointer,
                Mark::DontFragment => check("don't fragment", ip.dont_fragment),
                Mark::Hops(hops) => check("hop limit", ip.hops == *hops),
                _ => {}
            }
        }
        check("ECN", ip.ecn == wanted_ecn);
        check("reserved bits", found.reserved == reserved);
        check("urgent pointer", found.urgent == urgent);
        check("options", self.options_fit(spec, &found.options));
        (!wrong.is_empty()).then_some(wrong)
    }

    /// Options in their order, padding aside.
    fn options_fit(&self, spec: &Spec, found: &[Opt]) -> bool {
        let found: Vec<&Opt> = found.iter().filter(|option| !matches!(option, Opt::Nop | Opt::End)).collect();
        let Some(list) = &spec.options else {
            return match found[..] {
                [] => !self.has_stamps() || spec.flags & 4 != 0,
                [Opt::Ts(..)] => self.has_stamps(),
                _ => false,
            };
        };
        let list: Vec<&OptSpec> =
            list.iter().filter(|option| !matches!(option, OptSpec::Nop | OptSpec::End)).collect();
        let fits = |wanted: &OptSpec, found: &Opt| match (wanted, found) {
            (OptSpec::Mss(wanted), Opt::Mss(mss)) => wanted.takes((*mss).into()),
            (OptSpec::Scale(wanted), Opt::Scale(shift)) => wanted.takes((*shift).into()),
            (OptSpec::SackOk, Opt::SackOk) => true,
            (OptSpec::Ts(value, echo), Opt::Ts(found, echoed)) => {
                let base = self.stamp_base.unwrap_or(0);
                value.is_none_or(|value| base.wrapping_add(value as u32) == *found)
                    && echo.is_none_or(|echo| echo as u32 == *echoed)
            }
            (OptSpec::Sack(wanted), Opt::Sack(found)) => wanted
                .iter()
                .map(|(left, right)| (self.peer(*left), self.peer(*right)))
                .eq(found.iter().copied()),
            (OptSpec::Raw(wanted), Opt::Raw(found)) => wanted == found,
            _ => false,
        };
        let rest = matches!(list.last(), Some(OptSpec::Rest));
        let fixed = list.len() - usize::from(rest);
        (found.len() == fixed || rest && found.len() >= fixed)
            && list[..fixed].iter().zip(&found).all(|(wanted, found)| fits(wanted, found))
    }

    /// A segment as a script would write it.
    pub(crate) fn show(&self, segment: &Tcp, from_stack: bool, ecn: u8) -> String {
        let (peer, stack) = (self.peer_iss, self.stack_iss.unwrap_or(0));
        let (own, other) = if from_stack { (stack, peer) } else { (peer, stack) };
        let signed = |number: u32, base: u32| number.wrapping_sub(base).cast_signed();
        let mut text: String =
            LETTERS.iter().filter(|(bit, _)| segment.flags & bit != 0).map(|pair| pair.1).collect();
        if text.is_empty() {
            text.push('-');
        }
        let seq = signed(segment.seq, own);
        let len = segment.payload.len();
        let _ = write!(text, " {seq}:{}({len})", i64::from(seq) + len as i64);
        if segment.flags & ACK != 0 {
            let _ = write!(text, " ack {}", signed(segment.ack, other));
        }
        let _ = write!(text, " win {}", segment.win);
        if !segment.options.is_empty() {
            let option = |option: &Opt| match option {
                Opt::End => "eol".into(),
                Opt::Nop => "nop".into(),
                Opt::Mss(mss) => format!("mss {mss}"),
                Opt::Scale(shift) => format!("wscale {shift}"),
                Opt::SackOk => "sackOK".into(),
                Opt::Ts(value, echo) => {
                    let base = self.stamp_base.unwrap_or(0);
                    let (ours, theirs) = if from_stack { (base, 0) } else { (0, base) };
                    format!("ts {} {}", signed(*value, ours), signed(*echo, theirs))
                }
                Opt::Sack(blocks) => blocks.iter().fold("sack".into(), |text, (left, right)| {
                    format!("{text} {}:{}", signed(*left, other), signed(*right, other))
                }),
                Opt::Raw(bytes) => {
                    bytes.iter().fold("raw 0x".into(), |text, byte| format!("{text}{byte:02x}"))
                }
            };
            let list: Vec<String> = segment.options.iter().map(option).collect();
            let _ = write!(text, " <{}>", list.join(","));
        }
        match ecn {
            1 => text.push_str(" [ect1]"),
            2 => text.push_str(" [ect0]"),
            3 => text.push_str(" [ce]"),
            _ => {}
        }
        text
    }
}
