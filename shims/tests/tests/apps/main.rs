//! Servers and clients as Debian ships them, under the shim, with their own clients as peers on the kernel.
//!
//! Each scenario passes on the kernel alone first, on every run: what fails there says nothing of the shim. The ordinary
//! run takes seconds for each; `DEMI_APPS=long` has them take ten times as much traffic.
//!
//! Scenarios ask for programs that `cargo xtask setup` installs. Without them a test says SKIPPED, and which.

mod curl;
mod haproxy;
mod iperf3;
mod memcached;
mod nginx;
mod postgres;
mod python;
mod redis;
mod tools;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use demi_shim_tests::{Bed, Stack, bed, skipped};
use libtest_mimic::{Arguments, Failed, Trial};

/// What is done with a program.
struct App {
    name: &'static str,
    /// Programs that it takes.
    tools: &'static [&'static str],
    /// A stack on which it cannot work, and why.
    except: Option<(Stack, &'static str)>,
    run: fn(&Bed),
    oracle: OnceLock<Result<(), String>>,
}

impl App {
    const fn new(name: &'static str, tools: &'static [&'static str], run: fn(&Bed)) -> App {
        App { name, tools, except: None, run, oracle: OnceLock::new() }
    }

    const fn except(mut self, stack: Stack, why: &'static str) -> App {
        self.except = Some((stack, why));
        self
    }

    fn on(&self, stack: Stack) -> Result<(), Failed> {
        let name = format!("{stack}::{}", self.name);
        if let Some(tool) = self.tools.iter().find(|tool| tools::find(tool).is_none()) {
            skipped(&name, &format!("{tool} is not installed: `cargo xtask setup` installs it"));
            return Ok(());
        }
        let oracle = self.oracle.get_or_init(|| self.attempt(Stack::Kernel).map(|_| ()));
        oracle.clone().map_err(|why| format!("on the kernel: {why}"))?;
        if stack == Stack::Kernel {
            return Ok(());
        }
        if let Some(why) = self.attempt(stack)? {
            skipped(&name, &why);
        }
        Ok(())
    }

    /// Passes, or cannot be had here for a reason.
    fn attempt(&self, stack: Stack) -> Result<Option<String>, String> {
        let attempt = || Bed::new(stack).map(|bed| (self.run)(&bed)).err();
        catch_unwind(AssertUnwindSafe(attempt)).map_err(|payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
        })
    }
}

fn apps() -> Vec<App> {
    vec![
        App::new("redis", &["redis-server", "redis-benchmark", "redis-cli"], redis::run),
        App::new("nginx", &["nginx", "wrk", "curl"], nginx::run),
        App::new("haproxy", &["haproxy", "nginx", "wrk", "curl"], haproxy::run),
        App::new("memcached", &["memcached"], memcached::run),
        App::new("iperf3_server", &["iperf3"], iperf3::server),
        App::new("iperf3_datagram_server", &["iperf3"], iperf3::datagram_server).except(
            Stack::Catnip,
            "catnip binds no second datagram socket to a port, beside one that is connected",
        ),
        App::new("iperf3_client", &["iperf3"], iperf3::client),
        App::new("curl", &["curl", "nginx"], curl::run),
        App::new("python_server", &["/usr/bin/python3", "curl"], python::server),
        App::new("python_client", &["/usr/bin/python3", "nginx"], python::client),
        App::new("postgres", &["postgres", "initdb", "psql", "pgbench"], postgres::run).except(
            Stack::Catnip,
            "a connection stays with the process that accepted it; its server forks for each",
        ),
    ]
}

fn main() -> ExitCode {
    let args = Arguments::from_args();
    // A panic is told by the trial that it ends.
    std::panic::set_hook(Box::new(|_| {}));
    let mut trials = Vec::new();
    for app in apps().into_iter().map(Arc::new) {
        for stack in [Stack::Kernel, Stack::Catnap, Stack::Catnip] {
            let with = Arc::clone(&app);
            let trial = Trial::test(format!("{stack}::{}", app.name), move || with.on(stack));
            let exempt = app.except.is_some_and(|(except, _)| except == stack);
            trials.push(trial.with_ignored_flag(exempt));
        }
    }
    let conclusion = libtest_mimic::run(&args, trials);
    bed::tear_down();
    conclusion.exit_code()
}
