//! The structures of `demi/types.h`. That sizes and offsets are those of the header, a test asks the C compiler.

use std::ffi::{c_char, c_int, c_void};

use crate::raw::Plain;

/// Segments of an array: `DEMI_SGARRAY_MAXSIZE`.
pub const MAX_SEGMENTS: usize = demi_api::sga::MAX_SEGMENTS;

/// `demi_callback_t`: a counter's name, the length of that, and its value.
pub type Callback = extern "C" fn(*const c_char, u32, u64);

/// `struct demi_args`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// Count of the program's arguments.
    pub argc: c_int,
    /// The program's arguments.
    pub argv: *const *const c_char,
    /// Where counters are reported.
    pub callback: Option<Callback>,
}

/// `demi_sgaseg_t`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// The first byte.
    pub buf: *mut c_void,
    /// How many there are.
    pub len: u32,
}

/// `demi_sgarray_t`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Array {
    /// The array's handle, by which it is freed. Not an address.
    pub buf: *mut c_void,
    /// Segments in use.
    pub numsegs: u32,
    /// The segments.
    pub segs: [Segment; MAX_SEGMENTS],
    /// Where a datagram came from.
    pub addr: Address,
}

/// Room for a `sockaddr_in` or a `sockaddr_in6`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Address(pub [u8; 28]);

/// `demi_accept_result_t`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// The connection.
    pub qd: i32,
    /// Who connected.
    pub addr: Address,
}

/// `qr_value`
#[repr(C)]
#[derive(Clone, Copy)]
pub union Value {
    /// Of a pop.
    pub sga: Array,
    /// Of an accept.
    pub ares: Accepted,
    /// Of an atomic operation.
    pub word: u64,
}

/// `demi_qresult_t`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct QResult {
    /// What was done: one of the constants below.
    pub opcode: u32,
    /// The queue that it was asked of.
    pub qd: i32,
    /// The token, no longer valid.
    pub qt: u64,
    /// An errno, a position or a count.
    pub ret: i64,
    /// What came of it.
    pub value: Value,
}

impl std::fmt::Debug for QResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "QResult {{ opcode: {}, qd: {}, qt: {}, ret: {} }}",
            self.opcode, self.qd, self.qt, self.ret
        )
    }
}

/// `struct demi_codec`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    /// One of the codecs below.
    pub kind: c_int,
    /// Bytes of a length prefix.
    pub length_bytes: u32,
    /// Whether the prefix has its least significant byte first.
    pub little_endian: c_int,
    /// Bytes of a delimiter.
    pub delimiter_len: u32,
    /// The delimiter.
    pub delimiter: *const c_void,
}

macro_rules! constants {
    ($($name:ident = $value:expr, $what:literal;)*) => {
        $(#[doc = $what] pub const $name: u32 = $value;)*
    };
}

constants! {
    OPC_PUSH = 1, "An array was pushed; `ret` is its position, zero where there are none.";
    OPC_POP = 2, "An array was popped.";
    OPC_ACCEPT = 3, "A connection was accepted.";
    OPC_CONNECT = 4, "A socket is connected.";
    OPC_FAILED = 6, "The operation failed; `ret` is the errno.";
    OPC_MOVED = 7, "A `qconnect` has come to its end; `ret` is the number of elements.";
    OPC_FETCHED = 8, "An atomic operation is done; `value.word` is what was there.";
    CODEC_LENGTH = 1, "A length before each message.";
    CODEC_DELIMITER = 2, "A delimiter behind each message.";
    CODEC_RESP = 3, "The Redis protocol, version 2.";
}

/// The option level of Demi's own options.
pub const SOL_DEMI: c_int = 0x4d45;
/// Segments that a popped array of the queue may have.
pub const SO_SEGMENTS: c_int = 1;

impl Plain for Args {}
impl Plain for Array {}
impl Plain for QResult {}
impl Plain for Accepted {}
impl Plain for Codec {}
impl Plain for libc::timespec {}
impl Plain for u64 {}
impl Plain for c_int {}
