//! Packages that the other commands use.
//!
//! As root they are installed without a question; otherwise the one line to run is printed. Nothing here is
//! needed to build: the compiler and this program are enough for that.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;

use crate::step::{self, Outcome};

const LIMIT: Duration = Duration::from_secs(300);

/// A program or a library, and the Debian packages that it comes in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    /// The program's name, what pkg-config calls the library, or the file's name, of a library of LLVM's.
    pub(crate) program: &'static str,
    package: &'static str,
    purpose: &'static str,
}

impl Tool {
    /// Where it lies; nothing if it is not there.
    fn place(&self) -> Option<String> {
        if self.program.ends_with(".so") {
            let versions = std::fs::read_dir("/usr/lib").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
            let mut files = versions.map(|version| version.join("lib").join(self.program));
            return files.find(|file| file.exists()).map(|file| file.display().to_string());
        }
        if self.program.starts_with("lib") {
            let mut command = Command::new(find(PKG_CONFIG.program)?);
            let output = command.args(["--variable=libdir", self.program]).output().ok()?;
            let place = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            return Some(place).filter(|_| output.status.success());
        }
        Some(find(self.program)?.display().to_string())
    }
}

pub(crate) const REDIS: Tool = Tool {
    program: "redis-benchmark",
    package: "redis-tools",
    purpose: "drives the key-value store in `demo` and in tests",
};

pub(crate) const REDIS_SERVER: Tool = Tool {
    program: "redis-server",
    package: "redis-server",
    purpose: "runs under the preload shim in `bench` and tests",
};

pub(crate) const VALGRIND: Tool =
    Tool { program: "valgrind", package: "valgrind", purpose: "counts instructions in `bench`" };

pub(crate) const GCC: Tool =
    Tool { program: "gcc", package: "gcc libc6-dev", purpose: "compiles C programs of tests and of `bench`" };

pub(crate) const PKG_CONFIG: Tool =
    Tool { program: "pkg-config", package: "pkg-config", purpose: "finds libraries to compile with" };

pub(crate) const DPDK: Tool =
    Tool { program: "libdpdk", package: "libdpdk-dev", purpose: "echoes over memif beside ours in `bench`" };

pub(crate) const IP: Tool =
    Tool { program: "ip", package: "iproute2", purpose: "sets up network namespaces for `bench` and tests" };

pub(crate) const PING: Tool =
    Tool { program: "ping", package: "iputils-ping", purpose: "is catnip's peer in tests" };

pub(crate) const NETCAT: Tool =
    Tool { program: "nc", package: "netcat-openbsd", purpose: "is catnip's peer in tests" };

pub(crate) const CURL: Tool = Tool { program: "curl", package: "curl", purpose: "is catnip's peer in tests" };

pub(crate) const IPERF3: Tool =
    Tool { program: "iperf3", package: "iperf3", purpose: "measures, and is measured by, ours in tests" };

/// What runs under the preload shim in tests, with its clients.
pub(crate) const SUBJECTS: [Tool; 8] = [
    REDIS_SERVER,
    subject("nginx", "nginx-light"),
    subject("haproxy", "haproxy"),
    subject("memcached", "memcached"),
    // Its servers lie elsewhere; this comes with them.
    subject("pg_lsclusters", "postgresql"),
    subject("python3", "python3"),
    Tool { program: "wrk", package: "wrk", purpose: "is the client of servers under the shim in tests" },
    GCC,
];

const fn subject(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package, purpose: "runs under the preload shim in tests" }
}

/// What a virtual machine is made of, and runs on.
pub(crate) const VM: [Tool; 7] = [
    vm("qemu-system-x86_64", "qemu-system-x86", "is the virtual machine of `vm` and of tests with NVMe"),
    vm("busybox", "busybox-static", "is the first program in the virtual machine"),
    vm("depmod", "kmod", "finds the virtual machine's kernel modules"),
    vm("cpio", "cpio", "packs the virtual machine's first files"),
    vm("zstd", "zstd", "unpacks the virtual machine's kernel"),
    vm("xz", "xz-utils", "unpacks the virtual machine's kernel"),
    vm("ip", "iproute2", "brings up the virtual machine's loop-back interface"),
];

const fn vm(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { program, package, purpose }
}

