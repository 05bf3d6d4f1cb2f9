"""Queues of a library OS for microsecond I/O, over its C interface.

An `Instance` belongs to the thread that made it, and so do its queues and tokens. Memory that is handed out as a view is freed
with the last view of it, whichever thread drops that.
"""

import collections
import ctypes
import errno
import os
import socket
import threading
import traceback
import weakref

from . import _native
from ._native import CODEC_DELIMITER, CODEC_LENGTH, CODEC_RESP

__all__ = ["Instance", "Queue", "Token", "Accepted", "Datagram", "CODEC_LENGTH", "CODEC_DELIMITER", "CODEC_RESP"]

#: What an accept yields.
Accepted = collections.namedtuple("Accepted", "queue peer")

#: What a pop of a datagram socket yields.
Datagram = collections.namedtuple("Datagram", "data peer")


class Instance:
    """The instance of this thread over a library, by its name or path."""

    def __init__(self, library=None):
        self._lib = _native.load(library)
        self._thread = threading.get_ident()
        # Arrays whose last view is gone: another thread may have dropped it, and only this one can free them.
        self._dropped = collections.deque()
        self._datagrams = set()
        self._domains = {}
        self._closures = {}
        # What was popped for somebody who had given up meanwhile, by queue: the next pops yield it.
        self._returned = {}
        self._driver = None
        _native.check(self._lib.demi_init(ctypes.byref(_native.Args())))

    def socket(self, domain=socket.AF_INET, kind=socket.SOCK_STREAM):
        """A new socket."""
        qd = self._made(self._call("demi_socket", domain, kind, 0, out=ctypes.c_int))
        self._domains[qd._qd] = domain
        if kind == socket.SOCK_DGRAM:
            self._datagrams.add(qd._qd)
        return qd

    def queue(self):
        """A queue in memory."""
        return self._made(self._call("demi_queue", out=ctypes.c_int))

    def open(self, path, flags=os.O_RDWR | os.O_CREAT, mode=0o644):
        """A file or log, by the flags of `os.open`."""
        return self._made(self._call("demi_open", os.fsencode(path), flags, mode, out=ctypes.c_int))

    def unlink(self, path):
        """Removes a file or log."""
        self._call("demi_unlink", os.fsencode(path))

    def allocate(self, size):
        """Writable memory that is pushed without a copy, as a memoryview. Do not write to what is being pushed."""
        self._free_dropped()
        sga = self._lib.demi_sgaalloc(size)
        if sga.numsegs == 0:
            raise MemoryError(f"the heap of the instance has no room for {size} bytes")
        return self._view(sga)

    def counters(self):
        """What the instance has counted, by name."""
        found = {}

        def add(name, length, value):
            found[ctypes.string_at(name, length).decode()] = value

        self._call("demi_counters", _native.CALLBACK(add))
        return found

    def _made(self, qd):
        return Queue(self, qd)

    def _call(self, name, *arguments, out=None):
        """Makes a call; returns what it stores in its first argument, if it does."""
        self._free_dropped()
        if self._driver is not None:
            self._driver.rouse()
        if out is None:
            return _native.check(getattr(self._lib, name)(*arguments))
        place = out()
        _native.check(getattr(self._lib, name)(ctypes.byref(place), *arguments))
        return place.value

    def _free_dropped(self):
        if threading.get_ident() != self._thread:
            raise RuntimeError("an instance belongs to the thread that made it")
        while self._dropped:
            self._lib.demi_sgafree(ctypes.byref(self._dropped.popleft()))

    def _view(self, sga):
        """A view of an array's only segment, with which the array is freed."""
        sga = _native.Array.from_buffer_copy(sga)
        segment = sga.segs[0]
        if segment.len == 0:
            self._dropped.append(sga)
            return memoryview(b"")
        # A class of Python's own, as only those can be told when they go.
        block = type("Block", (ctypes.Array,), {"_type_": ctypes.c_ubyte, "_length_": segment.len})
        block = block.from_address(segment.buf)
        gone = weakref.finalize(block, self._dropped.append, sga)
        gone.atexit = False
        return memoryview(block).cast("B")


