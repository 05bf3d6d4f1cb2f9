//! Python's own HTTP server and client, with threads.

use demi_shim_tests::child::PATIENCE;
use demi_shim_tests::{Bed, Child};
use rustix::process::Signal;

use super::nginx;
use super::tools::{ask, connect, free_port, hash, noise, subject};

const PYTHON: &str = "/usr/bin/python3";

/// Fetches the large file and many small ones from several threads, and sees a refused connection for what it is.
const CLIENT: &str = r"
import concurrent.futures, errno, hashlib, sys, urllib.error, urllib.request
base, nowhere = sys.argv[1:]
def get(path):
    with urllib.request.urlopen(base + path, timeout=25) as answer:
        assert answer.status == 200, answer.status
        return answer.read()
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert set(pool.map(get, ['/small.txt'] * 60)) == {b'what is small\n'}
try:
    get('/none')
    assert False
except urllib.error.HTTPError as error:
    assert error.code == 404
try:
    urllib.request.urlopen(nowhere, timeout=25)
    assert False
except urllib.error.URLError as error:
    assert error.reason.errno == errno.ECONNREFUSED, error
print(hashlib.sha256(get('/large')).hexdigest())
";

pub(crate) fn server(bed: &Bed) {
    let (addr, port) = (bed.subject_addr(false), free_port());
    let root = bed.folder().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("small.txt"), "what is small\n").unwrap();
    let digest = noise(&root.join("large"), 20 << 20);
    let (port_text, root) = (port.to_string(), root.display().to_string());
    let args = ["-m", "http.server", "--bind", addr, "--directory", &root, &port_text];
    let mut server = Child::start(subject(bed, PYTHON, &args));
    drop(connect(bed, &mut server, addr, port));
    let base = format!("http://{addr}:{port}");
    let to = bed.folder().join("fetched");
    ask(bed, &mut server, "curl", &["-sS", "--fail", "-o", to.to_str().unwrap(), &format!("{base}/large")]);
    assert_eq!(hash(&to), digest);
    let many = [
        "-sS",
        "--fail",
        "-Z",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} ",
        &format!("{base}/small.txt?[1-40]"),
    ];
    assert_eq!(ask(bed, &mut server, "curl", &many), "200 ".repeat(40));
    server.stop(Signal::INT);
}

pub(crate) fn client(bed: &Bed) {
    let (addr, port) = (bed.peer_addr(false), free_port());
    let digest = nginx::prepare(bed.folder(), addr, port, 20 << 20);
    let mut server = Child::start(nginx::serve(bed, bed.folder(), false));
    drop(connect(bed, &mut server, addr, port));
    let nowhere = format!("http://{addr}:{}", free_port());
    let args = ["-c", CLIENT, &format!("http://{addr}:{port}"), &nowhere];
    let mut client = Child::start(subject(bed, PYTHON, &args));
    assert_eq!(client.succeed(PATIENCE), digest);
    server.stop(Signal::QUIT);
}
