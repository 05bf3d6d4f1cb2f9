//! A request taken apart: where its arguments lie in its bytes.
//!
//! `frame` yields whole values of the protocol, cut where they end. What is checked here is that such a value is a
//! request: an array of bulk strings, or an inline command.

use std::fmt;

use demi_api::{Buf, Error, Heap, SgArray};

/// One whole request. Used for one after the other, for its memory's sake.
#[derive(Debug, Default)]
pub(super) struct Request {
    bytes: Buf,
    /// What `bytes` was made from, if it is not as it came in.
    quoted: Option<Buf>,
    /// Begin and end of each argument, the command's name being the first.
    args: Vec<(u32, u32)>,
}

/// A request that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Malformed {
    /// A value that starts with this byte in place of `*`: a reply, for instance.
    ExpectedArray(u8),
    /// An element that starts with this byte in place of `$`.
    ExpectedBulk(u8),
    /// A length that is none.
    BulkLength,
    UnbalancedQuotes,
    /// There is no memory to join or unquote it.
    NoMemory,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::ExpectedArray(got) => write!(f, "expected '*', got '{}'", got.escape_ascii()),
            Malformed::ExpectedBulk(got) => write!(f, "expected '$', got '{}'", got.escape_ascii()),
            Malformed::BulkLength => f.write_str("invalid bulk length"),
            Malformed::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            Malformed::NoMemory => f.write_str("no memory to read the request"),
        }
    }
}

impl From<Error> for Malformed {
    fn from(_: Error) -> Malformed {
        Malformed::NoMemory
    }
}

impl Request {
    /// How many arguments there are; none is a request to be ignored.
    pub(super) fn len(&self) -> usize {
        self.args.len()
    }

    /// An argument.
    ///
    /// # Panics
    /// When there are not so many.
    #[inline]
    pub(super) fn arg(&self, index: usize) -> &[u8] {
        let (start, end) = self.args[index];
        &self.bytes[start as usize..end as usize]
    }

    /// An argument where it lies.
    #[inline]
    pub(super) fn buf(&self, index: usize) -> Buf {
        let (start, end) = self.args[index];
        self.bytes.slice(start as usize..end as usize)
    }

    /// Every argument behind the first `skipped`.
    pub(super) fn rest(&self, skipped: usize) -> impl Iterator<Item = &[u8]> {
        (skipped..self.len()).map(|index| self.arg(index))
    }

    /// All of it as it came in, to be read once more.
    pub(super) fn bytes(&self) -> Buf {
        self.quoted.as_ref().unwrap_or(&self.bytes).clone()
    }

    /// Lets go of the bytes.
    pub(super) fn clear(&mut self) {
        self.bytes = Buf::empty();
        self.quoted = None;
        self.args.clear();
    }

    /// Takes in the next request, out of the array that it came in. One that came in several pieces is joined in
    /// memory of its own size.
    pub(super) fn read(&mut self, heap: &Heap, message: &mut SgArray) -> Result<(), Malformed> {
        self.args.clear();
        self.quoted = None;
        self.bytes = match message.segments().len() {
            1 => std::mem::take(&mut message.segments_mut()[0]),
            _ => std::mem::take(message).into_contiguous(heap)?,
        };
        match self.bytes.first() {
            Some(b'*') => self.read_array(),
            Some(sign @ (b'$' | b':' | b'+' | b'-')) => Err(Malformed::ExpectedArray(*sign)),
            _ => self.read_inline(heap),
        }
    }

    fn read_array(&mut self) -> Result<(), Malformed> {
        let bytes = &self.bytes[..];
        let (_, mut at) = line_number(bytes, 1)?;
        while at < bytes.len() {
            if bytes[at] != b'$' {
                return Err(Malformed::ExpectedBulk(bytes[at]));
            }
            let (len, start) = line_number(bytes, at + 1)?;
            let len = usize::try_from(len).map_err(|_| Malformed::BulkLength)?;
            let end =
                start.checked_add(len).filter(|end| *end <= bytes.len()).ok_or(Malformed::BulkLength)?;
            self.args.push((start as u32, end as u32));
            at = end + 2;
        }
        Ok(())
    }

    fn read_inline(&mut self, heap: &Heap) -> Result<(), Malformed> {
        let line = self.bytes.trim_ascii();
        if !line.iter().any(|byte| matches!(byte, b'"' | b'\'')) {
            let base = self.bytes.as_ptr().addr();
            for word in line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
                let start = word.as_ptr().addr() - base;
                self.args.push((start as u32, (start + word.len()) as u32));
            }
            return Ok(());
        }
        let mut text = Vec::with_capacity(line.len());
        unquote(line, &mut text, &mut self.args)?;
        let text = heap.copy_from(&text).map_err(Error::from)?;
        self.quoted = Some(std::mem::replace(&mut self.bytes, text));
        Ok(())
    }
}

