//! haproxy in front of nginx: the proxy is the subject, on both of its sides; its clients and the server behind it have
//! the kernel.

use demi_shim_tests::{Bed, Child};
use rustix::process::Signal;

use super::nginx;
use super::tools::{connect, free_port, subject};

pub(crate) fn run(bed: &Bed) {
    let behind = bed.peer_addr(false);
    let (inner, outer) = (free_port(), free_port());
    let digest = nginx::prepare(bed.folder(), behind, inner, 20 << 20);
    let mut server = Child::start(nginx::serve(bed, bed.folder(), false));
    drop(connect(bed, &mut server, behind, inner));

    let addr = bed.subject_addr(false);
    let config = format!(
        "global\n  nbthread 2\ndefaults\n  mode http\n  timeout connect 10s\n  timeout client 30s\n  timeout server 30s\n\
         listen all\n  bind {addr}:{outer}\n  server one {behind}:{inner} check\n"
    );
    let file = bed.folder().join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let mut proxy = Child::start(subject(bed, "haproxy", &["-db", "-f", file.to_str().unwrap()]));
    drop(connect(bed, &mut proxy, addr, outer));
    let base = format!("http://{addr}:{outer}");
    nginx::load(bed, &mut proxy, &format!("{base}/small.txt"));
    nginx::fetch(bed, &mut proxy, &base, &digest);
    // It stops once its connections have gone.
    proxy.stop(Signal::TERM);
    server.stop(Signal::QUIT);
}
