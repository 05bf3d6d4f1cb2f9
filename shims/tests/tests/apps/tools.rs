//! Programs, ports, and servers that are waited for.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use demi_shim_tests::child::PATIENCE;
use demi_shim_tests::{Bed, Child};

/// Where a program lies: where PostgreSQL keeps its own, on the search path, or where servers are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    // Not the wrappers that choose among versions.
    let mut places: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    places.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    places.into_iter().map(|place| place.join(program)).find(|path| path.is_file())
}

/// The same as text. It has been found before.
pub(crate) fn path(program: &str) -> String {
    find(program).unwrap_or_else(|| PathBuf::from(program)).display().to_string()
}

/// How many times as much is done as in an ordinary run.
pub(crate) fn times() -> u32 {
    if std::env::var_os("DEMI_APPS").is_some_and(|value| value == "long") { 10 } else { 1 }
}

/// A port that nobody has on this machine's loopback.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap().port()
}

/// The subject's arguments, on its stack.
pub(crate) fn subject(bed: &Bed, program: &str, args: &[&str]) -> Command {
    let mut command = bed.subject(&path(program));
    command.args(args);
    command
}

/// The peer's arguments, on the kernel.
pub(crate) fn peer(bed: &Bed, program: &str, args: &[&str]) -> Command {
    let mut command = bed.peer(&path(program));
    command.args(args);
    command
}

/// Runs a peer to its end, which must be a success; what it printed. If it fails, what the server has to say is told.
#[track_caller]
pub(crate) fn ask(bed: &Bed, server: &mut Child, program: &str, args: &[&str]) -> String {
    finish(server, &mut Child::start(peer(bed, program, args)))
}

/// As [`ask`], of a client that runs already.
#[track_caller]
pub(crate) fn finish(server: &mut Child, client: &mut Child) -> String {
    match client.result(PATIENCE * times()) {
        Ok(said) => said,
        Err(why) => panic!("{why}\nthe server:\n{}", server.report()),
    }
}

/// A connection from where peers are, to a server of the bed's that may not listen yet.
#[track_caller]
pub(crate) fn connect(bed: &Bed, server: &mut Child, addr: &str, port: u16) -> TcpStream {
    let addr = SocketAddr::new(addr.parse().unwrap(), port);
    let deadline = Instant::now() + PATIENCE;
    let attempt = || TcpStream::connect_timeout(&addr, Duration::from_secs(2));
    loop {
        let result = bed.net().map_or_else(attempt, |net| net.in_theirs(attempt));
        match result {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) if !server.runs() || Instant::now() > deadline => {
                panic!("nobody listens at {addr}: {error}\n{}", server.report())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A file of so many bytes that are hard to compress, and its SHA-256.
pub(crate) fn noise(path: &std::path::Path, bytes: usize) -> String {
    use sha2::{Digest, Sha256};
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    let mut content: Vec<u8> = words.take(bytes.div_ceil(8)).flat_map(u64::to_le_bytes).collect();
    content.truncate(bytes);
    std::fs::write(path, &content).unwrap();
    digest(&Sha256::digest(&content))
}

/// The SHA-256 of a file.
pub(crate) fn hash(path: &std::path::Path) -> String {
    use sha2::{Digest, Sha256};
    digest(&Sha256::digest(std::fs::read(path).unwrap()))
}

fn digest(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
