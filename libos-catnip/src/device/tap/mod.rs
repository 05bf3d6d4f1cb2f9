//! TAP: an interface of the kernel whose wire is this process.
