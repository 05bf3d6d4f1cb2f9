//! Bare pointers: what a C program or a device may do with them, and what is noticed when it may not.

use crate::heap;
use demi_memalloc::{DmaError, DmaKey, DmaMap, RegionInfo};
use std::cell::RefCell;
#[cfg(debug_assertions)]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

#[test]
fn a_pointer_from_c_is_pushed_and_freed() {
    let heap = heap(2 << 20);
    let ptr = heap.alloc(1000).unwrap().into_raw().as_ptr();
    assert_eq!(heap.stats().objects_live, 1);
    // SAFETY: 1000 bytes from `ptr` are the object's, whose reference was let go of just now: nobody else has it.
    unsafe { ptr.write_bytes(7, 1000) };

    // SAFETY: nobody writes to these bytes while `pushed` lives.
    let pushed = unsafe { heap.share(ptr.add(10), 90) }.expect("it is in the heap");
    assert_eq!((pushed.len(), pushed[0], pushed[89]), (90, 7, 7));

    // SAFETY: the reference of the allocation is outstanding; this is `free`.
    drop(unsafe { heap.adopt(ptr, 0) }.expect("it is live"));
    assert_eq!((heap.stats().objects_live, pushed[45]), (1, 7), "freed in flight, and still there");
    drop(pushed);
    assert_eq!(heap.stats().objects_live, 0);
    // SAFETY: nothing is adopted when nothing is live.
    assert!(unsafe { heap.adopt(ptr, 0) }.is_none());
}

#[test]
fn only_whole_ranges_of_live_objects_are_shared() {
    let heap = heap(2 << 20);
    let buf = heap.alloc(100).unwrap().freeze();
    let foreign = [0u8; 8];
    // SAFETY: nobody writes to any of these bytes.
    unsafe {
        assert!(heap.share(buf.as_ptr(), 128).is_some());
        assert!(heap.share(buf.as_ptr(), 129).is_none());
        assert!(heap.share(buf.as_ptr().wrapping_add(127), 1).is_some());
        assert!(heap.share(buf.as_ptr().wrapping_add(127), 2).is_none());
        assert!(heap.share(foreign.as_ptr(), 1).is_none());
        assert!(heap.share(heap.region().base.wrapping_add(1 << 20), 1).is_none());
    }
    assert!(buf.try_into_mut().is_ok(), "no reference is left over");
}

#[test]
fn a_device_gives_a_buffer_back_for_writing() {
    let heap = heap(2 << 20);
    let pool = heap.pool(2048, 4).unwrap();
    let ptr = pool.take().unwrap().into_raw().as_ptr();
    assert_eq!(pool.available(), 3);
    // SAFETY: the device has the buffer; nobody else does.
    unsafe { ptr.add(256).write_bytes(9, 60) };
    // SAFETY: the reference that `into_raw` let go of, once, and there is no other buffer in the object.
    let mut frame = unsafe { heap.adopt_mut(ptr.add(256), 60) }.unwrap();
    assert_eq!((frame.len(), frame.capacity(), frame[59]), (60, 2048 - 256, 9));
    frame.fill(1);
    drop(frame);
    assert_eq!(pool.available(), 4);
}

#[test]
#[cfg(debug_assertions)]
fn writing_after_the_release_is_detected_and_named() {
    let heap = heap(2 << 20);
    for (len, at) in [(64, 0), (1500, 1000), (100_000, 99_999), (300_000, 5)] {
        let mut buf = heap.alloc(len).unwrap();
        let (ptr, offset) = (buf.as_mut_ptr(), buf.offset());
        drop(buf);
        // SAFETY: none: this is the mistake. The memory is mapped, and no reference to it exists.
        unsafe { ptr.add(at).write(0) };
        let panic = catch_unwind(AssertUnwindSafe(|| heap.alloc(len))).expect_err("the write is noticed");
        let message = panic.downcast::<String>().unwrap();
        assert!(message.starts_with(&format!("byte {} of the region", offset + at)), "{message}");
    }
}

#[test]
#[cfg(debug_assertions)]
fn what_is_handed_out_is_poisoned() {
    let heap = heap(2 << 20);
    heap.alloc(1000).unwrap().fill(0);
    for len in [1000, 64, 200_000] {
        assert!(heap.alloc(len).unwrap().iter().all(|&byte| byte == 0xDD));
    }
}

#[test]
fn the_region_is_mapped_while_a_device_is_told() {
    struct Reading(*const u8, Rc<RefCell<Option<u8>>>);
    impl DmaMap for Reading {
        fn register(&mut self, _: &RegionInfo) -> Result<DmaKey, DmaError> {
            Ok(DmaKey(7))
        }
        fn unregister(&mut self, _: DmaKey) {
            // SAFETY: the region is still mapped, if the heap keeps its promise, and there is no buffer left.
            *self.1.borrow_mut() = Some(unsafe { self.0.read() });
        }
    }
    let heap = heap(2 << 20);
    let seen = Rc::default();
    heap.attach(Box::new(Reading(heap.region().base, Rc::clone(&seen)))).unwrap();
    drop(heap);
    assert!(seen.borrow().is_some());
}
