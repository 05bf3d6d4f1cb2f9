//! What C programs pass in, made into what Rust can work with.
//!
//! A pointer that is null where that means something is told apart; any other is believed, as the C library would: the
//! program that passes a bad one is ended by the same signal.

use std::marker::PhantomData;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use libc::{c_int, c_void, iovec, sockaddr, socklen_t};
use rustix::io::Errno;

/// Most pieces of one call, as the kernel has it.
pub(crate) const MOST_PIECES: usize = 1024;

/// Most bytes of one call, as the kernel has it.
const MOST_BYTES: usize = 0x7fff_f000;

/// A value that one thread at a time has, whichever it is.
pub(crate) struct Movable<T>(pub(crate) T);

// What keeps an instance from being `Send` are counts that are not atomic, of the instance's handle and of its heap's
// buffers. What is kept by thread beside it (empty boxes for long arrays) holds nothing of it.
//
// SAFETY: the only value of this kind is the state behind the shim's lock. Every clone of a handle or buffer lies in that
// same state, and is made, used and dropped with the lock held.
unsafe impl<T> Send for Movable<T> {}

/// Where received bytes go: pieces of the program's memory, in order.
pub(crate) struct Places<'a> {
    pieces: Pieces,
    /// Where the next byte goes: the piece, and how far into it.
    piece: usize,
    at: usize,
    memory: PhantomData<&'a mut [u8]>,
}

/// Bytes to be sent: pieces of the program's memory, in order.
pub(crate) struct Gather<'a> {
    pieces: Pieces,
    len: usize,
    memory: PhantomData<&'a [u8]>,
}

/// Descriptions of pieces: one, or as many as lie in the program's memory.
#[derive(Clone, Copy)]
enum Pieces {
    One(iovec),
    /// As many as are said, valid for as long as what holds this.
    Many(*const iovec, usize),
}

impl Pieces {
    fn count(self) -> usize {
        match self {
            Pieces::One(_) => 1,
            Pieces::Many(_, count) => count,
        }
    }

    fn get(self, place: usize) -> iovec {
        match self {
            Pieces::One(piece) => piece,
            Pieces::Many(pieces, count) => {
                assert!(place < count, "no such piece");
                // SAFETY: whoever made this has promised `count` of them.
                unsafe { pieces.add(place).read() }
            }
        }
    }

    /// How many bytes there are, if that can be.
    fn check(self) -> Result<usize, Errno> {
        if self.count() > MOST_PIECES {
            return Err(Errno::INVAL);
        }
        let mut total = 0usize;
        for place in 0..self.count() {
            let piece = self.get(place);
            total = total.checked_add(piece.iov_len).ok_or(Errno::INVAL)?;
            if isize::try_from(total).is_err() {
                return Err(Errno::INVAL);
            }
            if piece.iov_len > 0 && piece.iov_base.is_null() {
                return Err(Errno::FAULT);
            }
        }
        Ok(total)
    }
}

