//! The symbols.

/// Emits the instance of each thread over a libOS, and the symbols of `demi/libos.h`, `demi/sga.h` and `demi/wait.h`.
/// Once per library.
#[macro_export]
macro_rules! export {
    ($libos:ty) => {
        use $crate::prelude::*;

        ::std::thread_local! {
            static SLOT: $crate::Slot<$libos> = const { $crate::Slot::new() };
            static HERE: $crate::Here<$libos> = const { $crate::Here::new() };
        }

        static FIRST: $crate::First<$libos> = $crate::First::new();

        extern "C" fn forked() {
            FIRST.forked();
        }

        const THREAD: $crate::Thread<$libos> =
            $crate::Thread { slot: &SLOT, here: &HERE, first: &FIRST, forked };

        $crate::symbols! {
            demi_init = init(args: *const Args) -> Int;
            demi_socket = socket(qd: *mut Int, domain: Int, kind: Int, protocol: Int) -> Int;
            demi_bind = bind(qd: Int, addr: *const sockaddr, len: socklen_t) -> Int;
            demi_listen = listen(qd: Int, backlog: Int) -> Int;
            demi_accept = accept(token: *mut u64, qd: Int) -> Int;
            demi_connect = connect(token: *mut u64, qd: Int, addr: *const sockaddr, len: socklen_t) -> Int;
            demi_shutdown = shutdown(qd: Int, how: Int) -> Int;
            demi_close = close(qd: Int) -> Int;
            demi_push = push(token: *mut u64, qd: Int, sga: *const Array) -> Int;
            demi_pushto = pushto(token: *mut u64, qd: Int, sga: *const Array, addr: *const sockaddr, len: socklen_t) -> Int;
            demi_pop = pop(token: *mut u64, qd: Int) -> Int;
            demi_pop_n = pop_n(token: *mut u64, qd: Int, count: usize) -> Int;
            demi_next_element = next_element(sga: *mut Array, token: u64) -> Int;
            demi_cancel = cancel(token: u64) -> Int;
            demi_wait = wait(result: *mut QResult, token: u64, limit: *const timespec) -> Int;
            demi_wait_any = wait_any(result: *mut QResult, offset: *mut Int, tokens: *const u64, count: Int, limit: *const timespec) -> Int;
            demi_wait_next_n = wait_next_n(results: *mut QResult, count: Int, written: *mut Int, limit: *const timespec) -> Int;
            demi_wait_all = wait_all(results: *mut QResult, tokens: *const u64, count: Int, limit: *const timespec) -> Int;
            demi_blocking_push = blocking_push(result: *mut QResult, qd: Int, sga: *const Array) -> Int;
            demi_blocking_pop = blocking_pop(result: *mut QResult, qd: Int) -> Int;
            demi_sgaalloc = sgaalloc(len: usize) -> Array;
            demi_sgafree = sgafree(sga: *mut Array) -> Int;
            demi_malloc = malloc(len: usize) -> *mut Void;
            demi_free = free(object: *mut Void) -> ();
            demi_setsockopt = setsockopt(qd: Int, level: Int, option: Int, value: *const Void, len: socklen_t) -> Int;
            demi_getsockopt = getsockopt(qd: Int, level: Int, option: Int, value: *mut Void, len: *mut socklen_t) -> Int;
            demi_getsockname = getsockname(qd: Int, addr: *mut sockaddr, len: *mut socklen_t) -> Int;
            demi_getpeername = getpeername(qd: Int, addr: *mut sockaddr, len: *mut socklen_t) -> Int;
            demi_queue = queue(qd: *mut Int) -> Int;
            demi_merge = merge(qd: *mut Int, a: Int, b: Int) -> Int;
            demi_filter = filter(qd: *mut Int, from: Int, predicate: Option<PredicateFn>, argument: *mut Void) -> Int;
            demi_partition = partition(yes: *mut Int, no: *mut Int, from: Int, predicate: Option<PredicateFn>, argument: *mut Void) -> Int;
            demi_sort = sort(qd: *mut Int, from: Int, compare: Option<CompareFn>, argument: *mut Void) -> Int;
            demi_map = map(qd: *mut Int, from: Int, on_pop: Option<ChangeFn>, on_push: Option<ChangeFn>, argument: *mut Void) -> Int;
            demi_frame = frame(qd: *mut Int, from: Int, codec: *const Codec) -> Int;
            demi_qconnect = qconnect(from: Int, to: Int) -> Int;
            demi_qconnect_token = qconnect_token(token: *mut u64, from: Int, to: Int) -> Int;
            demi_open = open(qd: *mut Int, path: *const Char, flags: Int, mode: u32) -> Int;
            demi_creat = creat(qd: *mut Int, path: *const Char, mode: u32) -> Int;
            demi_lseek = lseek(position: *mut u64, qd: Int, offset: i64, whence: Int) -> Int;
            demi_truncate = truncate(qd: Int, position: u64) -> Int;
            demi_discard = discard(qd: Int, position: u64) -> Int;
            demi_unlink = unlink(path: *const Char) -> Int;
            demi_flush = flush(qd: Int) -> Int;
            demi_compare_and_swap = compare_and_swap(token: *mut u64, qd: Int, position: u64, expected: u64, desired: u64) -> Int;
            demi_fetch_and_add = fetch_and_add(token: *mut u64, qd: Int, position: u64, add: u64) -> Int;
            demi_interrupter = interrupter(fd: *mut Int) -> Int;
            demi_wait_fd = wait_fd(fd: *mut Int) -> Int;
            demi_prepare_sleep = prepare_sleep(limit: *mut timespec) -> Int;
            demi_counters = counters(callback: Option<Callback>) -> Int;
        }
    };
}

/// One symbol of each line: its name, and the function of [`crate::raw::entry`] behind it.
#[doc(hidden)]
#[macro_export]
macro_rules! symbols {
    ($($symbol:ident = $name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(
            #[doc = concat!("See `", stringify!($symbol), "(3)`.")]
            ///
            /// # Safety
            /// Each pointer is NULL, or what the page says of it.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $symbol($($arg: $type),*) -> $result {
                // SAFETY: the same as is asked of the caller.
                unsafe { $crate::raw::entry::$name(THREAD, $($arg),*) }
            }
        )*
    };
}
