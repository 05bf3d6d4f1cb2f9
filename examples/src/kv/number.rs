//! Numbers as Redis reads and writes them: decimal, no sign but `-`, no leading zero, no space.

/// Digits and sign of the longest.
pub(super) const LONGEST: usize = 20;

/// The number that `text` is, if it is one.
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() < LONGEST => {}
        _ => return None,
    }
    let mut magnitude = 0_u64;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        magnitude = magnitude * 10 + u64::from(digit);
    }
    if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Writes a number to the end of `room`; returns where it begins.
pub(super) fn format(number: i64, room: &mut [u8; LONGEST]) -> usize {
    let mut rest = number.unsigned_abs();
    let mut at = LONGEST;
    loop {
        at -= 1;
        room[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        room[at] = b'-';
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for number in [0, 1, -1, 9, 10, -10, 123_456_789, i64::MAX, i64::MIN, i64::MAX - 1] {
            let mut room = [0; LONGEST];
            let at = format(number, &mut room);
            assert_eq!(&room[at..], number.to_string().as_bytes());
            assert_eq!(parse(&room[at..]), Some(number));
        }
    }

    #[test]
    fn only_plain_decimals_are_numbers() {
        for text in [
            "",
            "-",
            "-0",
            "00",
            "01",
            "+1",
            " 1",
            "1 ",
            "1.0",
            "0x1",
            "9223372036854775808",
            "-9223372036854775809",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(&[b'9'; 1000]), None);
        assert_eq!(parse(b"99999999999999999999"), None);
    }
}
