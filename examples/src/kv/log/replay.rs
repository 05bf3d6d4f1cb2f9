//! The state, rebuilt from the log at start.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use demi_api::{Demikernel, Error, LibOs, QDesc, SgArray};

use super::super::store::{NoRoom, Store};
use super::record::{ELEMENT_HEADER, Head, Record, Records};
use crate::cli::grouped;
use crate::log::Room;
use crate::stop::Stop;

/// Time between two lines that tell how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Elements between two looks at the clock: a power of two.
const CLOCK_EVERY: u64 = 256;

#[derive(Debug, Default)]
struct Count {
    elements: u64,
    records: u64,
    bytes: u64,
}

/// Does again what the log tells, up to a mark that is pushed now. False: a signal came first.
pub(crate) fn replay<L: LibOs>(
    demi: &Demikernel<L>,
    qd: QDesc,
    store: &mut Store,
    stop: &Stop,
) -> anyhow::Result<bool> {
    let own = fastrand::u64(1..);
    let mark = [&ELEMENT_HEADER[..], Head::start(own).bytes()].concat();
    let pushed = demi
        .push(qd, demi.copy_from(&mark)?)
        .map_err(Error::from)
        .and_then(|token| demi.wait(token, None)?.pushed());
    match pushed {
        Ok(_) => {}
        Err(Error::Interrupted) if stop.asked() => return Ok(false),
        Err(error) => return Err(error).context("cannot write to the log"),
    }
    let mut count = Count::default();
    let (start, mut told) = (Instant::now(), Instant::now());
    loop {
        let pop = demi.pop(qd)?;
        let element = match demi.wait(pop, None) {
            Err(Error::Interrupted) if stop.asked() => return Ok(false),
            waited => {
                waited.and_then(|it| it.popped()).with_context(|| place(&count, "cannot read the log"))?
            }
        };
        let ours = take(demi, store, element, own, &mut count)?;
        count.elements += 1;
        if count.elements.is_multiple_of(CLOCK_EVERY) && told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(demi, &count);
        }
        if ours {
            break;
        }
    }
    tracing::info!(?count, keys = store.len(), took = ?start.elapsed(), "the log was replayed");
    Ok(true)
}

/// True: it holds the mark that was looked for.
fn take<L: LibOs>(
    demi: &Demikernel<L>,
    store: &mut Store,
    element: SgArray,
    own: u64,
    count: &mut Count,
) -> anyhow::Result<bool> {
    let element = element.into_contiguous(demi.heap()).context("the log cannot be replayed")?;
    let damaged = |wrong| anyhow!("{}", place(count, &format!("the log cannot be replayed: {wrong}")));
    let mut records = Records::of(&element).map_err(damaged)?;
    let (mut ours, mut read) = (false, 0);
    while let Some(record) = records.next().map_err(damaged)? {
        ours |= matches!(record, Record::Start { number } if number == own);
        store.replay(&element, &record).map_err(|NoRoom| {
            anyhow!(
                "the log holds more than --maxmemory allows; raise it, or heap.size_mib in the configuration"
            )
        })?;
        read += 1;
    }
    count.records += read;
    count.bytes += element.len() as u64;
    Ok(ours)
}

/// Where in the log something happened.
fn place(count: &Count, what: &str) -> String {
    format!(
        "{what}, in element {} from its beginning, behind {} bytes",
        grouped(count.elements),
        grouped(count.bytes)
    )
}

#[cold]
fn tell<L: LibOs>(demi: &Demikernel<L>, count: &Count) {
    let room = Room::look(demi);
    let (done, used) = (count.bytes >> 20, (room.total - room.free) >> 20);
    eprintln!("replaying the log: {} records, {done} MiB of about {used}", grouped(count.records));
}