class Queue:
    """A queue of an instance."""

    def __init__(self, instance, qd):
        self._instance = instance
        self._qd = qd

    def __repr__(self):
        return f"<demi.Queue {self._qd}>"

    def bind(self, address):
        """Gives a socket its local address; port 0 takes a free one."""
        raw = _native.to_sockaddr(self._domain(), address)
        self._instance._call("demi_bind", self._qd, raw, len(raw))

    def listen(self, backlog=128):
        """Makes a socket accept connections."""
        self._instance._call("demi_listen", self._qd, backlog)

    def accept(self):
        """Starts to accept; yields an `Accepted`."""
        return self._start("demi_accept", self._qd)

    def connect(self, address):
        """Starts to connect; yields None."""
        raw = _native.to_sockaddr(self._domain(), address)
        return self._start("demi_connect", self._qd, raw, len(raw))

    def push(self, data, to=None):
        """Starts to push an object with a buffer, to an address if one is named; yields its position."""
        sga, keep = _array_of(data)
        if to is None:
            token = self._start("demi_push", self._qd, ctypes.byref(sga))
        else:
            raw = _native.to_sockaddr(self._domain(), to)
            token = self._start("demi_pushto", self._qd, ctypes.byref(sga), raw, len(raw))
        del keep
        return token

    def pop(self):
        """Starts to pop. Yields a memoryview, which is empty at the end of a stream, or of datagrams a `Datagram`."""
        returned = self._instance._returned.get(self._qd)
        if returned:
            return Token(self._instance, None, returned.popleft())
        return self._start("demi_pop", self._qd)

    def pop_n(self, count):
        """Starts to pop up to `count` bytes of a stream, or elements of a queue of messages, of which it yields a list."""
        returned = self._instance._returned.get(self._qd)
        if not returned:
            return self._start("demi_pop_n", self._qd, count)
        if count < 1:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if self.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
            elements = [_yielded(self._instance, returned.popleft()) for _ in range(min(count, len(returned)))]
            return Token(self._instance, None, elements)
        data = _yielded(self._instance, returned.popleft())
        if len(data) > count:
            returned.appendleft(data[count:])
        return Token(self._instance, None, data[:count])

    def filter(self, passes):
        """The queue's elements of which `passes` holds, which is called with a memoryview that is valid meanwhile only."""

        closure = _native.PREDICATE(lambda array, _: bool(passes(_content(array))))
        return self._derived("demi_filter", self._qd, closure, None, keep=closure)

    def partition(self, passes):
        """Two queues: of the elements of which `passes` holds, and of the others."""
        closure = _native.PREDICATE(lambda array, _: bool(passes(_content(array))))
        others = ctypes.c_int()
        passing = self._derived("demi_partition", ctypes.byref(others), self._qd, closure, None, keep=closure)
        self._instance._closures[others.value] = closure
        return passing, self._instance._made(others.value)

    def sort(self, compare):
        """The queue's elements by an order: of those that are there, that comes first which is the greatest by `compare`, which
        is called with two memoryviews and returns a number."""
        closure = _native.COMPARE(lambda a, b, _: _sign(compare(_content(a), _content(b))))
        return self._derived("demi_sort", self._qd, closure, None, keep=closure)

    def map(self, on_pop=None, on_push=None):
        """The queue with elements changed on their way out, or in: each function is called with a memoryview and returns what
        the element becomes. An element for which it raises an exception fails with EINVAL."""
        closures = [self._change(function) for function in (on_pop, on_push)]
        return self._derived("demi_map", self._qd, *closures, None, keep=closures)

    def _change(self, function):
        library = self._instance._lib

        def call(given, made, _):
            try:
                changed = memoryview(function(_content(given))).tobytes()
            except Exception:
                # Nobody else is there to be told.
                traceback.print_exc()
                return errno.EINVAL
            array = library.demi_sgaalloc(max(len(changed), 1))
            if array.numsegs == 0:
                return errno.ENOMEM
            ctypes.memmove(array.segs[0].buf, changed, len(changed))
            array.segs[0].len = len(changed)
            made[0] = array
            return 0

        return _native.CHANGE() if function is None else _native.CHANGE(call)

    def merge(self, other):
        """This queue and another as one."""
        return self._derived("demi_merge", self._qd, other._qd)

    def frame(self, kind, length_bytes=4, little_endian=False, delimiter=b""):
        """Messages over a stream, by one of the codecs."""
        codec = _native.Codec(kind, length_bytes, little_endian, len(delimiter), delimiter)
        return self._derived("demi_frame", self._qd, ctypes.byref(codec))

    def qconnect(self, to):
        """Starts to move elements to another queue; yields how many, once this one has ended."""
        return self._start("demi_qconnect_token", self._qd, to._qd)

    def seek(self, position):
        """Moves the cursor of a file or log: to a position, or to its "head" or "end". Returns where it is."""
        whence = {"head": 3, "end": os.SEEK_END}.get(position, os.SEEK_SET)
        offset = position if whence == os.SEEK_SET else 0
        return self._instance._call("demi_lseek", self._qd, offset, whence, out=ctypes.c_uint64)

    def truncate(self, position):
        """Cuts off what lies at and behind a position."""
        self._instance._call("demi_truncate", self._qd, position)

    def flush(self):
        """Returns when everything is durable that was pushed."""
        self._instance._call("demi_flush", self._qd)

    def compare_and_swap(self, position, expected, desired):
        """Starts to replace a word of a region of memory by another if it is as expected; yields what was there."""
        return self._start("demi_compare_and_swap", self._qd, position, expected, desired)

    def fetch_and_add(self, position, add):
        """Starts to add to a word of a region of memory, modulo 2**64; yields what was there."""
        return self._start("demi_fetch_and_add", self._qd, position, add % 2**64)

    def shutdown(self, how=socket.SHUT_WR):
        """Ends one direction of a connection."""
        self._instance._call("demi_shutdown", self._qd, how)

    def setsockopt(self, level, name, value):
        """Sets an option, an int or bytes."""
        raw = bytes(ctypes.c_int(value)) if isinstance(value, int) else value
        self._instance._call("demi_setsockopt", self._qd, level, name, raw, len(raw))

    def getsockopt(self, level, name):
        """Reads an option that is an int."""
        value, length = ctypes.c_int(), ctypes.c_uint32(ctypes.sizeof(ctypes.c_int))
        self._instance._call("demi_getsockopt", self._qd, level, name, ctypes.byref(value), ctypes.byref(length))
        return value.value

    def getsockname(self):
        """The local address."""
        return self._name("demi_getsockname")

    def getpeername(self):
        """The address of the peer."""
        return self._name("demi_getpeername")

    def close(self):
        """Closes the queue. What is outstanding fails with ECANCELED, but for pushes."""
        self._instance._call("demi_close", self._qd)
        self._instance._datagrams.discard(self._qd)
        self._instance._domains.pop(self._qd, None)
        self._instance._closures.pop(self._qd, None)
        for result in self._instance._returned.pop(self._qd, ()):
            _yielded(self._instance, result)

    def _domain(self):
        return self._instance._domains.get(self._qd, socket.AF_INET)

    def _name(self, call):
        raw, length = ctypes.create_string_buffer(128), ctypes.c_uint32(128)
        self._instance._call(call, self._qd, raw, ctypes.byref(length))
        return _native.from_sockaddr(raw.raw[: min(length.value, 128)])

    def _start(self, name, *arguments):
        return Token(self._instance, self._instance._call(name, *arguments, out=ctypes.c_uint64))

    def _derived(self, name, *arguments, keep=None):
        derived = self._instance._made(self._instance._call(name, *arguments, out=ctypes.c_int))
        if keep is not None:
            # It is called for as long as the queue is open.
            self._instance._closures[derived._qd] = keep
        return derived


