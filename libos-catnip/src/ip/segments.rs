//! Work on scatter-gather arrays without copies, or with a counted one where the device asks for it.

use demi_api::error::Error;
use demi_api::memalloc::Heap;
use demi_api::sga::{MAX_SEGMENTS, SgArray};

/// Drops all but the first `len` bytes.
#[inline]
pub(super) fn truncate(data: &mut SgArray, len: usize) {
    if let [one] = data.segments_mut() {
        return one.truncate(len);
    }
    if len < data.len() {
        *data = data.split_to(len);
    }
}

/// Drops the first `len` bytes; there are no fewer.
#[inline]
pub(super) fn strip(data: &mut SgArray, len: usize) {
    match data.segments_mut() {
        [one] if one.len() > len => one.advance(len),
        _ => data.advance(len),
    }
}

/// Makes the first `len` bytes, or all, lie in the first segment.
#[inline]
pub(super) fn pull_up(heap: &Heap, data: &mut SgArray, len: usize) -> Result<(), Error> {
    match data.segments() {
        [] | [_] => Ok(()),
        [first, ..] if first.len() >= len => Ok(()),
        _ => {
            let whole = std::mem::take(data).into_contiguous(heap)?;
            *data = whole.into();
            Ok(())
        }
    }
}

/// Cuts an array so that it has at most `max_segs` segments of at most `max_len` bytes each; joins its bytes first, if
/// there are too many segments.
pub(super) fn fit(heap: &Heap, data: SgArray, max_segs: usize, max_len: usize) -> Result<SgArray, Error> {
    let max_segs = max_segs.min(MAX_SEGMENTS);
    let pieces =
        |data: &SgArray| data.segments().iter().map(|segment| segment.len().div_ceil(max_len)).sum::<usize>();
    let data = if pieces(&data) <= max_segs { data } else { data.into_contiguous(heap)?.into() };
    if pieces(&data) > max_segs {
        return Err(Error::TooLarge { len: data.len(), limit: max_segs.saturating_mul(max_len) });
    }
    let mut fitted = SgArray::new();
    for mut segment in data.into_segments() {
        while segment.len() > max_len {
            fitted.push(segment.split_to(max_len))?;
        }
        if !segment.is_empty() {
            fitted.push(segment)?;
        }
    }
    Ok(fitted)
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::HeapConfig;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_stay_the_same(
            lens in proptest::collection::vec(0usize..100, 0..8),
            max_segs in 1usize..9, max_len in 1usize..200, cut in 0usize..300,
        ) {
            let heap = Heap::new(&HeapConfig { size: 2 << 20, ..HeapConfig::default() }).unwrap();
            let array: SgArray =
                lens.iter().enumerate().map(|(n, len)| heap.copy_from(&vec![n as u8; *len]).unwrap()).collect();
            let bytes = array.to_vec();

            let mut shorter = array.clone();
            truncate(&mut shorter, cut);
            prop_assert_eq!(shorter.to_vec(), &bytes[..cut.min(bytes.len())]);

            let mut rest = array.clone();
            strip(&mut rest, cut.min(bytes.len()));
            prop_assert_eq!(rest.to_vec(), &bytes[cut.min(bytes.len())..]);

            let mut pulled = array.clone();
            pull_up(&heap, &mut pulled, cut).unwrap();
            prop_assert_eq!(pulled.to_vec(), &bytes[..]);
            prop_assert!(pulled.segments().first().map_or(0, |first| first.len()) >= cut.min(bytes.len()));

            match fit(&heap, array, max_segs, max_len) {
                Ok(fitted) => {
                    prop_assert_eq!(fitted.to_vec(), &bytes[..]);
                    prop_assert!(fitted.segments().len() <= max_segs);
                    prop_assert!(fitted.segments().iter().all(|segment| segment.len() <= max_len));
                }
                Err(_) => prop_assert!(bytes.len() > max_segs * max_len),
            }
        }
    }
}
