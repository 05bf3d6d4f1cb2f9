//! What the application has pushed and the peer has not acknowledged, where it lies.
//!
//! Invariants: the buffers are the application's own, kept until their last byte is acknowledged. A push completes when
//! its bytes are acknowledged, in order; one that is small, with no other pending, at once.

use std::collections::VecDeque;

use demi_api::error::Error;
use demi_api::libos::Cx;
use demi_api::memalloc::{Buf, Heap};
use demi_api::op::{Done, Position};
use demi_api::sga::SgArray;
use demi_api::token::QToken;

use super::small::{self, FEW};

#[derive(Debug, Default)]
pub(crate) struct SendBuffer {
    /// From the first byte that is not acknowledged. None is empty.
    chunks: VecDeque<Buf>,
    /// Bytes in them.
    len: u64,
    /// Of these, bytes that have been sent at least once.
    sent: u64,
    /// Where the first byte that was never sent lies: which chunk, and where in it.
    next: (usize, usize),
    /// Bytes acknowledged since the connection began.
    acked: u64,
    /// Pushes that have not completed.
    pushes: VecDeque<Push>,
}

/// A push that has not completed: where its bytes begin and end, counted since the connection began. They lie in chunks
/// of their own.
#[derive(Clone, Copy, Debug)]
struct Push {
    begin: u64,
    end: u64,
    token: QToken,
}

impl SendBuffer {
    /// Bytes not acknowledged.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes never sent.
    #[inline]
    pub(crate) fn unsent(&self) -> u64 {
        self.len - self.sent
    }

    /// Bytes acknowledged since the connection began.
    #[inline]
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    pub(crate) fn has_pushes(&self) -> bool {
        !self.pushes.is_empty()
    }

    /// Takes an array's bytes in. The push completes when they are acknowledged.
    pub(crate) fn append(&mut self, sga: &mut SgArray, token: QToken) {
        let begin = self.acked + self.len;
        self.append_done(sga);
        self.pushes.push_back(Push { begin, end: self.acked + self.len, token });
    }

    /// Takes in the bytes of an array whose push is done.
    #[inline]
    pub(crate) fn append_done(&mut self, sga: &mut SgArray) {
        sga.drain_to(|chunk| {
            if !chunk.is_empty() {
                self.len += chunk.len() as u64;
                self.chunks.push_back(chunk);
            }
        });
    }

    /// The same for a small array, behind pushes that are all done: when many wait, they are copied together.
    #[inline(never)]
    pub(crate) fn append_small(&mut self, heap: &Heap, sga: &mut SgArray) {
        if self.chunks.len() < FEW {
            return self.append_done(sga);
        }
        sga.drain_to(|chunk| {
            let place = self.chunks.len() - 1;
            let both = self.chunks.back().and_then(|last| small::join(heap, last, &chunk));
            self.len += chunk.len() as u64;
            match both {
                Some(both) => {
                    if self.next.0 > place {
                        self.next = (place, both.len() - chunk.len());
                    }
                    self.chunks[place] = both;
                }
                None if chunk.is_empty() => {}
                None => self.chunks.push_back(chunk),
            }
        });
    }

    /// Takes in a small array that was sent just now, behind pushes that are all done and sent.
    #[inline(always)]
    pub(crate) fn append_sent(&mut self, heap: &Heap, sga: &mut SgArray) {
        debug_assert!(self.unsent() == 0, "nothing is sent before what comes before it");
        match sga.take_single() {
            Some(chunk) if self.chunks.len() < FEW => {
                self.len += chunk.len() as u64;
                self.chunks.push_back(chunk);
            }
            Some(chunk) => self.append_small(heap, &mut chunk.into()),
            // All of it, with the box that its segments lie in.
            None => self.append_small(heap, &mut std::mem::take(sga)),
        }
        self.sent = self.len;
        self.next = (self.chunks.len(), 0);
    }

    /// Takes a push back of which nothing was sent. False: it cannot be recalled.
    pub(crate) fn recall(&mut self, token: QToken) -> bool {
        let Some(place) = self.pushes.iter().position(|push| push.token == token) else { return false };
        let Push { begin, end, .. } = self.pushes[place];
        if begin < self.acked + self.sent {
            return false;
        }
        self.pushes.remove(place);
        let len = end - begin;
        for push in self.pushes.range_mut(place..) {
            push.begin -= len;
            push.end -= len;
        }
        self.len -= len;
        let mut at = 0;
        let mut first = 0;
        while at < begin - self.acked {
            at += self.chunks[first].len() as u64;
            first += 1;
        }
        let mut last = first;
        let mut rest = len;
        while rest > 0 {
            rest -= self.chunks[last].len() as u64;
            last += 1;
        }
        self.chunks.drain(first..last);
        true
    }

