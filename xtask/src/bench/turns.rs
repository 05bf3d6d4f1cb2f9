//! What benchmarks share that have several parts take turns: which libOS, how long, how often; and the turns themselves.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::Value;

use super::stats::Spread;
use super::{Session, number};
use crate::term;

/// How long each part runs, and over which libOS.
#[derive(clap::Args)]
pub(super) struct Turns {
    /// Only this libOS; both, one after the other, if none is named
    #[arg(long, value_enum)]
    libos: Option<Libos>,
    /// Bytes per message
    #[arg(long, default_value_t = 64)]
    pub(super) size: usize,
    /// Seconds to measure in each turn
    #[arg(long, default_value_t = 0.4)]
    pub(super) seconds: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Libos {
    Catnap,
    Catnip,
}

impl Libos {
    pub(super) fn name(self) -> &'static str {
        match self {
            Libos::Catnap => "catnap",
            Libos::Catnip => "catnip",
        }
    }
}

/// The reports of each part, in the order of its turns.
pub(super) struct Reports<const PARTS: usize> {
    parts: [&'static str; PARTS],
    reports: [Vec<Value>; PARTS],
}

impl Turns {
    /// The libOSes that are asked for.
    pub(super) fn liboses(&self) -> impl Iterator<Item = Libos> {
        let named = self.libos;
        [Libos::Catnap, Libos::Catnip]
            .into_iter()
            .filter(move |libos| named.is_none_or(|named| named == *libos))
    }
}

impl<const PARTS: usize> Reports<PARTS> {
    /// Has the parts take turns, each alternation beginning with another: `turn` is given its number and the part's. What it
    /// reports is printed, with what it is of.
    pub(super) fn gather(
        session: &Session,
        parts: [&'static str; PARTS],
        alternations: usize,
        what: &str,
        mut turn: impl FnMut(usize, usize) -> Result<Value>,
    ) -> Result<Reports<PARTS>> {
        ensure!(alternations > 0, "--alternations must be at least 1");
        let progress = session.progress(alternations * PARTS);
        let mut reports = [const { Vec::new() }; PARTS];
        for index in 0..alternations {
            for step in 0..PARTS {
                let part = (index + step) % PARTS;
                progress.set_message(format!("{what}, {}", parts[part]));
                let cacheline = session.roles.cacheline()?;
                let mut report = turn(index, part)?;
                report["subject"] = what.into();
                report["part"] = parts[part].into();
                report["alternation"] = index.into();
                report["cacheline_ns"] = cacheline.into();
                session.emit(&report);
                reports[part].push(report);
                progress.inc(1);
            }
        }
        progress.finish_and_clear();
        Ok(Reports { parts, reports })
    }

    /// The median latencies of each turn of each part.
    pub(super) fn p50(&self) -> Result<[Vec<f64>; PARTS]> {
        let mut all = [const { Vec::new() }; PARTS];
        for (values, reports) in all.iter_mut().zip(&self.reports) {
            *values = reports.iter().map(|report| number(report, "p50_ns")).collect::<Result<_>>()?;
        }
        Ok(all)
    }

    /// Shows the parts beside each other, and the ratio.
    pub(super) fn show(&self, session: &Session, p50: [Vec<f64>; PARTS], ratio: &Spread) {
        let bars: Vec<_> = self.parts.into_iter().zip(p50).collect();
        let bars: Vec<_> =
            bars.into_iter().map(|(part, p50)| (part.to_owned(), Spread::of(p50).median)).collect();
        term::bars("median of p50", &bars, term::time);
        println!("ratio_p50 {ratio}");
        session.warn_of_company(self.reports.iter().flatten());
    }
}
