//! TAP: an interface of the kernel whose wire is this process.
//!
//! What the kernel sends on the interface is received here, and the reverse: a link with two stations on it, the
//! kernel's stack and ours, each with its own Ethernet address. It needs no hardware and no second process, and reaches
//! other machines by routing or bridging on the kernel's side.
//!
//! Transport checksums are left out in both directions where the sender leaves them to a device ([`Checksum::Partial`]):
//! the frames never leave memory. Segments are not aggregated, so no frame exceeds the MTU. Each frame costs one system
//! call, and received ones lie where the kernel has copied them, unless they are small.
//!
//! An interface that is removed under the device leaves it silent; `tap_gone` among its counters tells.
//!
//! The interface exists for as long as the device, unless it was there before (`ip tuntap add dev tap0 mode tap`), which
//! also lets a user without privileges have it (`… user NAME`).

mod setup;
#[allow(unsafe_code, reason = "each block states its proof")]
mod sys;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use arrayvec::ArrayVec;
use demi_api::error::Error;
use demi_api::fd::Fd;
use demi_api::memalloc::{Buf, BufMut, Heap};
use demi_api::sga::MAX_SEGMENTS;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, readv, retry_on_intr, writev};

use self::setup::{set_up, watch};
#[cfg(doc)]
use super::Checksum;
use super::kernel::{ETHERNET, refused, vnet};
use super::passing::copy_of_passing;
use super::{BURST, Caps, DeviceCx, Frame, Queue};

/// Frames of up to this many bytes are copied into buffers of their own size; larger ones are handed out as received.
const COPY_UP_TO: usize = 512;

/// How to make or attach to an interface.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TapConfig {
    /// Its name, at most 15 bytes; default `"demi%d"`, for which the kernel fills in the first free number. One that
    /// exists is attached to.
    pub name: String,
    /// Our Ethernet address; default `None`: a random one, locally administered. It must differ from that of the
    /// kernel's side.
    pub mac: Option<[u8; 6]>,
    /// The MTU that the interface gets, in bytes, 68 to 65521; default `None`: what it has, for a new one 1500.
    pub mtu: Option<usize>,
    /// Addresses, with lengths of their prefixes, that the kernel's side gets; default none.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Default for TapConfig {
    fn default() -> TapConfig {
        TapConfig { name: "demi%d".to_owned(), mac: None, mtu: None, addresses: Vec::new() }
    }
}

/// The far end of an interface of the kernel, as a device.
#[derive(Debug)]
pub struct Tap {
    caps: Caps,
    name: String,
    fd: Fd,
    /// Polls readable when `fd` does, as long as the interface exists.
    readable: Fd,
    /// Where the next frame is received: one byte longer than the longest, so that a longer one shows.
    spare: Option<BufMut>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    rx_frames: u64,
    rx_bytes: u64,
    rx_copied: u64,
    rx_again: u64,
    rx_no_memory: u64,
    rx_rejected: u64,
    rx_failed: u64,
    tx_frames: u64,
    tx_bytes: u64,
    tx_full: u64,
    tx_rejected: u64,
    tx_failed: u64,
    gone: u64,
}

