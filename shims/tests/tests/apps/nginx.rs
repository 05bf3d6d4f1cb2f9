//! nginx with two workers: many connections of wrk's, a large file whose hash is compared, and connections that stay.

use std::path::Path;
use std::process::Command;

use demi_shim_tests::{Bed, Child, Stack};
use rustix::process::Signal;

use super::tools::{ask, connect, free_port, hash, noise, path, times};

const MIB: usize = 1 << 20;

/// A configuration in a folder, with a file named `large` beside it; the hash of the file.
pub(crate) fn prepare(folder: &Path, addr: &str, port: u16, large: usize) -> String {
    let shown = folder.display();
    std::fs::create_dir_all(folder.join("root")).unwrap();
    std::fs::write(folder.join("root/small.txt"), "what is small\n").unwrap();
    let config = format!(
        "daemon off;\nworker_processes 2;\nuser root;\npid {shown}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n access_log off;\n sendfile on;\n tcp_nopush on;\n keepalive_timeout 60;\n keepalive_requests 1000000;\n\
         client_body_temp_path {shown}/body;\n proxy_temp_path {shown}/proxy;\n fastcgi_temp_path {shown}/fastcgi;\n\
         uwsgi_temp_path {shown}/uwsgi;\n scgi_temp_path {shown}/scgi;\n\
         server {{ listen {addr}:{port} backlog=1024; root {shown}/root; }}\n}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), config).unwrap();
    noise(&folder.join("root/large"), large)
}

/// The server itself, on the bed's stack or on the peer's kernel.
pub(crate) fn serve(bed: &Bed, folder: &Path, as_subject: bool) -> Command {
    let mut command = if as_subject {
        // Each worker has an instance of its own, all on one interface.
        let more = if bed.stack() == Stack::Catnip { "share = 2\n" } else { "" };
        bed.subject_with(&path("nginx"), 64, more)
    } else {
        bed.peer(&path("nginx"))
    };
    command.arg("-c").arg(folder.join("nginx.conf")).arg("-p").arg(folder);
    command
}

/// What a client of many connections says when all went well.
#[track_caller]
pub(crate) fn load(bed: &Bed, server: &mut Child, url: &str) {
    let seconds = format!("{}s", times());
    let said = ask(bed, server, "wrk", &["-t", "2", "-c", "64", "-d", &seconds, "--timeout", "10s", url]);
    let requests =
        said.lines().find_map(|line| line.trim().split_once(" requests in")?.0.parse::<u64>().ok());
    assert!(requests.is_some_and(|count| count > 100), "{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}\n{}", server.report());
}

/// A large file, by one connection that has served a small one before.
#[track_caller]
pub(crate) fn fetch(bed: &Bed, server: &mut Child, base: &str, digest: &str) {
    let to = bed.folder().join("fetched");
    let (small, large) = (format!("{base}/small.txt"), format!("{base}/large"));
    let args = [
        "-sS",
        "--fail",
        "--max-time",
        "60",
        "-w",
        "%{num_connects} ",
        "-o",
        "/dev/null",
        &small,
        "-o",
        to.to_str().unwrap(),
        &large,
        "-o",
        "/dev/null",
        &small,
    ];
    assert_eq!(ask(bed, server, "curl", &args), "1 0 0 ");
    assert_eq!(hash(&to), digest);
    std::fs::remove_file(to).unwrap();
}

pub(crate) fn run(bed: &Bed) {
    let (addr, port) = (bed.subject_addr(false), free_port());
    let digest = prepare(bed.folder(), addr, port, 100 * MIB);
    let mut server = Child::start(serve(bed, bed.folder(), true));
    drop(connect(bed, &mut server, addr, port));
    let base = format!("http://{addr}:{port}");
    load(bed, &mut server, &format!("{base}/small.txt"));
    fetch(bed, &mut server, &base, &digest);
    // Several at once, and a range.
    let args = ["-sS", "--fail", "-Z", "-o", "/dev/null", &format!("{base}/small.txt?[1-50]")];
    ask(bed, &mut server, "curl", &args);
    let range = ["-sS", "--fail", "-r", "0-12", &format!("{base}/small.txt")];
    assert_eq!(ask(bed, &mut server, "curl", &range), "what is small");
    assert!(server.stop(Signal::QUIT).success(), "{}", server.report());
}
