//! Network namespaces that cannot be left behind.
//!
//! Invariant: a namespace has no name and lives by its processes alone: the one that holds it, which ends with this
//! program however that ends, and the roles in it. So there is nothing to clean up and nothing to collide with, and
//! nothing outside is touched.

use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Process, output_of};
use crate::setup;

const LIMIT: Duration = Duration::from_secs(10);

/// A network of its own.
#[derive(Debug)]
pub(crate) struct Space {
    path: String,
    /// Its end is the holder's end.
    _input: ChildStdin,
    _holder: Process,
}

impl Space {
    pub(crate) fn new() -> Result<Space> {
        Space::permitted()?;
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let holder = Process::spawn(&mut command)?;
        let mut input = holder.input()?;
        // An answer shows that the program runs, and so that the namespace is there.
        writeln!(input, "there").context("the holder of a network namespace ended")?;
        let answer = holder.lines()?.next(LIMIT)?;
        ensure!(
            answer.as_deref() == Some("there"),
            "`unshare --net` failed: is this a container without it?"
        );
        let space =
            Space { path: format!("--net=/proc/{}/ns/net", holder.id()), _input: input, _holder: holder };
        // Nothing but what is measured talks.
        space.write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        space.run("ip link set lo up")?;
        Ok(space)
    }

    /// Fails, with what to do, if there can be none.
    pub(crate) fn permitted() -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            bail!(
                "this device needs network namespaces, and these need root: run it as root, as in \
                 `sudo -E env \"PATH=$PATH\" cargo xtask bench …`, or take --device memif, which needs no privilege"
            );
        }
        if let Err(missing) = setup::ensure(&[setup::IP]) {
            bail!("network namespaces are set up with `ip`: {missing}");
        }
        Ok(())
    }

    /// A command that runs in it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(&self.path).arg("--").arg(program);
        command
    }

    /// Runs words separated by spaces.
    pub(crate) fn run(&self, words: &str) -> Result<()> {
        let mut words_of = words.split_whitespace();
        let program = words_of.next().context("a command has a program")?;
        let mut command = self.command(Path::new(program));
        output_of(command.args(words_of), LIMIT).with_context(|| format!("`{words}` in a namespace"))?;
        Ok(())
    }

    /// Its name to `ip … netns`.
    pub(crate) fn id(&self) -> u32 {
        self._holder.id()
    }

    /// Sets what may not be there to be set.
    fn write(&self, path: &str, value: &str) {
        let mut command = self.command(Path::new("sh"));
        command.args(["-c", &format!("[ ! -w {path} ] || echo {value} > {path}")]);
        // Without it the comparison is still one.
        let _ = output_of(command.stderr(Stdio::null()), LIMIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_empty_and_goes_with_its_value() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: network namespaces need root");
        }
        let space = Space::new().unwrap();
        let links = output_of(space.command(Path::new("ip")).args(["-o", "link"]), LIMIT).unwrap();
        assert_eq!(links.lines().filter(|line| !line.contains("lo:")).count(), 0, "{links}");
        let path = format!("/proc/{}", space.id());
        assert!(Path::new(&path).exists());
        assert!(space.run("false").is_err());
        drop(space);
        assert!(!Path::new(&path).exists());
    }
}