class Token:
    """An operation. It is waited for once, by `wait` or, with asyncio, by `await`."""

    __slots__ = ("_instance", "_qt", "_result")

    def __init__(self, instance, qt, result=None):
        self._instance = instance
        self._qt = qt
        # If it is known already.
        self._result = result

    def wait(self, timeout=None):
        """Waits, at most for so many seconds, and returns what the operation yields. TimeoutError leaves it outstanding."""
        known = self._known()
        if known is not None:
            return _yielded(self._instance, known)
        if self._instance._driver is not None and self._instance._driver.runs():
            raise RuntimeError("the event loop waits for this instance: await the token")
        result = _native.Result()
        limit = None
        if timeout is not None:
            seconds = int(timeout)
            limit = ctypes.byref(_native.Timespec(seconds, int((timeout - seconds) * 1e9)))
        self._instance._free_dropped()
        _native.check(self._instance._lib.demi_wait(ctypes.byref(result), self._qt, limit))
        return _yielded(self._instance, result)

    def _known(self):
        """The result, if it came before somebody asked. It is handed out once."""
        known, self._result = self._result, None
        if known is None and self._instance._driver is not None:
            known = self._instance._driver.early.pop(self._qt, None)
        return known

    def cancel(self):
        """Recalls the operation, which then fails with ECANCELED."""
        self._instance._call("demi_cancel", self._qt)

    def __await__(self):
        from . import aio

        return aio.completion(self).__await__()


