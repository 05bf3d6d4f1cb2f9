//! A counter in memory that one process exports and others count in, with no part of the first one's application in it.
//!
//! ```text
//! DEMI_CONFIG=examples/catmint-server.toml cargo run -p demi-libos-catmint --example counter -- export 10.0.0.1:7000
//! DEMI_CONFIG=examples/catmint-client.toml cargo run -p demi-libos-catmint --example counter -- count 10.0.0.1:7000 100000
//! ```

use std::collections::VecDeque;
use std::error::Error;
use std::time::{Duration, Instant};

use demi_api::{Demikernel, OpenOptions, Position, QToken};
use demi_libos_catmint::Catmint;

type Demi = Demikernel<Catmint>;

/// The counter is the region's only word.
const COUNTER: Position = Position(0);

/// Additions under way at a time.
const WINDOW: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let demi = Demi::from_env()?;
    match args[..] {
        ["export", at] => export(&demi, at),
        ["count", at, times] => count(&demi, at, times.parse()?),
        _ => Err("usage: counter export IP:PORT, or counter count IP:PORT TIMES".into()),
    }
}

/// Exports the counter, and says each second where it stands if it has moved.
fn export(demi: &Demi, at: &str) -> Result<(), Box<dyn Error>> {
    let create = OpenOptions { create: true, ..OpenOptions::default() };
    let region = demi.open(format!("rdma://{at}/counter?size=8"), &create)?;
    println!("exported at {at}");
    let mut last = 0;
    // Others are served while this waits: by the hardware, or, without that, by the turns of the wait loop.
    demi.block_on(async {
        loop {
            demi.sleep_async(Duration::from_secs(1)).await;
            let now = fetched(demi, demi.fetch_and_add(region, COUNTER, 0)?)?;
            if now != last {
                println!("{now}");
                last = now;
            }
        }
    })?
}

fn count(demi: &Demi, at: &str, times: u64) -> Result<(), Box<dyn Error>> {
    let region = demi.open(format!("rdma://{at}/counter"), &OpenOptions::default())?;
    let begin = Instant::now();
    let mut first = None;
    let mut tokens = VecDeque::with_capacity(WINDOW);
    for _ in 0..times {
        if tokens.len() == WINDOW
            && let Some(oldest) = tokens.pop_front()
        {
            let had = fetched(demi, oldest)?;
            first.get_or_insert(had);
        }
        tokens.push_back(demi.fetch_and_add(region, COUNTER, 1)?);
    }
    let mut last = 0;
    for token in tokens {
        last = fetched(demi, token)?;
        first.get_or_insert(last);
    }
    let each = begin.elapsed().as_nanos() / u128::from(times.max(1));
    println!("counted from {} to {last}, {each} ns each, {WINDOW} at a time", first.unwrap_or(last));
    demi.close(region)?;
    Ok(())
}

fn fetched(demi: &Demi, token: QToken) -> Result<u64, Box<dyn Error>> {
    Ok(demi.wait(token, Some(Duration::from_secs(10)))?.fetched()?)
}
