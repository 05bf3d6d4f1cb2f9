//! Physical Region Pages (Base 1.4 §4.3): how a command names the memory of a transfer.
//!
//! The first entry may point anywhere into a page, every other one at the begin of a page, and all but the last page
//! are used to their end. Two entries lie in the command; with more, the second points at a list of all but the first.
//! So spans fit one command if they meet at page boundaries; the others need commands of their own.

use super::regs::PAGE;

/// What addresses of transfers must be multiples of: the lowest two bits of an entry are zero (§4.3).
pub(super) const ALIGN: usize = 4;

/// Bytes that lie one behind the other, as the device sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) iova: u64,
    pub(super) len: usize,
}

impl Span {
    fn end(self) -> u64 {
        self.iova + self.len as u64
    }

    /// Whether `next` can follow in the same command.
    pub(super) fn meets(self, next: Span) -> bool {
        self.end() == next.iova || is_page(self.end()) && is_page(next.iova)
    }
}

/// The two entries of a command whose transfer is `spans`, each of which [meets](Span::meets) the next. What belongs
/// into the list goes to `set`, by number; the list itself lies at `list`, and does not cross the end of a page.
pub(super) fn build(spans: &[Span], list: u64, mut set: impl FnMut(usize, u64)) -> (u64, u64) {
    let mut first = 0;
    let mut second = 0;
    let mut count = 0;
    let mut end = None;
    for span in spans {
        let mut at = span.iova;
        // The page has been named by the span before, if that ended within it.
        if end == Some(at) && !is_page(at) {
            at = next_page(at);
        }
        while at < span.end() {
            match count {
                0 => first = at,
                1 => second = at,
                2 => {
                    set(0, second);
                    set(1, at);
                    second = list;
                }
                _ => set(count - 1, at),
            }
            count += 1;
            at = next_page(at);
        }
        end = Some(span.end());
    }
    (first, second)
}

fn is_page(iova: u64) -> bool {
    iova.is_multiple_of(PAGE as u64)
}

fn next_page(iova: u64) -> u64 {
    (iova | (PAGE as u64 - 1)) + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: u64 = 0x7000_0000;

    fn built(spans: &[Span]) -> (u64, u64, Vec<u64>) {
        let mut list = Vec::new();
        let (first, second) = build(spans, LIST, |at, entry| {
            assert_eq!(at, list.len(), "entries are set in order");
            list.push(entry);
        });
        (first, second, list)
    }

    /// Byte by byte, as a controller goes through the entries.
    fn read_back(first: u64, second: u64, list: &[u64], len: usize) -> Vec<u64> {
        let mut entries = vec![first];
        if list.is_empty() {
            entries.push(second)
        } else {
            entries.extend(list)
        }
        let mut entries = entries.into_iter();
        let mut at = entries.next().unwrap_or(0);
        let mut bytes = Vec::new();
        while bytes.len() < len {
            bytes.push(at);
            at += 1;
            if at.is_multiple_of(PAGE as u64) && bytes.len() < len {
                at = entries.next().expect("there is an entry for every page");
                assert!(at.is_multiple_of(PAGE as u64), "only the first entry has an offset");
            }
        }
        assert!(!list.is_empty() || entries.next().is_none_or(|unused| unused == 0 || bytes.len() > PAGE));
        bytes
    }

    /// Spans that meet: the first ends, and all others begin, at a page, unless two lie next to each other.
    fn spans() -> impl Strategy<Value = Vec<Span>> {
        let piece = (0_u64..64, 1_usize..5, any::<bool>());
        (0_usize..PAGE / 512, proptest::collection::vec(piece, 1..8), 1_usize..9).prop_map(
            |(offset, pieces, tail)| {
                let mut spans = Vec::<Span>::new();
                for (at, (page, pages, adjacent)) in pieces.iter().enumerate() {
                    let mut span = Span { iova: page * (8 * PAGE) as u64, len: pages * PAGE };
                    match spans.last() {
                        Some(last) if *adjacent => span.iova = last.end(),
                        Some(_) => {}
                        None => {
                            span.iova += (offset * 512) as u64;
                            span.len -= offset * 512;
                        }
                    }
                    if at + 1 == pieces.len() && span.len > 512 * tail {
                        span.len -= 512 * (tail - 1);
                    }
                    spans.push(span);
                }
                spans
            },
        )
    }

    proptest! {
        #[test]
        fn entries_name_the_bytes_of_the_spans_in_order(spans in spans()) {
            prop_assert!(spans.windows(2).all(|pair| pair[0].meets(pair[1])));
            let (first, second, list) = built(&spans);
            let wanted: Vec<u64> = spans.iter().flat_map(|span| span.iova..span.end()).collect();
            prop_assert_eq!(&read_back(first, second, &list, wanted.len()), &wanted);
            prop_assert_eq!(second == LIST, !list.is_empty());
        }

        #[test]
        fn one_span_cut_anywhere_stays_one(offset in 0_usize..PAGE / 4, len in 1_usize..20_000, cuts in proptest::collection::vec(0_usize..20_000, 0..6)) {
            let whole = Span { iova: (1 << 32) + (offset * 4) as u64, len };
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| (1..len).contains(cut)).collect();
            cuts.extend([0, len]);
            cuts.sort_unstable();
            cuts.dedup();
            let pieces: Vec<Span> =
                cuts.windows(2).map(|pair| Span { iova: whole.iova + pair[0] as u64, len: pair[1] - pair[0] }).collect();
            prop_assert!(pieces.windows(2).all(|pair| pair[0].meets(pair[1])));
            prop_assert_eq!(built(&pieces), built(&[whole]));
        }
    }

    #[test]
    fn two_pages_need_no_list_and_three_do() {
        let at = 1 << 32;
        assert_eq!(built(&[Span { iova: at + 512, len: 512 }]), (at + 512, 0, vec![]));
        assert_eq!(built(&[Span { iova: at + 512, len: PAGE }]), (at + 512, at + 4096, vec![]));
        assert_eq!(
            built(&[Span { iova: at + 512, len: 2 * PAGE }]),
            (at + 512, LIST, vec![at + 4096, at + 8192])
        );
    }

    #[test]
    fn spans_that_meet_within_a_page_only_by_number_do_not() {
        assert!(!Span { iova: 0, len: 512 }.meets(Span { iova: 4096, len: 512 }));
        assert!(!Span { iova: 0, len: 4096 }.meets(Span { iova: 8192 + 512, len: 512 }));
        assert!(Span { iova: 0, len: 512 }.meets(Span { iova: 512, len: 512 }));
        assert!(Span { iova: 512, len: 3584 }.meets(Span { iova: 1 << 20, len: 512 }));
    }
}
