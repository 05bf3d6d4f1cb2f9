//! The command line.

use std::fmt;
use std::path::PathBuf;

/// Check, show, make or mend an image.
#[derive(Debug, clap::Parser)]
#[command(
    name = "demi-fsck",
    version,
    about = "Checks, shows, makes and mends images of Demi's logs",
    after_help = "Without another action the image is checked; nothing is written but by --make and --repair.\n\n\
        Exit codes: 0 clean, 1 repaired, 4 errors left, 8 the image could not be worked on, 16 wrong arguments\n\n\
        Examples:\n  \
        demi-fsck /var/lib/logs.img\n  \
        demi-fsck --nvme 0000:00:04.0 --json\n  \
        demi-fsck logs.img --dump orders --from 65632 --count 10 --hex\n  \
        demi-fsck logs.img --make --size 1073741824\n  \
        demi-fsck logs.img --repair --salvage"
)]
#[command(group = clap::ArgGroup::new("action").args(["list", "dump", "dump_format", "make", "repair"]))]
#[command(group = clap::ArgGroup::new("form").args(["hex", "raw", "lines"]))]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) target: Target,
    /// With --nvme: the namespace
    #[arg(long, value_name = "N", conflicts_with = "image", default_value_t = 1)]
    pub(crate) namespace: u32,
    /// Print what was found as one JSON object
    #[arg(long, conflicts_with_all = ["dump", "dump_format", "make"])]
    pub(crate) json: bool,
    /// List the logs
    #[arg(long)]
    list: bool,
    /// Print the elements of a log: position, length, and text with what is not printable escaped
    #[arg(long, value_name = "LOG")]
    dump: Option<String>,
    /// With --dump: begin at this position
    #[arg(long, value_name = "POS", requires = "dump", default_value_t = 0)]
    pub(crate) from: u64,
    /// With --dump: print so many elements at most
    #[arg(long, value_name = "N", requires = "dump")]
    pub(crate) count: Option<u64>,
    /// With --dump: as hexadecimal bytes
    #[arg(long, requires = "dump")]
    pub(crate) hex: bool,
    /// With --dump: the bytes alone, one element behind the other
    #[arg(long, requires = "dump")]
    pub(crate) raw: bool,
    /// With --dump: the bytes alone, a line break behind each element
    #[arg(long, requires = "dump")]
    pub(crate) lines: bool,
    /// Print superblock, checkpoints and record headers, field by field
    #[arg(long)]
    dump_format: bool,
    /// Make an image
    #[arg(long)]
    make: bool,
    /// With --make: bytes of a block, a power of two from 512 to 65536
    #[arg(long, value_name = "BYTES", requires = "make", default_value_t = 4096)]
    pub(crate) block_size: usize,
    /// With --make: bytes of a segment, a power of two of 16 blocks at least; about a thousandth of the image by
    /// default
    #[arg(long, value_name = "BYTES", requires = "make")]
    pub(crate) segment_size: Option<usize>,
    /// With --make: bytes of the file, if there is none yet
    #[arg(long, value_name = "BYTES", requires = "make", conflicts_with = "nvme")]
    pub(crate) size: Option<u64>,
    /// With --make: overwrite whatever is there
    #[arg(long, requires = "make")]
    pub(crate) force: bool,
    /// Mend the image: says what will be done and lost, and asks before it does it
    #[arg(long)]
    repair: bool,
    /// With --repair: copy valid elements behind damage to a new log, LOG.salvaged
    #[arg(long, requires = "repair")]
    pub(crate) salvage: bool,
    /// With --repair: do not ask
    #[arg(long, requires = "repair")]
    pub(crate) yes: bool,
}

/// Where the image is.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false, args = ["image", "nvme"])]
pub(crate) struct Target {
    /// File or block device
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Option<PathBuf>,
    /// PCI address of an NVMe controller that is bound to vfio-pci, instead of a file
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) nvme: Option<String>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action<'a> {
    Check,
    List,
    Dump(&'a str),
    DumpFormat,
    Make,
    Repair,
}

impl Args {
    pub(crate) fn action(&self) -> Action<'_> {
        match &self.dump {
            Some(log) => Action::Dump(log),
            None if self.list => Action::List,
            None if self.dump_format => Action::DumpFormat,
            None if self.make => Action::Make,
            None if self.repair => Action::Repair,
            None => Action::Check,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.image, &self.nvme) {
            (Some(path), _) => write!(f, "{}", path.display()),
            (None, Some(address)) => write!(f, "{address}"),
            (None, None) => f.write_str("no image"),
        }
    }
}
