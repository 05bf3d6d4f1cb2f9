"""Tokens in asyncio: `await queue.pop()`.

While anything is awaited, the event loop of the instance's thread asks it for results: in every turn of the loop as long as there
were some within the last millisecond. Otherwise it sleeps on the descriptor by which the instance says that it has work, and for as
long as the instance permits. So an idle program sleeps, and a busy one is served at once.
"""

import asyncio
import collections
import contextlib
import ctypes
import errno
import time

from . import _elements, _native, _yielded

#: Results taken in one turn of the loop.
_BATCH = 32
#: Seconds: how long to ask in every turn without a result.
_PATIENCE = 0.001


class _Driver:
    """Hands results to whoever awaits them."""

    def __init__(self, instance):
        self._instance = instance
        self._awaited = {}
        self._abandoned = set()
        #: Results that nobody has awaited yet.
        self.early = {}
        self._results = (_native.Result * _BATCH)()
        self._task = None
        fd = ctypes.c_int()
        _native.check(instance._lib.demi_wait_fd(ctypes.byref(fd)))
        self._fd = fd.value
        #: Of the present sleep: done when it is over.
        self._roused = None

    def runs(self):
        """Whether the event loop takes the instance's results."""
        return self._task is not None and not self._task.done()

    async def wait(self, token):
        future = asyncio.get_running_loop().create_future()
        self._awaited[token._qt] = future
        if not self.runs():
            self._task = asyncio.ensure_future(self._run())
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._give_back(future.result())
            elif self._awaited.pop(token._qt, None) is not None:
                self._abandoned.add(token._qt)
                with contextlib.suppress(OSError):
                    token.cancel()
            raise

    def _give_back(self, result):
        """Keeps an element that nobody waits for any more for the next pop."""
        if result.opcode == _native.OPC_POP:
            returned = self._instance._returned.setdefault(result.qd, collections.deque())
            returned.extend(_elements(self._instance, result))

    def rouse(self):
        """Ends the sleep: there is work, or the instance is called, which undoes the preparation for it."""
        if self._roused is not None and not self._roused.done():
            self._roused.set_result(None)

    async def _run(self):
        served = time.monotonic()
        while self._awaited or self._abandoned:
            if self._take():
                served = time.monotonic()
            if time.monotonic() - served < _PATIENCE or not await self._sleep():
                await asyncio.sleep(0)

    async def _sleep(self):
        """Sleeps until there is work. False: there is some."""
        loop = asyncio.get_running_loop()
        limit = _native.Timespec()
        error = self._instance._lib.demi_prepare_sleep(ctypes.byref(limit))
        if error == errno.EAGAIN:
            return False
        _native.check(error)
        self._roused = loop.create_future()
        loop.add_reader(self._fd, self.rouse)
        timer = None if limit.tv_sec < 0 else loop.call_later(limit.tv_sec + limit.tv_nsec / 1e9, self.rouse)
        try:
            await self._roused
        finally:
            self._roused = None
            loop.remove_reader(self._fd)
            if timer is not None:
                timer.cancel()
        return True

    def _take(self):
        """Takes what is done."""
        count = ctypes.c_int()
        at_once = _native.Timespec(0, 0)
        self._instance._free_dropped()
        error = self._instance._lib.demi_wait_next_n(self._results, _BATCH, ctypes.byref(count), ctypes.byref(at_once))
        if error in (errno.ETIMEDOUT, errno.ECHILD):
            return 0
        _native.check(error)
        for at in range(count.value):
            result = _native.Result.from_buffer_copy(self._results[at])
            future = self._awaited.pop(result.qt, None)
            if future is not None and not future.done():
                future.set_result(result)
            elif future is not None or result.qt in self._abandoned:
                self._abandoned.discard(result.qt)
                self._give_back(result)
            else:
                self.early[result.qt] = result
        return count.value


async def completion(token):
    """What the operation yields."""
    instance = token._instance
    if instance._driver is None:
        instance._driver = _Driver(instance)
    known = token._known()
    return _yielded(instance, await instance._driver.wait(token) if known is None else known)
