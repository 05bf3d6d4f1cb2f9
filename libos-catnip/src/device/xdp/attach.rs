//! The redirect program on the interface, and the map by which it finds the sockets.
//!
//! Invariant: the program takes a frame only if the map has a socket for its queue, so frames reach the kernel until a
//! socket is ready, and again from the moment it is closed. The link goes with its descriptor, also when the process is
//! killed: no program is left behind. Instances that share an interface have a descriptor each of one link, whose
//! program is the same for all of them, so that it goes with the last.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use demi_api::error::Error;
use demi_api::fd::Fd;
use rustix::io::Errno;

use super::interface::Interface;
use super::program::{Flows, assemble};
use super::socket::{Socket, is_taken};
use super::{holders, sys};

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE`.
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;

/// Between two attempts to get what a previous owner still holds.
const PAUSE: Duration = Duration::from_millis(5);

/// What the program is called, and what it is called if others may join.
const NAMES: [&str; 2] = ["demi", "demi_shared"];

/// A program on an interface.
pub(super) struct Attachment {
    link: Fd,
    map: Fd,
    /// Frames may lie in several pieces.
    frags: bool,
    pub(super) generic: bool,
    shared: bool,
}

/// What is left of the time to wait for a previous owner.
pub(super) struct Patience(pub(super) Duration);

impl Patience {
    /// Tries until what is wanted is no longer taken, or time is up.
    pub(super) fn until_free<T>(
        &mut self,
        mut attempt: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        loop {
            match attempt() {
                Err(errno) if is_taken(errno) && !self.0.is_zero() => {
                    thread::sleep(PAUSE.min(self.0));
                    self.0 = self.0.saturating_sub(PAUSE);
                }
                done => return done,
            }
        }
    }
}

impl Attachment {
    /// Puts the program on the interface. `generic`: where to try, in this order; `whole`: every frame fits in one
    /// buffer, so a kernel that knows no others will do; `shared`: or joins those who share the interface.
    pub(super) fn new(
        interface: &Interface,
        flows: &Flows<'_>,
        generic: &[bool],
        whole: bool,
        shared: bool,
        patience: &mut Patience,
    ) -> Result<Attachment, Error> {
        let map = sys::create_socket_map(interface.rx_queues)
            .map_err(|errno| refused(interface, "cannot make the map of sockets", errno))?;
        let mut last = None;
        for (generic, frags) in generic.iter().flat_map(|generic| [(*generic, true), (*generic, false)]) {
            if !frags && !whole {
                continue;
            }
            let insns = assemble(flows, map.as_fd().as_raw_fd());
            let program = match sys::load_program(&insns, frags, NAMES[usize::from(shared)]) {
                Ok(program) => program,
                Err((errno, said)) if frags && whole && errno == Errno::INVAL && said.is_empty() => continue,
                Err((errno, said)) => {
                    let what = format!("cannot load the redirect program {}", said.trim());
                    return Err(refused(interface, what.trim(), errno));
                }
            };
            let flags = if generic { GENERIC } else { NATIVE };
            let attempt = || match sys::create_link(program.as_fd(), interface.index, flags) {
                Ok(link) => Ok(Ok(link)),
                Err(errno) if shared && is_taken(errno) => join(interface, program.as_fd(), frags).map(Err),
                Err(errno) => Err(errno),
            };
            match patience.until_free(attempt) {
                Ok(Ok(link)) => return Ok(Attachment { link, map, frags, generic, shared }),
                Ok(Err(joined)) => return Ok(joined),
                Err(errno) if is_taken(errno) => return Err(taken(interface, shared)),
                Err(errno) if [Errno::PERM, Errno::ACCESS, Errno::NODEV].contains(&errno) => {
                    return Err(refused(interface, "cannot attach the redirect program", errno));
                }
                Err(errno) => last = Some((generic, errno)),
            }
        }
        let (generic, errno) = last.unwrap_or((false, Errno::OPNOTSUPP));
        let place = if generic { "in the stack" } else { "in the driver; try `mode` = \"generic\"" };
        Err(refused(interface, &format!("cannot attach the redirect program {place}"), errno))
    }

    /// Lets the program send what arrives at `queue` to a bound socket.
    pub(super) fn serve(&self, interface: &Interface, queue: u32, socket: &Socket) -> Result<(), Error> {
        sys::set_socket(self.map.as_fd(), queue, socket.as_fd())
            .map_err(|errno| refused(interface, "cannot enter a socket in the map", errno))
    }

    /// Changes what is taken, from one frame to the next.
    pub(super) fn retarget(&self, interface: &Interface, flows: &Flows<'_>) -> Result<(), Error> {
        if self.shared {
            return Err(refused_to_all(interface));
        }
        let program = sys::load_program(&assemble(flows, self.map.as_fd().as_raw_fd()), self.frags, NAMES[0])
            .map_err(|(errno, _)| refused(interface, "cannot load the redirect program", errno))?;
        sys::update_link(self.link.as_fd(), program.as_fd())
            .map_err(|errno| refused(interface, "cannot replace the redirect program", errno))
    }
}

/// Takes part in what others have attached, if it is the same as `ours`. [`Errno::BUSY`]: it is not, or goes just now.
fn join(interface: &Interface, ours: BorrowedFd<'_>, frags: bool) -> Result<Attachment, Errno> {
    let gone = |errno| if errno == Errno::NOENT { Errno::BUSY } else { errno };
    let (id, generic) = holders::attached(interface.index)?.ok_or(Errno::BUSY)?;
    let program = sys::program_by_id(id).map_err(gone)?;
    let (theirs, map) = sys::program_info(program.as_fd())?;
    let (own, _) = sys::program_info(ours)?;
    // The name says that others may join, the owner that it can be relied on, the digest that the rules are the same.
    let fits = theirs.name == sys::program_name(NAMES[1])
        && theirs.uid == rustix::process::geteuid().as_raw()
        && theirs.tag == own.tag
        && theirs.map_count == 1;
    if !fits {
        return Err(Errno::BUSY);
    }
    let (map, places) = sys::socket_map_by_id(map).map_err(gone)?;
    if places != interface.rx_queues {
        return Err(Errno::BUSY);
    }
    let link = sys::find_link(id, interface.index).map_err(gone)?;
    Ok(Attachment { link, map, frags, generic, shared: true })
}

fn taken(interface: &Interface, shared: bool) -> Error {
    let who = holders::of_program(interface.index);
    let hint = if shared {
        "; to share it, all must have the same user, `addresses`, `ports` and `all_nodes`, and a `share` above 1"
    } else {
        ""
    };
    Error::Config(format!(
        "AF_XDP on `{}`: the interface has another XDP program, {who}{hint}",
        interface.name
    ))
}

fn refused_to_all(interface: &Interface) -> Error {
    Error::Config(format!(
        "AF_XDP on `{}`: what is taken from an interface that is shared stays as it is: end all instances first",
        interface.name
    ))
}

/// An error of the kernel's, with what to do about it.
pub(super) fn refused(interface: &Interface, what: &str, errno: Errno) -> Error {
    let advice = match errno {
        Errno::PERM | Errno::ACCESS => {
            "run as root, or with the capabilities CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_IPC_LOCK, and to `share` an \
             interface with CAP_SYS_ADMIN"
        }
        Errno::NOBUFS => "more memory to lock than allowed: raise `ulimit -l`, or run with CAP_IPC_LOCK",
        Errno::NOMEM => "the kernel is out of memory: make the heap or the number of queues smaller",
        Errno::AFNOSUPPORT | Errno::NOSYS => "this kernel is built without AF_XDP or bpf",
        Errno::NETDOWN => "the interface is down: set it up first",
        Errno::NODEV => "the interface is gone",
        _ => "see the kernel's log, or try the other values of `mode` and `copy`",
    };
    Error::Config(format!("AF_XDP on `{}`: {what} ({errno}): {advice}", interface.name))
}
