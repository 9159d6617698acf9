"""Making chunks smaller, and back, without trusting what comes back.

Source:
    Zstandard, RFC 8878.
"""

import threading
from enum import IntEnum

import zstandard

from likeness.codec.buffers import Buffer

DEFAULT_LEVEL = 1
_WORTH_IT = 0.97  # below 3 % saved, the time to decompress is not


class Encoding(IntEnum):
    """How a chunk's payload is written; the number stands in every record."""

    RAW = 0
    ZSTD = 1


class BadFrame(Exception):
    """Bytes that do not decompress to what was promised. Callers give it a name and place."""


class Compressor:
    """Compresses in many threads, each with a zstd context of its own."""

    def __init__(self, level: int = DEFAULT_LEVEL) -> None:
        """Use a zstd level from 1 (fast) to 19 (small)."""
        self._level = level
        self._own = threading.local()

    def compress(self, plaintext: Buffer) -> tuple[Encoding, Buffer]:
        """Compress where it helps; else give the plaintext back as it is."""
        frame = self._context().compress(plaintext)
        if len(frame) < len(plaintext) * _WORTH_IT:
            return Encoding.ZSTD, frame
        return Encoding.RAW, plaintext

    def _context(self) -> zstandard.ZstdCompressor:
        context: zstandard.ZstdCompressor | None = getattr(self._own, "context", None)
        if context is None:
            context = self._own.context = zstandard.ZstdCompressor(level=self._level)
        return context


_decompressors = threading.local()


def decompress(encoding: int, payload: Buffer, *, raw_bytes: int) -> bytes:
    """Undo `Compressor.compress`.

    The frame's own word about its size decides how much memory zstd takes, so it is compared with
    the promise first: a lying frame costs nothing.

    Args:
        encoding: As stored.
        payload: One zstd frame and nothing after it, or the raw bytes.
        raw_bytes: How long the plaintext must be.

    Raises:
        BadFrame: Not a frame, another length, or bytes behind it.
    """
    if encoding == Encoding.RAW:
        if len(payload) != raw_bytes:
            raise BadFrame(f"{len(payload)} bytes instead of {raw_bytes}")
        return bytes(payload)
    if encoding != Encoding.ZSTD:
        raise BadFrame(f"unknown encoding {encoding}")
    try:
        promised = zstandard.get_frame_parameters(payload).content_size
        if promised != raw_bytes:
            raise BadFrame(f"the frame holds {promised} bytes instead of {raw_bytes}")
        plaintext = _decompressor().decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError as cause:
        raise BadFrame(f"not a whole zstd frame ({cause})") from cause
    if len(plaintext) != raw_bytes:
        raise BadFrame(f"{len(plaintext)} bytes instead of {raw_bytes}")
    return plaintext


def _decompressor() -> zstandard.ZstdDecompressor:
    context: zstandard.ZstdDecompressor | None = getattr(_decompressors, "context", None)
    if context is None:
        context = _decompressors.context = zstandard.ZstdDecompressor()
    return context
