//! The table of commands, and how one is executed.

mod admin;
mod keys;
mod set;
mod strings;

use std::borrow::Cow;

use super::info::Server;
use super::log::Refusal;
use super::reply::Replies;
use super::request::Request;
use super::store::{NoRoom, Store};

/// What a command works on.
pub(super) struct Context<'a> {
    pub(super) store: &'a mut Store,
    pub(super) out: &'a mut Replies,
    pub(super) server: &'a dyn Server,
    pub(super) session: &'a mut Session,
    /// Replies should not grow far beyond this many bytes before they are sent.
    pub(super) enough: usize,
}

/// What the server remembers of a connection between two requests.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) name: Vec<u8>,
}

/// How a command has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// It is done.
    Done,
    /// The reply is long: send what there is, then go on from this argument.
    More(usize),
    /// It is done, and the client wishes to leave.
    Close,
}

/// An error reply, without its sign.
type Complaint = Cow<'static, str>;
type Outcome = Result<Flow, Complaint>;
type Handler = fn(&mut Context<'_>, &Request) -> Outcome;

pub(super) const SYNTAX: &str = "ERR syntax error";
pub(super) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

/// A command as COMMAND tells it.
struct Spec {
    /// In upper case.
    name: &'static str,
    /// Least number of arguments, the name included, and most.
    args: (usize, usize),
    /// First key, last key (negative: from the end), step; zeros for none.
    keys: (i64, i64, i64),
    flags: &'static [&'static str],
    run: Handler,
    summary: &'static str,
}

const ANY: usize = usize::MAX;
const READ: &[&str] = &["readonly", "fast"];
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const REMOVE: &[&str] = &["write", "fast"];
const ADMIN: &[&str] = &["loading", "stale", "fast"];

macro_rules! commands {
    ($($name:literal $args:tt $keys:tt $flags:ident $run:path, $summary:literal;)*) => {
        &[$(Spec { name: $name, args: $args, keys: $keys, flags: $flags, run: $run, summary: $summary },)*]
    };
}

/// The busiest first, for it is searched from its beginning.
static TABLE: &[Spec] = commands! {
    "GET"         (2, 2)   (1, 1, 1)  READ   strings::get,      "The value of a key";
    "SET"         (3, ANY) (1, 1, 1)  WRITE  set::set,          "Sets a key, on conditions and with an expiry if asked";
    "INCR"        (2, 2)   (1, 1, 1)  WRITE  strings::incr,     "Adds one to the integer value of a key";
    "PING"        (1, 2)   (0, 0, 0)  ADMIN  admin::ping,       "Answers PONG, or its argument";
    "MSET"        (3, ANY) (1, -1, 2) WRITE  strings::mset,     "Sets several keys";
    "MGET"        (2, ANY) (1, -1, 1) READ   strings::mget,     "The values of several keys";
    "DEL"         (2, ANY) (1, -1, 1) REMOVE keys::del,         "Removes keys";
    "EXISTS"      (2, ANY) (1, -1, 1) READ   keys::exists,      "How many of the keys exist";
    "DECR"        (2, 2)   (1, 1, 1)  WRITE  strings::decr,     "Subtracts one from the integer value of a key";
    "INCRBY"      (3, 3)   (1, 1, 1)  WRITE  strings::incrby,   "Adds to the integer value of a key";
    "DECRBY"      (3, 3)   (1, 1, 1)  WRITE  strings::decrby,   "Subtracts from the integer value of a key";
    "SETNX"       (3, 3)   (1, 1, 1)  WRITE  set::setnx,        "Sets a key that does not exist";
    "SETEX"       (4, 4)   (1, 1, 1)  WRITE  set::setex,        "Sets a key with an expiry in seconds";
    "PSETEX"      (4, 4)   (1, 1, 1)  WRITE  set::psetex,       "Sets a key with an expiry in milliseconds";
    "GETSET"      (3, 3)   (1, 1, 1)  WRITE  set::getset,       "Sets a key and tells its old value";
    "GETDEL"      (2, 2)   (1, 1, 1)  REMOVE strings::getdel,   "Removes a key and tells its value";
    "STRLEN"      (2, 2)   (1, 1, 1)  READ   strings::strlen,   "The length of a key's value";
    "EXPIRE"      (3, 4)   (1, 1, 1)  REMOVE keys::expire,      "Lets a key expire in so many seconds";
    "PEXPIRE"     (3, 4)   (1, 1, 1)  REMOVE keys::pexpire,     "Lets a key expire in so many milliseconds";
    "TTL"         (2, 2)   (1, 1, 1)  READ   keys::ttl,         "Seconds until a key expires";
    "PTTL"        (2, 2)   (1, 1, 1)  READ   keys::pttl,        "Milliseconds until a key expires";
    "PERSIST"     (2, 2)   (1, 1, 1)  REMOVE keys::persist,     "Lets a key not expire";
    "UNLINK"      (2, ANY) (1, -1, 1) REMOVE keys::del,         "Removes keys";
    "TYPE"        (2, 2)   (1, 1, 1)  READ   keys::kind,        "The type of a key's value";
    "DBSIZE"      (1, 1)   (0, 0, 0)  READ   keys::dbsize,      "How many keys there are";
    "FLUSHALL"    (1, 2)   (0, 0, 0)  REMOVE keys::flush,       "Removes every key";
    "FLUSHDB"     (1, 2)   (0, 0, 0)  REMOVE keys::flush,       "Removes every key";
    "ECHO"        (2, 2)   (0, 0, 0)  ADMIN  admin::echo,       "Answers its argument";
    "INFO"        (1, ANY) (0, 0, 0)  ADMIN  admin::info,       "What the server has counted";
    "COMMAND"     (1, ANY) (0, 0, 0)  ADMIN  admin::command,    "The commands there are";
    "CONFIG"      (2, ANY) (0, 0, 0)  ADMIN  admin::config,     "Tells settings";
    "CLIENT"      (2, ANY) (0, 0, 0)  ADMIN  admin::client,     "Names the connection";
    "HELLO"       (1, ANY) (0, 0, 0)  ADMIN  admin::hello,      "Agrees on the protocol, which is RESP2";
    "SELECT"      (2, 2)   (0, 0, 0)  ADMIN  admin::select,     "Chooses a database, of which there is one";
    "RESET"       (1, 1)   (0, 0, 0)  ADMIN  admin::reset,      "Forgets what was set for the connection";
    "QUIT"        (1, ANY) (0, 0, 0)  ADMIN  admin::quit,       "Closes the connection";
};

