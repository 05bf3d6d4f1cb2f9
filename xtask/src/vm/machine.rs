//! One run of QEMU.
//!
//! Invariant: the guest writes to the shared directory, to the control directory and to its own disks, and nowhere
//! else; it is stopped with this process, or at its limit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;

use super::guest::Guest;
use crate::compile::root;
use crate::process::Process;

/// Bytes of a namespace.
const NAMESPACE: u64 = 64 << 20;
/// Namespaces of a controller: their numbers, bytes of their blocks, what else QEMU is told of their drives.
const NAMESPACES: [(u32, usize, &str); 3] =
    [(1, 512, ""), (2, 4096, ""), (3, 4096, ",throttling.iops-total=20")];
/// Lines of the kernel's that are shown when the guest ended without a word.
const LAST_LINES: usize = 30;

/// What the guest is given.
#[derive(Debug)]
pub(crate) struct Machine {
    /// NVMe controllers, at the PCI addresses `0000:00:10.0` and on.
    pub(super) nvme: usize,
    pub(super) iommu: bool,
    /// In MiB.
    pub(super) memory: u32,
    pub(super) cpus: u32,
    pub(super) limit: Duration,
    pub(super) share: Option<PathBuf>,
    pub(super) qemu: Vec<String>,
    pub(super) append: String,
    pub(super) console: bool,
}

impl Machine {
    /// Runs a command in the current directory there. Its output goes to standard output; its exit code is returned.
    pub(super) fn run(&self, guest: &Guest, words: &[String]) -> Result<i32> {
        let control = tempfile::tempdir()?;
        let disks = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" })?;
        let here = std::env::current_dir()?;
        let quoted: Vec<_> = words.iter().map(|word| quoted(word)).collect();
        let script = format!("cd {} && {}\n", quoted_path(&here)?, quoted.join(" "));
        fs::write(control.path().join("command"), script)?;
        let share = self.share.as_ref().map(|path| path.canonicalize()).transpose()?;
        fs::write(control.path().join("share"), plain(share.as_deref().unwrap_or(Path::new("")))?)?;

        let mut command = self.command(guest, control.path(), share.as_deref())?;
        self.add_nvme(&mut command, &disks)?;
        command.args(&self.qemu);
        let process = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut output = process.output()?;
        let copying = std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::stdout()));
        let ended = process.wait(self.limit);
        copying.join().map_err(|_| anyhow!("the output's thread has panicked"))??;
        let console = String::from_utf8_lossy(&fs::read(control.path().join("console")).unwrap_or_default())
            .into_owned();
        if self.console {
            eprint!("{console}");
        }
        let ended = ended?;
        let status = fs::read_to_string(control.path().join("status")).unwrap_or_default();
        if let Ok(code) = status.trim().parse() {
            return Ok(code);
        }
        let lines: Vec<_> = console.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        bail!(
            "the guest ended without a result (QEMU: {}); its kernel's last words:\n{last}",
            super::how(ended)
        );
    }

    fn command(&self, guest: &Guest, control: &Path, share: Option<&Path>) -> Result<Command> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        command.args(["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]);
        command.args(["-m", &self.memory.to_string(), "-smp", &self.cpus.to_string()]);
        let scripts = root().join("tests/vm");
        let mut words = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on demi_scripts={}",
            plain(&scripts)?
        );
        // An interrupt controller inside QEMU and caching mode are what a virtual IOMMU needs for VFIO in the guest.
        if self.iommu {
            command.args(["-machine", "q35,kernel-irqchip=split"]);
            command.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
            words.push_str(" intel_iommu=on iommu=pt");
        } else {
            command.args(["-machine", "q35"]);
        }
        command.arg("-kernel").arg(guest.folder.join("vmlinux"));
        command.arg("-initrd").arg(guest.folder.join("initrd"));
        command.args(["-append", &format!("{words} {}", self.append)]);
        command.args(["-serial", &format!("file:{}", plain(&control.join("console"))?)]);
        let modules = guest.folder.join("modules");
        let mut folders =
            vec![("host", Path::new("/"), true), ("modules", &modules, true), ("control", control, false)];
        folders.extend(share.map(|share| ("share", share, false)));
        for (name, path, read_only) in folders {
            let mode = if read_only { ",readonly=on" } else { "" };
            let path = plain(path)?;
            command
                .arg("-fsdev")
                .arg(format!("local,id={name},path={path},security_model=none,multidevs=remap{mode}"));
            command.arg("-device").arg(format!("virtio-9p-pci,fsdev={name},mount_tag={name}"));
        }
        command.args(["-chardev", "file,id=output,path=/dev/fd/1,append=on", "-device", "virtio-serial-pci"]);
        command.args(["-device", "virtserialport,chardev=output,name=output", "-device", "virtio-rng-pci"]);
        Ok(command)
    }

    fn add_nvme(&self, command: &mut Command, disks: &TempDir) -> Result<()> {
        for at in 0..self.nvme {
            let slot = 0x10 + at;
            command.args(["-device", &format!("nvme,id=nvme{at},serial=demi{at:04},addr={slot:#x}")]);
            for (number, block, more) in NAMESPACES {
                let name = format!("nvme{at}n{number}");
                let path = disks.path().join(&name);
                File::create(&path)?.set_len(NAMESPACE)?;
                let path = plain(&path)?;
                command.args([
                    "-drive",
                    &format!("file={path},if=none,id={name},format=raw,discard=unmap{more}"),
                ]);
                command.args(["-device", &format!(
                    "nvme-ns,drive={name},bus=nvme{at},nsid={number},logical_block_size={block},physical_block_size={block}"
                )]);
            }
        }
        Ok(())
    }
}

/// A path as QEMU and a kernel's command line take it: neither knows of quotes.
fn plain(path: &Path) -> Result<&str> {
    let text = path.to_str().filter(|text| !text.contains([' ', ',', '\'', '"', '\n']));
    text.with_context(|| format!("{} has characters that QEMU cannot take in a path", path.display()))
}

fn quoted_path(path: &Path) -> Result<String> {
    Ok(quoted(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?))
}

/// As the shell reads one word.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_shell_as_they_are() {
        for word in ["plain", "two words", "it's", "$HOME `x` \"y\" \\"] {
            let said = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output();
            assert_eq!(String::from_utf8_lossy(&said.expect("there is a shell").stdout), word);
        }
    }

    #[test]
    fn a_path_that_would_be_cut_in_two_is_refused() {
        assert!(plain(Path::new("/tmp/a,readonly=off")).is_err());
        assert!(plain(Path::new("/tmp/two words")).is_err());
        assert_eq!(plain(Path::new("/tmp/a")).ok(), Some("/tmp/a"));
    }
}
