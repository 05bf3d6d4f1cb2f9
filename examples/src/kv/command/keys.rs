//! Commands on keys.

use super::{Complaint, Context, Flow, Outcome, Request, SYNTAX, integer, moment};

pub(super) fn del(cx: &mut Context<'_>, request: &Request) -> Outcome {
    let removed = request.rest(1).filter(|key| cx.store.remove(key).is_some()).count();
    cx.out.integer(removed as i64);
    Ok(Flow::Done)
}

pub(super) fn exists(cx: &mut Context<'_>, request: &Request) -> Outcome {
    let found = request.rest(1).filter(|key| cx.store.contains(key)).count();
    cx.out.integer(found as i64);
    Ok(Flow::Done)
}

pub(super) fn kind(cx: &mut Context<'_>, request: &Request) -> Outcome {
    cx.out.status(if cx.store.contains(request.arg(1)) { "string" } else { "none" });
    Ok(Flow::Done)
}

pub(super) fn dbsize(cx: &mut Context<'_>, _: &Request) -> Outcome {
    cx.out.integer(cx.store.len() as i64);
    Ok(Flow::Done)
}

pub(super) fn flush(cx: &mut Context<'_>, request: &Request) -> Outcome {
    if request.len() == 2 && !matches!(&request.arg(1).to_ascii_uppercase()[..], b"SYNC" | b"ASYNC") {
        return Err(SYNTAX.into());
    }
    cx.store.clear();
    cx.out.status("OK");
    Ok(Flow::Done)
}

pub(super) fn expire(cx: &mut Context<'_>, request: &Request) -> Outcome {
    expire_in(cx, request, 1000, "expire")
}

pub(super) fn pexpire(cx: &mut Context<'_>, request: &Request) -> Outcome {
    expire_in(cx, request, 1, "pexpire")
}

pub(super) fn ttl(cx: &mut Context<'_>, request: &Request) -> Outcome {
    time_left(cx, request, 1000)
}

pub(super) fn pttl(cx: &mut Context<'_>, request: &Request) -> Outcome {
    time_left(cx, request, 1)
}

pub(super) fn persist(cx: &mut Context<'_>, request: &Request) -> Outcome {
    let key = request.arg(1);
    let had = cx.store.deadline(key).is_some_and(|deadline| deadline != 0);
    cx.out.integer((had && cx.store.expire(key, 0)).into());
    Ok(Flow::Done)
}

/// `EXPIRE key amount [NX | XX | GT | LT]`
fn expire_in(cx: &mut Context<'_>, request: &Request, unit_ms: i64, name: &str) -> Outcome {
    let amount = integer(request, 2)?;
    let deadline = moment(cx.store, amount, unit_ms, name)?.max(1) as u64;
    let old = cx.store.deadline(request.arg(1));
    let wanted = match (request.len() == 4).then(|| request.arg(3).to_ascii_uppercase()).as_deref() {
        None => true,
        Some(b"NX") => old == Some(0),
        Some(b"XX") => old.is_some_and(|old| old != 0),
        // A key without a deadline counts as one that expires in infinity.
        Some(b"GT") => old.is_some_and(|old| old != 0 && deadline > old),
        Some(b"LT") => old.is_some_and(|old| old == 0 || deadline < old),
        Some(other) => {
            return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(other)).into());
        }
    };
    cx.out.integer((wanted && cx.store.expire(request.arg(1), deadline)).into());
    Ok(Flow::Done)
}

fn time_left(cx: &mut Context<'_>, request: &Request, unit_ms: u64) -> Result<Flow, Complaint> {
    let now = cx.store.now();
    cx.out.integer(match cx.store.deadline(request.arg(1)) {
        None => -2,
        Some(0) => -1,
        Some(deadline) => ((deadline.saturating_sub(now) + unit_ms / 2) / unit_ms) as i64,
    });
    Ok(Flow::Done)
}
