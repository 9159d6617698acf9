"""Changed block tracking: which blocks of 64 KiB were written between two disks of a chain."""

BLOCK_BYTES = 64 << 10


class ChangeLog:
    """What was written since the previous disk of the chain, one bit per 64 KiB.

    Attributes:
        parent: The log of the disk before, or None at the beginning of a chain.
        child: The log of the disk after, or None at its end.
        consistent: False once the log may miss a write, as after a crash of the host.
        bitmap: Most significant bit first; block 0 is 0x80 of byte 0.
    """

    def __init__(self, size: int, parent: "ChangeLog | None" = None) -> None:
        self.size = size
        self.parent = parent
        self.child: ChangeLog | None = None
        self.consistent = True
        self.bitmap = bytearray(bitmap_bytes(size))

    def mark(self, offset: int, length: int) -> None:
        """Note a write; one that straddles blocks marks them all."""
        if length == 0:
            return
        first, last = offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES
        if last - first > 64:
            whole_from, whole_to = -(-first // 8), (last + 1) // 8
            self.bitmap[whole_from:whole_to] = b"\xff" * (whole_to - whole_from)
            blocks = [*range(first, whole_from * 8), *range(whole_to * 8, last + 1)]
        else:
            blocks = list(range(first, last + 1))
        for block in blocks:
            self.bitmap[block >> 3] |= 0x80 >> (block & 7)

    def begin_next(self) -> "ChangeLog":
        """Start the log that comes after this one."""
        self.child = ChangeLog(self.size, parent=self)
        return self.child

    def grow(self, size: int) -> None:
        """Cover a larger disk; the new blocks count as written."""
        old = self.size
        self.size = size
        self.bitmap.extend(bytes(bitmap_bytes(size) - len(self.bitmap)))
        self.mark(old, size - old)

    def leave(self) -> None:
        """Leave the chain; the blocks go to the next log, so older bases stay good."""
        if self.child is not None:
            self.child.merge(self.bitmap)
            self.child.consistent = self.child.consistent and self.consistent
            self.child.parent = self.parent
        if self.parent is not None:
            self.parent.child = self.child
        self.parent = self.child = None

    def merge(self, bitmap: bytes | bytearray) -> None:
        """Add the blocks of another bitmap; a shorter one is taken as it is."""
        ours = int.from_bytes(self.bitmap, "big")
        theirs = int.from_bytes(bytes(bitmap).ljust(len(self.bitmap), b"\0"), "big")
        self.bitmap[:] = (ours | theirs).to_bytes(len(self.bitmap), "big")


def bitmap_bytes(size: int) -> int:
    """How long the bitmap of a disk of `size` bytes is."""
    blocks = -(-size // BLOCK_BYTES)
    return -(-blocks // 8)


def changed_blocks(since: ChangeLog, until: ChangeLog) -> bytes | None:
    """OR of all logs after `since` up to and including `until`.

    Returns:
        The bitmap of `until`'s disk, or None when `until` does not come later in the same chain.

    Raises:
        ValueError: One of the logs is inconsistent.
    """
    merged = ChangeLog(until.size)
    log: ChangeLog | None = until
    while log is not None and log is not since:
        if not log.consistent:
            raise ValueError("a change log is inconsistent")
        merged.merge(log.bitmap)
        log = log.parent
    return None if log is None or since is until else bytes(merged.bitmap)
