//! Replies: gathered in heap memory, cut into as few arrays as possible.
//!
//! Invariant: memory for small replies comes from a reserve that stored values cannot use up, so that a server out
//! of memory can still say so.
//!
//! A value above the threshold becomes a segment of its own, the stored buffer itself. An array holds few segments and
//! a push costs more than a copy of some kilobytes, so of many values asked for at once only the first few are sent
//! that way, unless they are larger than a buffer for replies.

use demi_api::memalloc::Pool;
use demi_api::sga::MAX_SEGMENTS;
use demi_api::{Buf, BufMut, Error, Heap, SgArray};

use super::number;

/// Bytes of a buffer that replies are gathered in; several clients' replies follow each other in it.
const ROOM: usize = 16 << 10;

/// An array with more segments than this takes up only values larger than [`ROOM`] as segments. What is left of it
/// holds as much text as is gathered before it is pushed.
const MOST_TO_SHARE: usize = 2;

/// With less room left than this, the next buffer is begun.
const LEAST_ROOM: usize = 64;

/// Replies on their way to one client.
pub(super) struct Replies {
    heap: Heap,
    reserve: Pool,
    /// Not handed out yet; the first `filled` bytes of it are written.
    room: BufMut,
    filled: usize,
    /// The array under construction.
    array: SgArray,
    /// Arrays that are full.
    ready: Vec<SgArray>,
    bytes: usize,
    copy_threshold: usize,
    starved: bool,
}

impl Replies {
    pub(super) fn new(heap: &Heap, copy_threshold: usize) -> Result<Replies, Error> {
        let buffers = (heap.region().len / 64 / ROOM).clamp(8, 256);
        let reserve = heap.pool(ROOM, buffers)?;
        let room = reserve.take().expect("a fresh pool has buffers");
        Ok(Replies {
            heap: heap.clone(),
            reserve,
            room,
            filled: 0,
            array: SgArray::new(),
            ready: Vec::new(),
            bytes: 0,
            copy_threshold,
            starved: false,
        })
    }

    /// Bytes that wait to be taken.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a reply was lost for want of memory, since this was asked last: its client must be closed.
    pub(super) fn take_starved(&mut self) -> bool {
        std::mem::take(&mut self.starved)
    }