def _content(array):
    """The bytes of an array that a closure is called with."""
    segments = [array[0].segs[at] for at in range(array[0].numsegs)]
    return memoryview(b"".join(ctypes.string_at(segment.buf, segment.len) for segment in segments))


def _sign(number):
    return (number > 0) - (number < 0)


def _elements(instance, result):
    """A result per element of a pop."""
    for at in range(max(result.ret, 1)):
        element = _native.Result.from_buffer_copy(result)
        element.ret = 0
        if at > 0:
            place = ctypes.byref(element.value.sga)
            _native.check(instance._lib.demi_next_element(place, result.qt))
        yield element


def _yielded(instance, result):
    """What Python is told of a result, unless that is known."""
    if not isinstance(result, _native.Result):
        return result
    if result.opcode == _native.OPC_POP and result.ret > 0:
        return [_yielded(instance, element) for element in _elements(instance, result)]
    if result.opcode == _native.OPC_POP:
        sga = result.value.sga
        peer = _native.from_sockaddr(bytes(sga.addr))
        data = instance._view(sga)
        return Datagram(data, peer) if result.qd in instance._datagrams else data
    if result.opcode == _native.OPC_ACCEPT:
        accepted = result.value.ares
        queue = instance._made(accepted.qd)
        peer = _native.from_sockaddr(bytes(accepted.addr))
        instance._domains[queue._qd] = instance._domains.get(result.qd, socket.AF_INET)
        return Accepted(queue, peer)
    if result.opcode == _native.OPC_FETCHED:
        return result.value.word
    if result.opcode == _native.OPC_FAILED:
        _native.check(int(result.ret) or errno.EIO)
    return None if result.opcode == _native.OPC_CONNECT else result.ret


def _array_of(data):
    """An array over an object's buffer, and what keeps that where it is during the call."""
    view = memoryview(data)
    if not view.c_contiguous:
        raise ValueError("only contiguous memory can be pushed")
    view = view.cast("B") if view.nbytes else memoryview(bytearray(1))
    if view.readonly:
        # ctypes gives no address of what is read-only, other than of bytes.
        keep = bytes(view)
        address = ctypes.cast(ctypes.c_char_p(keep), ctypes.c_void_p).value
    else:
        keep = (ctypes.c_ubyte * view.nbytes).from_buffer(view)
        address = ctypes.addressof(keep)
    sga = _native.Array(numsegs=1)
    sga.segs[0].buf, sga.segs[0].len = address, memoryview(data).nbytes
    return sga, keep
