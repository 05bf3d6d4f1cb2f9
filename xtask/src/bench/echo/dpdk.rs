//! DPDK's own memif as a subject: `tests/bench/dpdk/echo.c`, at both ends.
//!
//! It is compiled when it is wanted, as it needs a C compiler and DPDK's headers, which nothing else here does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::role::Roles;
use super::Exchange;
use crate::compile;
use crate::process::output_of;
use crate::setup;

const LIMIT: Duration = Duration::from_secs(60);

/// Both ends as one program.
#[derive(Debug)]
pub(super) struct Dpdk {
    program: PathBuf,
}

impl Dpdk {
    /// The program, or why it cannot be had here.
    pub(super) fn build(beside: &Path) -> Result<Result<Dpdk, String>> {
        if let Err(missing) = setup::ensure(&[setup::GCC, setup::PKG_CONFIG, setup::DPDK]) {
            return Ok(Err(missing.to_string()));
        }
        let source = compile::root().join("tests/bench/dpdk/echo.c");
        let program = beside.with_file_name("demi-bench-dpdk");
        let flags = |what: &str| -> Result<Vec<String>> {
            let text = output_of(Command::new("pkg-config").args([what, "libdpdk"]), LIMIT)?;
            Ok(text.split_whitespace().map(str::to_owned).collect())
        };
        let mut command = Command::new("gcc");
        command.args(["-O3", "-Wall", "-Werror", "-o"]).arg(&program).arg(&source);
        command.args(flags("--cflags")?).args(flags("--libs")?);
        output_of(&mut command, LIMIT).context("tests/bench/dpdk/echo.c does not compile")?;
        Ok(Ok(Dpdk { program }))
    }

    /// One turn: a server and a client, started afresh.
    pub(super) fn measure(&self, roles: &Roles, exchange: &Exchange) -> Result<Value> {
        let [near, far] = roles.cores();
        let socket = format!("@demi-bench-dpdk-{}", std::process::id());
        let mut server = roles.start_as(self.command("server", far, &socket), "DPDK's server")?;
        server.address("listening")?;
        let mut command = self.command("client", near, &socket);
        let Exchange { size, window, seconds, .. } = exchange;
        command.args([size.to_string(), window.to_string(), seconds.to_string()]);
        command.arg(exchange.count.unwrap_or(0).to_string());
        let mut client = roles.start_as(command, "DPDK's client")?;
        let report = client.read()?;
        client.finish()?;
        server.finish()?;
        Ok(report)
    }

    /// A role of the program on one core, over a memif at an abstract socket. DPDK leaves at most
    /// an empty directory of its own below /run.
    fn command(&self, role: &str, core: usize, socket: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(format!("--lcores=0@{core}"));
        command.args(["--no-huge", "-m", "64", "--no-pci", "--no-shconf", "--no-telemetry"]);
        command.arg("--log-level=error");
        let name = socket.trim_start_matches('@');
        command.arg(format!("--vdev=net_memif0,role={role},id=0,socket={name},socket-abstract=yes"));
        command.args(["--", role]);
        command
    }
}
