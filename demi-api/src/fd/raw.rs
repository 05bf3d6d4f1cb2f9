//! The only unsafe code of this crate: giving up a descriptor once.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};

/// An open descriptor of one's own, which is closed when this is dropped, by the kernel directly.
///
/// ```
/// use std::fs::File;
/// use std::os::fd::{AsFd, OwnedFd};
///
/// use demi_api::fd::Fd;
///
/// let fd = Fd::from(OwnedFd::from(File::open("/dev/null")?));
/// let _borrowed = fd.as_fd();
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Fd(ManuallyDrop<OwnedFd>);

impl Fd {
    /// The descriptor, which is open still and the caller's from now on.
    fn release(&mut self) -> OwnedFd {
        // SAFETY: both callers end the life of `self` with this call: one is its `drop`, the other forgets it. So
        // nothing is taken twice, or used after it was taken.
        unsafe { ManuallyDrop::take(&mut self.0) }
    }
}

impl AsFd for Fd {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Fd {
        Fd(ManuallyDrop::new(fd))
    }
}

/// For those who close it themselves, by whatever `close` they have.
impl From<Fd> for OwnedFd {
    fn from(fd: Fd) -> OwnedFd {
        ManuallyDrop::new(fd).release()
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        let fd = self.release().into_raw_fd();
        // SAFETY: `into_raw_fd` has given the ownership up; the number is closed once, here, and not used afterwards.
        unsafe { rustix::io::close(fd) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_closed_once_by_its_last_owner() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let passed_on = OwnedFd::from(Fd::from(writer));
        rustix::io::write(&passed_on, b"x").unwrap();
        drop(Fd::from(passed_on));
        let mut bytes = [0; 4];
        let reader = Fd::from(reader);
        assert_eq!(rustix::io::read(&reader, &mut bytes), Ok(1));
        assert_eq!(rustix::io::read(&reader, &mut bytes), Ok(0), "the writing end is open still");
    }
}
