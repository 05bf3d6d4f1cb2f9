//! Instructions of an echo, by direction and by layer: catnip beside smoltcp.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::Session;
use super::callgrind::{Callgrind, Profile};
use crate::term;

/// Instructions per echo over catnip, beside smoltcp's own sockets.
///
/// Both ends are in one thread, on a wire in memory, under callgrind: no turn of either is in vain, and counts repeat
/// exactly. What does not depend on the number of echoes cancels out between a short and a long run. A layer is what
/// its source files are, with what the compiler has inlined of the standard library into them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bytes per message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1024))]
    size: u64,
    /// Echoes to count
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    count: u64,
}

const SUBJECTS: [&str; 2] = ["catnip", "smoltcp"];
const TRANSPORTS: [&str; 2] = ["tcp", "udp"];

/// The steps of an echo, and to which direction each belongs.
const STEPS: [(&str, &str); 4] = [
    ("client_send", "there"),
    ("server_receive", "there"),
    ("server_send", "back"),
    ("client_receive", "back"),
];

/// Parts of paths, and the layer of what lies there; the first that fits counts.
const LAYERS: [(&str, &str); 19] = [
    ("/libos-catnip/src/tcp/", "transport"),
    ("/libos-catnip/src/udp", "transport"),
    ("/libos-catnip/src/ip/", "ip"),
    ("/libos-catnip/src/flow", "ip"),
    ("/libos-catnip/src/device/", "device"),
    ("/libos-catnip/src/", "libOS"),
    ("/demi-api/src/", "api"),
    ("/memalloc/src/", "memory"),
    ("/bench/src/smol/port.rs", "device"),
    ("/bench/src/", "application"),
    ("/src/socket/", "transport"),
    ("/src/storage/", "transport"),
    ("/src/wire/tcp", "transport"),
    ("/src/wire/udp", "transport"),
    ("/src/wire/", "ip"),
    ("/src/phy/", "device"),
    ("/src/iface/", "ip"),
    ("/multiarch/mem", "copies"),
    ("", "other"),
];

/// What one echo costs.
struct Cost {
    steps: BTreeMap<&'static str, f64>,
    layers: BTreeMap<&'static str, f64>,
}

impl Cost {
    fn total(&self) -> f64 {
        self.steps.values().sum()
    }

    fn direction(&self, wanted: &str) -> f64 {
        STEPS
            .iter()
            .filter(|(_, direction)| *direction == wanted)
            .filter_map(|(step, _)| self.steps.get(step))
            .sum()
    }
}

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    let callgrind = Callgrind::find()?;
    let progress = session.progress(SUBJECTS.len() * TRANSPORTS.len());
    let mut costs = Vec::new();
    for transport in TRANSPORTS {
        for subject in SUBJECTS {
            let cost = measure(args, session, &callgrind, subject, transport)?;
            session.emit(&json!({
                "subject": subject,
                "transport": transport,
                "size": args.size,
                "instructions": cost.total(),
                "there": cost.direction("there"),
                "back": cost.direction("back"),
                "steps": cost.steps,
                "layers": cost.layers,
            }));
            costs.push((subject, transport, cost));
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let total = |subject: &str, transport: &str| {
        let found = costs.iter().find(|cost| cost.0 == subject && cost.1 == transport);
        found.map_or(f64::NAN, |(_, _, cost)| cost.total())
    };
    let mut last = json!({ "subject": "catnip", "control": "smoltcp", "size": args.size });
    for transport in TRANSPORTS {
        let (ours, theirs) = (total("catnip", transport), total("smoltcp", transport));
        last[format!("instr_{transport}_echo")] = ours.into();
        last[format!("instr_{transport}_echo_smoltcp")] = theirs.into();
        last[format!("ratio_{transport}")] = (ours / theirs).into();
    }
    session.emit(&last);
    if !session.json {
        show(args, &costs, &last);
    }
    Ok(())
}

fn show(args: &Args, costs: &[(&str, &str, Cost)], last: &Value) {
    println!("instructions per echo of {} B, both ends together", args.size);
    let names: Vec<_> =
        costs.iter().map(|(subject, transport, _)| format!("{subject} {transport}")).collect();
    let header: Vec<_> = [""].into_iter().chain(names.iter().map(String::as_str)).collect();
    let row = |name: &str, value: &dyn Fn(&Cost) -> f64| -> Vec<String> {
        let values = costs.iter().map(|(_, _, cost)| format!("{:.0}", value(cost)));
        [name.to_owned()].into_iter().chain(values).collect()
    };
    let mut rows: Vec<Vec<String>> = STEPS
        .iter()
        .map(|(step, _)| row(&step.replace('_', " "), &|cost| cost.steps.get(step).copied().unwrap_or(0.0)))
        .collect();
    rows.push(row("all", &Cost::total));
    let mut layers: Vec<_> = LAYERS.iter().map(|(_, layer)| *layer).collect();
    layers.sort_unstable();
    layers.dedup();
    rows.extend(
        layers.iter().map(|layer| {
            row(&format!("of it {layer}"), &|cost| cost.layers.get(layer).copied().unwrap_or(0.0))
        }),
    );
    println!("{}", term::table(&header, rows));
    let bars: Vec<_> = names.into_iter().zip(costs.iter().map(|(_, _, cost)| cost.total())).collect();
    term::bars("instructions per echo", &bars, |count| format!("{count:.0}"));
    for transport in TRANSPORTS {
        println!("ratio_{transport} {:.3}", last[format!("ratio_{transport}")].as_f64().unwrap_or(f64::NAN));
    }
}

fn measure(
    args: &Args,
    session: &Session,
    callgrind: &Callgrind,
    subject: &str,
    transport: &str,
) -> Result<Cost> {
    let profile = |count: u64| -> Result<Profile> {
        let words =
            format!("instr --subject {subject} --transport {transport} --size {} --count {count}", args.size);
        callgrind.profile(session.roles.program(), &words)
    };
    let (short, long) = (profile(args.count)?, profile(2 * args.count)?);
    let per_echo = |more: u64, less: u64| (more as f64 - less as f64) / args.count as f64;
    let step = |name: &'static str| {
        let ends_so = |function: &str| function.contains("::instr::") && function.ends_with(name);
        (name, per_echo(long.inclusive(ends_so), short.inclusive(ends_so)))
    };
    let mut layers = BTreeMap::new();
    for (sign, profile) in [(1.0, &long), (-1.0, &short)] {
        for (file, count) in profile.files() {
            let name = LAYERS.iter().find(|(part, _)| file.contains(part)).map_or("other", |(_, name)| *name);
            *layers.entry(name).or_insert(0.0) += sign * count as f64 / args.count as f64;
        }
    }
    Ok(Cost { steps: STEPS.iter().map(|(name, _)| step(name)).collect(), layers })
}
