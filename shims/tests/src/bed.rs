//! Where subjects and peers run, and by which addresses they reach each other.

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::net::{LINK, Net, OURS, THEIRS};
use crate::shim;

/// Whose sockets a subject has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stack {
    /// The kernel's, without a shim: the oracle.
    Kernel,
    /// Catnap's, over loopback.
    Catnap,
    /// Catnip's, over AF_XDP.
    Catnip,
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stack::Kernel => "kernel",
            Stack::Catnap => "catnap",
            Stack::Catnip => "catnip",
        })
    }
}

/// A subject's stack, and a network to a peer.
///
/// At most one subject of catnip's at a time has the interface of its bed.
pub struct Bed {
    stack: Stack,
    net: Option<Net>,
    folder: tempfile::TempDir,
    run: Option<PathBuf>,
    spoilt: Cell<bool>,
}

/// Networks that are not in use; making one takes longer than most of what runs on it.
static IDLE: Mutex<Vec<Net>> = Mutex::new(Vec::new());

impl Bed {
    /// Makes what the stack needs, or says why it cannot be had.
    pub fn new(stack: Stack) -> Result<Bed, String> {
        let run = if stack == Stack::Kernel { None } else { Some(shim::demi_run()) };
        let net = match stack {
            Stack::Catnip => Some(match idle().pop() {
                Some(net) => net,
                None => Net::new()?,
            }),
            _ => None,
        };
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok(Bed { stack, net, folder, run, spoilt: Cell::new(false) })
    }

    /// Whose sockets the subject has.
    pub fn stack(&self) -> Stack {
        self.stack
    }

    /// Where the subject is reached, by IPv4 or IPv6.
    pub fn subject_addr(&self, v6: bool) -> &'static str {
        match self.net {
            Some(_) => OURS[usize::from(v6)],
            None => ["127.0.0.1", "::1"][usize::from(v6)],
        }
    }

    /// Where the peer is reached, by IPv4 or IPv6.
    pub fn peer_addr(&self, v6: bool) -> &'static str {
        match self.net {
            Some(_) => THEIRS[usize::from(v6)],
            None => ["127.0.0.1", "::1"][usize::from(v6)],
        }
    }

    /// The network, if it is one of namespaces.
    pub fn net(&self) -> Option<&Net> {
        self.net.as_ref()
    }

    /// Its network is not used again.
    pub fn spoil(&self) {
        self.spoilt.set(true);
    }

    /// A folder for files, which goes with the bed.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A program on the stack.
    pub fn subject(&self, program: &str) -> Command {
        self.subject_with(program, 64, "")
    }

    /// A program on the stack, with a heap of so many MiB and `more` in its configuration.
    pub fn subject_with(&self, program: &str, heap: u32, more: &str) -> Command {
        let Some(run) = &self.run else { return clean(Command::new(program)) };
        let mut config = format!("[heap]\nsize_mib = {heap}\nhuge_pages = \"never\"\n");
        if self.stack == Stack::Catnip {
            let [v4, v6] = OURS;
            config.push_str(&format!(
                "[catnip.ip]\naddresses = [\"{v4}/24\", \"{v6}/64\"]\n\
                 [catnip.device]\nkind = \"af_xdp\"\ninterface = \"{LINK}\"\n"
            ));
        }
        config.push_str(more);
        let path = self.folder.path().join("demi.toml");
        std::fs::write(&path, config).unwrap();
        let run = run.to_string_lossy();
        let mut command = match &self.net {
            Some(net) => net.ours(&run),
            None => Command::new(run.as_ref()),
        };
        command.args(["--libos", &self.stack.to_string(), "--config"]).arg(path).args(["--", program]);
        clean(command)
    }

    /// A program on the kernel, from where the subject is reached.
    pub fn peer(&self, program: &str) -> Command {
        clean(match &self.net {
            Some(net) => net.theirs(program),
            None => Command::new(program),
        })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // A bed that was left in the middle of something is not made again.
        if let Some(net) = self.net.take()
            && !self.spoilt.get()
            && !std::thread::panicking()
        {
            idle().push(net);
        }
    }
}

/// Takes down the networks that are not in use. A test calls it at its end, as nothing is dropped after that.
pub fn tear_down() {
    idle().clear();
}

fn idle() -> std::sync::MutexGuard<'static, Vec<Net>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without settings of the environment.
fn clean(mut command: Command) -> Command {
    for name in ["DEMI_CONFIG", "LD_PRELOAD", "RUST_LOG", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name);
    }
    command
}
