"""Tokens in asyncio: `await queue.pop()`.

While anything is awaited, the event loop of the instance's thread asks it for results: in every turn of the loop as long as there
were some within the last millisecond, and each millisecond otherwise. So an idle program sleeps, and a busy one is served
at once.
"""

import asyncio
import collections
import contextlib
import ctypes
import errno
import time

from . import _native, _yielded

#: Results taken in one turn of the loop.
_BATCH = 32
#: Seconds: how long to ask in every turn without a result, and how long to sleep then.
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
            self._instance._returned.setdefault(result.qd, collections.deque()).append(result)

    async def _run(self):
        served = time.monotonic()
        while self._awaited or self._abandoned:
            if self._take():
                served = time.monotonic()
            busy = time.monotonic() - served < _PATIENCE
            await asyncio.sleep(0 if busy else _PATIENCE)

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
