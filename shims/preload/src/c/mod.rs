//! The symbols that take the place of the C library's: each finds out whose a descriptor is, makes slices of pointers and
//! calls on. Whatever is not the shim's goes to the C library's own function, untouched.

mod data {
    mod raw;
}
mod fds {
    mod raw;
}
mod next {
    pub(crate) mod raw;
}
mod poll {
    pub(super) mod raw;
}
mod sockets {
    mod raw;
}

use rustix::io::Errno;

use crate::calls::Answer;
use crate::carrier::Carrier;
use crate::shim::Shim;
use crate::sys;

pub(crate) use self::next::raw as next_raw;
use self::poll::raw::limit;

impl<C: Carrier> Shim<C> {
    /// What a C function returns for what a call of ours did: -1 with an errno, or its value. `None`: ask the kernel.
    fn result<T>(
        &'static self,
        call: impl FnOnce() -> Answer<T>,
        value: impl FnOnce(T) -> isize,
    ) -> Option<isize> {
        match self.enter(call)? {
            Ok(Some(done)) => Some(value(done)),
            Ok(None) => None,
            Err(errno) => Some(fail(errno)),
        }
    }
}

fn fail(errno: Errno) -> isize {
    sys::set_last(errno);
    -1
}
