//! Messages: `<PRI>text` as they come in, `<N>SEVERITY text` as they go out, which is a message of syslog again.

use std::cmp::Ordering;

use demi_api::{Error, Heap, SgArray};

/// By number, the most urgent first.
pub(super) const NAMES: [&str; 8] = ["EMERG", "ALERT", "CRIT", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"];

/// Bytes of `<N>`.
const HEADER: usize = 3;

/// Columns of the longest name.
const NAME_WIDTH: usize = 7;

/// What a message without a priority is: a notice, as in RFC 3164 §4.3.3.
const DEFAULT: u8 = 5;

/// Bytes of text that a message keeps at the most.
const LONGEST: usize = 1024;

/// The severity of a message as it came in, 0 to 7.
pub(super) fn severity(sga: &SgArray) -> u8 {
    let mut head = [0; 5];
    let len = sga.copy_to(&mut head);
    priority(&head[..len]).map_or(DEFAULT, |(severity, _)| severity)
}

/// Names the severity in place of the number; cuts what is too long, and shows bytes that no terminal should get
/// as dots.
pub(super) fn name(heap: &Heap, sga: SgArray) -> Result<SgArray, Error> {
    let whole = sga.into_contiguous(heap)?;
    let (severity, header) = priority(&whole).unwrap_or((DEFAULT, 0));
    let text = whole[header..].trim_ascii();
    let text = &text[..text.len().min(LONGEST)];
    let start = HEADER + NAME_WIDTH + 1;
    let mut named = heap.alloc(start + text.len())?;
    named[..HEADER].copy_from_slice(&[b'<', b'0' + severity, b'>']);
    named[HEADER..start].fill(b' ');
    let name = NAMES[usize::from(severity)].as_bytes();
    named[HEADER..HEADER + name.len()].copy_from_slice(name);
    for (to, from) in named[start..].iter_mut().zip(text) {
        *to = if from.is_ascii_control() { b'.' } else { *from };
    }
    Ok(named.into())
}

/// The more urgent is the greater.
pub(super) fn by_urgency(one: &SgArray, other: &SgArray) -> Ordering {
    let digit = |sga: &SgArray| sga.segments().first().map_or(b'9', |segment| segment[1]);
    digit(other).cmp(&digit(one))
}

/// A named message as text, without its header.
pub(super) fn text(sga: &SgArray) -> String {
    String::from_utf8_lossy(sga.to_vec().get(HEADER..).unwrap_or(&[])).into_owned()
}

/// The severity that `<PRI>` at the begin says, and how long that is.
fn priority(text: &[u8]) -> Option<(u8, usize)> {
    let rest = text.strip_prefix(b"<")?;
    let digits = rest.iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&rest[..digits]).ok()?.parse::<u16>().ok()?;
    (rest.get(digits) == Some(&b'>') && number < 192).then_some(((number % 8) as u8, digits + 2))
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::HeapConfig;

    use super::*;

    #[test]
    fn priorities_are_read_or_assumed() {
        for (text, expected) in [
            (&b"<0>x"[..], Some((0, 3))),
            (b"<13>x", Some((5, 4))),
            (b"<191>x", Some((7, 5))),
            (b"<192>x", None),
            (b"<>x", None),
            (b"<12", None),
            (b"<1234>", None),
            (b"", None),
            (b"plain", None),
        ] {
            assert_eq!(priority(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn names_stand_before_the_text() {
        let heap = Heap::new(&HeapConfig { size: 4 << 20, ..HeapConfig::default() }).unwrap();
        let named = |text: &[u8]| {
            let sga = heap.copy_from(text).unwrap().into();
            name(&heap, sga).unwrap()
        };
        assert_eq!(text(&named(b"<11>disk\x1b[2J failed\n")), "ERROR   disk.[2J failed");
        assert_eq!(text(&named(b"plain")), "NOTICE  plain");
        assert_eq!(text(&named(b"")), "NOTICE  ");
        assert_eq!(by_urgency(&named(b"<0>a"), &named(b"<1>b")), Ordering::Greater);
        assert_eq!(by_urgency(&named(b"<1>a"), &named(b"<9>b")), Ordering::Equal);
    }
}
