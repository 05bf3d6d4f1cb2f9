//! Peers of a shared-memory NIC that are other processes, and end without a word.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use demi_api::{Config, Demikernel, Domain, Error, SocketKind};
use demi_libos_catnip::Catnip;

/// Names the NIC's socket to the process that is to be killed.
const SOCKET: &str = "DEMI_HOSTILE_MEMIF";

const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// Bytes that are received of each peer before it is killed.
const BYTES: usize = 3_000_000;

fn instance(socket: &str, role: &str, number: u8) -> Demikernel<Catnip> {
    let text = format!(
        "[heap]\nsize_mib = 32\nhuge_pages = \"never\"\nlock = false\n[wait]\nspin_max_us = 20\n\
         [catnip.device]\nkind = \"memif\"\nsocket = \"@{socket}\"\nrole = \"{role}\"\n\
         [catnip.ip]\naddresses = [\"10.0.0.{number}/24\"]\n"
    );
    Demikernel::new(&Config::parse(&text, "processes").unwrap()).unwrap()
}

fn listens() -> SocketAddr {
    "10.0.0.1:80".parse().unwrap()
}

/// What the process does that is killed: it sends for as long as it lives.
fn send(socket: &str) {
    let demi = instance(socket, "client", 2);
    let qd = loop {
        let qd = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
        let connect = demi.connect(qd, listens()).unwrap();
        if demi.wait(connect, PATIENCE).unwrap().result.is_ok() {
            break qd;
        }
        demi.close(qd).unwrap();
    };
    loop {
        let push = demi.push(qd, demi.copy_from(&[7; 20_000]).unwrap()).unwrap();
        demi.wait(push, PATIENCE).unwrap().pushed().unwrap();
    }
}

fn start(socket: &str) -> Child {
    let this = std::env::current_exe().unwrap();
    let name = "catnip::processes::peers_that_are_killed_in_mid_transfer_can_come_back";
    let mut command = Command::new(this);
    command.args([name, "--exact"]).env(SOCKET, socket);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn peers_that_are_killed_in_mid_transfer_can_come_back() {
    if let Ok(socket) = std::env::var(SOCKET) {
        return send(&socket);
    }
    let socket = format!("demi-hostile-{}", std::process::id());
    let demi = instance(&socket, "server", 1);
    let listener = demi.socket(Domain::Inet, SocketKind::Stream).unwrap();
    demi.bind(listener, listens()).unwrap();
    demi.listen(listener, 8).unwrap();
    let mut accept = demi.accept(listener).unwrap();
    for _ in 0..3 {
        let mut peer = start(&socket);
        let outcome = serve(&demi, accept);
        // SIGKILL: with frames in the rings, and the rings half written for all we know.
        peer.kill().unwrap();
        peer.wait().unwrap();
        let qd = outcome.unwrap();
        // It is gone, and neither what was received nor what is sent now hurts.
        let push = demi.push(qd, demi.copy_from(b"anybody there?").unwrap()).unwrap();
        demi.wait(push, PATIENCE).unwrap().pushed().unwrap();
        let pop = demi.pop(qd).unwrap();
        while demi.wait(pop, Some(Duration::from_millis(50))).is_ok_and(|done| done.popped().is_err()) {}
        demi.close(qd).unwrap();
        accept = demi.accept(listener).unwrap();
    }
    let counters = demi.counters().unwrap();
    let links = counters.libos.iter().find(|(name, _)| *name == "memif_links").unwrap().1;
    assert_eq!(links, 3, "{:?}", counters.libos);
    assert_eq!(counters.stale_posts, 0);
}

/// Receives from the next peer.
fn serve(demi: &Demikernel<Catnip>, accept: demi_api::QToken) -> Result<demi_api::QDesc, Error> {
    let (qd, _) = demi.wait(accept, PATIENCE)?.accepted()?;
    let mut received = 0;
    while received < BYTES {
        let sga = demi.wait(demi.pop(qd)?, PATIENCE)?.popped()?;
        assert!(
            sga.segments().iter().all(|part| part.iter().all(|byte| *byte == 7)),
            "other bytes than were sent"
        );
        received += sga.len();
    }
    Ok(qd)
}
