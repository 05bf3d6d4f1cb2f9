//! A script as it comes, made into one that runs against a stack of one's own.
//!
//! Commands for the kernel become `true`, and what they would have set that catnip can set as well becomes a flag of the
//! library. Assertions on Linux's counters, which packetdrill reads from the kernel whatever the stack is, become `true`
//! as well, and are counted. Both keep the time of their line. PSH is expected wherever there is data, as the library sets
//! it there. What cannot run is told by what it asks for.

use std::fmt;

/// The families that scripts run over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// A script that can run.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Prepared {
    pub(crate) text: String,
    /// Flags of the library, each with a semicolon before it.
    pub(crate) flags: String,
    /// Assertions that are left out.
    pub(crate) left_out: usize,
}

/// What a script may ask for that there is not: where that is found, and what it is. The first that fits is told.
const MISSING: [(&str, &str); 28] = [
    ("fastopen", "TCP Fast Open (RFC 7413), which catnip does not have"),
    ("FASTOPEN", "TCP Fast Open (RFC 7413), which catnip does not have"),
    (" FO ", "TCP Fast Open (RFC 7413), which catnip does not have"),
    ("FOEXP", "TCP Fast Open (RFC 7413), which catnip does not have"),
    ("ZEROCOPY", "Linux's flags for sending without a copy"),
    ("TIMESTAMPING", "Linux's time stamps of packets"),
    ("MSG_EOR", "Linux's marks of where segments must end"),
    ("MSG_MORE", "holding small segments back (MSG_MORE, TCP_CORK)"),
    ("TCP_CORK", "holding small segments back (MSG_MORE, TCP_CORK)"),
    ("TCP_INQ", "Linux's count of unread bytes beside what is read"),
    ("TCP_NOTSENT_LOWAT", "Linux's limit of what is not sent yet"),
    ("notsent_lowat=", "Linux's limit of what is not sent yet"),
    ("splice(", "splice and sendfile"),
    ("sendfile(", "splice and sendfile"),
    ("SO_MARK", "Linux's marks and routes"),
    ("IP_TOS", "the type of service of a socket's packets"),
    ("TCP_SYNCNT", "a limit of how often a SYN is sent"),
    ("tcp_mtu_probing", "Linux's settings of path MTU probing"),
    ("ip route", "Linux's marks and routes"),
    ("ip -6 route", "Linux's marks and routes"),
    ("limit 0", "a queue of Linux's in front of the wire"),
    ("root fq", "a queue of Linux's in front of the wire"),
    ("/proc/net", "Linux's tables of sockets"),
    ("nstat", "Linux's counters of the whole system"),
    ("msg_flags", "Linux's control messages"),
    ("msg_control", "Linux's control messages"),
    ("md5", "signatures of segments (RFC 2385)"),
    ("AF_UNSPEC", "a socket that is used again by connecting it to nothing"),
];

const NO_TIMESTAMPS: &str = "calling without timestamps, which catnip always offers";

impl Family {
    /// Those that a script runs over, by its name, as packetdrill's own runner has it.
    pub(crate) fn of(name: &str) -> Vec<Family> {
        let only = |end: &str| name.ends_with(end);
        [(Family::V4, "v6.pkt"), (Family::V6, "v4.pkt")]
            .into_iter()
            .filter_map(|(family, other)| (!only(other)).then_some(family))
            .collect()
    }

    /// What packetdrill's own runner gives it.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Family::V4 => &[
                "--ip_version=ipv4",
                "--local_ip=192.168.0.1",
                "--gateway_ip=192.168.0.1",
                "--netmask_ip=255.255.0.0",
                "--remote_ip=192.0.2.1",
                "-DCMSG_LEVEL_IP=SOL_IP",
                "-DCMSG_TYPE_RECVERR=IP_RECVERR",
            ],
            Family::V6 => &[
                "--ip_version=ipv6",
                "--mtu=1520",
                "--local_ip=fd3d:0a0b:17d6::1",
                "--gateway_ip=fd3d:0a0b:17d6:8888::1",
                "--remote_ip=fd3d:fa7b:d17d::1",
                "-DCMSG_LEVEL_IP=SOL_IPV6",
                "-DCMSG_TYPE_RECVERR=IPV6_RECVERR",
            ],
        }
    }

    pub(crate) fn flags(self) -> &'static str {
        match self {
            Family::V4 => "mtu=1500",
            Family::V6 => "mtu=1520",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Makes a script ready, or says what it asks for that there is not.
pub(crate) fn prepare(name: &str, text: &str) -> Result<Prepared, &'static str> {
    let code = without_comments(text);
    let asks = |what: &str| code.contains(what) || name.contains(what);
    if let Some((_, reason)) = MISSING.iter().find(|(what, _)| asks(what)) {
        return Err(reason);
    }
    let is_caller = code.lines().filter_map(outbound).any(|(flags, _)| flags == "S");
    if code.contains("tcp_timestamps=0") && is_caller {
        return Err(NO_TIMESTAMPS);
    }
    let mut flags = String::new();
    // Of several settings the last one counts.
    let ecn =
        code.rmatch_indices("tcp_ecn=").next().and_then(|(at, key)| code[at + key.len()..].chars().next());
    match ecn {
        Some('1') => flags.push_str(";ecn=\"on\""),
        Some('2') => flags.push_str(";ecn=\"accept\""),
        _ => {}
    }
    let (text, _) = replace(&code, "`", "`");
    let (text, left_out) = replace(&text, "%{", "}%");
    let lines: Vec<String> = text.lines().map(pushed).collect();
    Ok(Prepared { text: lines.join("\n") + "\n", flags, left_out })
}

