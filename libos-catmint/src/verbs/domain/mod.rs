//! What all queue pairs of an instance share, and the heap's registration.

#[allow(unsafe_code, reason = "each block states its proof")]
pub(super) mod raw;

use std::cell::RefCell;
use std::rc::Rc;

use demi_api::memalloc::{DmaError, DmaKey, DmaMap, Heap, MapId, RegionInfo};

use self::raw::{Domain, Registration, Rights};

/// The heap, registered for local access, and for windows if there are any, as long as this lives.
pub(super) struct Attached {
    heap: Heap,
    id: MapId,
    /// `None` only while this is dropped: then the heap's own count is the last one.
    registration: Option<Rc<Registration>>,
}

impl Attached {
    pub(super) fn new(heap: &Heap, domain: &Rc<Domain>, windows: bool) -> Result<Attached, DmaError> {
        let made = Rc::new(RefCell::new(None));
        let map = Map { domain: Rc::clone(domain), windows, own: None, made: Rc::clone(&made) };
        let id = heap.attach(Box::new(map))?;
        let registration = made.borrow_mut().take();
        Ok(Attached { heap: heap.clone(), id, registration })
    }

    #[inline]
    pub(super) fn registration(&self) -> &Rc<Registration> {
        self.registration.as_ref().expect("there is one until this is dropped")
    }

    pub(super) fn heap(&self) -> &Heap {
        &self.heap
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.registration = None;
        self.heap.detach(self.id);
    }
}

struct Map {
    domain: Rc<Domain>,
    windows: bool,
    own: Option<Rc<Registration>>,
    /// Where whoever attaches finds it.
    made: Rc<RefCell<Option<Rc<Registration>>>>,
}

impl DmaMap for Map {
    fn register(&mut self, region: &RegionInfo) -> Result<DmaKey, DmaError> {
        let rights = Rights { window: self.windows, ..Rights::default() };
        let made = Registration::new(&self.domain, region.base, region.len, rights)
            .map_err(|errno| DmaError::Refused(errno.into()))?;
        let made = Rc::new(made);
        *self.made.borrow_mut() = Some(Rc::clone(&made));
        let key = DmaKey(made.local().into());
        self.own = Some(made);
        Ok(key)
    }

    fn unregister(&mut self, _key: DmaKey) {
        self.own = None;
    }
}