/// What programs over real RDMA devices are built with.
pub(crate) const RDMA: [Tool; 4] = [
    PKG_CONFIG,
    rdma(
        "libibverbs",
        "libibverbs-dev ibverbs-providers",
        "reaches RDMA devices in catmint with feature `verbs`",
    ),
    rdma("librdmacm", "librdmacm-dev", "connects RDMA devices in catmint with feature `verbs`"),
    rdma("libclang.so", "libclang-dev", "reads the RDMA libraries' headers"),
];

/// What makes an RDMA device of a network interface in the virtual machine, and measures it.
pub(crate) const RDMA_VM: [Tool; 2] = [
    rdma("rdma", "iproute2", "makes RDMA devices in the virtual machine"),
    rdma("ib_send_lat", "perftest", "measures RDMA devices beside catmint"),
];

const fn rdma(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { program, package, purpose }
}

/// Install the packages that the other commands use.
///
/// As root: installs them with apt-get, without a question. Otherwise: prints the one line to run, and exits
/// with a failure if something is missing.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is there and what is missing
    #[arg(long)]
    check: bool,
}

/// Why a tool is not there.
#[derive(Debug)]
pub(crate) enum Missing {
    /// Whoever is root can install it, with this line.
    Run(String),
    /// It cannot be had here.
    Unavailable(String),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Missing::Run(line) => write!(f, "run: {line}"),
            Missing::Unavailable(why) => f.write_str(why),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut tools = vec![REDIS, VALGRIND, IP, PING, NETCAT, CURL, IPERF3, GCC, PKG_CONFIG, DPDK];
    tools.extend(SUBJECTS.into_iter().filter(|tool| tool.program != GCC.program));
    tools.extend(VM.into_iter().filter(|tool| tool.program != IP.program));
    tools.extend(RDMA.into_iter().filter(|tool| tool.program != PKG_CONFIG.program));
    tools.extend(RDMA_VM);
    let missing = if args.check { None } else { ensure(&tools).err() };
    for tool in &tools {
        let place = tool.place().unwrap_or_else(|| "missing".to_owned());
        println!("{:18} {:32} {}", tool.program, place, tool.purpose);
    }
    if let Some(missing) = missing {
        println!("{missing}");
    }
    let complete = tools.iter().all(|tool| tool.place().is_some());
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sees to it that the tools are there.
pub(crate) fn ensure(tools: &[Tool]) -> Result<(), Missing> {
    let packages: Vec<_> =
        tools.iter().filter(|tool| tool.place().is_none()).map(|tool| tool.package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        return Err(Missing::Unavailable(format!("no apt-get here; install {list} as this system does")));
    }
    if !rustix::process::geteuid().is_root() {
        let line = format!("sudo apt-get update && sudo apt-get install -y --no-install-recommends {list}");
        return Err(Missing::Run(line));
    }
    let update = apt("refresh package lists", Command::new("apt-get").args(["update", "-qq"]));
    let mut install = Command::new("sh");
    install.args(["-c", INSTALL, "sh", "install", "-y", "-qq", "--no-install-recommends"]);
    install.args(packages.iter().flat_map(|packages| packages.split(' ')));
    // Old lists may still do: whether the refresh failed matters only if the installation does.
    match (apt("install packages", &mut install), update) {
        (Outcome::Passed, _) if tools.iter().all(|tool| tool.place().is_some()) => Ok(()),
        (_, Outcome::Failed(_)) => Err(Missing::Unavailable(format!(
            "{list} could not be installed: the package lists cannot be fetched"
        ))),
        _ => Err(Missing::Unavailable(format!("{list} could not be installed: see apt-get's message above"))),
    }
}

/// Where a program lies on the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let places = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&places).map(|place| place.join(program));
    found.find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn apt(name: &str, command: &mut Command) -> Outcome {
    command.env("DEBIAN_FRONTEND", "noninteractive");
    // Results have standard output for themselves.
    command.stdout(std::io::stderr());
    step::run_alone(name, command, LIMIT)
}

/// apt-get with its arguments, while no service may be started: a server's package would start it at once. Debian's
/// way to say so is this file, which is left alone where there is one, and does not stay.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 143' INT TERM
    printf '#!/bin/sh\nexit 101\n' > $policy && chmod 755 $policy
fi
apt-get "$@"
"#;
