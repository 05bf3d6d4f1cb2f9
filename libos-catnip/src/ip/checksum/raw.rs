//! Many bytes at once: one source, compiled for the processors that there are.

/// Bytes of a line.
pub(super) const LINE: usize = 64;

/// Adds lines, as words that the machine reads: halves of eight bytes each, which come to the same (RFC 1071 §2 (C)).
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn add_lines(lines: &[[u8; LINE]]) -> u64 {
    #[target_feature(enable = "avx2")]
    fn add_wide(lines: &[[u8; LINE]]) -> u64 {
        add(lines)
    }
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as was just found out.
        return unsafe { add_wide(lines) };
    }
    add(lines)
}

/// Adds lines, as words that the machine reads: halves of eight bytes each, which come to the same (RFC 1071 §2 (C)).
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(super) fn add_lines(lines: &[[u8; LINE]]) -> u64 {
    add(lines)
}

/// What the words of a line are added to in turn: in registers, and without carries, as there are at most 2^32 lines.
#[inline(always)]
fn add(lines: &[[u8; LINE]]) -> u64 {
    let mut sums = [0; LINE / 4];
    for line in lines {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks().0) {
            *sum += u64::from(u32::from_ne_bytes(*word));
        }
    }
    sums.iter().sum()
}
