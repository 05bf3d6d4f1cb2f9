//! What a controller says of itself and of a namespace (Base 1.4 §5.15), parsed.
//!
//! Invariant: whatever the bytes, what comes out can be computed with: block sizes are powers of two within bounds,
//! sizes do not overflow. A namespace that cannot be used is refused with what to do about it.

use super::regs::PAGE;

/// Bytes of any answer to Identify.
pub(super) const LEN: usize = 4096;

/// An answer to Identify.
pub(super) type Answer = [u8; LEN];

/// Identify Controller (§5.15.2.2, figure 247).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Controller {
    pub(super) serial: String,
    pub(super) model: String,
    /// Most bytes of one transfer; `None`: any number.
    pub(super) max_transfer: Option<usize>,
    /// Namespaces that it may have.
    pub(super) namespaces: u32,
    /// Whether what it has acknowledged may yet be lost with its power (VWC).
    pub(super) volatile_cache: bool,
    /// Whether it knows Dataset Management (ONCS).
    pub(super) dataset_management: bool,
    /// Whether queue entries can be of 64 and 16 bytes, as they must (SQES, CQES).
    pub(super) entry_sizes: bool,
    /// Whether it serves commands to namespaces: not one for administration or discovery (CNTRLTYPE).
    pub(super) is_io: bool,
}

impl Controller {
    pub(super) fn parse(answer: &Answer) -> Controller {
        let within = |sizes: u8, size: u8| sizes & 0xf <= size && size <= sizes >> 4;
        let mdts = answer[77];
        Controller {
            serial: text(&answer[4..24]),
            model: text(&answer[24..64]),
            // A power of two, in units of the smallest page, which is ours. What does not fit a number has no bound.
            max_transfer: (mdts != 0)
                .then(|| PAGE.checked_shl(u32::from(mdts)))
                .flatten()
                .filter(|max| *max >= PAGE && max >> mdts == PAGE),
            namespaces: u32_at(answer, 516),
            volatile_cache: answer[525] & 1 == 1,
            dataset_management: u16_at(answer, 520) >> 2 & 1 == 1,
            entry_sizes: within(answer[512], 6) && within(answer[513], 4),
            // 0: it is older than the field.
            is_io: matches!(answer[111], 0 | 1),
        }
    }
}

/// Identify Namespace (§5.15.2.1, figure 245).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Namespace {
    /// Blocks that it has.
    pub(super) blocks: u64,
    /// The base-two logarithm of the bytes of a block: 9 to 16.
    pub(super) block_shift: u32,
    /// Whether it refuses to be written to.
    pub(super) read_only: bool,
}

impl Namespace {
    /// # Errors
    /// Why it cannot be used, and what to do.
    pub(super) fn parse(answer: &Answer) -> Result<Namespace, String> {
        let blocks = u64_at(answer, 0);
        // Of what is not active all is zero (§5.15.2.1).
        if blocks == 0 {
            return Err("there is no such namespace, or it has no blocks".into());
        }
        let format = usize::from(answer[26] & 0xf);
        if format > usize::from(answer[25]) {
            return Err(format!("it says that it has format {format}, which there is not"));
        }
        let format = u32_at(answer, 128 + 4 * format);
        let (metadata, shift) = (format & 0xffff, format >> 16 & 0xff);
        if metadata != 0 || answer[29] & 7 != 0 {
            return Err(format!(
                "it keeps {metadata} bytes of metadata or protection with each block; choose another format: \
                 `nvme format --lbaf`, which erases it"
            ));
        }
        if !(9..=16).contains(&shift) {
            return Err(format!("its blocks are of 2^{shift} bytes; 2^9 to 2^16 can be used"));
        }
        if blocks > u64::MAX >> shift {
            return Err("it says that it has more bytes than can be numbered".into());
        }
        Ok(Namespace { blocks, block_shift: shift, read_only: answer[99] & 1 == 1 })
    }
}

/// Active Namespace ID list (§5.15.2.3): in rising order, zero behind the last.
pub(super) fn active(answer: &Answer) -> Vec<u32> {
    answer
        .chunks_exact(4)
        .map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]))
        .take_while(|id| *id != 0)
        .collect()
}

