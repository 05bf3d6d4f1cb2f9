//! iperf3, as a server and as a client, with data in either direction and over several connections.

use demi_shim_tests::child::PATIENCE;
use demi_shim_tests::{Bed, Child};

use super::tools::{free_port, peer, subject, times};

const STREAMS: [&[&str]; 3] = [&[], &["-R"], &["-P", "4"]];
const DATAGRAMS: [&[&str]; 2] = [&["-u", "-b", "20M"], &["-u", "-b", "20M", "-R"]];

/// A server that serves one client at a time; nobody has come before the first.
fn one_round(bed: &Bed, subject_serves: bool, more: &[&str]) {
    let port = free_port().to_string();
    let addr = if subject_serves { bed.subject_addr(false) } else { bed.peer_addr(false) };
    let command = |serves: bool, args: &[&str]| {
        if serves == subject_serves { subject(bed, "iperf3", args) } else { peer(bed, "iperf3", args) }
    };
    let mut server = Child::start(command(true, &["-s", "-1", "-B", addr, "-p", &port, "--forceflush"]));
    loop {
        match server.line(PATIENCE) {
            Ok(line) if line.contains("Server listening on") => break,
            Ok(_) => {}
            Err(why) => panic!("{why}"),
        }
    }
    let seconds = times().to_string();
    let args = [&["-c", addr, "-p", &port, "-t", &seconds, "-J", "--connect-timeout", "5000"], more].concat();
    let mut client = Child::start(command(false, &args));
    let said = client.result(PATIENCE * times()).unwrap_or_else(|why| panic!("{why}\n{}", server.report()));
    assert!(!said.contains("\"error\""), "{said}\n{}", server.report());
    // Both ends have counted the same stream; what arrived is not nothing.
    let received = said.split("\"sum_received\":").nth(1).or_else(|| said.split("\"sum\":").last());
    let bytes = received
        .and_then(|part| part.split("\"bytes\":").nth(1))
        .and_then(|part| part.split(',').next()?.trim().parse::<u64>().ok());
    assert!(bytes.is_some_and(|count| count > 100_000), "{said}");
    server.succeed(PATIENCE);
}

pub(crate) fn server(bed: &Bed) {
    STREAMS.iter().for_each(|way| one_round(bed, true, way));
}

pub(crate) fn datagram_server(bed: &Bed) {
    DATAGRAMS.iter().for_each(|way| one_round(bed, true, way));
}

pub(crate) fn client(bed: &Bed) {
    STREAMS.iter().chain(&DATAGRAMS).for_each(|way| one_round(bed, false, way));
}