    /// All that was written, as arrays to push in order.
    pub(super) fn take(&mut self) -> std::vec::Drain<'_, SgArray> {
        self.cut();
        self.close_array();
        self.bytes = 0;
        self.ready.drain(..)
    }

    /// Makes one array of all that was written, which takes a copy if it is several.
    pub(super) fn join(&mut self) {
        self.cut();
        if self.ready.is_empty() {
            return;
        }
        self.close_array();
        if let [_] = &self.ready[..] {
            return;
        }
        let joined = self.heap.alloc(self.bytes).map(|mut whole| {
            let mut at = 0;
            for segment in self.ready.iter().flat_map(SgArray::segments) {
                whole[at..at + segment.len()].copy_from_slice(segment);
                at += segment.len();
            }
            whole.freeze()
        });
        self.ready.clear();
        match joined {
            Ok(joined) => self.ready.push(joined.into()),
            Err(_) => self.starved = true,
        }
    }

    pub(super) fn status(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// `text` begins with the error's kind, such as `ERR`.
    pub(super) fn error(&mut self, text: &str) {
        if text.bytes().any(|byte| byte == b'\r' || byte == b'\n') {
            self.line(b'-', text.replace(['\r', '\n'], " ").as_bytes());
        } else {
            self.line(b'-', text.as_bytes());
        }
    }

    pub(super) fn integer(&mut self, value: i64) {
        self.number(b':', value);
    }

    pub(super) fn array(&mut self, elements: usize) {
        self.number(b'*', elements as i64);
    }

    /// No such value.
    pub(super) fn null(&mut self) {
        self.put(b"$-1\r\n");
    }

    /// A text, copied.
    pub(super) fn bulk(&mut self, text: &[u8]) {
        self.number(b'$', text.len() as i64);
        self.put(text);
        self.put(b"\r\n");
    }

    /// A stored value: copied if it is small, else sent from where it lies.
    pub(super) fn value(&mut self, value: &Buf) {
        let share = value.len() > ROOM || self.array.segments().len() <= MOST_TO_SHARE;
        if value.len() <= self.copy_threshold || !share {
            return self.bulk(value);
        }
        self.number(b'$', value.len() as i64);
        self.cut();
        self.segment(value.clone());
        self.bytes += value.len();
        self.put(b"\r\n");
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.put(&[kind]);
        self.put(text);
        self.put(b"\r\n");
    }

    fn number(&mut self, kind: u8, value: i64) {
        let mut line = [0; 1 + number::LONGEST + 2];
        let mut digits = [0; number::LONGEST];
        let at = number::format(value, &mut digits);
        let end = 1 + number::LONGEST - at;
        line[0] = kind;
        line[1..end].copy_from_slice(&digits[at..]);
        line[end..end + 2].copy_from_slice(b"\r\n");
        self.put(&line[..end + 2]);
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        match self.room.get_mut(self.filled..end) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.filled = end;
                self.bytes += bytes.len();
            }
            None => self.put_piecewise(bytes),
        }
    }

    #[cold]
    fn put_piecewise(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == self.room.len() && !self.begin_room() {
                return;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(self.room.len() - self.filled));
            self.room[self.filled..self.filled + part.len()].copy_from_slice(part);
            self.filled += part.len();
            self.bytes += part.len();
            bytes = rest;
        }
    }

    fn begin_room(&mut self) -> bool {
        self.cut();
        let room = self.reserve.take().or_else(|| self.heap.alloc(ROOM).ok());
        self.starved |= room.is_none();
        let found = room.is_some();
        if let Some(room) = room {
            self.room = room;
        }
        found
    }

    /// Makes a segment of what was written.
    fn cut(&mut self) {
        if self.filled > 0 {
            let part = self.room.split_to(self.filled).freeze();
            self.filled = 0;
            self.segment(part);
        }
        if self.room.len() < LEAST_ROOM
            && let Some(room) = self.reserve.take()
        {
            self.room = room;
        }
    }

    fn segment(&mut self, segment: Buf) {
        if self.array.segments().len() == MAX_SEGMENTS {
            self.close_array();
        }
        self.array.push(segment).expect("an array that is not full takes a segment");
    }

    fn close_array(&mut self) {
        if !self.array.segments().is_empty() {
            self.ready.push(std::mem::take(&mut self.array));
        }
    }
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::HeapConfig;

    use super::*;

    fn replies(heap: &Heap) -> Replies {
        Replies::new(heap, 512).unwrap()
    }

    fn heap() -> Heap {
        Heap::new(&HeapConfig { size: 8 << 20, ..HeapConfig::default() }).unwrap()
    }

    fn bytes(replies: &mut Replies) -> Vec<u8> {
        let expected = replies.bytes();
        let bytes: Vec<u8> = replies.take().flat_map(|sga| sga.to_vec()).collect();
        assert_eq!(bytes.len(), expected);
        bytes
    }

    #[test]
    fn replies_gather_in_one_segment() {
        let heap = heap();
        let mut replies = replies(&heap);
        replies.status("OK");
        replies.integer(-42);
        replies.null();
        replies.array(2);
        replies.bulk(b"a\r\nb");
        replies.error("ERR two\r\nlines");
        assert_eq!(replies.array.segments().len(), 0);
        assert_eq!(bytes(&mut replies), b"+OK\r\n:-42\r\n$-1\r\n*2\r\n$4\r\na\r\nb\r\n-ERR two  lines\r\n");
        assert_eq!(replies.take().count(), 0);
    }

    #[test]
    fn of_many_values_the_first_are_shared() {
        let heap = heap();
        let mut replies = replies(&heap);
        let value = heap.copy_from(&[b'v'; 4000]).unwrap();
        for _ in 0..16 {
            replies.value(&value);
        }
        let arrays: Vec<SgArray> = replies.take().collect();
        assert_eq!(arrays.len(), 1);
        let shared = arrays[0].segments().iter().filter(|it| it.shares_object_with(&value));
        assert_eq!(shared.count(), 2);
        assert_eq!(arrays[0].to_vec(), [&b"$4000\r\n"[..], &value, b"\r\n"].concat().repeat(16));
    }

    #[test]
    fn a_message_is_one_array() {
        let heap = heap();
        let mut replies = replies(&heap);
        let value = heap.copy_from(&[b'v'; 20_000]).unwrap();
        (0..10).for_each(|_| replies.value(&value));
        let expected = [&b"$20000\r\n"[..], &value, b"\r\n"].concat();
        replies.join();
        let arrays: Vec<SgArray> = replies.take().collect();
        assert_eq!(arrays.len(), 1);
        assert_eq!(arrays[0].to_vec(), expected.repeat(10));
        // What fits into one array stays where it is.
        replies.value(&value);
        replies.join();
        let arrays: Vec<SgArray> = replies.take().collect();
        assert!(arrays.len() == 1 && arrays[0].segments()[1].shares_object_with(&value));
    }

    #[test]
    fn large_values_are_not_copied() {
        let heap = heap();
        let mut replies = replies(&heap);
        let value = heap.copy_from(&[b'v'; ROOM + 1]).unwrap();
        for _ in 0..10 {
            replies.value(&value);
        }
        let arrays: Vec<SgArray> = replies.take().collect();
        assert_eq!(arrays.len(), 3, "ten values and the text between them make 21 segments");
        let shared = arrays.iter().flat_map(|sga| sga.segments()).filter(|it| it.shares_object_with(&value));
        assert_eq!(shared.count(), 10);
        let text: Vec<u8> = arrays.iter().flat_map(|sga| sga.to_vec()).collect();
        assert_eq!(text, [&b"$16385\r\n"[..], &value, b"\r\n"].concat().repeat(10));
    }

    #[test]
    fn texts_longer_than_a_buffer_are_whole() {
        let heap = heap();
        let mut replies = replies(&heap);
        let text: Vec<u8> = (0..ROOM * 3 + 7).map(|n| n as u8).collect();
        replies.bulk(&text);
        assert_eq!(bytes(&mut replies), [format!("${}\r\n", text.len()).as_bytes(), &text, b"\r\n"].concat());
    }

    #[test]
    fn the_reserve_outlives_a_full_heap_and_then_says_so() {
        let heap = heap();
        let mut replies = replies(&heap);
        let hoard: Vec<BufMut> = std::iter::from_fn(|| heap.alloc(ROOM).ok()).collect();
        replies.error("OOM command not allowed when used memory > 'maxmemory'.");
        assert!(bytes(&mut replies).starts_with(b"-OOM"));
        replies.bulk(&vec![0; 8 << 20]);
        assert!(replies.take_starved());
        drop((hoard, replies.take().count()));
        replies.bulk(&vec![0; ROOM * 2]);
        assert!(!replies.take_starved());
    }
}
