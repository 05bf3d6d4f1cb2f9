//! One segment: its header taken apart, and put together. Nothing above this reads raw headers.

use arrayvec::ArrayVec;
use demi_api::sga::SgArray;

use super::seq::SeqNum;

/// Bytes of a header without options.
pub(crate) const HEADER: usize = 20;

/// Bytes of the timestamps option with its padding (RFC 7323 Appendix A).
pub(crate) const TIMESTAMPS: usize = 12;

/// The control bits, and the two of ECN (RFC 3168).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(pub(crate) u8);

impl Flags {
    pub(crate) const FIN: Flags = Flags(0x01);
    pub(crate) const SYN: Flags = Flags(0x02);
    pub(crate) const RST: Flags = Flags(0x04);
    pub(crate) const PSH: Flags = Flags(0x08);
    pub(crate) const ACK: Flags = Flags(0x10);
    pub(crate) const ECE: Flags = Flags(0x40);
    pub(crate) const CWR: Flags = Flags(0x80);

    #[inline]
    pub(crate) fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    #[inline]
    pub(crate) const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    #[inline]
    pub(crate) fn with_if(self, condition: bool, other: Flags) -> Flags {
        if condition { self.with(other) } else { self }
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (bit, letter) in "FSRPAUEC".chars().enumerate() {
            if self.0 >> bit & 1 == 1 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// A range of sequence numbers in a SACK option: the first, and the one behind the last.
pub(crate) type Block = (SeqNum, SeqNum);

/// The options of a segment. Those that only SYNs carry are `None` elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// RFC 9293 §3.7.1.
    pub(crate) mss: Option<u16>,
    /// RFC 7323 §2: the shift, at most 14.
    pub(crate) window_scale: Option<u8>,
    /// RFC 2018 §2.
    pub(crate) sack_permitted: bool,
    /// RFC 7323 §3: value and echo reply.
    pub(crate) timestamps: Option<(u32, u32)>,
    /// RFC 2018 §3.
    pub(crate) sacks: ArrayVec<Block, 4>,
}

/// A received segment.
#[derive(Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) seq: SeqNum,
    pub(crate) ack: SeqNum,
    pub(crate) flags: Flags,
    /// As it stands in the header: not scaled.
    pub(crate) window: u16,
    pub(crate) options: Options,
    pub(crate) payload: &'a mut SgArray,
    /// Bytes of the payload.
    pub(crate) len: usize,
}

impl Segment<'_> {
    /// Takes a segment apart whose checksum was verified: what is left of `data` is its payload. `None`: it is malformed.
    #[inline]
    pub(crate) fn parse(data: &mut SgArray) -> Option<Segment<'_>> {
        let total = data.len();
        let head = data.segments().first()?;
        let fixed: &[u8; HEADER] = head.first_chunk()?;
        let word = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let half = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let header = usize::from(fixed[12] >> 4) * 4;
        let options = Options::parse(head.get(HEADER..header)?);
        let (from, to, seq, ack, flags, window) =
            (half(0), half(2), word(4), word(8), Flags(fixed[13]), half(14));
        data.advance(header);
        Some(Segment {
            from,
            to,
            seq: SeqNum(seq),
            ack: SeqNum(ack),
            flags,
            window,
            options,
            len: total - header,
            payload: data,
        })
    }

    /// Sequence numbers that it occupies: RFC 9293 §3.4.
    #[inline]
    pub(crate) fn space(&self) -> u32 {
        self.len as u32 + u32::from(self.flags.has(Flags::SYN)) + u32::from(self.flags.has(Flags::FIN))
    }
}

impl Options {
    /// RFC 9293 §3.1 and MUST-6, MUST-7: an option of an unknown kind is skipped, one of an impossible length ends the
    /// list.
    #[inline]
    fn parse(mut bytes: &[u8]) -> Options {
        // What nearly every segment carries, laid out as RFC 7323 Appendix A recommends.
        if let [1, 1, 8, 10, v0, v1, v2, v3, e0, e1, e2, e3] = *bytes {
            let timestamps = (u32::from_be_bytes([v0, v1, v2, v3]), u32::from_be_bytes([e0, e1, e2, e3]));
            return Options { timestamps: Some(timestamps), ..Options::default() };
        }
        let mut options = Options::default();
        while let Some((&kind, rest)) = bytes.split_first() {
            match kind {
                0 => break,
                1 => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let Some(&len) = rest.first() else { break };
            let Some(body) = bytes.get(2..usize::from(len)) else { break };
            options.note(kind, body);
            bytes = &bytes[usize::from(len)..];
        }
        options
    }

    fn note(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (2, [high, low]) => self.mss = Some(u16::from_be_bytes([*high, *low])),
            // RFC 7323 §2.3: a larger shift is taken for 14.
            (3, [shift]) => self.window_scale = Some((*shift).min(14)),
            (4, []) => self.sack_permitted = true,
            (5, blocks) if blocks.len() % 8 == 0 => {
                for block in blocks.chunks_exact(8).take(4) {
                    let edge = |at: usize| {
                        SeqNum(u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]))
                    };
                    self.sacks.push((edge(0), edge(4)));
                }
            }
            (8, [v0, v1, v2, v3, e0, e1, e2, e3]) => {
                let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
                self.timestamps = Some((value, u32::from_be_bytes([*e0, *e1, *e2, *e3])));
            }
            _ => {}
        }
    }
}

