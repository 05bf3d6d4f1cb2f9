//! Registration with devices: once each, and ended before the region is unmapped.

use crate::heap;
use demi_memalloc::{DmaError, DmaKey, DmaMap, MAX_DMA_MAPS, RegionInfo};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

#[derive(Debug, PartialEq)]
enum Event {
    Register(RegionInfo),
    Unregister(DmaKey),
}

type Log = Rc<RefCell<Vec<Event>>>;

struct Recording {
    log: Log,
    key: DmaKey,
}

impl DmaMap for Recording {
    fn register(&mut self, region: &RegionInfo) -> Result<DmaKey, DmaError> {
        if self.key == DmaKey(0) {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
        }
        self.log.borrow_mut().push(Event::Register(*region));
        Ok(self.key)
    }

    fn unregister(&mut self, key: DmaKey) {
        assert_eq!(key, self.key);
        self.log.borrow_mut().push(Event::Unregister(key));
    }
}

fn recording(log: &Log, key: u64) -> Box<Recording> {
    Box::new(Recording { log: Rc::clone(log), key: DmaKey(key) })
}

#[test]
fn devices_let_go_when_the_last_buffer_does() {
    let log = Log::default();
    let heap = heap(2 << 20);
    let region = heap.region();
    let (one, two) = (heap.attach(recording(&log, 1)).unwrap(), heap.attach(recording(&log, 2)).unwrap());
    assert_eq!((heap.key(one), heap.key(two)), (DmaKey(1), DmaKey(2)));
    let buf = heap.copy_from(b"in flight").unwrap();
    drop(heap);
    assert_eq!(*log.borrow(), [Event::Register(region), Event::Register(region)]);
    drop(buf);
    assert_eq!(log.borrow()[2..], [Event::Unregister(DmaKey(2)), Event::Unregister(DmaKey(1))]);
}

#[test]
fn a_place_is_free_again_after_detaching() {
    let log = Log::default();
    let heap = heap(2 << 20);
    let ids: Vec<_> =
        (1..=MAX_DMA_MAPS as u64).map(|key| heap.attach(recording(&log, key)).unwrap()).collect();
    assert!(matches!(heap.attach(recording(&log, 9)), Err(DmaError::TooMany(MAX_DMA_MAPS))));
    assert!(heap.detach(ids[1]).is_some());
    assert!(heap.detach(ids[1]).is_none());
    assert_eq!(log.borrow().last(), Some(&Event::Unregister(DmaKey(2))));
    let again = heap.attach(recording(&log, 9)).unwrap();
    assert_eq!((heap.key(again), heap.key(ids[0])), (DmaKey(9), DmaKey(1)));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| heap.key(ids[1]))).is_err());
}

#[test]
fn a_device_may_refuse() {
    let log = Log::default();
    let heap = heap(2 << 20);
    assert!(matches!(heap.attach(recording(&log, 0)), Err(DmaError::Refused(_))));
    drop(heap);
    assert!(log.borrow().is_empty());
}
