//! What a heap is built from. Plain data: where it comes from (a file, a command line) is the caller's affair.

/// Size and placement of a heap's region. The region is reserved once, when the heap is made, and never grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeapConfig {
    /// Bytes of buffer memory; rounded up to 2 MiB, at most 64 GiB. Default 256 MiB.
    /// All of it is resident from the start (and one sixteenth more for reference counts); when it is used up,
    /// allocation fails.
    pub size: usize,
    /// Which pages to ask for. Default [`HugePages::Auto`]. Larger pages mean fewer TLB misses and fewer
    /// translations for a device to hold.
    pub huge_pages: HugePages,
    /// Whether to lock the pages in memory. Default `true`. Being refused (`RLIMIT_MEMLOCK`) is not an error:
    /// [`HeapStats::locked`](crate::HeapStats::locked) tells, and a system that swaps may then cause page faults.
    pub lock: bool,
}

impl Default for HeapConfig {
    fn default() -> Self {
        Self { size: 256 << 20, huge_pages: HugePages::Auto, lock: true }
    }
}

/// The pages to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// The best to be had: reserved huge pages, else transparent ones, else plain ones.
    #[default]
    Auto,
    /// Plain pages, with transparent huge pages left to the system's own policy.
    Never,
    /// Reserved 2 MiB pages (`vm.nr_hugepages`); a heap that cannot have them is not made.
    Require,
}