    /// The peer has acknowledged `count` more bytes.
    #[inline(always)]
    pub(crate) fn ack(&mut self, cx: &mut Cx<'_>, count: u64) {
        debug_assert!(count <= self.sent, "only what was sent is acknowledged");
        self.acked += count;
        if count == self.len {
            // What was pushed last, mostly, and nothing else.
            (self.len, self.sent, self.next) = (0, 0, (0, 0));
            drop(self.chunks.pop_front());
            if !self.chunks.is_empty() {
                self.chunks.clear();
            }
        } else {
            self.len -= count;
            self.sent -= count;
            self.drop_chunks(count as usize);
        }
        if !self.pushes.is_empty() {
            self.complete_pushes(cx);
        }
    }

    /// Drops so many bytes from the front.
    #[inline(never)]
    fn drop_chunks(&mut self, mut rest: usize) {
        while rest > 0 {
            let Some(first) = self.chunks.front_mut() else { break };
            if first.len() > rest {
                first.advance(rest);
                if self.next.0 == 0 {
                    self.next.1 -= rest;
                }
                break;
            }
            rest -= first.len();
            self.chunks.pop_front();
            self.next = if self.next.0 == 0 { (0, 0) } else { (self.next.0 - 1, self.next.1) };
        }
    }

    /// Completes the pushes that are acknowledged.
    #[inline(never)]
    fn complete_pushes(&mut self, cx: &mut Cx<'_>) {
        while let Some(push) = self.pushes.front().copied() {
            if push.end > self.acked {
                break;
            }
            self.pushes.pop_front();
            cx.done.post(push.token, Ok(Done::Pushed(Position(0))));
        }
    }

    /// The connection is over: nothing will be acknowledged any more.
    pub(crate) fn fail(&mut self, cx: &mut Cx<'_>, error: &Error) {
        for push in self.pushes.drain(..) {
            cx.done.post(push.token, Err(error.clone()));
        }
        self.chunks.clear();
        (self.len, self.sent, self.next) = (0, 0, (0, 0));
    }

    /// The bytes from `from` behind the first unacknowledged one, `len` of them, which must be there.
    #[inline]
    pub(crate) fn range(&self, from: u64, len: usize) -> Range<'_> {
        if from == self.sent {
            return Range { chunks: &self.chunks, place: self.next.0, offset: self.next.1, len };
        }
        let mut rest = from as usize;
        let mut place = 0;
        while place < self.chunks.len() && rest >= self.chunks[place].len() {
            rest -= self.chunks[place].len();
            place += 1;
        }
        Range { chunks: &self.chunks, place, offset: rest, len }
    }

    /// Whether it keeps memory, whatever for.
    #[inline]
    pub(crate) fn has_slack(&self) -> bool {
        self.chunks.capacity() > 0 || self.pushes.capacity() > 0
    }

    /// Keeps no more memory than it needs.
    pub(crate) fn rest(&mut self) {
        self.chunks.shrink_to_fit();
        self.pushes.shrink_to_fit();
    }

    /// Notes that the next `count` bytes have been sent for the first time.
    #[inline]
    pub(crate) fn note_sent(&mut self, count: usize) {
        self.sent += count as u64;
        let (mut place, mut offset) = (self.next.0, self.next.1 + count);
        while let Some(chunk) = self.chunks.get(place)
            && offset >= chunk.len()
        {
            offset -= chunk.len();
            place += 1;
        }
        self.next = (place, offset);
    }
}

/// Bytes of the send buffer, cut where its chunks are.
#[derive(Clone, Copy)]
pub(crate) struct Range<'a> {
    chunks: &'a VecDeque<Buf>,
    place: usize,
    offset: usize,
    len: usize,
}

