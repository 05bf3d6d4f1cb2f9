//! A network namespace of this process's own.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::io;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A namespace, which goes when this and everything in it is closed: at the end of the process at the latest, whatever
/// ends it.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> io::Result<Namespace> {
        let make = || {
            // SAFETY: a network namespace of its own changes nothing about memory or descriptors of this or any thread.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            current()
        };
        // In a thread that ends, so that no other finds itself in it.
        std::thread::spawn(make).join().unwrap_or(Err(io::Errno::AGAIN)).map(Namespace)
    }

    /// Does something with this thread in the namespace, and comes back, also from a panic.
    pub(crate) fn inside<T>(&self, action: impl FnOnce() -> T) -> T {
        let _back = Outside(current().expect("a thread can open its own namespace"));
        enter(&self.0);
        action()
    }
}

/// Where a thread was before.
struct Outside(File);

impl Drop for Outside {
    fn drop(&mut self) {
        enter(&self.0);
    }
}

fn current() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
        .map_err(|error| io::Errno::from_io_error(&error).unwrap_or(io::Errno::IO))
}

fn enter(namespace: &File) {
    let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
    entered.expect("whoever may make a namespace may enter it");
}