/// A header to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Header<'a> {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) seq: SeqNum,
    pub(crate) ack: SeqNum,
    pub(crate) flags: Flags,
    pub(crate) window: u16,
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    pub(crate) timestamps: Option<(u32, u32)>,
    pub(crate) sacks: &'a [Block],
}

impl Header<'_> {
    /// A header without options and window: of a RST.
    pub(crate) fn bare(from: u16, to: u16, seq: SeqNum, ack: SeqNum, flags: Flags) -> Header<'static> {
        Header {
            from,
            to,
            seq,
            ack,
            flags,
            window: 0,
            mss: None,
            window_scale: None,
            sack_permitted: false,
            timestamps: None,
            sacks: &[],
        }
    }

    /// Bytes with options and padding. Blocks for which there is no room are left out.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        let blocks = self.blocks();
        HEADER
            + if self.mss.is_some() { 4 } else { 0 }
            + if self.window_scale.is_some() { 4 } else { 0 }
            + if self.sack_permitted { 4 } else { 0 }
            + if self.timestamps.is_some() { TIMESTAMPS } else { 0 }
            + if blocks > 0 { 4 + 8 * blocks } else { 0 }
    }

    fn blocks(&self) -> usize {
        self.sacks.len().min(if self.timestamps.is_some() { 3 } else { 4 })
    }

    /// Writes the header, with zero for a checksum, to the front of `out`; returns its length.
    ///
    /// # Panics
    /// If `out` is shorter than [`Header::len`].
    #[inline]
    pub(crate) fn write(&self, out: &mut [u8]) -> usize {
        let len = self.len();
        let (fixed, mut rest) = out[..len].split_at_mut(HEADER);
        fixed[0..2].copy_from_slice(&self.from.to_be_bytes());
        fixed[2..4].copy_from_slice(&self.to.to_be_bytes());
        fixed[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        fixed[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        fixed[12] = ((len / 4) << 4) as u8;
        fixed[13] = self.flags.0;
        fixed[14..16].copy_from_slice(&self.window.to_be_bytes());
        fixed[16..20].fill(0);
        let mut put = |bytes: &[u8]| {
            let (here, behind) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            here.copy_from_slice(bytes);
            rest = behind;
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            put(&[2, 4, high, low]);
        }
        if let Some(shift) = self.window_scale {
            put(&[1, 3, 3, shift]);
        }
        if self.sack_permitted {
            put(&[1, 1, 4, 2]);
        }
        if let Some((value, echo)) = self.timestamps {
            let ([v0, v1, v2, v3], [e0, e1, e2, e3]) = (value.to_be_bytes(), echo.to_be_bytes());
            put(&[1, 1, 8, 10, v0, v1, v2, v3, e0, e1, e2, e3]);
        }
        let blocks = self.blocks();
        if blocks > 0 {
            put(&[1, 1, 5, 2 + 8 * blocks as u8]);
            for (left, right) in &self.sacks[..blocks] {
                put(&left.0.to_be_bytes());
                put(&right.0.to_be_bytes());
            }
        }
        len
    }
}

/// The header of a segment with data and nothing else to say: no option but timestamps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) seq: SeqNum,
    pub(crate) ack: SeqNum,
    pub(crate) flags: Flags,
    pub(crate) window: u16,
    pub(crate) timestamps: Option<(u32, u32)>,
}