/// Blanks out what follows `//` and `#` on a line, and stands between `/*` and `*/`. Assertions stay: their language has
/// comments of its own.
fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find("/*") {
        let end = rest[begin..].find("*/").map_or(rest.len(), |end| begin + end + 2);
        out.push_str(&rest[..begin]);
        out.extend(rest[begin..end].chars().filter(|char| *char == '\n'));
        rest = &rest[end..];
    }
    out.push_str(rest);
    let lines = out.lines().map(|line| match line.find("//") {
        Some(at) => &line[..at],
        None if line.starts_with('#') => "",
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Puts a command that does nothing in place of what stands between two marks, with as many lines; how often.
fn replace(text: &str, open: &str, close: &str) -> (String, usize) {
    let (mut out, mut count) = (String::new(), 0);
    let mut rest = text;
    while let Some(begin) = rest.find(open) {
        let inner = &rest[begin + open.len()..];
        let Some(len) = inner.find(close) else { break };
        out.push_str(&rest[..begin]);
        out.push_str("`true");
        out.extend(inner[..len].chars().filter(|char| *char == '\n'));
        out.push('`');
        rest = &inner[len + close.len()..];
        count += 1;
    }
    out.push_str(rest);
    (out, count)
}

/// The flags of a line that expects a TCP segment, and whether that has data.
fn outbound(line: &str) -> Option<(&str, bool)> {
    let (_, packet) = line.split_once("> ").filter(|(before, _)| !before.contains(['<', '(', '`']))?;
    let packet = match packet.trim_start().strip_prefix('[') {
        Some(ip) => ip.split_once(']')?.1,
        None => packet,
    };
    let mut words = packet.split_whitespace();
    let flags = words.next().filter(|word| word.chars().all(|char| "FSRPEWCA.".contains(char)))?;
    let (_, len) = words.next()?.trim_end_matches(')').split_once('(')?;
    Some((flags, len.parse::<usize>().ok()? > 0))
}

/// The line with PSH expected if and only if there is data.
fn pushed(line: &str) -> String {
    let Some((flags, has_data)) = outbound(line) else { return line.to_owned() };
    let wanted = match (has_data, flags.contains('P')) {
        (true, false) => format!("P{flags}"),
        (false, true) => flags.replace('P', ""),
        _ => return line.to_owned(),
    };
    // The flags are the first such word behind the arrow.
    let arrow = line.find("> ").map_or(0, |at| at + 2);
    let (before, packet) = line.split_at(arrow);
    let at = packet.find(&format!("{flags} ")).unwrap_or(0);
    format!("{before}{}{wanted}{}", &packet[..at], &packet[at + flags.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "// fastopen, and more: FASTOPEN\n`../common/defaults.sh\nsysctl -q net.ipv4.tcp_ecn=2`\n\
        /* a\n comment */\n    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3 // MSG_MORE\n  +.1 < S 0:0(0) win 1000\n   \
        +0 > S. 0:0(0) ack 1 <...>\n   +0 > . 1:1001(1000) ack 1\n+.2 > [ect0] P. 1:1001(1000) ack 1\n+0 > FP. 5:5(0) ack 1\n\
        +.3 %{\nassert tcpi_snd_cwnd == 10 # yes\n}%\n";

    #[test]
    fn what_is_of_the_kernel_goes_and_lines_and_times_stay() {
        let prepared = prepare("tcp/x/y.pkt", SCRIPT).unwrap();
        let wanted = "\n`true\n`\n\n\n    0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3 \n  +.1 < S 0:0(0) win 1000\n   \
            +0 > S. 0:0(0) ack 1 <...>\n   +0 > P. 1:1001(1000) ack 1\n+.2 > [ect0] P. 1:1001(1000) ack 1\n\
            +0 > F. 5:5(0) ack 1\n+.3 `true\n\n`\n";
        assert_eq!(prepared.text, wanted);
        assert_eq!(prepared.text.lines().count(), SCRIPT.lines().count());
        assert_eq!((prepared.flags.as_str(), prepared.left_out), (";ecn=\"accept\"", 1));
    }

    #[test]
    fn what_there_is_not_is_told() {
        let told = |text| prepare("tcp/x/y.pkt", text).err();
        assert!(
            told("0 setsockopt(3, SOL_TCP, TCP_CORK, [1], 4) = 0")
                .is_some_and(|why| why.contains("TCP_CORK"))
        );
        let calls = "`sysctl net.ipv4.tcp_timestamps=0`\n+0 > S 0:0(0) <mss 1460>";
        assert_eq!(told(calls), Some(NO_TIMESTAMPS));
        assert_eq!(told(&calls.replace("> S 0", "> S. 0")), None);
        assert!(prepare("tcp/md5/y.pkt", "").is_err());
    }

    #[test]
    fn names_say_over_which_family() {
        let both = vec![Family::V4, Family::V6];
        let wanted = [("a/b.pkt", both), ("a/b-v4.pkt", vec![Family::V4]), ("b-v6.pkt", vec![Family::V6])];
        assert!(wanted.into_iter().all(|(name, families)| Family::of(name) == families));
    }
}
