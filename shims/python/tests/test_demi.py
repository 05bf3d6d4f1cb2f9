"""The package over whichever library DEMI_LIBRARY names, which must have sockets."""

import asyncio
import collections
import contextlib
import errno
import gc
import io
import os
import socket
import tempfile
import threading
import unittest

import demi

INSTANCE = demi.Instance()


def connected(domain=socket.AF_INET):
    """Both ends of a connection."""
    host = "127.0.0.1" if domain == socket.AF_INET else "::1"
    listener = INSTANCE.socket(domain)
    listener.bind((host, 0))
    listener.listen()
    near = INSTANCE.socket(domain)
    accept, connect = listener.accept(), near.connect(listener.getsockname())
    assert connect.wait(10) is None
    far, peer = accept.wait(10)
    assert peer[:2] == near.getsockname()[:2]
    listener.close()
    return near, far


def received(queue, size):
    data = b""
    while len(data) < size:
        data += queue.pop().wait(10)
    return data


class Streams(unittest.TestCase):
    def test_both_families(self):
        for domain in (socket.AF_INET, socket.AF_INET6):
            near, far = connected(domain)
            near.push(b"question").wait(10)
            self.assertEqual(received(far, 8), b"question")
            far.push(bytearray(b"answer")).wait(10)
            self.assertEqual(received(near, 6), b"answer")
            near.shutdown()
            self.assertEqual(far.pop().wait(10), b"")
            near.close()
            far.close()

    def test_what_is_popped_is_pushed_without_a_copy(self):
        near, far = connected()
        near.push(b"x" * 1000).wait(10)
        view = far.pop().wait(10)
        copies = INSTANCE.counters()["heap_foreign_copies"]
        far.push(view[: len(view)]).wait(10)
        written = INSTANCE.allocate(5)
        written[:] = b"fresh"
        far.push(written).wait(10)
        self.assertEqual(INSTANCE.counters()["heap_foreign_copies"], copies)
        self.assertEqual(received(near, len(view) + 5), bytes(view) + b"fresh")

    def test_options(self):
        near, far = connected()
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.assertTrue(near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        with self.assertRaises(OSError) as raised:
            near.getsockopt(socket.SOL_SOCKET, 9999)
        self.assertEqual(raised.exception.errno, errno.ENOPROTOOPT)
        near.close()
        far.close()


class Memory(unittest.TestCase):
    def test_memory_goes_with_the_last_view(self):
        gc.collect()
        before = INSTANCE.counters()["arrays_lent"]
        view = INSTANCE.allocate(100)
        view[:] = bytes(range(100))
        part = view[10:20][2:5]
        del view
        gc.collect()
        self.assertEqual(INSTANCE.counters()["arrays_lent"], before + 1)
        self.assertEqual(part, bytes([12, 13, 14]))
        # By another thread, too.
        parts = [part]
        del part
        thread = threading.Thread(target=parts.clear)
        thread.start()
        thread.join()
        gc.collect()
        self.assertEqual(INSTANCE.counters()["arrays_lent"], before)

    def test_more_than_there_is(self):
        with self.assertRaises(MemoryError):
            INSTANCE.allocate(1 << 40)
        with self.assertRaises(MemoryError):
            INSTANCE.allocate(0)

    def test_an_instance_stays_in_its_thread(self):
        raised = []

        def other():
            try:
                INSTANCE.queue()
            except RuntimeError as error:
                raised.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        self.assertEqual(len(raised), 1)


class Queues(unittest.TestCase):
    def test_in_memory(self):
        queue = INSTANCE.queue()
        pop = queue.pop()
        with self.assertRaises(TimeoutError):
            pop.wait(0.01)
        queue.push(b"element").wait(10)
        self.assertEqual(pop.wait(10), b"element")
        with self.assertRaises(OSError) as raised:
            pop.wait(10)
        self.assertEqual(raised.exception.errno, errno.EINVAL)
        pop = queue.pop()
        queue.close()
        with self.assertRaises(OSError) as raised:
            pop.wait(10)
        self.assertEqual(raised.exception.errno, errno.ECANCELED)

    def test_operators(self):
        queue = INSTANCE.queue()
        even = queue.filter(lambda data: len(data) % 2 == 0)
        for word in (b"odd", b"even", b"seven", b"four"):
            queue.push(word).wait(10)
        self.assertEqual(even.pop().wait(10), b"even")
        gc.collect()
        self.assertEqual(even.pop().wait(10), b"four")
        even.close()
        near, far = connected()
        near, far = (end.frame(demi.CODEC_DELIMITER, delimiter=b"\n") for end in (near, far))
        near.push(b"a line").wait(10)
        self.assertEqual(far.pop().wait(10), b"a line")
        near.close()
        far.close()

    def test_sized_pops(self):
        queue = INSTANCE.queue()
        for word in (b"one", b"two", b"three"):
            queue.push(word).wait(10)
        self.assertEqual(queue.pop_n(2).wait(10), [b"one", b"two"])
        self.assertEqual(queue.pop_n(2).wait(10), [b"three"])
        with self.assertRaises(OSError):
            queue.pop_n(0)
        queue.close()
        near, far = connected()
        near.push(b"stream").wait(10)
        self.assertEqual(far.pop_n(4).wait(10), b"stre")
        self.assertEqual(far.pop_n(4).wait(10), b"am")
        near.close()
        far.close()

    def test_partition_sort_and_map(self):
        queue = INSTANCE.queue()
        even, odd = queue.partition(lambda data: len(data) % 2 == 0)
        for word in (b"odd", b"even", b"seven"):
            queue.push(word).wait(10)
        gc.collect()
        self.assertEqual([bytes(end.pop().wait(10)) for end in (odd, even, odd)], [b"odd", b"even", b"seven"])
        even.close()
        odd.close()
        queue = INSTANCE.queue()
        longest = queue.sort(lambda a, b: len(a) - len(b))
        for word in (b"a", b"ccc", b"bb"):
            queue.push(word).wait(10)
        gc.collect()
        popped = [bytes(longest.pop().wait(10)) for _ in range(3)]
        self.assertEqual(sorted(popped), [b"a", b"bb", b"ccc"])
        self.assertEqual(popped[0], b"ccc")
        longest.close()
        before = INSTANCE.counters()["arrays_lent"]
        mapped = INSTANCE.queue().map(on_pop=lambda data: data[::-1], on_push=lambda data: bytes(data) + b"!")
        mapped.push(b"word").wait(10)
        gc.collect()
        self.assertEqual(mapped.pop().wait(10), b"!drow")
        mapped.close()
        nothing = INSTANCE.queue().map(on_push=lambda data: b"")
        nothing.push(b"word").wait(10)
        self.assertEqual(nothing.pop().wait(10), b"")
        nothing.close()
        broken = INSTANCE.queue().map(on_push=lambda data: 1 // 0)
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(OSError) as raised:
            broken.push(b"word").wait(10)
        self.assertEqual(raised.exception.errno, errno.EINVAL)
        self.assertIn("ZeroDivisionError", said.getvalue())
        broken.close()
        gc.collect()
        self.assertEqual(INSTANCE.counters()["arrays_lent"], before)

    def test_datagrams(self):
        server, client = (INSTANCE.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for end in (server, client):
            end.bind(("127.0.0.1", 0))
        client.push(b"hello", to=server.getsockname()).wait(10)
        data, peer = server.pop().wait(10)
        self.assertEqual((bytes(data), peer), (b"hello", client.getsockname()))
        server.push(b"", to=peer).wait(10)
        self.assertEqual(client.pop().wait(10).data, b"")
        server.close()
        client.close()

    def test_files(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "file")
            try:
                file = INSTANCE.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except OSError as error:
                # Without a store there are no files, and that is how it is said.
                self.assertEqual(error.errno, errno.EOPNOTSUPP)
                return
            self.assertLess(file.push(b"first ").wait(10), file.push(b"second").wait(10))
            file.flush()
            self.assertEqual(file.pop().wait(10), b"first second")
            self.assertEqual(file.seek(6), 6)
            self.assertEqual(file.pop().wait(10), b"second")
            file.seek("head")
            file.truncate(5)
            self.assertEqual(file.pop().wait(10), b"first")
            file.close()
            INSTANCE.unlink(path)


class Asyncio(unittest.TestCase):
    def test_connections_side_by_side(self):
        async def serve(listener, count):
            async def one(queue):
                while data := await queue.pop():
                    await queue.push(data)
                queue.close()

            tasks = [asyncio.ensure_future(one((await listener.accept()).queue)) for _ in range(count)]
            await asyncio.gather(*tasks)

        async def ask(address, number):
            queue = INSTANCE.socket()
            await queue.connect(address)
            for turn in range(20):
                message = f"{number}:{turn}".encode()
                await queue.push(message)
                reply = b""
                while len(reply) < len(message):
                    reply += await queue.pop()
                self.assertEqual(reply, message)
            queue.close()

        async def run():
            listener = INSTANCE.socket()
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            clients = [ask(listener.getsockname(), number) for number in range(10)]
            await asyncio.wait_for(asyncio.gather(serve(listener, 10), *clients), 30)
            listener.close()

        asyncio.run(run())

    def test_an_idle_loop_sleeps_until_there_is_work(self):
        async def run():
            near, far = connected()
            pop = asyncio.ensure_future(_awaited(far.pop()))
            await asyncio.sleep(0.1)
            before = INSTANCE.counters()["turns"]
            await asyncio.sleep(0.5)
            self.assertLess(INSTANCE.counters()["turns"] - before, 100)
            self.assertFalse(pop.done())
            # A call while the loop sleeps, and an element that only the descriptor tells of.
            await asyncio.wait_for(_awaited(near.push(b"awake")), 10)
            self.assertEqual(await asyncio.wait_for(pop, 10), b"awake")
            pop = asyncio.ensure_future(_awaited(far.pop()))
            await asyncio.sleep(0.1)
            asyncio.get_running_loop().call_later(0.05, near.push, b"later")
            self.assertEqual(await asyncio.wait_for(pop, 10), b"later")
            near.close()
            far.close()

        asyncio.run(run())

    def test_elements_of_a_sized_pop_that_was_given_up(self):
        async def run():
            queue = INSTANCE.queue()
            task = asyncio.ensure_future(_awaited(queue.pop_n(2)))
            await asyncio.sleep(0.01)
            push = queue.push(b"kept")
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            await push
            self.assertEqual(await asyncio.wait_for(queue.pop_n(5), 10), [b"kept"])
            queue.close()
            near, far = connected()
            far._instance._returned.setdefault(far._qd, collections.deque()).append(memoryview(b"returned"))
            self.assertEqual(await far.pop_n(3), b"ret")
            self.assertEqual(await far.pop(), b"urned")
            near.close()
            far.close()

        asyncio.run(run())

    def test_giving_up(self):
        async def run():
            queue = INSTANCE.queue()
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(queue.pop(), 0.05)
            await queue.push(b"not lost")
            self.assertEqual(await asyncio.wait_for(queue.pop(), 10), b"not lost")
            # Done before it is awaited.
            push = queue.push(b"early")
            self.assertEqual(await queue.pop(), b"early")
            await push
            with self.assertRaises(OSError):
                await queue.frame(demi.CODEC_RESP).pop()
            # An element that comes in the moment in which its awaiter gives up.
            task = asyncio.ensure_future(_awaited(queue.pop()))
            await asyncio.sleep(0.01)
            push = queue.push(b"kept")
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            await push
            self.assertEqual(await asyncio.wait_for(queue.pop(), 10), b"kept")
            queue.close()

        asyncio.run(run())
        gc.collect()
        self.assertEqual(INSTANCE.queue().push(b"no loop").wait(10), 0)


async def _awaited(token):
    return await token


if __name__ == "__main__":
    unittest.main()
