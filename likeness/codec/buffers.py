"""Bytes in place: what is worked on is not copied from step to step."""

import threading

Buffer = bytes | bytearray | memoryview
"""Bytes that something can be made of; whoever gives them leaves them as they are meanwhile."""


class Scratch:
    """A buffer for each thread, used again for every chunk."""

    def __init__(self) -> None:
        """Begin with none."""
        self._own = threading.local()

    def of(self, length: int) -> memoryview:
        """The first `length` bytes of this thread's buffer, until it asks again."""
        buffer: bytearray | None = getattr(self._own, "buffer", None)
        if buffer is None or len(buffer) < length:
            buffer = self._own.buffer = bytearray(length)
        return memoryview(buffer)[:length]


def same(one: bytes, other: Buffer) -> bool:
    """Whether both are the same bytes.

    (Two `bytes` compare by memcmp, and so does this; a memoryview walks element by element.)
    """
    return len(one) == len(other) and one.startswith(other)
