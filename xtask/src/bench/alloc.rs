//! Allocation and release beside the system's malloc: time and instructions.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::callgrind::Callgrind;
use super::stats::Spread;
use super::{Session, number};
use crate::term;

/// Allocation and release beside the system's malloc.
///
/// Time per pair: both take turns in one process. Instructions per pair: by callgrind, as the difference
/// between a short and a long run; left out where valgrind cannot be had.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bytes per object
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256, 1024, 4096, 16384, 65536])]
    sizes: Vec<usize>,
    /// Turns that each gets
    #[arg(long, default_value_t = 20)]
    alternations: usize,
    /// Measure time only
    #[arg(long)]
    no_instructions: bool,
}

const SUBJECTS: [&str; 2] = ["malloc", "memalloc"];

/// What was measured at one size.
struct Row {
    size: usize,
    nanos: [Spread; 2],
    ratio: Spread,
    instructions: Option<[f64; 2]>,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    ensure!(args.alternations > 0 && !args.sizes.is_empty(), "nothing to measure");
    let callgrind = match Callgrind::find() {
        _ if args.no_instructions => None,
        Ok(callgrind) => Some(callgrind),
        Err(missing) => {
            eprintln!("no instruction counts: {missing}");
            None
        }
    };
    let progress = session.progress(args.sizes.len());
    let mut rows = Vec::new();
    for size in &args.sizes {
        let row = measure(*size, args.alternations, callgrind.as_ref(), session)?;
        for (side, subject) in SUBJECTS.into_iter().enumerate() {
            session.emit(&json!({
                "subject": subject,
                "size": row.size,
                "ns_per_pair": row.nanos[side].median,
                "ns_per_pair_quartiles": row.nanos[side].quartiles(),
                "instructions_per_pair": row.instructions.map_or(Value::Null, |counted| counted[side].into()),
            }));
        }
        rows.push(row);
        progress.inc(1);
    }
    progress.finish_and_clear();

    let ratio = Spread::of(rows.iter().map(|row| row.ratio.median));
    let most = rows.iter().filter_map(|row| row.instructions).map(|[_, ours]| ours).reduce(f64::max);
    session.emit(&json!({
        "subject": "memalloc",
        "control": "malloc",
        "ratio": ratio.median,
        "ratio_by_size": rows.iter().map(|row| json!([row.size, row.ratio.median])).collect::<Vec<_>>(),
        "instructions_per_pair_max": most,
    }));
    if session.json {
        return Ok(());
    }
    let text = rows.iter().map(|row| {
        let counted = row.instructions.map(|counted| counted.map(|count| format!("{count:.1}")));
        let [malloc, ours] = counted.unwrap_or(["–".to_owned(), "–".to_owned()]);
        let nanos = row.nanos.map(|nanos| format!("{:.1}", nanos.median));
        let [malloc_ns, ours_ns] = nanos;
        [format!("{} B", row.size), malloc_ns, ours_ns, format!("{}", row.ratio), malloc, ours]
    });
    println!("allocation and release, per pair");
    let header = ["size", "malloc ns", "memalloc ns", "ratio", "malloc instr.", "memalloc instr."];
    println!("{}", term::table(&header, text));
    let bars: Vec<_> = rows
        .iter()
        .flat_map(|row| {
            [0, 1]
                .map(|side: usize| (format!("{:>6} B {}", row.size, SUBJECTS[side]), row.nanos[side].median))
        })
        .collect();
    term::bars("ns per pair", &bars, |nanos| format!("{nanos:.1}"));
    println!("ratio {ratio}");
    Ok(())
}

fn measure(
    size: usize,
    alternations: usize,
    callgrind: Option<&Callgrind>,
    session: &Session,
) -> Result<Row> {
    let core = session.roles.cores()[0];
    let mut role =
        session.roles.start(&format!("alloc --size {size} --alternations {alternations} --core {core}"))?;
    let mut nanos = [Vec::new(), Vec::new()];
    while let Some(report) = role.read_more()? {
        nanos[0].push(number(&report, "malloc_ns")?);
        nanos[1].push(number(&report, "memalloc_ns")?);
    }
    role.finish()?;
    let [malloc, ours] = &nanos;
    let ratio = Spread::of(malloc.iter().zip(ours).map(|(malloc, ours)| ours / malloc));
    let mut instructions = None;
    if let Some(callgrind) = callgrind {
        let mut counted = [0.0; 2];
        for (side, subject) in SUBJECTS.into_iter().enumerate() {
            counted[side] = callgrind.per_unit(session.roles.program(), 10_000, 110_000, |pairs| {
                format!("pairs --subject {subject} --size {size} --pairs {pairs}")
            })?;
        }
        instructions = Some(counted);
    }
    Ok(Row { size, nanos: nanos.map(Spread::of), ratio, instructions })
}
