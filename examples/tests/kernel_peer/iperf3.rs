//! iperf3 of the kernel's, as the client of our server and as the server of our client.

use super::net::{Device, Net, OURS, THEIRS, with_port};
use super::support::iperf3::{RUNS, RealServer, agree, run_json};

const IPERF3: &str = env!("CARGO_BIN_EXE_iperf3-catnip");
const PORT: u16 = 5201;

#[test]
fn iperf3_measures_our_server() {
    let Some(net) = Net::new(Device::AfXdp, &["iperf3"]) else { return };
    for to in [0, 1] {
        let listen = with_port(OURS[to], PORT);
        let mut server = net.serve(IPERF3, &["--server", "--json", "--listen", &listen], "");
        for run in RUNS {
            let args = [vec!["-J", "-c", OURS[to]], run.split(' ').collect()].concat();
            let theirs = run_json(net.theirs("iperf3", &args));
            let ours = serde_json::from_str(&server.line()).unwrap();
            agree(run, run.contains("-R"), true, &ours, &theirs);
        }
        assert_eq!(server.stop(), "stopped: 6 tests done");
    }
}

#[test]
fn our_client_measures_iperf3() {
    let Some(net) = Net::new(Device::AfXdp, &["iperf3"]) else { return };
    for to in [0, 1] {
        let addr = with_port(THEIRS[to], PORT);
        for run in RUNS {
            let server = RealServer::start(|program, args| net.theirs(program, args), THEIRS[to], PORT);
            let args = [vec!["--json", "--client", &addr], run.split(' ').collect()].concat();
            let ours = run_json(net.catnip(IPERF3, &args, ""));
            agree(run, !run.contains("-R"), false, &ours, &server.finish());
        }
    }
}
