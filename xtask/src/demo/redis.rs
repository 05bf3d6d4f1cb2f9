//! Redis's own clients against the server.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::process::{output_of, output_of_input};
use crate::term;

const LIMIT: Duration = Duration::from_secs(60);

/// What redis-cli is asked to do, one command per line.
const SESSION: &[&str] = &[
    "SET greeting hello",
    "GET greeting",
    "INCR visits",
    "INCR visits",
    "MSET a 1 b 2",
    "MGET a b nothing",
    "EXPIRE greeting 100",
    "TTL greeting",
    "DBSIZE",
    "BOGUS",
];

/// Runs redis-benchmark and shows its figures as a table.
pub(super) fn benchmark(address: SocketAddr, requests: u64) -> Result<()> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let requests = requests.to_string();
    let options = ["-t", "ping,set,get,incr,mset", "-n", &requests, "-c", "50", "-P", "16"];
    println!("$ redis-benchmark -p {port} {}", options.join(" "));
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &host, "-p", &port]).args(options).arg("--csv");
    let csv = output_of(&mut command, LIMIT)?;
    let rows: Vec<Vec<String>> = csv.lines().filter_map(row).collect();
    ensure!(rows.len() >= 5, "redis-benchmark printed no figures: {csv}");
    println!("{}", term::table(&["command", "requests/s", "p50 ms", "p99 ms", "max ms"], rows));
    Ok(())
}

/// `"GET","rps","avg","min","p50","p95","p99","max"` as a row of the table; `None` for the header.
fn row(line: &str) -> Option<Vec<String>> {
    // A command's name may hold a comma, as that of MSET does not; fields are quoted, so this splits them.
    let fields: Vec<&str> = line.trim_matches('"').split("\",\"").collect();
    let [command, rate, _, _, p50, _, p99, most] = fields[..] else { return None };
    let rate = term::thousands(rate.parse().ok()?);
    Some(vec![command.to_owned(), rate, p50.to_owned(), p99.to_owned(), most.to_owned()])
}

/// Runs a few commands in one redis-cli and shows each with its answer.
pub(super) fn session(address: SocketAddr) -> Result<()> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    println!("$ redis-cli -p {port}");
    for line in SESSION {
        let mut command = Command::new("redis-cli");
        command.args(["-h", &host, "-p", &port, "--no-raw"]);
        let answer = output_of_input(&mut command, &format!("{line}\n"), LIMIT)?;
        println!("> {line}");
        for line in answer.lines().filter(|line| !line.is_empty()) {
            println!("{line}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::row;

    #[test]
    fn figures_are_read_and_the_header_is_not() {
        let header = r#""test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms""#;
        assert_eq!(row(header), None);
        let line = r#""MSET (10 keys)","1234567.89","0.1","0.2","0.3","0.4","0.5","0.6""#;
        assert_eq!(row(line).unwrap(), ["MSET (10 keys)", "1,234,568", "0.3", "0.5", "0.6"]);
        assert_eq!(row("WARNING: no config"), None);
    }
}
