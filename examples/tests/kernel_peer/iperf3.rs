//! iperf3 of the kernel's, as the client of our server and as the server of our client.

use super::bulk::BAD;
use super::net::{Device, Net, OURS, THEIRS, with_port};
use super::support::iperf3::{RUNS, RealServer, agree, run_json};

const IPERF3: &str = env!("CARGO_BIN_EXE_iperf3-catnip");
const PORT: u16 = 5201;

/// Our server under iperf3's client.
fn our_server(net: &Net, to: usize, runs: &[&str], more: &str) {
    let listen = with_port(OURS[to], PORT);
    let mut server = net.serve(IPERF3, &["--server", "--json", "--listen", &listen], more);
    for run in runs {
        let args = [vec!["-J", "-c", OURS[to]], run.split(' ').collect()].concat();
        let theirs = run_json(net.theirs("iperf3", &args));
        let ours = serde_json::from_str(&server.line()).unwrap();
        agree(run, run.contains("-R"), true, &ours, &theirs);
    }
    // The client's last word on the last test may be on its way still.
    let stopped = server.stop();
    let done = |count| stopped == format!("stopped: {count} tests done");
    assert!(done(runs.len()) || done(runs.len() - 1), "{stopped}");
}

/// Our client under iperf3's server.
fn our_client(net: &Net, to: usize, runs: &[&str], more: &str) {
    let addr = with_port(THEIRS[to], PORT);
    for run in runs {
        let server = RealServer::start(|program, args| net.theirs(program, args), THEIRS[to], PORT);
        let args = [vec!["--json", "--client", &addr], run.split(' ').collect()].concat();
        let ours = run_json(net.catnip(IPERF3, &args, more));
        agree(run, !run.contains("-R"), false, &ours, &server.finish());
    }
}

#[test]
fn iperf3_measures_our_server() {
    let Some(net) = Net::new(Device::AfXdp, &["iperf3"]) else { return };
    our_server(&net, 0, &RUNS, "");
    our_server(&net, 1, &RUNS[2..4], "");
}

#[test]
fn our_client_measures_iperf3() {
    let Some(net) = Net::new(Device::AfXdp, &["iperf3"]) else { return };
    our_client(&net, 0, &RUNS, "");
    our_client(&net, 1, &RUNS[2..4], "");
}

#[test]
fn both_agree_on_a_network_that_loses_and_reorders() {
    let Some(net) = Net::new(Device::AfXdp, &["iperf3"]) else { return };
    our_server(&net, 0, &["-t 1", "-t 1 -R", "-n 20000000 -R"], BAD);
    our_client(&net, 1, &["-t 1", "-t 1 -R"], BAD);
}
