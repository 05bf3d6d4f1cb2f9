//! The header that the kernel puts before each frame of a TAP or an AF_PACKET socket when it is asked to, and expects:
//! `struct virtio_net_hdr` (Virtio 1.2 §5.1.6) in the machine's own byte order.
//!
//! Frames between interfaces of one machine carry no transport checksum: the kernel leaves it to a device that there
//! never is. Only by this header can such a frame be told from a damaged one.

use super::super::{Caps, Checksum, Frame};
use super::ETHERNET;

/// Bytes of the header.
pub(in crate::device) const LEN: usize = 10;

/// Summing is left to whoever gets the frame.
const NEEDS_CSUM: u8 = 1;
/// The checksum has been verified.
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// The aggregate's first segment says that the window was reduced; goes with either of TCP's.
const GSO_ECN: u8 = 0x80;

/// The header of a frame to be transmitted. `None`: the frame is beyond what `caps` allow.
#[inline]
pub(in crate::device) fn for_frame(frame: &Frame, caps: &Caps) -> Option<[u8; LEN]> {
    let len = frame.data.len();
    if !(ETHERNET..=ETHERNET + caps.mtu).contains(&len) {
        return None;
    }
    emit(frame.checksum, len)
}

/// The header of a frame of `len` bytes. `None`: the frame asks for a sum outside of itself.
#[inline]
fn emit(checksum: Checksum, len: usize) -> Option<[u8; LEN]> {
    let mut header = [0; LEN];
    if let Checksum::Partial { start, at } = checksum {
        if usize::from(start) < ETHERNET || at < start || usize::from(at) + 2 > len {
            return None;
        }
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&(at - start).to_ne_bytes());
    }
    Some(header)
}

/// What the header says of the checksum of a received frame of `len` bytes. `None`: the frame stands for several
/// datagrams, which it does not say where to cut for anybody but a device.
///
/// Segments of TCP that travel as one are one segment, if a long one: nothing is lost by taking them as such.
#[inline]
pub(in crate::device) fn parse(header: &[u8; LEN], len: usize) -> Option<Checksum> {
    if !matches!(header[1] & !GSO_ECN, GSO_NONE | GSO_TCPV4 | GSO_TCPV6) {
        return None;
    }
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    if header[0] & NEEDS_CSUM != 0 {
        let start = word(6);
        // A place outside of the frame vouches for nothing: the frame is verified like any other, and will not pass.
        return Some(match start.checked_add(word(8)) {
            Some(at) if usize::from(start) >= ETHERNET && usize::from(at) + 2 <= len => {
                Checksum::Partial { start, at }
            }
            Some(_) | None => Checksum::Unknown,
        });
    }
    Some(if header[0] & DATA_VALID != 0 { Checksum::Verified } else { Checksum::Unknown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_emitted_parses_as_the_same() {
        for checksum in [Checksum::Unknown, Checksum::Partial { start: 34, at: 50 }] {
            assert_eq!(parse(&emit(checksum, 60).unwrap(), 60), Some(checksum));
        }
        assert_eq!(emit(Checksum::Verified, 60), Some([0; LEN]));
    }

    #[test]
    fn sums_outside_of_the_frame_are_refused() {
        for (start, at, len) in [(34, 50, 51), (13, 50, 60), (34, 33, 60), (65535, 65535, 60), (34, 34, 14)] {
            let partial = Checksum::Partial { start, at };
            assert_eq!(emit(partial, len), None, "{partial:?}");
        }
        let good = emit(Checksum::Partial { start: 34, at: 50 }, 60).unwrap();
        assert_eq!(parse(&good, 51), Some(Checksum::Unknown));
        let wrapping = [NEEDS_CSUM, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(parse(&wrapping, 60), Some(Checksum::Unknown));
    }

    #[test]
    fn aggregates_of_datagrams_are_refused() {
        for (kind, taken) in
            [(0, true), (1, true), (4, true), (0x81, true), (3, false), (5, false), (0x7f, false)]
        {
            assert_eq!(parse(&[DATA_VALID, kind, 0, 0, 0, 0, 0, 0, 0, 0], 60).is_some(), taken, "{kind}");
        }
    }
}
