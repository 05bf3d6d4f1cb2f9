//! What a script says, once it is parsed.

use std::net::IpAddr;
use std::time::Duration;

use demi_api::Shutdown;

#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) ipv6: bool,
    /// It is about IPv4 alone.
    pub(crate) ipv4: bool,
    pub(crate) mtu: Option<usize>,
    pub(crate) seed: u64,
    /// Lines of the configuration, each with its section.
    pub(crate) config: Vec<(String, String)>,
    pub(crate) lines: Vec<Line>,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) text: String,
    pub(crate) when: When,
    pub(crate) flow: String,
    /// Done one after the other, without a turn of the stack in between.
    pub(crate) statements: Vec<Statement>,
    pub(crate) repeat: usize,
}

/// When something happens, counted from the line before.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    Now,
    At(Duration),
    Within(Duration, Duration),
}

#[derive(Debug)]
pub(crate) enum Statement {
    Send(Spec),
    Expect(Spec),
    Icmp(Icmp),
    Nothing,
    /// What was sent and not asked for up to here does not matter.
    Ignore,
    App(App, Option<Outcome>),
}

/// A sequence number: relative to the direction's first, or as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Num {
    Any,
    Rel(i64),
    Abs(u32),
}

/// A number in a packet that is sent, or what is expected of one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Match {
    Any,
    Is(u64),
    Range(u64, u64),
}

impl Match {
    pub(crate) fn takes(self, value: u64) -> bool {
        match self {
            Match::Any => true,
            Match::Is(wanted) => value == wanted,
            Match::Range(low, high) => (low..=high).contains(&value),
        }
    }
}

/// A segment as a script writes it.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) flags: u8,
    pub(crate) seq: Num,
    pub(crate) len: usize,
    /// Several segments of so many bytes each.
    pub(crate) by: Option<usize>,
    pub(crate) ack: Option<Num>,
    pub(crate) win: Option<Match>,
    pub(crate) options: Option<Vec<OptSpec>>,
    pub(crate) marks: Vec<Mark>,
}

#[derive(Clone, Debug)]
pub(crate) enum OptSpec {
    /// Whatever else there is.
    Rest,
    End,
    Nop,
    Mss(Match),
    Scale(Match),
    SackOk,
    /// `None`: any; when sending, what the clock says, and what was received last.
    Ts(Option<i64>, Option<i64>),
    Sack(Vec<(Num, Num)>),
    Raw(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Ecn(u8),
    BadSum,
    BadIpSum,
    Broadcast,
    NoPsh,
    DontFragment,
    Urgent(u16),
    Reserved(u8),
    Offset(u8),
    Data(Vec<u8>),
    Hops(u8),
    From(IpAddr),
    IpOptions(Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Icmp {
    pub(crate) kind: IcmpKind,
    /// The sequence number that is quoted; otherwise that of the last segment with data or SYN.
    pub(crate) seq: Option<Num>,
    /// Size of the packet that is quoted.
    pub(crate) size: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum IcmpKind {
    Net,
    Host,
    Protocol,
    Port,
    Prohibited,
    TooBig(u32),
    TimeExceeded,
    Quench,
}

#[derive(Debug)]
pub(crate) enum App {
    /// On a port, or that of another flow; `once`: unless something listens there already.
    Listen {
        port: Result<u16, String>,
        backlog: u32,
        once: bool,
    },
    Bind(u16),
    Accept,
    /// To the peer, or to another address.
    Connect(Option<IpAddr>),
    Push(usize),
    Pop(Option<usize>),
    Read(usize),
    Close,
    CloseListener,
    Shutdown(Shutdown),
    Set(String, String),
    Await(Kind),
    Cancel(Kind),
    Ports(u16, u16),
    Iss(u32),
    Count(String, Match),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Accept,
    Connect,
    Push,
    Pop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Pending,
    Eof,
    Bytes(usize),
    Data(Vec<u8>),
    Error(String),
}

/// Names of errors in scripts, and of the variants that they stand for.
pub(crate) const ERRORS: [(&str, &str); 10] = [
    ("reset", "ConnectionReset"),
    ("refused", "ConnectionRefused"),
    ("aborted", "ConnectionAborted"),
    ("timeout", "TimedOut"),
    ("unreachable", "Unreachable"),
    ("cancelled", "Cancelled"),
    ("closed", "Closed"),
    ("notconnected", "NotConnected"),
    ("inuse", "AddressInUse"),
    ("badaddress", "BadAddress"),
];