impl Plain {
    /// Bytes with options and padding.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        HEADER + if self.timestamps.is_some() { TIMESTAMPS } else { 0 }
    }

    /// Writes it to the front of `out`, with a checksum of zero. There must be room for it.
    #[inline(always)]
    pub(crate) fn write(&self, out: &mut [u8]) {
        let Some((fixed, options)) = out.split_first_chunk_mut::<HEADER>() else { return };
        fixed[0..2].copy_from_slice(&self.from.to_be_bytes());
        fixed[2..4].copy_from_slice(&self.to.to_be_bytes());
        fixed[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        fixed[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        fixed[12..14].copy_from_slice(&[((self.len() / 4) << 4) as u8, self.flags.0]);
        fixed[14..16].copy_from_slice(&self.window.to_be_bytes());
        fixed[16..20].fill(0);
        if let Some((value, echo)) = self.timestamps
            && let Some(options) = options.first_chunk_mut::<TIMESTAMPS>()
        {
            options[..4].copy_from_slice(&[1, 1, 8, 10]);
            options[4..8].copy_from_slice(&value.to_be_bytes());
            options[8..].copy_from_slice(&echo.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::{Heap, HeapConfig};
    use proptest::prelude::*;

    use super::*;

    fn heap() -> Heap {
        Heap::new(&HeapConfig { size: 2 << 20, lock: false, ..HeapConfig::default() }).unwrap()
    }

    fn array(heap: &Heap, bytes: &[u8]) -> SgArray {
        SgArray::copy_from(heap, bytes).unwrap()
    }

    prop_compose! {
        fn headers()(
            ports in any::<(u16, u16)>(), numbers in any::<(u32, u32)>(), flags in any::<u8>(), window in any::<u16>(),
            mss in any::<Option<u16>>(), window_scale in prop::option::of(0..=14u8), sack_permitted in any::<bool>(),
            timestamps in any::<Option<(u32, u32)>>(), sacks in prop::collection::vec(any::<(u32, u32)>(), 0..=2),
        ) -> (Header<'static>, Vec<Block>) {
            let header = Header {
                from: ports.0, to: ports.1, seq: SeqNum(numbers.0), ack: SeqNum(numbers.1), flags: Flags(flags), window,
                mss, window_scale, sack_permitted, timestamps, sacks: &[],
            };
            (header, sacks.into_iter().map(|(left, right)| (SeqNum(left), SeqNum(right))).collect())
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back((header, sacks) in headers(), payload in prop::collection::vec(any::<u8>(), 0..50)) {
            let heap = heap();
            let header = Header { sacks: &sacks, ..header };
            prop_assume!(header.len() <= 60);
            let mut bytes = vec![0xff; header.len()];
            prop_assert_eq!(header.write(&mut bytes), bytes.len());
            bytes.extend(&payload);
            let mut data = array(&heap, &bytes);
            let segment = Segment::parse(&mut data).unwrap();
            prop_assert_eq!((segment.from, segment.to, segment.seq), (header.from, header.to, header.seq));
            prop_assert_eq!((segment.ack, segment.flags, segment.window), (header.ack, header.flags, header.window));
            prop_assert_eq!(segment.options.mss, header.mss);
            prop_assert_eq!(segment.options.window_scale, header.window_scale);
            prop_assert_eq!(segment.options.sack_permitted, header.sack_permitted);
            prop_assert_eq!(segment.options.timestamps, header.timestamps);
            prop_assert_eq!(&segment.options.sacks[..], &sacks[..]);
            prop_assert_eq!((segment.payload.to_vec(), segment.len), (payload.clone(), payload.len()));
        }

        #[test]
        fn a_plain_header_is_what_a_header_is((header, _) in headers()) {
            let header = Header { mss: None, window_scale: None, sack_permitted: false, ..header };
            let Header { from, to, seq, ack, flags, window, timestamps, .. } = header;
            let plain = Plain { from, to, seq, ack, flags, window, timestamps };
            let (mut one, mut other) = (vec![0xff; header.len()], vec![0xff; plain.len()]);
            header.write(&mut one);
            plain.write(&mut other);
            prop_assert_eq!(one, other);
        }

        #[test]
        fn any_bytes_are_taken_apart_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let heap = heap();
            if let Some(segment) = Segment::parse(&mut array(&heap, &bytes)) {
                prop_assert!(segment.len <= bytes.len() - HEADER);
            }
        }
    }

    #[test]
    fn malformed_headers_are_refused_and_options_are_bounded() {
        let heap = heap();
        let mut bytes = [0; 40];
        for offset in [0, 4, 11, 15] {
            bytes[12] = offset << 4;
            assert!(Segment::parse(&mut array(&heap, &bytes)).is_none(), "offset {offset}");
        }
        bytes[12] = 10 << 4;
        for options in [[2, 0, 9, 9], [2, 1, 9, 9], [3, 200, 1, 1], [254, 2, 0, 2]] {
            bytes[20..24].copy_from_slice(&options);
            assert_eq!(Segment::parse(&mut array(&heap, &bytes)).unwrap().options, Options::default());
        }
        bytes[20..24].copy_from_slice(&[3, 3, 99, 0]);
        assert_eq!(Segment::parse(&mut array(&heap, &bytes)).unwrap().options.window_scale, Some(14));
    }
}