impl<'a> Places<'a> {
    /// Pieces of memory that can be written to.
    ///
    /// # Safety
    /// `pieces` points to `count` valid descriptions, and each of these to as many writable bytes as it says, for as long
    /// as `'a`; nothing else uses them meanwhile.
    pub(crate) unsafe fn new(pieces: *const iovec, count: usize) -> Result<Places<'a>, Errno> {
        let pieces = Pieces::Many(pieces, count);
        pieces.check()?;
        Ok(Places { pieces, piece: 0, at: 0, memory: PhantomData })
    }

    /// One piece.
    ///
    /// # Safety
    /// `base` points to `len` writable bytes, for as long as `'a`; nothing else uses them meanwhile.
    pub(crate) unsafe fn one(base: *mut c_void, len: usize) -> Result<Places<'a>, Errno> {
        let pieces = Pieces::One(iovec { iov_base: base, iov_len: len.min(MOST_BYTES) });
        pieces.check()?;
        Ok(Places { pieces, piece: 0, at: 0, memory: PhantomData })
    }

    /// Room for bytes that nobody wants.
    pub(crate) fn nowhere(len: usize) -> Places<'a> {
        let pieces = Pieces::One(iovec { iov_base: std::ptr::null_mut(), iov_len: len.min(MOST_BYTES) });
        Places { pieces, piece: 0, at: 0, memory: PhantomData }
    }

    /// Memory of our own.
    pub(crate) fn of(bytes: &'a mut [u8]) -> Places<'a> {
        let pieces = Pieces::One(iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
        Places { pieces, piece: 0, at: 0, memory: PhantomData }
    }

    /// Bytes that there is room for still.
    pub(crate) fn room(&self) -> usize {
        let whole: usize =
            (self.piece..self.pieces.count()).map(|place| self.pieces.get(place).iov_len).sum();
        whole - self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.room() == 0
    }

    /// Copies what there is room for; returns how much.
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> usize {
        self.advance(bytes.len(), |to, from, count| {
            let from = bytes[from..from + count].as_ptr();
            // SAFETY: `to` lies in a piece that this was made from, with room for `count` bytes, as many as `from` has. The
            // program's memory and the heap's do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(from, to, count) };
        })
    }

    /// Goes on as if bytes were copied.
    pub(crate) fn pass(&mut self, count: usize) -> usize {
        self.advance(count, |_, _, _| {})
    }

    fn advance(&mut self, len: usize, mut each: impl FnMut(*mut u8, usize, usize)) -> usize {
        let mut done = 0;
        while done < len && self.piece < self.pieces.count() {
            let piece = self.pieces.get(self.piece);
            let count = (len - done).min(piece.iov_len - self.at);
            if count > 0 && !piece.iov_base.is_null() {
                each(piece.iov_base.cast::<u8>().wrapping_add(self.at), done, count);
            }
            done += count;
            self.at += count;
            if self.at == piece.iov_len {
                self.piece += 1;
                self.at = 0;
            }
        }
        done
    }
}

impl<'a> Gather<'a> {
    /// Pieces of memory that can be read.
    ///
    /// # Safety
    /// As for [`Places::new`], but that the bytes need only be readable, and may be read by others.
    pub(crate) unsafe fn new(pieces: *const iovec, count: usize) -> Result<Gather<'a>, Errno> {
        let pieces = Pieces::Many(pieces, count);
        Ok(Gather { pieces, len: pieces.check()?, memory: PhantomData })
    }

    /// One piece.
    ///
    /// # Safety
    /// `base` points to `len` readable bytes, for as long as `'a`.
    pub(crate) unsafe fn one(base: *const c_void, len: usize) -> Result<Gather<'a>, Errno> {
        let pieces = Pieces::One(iovec { iov_base: base.cast_mut(), iov_len: len.min(MOST_BYTES) });
        Ok(Gather { pieces, len: pieces.check()?, memory: PhantomData })
    }

    /// Bytes of our own.
    pub(crate) fn of(bytes: &'a [u8]) -> Gather<'a> {
        let pieces = Pieces::One(iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        Gather { pieces, len: bytes.len(), memory: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies from the byte `from` on, as much as `out` holds and there is.
    pub(crate) fn copy_to(&self, mut from: usize, out: &mut [u8]) {
        let mut done = 0;
        for place in 0..self.pieces.count() {
            let piece = self.pieces.get(place);
            if from >= piece.iov_len {
                from -= piece.iov_len;
                continue;
            }
            let count = (piece.iov_len - from).min(out.len() - done);
            // SAFETY: whoever made this has promised that the piece can be read; `from + count` is within it.
            let bytes = unsafe { std::slice::from_raw_parts(piece.iov_base.cast::<u8>().add(from), count) };
            out[done..done + count].copy_from_slice(bytes);
            done += count;
            from = 0;
            if done == out.len() {
                return;
            }
        }
    }
}

/// An internet address from a program; `None` for one of another family.
///
/// # Safety
/// `addr` is null or points to `len` readable bytes.
pub(crate) unsafe fn address(addr: *const sockaddr, len: socklen_t) -> Result<Option<SocketAddr>, Errno> {
    if addr.is_null() {
        return Err(Errno::FAULT);
    }
    let len = len as usize;
    if len < size_of::<libc::sa_family_t>() {
        return Err(Errno::INVAL);
    }
    // SAFETY: the family's bytes are there; they need not be aligned.
    let family = unsafe { addr.cast::<libc::sa_family_t>().read_unaligned() };
    match c_int::from(family) {
        libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: as many bytes are there as one takes, and any are valid.
            let addr = unsafe { addr.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr));
            Ok(Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(addr.sin_port)))))
        }
        // What Linux and BSD have kept of 28 bytes: the scope may be missing.
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let addr = unsafe { addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(addr.sin6_addr.s6_addr);
            let port = u16::from_be(addr.sin6_port);
            Ok(Some(SocketAddr::V6(SocketAddrV6::new(ip, port, addr.sin6_flowinfo, addr.sin6_scope_id))))
        }
        libc::AF_INET | libc::AF_INET6 => Err(Errno::INVAL),
        _ => Ok(None),
    }
}

