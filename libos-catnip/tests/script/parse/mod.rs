//! The language, line by line: see the [crate's documentation](crate) for what it says.
//!
//! Invariant: a script that has been parsed holds no word that is not known; a fault names its line.

mod packet;

use std::time::Duration;

use demi_api::Shutdown;

use self::packet::{icmp, spec};
use crate::ast::{App, ERRORS, Kind, Line, Match, Num, Outcome, Script, Statement, When};

type Parsed<T> = Result<T, String>;

/// The words of a line, one after the other.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() {
            return None;
        }
        let close = match self.rest.as_bytes()[0] {
            b'<' if self.rest.len() > 1 && !self.rest[1..].starts_with(' ') => Some('>'),
            b'[' => Some(']'),
            _ => None,
        };
        let end = match close.and_then(|close| self.rest.find(close)) {
            Some(end) => end + 1,
            None => self.rest.find(' ').unwrap_or(self.rest.len()),
        };
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(word)
    }

    fn peek(&self) -> Option<&'a str> {
        Words { rest: self.rest }.next()
    }

    fn skip_if(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        if found {
            self.next();
        }
        found
    }

    fn need(&mut self, what: &str) -> Parsed<&'a str> {
        self.next().ok_or_else(|| format!("{what} is missing"))
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Parsed<T> {
        number(self.need(what)?)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Parsed<T> {
    text.parse().map_err(|_| format!("{text:?} is not a number that fits here"))
}

fn hex(text: &str) -> Parsed<Vec<u8>> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if !digits.len().is_multiple_of(2) || digits.is_empty() || !digits.is_ascii() {
        return Err(format!("{text:?} is not a string of bytes"));
    }
    let byte =
        |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| format!("{text:?} is not hex"));
    (0..digits.len()).step_by(2).map(byte).collect()
}

pub(crate) fn duration(text: &str) -> Parsed<Duration> {
    let split =
        text.find(|letter: char| letter.is_ascii_alphabetic()).ok_or(format!("{text:?} has no unit"))?;
    let count: f64 = number(&text[..split])?;
    let unit = match &text[split..] {
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "min" => 60e9,
        "h" => 3600e9,
        unit => return Err(format!("{unit:?} is no unit of time: us, ms, s, min, h")),
    };
    Ok(Duration::from_nanos((count * unit).round() as u64))
}

fn num(text: &str) -> Parsed<Num> {
    match text.strip_prefix('=') {
        _ if text == "*" => Ok(Num::Any),
        Some(absolute) => Ok(Num::Abs(number(absolute)?)),
        None => Ok(Num::Rel(number(text)?)),
    }
}

fn matcher(text: &str) -> Parsed<Match> {
    match text.split_once("..") {
        _ if text == "*" => Ok(Match::Any),
        Some((low, high)) => Ok(Match::Range(number(low)?, number(high)?)),
        None => Ok(Match::Is(number(text)?)),
    }
}

fn nothing_left(words: &mut Words<'_>) -> Parsed<()> {
    words.next().map_or(Ok(()), |word| Err(format!("{word:?} is not understood here")))
}

fn kind(words: &mut Words<'_>) -> Parsed<Kind> {
    Ok(match words.need("an operation")? {
        "accept" => Kind::Accept,
        "connect" => Kind::Connect,
        "push" => Kind::Push,
        "pop" => Kind::Pop,
        other => return Err(format!("{other:?} is no operation: accept, connect, push, pop")),
    })
}

fn app(verb: &str, words: &mut Words<'_>) -> Parsed<App> {
    Ok(match verb {
        "listen" => {
            let (mut at, mut backlog, mut once) = (Ok(80), 16, false);
            while let Some(word) = words.next() {
                match word {
                    "backlog" => backlog = words.number("the backlog")?,
                    "once" => once = true,
                    "of" => at = Err(words.need("the flow")?.into()),
                    port => at = Ok(number(port)?),
                }
            }
            App::Listen { port: at, backlog, once }
        }
        "accept" => App::Accept,
        "connect" if words.skip_if("to") => App::Connect(Some(words.number("an address")?)),
        "connect" => App::Connect(None),
        "bind" => App::Bind(words.number("the port")?),
        "push" => App::Push(words.number("the number of bytes")?),
        "pop" => App::Pop(words.next().map(number).transpose()?),
        "read" => App::Read(words.number("the number of bytes")?),
        "close" if words.skip_if("listener") => App::CloseListener,
        "close" => App::Close,
        "shutdown" => App::Shutdown(match words.need("which direction")? {
            "read" => Shutdown::Read,
            "write" => Shutdown::Write,
            "both" => Shutdown::Both,
            other => return Err(format!("{other:?} is no direction: read, write, both")),
        }),
        "set" => App::Set(words.need("the option")?.into(), words.need("its value")?.into()),
        "await" => App::Await(kind(words)?),
        "cancel" => App::Cancel(kind(words)?),
        "ports" => App::Ports(words.number("the stack's port")?, words.number("the peer's port")?),
        "iss" => App::Iss(words.number("the sequence number")?),
        "count" => App::Count(words.need("a counter")?.into(), matcher(words.need("its value")?)?),
        other => return Err(format!("{other:?} is not understood")),
    })
}

