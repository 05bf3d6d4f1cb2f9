//! `epoll_wait` that asks the kernel again and again instead of sleeping in it, for programs that are started with this library in
//! `LD_PRELOAD`: what their sockets can do at the most when a core is spent on waiting.

#[allow(unsafe_code, reason = "each block states its proof")]
mod raw;