/// Most namespaces that one list holds.
pub(super) const LIST: usize = LEN / 4;

/// ASCII, padded with blanks; anything else is shown as a question mark.
fn text(bytes: &[u8]) -> String {
    let shown = bytes.iter().map(|byte| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '?' });
    shown.collect::<String>().trim().to_owned()
}

fn u16_at(answer: &Answer, at: usize) -> u16 {
    u16::from_le_bytes([answer[at], answer[at + 1]])
}

fn u32_at(answer: &Answer, at: usize) -> u32 {
    u32::from(u16_at(answer, at)) | u32::from(u16_at(answer, at + 2)) << 16
}

fn u64_at(answer: &Answer, at: usize) -> u64 {
    u64::from(u32_at(answer, at)) | u64::from(u32_at(answer, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn namespace(blocks: u64, shift: u8, metadata: u16) -> Answer {
        let mut answer = [0; LEN];
        answer[..8].copy_from_slice(&blocks.to_le_bytes());
        answer[25] = 3;
        answer[26] = 2;
        answer[136..138].copy_from_slice(&metadata.to_le_bytes());
        answer[138] = shift;
        answer
    }

    #[test]
    fn a_namespace_is_what_its_format_says() {
        let parsed = Namespace::parse(&namespace(1 << 20, 12, 0));
        assert_eq!(parsed, Ok(Namespace { blocks: 1 << 20, block_shift: 12, read_only: false }));
        let mut answer = namespace(8, 9, 0);
        answer[99] = 1;
        assert_eq!(Namespace::parse(&answer).map(|namespace| namespace.read_only), Ok(true));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_reason() {
        let mut no_format = namespace(8, 9, 0);
        no_format[26] = 4;
        let mut protected = namespace(8, 9, 0);
        protected[29] = 1;
        for (answer, reason) in [
            (namespace(0, 9, 0), "no such namespace"),
            (no_format, "format 4"),
            (namespace(8, 9, 8), "8 bytes of metadata"),
            (protected, "protection"),
            (namespace(8, 8, 0), "2^8"),
            (namespace(8, 64, 0), "2^64"),
            (namespace(u64::MAX, 9, 0), "more bytes"),
        ] {
            let error = Namespace::parse(&answer).expect_err(reason);
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_controller_is_taken_apart() {
        let mut answer = [0; LEN];
        answer[4..24].copy_from_slice(b"demi0000\x1b[2J        ");
        answer[24..64].copy_from_slice(b"QEMU NVMe Ctrl                          ");
        (answer[77], answer[512], answer[513], answer[525]) = (7, 0x66, 0x44, 7);
        answer[516..520].copy_from_slice(&256_u32.to_le_bytes());
        answer[520] = 0x04;
        let controller = Controller::parse(&answer);
        assert_eq!(
            (controller.serial.as_str(), controller.model.as_str()),
            ("demi0000?[2J", "QEMU NVMe Ctrl")
        );
        assert_eq!((controller.max_transfer, controller.namespaces), (Some(512 << 10), 256));
        assert!(controller.volatile_cache && controller.dataset_management);
        assert!(controller.entry_sizes && controller.is_io);
        answer[513] = 0x55;
        assert!(!Controller::parse(&answer).entry_sizes);
        answer[77] = 255;
        assert_eq!(Controller::parse(&answer).max_transfer, None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_trouble(bytes in proptest::collection::vec(any::<u8>(), LEN)) {
            let answer = bytes.try_into().expect("as long as an answer");
            let controller = Controller::parse(&answer);
            prop_assert!(controller.max_transfer.is_none_or(|max| max.is_power_of_two() && max > PAGE));
            prop_assert!(active(&answer).len() <= LIST);
            if let Ok(namespace) = Namespace::parse(&answer) {
                prop_assert!((9..=16).contains(&namespace.block_shift));
                prop_assert!(namespace.blocks.checked_mul(1 << namespace.block_shift).is_some());
            }
        }
    }
}