fn outcome(text: &str) -> Parsed<Outcome> {
    let mut words = Words { rest: text };
    let outcome = match words.need("an outcome")? {
        "ok" => Outcome::Ok,
        "pending" => Outcome::Pending,
        "eof" => Outcome::Eof,
        "error" => {
            let name = words.need("the error's name")?;
            let known = ERRORS.iter().find(|(known, _)| *known == name);
            Outcome::Error(known.ok_or_else(|| format!("{name:?} is no error"))?.1.into())
        }
        bytes if bytes.starts_with("0x") => Outcome::Data(hex(bytes)?),
        count => Outcome::Bytes(number(count)?),
    };
    nothing_left(&mut words).map(|()| outcome)
}

fn statement(text: &str) -> Parsed<Statement> {
    let mut words = Words { rest: text };
    let statement = match words.need("a statement")? {
        "<" if words.skip_if("icmp") => Statement::Icmp(icmp(&mut words)?),
        "<" => Statement::Send(spec(&mut words)?),
        ">" => Statement::Expect(spec(&mut words)?),
        "expect" if words.skip_if("nothing") => Statement::Nothing,
        "ignore" => Statement::Ignore,
        verb => {
            let (asked, result) = match words.rest.split_once("->") {
                Some((asked, result)) => (asked, Some(outcome(result)?)),
                None => (words.rest, None),
            };
            let mut words = Words { rest: asked };
            let app = app(verb, &mut words)?;
            nothing_left(&mut words)?;
            return Ok(Statement::App(app, result));
        }
    };
    nothing_left(&mut words).map(|()| statement)
}

fn when(text: &str) -> Parsed<When> {
    if let Some((low, high)) = text.split_once("..") {
        return Ok(When::Within(duration(low)?, duration(high)?));
    }
    Ok(When::At(duration(text)?))
}

/// `connected`: a handshake in five lines.
fn connected(words: &mut Words<'_>) -> Parsed<Vec<String>> {
    let (mut list, mut win, mut rtt, mut active) = ("<mss 1460,sackOK,nop,wscale 7>", "65535", "10ms", false);
    while let Some(word) = words.next() {
        match word {
            "active" => active = true,
            "win" => win = words.need("the window")?,
            "rtt" => rtt = words.need("the round-trip time")?,
            text if text.starts_with('<') => list = text,
            other => return Err(format!("{other:?} is not understood in connected")),
        }
    }
    Ok(if active {
        vec![
            "connect -> pending".into(),
            "> S 0:0(0) <*>".into(),
            format!("+{rtt} < S. 0:0(0) ack 1 win {win} {list}"),
            "> . 1:1(0) ack 1".into(),
            "await connect -> ok".into(),
        ]
    } else {
        vec![
            "listen once".into(),
            "accept -> pending".into(),
            format!("< S 0:0(0) win {win} {list}"),
            "> S. 0:0(0) ack 1 <*>".into(),
            format!("+{rtt} < . 1:1(0) ack 1 win {win}"),
            "await accept -> ok".into(),
        ]
    })
}

fn line(number_of: usize, text: &str) -> Parsed<Vec<Line>> {
    let mut words = Words { rest: text };
    let mut at = When::Now;
    let mut flow = "a";
    let mut repeat = 1;
    while let Some(word) = words.peek() {
        if let Some(delay) = word.strip_prefix('+') {
            at = when(delay)?;
        } else if let Some(name) = word.strip_prefix('@') {
            flow = name;
        } else if word == "repeat" {
            words.next();
            repeat = words.number("how often")?;
            continue;
        } else {
            break;
        }
        words.next();
    }
    if words.skip_if("connected") {
        let mut lines = Vec::new();
        for (place, text) in connected(&mut words)?.iter().enumerate() {
            let mut more = line(number_of, text)?;
            if place == 0 {
                more[0].when = at;
            }
            more[0].flow = flow.into();
            lines.append(&mut more);
        }
        return Ok(lines);
    }
    let statements = words.rest.split(';').map(|text| statement(text.trim())).collect::<Parsed<_>>()?;
    Ok(vec![Line { number: number_of, text: text.into(), when: at, flow: flow.into(), statements, repeat }])
}

/// A whole script. A fault is told with the number of its line.
pub(crate) fn parse(text: &str) -> Result<Script, (usize, String)> {
    let mut script = Script { seed: 1, ..Script::default() };
    for (index, text) in text.lines().enumerate() {
        let text = text.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let fault = |what: String| (index + 1, what);
        let mut words = Words { rest: text };
        let word = words.next().unwrap_or_default();
        if !matches!(word, "ipv4" | "ipv6" | "mtu" | "seed" | "config") {
            script.lines.append(&mut line(index + 1, text).map_err(fault)?);
            continue;
        }
        if !script.lines.is_empty() {
            return Err(fault(format!("{word:?} belongs before the first statement")));
        }
        match word {
            "ipv4" => script.ipv4 = true,
            "ipv6" => script.ipv6 = true,
            "mtu" => script.mtu = Some(words.number("the MTU").map_err(fault)?),
            "seed" => script.seed = words.number("the seed").map_err(fault)?,
            _ => {
                let (key, value) =
                    words.rest.split_once('=').ok_or(fault("key = value is missing".into()))?;
                let (section, key) = key.trim().rsplit_once('.').unwrap_or(("catnip", key.trim()));
                script.config.push((section.into(), format!("{key} = {}", value.trim())));
                continue;
            }
        }
        nothing_left(&mut words).map_err(fault)?;
    }
    if script.lines.is_empty() { Err((0, "the script is empty".into())) } else { Ok(script) }
}
