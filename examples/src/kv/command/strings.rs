//! Commands on values.

use super::super::number::{self, LONGEST};
use super::super::store::Expiry;
use super::{Complaint, Context, Flow, NOT_AN_INTEGER, Outcome, Request, integer, wrong_arguments};

pub(super) fn get(cx: &mut Context<'_>, request: &Request) -> Outcome {
    match cx.store.get(request.arg(1)) {
        Some(value) => cx.out.value(value),
        None => cx.out.null(),
    }
    Ok(Flow::Done)
}

pub(super) fn getdel(cx: &mut Context<'_>, request: &Request) -> Outcome {
    match cx.store.remove(request.arg(1)) {
        Some(value) => cx.out.value(&value),
        None => cx.out.null(),
    }
    Ok(Flow::Done)
}

pub(super) fn strlen(cx: &mut Context<'_>, request: &Request) -> Outcome {
    let len = cx.store.get(request.arg(1)).map_or(0, |value| value.len());
    cx.out.integer(len as i64);
    Ok(Flow::Done)
}

pub(super) fn mget(cx: &mut Context<'_>, request: &Request) -> Outcome {
    cx.out.array(request.len() - 1);
    mget_from(cx, request, 1)
}

/// Goes on with a reply that was too long to be sent at once.
pub(super) fn mget_from(cx: &mut Context<'_>, request: &Request, from: usize) -> Outcome {
    for index in from..request.len() {
        if cx.out.bytes() >= cx.enough {
            return Ok(Flow::More(index));
        }
        match cx.store.get(request.arg(index)) {
            Some(value) => cx.out.value(value),
            None => cx.out.null(),
        }
    }
    Ok(Flow::Done)
}

/// All or nothing, as far as the limit of memory goes.
pub(super) fn mset(cx: &mut Context<'_>, request: &Request) -> Outcome {
    if request.len().is_multiple_of(2) {
        return Err(wrong_arguments("mset"));
    }
    let bytes = (1..request.len()).map(|index| request.arg(index).len().max(64)).sum();
    if !cx.store.has_room_for(bytes) {
        return Err(super::NoRoom.into());
    }
    for index in (1..request.len()).step_by(2) {
        cx.store.set(request.arg(index), request.buf(index + 1), Expiry::Never)?;
    }
    cx.out.status("OK");
    Ok(Flow::Done)
}

pub(super) fn incr(cx: &mut Context<'_>, request: &Request) -> Outcome {
    add(cx, request, 1)
}

pub(super) fn decr(cx: &mut Context<'_>, request: &Request) -> Outcome {
    add(cx, request, -1)
}

pub(super) fn incrby(cx: &mut Context<'_>, request: &Request) -> Outcome {
    let by = integer(request, 2)?;
    add(cx, request, by)
}

pub(super) fn decrby(cx: &mut Context<'_>, request: &Request) -> Outcome {
    let by = integer(request, 2)?.checked_neg().ok_or("ERR decrement would overflow")?;
    add(cx, request, by)
}

fn add(cx: &mut Context<'_>, request: &Request, by: i64) -> Outcome {
    let key = request.arg(1);
    let old = match cx.store.get(key) {
        Some(value) => number::parse(value).ok_or(Complaint::from(NOT_AN_INTEGER))?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    let mut digits = [0; LONGEST];
    let at = number::format(new, &mut digits);
    cx.store.set_text(key, &digits[at..], Expiry::Keep)?;
    cx.out.integer(new);
    Ok(Flow::Done)
}
