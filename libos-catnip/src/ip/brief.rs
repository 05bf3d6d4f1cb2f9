//! Small packets of IPv4 in one buffer, to a neighbour that is known: whether they may go at once is asked first, and all
//! that is left then is to write them.
//!
//! Invariant: what is filled in here is what [`Ip::send`] would have filled in for the same packet; whatever there could be
//! a question about is left to that, with nothing changed.

use std::net::IpAddr;

use demi_api::memalloc::{BufMut, Heap};
use demi_api::time::Instant;

use super::checksum::Raw;
use super::path::Hop;
use super::{ETHERNET, IPV4, Ip, Path, checksum};

/// Bytes of the headers of Ethernet and IPv4.
pub(crate) const HEADERS: usize = ETHERNET + IPV4;

/// Version and length of a header without options, and type of service, as a digit of the checksum.
const VERSION: u32 = 0x4500;

const DONT_FRAGMENT: u32 = 1 << 14;

/// The Ethernet address of a neighbour to which a packet may go at once.
#[derive(Clone, Copy)]
pub(crate) struct Clear([u8; 6]);

/// What a frame begins with, but for the receiver's address: Ethernet, and the first two bytes of IPv4.
pub(super) fn front(mac: [u8; 6]) -> [u8; 16] {
    let mut front = [0; 16];
    front[6..12].copy_from_slice(&mac);
    front[12] = 0x08;
    front[14..].copy_from_slice(&(VERSION as u16).to_be_bytes());
    front
}

/// A buffer with some text behind so many bytes for headers, and the sum of the text.
#[inline(always)]
pub(crate) fn behind_headers<const FIXED: usize>(heap: &Heap, text: &[u8]) -> Option<(BufMut, Raw)> {
    let mut head = heap.alloc(FIXED + text.len()).ok()?;
    let room = head.get_mut(FIXED..)?.get_mut(..text.len())?;
    let sum = Raw::of_copied(text, room);
    Some((head, sum))
}

impl Ip {
    /// Whether a packet of IPv4 with `len` bytes behind its headers may go along the path at once.
    #[inline(always)]
    pub(crate) fn is_clear(&mut self, now: Instant, path: &Path, len: usize) -> Option<Clear> {
        let current = path.epoch == self.routes.epoch()
            && path.headroom() == HEADERS
            && IPV4 + len <= path.mtu()
            && HEADERS + len <= self.max_seg_len;
        let (true, Hop::Neighbour(place)) = (current, path.hop) else { return None };
        self.neighbours.reachable(place, now).map(Clear)
    }

    /// The same for one of whose bytes some lie in a buffer of their own.
    #[inline(always)]
    pub(crate) fn is_clear_for_two(&mut self, now: Instant, path: &Path, len: usize) -> Option<Clear> {
        if self.max_segs < 2 {
            return None;
        }
        self.is_clear(now, path, len)
    }

    /// Fills in the headers of such a packet, not marked for ECN.
    #[inline(always)]
    pub(crate) fn fill_clear(
        &mut self,
        Clear(mac): Clear,
        path: &Path,
        headers: &mut [u8; HEADERS],
        len: usize,
        protocol: u8,
        dont_fragment: bool,
    ) {
        let (IpAddr::V4(local), IpAddr::V4(remote)) = (path.local, path.remote) else { return };
        let whole = (IPV4 + len) as u32;
        let (ident, fragment) =
            if dont_fragment { (0, DONT_FRAGMENT) } else { (u32::from(self.idents.next(remote)), 0) };
        let hops = u32::from(self.hop_limit) << 8 | u32::from(protocol);
        // RFC 791 §3.1: the sum of all halves is to be all ones.
        let sum = !checksum::fold(path.sum + VERSION + whole + ident + fragment + hops);
        headers[..16].copy_from_slice(&self.front);
        headers[..6].copy_from_slice(&mac);
        headers[16..18].copy_from_slice(&(whole as u16).to_be_bytes());
        headers[18..22].copy_from_slice(&(ident << 16 | fragment).to_be_bytes());
        headers[22..26].copy_from_slice(&(hops << 16 | u32::from(sum)).to_be_bytes());
        headers[26..30].copy_from_slice(&local.octets());
        headers[30..].copy_from_slice(&remote.octets());
    }
}
