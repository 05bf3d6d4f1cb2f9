//! Frames that nobody keeps, such as acknowledgements and resets: what is read in them is all that there is to them. They
//! are received though the heap is full, as they are what makes room in it.
//!
//! Invariant: a buffer of the heap's reserve holds such a frame and no other, so that it is back when the turn is over.

use demi_api::memalloc::{BufMut, Heap};

use crate::ip::ETHERNET;

/// Bytes of the buffers that are kept: all headers that TCP has, and more than any frame of ARP or neighbour discovery.
pub(crate) const KEPT: usize = 256;

const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];

const TCP: u8 = 6;
const ICMP6: u8 = 58;

/// The copy that `fill` makes of a frame of `len` bytes for which there is no memory but what is kept. `None`: it is not
/// for this frame, `fill` has failed, or there is none left.
#[cold]
#[inline(never)]
pub(super) fn copy_of_passing(
    heap: &Heap,
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> bool,
) -> Option<BufMut> {
    if len > KEPT {
        return None;
    }
    let mut copy = heap.alloc_urgent(len).ok()?;
    (fill(&mut copy) && is_passing(&copy)).then_some(copy)
}

/// Whether nobody keeps anything of a frame: a segment without text, or one of ARP or of neighbour discovery.
fn is_passing(frame: &[u8]) -> bool {
    let Some((header, packet)) = frame.split_at_checked(ETHERNET) else { return false };
    match [header[12], header[13]] {
        ARP => true,
        IPV4 => is_passing_v4(packet).unwrap_or(false),
        IPV6 => is_passing_v6(packet).unwrap_or(false),
        _ => false,
    }
}

fn is_passing_v4(packet: &[u8]) -> Option<bool> {
    let header = packet.first_chunk::<20>()?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    let front = usize::from(header[0] & 15) * 4;
    Some(fragment == 0 && header[9] == TCP && is_without_text(packet.get(front..len)?)?)
}

fn is_passing_v6(packet: &[u8]) -> Option<bool> {
    let (header, rest) = packet.split_first_chunk::<40>()?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let content = rest.get(..len)?;
    Some(match header[6] {
        TCP => is_without_text(content)?,
        // RFC 4861 §4.
        ICMP6 => (133..=137).contains(content.first()?),
        _ => false,
    })
}

fn is_without_text(segment: &[u8]) -> Option<bool> {
    Some(usize::from(segment.get(12)? >> 4) * 4 == segment.len())
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::HeapConfig;

    use super::*;

    /// A frame with an IP header and this behind it.
    fn frame(v6: bool, protocol: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        if v6 {
            bytes.extend(IPV6);
            bytes.extend([0x60, 0, 0, 0, 0, content.len() as u8, protocol, 64]);
            bytes.extend([0xfd; 32]);
        } else {
            bytes.extend(IPV4);
            bytes.extend([0x45, 0, 0, 20 + content.len() as u8, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend([10; 8]);
        }
        bytes.extend(content);
        bytes
    }

    /// A segment with so many words of header and bytes of text.
    fn segment(words: u8, text: usize) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(words) * 4 + text];
        bytes[12] = words << 4;
        bytes
    }

    #[test]
    fn only_what_nobody_keeps_passes() {
        for v6 in [false, true] {
            assert!(is_passing(&frame(v6, TCP, &segment(5, 0))));
            assert!(is_passing(&frame(v6, TCP, &segment(15, 0))));
            assert!(!is_passing(&frame(v6, TCP, &segment(8, 1))));
            assert!(!is_passing(&frame(v6, 17, &segment(5, 0))));
            // What a short frame is filled up with is no text.
            let mut padded = frame(v6, TCP, &segment(5, 0));
            padded.extend([0; 6]);
            assert!(is_passing(&padded));
            for len in 0..padded.len() - 6 {
                assert!(!is_passing(&padded[..len]), "{len} bytes");
            }
        }
        assert!(is_passing(&frame(true, ICMP6, &[135, 0, 0, 0])) && !is_passing(&frame(true, ICMP6, &[128])));
        let mut arp = vec![0; 42];
        arp[12..14].copy_from_slice(&ARP);
        assert!(is_passing(&arp));
        let mut fragment = frame(false, TCP, &segment(5, 0));
        fragment[ETHERNET + 6] = 0x20;
        assert!(!is_passing(&fragment));
    }

    #[test]
    fn the_reserve_is_for_those_alone() {
        let heap = Heap::new(&HeapConfig { size: 1 << 20, lock: false, ..HeapConfig::default() }).unwrap();
        heap.set_aside(KEPT).unwrap();
        let full: Vec<_> = std::iter::from_fn(|| heap.alloc(1 << 17).ok()).collect();
        let copy = |bytes: &[u8]| {
            copy_of_passing(&heap, bytes.len(), |copy| {
                copy.copy_from_slice(bytes);
                true
            })
        };
        let (bare, laden) = (frame(false, TCP, &segment(5, 0)), frame(false, TCP, &segment(5, 1)));
        assert_eq!(copy(&bare).as_deref(), Some(&bare[..]));
        assert!(copy(&laden).is_none() && copy(&[0; KEPT + 1]).is_none());
        assert!(copy_of_passing(&heap, bare.len(), |_| false).is_none());
        drop(full);
        assert_eq!(heap.stats().objects_live, 0);
    }
}