impl Tap {
    /// Makes the interface, or attaches to it, and brings it up. Needs `CAP_NET_ADMIN`, except for an interface that is
    /// the user's, up, and as it is configured.
    ///
    /// # Errors
    /// [`Error::Config`] with a text that names the interface and says what to do; [`Error::TooManyFiles`].
    pub fn open(config: &TapConfig) -> Result<Tap, Error> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd: Fd = retry_on_intr(|| open("/dev/net/tun", flags, Mode::empty()))
            .map_err(|errno| {
                refused(
                    &config.name,
                    "cannot open /dev/net/tun",
                    errno,
                    "load the module `tun`, or give the process access",
                )
            })?
            .into();
        let name = attach(&fd, &config.name).map_err(|errno| {
            let advice = match errno {
                Errno::BUSY => "another process has it: choose another name",
                Errno::PERM | Errno::ACCESS => {
                    "grant CAP_NET_ADMIN, run as root, or have it made for this user: `ip tuntap add … user NAME`"
                }
                Errno::NAMETOOLONG => "choose a name of at most 15 bytes",
                _ => "choose another name: this one is no TAP interface, or has several queues",
            };
            refused(&config.name, "cannot attach to it", errno, advice)
        })?;
        sys::accept_partial_checksums(&fd)
            .map_err(|errno| refused(&name, "cannot set its offloads", errno, "the kernel is too old"))?;
        let caps = set_up(&name, config)?;
        let readable =
            watch(&fd).map_err(|errno| refused(&name, "cannot be waited for", errno, "free memory"))?;
        Ok(Tap { caps, name, fd, readable, spare: None, counters: Counters::default() })
    }

    /// The interface's name on the kernel's side.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Queue for Tap {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, cx: &DeviceCx<'_>, inbox: &mut Vec<Frame>) -> usize {
        let before = inbox.len();
        let longest = ETHERNET + self.caps.mtu;
        for _ in 0..BURST {
            // Whatever else is to be done, there must be memory before the frame leaves the kernel.
            let spare = match &mut self.spare {
                Some(spare) => spare,
                empty => match cx.heap.alloc(longest + 1) {
                    Ok(spare) => empty.insert(spare),
                    Err(_) => {
                        self.counters.rx_no_memory += 1;
                        break;
                    }
                },
            };
            let mut header = [0; vnet::LEN];
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(spare)];
            let got = match retry_on_intr(|| readv(&self.fd, &mut parts)) {
                Ok(got) => got,
                Err(Errno::AGAIN) => {
                    self.counters.rx_again += 1;
                    break;
                }
                Err(_) => {
                    self.counters.rx_failed += 1;
                    break;
                }
            };
            let len = got.saturating_sub(vnet::LEN);
            let checksum = vnet::parse(&header, len).filter(|_| (ETHERNET..=longest).contains(&len));
            let Some(checksum) = checksum else {
                self.counters.rx_rejected += 1;
                continue;
            };
            self.counters.rx_frames += 1;
            self.counters.rx_bytes += len as u64;
            match hand_out(spare, cx.heap, len, &mut self.counters.rx_copied) {
                Some(data) => inbox.push(Frame { data: data.into(), checksum }),
                None => self.counters.rx_no_memory += 1,
            }
        }
        inbox.len() - before
    }

    fn tx_burst(&mut self, _cx: &DeviceCx<'_>, outbox: &mut VecDeque<Frame>) -> usize {
        let before = outbox.len();
        while let Some(frame) = outbox.front() {
            match vnet::for_frame(frame, &self.caps).map(|header| transmit(&self.fd, &header, frame)) {
                Some(Ok(())) => {
                    self.counters.tx_frames += 1;
                    self.counters.tx_bytes += frame.data.len() as u64;
                }
                Some(Err(Errno::AGAIN | Errno::NOBUFS)) => {
                    self.counters.tx_full += 1;
                    break;
                }
                Some(Err(_)) => self.counters.tx_failed += 1,
                None => self.counters.tx_rejected += 1,
            }
            outbox.pop_front();
        }
        before - outbox.len()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }

    fn arm(&mut self, _cx: &DeviceCx<'_>) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let found = poll(&mut fds, Some(&now)).map_or(PollFlags::empty(), |_| fds[0].revents());
        if found.contains(PollFlags::ERR) && self.counters.gone == 0 {
            // Somebody has removed the interface. The descriptor polls ready from now on, and nobody would sleep again.
            self.counters.gone = 1;
            // What fails here has been done before.
            let _ = epoll::delete(&self.readable, &self.fd);
        }
        !found.contains(PollFlags::IN)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        let counters = &self.counters;
        visit("tap_rx_frames", counters.rx_frames);
        visit("tap_rx_bytes", counters.rx_bytes);
        visit("tap_rx_copied", counters.rx_copied);
        visit("tap_rx_again", counters.rx_again);
        visit("tap_rx_no_memory", counters.rx_no_memory);
        visit("tap_rx_rejected", counters.rx_rejected);
        visit("tap_rx_failed", counters.rx_failed);
        visit("tap_tx_frames", counters.tx_frames);
        visit("tap_tx_bytes", counters.tx_bytes);
        visit("tap_tx_full", counters.tx_full);
        visit("tap_tx_rejected", counters.tx_rejected);
        visit("tap_tx_failed", counters.tx_failed);
        visit("tap_gone", counters.gone);
    }
}

/// Attaches to the interface, and asks again for a moment if somebody has it: a process between `fork` and `exec` has what
/// its parent has, also what that has let go of since.
fn attach(fd: &Fd, name: &str) -> Result<String, Errno> {
    for _ in 0..20 {
        match sys::attach(fd, name) {
            Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(10)),
            attached => return attached,
        }
    }
    sys::attach(fd, name)
}

/// The first `len` bytes of the spare: copied if they are few, else in the spare itself, if there is memory for another.
#[inline]
fn hand_out(spare: &mut BufMut, heap: &Heap, len: usize, copied: &mut u64) -> Option<Buf> {
    if len <= COPY_UP_TO {
        let fill = |copy: &mut [u8]| copy.copy_from_slice(&spare[..len]);
        let copy = match heap.alloc(len) {
            Ok(mut copy) => {
                fill(&mut copy);
                copy
            }
            Err(_) => copy_of_passing(heap, len, |copy| {
                fill(copy);
                true
            })?,
        };
        *copied += 1;
        return Some(copy.freeze());
    }
    let mut data = std::mem::replace(spare, heap.alloc(spare.len()).ok()?);
    data.truncate(len);
    Some(data.freeze())
}

#[inline]
fn transmit(fd: &Fd, header: &[u8; vnet::LEN], frame: &Frame) -> Result<(), Errno> {
    let mut parts: ArrayVec<IoSlice<'_>, { MAX_SEGMENTS + 1 }> = ArrayVec::new();
    parts.push(IoSlice::new(header));
    parts.extend(frame.data.segments().iter().map(|segment| IoSlice::new(segment)));
    // The kernel takes a frame whole or not at all.
    retry_on_intr(|| writev(fd, &parts)).map(drop)
}