/// Gives a program an address, cut to the room it has, and its true length. An IPv6 socket sees IPv4 in disguise.
///
/// # Safety
/// `len` is null, or points to a length that can be read and written; `out` is null or has that many writable bytes.
pub(crate) unsafe fn give_address(
    addr: SocketAddr,
    six: bool,
    out: *mut sockaddr,
    len: *mut socklen_t,
) -> Result<(), Errno> {
    if out.is_null() || len.is_null() {
        return Ok(());
    }
    let mut bytes = [0u8; size_of::<libc::sockaddr_in6>()];
    let size = encode(addr, six, &mut bytes);
    // SAFETY: the caller's promise.
    let room = unsafe { len.read_unaligned() } as usize;
    if i32::try_from(room).is_err() {
        return Err(Errno::INVAL);
    }
    let count = room.min(size);
    // SAFETY: `out` has `room` bytes, `bytes` has `size`.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast::<u8>(), count);
        len.write_unaligned(size as socklen_t);
    }
    Ok(())
}

/// An address in the kernel's form; how long that is.
pub(crate) fn encode(addr: SocketAddr, six: bool, out: &mut [u8; size_of::<libc::sockaddr_in6>()]) -> usize {
    let (ip, port) = (addr.ip(), addr.port());
    match addr {
        SocketAddr::V4(v4) if !six => {
            out[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            out[2..4].copy_from_slice(&port.to_be_bytes());
            out[4..8].copy_from_slice(&v4.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        _ => {
            let (ip, scope) = match ip {
                std::net::IpAddr::V4(ip) => (ip.to_ipv6_mapped(), 0),
                std::net::IpAddr::V6(ip) => {
                    (ip, if let SocketAddr::V6(v6) = addr { v6.scope_id() } else { 0 })
                }
            };
            out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            out[2..4].copy_from_slice(&port.to_be_bytes());
            out[8..24].copy_from_slice(&ip.octets());
            out[24..28].copy_from_slice(&scope.to_ne_bytes());
            size_of::<libc::sockaddr_in6>()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(base: *const c_void, len: usize) -> iovec {
        iovec { iov_base: base.cast_mut(), iov_len: len }
    }

    #[test]
    fn bytes_go_through_pieces_of_any_size() {
        let text = b"a longer text in several pieces";
        let pieces = [
            piece(text.as_ptr().cast(), 1),
            piece(std::ptr::null(), 0),
            piece(text[1..].as_ptr().cast(), 30),
        ];
        // SAFETY: all pieces lie in `text`.
        let gather = unsafe { Gather::new(pieces.as_ptr(), 3) }.unwrap();
        assert_eq!(gather.len(), 31);
        for from in 0..=31 {
            let mut out = vec![0; 31 - from];
            gather.copy_to(from, &mut out);
            assert_eq!(out, text[from..]);
        }
        let mut out = [[0u8; 7]; 4];
        let pieces = out.each_mut().map(|part| piece(part.as_ptr().cast(), 7));
        // SAFETY: all pieces lie in `out`, which nothing else uses.
        let mut places = unsafe { Places::new(pieces.as_ptr(), 4) }.unwrap();
        assert_eq!(places.room(), 28);
        assert_eq!((places.fill(&text[..3]), places.pass(2), places.fill(&text[5..])), (3, 2, 23));
        assert!(places.is_empty());
        let [first, second, ..] = out;
        assert_eq!((&first, &second), (b"a l\0\0ge", b"r text "));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let one = piece(std::ptr::null(), 1);
        let huge = [piece([0u8].as_ptr().cast(), isize::MAX as usize), piece([0u8].as_ptr().cast(), 1)];
        // SAFETY: nothing is read or written: the pieces are refused.
        unsafe {
            assert_eq!(Gather::new(&raw const one, 1).err(), Some(Errno::FAULT));
            assert_eq!(Gather::new(huge.as_ptr(), 2).err(), Some(Errno::INVAL));
            assert_eq!(Gather::new(huge.as_ptr(), 1025).err(), Some(Errno::INVAL));
        }
    }

    #[test]
    fn addresses_survive_there_and_back() {
        for (text, six, back) in [
            ("10.1.2.3:80", false, "10.1.2.3:80"),
            ("10.1.2.3:80", true, "[::ffff:10.1.2.3]:80"),
            ("[fd00::1]:443", true, "[fd00::1]:443"),
        ] {
            let mut bytes = [0; 28];
            let len = encode(text.parse().unwrap(), six, &mut bytes);
            // SAFETY: `len` bytes are there.
            let read = unsafe { address(bytes.as_ptr().cast(), len as socklen_t) };
            assert_eq!(read, Ok(Some(back.parse().unwrap())));
            // SAFETY: as above.
            let short = unsafe { address(bytes.as_ptr().cast(), len as socklen_t - 1) };
            assert_eq!(short, Err(Errno::INVAL));
        }
    }
}
