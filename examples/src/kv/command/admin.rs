//! Commands on the connection and the server, as far as common clients ask for them.

use super::{Context, Flow, Outcome, Request, TABLE, find, unknown_subcommand, wrong_arguments};

pub(super) fn ping(cx: &mut Context<'_>, request: &Request) -> Outcome {
    match request.len() {
        1 => cx.out.status("PONG"),
        _ => cx.out.bulk(request.arg(1)),
    }
    Ok(Flow::Done)
}

pub(super) fn echo(cx: &mut Context<'_>, request: &Request) -> Outcome {
    cx.out.value(&request.buf(1));
    Ok(Flow::Done)
}

pub(super) fn quit(cx: &mut Context<'_>, _: &Request) -> Outcome {
    cx.out.status("OK");
    Ok(Flow::Close)
}

pub(super) fn reset(cx: &mut Context<'_>, _: &Request) -> Outcome {
    cx.session.name.clear();
    cx.out.status("RESET");
    Ok(Flow::Done)
}

pub(super) fn select(cx: &mut Context<'_>, request: &Request) -> Outcome {
    match super::integer(request, 1)? {
        0 => cx.out.status("OK"),
        _ => return Err("ERR DB index is out of range".into()),
    }
    Ok(Flow::Done)
}

pub(super) fn info(cx: &mut Context<'_>, request: &Request) -> Outcome {
    let sections: Vec<String> =
        request.rest(1).map(|section| String::from_utf8_lossy(section).to_ascii_lowercase()).collect();
    let text = super::super::info::text(cx.server, cx.store, &sections);
    cx.out.bulk(text.as_bytes());
    Ok(Flow::Done)
}

pub(super) fn hello(cx: &mut Context<'_>, request: &Request) -> Outcome {
    if request.len() > 1 {
        match super::super::number::parse(request.arg(1)) {
            Some(2) => {}
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
            None => return Err("ERR Protocol version is not an integer or out of range".into()),
        }
    }
    if request.len() > 2 {
        match (&request.arg(2).to_ascii_uppercase()[..], request.len()) {
            (b"SETNAME", 4) => cx.session.name = named(request.arg(3))?,
            _ => {
                let option = String::from_utf8_lossy(request.arg(2)).into_owned();
                return Err(format!("ERR Syntax error in HELLO option '{option}'").into());
            }
        }
    }
    cx.out.array(14);
    for (name, value) in [("server", "demi-kv"), ("version", env!("CARGO_PKG_VERSION"))] {
        cx.out.bulk(name.as_bytes());
        cx.out.bulk(value.as_bytes());
    }
    for (name, value) in [("proto", 2), ("id", cx.session.id as i64)] {
        cx.out.bulk(name.as_bytes());
        cx.out.integer(value);
    }
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        cx.out.bulk(name.as_bytes());
        cx.out.bulk(value.as_bytes());
    }
    cx.out.bulk(b"modules");
    cx.out.array(0);
    Ok(Flow::Done)
}

pub(super) fn client(cx: &mut Context<'_>, request: &Request) -> Outcome {
    match (&request.arg(1).to_ascii_uppercase()[..], request.len()) {
        (b"SETNAME", 3) => {
            cx.session.name = named(request.arg(2))?;
            cx.out.status("OK");
        }
        (b"SETINFO", 4) => cx.out.status("OK"),
        (b"GETNAME", 2) if cx.session.name.is_empty() => cx.out.null(),
        (b"GETNAME", 2) => cx.out.bulk(&cx.session.name),
        (b"ID", 2) => cx.out.integer(cx.session.id as i64),
        (b"SETNAME" | b"SETINFO" | b"GETNAME" | b"ID", _) => return Err(wrong_subcommand("client", request)),
        _ => return Err(unknown_subcommand(request, "CLIENT")),
    }
    Ok(Flow::Done)
}