/// Executes a request from the argument `from` on: 0 at first, later as [`Flow::More`] said.
pub(super) fn execute(context: &mut Context<'_>, request: &Request, from: usize) -> Flow {
    let outcome = match find(request.arg(0)) {
        Some(_) if from > 0 => strings::mget_from(context, request, from),
        Some(spec) if (spec.args.0..=spec.args.1).contains(&request.len()) => match spec.flags[0] {
            "write" => prepare(context.store, spec, request).and_then(|()| (spec.run)(context, request)),
            _ => (spec.run)(context, request),
        },
        Some(spec) => Err(wrong_arguments(spec.name)),
        None => Err(unknown(request)),
    };
    outcome.unwrap_or_else(|complaint| {
        context.out.error(&complaint);
        Flow::Done
    })
}

/// What a command that changes something needs of the log, before it changes anything.
#[inline]
fn prepare(store: &mut Store, spec: &Spec, request: &Request) -> Result<(), Complaint> {
    let key = if request.len() > 1 { request.arg(1).len() } else { 0 };
    let rest = if request.len() > 2 { request.rest(2).map(<[u8]>::len).sum() } else { 0 };
    let many = if spec.keys.1 < 0 { request.len() } else { 0 };
    Ok(store.prepare(key, rest, many, spec.flags.contains(&"denyoom"))?)
}

fn find(name: &[u8]) -> Option<&'static Spec> {
    TABLE.iter().find(|spec| spec.name.len() == name.len() && name.eq_ignore_ascii_case(spec.name.as_bytes()))
}

fn wrong_arguments(name: &str) -> Complaint {
    format!("ERR wrong number of arguments for '{}' command", name.to_ascii_lowercase()).into()
}

fn unknown(request: &Request) -> Complaint {
    const SHOWN: usize = 128;
    let shown =
        |text: &[u8], most: usize| String::from_utf8_lossy(&text[..text.len().min(most)]).into_owned();
    let mut args = String::new();
    for arg in request.rest(1) {
        if args.len() >= SHOWN {
            break;
        }
        args += &format!("'{}' ", shown(arg, SHOWN - args.len()));
    }
    let name = shown(request.arg(0), SHOWN);
    format!("ERR unknown command '{name}', with args beginning with: {args}").into()
}

fn unknown_subcommand(request: &Request, of: &str) -> Complaint {
    let name = String::from_utf8_lossy(request.arg(1));
    format!("ERR unknown subcommand '{:.128}'. Try {of} HELP.", name).into()
}

/// An argument as an integer.
fn integer(request: &Request, index: usize) -> Result<i64, Complaint> {
    super::number::parse(request.arg(index)).ok_or(NOT_AN_INTEGER.into())
}

/// A moment `amount` units of `unit_ms` from now.
fn moment(store: &Store, amount: i64, unit_ms: i64, command: &str) -> Result<i64, Complaint> {
    amount
        .checked_mul(unit_ms)
        .and_then(|ms| ms.checked_add(store.now() as i64))
        .ok_or_else(|| invalid_expiry(command))
}

fn invalid_expiry(command: &str) -> Complaint {
    format!("ERR invalid expire time in '{command}' command").into()
}

impl From<NoRoom> for Complaint {
    fn from(_: NoRoom) -> Complaint {
        Refusal::NoRoom.text()
    }
}

impl From<Refusal> for Complaint {
    fn from(refusal: Refusal) -> Complaint {
        refusal.text()
    }
}
