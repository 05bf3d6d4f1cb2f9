//! Catnip at both ends of a NIC, beside that NIC alone, other stacks over it, and the kernel's.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::link::{Device, End, Link, Over};
use super::super::stats::Spread;
use super::dpdk::Dpdk;
use super::ratios::{self, TROUBLES, Turn};
use super::{Args, Exchange, Session, number};
use crate::term;

/// Neighbours are compared with each other, so they have their turns side by side.
const SUBJECTS: [&str; 5] = ["smoltcp", "kernel", "catnip", "raw", "dpdk"];

/// The MTU of every device.
const MTU: usize = 1500;

struct Run<'a> {
    session: &'a Session,
    exchange: Exchange,
    link: Link,
    dpdk: Option<Dpdk>,
}

pub(super) fn run(args: &Args, session: &Session) -> Result<()> {
    let device = args.device().unwrap_or(Device::Memif);
    for name in &args.without {
        ensure!(
            ["raw", "dpdk", "smoltcp"].contains(&name.as_str()),
            "--without takes raw, dpdk and smoltcp, not {name}"
        );
    }
    let mut subjects: Vec<&str> =
        SUBJECTS.into_iter().filter(|subject| !args.without.iter().any(|name| name == subject)).collect();
    let link = Link::set_up(device, MTU)?;
    let mut dpdk = None;
    if device != Device::Memif {
        subjects.retain(|subject| *subject != "dpdk");
    } else if subjects.contains(&"dpdk") {
        match Dpdk::build(session.roles.program())? {
            Ok(built) => dpdk = Some(built),
            Err(why) => {
                eprintln!("note: without the subject dpdk: {why}");
                subjects.retain(|subject| *subject != "dpdk");
            }
        }
    }
    let run = Run { session, exchange: Exchange::of(args), link, dpdk };
    let progress = session.progress(args.alternations * subjects.len());
    let mut turns = Vec::new();
    for index in 0..args.alternations {
        let mut turn = Turn::new();
        let mut before = session.roles.cacheline()?;
        for subject in order(&subjects, index) {
            progress.set_message(subject);
            let mut report =
                run.measure(subject).with_context(|| format!("{subject} over {}", device.name()))?;
            let after = session.roles.cacheline()?;
            report["subject"] = subject.into();
            report["alternation"] = index.into();
            report["cacheline_ns"] = before.max(after).into();
            report["cacheline_before_ns"] = before.into();
            report["cacheline_after_ns"] = after.into();
            session.emit(&report);
            turn.insert(subject, report);
            before = after;
            progress.inc(1);
        }
        turns.push(turn);
    }
    progress.finish_and_clear();
    report(args, session, device, &subjects, &turns)
}

/// Whoever begins changes, and so does the direction: AB, BA for two.
fn order<'a>(subjects: &[&'a str], index: usize) -> Vec<&'a str> {
    let mut order = subjects.to_vec();
    order.rotate_left(index / 2 % subjects.len());
    if index % 2 == 1 {
        order.reverse();
    }
    order
}

impl Run<'_> {
    /// One turn of a subject: a server and a client, started afresh.
    fn measure(&self, subject: &str) -> Result<Value> {
        let roles = &self.session.roles;
        let [near, far] = roles.cores();
        if let Some(dpdk) = self.dpdk.as_ref().filter(|_| subject == "dpdk") {
            return dpdk.measure(roles, &self.exchange);
        }
        let over = if subject == "kernel" { Over::Kernel } else { Over::Nic };
        let [at_server, at_client] = self.link.words(over).map(|words| match over {
            Over::Nic => words,
            // As catnip does: what paces would be measured for that.
            Over::Kernel => format!("{words} --loss-based"),
        });
        let words = format!("echo-server --subject {subject} --core {far} {at_server}");
        let mut server = self.link.start(roles, End::Server, over, &words)?;
        let address = server.address("listening")?;
        let words = format!(
            "echo-client --subject {subject} --core {near} --connect {address} {at_client} {}",
            self.exchange.words()
        );
        let mut client = self.link.start(roles, End::Client, over, &words)?;
        let mut report = client.read()?;
        client.finish()?;
        if let Some(mut more) = server.read_more()? {
            let counters = [report["counters"].take(), more["counters"].take()];
            for (name, sum) in TROUBLES.iter().zip(ratios::troubles([&counters[0], &counters[1]])) {
                report[name.trim_start_matches("tcp_")] = sum.into();
            }
            let [client, server] = counters;
            report["counters"] = json!({ "client": client, "server": server });
        }
        server.finish()?;
        Ok(report)
    }
}

fn report(args: &Args, session: &Session, device: Device, subjects: &[&str], turns: &[Turn]) -> Result<()> {
    let lines = ratios::summary(device, turns)?;
    let troubles = TROUBLES.map(|name| {
        let name = name.trim_start_matches("tcp_");
        let sum = turns.iter().filter_map(|turn| turn.get("catnip")?[name].as_u64()).sum::<u64>();
        (name, sum)
    });
    let mut last = json!({
        "subject": "catnip",
        "control": "kernel",
        "device": device.name(),
        "size": args.size,
        "window": args.window,
        "lockstep": args.lockstep,
        "alternations": args.alternations,
    });
    for (name, sum) in troubles {
        last[name] = sum.into();
    }
    for (name, value) in ratios::keys(&lines) {
        last[name] = value;
    }
    session.emit(&last);
    if session.json {
        return Ok(());
    }
    println!(
        "echo over TCP, catnip over {}, {} B, {} outstanding, {} alternations",
        device.name(),
        args.size,
        args.window,
        args.alternations
    );
    let mut rows = Vec::new();
    let mut medians = Vec::new();
    for subject in subjects {
        let all = |key: &str| -> Result<f64> {
            let reports = turns.iter().filter_map(|turn| turn.get(subject));
            Ok(Spread::of(reports.map(|report| number(report, key)).collect::<Result<Vec<_>>>()?).median)
        };
        let p50 = all("p50_ns")?;
        rows.push([
            (*subject).to_owned(),
            term::time(p50),
            term::time(all("p99_ns")?),
            term::thousands(all("msgs_per_s")?),
            term::time(all("cacheline_ns")?),
        ]);
        medians.push(((*subject).to_owned(), p50));
    }
    println!("{}", term::table(&["subject", "p50", "p99", "messages/s", "cache line"], rows));
    term::bars("round trip, median of p50", &medians, term::time);
    term::distribution(
        "catnip's p50 to the kernel's, number of alternations",
        &ratios::ratios(turns, "catnip", "kernel", "p50_ns")?,
    );
    for (name, spread, count) in &lines {
        let of = if *count < turns.len() { format!(" of {count} alternations") } else { String::new() };
        println!("{name:24} {spread}{of}");
    }
    let troubles = troubles.map(|(name, sum)| format!("{sum} {}", name.replace('_', " ")));
    println!("catnip, all turns and both ends: {}", troubles.join(", "));
    session.warn_of_company(turns.iter().flat_map(|turn| turn.values()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn two_subjects_alternate_and_more_take_turns_at_beginning() {
        assert_eq!(
            [0, 1, 2, 3].map(|index| order(&["a", "b"], index)),
            [["a", "b"], ["b", "a"], ["b", "a"], ["a", "b"]]
        );
        let first: Vec<_> = (0..6).map(|index| order(&["a", "b", "c"], index)[0]).collect();
        assert_eq!(first, ["a", "c", "b", "a", "c", "b"]);
    }
}