/// The number that stands at `at` and ends its line, and where the next line begins.
#[inline]
fn line_number(bytes: &[u8], at: usize) -> Result<(i64, usize), Malformed> {
    let mut value = 0_i64;
    let mut end = at;
    let negative = bytes.get(at) == Some(&b'-');
    end += usize::from(negative);
    while let Some(digit @ b'0'..=b'9') = bytes.get(end) {
        value = value.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
        end += 1;
    }
    if bytes.get(end..end + 2) != Some(b"\r\n") {
        return Err(Malformed::BulkLength);
    }
    Ok((if negative { -value } else { value }, end + 2))
}

/// Splits a line at its spaces. Within double quotes, escapes as in C stand for bytes; within single ones, only the
/// quote itself is escaped. A quote ends its word.
fn unquote(line: &[u8], text: &mut Vec<u8>, args: &mut Vec<(u32, u32)>) -> Result<(), Malformed> {
    let mut rest = line.iter().copied().peekable();
    loop {
        while rest.next_if(u8::is_ascii_whitespace).is_some() {}
        if rest.peek().is_none() {
            return Ok(());
        }
        let start = text.len() as u32;
        while let Some(byte) = rest.next_if(|byte| !byte.is_ascii_whitespace()) {
            if !matches!(byte, b'"' | b'\'') {
                text.push(byte);
                continue;
            }
            loop {
                match rest.next().ok_or(Malformed::UnbalancedQuotes)? {
                    end if end == byte => break,
                    b'\\' => {
                        let escaped = rest.next().ok_or(Malformed::UnbalancedQuotes)?;
                        match (byte, escaped) {
                            (b'"', b'x') => {
                                let mut digit = || rest.next_if(u8::is_ascii_hexdigit).map(hex);
                                match (digit(), digit()) {
                                    (Some(high), Some(low)) => text.push(high << 4 | low),
                                    (Some(low), None) => text.push(low),
                                    _ => text.push(b'x'),
                                }
                            }
                            (b'"', b'n') => text.push(b'\n'),
                            (b'"', b'r') => text.push(b'\r'),
                            (b'"', b't') => text.push(b'\t'),
                            (b'"', b'a') => text.push(0x07),
                            (b'"', b'b') => text.push(0x08),
                            (b'\'', other) if other != b'\'' => text.extend([b'\\', other]),
                            (_, other) => text.push(other),
                        }
                    }
                    other => text.push(other),
                }
            }
            if rest.peek().is_some_and(|next| !next.is_ascii_whitespace()) {
                return Err(Malformed::UnbalancedQuotes);
            }
        }
        args.push((start, text.len() as u32));
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::HeapConfig;

    use super::*;

    fn read(text: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
        let heap = Heap::new(&HeapConfig { size: 4 << 20, ..HeapConfig::default() }).unwrap();
        let mut request = Request::default();
        request.read(&heap, &mut heap.copy_from(text).unwrap().into())?;
        Ok(request.rest(0).map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn arrays_of_bulk_strings() {
        assert_eq!(read(b"*2\r\n$3\r\nGET\r\n$5\r\na\r\nbc\r\n").unwrap(), [&b"GET"[..], b"a\r\nbc"]);
        assert_eq!(read(b"*1\r\n$0\r\n\r\n").unwrap(), [b""]);
        assert!(read(b"*0\r\n").unwrap().is_empty());
        assert!(read(b"*-1\r\n").unwrap().is_empty());
        assert_eq!(read(b"$4\r\nPING\r\n"), Err(Malformed::ExpectedArray(b'$')));
        assert_eq!(read(b"*1\r\n:5\r\n"), Err(Malformed::ExpectedBulk(b':')));
        assert_eq!(read(b"*1\r\n$-1\r\n"), Err(Malformed::BulkLength));
        assert_eq!(read(b"*1\r\n$9\r\nabc\r\n"), Err(Malformed::BulkLength));
    }

    #[test]
    fn inline_commands() {
        assert_eq!(read(b"  SET a\tb \r\n").unwrap(), [b"SET", &b"a"[..], b"b"]);
        assert!(read(b"\r\n").unwrap().is_empty());
        assert_eq!(
            read(b"SET \"a b\" 'c\\'d\\n' \"\\x41\\n\\\"\"\n").unwrap(),
            [b"SET", &b"a b"[..], b"c'd\\n", b"A\n\""]
        );
        assert_eq!(read(b"SET '' x\n").unwrap()[1], b"");
        for bad in [&b"SET \"a"[..], b"SET 'a\\", b"SET \"a\"b"] {
            assert_eq!(read(bad), Err(Malformed::UnbalancedQuotes));
        }
    }

    #[test]
    fn pieces_are_joined() {
        let heap = Heap::new(&HeapConfig { size: 4 << 20, ..HeapConfig::default() }).unwrap();
        let pieces = [&b"*1\r\n$"[..], b"4\r", b"\nPING\r\n"];
        let mut sga: SgArray = pieces.iter().map(|piece| heap.copy_from(piece).unwrap()).collect();
        let mut request = Request::default();
        request.read(&heap, &mut sga).unwrap();
        assert_eq!((request.len(), request.arg(0)), (1, &b"PING"[..]));
        request.clear();
        assert_eq!(heap.stats().objects_live, 0);
    }
}
