//! Buffers: what can be written, what is shared, and what keeps an object alive.

use crate::heap;
use demi_memalloc::{Buf, BufMut, Heap};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn filled(heap: &Heap, len: usize) -> BufMut {
    let mut buf = heap.alloc(len).unwrap();
    buf.iter_mut().zip(0..).for_each(|(byte, index)| *byte = index);
    buf
}

fn panics(action: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(action)).is_err()
}

#[test]
fn slices_keep_the_object() {
    let heap = heap(2 << 20);
    let buf = filled(&heap, 100).freeze();
    let slice = buf.slice(10..20);
    assert!(slice.shares_object_with(&buf) && slice.offset() == buf.offset() + 10);
    drop(buf);
    assert_eq!(slice[..], [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    assert_eq!((slice.slice(..=1)[..].to_vec(), slice.slice(9..)[..].to_vec()), (vec![10, 11], vec![19]));
    assert_eq!(heap.stats().objects_live, 1);
    drop(slice);
    assert_eq!(heap.stats().objects_live, 0);
}

#[test]
fn parts_of_a_shared_buffer() {
    let heap = heap(2 << 20);
    let mut rest = filled(&heap, 10).freeze();
    let front = rest.split_to(4);
    assert_eq!((&front[..], &rest[..]), (&[0, 1, 2, 3][..], &[4, 5, 6, 7, 8, 9][..]));
    rest.advance(1);
    rest.truncate(2);
    rest.truncate(5);
    assert_eq!(rest[..], [5, 6]);
    assert!(panics(|| drop(rest.slice(1..3))) && panics(|| drop(rest.slice(..=usize::MAX))));
    assert!(panics(|| rest.clone().advance(3)) && panics(|| drop(rest.clone().split_to(3))));
    drop((front, rest));
    assert_eq!(heap.stats().objects_live, 0);
}

#[test]
fn unique_ranges_of_one_object_are_written_apart() {
    let heap = heap(2 << 20);
    let mut back = filled(&heap, 100);
    let mut front = back.split_to(40);
    assert_eq!((front.capacity(), back.capacity()), (40, 60), "neither can grow into the other");
    assert!(panics(|| front.set_len(41)) && panics(|| back.set_len(61)));
    front.fill(1);
    back.fill(2);
    assert!(front.iter().all(|&byte| byte == 1) && back.iter().all(|&byte| byte == 2));

    let shared = front.freeze();
    back.fill(3);
    assert_eq!(shared[39], 1);
    drop(shared);
    assert_eq!(back.capacity(), 128 - 40, "alone, it can grow to the end of the object");
    back.set_len(88);
    back.fill(4);
    drop(back);
    assert_eq!(heap.stats().objects_live, 0);
}

#[test]
fn a_unique_buffer_changes_its_length() {
    let heap = heap(2 << 20);
    let mut buf = filled(&heap, 100);
    buf.advance(10);
    buf.truncate(20);
    assert_eq!((buf.len(), buf.capacity(), buf[0], buf[19]), (20, 118, 10, 29));
    buf.set_len(118);
    assert_eq!(buf[89], 99, "what was cut off is still there");
    assert!(panics(|| buf.set_len(119)) && panics(|| buf.advance(119)));
    assert!(panics(|| drop(buf.split_to(119))));
}

#[test]
fn only_the_last_reference_becomes_writable() {
    let heap = heap(2 << 20);
    let buf = filled(&heap, 10).freeze();
    let other = buf.clone();
    let buf = buf.try_into_mut().expect_err("it is shared");
    drop(other);
    let mut unique = buf.try_into_mut().expect("it is not shared any more");
    unique[0] = 9;
    assert_eq!(unique.freeze()[..2], [9, 1]);
}

#[test]
fn an_empty_buffer_needs_no_heap() {
    let empty = Buf::default();
    assert!(empty.is_empty() && empty[..].is_empty() && empty.offset() == 0);
    let clone = empty.clone();
    assert!(!clone.shares_object_with(&empty) && clone.slice(..).is_empty());
    assert_eq!(clone.try_into_mut().unwrap().capacity(), 0);
    assert!(empty.into_remote().is_err());
}

#[test]
fn buffers_show_what_they_hold() {
    let heap = heap(2 << 20);
    assert_eq!(format!("{:?}", heap.copy_from(b"GET\r\n").unwrap()), r"Buf(5 B: GET\r\n)");
    assert_eq!(format!("{:?}", heap.copy_from(&[b'x'; 17]).unwrap()), "Buf(17 B: xxxxxxxxxxxxxxxx…)");
}

#[test]
fn copies_are_counted() {
    let heap = heap(2 << 20);
    let pieces = [heap.copy_from(b"one ").unwrap(), Buf::empty(), heap.copy_from(b"two").unwrap()];
    let whole = heap.join(pieces.iter()).unwrap();
    assert_eq!(&whole[..], b"one two");
    let stats = heap.stats();
    assert_eq!((stats.foreign_copies, stats.foreign_bytes), (2, 7));
    assert_eq!((stats.joins, stats.joined_bytes), (1, 7));
}
