//! curl as the subject, of a server on the kernel: one file, many at once, what is not there and where nobody listens.

use demi_shim_tests::child::PATIENCE;
use demi_shim_tests::{Bed, Child};
use rustix::process::Signal;

use super::nginx;
use super::tools::{connect, free_port, hash, subject};

pub(crate) fn run(bed: &Bed) {
    let (addr, port) = (bed.peer_addr(false), free_port());
    let digest = nginx::prepare(bed.folder(), addr, port, 20 << 20);
    let mut server = Child::start(nginx::serve(bed, bed.folder(), false));
    drop(connect(bed, &mut server, addr, port));
    let base = format!("http://{addr}:{port}");
    let curl = |args: &[&str]| {
        let args = [&["-sS", "--max-time", "25"], args].concat();
        Child::start(subject(bed, "curl", &args)).result(PATIENCE)
    };

    let to = bed.folder().join("fetched");
    let get = ["--fail", "-w", "%{size_download}", "-o", to.to_str().unwrap(), &format!("{base}/large")];
    assert_eq!(curl(&get).unwrap(), (20 << 20).to_string());
    assert_eq!(hash(&to), digest);
    let many = [
        "--fail",
        "-Z",
        "--parallel-immediate",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} ",
        &format!("{base}/small.txt?[1-40]"),
    ];
    assert_eq!(curl(&many).unwrap(), "200 ".repeat(40));
    assert_eq!(curl(&["-o", "/dev/null", "-w", "%{http_code}", &format!("{base}/none")]).unwrap(), "404");
    // Its own number for a refused connection.
    let refused = curl(&[&format!("http://{addr}:{}", free_port())]).unwrap_err();
    assert!(refused.starts_with("exit status: 7\n"), "{refused}");
    server.stop(Signal::QUIT);
}
