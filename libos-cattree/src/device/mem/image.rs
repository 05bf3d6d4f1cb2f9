//! What a device in memory holds, shared with whoever wants to look at it, change it, or take changes back.

use std::cell::{Ref, RefCell};
use std::ops::Range;
use std::rc::Rc;

/// The bytes of a device. Clones share them, so an image outlives the devices that are opened on it.
///
/// Ranges are the caller's affair: every method panics on one that goes beyond the end.
#[derive(Clone, Debug)]
pub struct Image {
    content: Rc<RefCell<Content>>,
}

/// A state of an [`Image`] to come back to.
#[derive(Debug)]
#[must_use = "changes are kept in mind for as long as the mark is there"]
pub struct Mark {
    changes: usize,
    depth: usize,
}

#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    /// How many marks are set. Without one, changes are not kept in mind.
    marks: usize,
    /// Where changes were made since the first mark, oldest first.
    changes: Vec<Range<usize>>,
    /// What was there before, one change behind the other.
    before: Vec<u8>,
}

impl Image {
    /// An image with this content.
    pub fn new(bytes: Vec<u8>) -> Image {
        let content = Content { bytes, marks: 0, changes: Vec::new(), before: Vec::new() };
        Image { content: Rc::new(RefCell::new(content)) }
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.content.borrow().bytes.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The content. No device must be called while it is borrowed.
    pub fn bytes(&self) -> Ref<'_, [u8]> {
        Ref::map(self.content.borrow(), |content| &content.bytes[..])
    }

    /// A copy of the content.
    pub fn to_vec(&self) -> Vec<u8> {
        self.content.borrow().bytes.clone()
    }

    /// The content: itself if nobody shares it any more, otherwise a copy.
    pub fn into_vec(self) -> Vec<u8> {
        match Rc::try_unwrap(self.content) {
            Ok(content) => content.into_inner().bytes,
            Err(shared) => shared.borrow().bytes.clone(),
        }
    }

    /// Writes.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.edit(offset..offset + bytes.len(), |range| range.copy_from_slice(bytes));
    }

    /// Changes a range in place.
    pub fn edit(&self, range: Range<usize>, change: impl FnOnce(&mut [u8])) {
        let content = &mut *self.content.borrow_mut();
        if content.marks > 0 {
            content.before.extend_from_slice(&content.bytes[range.clone()]);
            content.changes.push(range.clone());
        }
        change(&mut content.bytes[range]);
    }

    /// Keeps in mind what is changed from now on, until [`rewind`](Image::rewind). Marks may be set within marks.
    pub fn mark(&self) -> Mark {
        let content = &mut *self.content.borrow_mut();
        content.marks += 1;
        Mark { changes: content.changes.len(), depth: content.marks }
    }

    /// Takes back all changes since the mark. The cost is that of the bytes changed, not of the image.
    ///
    /// # Panics
    /// If a mark that was set later is still there.
    pub fn rewind(&self, mark: Mark) {
        let content = &mut *self.content.borrow_mut();
        assert_eq!(content.marks, mark.depth, "marks are taken back in the reverse order");
        for range in content.changes.drain(mark.changes..).rev() {
            let start = content.before.len() - range.len();
            content.bytes[range].copy_from_slice(&content.before[start..]);
            content.before.truncate(start);
        }
        content.marks -= 1;
    }
}
