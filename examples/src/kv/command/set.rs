//! SET and its older forms.

use super::super::store::Expiry;
use super::{Complaint, Context, Flow, Outcome, Request, SYNTAX, integer, invalid_expiry, moment};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    IfNew,
    IfExists,
}

/// `SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | KEEPTTL]`
pub(super) fn set(cx: &mut Context<'_>, request: &Request) -> Outcome {
    if request.len() == 3 {
        cx.store.set(request.arg(1), request.buf(2), Expiry::Never)?;
        cx.out.status("OK");
        return Ok(Flow::Done);
    }
    let mut condition = Condition::Always;
    let mut wants_old = false;
    let mut expiry = None;
    let mut index = 3;
    while index < request.len() {
        let option = request.arg(index).to_ascii_uppercase();
        match (&option[..], condition, expiry) {
            (b"NX", Condition::Always | Condition::IfNew, _) => condition = Condition::IfNew,
            (b"XX", Condition::Always | Condition::IfExists, _) => condition = Condition::IfExists,
            (b"GET", ..) => wants_old = true,
            (b"KEEPTTL", _, None | Some(Expiry::Keep)) => expiry = Some(Expiry::Keep),
            (b"EX" | b"PX", _, None) if index + 1 < request.len() => {
                let unit = if option == b"EX" { 1000 } else { 1 };
                expiry = Some(expiry_at(cx, request, index + 1, unit, "set")?);
                index += 1;
            }
            _ => return Err(SYNTAX.into()),
        }
        index += 1;
    }
    write(cx, request, condition, wants_old, expiry.unwrap_or(Expiry::Never))
}

pub(super) fn setnx(cx: &mut Context<'_>, request: &Request) -> Outcome {
    let new = !cx.store.contains(request.arg(1));
    if new {
        cx.store.set(request.arg(1), request.buf(2), Expiry::Never)?;
    }
    cx.out.integer(new.into());
    Ok(Flow::Done)
}

pub(super) fn setex(cx: &mut Context<'_>, request: &Request) -> Outcome {
    set_expiring(cx, request, 1000, "setex")
}

pub(super) fn psetex(cx: &mut Context<'_>, request: &Request) -> Outcome {
    set_expiring(cx, request, 1, "psetex")
}

pub(super) fn getset(cx: &mut Context<'_>, request: &Request) -> Outcome {
    write(cx, request, Condition::Always, true, Expiry::Never)
}

fn set_expiring(cx: &mut Context<'_>, request: &Request, unit_ms: i64, name: &str) -> Outcome {
    let expiry = expiry_at(cx, request, 2, unit_ms, name)?;
    cx.store.set(request.arg(1), request.buf(3), expiry)?;
    cx.out.status("OK");
    Ok(Flow::Done)
}

fn write(
    cx: &mut Context<'_>,
    request: &Request,
    condition: Condition,
    wants_old: bool,
    expiry: Expiry,
) -> Outcome {
    let key = request.arg(1);
    let old = if wants_old { cx.store.get(key).cloned() } else { None };
    let write = match condition {
        Condition::Always => true,
        Condition::IfNew => !cx.store.contains(key),
        Condition::IfExists => cx.store.contains(key),
    };
    if write {
        cx.store.set(key, request.buf(2), expiry)?;
    }
    match (wants_old, old) {
        (true, Some(value)) => cx.out.value(&value),
        (false, _) if write => cx.out.status("OK"),
        _ => cx.out.null(),
    }
    Ok(Flow::Done)
}

/// The moment that an argument names, which must lie ahead.
fn expiry_at(
    cx: &mut Context<'_>,
    request: &Request,
    index: usize,
    unit_ms: i64,
    command: &str,
) -> Result<Expiry, Complaint> {
    let amount = integer(request, index)?;
    if amount <= 0 {
        return Err(invalid_expiry(command));
    }
    Ok(Expiry::At(moment(cx.store, amount, unit_ms, command)? as u64))
}