impl Range<'_> {
    /// The chunk that all of them lie in, as they mostly do. None for no bytes.
    #[inline]
    fn whole(&self) -> Option<&Buf> {
        self.chunks.get(self.place).filter(|chunk| self.len > 0 && chunk.len() - self.offset >= self.len)
    }

    /// A reference to them, if they lie in one chunk.
    #[inline]
    pub(crate) fn single(self) -> Option<Buf> {
        self.whole().map(|chunk| chunk.slice(self.offset..self.offset + self.len))
    }

    /// How many chunks they lie in.
    #[inline]
    pub(crate) fn pieces(self) -> usize {
        if self.whole().is_some() {
            return 1;
        }
        let (mut rest, mut count, mut offset) = (self.len, 0, self.offset);
        for chunk in self.chunks.range(self.place..) {
            if rest == 0 {
                break;
            }
            rest -= rest.min(chunk.len() - offset);
            offset = 0;
            count += 1;
        }
        count
    }

    /// Copies them to the front of `out`.
    #[inline]
    pub(crate) fn copy_to(self, mut out: &mut [u8]) {
        out = &mut out[..self.len];
        let mut offset = self.offset;
        for chunk in self.chunks.range(self.place..) {
            let part = out.len().min(chunk.len() - offset);
            let (here, rest) = out.split_at_mut(part);
            here.copy_from_slice(&chunk[offset..offset + part]);
            out = rest;
            offset = 0;
            if out.is_empty() {
                break;
            }
        }
    }

    /// References to them: at most as many as [`Range::pieces`] says, which must fit an array.
    #[inline]
    pub(crate) fn share(self) -> SgArray {
        if let Some(chunk) = self.single() {
            return chunk.into();
        }
        let (mut rest, mut offset) = (self.len, self.offset);
        let mut sga = SgArray::new();
        for chunk in self.chunks.range(self.place..) {
            if rest == 0 {
                break;
            }
            let part = rest.min(chunk.len() - offset);
            if sga.push(chunk.slice(offset..offset + part)).is_err() {
                break;
            }
            rest -= part;
            offset = 0;
        }
        sga
    }
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::HeapConfig;
    use demi_api::time::Instant;
    use demi_api::token::Completions;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Append(Vec<usize>, bool),
        Send(usize),
        Ack(usize),
        Look(usize, usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (prop::collection::vec(0..40usize, 0..5), any::<bool>())
                .prop_map(|(lens, small)| Step::Append(lens, small)),
            (0..60usize).prop_map(Step::Send),
            (0..60usize).prop_map(Step::Ack),
            (0..80usize, 0..80usize).prop_map(|(from, len)| Step::Look(from, len)),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn agrees_with_a_string_of_bytes(steps in steps()) {
            let heap = Heap::new(&HeapConfig { size: 4 << 20, lock: false, ..HeapConfig::default() }).unwrap();
            let mut done = Completions::new(16);
            let mut rng = fastrand::Rng::with_seed(1);
            let mut cx = Cx { heap: &heap, now: Instant::default(), rng: &mut rng, done: &mut done };
            let mut buffer = SendBuffer::default();
            let (mut bytes, mut sent, mut fill) = (Vec::new(), 0, 0u8);
            for step in steps {
                match step {
                    Step::Append(lens, small) => {
                        let mut sga = SgArray::new();
                        for len in lens {
                            let part: Vec<u8> = (0..len).map(|_| { fill = fill.wrapping_add(1); fill }).collect();
                            bytes.extend(&part);
                            sga.push(heap.copy_from(&part).unwrap()).unwrap();
                        }
                        if small {
                            buffer.append_small(&heap, &mut sga);
                        } else {
                            buffer.append_done(&mut sga);
                        }
                    }
                    Step::Send(count) => {
                        let count = count.min(bytes.len() - sent);
                        buffer.note_sent(count);
                        sent += count;
                    }
                    Step::Ack(count) => {
                        let count = count.min(sent);
                        buffer.ack(&mut cx, count as u64);
                        bytes.drain(..count);
                        sent -= count;
                    }
                    Step::Look(from, len) => {
                        // From anywhere, and from what was never sent.
                        for from in [from.min(bytes.len()), sent] {
                            let len = len.min(bytes.len() - from);
                            let range = buffer.range(from as u64, len);
                            let mut copy = vec![0; len];
                            range.copy_to(&mut copy);
                            prop_assert_eq!(&copy[..], &bytes[from..from + len]);
                            if range.pieces() <= demi_api::sga::MAX_SEGMENTS {
                                prop_assert_eq!(range.share().to_vec(), copy);
                            }
                        }
                    }
                }
                prop_assert_eq!((buffer.len(), buffer.unsent()), (bytes.len() as u64, (bytes.len() - sent) as u64));
            }
            drop(buffer);
            prop_assert_eq!(heap.stats().objects_live, 0);
        }
    }
}
