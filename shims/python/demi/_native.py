"""The C interface, as ctypes has it: structures, signatures, errors."""

import ctypes
import ctypes.util
import os
import socket
import struct
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

MAX_SEGMENTS = 8

OPC_PUSH, OPC_POP, OPC_ACCEPT, OPC_CONNECT, OPC_CLOSE, OPC_FAILED, OPC_MOVED, OPC_FETCHED = range(1, 9)

CODEC_LENGTH, CODEC_DELIMITER, CODEC_RESP = 1, 2, 3


class Segment(ctypes.Structure):
    _fields_ = [("buf", c_void_p), ("len", c_uint32)]


class Array(ctypes.Structure):
    _fields_ = [
        ("buf", c_void_p),
        ("numsegs", c_uint32),
        ("segs", Segment * MAX_SEGMENTS),
        ("addr", ctypes.c_uint32 * 7),
    ]


class Accepted(ctypes.Structure):
    _fields_ = [("qd", ctypes.c_int32), ("addr", ctypes.c_uint32 * 7)]


class Value(ctypes.Union):
    _fields_ = [("sga", Array), ("ares", Accepted), ("word", c_uint64)]


class Result(ctypes.Structure):
    _fields_ = [
        ("opcode", c_int),
        ("qd", ctypes.c_int32),
        ("qt", c_uint64),
        ("ret", c_int64),
        ("value", Value),
    ]


class Args(ctypes.Structure):
    _fields_ = [("argc", c_int), ("argv", POINTER(c_char_p)), ("callback", c_void_p)]


class Codec(ctypes.Structure):
    _fields_ = [
        ("kind", c_int),
        ("length_bytes", c_uint32),
        ("little_endian", c_int),
        ("delimiter_len", c_uint32),
        ("delimiter", c_char_p),
    ]


class Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


CHANGE = ctypes.CFUNCTYPE(c_int, POINTER(Array), POINTER(Array), c_void_p)
COMPARE = ctypes.CFUNCTYPE(c_int, POINTER(Array), POINTER(Array), c_void_p)
PREDICATE = ctypes.CFUNCTYPE(ctypes.c_bool, POINTER(Array), c_void_p)
CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, c_uint32, c_uint64)

_SIGNATURES = {
    "demi_init": [POINTER(Args)],
    "demi_socket": [POINTER(c_int), c_int, c_int, c_int],
    "demi_bind": [c_int, c_char_p, c_uint32],
    "demi_listen": [c_int, c_int],
    "demi_accept": [POINTER(c_uint64), c_int],
    "demi_connect": [POINTER(c_uint64), c_int, c_char_p, c_uint32],
    "demi_shutdown": [c_int, c_int],
    "demi_close": [c_int],
    "demi_getsockname": [c_int, c_char_p, POINTER(c_uint32)],
    "demi_getpeername": [c_int, c_char_p, POINTER(c_uint32)],
    "demi_setsockopt": [c_int, c_int, c_int, c_void_p, c_uint32],
    "demi_getsockopt": [c_int, c_int, c_int, c_void_p, POINTER(c_uint32)],
    "demi_push": [POINTER(c_uint64), c_int, POINTER(Array)],
    "demi_pushto": [POINTER(c_uint64), c_int, POINTER(Array), c_char_p, c_uint32],
    "demi_pop": [POINTER(c_uint64), c_int],
    "demi_pop_n": [POINTER(c_uint64), c_int, c_size_t],
    "demi_next_element": [POINTER(Array), c_uint64],
    "demi_cancel": [c_uint64],
    "demi_wait": [POINTER(Result), c_uint64, POINTER(Timespec)],
    "demi_wait_next_n": [POINTER(Result), c_int, POINTER(c_int), POINTER(Timespec)],
    "demi_wait_fd": [POINTER(c_int)],
    "demi_prepare_sleep": [POINTER(Timespec)],
    "demi_sgafree": [POINTER(Array)],
    "demi_queue": [POINTER(c_int)],
    "demi_merge": [POINTER(c_int), c_int, c_int],
    "demi_filter": [POINTER(c_int), c_int, PREDICATE, c_void_p],
    "demi_partition": [POINTER(c_int), POINTER(c_int), c_int, PREDICATE, c_void_p],
    "demi_sort": [POINTER(c_int), c_int, COMPARE, c_void_p],
    "demi_map": [POINTER(c_int), c_int, CHANGE, CHANGE, c_void_p],
    "demi_frame": [POINTER(c_int), c_int, POINTER(Codec)],
    "demi_qconnect_token": [POINTER(c_uint64), c_int, c_int],
    "demi_open": [POINTER(c_int), c_char_p, c_int, c_uint32],
    "demi_lseek": [POINTER(c_uint64), c_int, c_int64, c_int],
    "demi_truncate": [c_int, c_uint64],
    "demi_unlink": [c_char_p],
    "demi_flush": [c_int],
    "demi_compare_and_swap": [POINTER(c_uint64), c_int, c_uint64, c_uint64, c_uint64],
    "demi_fetch_and_add": [POINTER(c_uint64), c_int, c_uint64, c_uint64],
    "demi_counters": [CALLBACK],
}


def load(name):
    """The library of a name, such as `catnap`, or of a path; by default of DEMI_LIBRARY."""
    name = name or os.environ.get("DEMI_LIBRARY") or "catnap"
    if os.sep not in name:
        name = ctypes.util.find_library("demi_" + name) or f"libdemi_{name}.so.0"
    library = ctypes.CDLL(name)
    for symbol, arguments in _SIGNATURES.items():
        function = getattr(library, symbol)
        function.argtypes, function.restype = arguments, c_int
    library.demi_sgaalloc.argtypes, library.demi_sgaalloc.restype = [c_size_t], Array
    return library


def check(error):
    """Raises the errno that a call has returned."""
    if error != 0:
        raise OSError(error, os.strerror(error))


def to_sockaddr(domain, address):
    """The bytes of a `sockaddr`, of an address as the module `socket` has it."""
    family = struct.pack("=H", domain)
    if domain == socket.AF_INET:
        host, port = address
        return family + struct.pack("!H4s8x", port, socket.inet_pton(domain, host))
    if domain == socket.AF_INET6:
        host, port, flow, scope = (*address, 0, 0)[:4]
        return family + struct.pack("!HI16s", port, flow, socket.inet_pton(domain, host)) + struct.pack("=I", scope)
    if domain == socket.AF_UNIX:
        return family + os.fsencode(address) + b"\0"
    raise ValueError(f"addresses of family {domain} are not known")


def from_sockaddr(raw):
    """The address in the bytes of a `sockaddr`; None if there is none."""
    (domain,) = struct.unpack_from("=H", raw)
    if domain == socket.AF_INET:
        port, host = struct.unpack_from("!H4s", raw, 2)
        return socket.inet_ntop(domain, host), port
    if domain == socket.AF_INET6:
        port, flow, host = struct.unpack_from("!HI16s", raw, 2)
        (scope,) = struct.unpack_from("=I", raw, 24)
        return socket.inet_ntop(domain, host), port, flow, scope
    if domain == socket.AF_UNIX:
        return os.fsdecode(raw[2:].split(b"\0")[0])
    return None
