//! Values that tell of themselves whether they are right: eight bytes of version, and what follows from key and version.

/// Fills a value.
pub(super) fn fill(value: &mut [u8], key: u64, version: u64) {
    let (head, body) = value.split_at_mut(8);
    head.copy_from_slice(&version.to_le_bytes());
    for (chunk, word) in body.chunks_mut(8).zip(words(key, version)) {
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

/// The version of a value, if it is one of this key.
pub(super) fn version(value: &[u8], key: u64) -> Option<u64> {
    let (head, body) = value.split_first_chunk::<8>()?;
    let version = u64::from_le_bytes(*head);
    let mut expected = body.chunks(8).zip(words(key, version));
    expected.all(|(chunk, word)| *chunk == word.to_le_bytes()[..chunk.len()]).then_some(version)
}

/// An endless sequence without a short period (splitmix64).
fn words(key: u64, version: u64) -> impl Iterator<Item = u64> {
    let mut state = key.rotate_left(32) ^ version;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_of_its_key_and_whole() {
        for len in [8, 9, 64, 1000] {
            let mut value = vec![0; len];
            fill(&mut value, 5, 77);
            assert_eq!(version(&value, 5), Some(77));
            assert!(len == 8 || version(&value, 6).is_none());
            for at in 8..len {
                value[at] ^= 1;
                assert_eq!(version(&value, 5), None, "byte {at}");
                value[at] ^= 1;
            }
        }
        assert_eq!(version(b"short", 5), None);
    }
}
