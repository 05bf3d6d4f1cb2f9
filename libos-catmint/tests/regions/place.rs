//! Where an instance is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use demi_api::config::Config;
use demi_api::{Demikernel, OpenOptions};
use demi_libos_catmint::Catmint;

pub(crate) type Demi = Demikernel<Catmint>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    Shm,
    Udp,
}

/// An instance's link and address.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) text: String,
    pub(crate) ip: String,
}

impl Place {
    /// Any address that nobody else has: loopback has many, and by the process's number others keep out of the way.
    pub(crate) fn new(link: Link, folder: &Path) -> Place {
        static HOST: AtomicU8 = AtomicU8::new(1);
        let (host, process) = (HOST.fetch_add(1, Ordering::Relaxed), std::process::id());
        let ip = format!("127.{}.{}.{host}", 64 + (process >> 8) % 64, process % 256);
        let directory: PathBuf = folder.join("rdma");
        let link = match link {
            Link::Shm => {
                format!(
                    "link = \"shm\"\nshm = {{ directory = \"{}\", address = \"{ip}\" }}",
                    directory.display()
                )
            }
            Link::Udp => format!("link = \"udp\"\nudp = {{ address = \"{ip}\", raw = \"never\" }}"),
        };
        let heap = "[heap]\nsize_mib = 16\nlock = false\nhuge_pages = \"never\"\n";
        let catmint = "[catmint]\ndevice = \"soft\"\nregion_users = 2\nkeepalive_ms = 100\n";
        Place { text: format!("{heap}{catmint}[catmint.soft]\n{link}\n"), ip }
    }

    pub(crate) fn config(&self) -> Config {
        Config::parse(&self.text, "test.toml").unwrap()
    }

    pub(crate) fn demi(&self) -> Demi {
        Demi::new(&self.config()).unwrap()
    }

    /// What a region of this instance is called from afar.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("rdma://{}:7000/{name}", self.ip)
    }
}

pub(crate) fn create() -> OpenOptions {
    OpenOptions { create: true, ..OpenOptions::default() }
}
