//! What is built upon the C interface: the examples, and the package in Python.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;
use rustix::process::{Pid, Signal, kill_process};

use super::run::{CONFIG, end, expect};
use super::toolchain::{CRATE, Library, Tools};

/// `examples/c/echo`, both ends, over kernel sockets.
pub(crate) fn echo(tools: &Tools, library: &Library) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let mut server = example(tools, "echo", library, folder.path(), "")?;
    let mut server = server.args(["server", "127.0.0.1", &port]).spawn()?;
    let mut line = String::new();
    BufReader::new(server.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let mut client = example(tools, "echo", library, folder.path(), "")?;
    let output = end(client.args(["client", "127.0.0.1", &port, "500"]).spawn()?);
    kill_process(Pid::from_child(&server), Signal::TERM)?;
    server.wait()?;
    let output = output?;
    expect(output.status.success() && output.stdout.starts_with("500 messages of 64 bytes: p50 "), &output)
}

/// `examples/c/kv-client`, against a server that notes what it is asked.
pub(crate) fn kv_client(tools: &Tools, library: &Library) -> Result<(), Failed> {
    const REQUEST: &[u8] = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$11\r\nhello there\r\n";
    let folder = tempfile::tempdir()?;
    for (reply, status) in [("$5\r\nwhole\r\n", 0), ("-ERR no\r\n", 1)] {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port().to_string();
        let server = thread::spawn(move || -> std::io::Result<Vec<u8>> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request)?;
            // In two pieces, of which the client is to make one.
            let (first, second) = reply.split_at(reply.len() / 2);
            stream.write_all(first.as_bytes())?;
            thread::sleep(Duration::from_millis(20));
            stream.write_all(second.as_bytes())?;
            Ok(request)
        });
        let mut client = example(tools, "kv-client", library, folder.path(), "")?;
        let output = end(client.args(["127.0.0.1", &port, "SET", "key", "hello there"]).spawn()?)?;
        expect(output.stdout == reply && output.status.code() == Some(status), &output)?;
        let request = server.join().map_err(|_| "the server panicked")??;
        expect(request == REQUEST, &output)?;
    }
    Ok(())
}

/// `examples/c/log`, with what one run appends there for the next.
pub(crate) fn log(tools: &Tools, library: &Library) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image");
    let device = format!(
        "[cattree.device]\nkind = \"uring\"\npath = \"{}\"\nsize = 16777216\ndirect = false\n",
        image.display()
    );
    let lines: String = (0..500).map(|number| format!("line {number}\n")).collect();
    for part in [&lines[..1000], &lines[1000..]] {
        let mut append = example(tools, "log", library, folder.path(), &device)?;
        let mut append = append.args(["append", "lines"]).stdin(Stdio::piped()).spawn()?;
        append.stdin.take().ok_or("no input")?.write_all(part.as_bytes())?;
        let output = end(append)?;
        expect(output.status.success() && output.stdout.ends_with("lines are durable\n"), &output)?;
    }
    let mut print = example(tools, "log", library, folder.path(), &device)?;
    let output = end(print.args(["print", "lines"]).spawn()?)?;
    expect(output.status.success() && output.stdout == lines, &output)
}

/// A program with the library in it, linked with what its pkg-config file names beside it.
pub(crate) fn linked_statically(tools: &Tools) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let template = std::fs::read_to_string(Path::new(CRATE).join("../pkgconfig/demi.pc.in"))?;
    let private = template.lines().find_map(|line| line.strip_prefix("Libs.private: "));
    let program = folder.path().join("wait_all");
    let mut command = Command::new(tools.cc.unwrap_or("cc"));
    command.arg("-I").arg(Path::new(CRATE).join("../include"));
    command.arg(Path::new(CRATE).join("tests/programs/wait_all.c")).arg("-o").arg(&program);
    command.arg(tools.libraries()?.join("libdemi_catnap.a")).args(private.ok_or("no libraries")?.split(' '));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = end(command.spawn()?)?;
    expect(output.status.success(), &output)?;
    let config = folder.path().join("demi.toml");
    std::fs::write(&config, CONFIG)?;
    let mut command = Command::new(program);
    command.env("DEMI_CONFIG", config).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = end(command.spawn()?)?;
    expect(output.status.success(), &output)
}

fn example(
    tools: &Tools,
    name: &'static str,
    library: &Library,
    folder: &Path,
    config: &str,
) -> Result<Command, Failed> {
    let path = folder.join("demi.toml");
    std::fs::write(&path, format!("{CONFIG}{config}"))?;
    let mut command = Command::new(tools.compile_from("../../examples/c", name, false)?);
    command.env("LD_LIBRARY_PATH", tools.named(library)?).env("DEMI_CONFIG", path).env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// The tests of the package in Python.
pub(crate) fn python(tools: &Tools, library: &Library) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("demi.toml");
    std::fs::write(&config, CONFIG)?;
    let package = Path::new(CRATE).join("../python");
    let mut command = Command::new("python3");
    command.args(["-B", "-m", "unittest", "-q", "tests/test_demi.py"]).current_dir(&package);
    command.env("DEMI_LIBRARY", tools.libraries()?.join(format!("libdemi_{library}.so")));
    command.env("DEMI_CONFIG", config).env("PYTHONPATH", &package);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = end(command.spawn()?)?;
    // It says how many tests there were: none would be no success.
    let count = output.stderr.split("Ran ").nth(1).and_then(|text| text.split(' ').next()).unwrap_or("0");
    expect(output.status.success() && count.parse::<u32>().is_ok_and(|count| count >= 10), &output)
}