/// The settings that clients ask for. None can be changed while the server runs.
pub(super) fn config(cx: &mut Context<'_>, request: &Request) -> Outcome {
    match (&request.arg(1).to_ascii_uppercase()[..], request.len()) {
        (b"GET", 3..) => {
            let limit = cx.store.limit().to_string();
            let settings = [
                ("save", ""),
                ("appendonly", if cx.store.journal.is_some() { "yes" } else { "no" }),
                ("maxmemory", &limit),
                ("maxmemory-policy", "noeviction"),
                ("databases", "1"),
            ];
            let wanted: Vec<_> = settings
                .into_iter()
                .filter(|(name, _)| {
                    request.rest(2).any(|arg| arg == b"*" || arg.eq_ignore_ascii_case(name.as_bytes()))
                })
                .collect();
            cx.out.array(wanted.len() * 2);
            for (name, value) in wanted {
                cx.out.bulk(name.as_bytes());
                cx.out.bulk(value.as_bytes());
            }
        }
        (b"RESETSTAT", 2) => {
            cx.store.counts = Default::default();
            cx.out.status("OK");
        }
        (b"GET" | b"RESETSTAT", _) => return Err(wrong_subcommand("config", request)),
        _ => return Err(unknown_subcommand(request, "CONFIG")),
    }
    Ok(Flow::Done)
}

/// `COMMAND`, `COMMAND COUNT`, `COMMAND DOCS [name …]`, `COMMAND INFO [name …]`
pub(super) fn command(cx: &mut Context<'_>, request: &Request) -> Outcome {
    let what = (request.len() > 1).then(|| request.arg(1).to_ascii_uppercase());
    match (what.as_deref(), request.len()) {
        (None, _) | (Some(b"INFO"), 2) => {
            cx.out.array(TABLE.len());
            TABLE.iter().for_each(|spec| describe(cx, spec));
        }
        (Some(b"INFO"), _) => {
            cx.out.array(request.len() - 2);
            for name in request.rest(2) {
                match find(name) {
                    Some(spec) => describe(cx, spec),
                    None => cx.out.null(),
                }
            }
        }
        (Some(b"COUNT"), 2) => cx.out.integer(TABLE.len() as i64),
        (Some(b"DOCS"), 2) => {
            cx.out.array(TABLE.len() * 2);
            TABLE.iter().for_each(|spec| document(cx, spec));
        }
        (Some(b"DOCS"), _) => {
            let known: Vec<_> = request.rest(2).filter_map(find).collect();
            cx.out.array(known.len() * 2);
            known.into_iter().for_each(|spec| document(cx, spec));
        }
        (Some(b"COUNT"), _) => return Err(wrong_subcommand("command", request)),
        _ => return Err(unknown_subcommand(request, "COMMAND")),
    }
    Ok(Flow::Done)
}

fn describe(cx: &mut Context<'_>, spec: &super::Spec) {
    let least = spec.args.0 as i64;
    cx.out.array(6);
    cx.out.bulk(spec.name.to_ascii_lowercase().as_bytes());
    cx.out.integer(if spec.args.0 == spec.args.1 { least } else { -least });
    cx.out.array(spec.flags.len());
    spec.flags.iter().for_each(|flag| cx.out.status(flag));
    cx.out.integer(spec.keys.0);
    cx.out.integer(spec.keys.1);
    cx.out.integer(spec.keys.2);
}

fn document(cx: &mut Context<'_>, spec: &super::Spec) {
    cx.out.bulk(spec.name.to_ascii_lowercase().as_bytes());
    cx.out.array(2);
    cx.out.bulk(b"summary");
    cx.out.bulk(spec.summary.as_bytes());
}

fn wrong_subcommand(of: &str, request: &Request) -> super::Complaint {
    let name = String::from_utf8_lossy(request.arg(1)).to_ascii_lowercase();
    wrong_arguments(&format!("{of}|{name}"))
}

fn named(name: &[u8]) -> Result<Vec<u8>, super::Complaint> {
    match name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        true if name.len() <= 256 => Ok(name.to_vec()),
        _ => Err("ERR Client names cannot contain spaces, newlines or special characters.".into()),
    }
}
