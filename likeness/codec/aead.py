"""Authenticated encryption, by suite number.

The functions of libsodium are called without PyNaCl's wrappers in between, which copy all they
take and all they give.

Suite 1, XChaCha20-Poly1305, is in every libsodium; suite 2, AEGIS-256, is several times faster
where the processor has AES instructions. Both take random nonces for as long as a store lives.

Source:
    draft-irtf-cfrg-xchacha; draft-irtf-cfrg-aegis-aead. Both through libsodium.
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from blake3 import blake3
from nacl._sodium import ffi, lib

from likeness.codec.buffers import Buffer
from likeness.errors import StoreTooNew

KEY_BYTES = 32


class Suite(IntEnum):
    """How sealed bytes are encrypted; the number stands in every sealed object."""

    XCHACHA20_POLY1305 = 1
    AEGIS_256 = 2


@dataclass(frozen=True, slots=True)
class _Cipher:
    nonce_bytes: int
    tag_bytes: int
    seal: Callable[..., int]
    open: Callable[..., int]


_CIPHERS = {
    Suite.XCHACHA20_POLY1305: _Cipher(
        24,
        16,
        lib.crypto_aead_xchacha20poly1305_ietf_encrypt,
        lib.crypto_aead_xchacha20poly1305_ietf_decrypt,
    ),
    Suite.AEGIS_256: _Cipher(
        32, 32, lib.crypto_aead_aegis256_encrypt, lib.crypto_aead_aegis256_decrypt
    ),
}


class NotAuthentic(Exception):
    """The bytes were not sealed with this key for this place. Callers give it a name and place."""


def known_suite(number: int, *, name: str) -> Suite:
    """The suite of that number, as an object that is whole otherwise says it.

    Raises:
        StoreTooNew: This release does not know it.
    """
    try:
        return Suite(number)
    except ValueError as cause:
        raise StoreTooNew(
            f"{name} was written by a later release (sealed with suite {number}, which this one"
            " does not know); install a later release"
        ) from cause


def nonce_bytes(suite: Suite) -> int:
    """Length of the suite's nonce."""
    return _CIPHERS[suite].nonce_bytes


def tag_bytes(suite: Suite) -> int:
    """How much longer sealed bytes are than the plaintext, without the nonce."""
    return _CIPHERS[suite].tag_bytes


def overhead_bytes(suite: Suite) -> int:
    """How much longer sealed bytes are than the plaintext: nonce and tag."""
    return _CIPHERS[suite].nonce_bytes + _CIPHERS[suite].tag_bytes


def seal_into(
    target: memoryview, plaintext: Buffer, *, key: bytes, place: bytes, nonce: bytes, suite: Suite
) -> None:
    """Encrypt and authenticate into `target`, which is longer by the tag; see `seal`.

    Raises:
        ValueError: A length is wrong.
    """
    cipher = _CIPHERS[suite]
    _require_lengths(cipher, key, nonce)
    if len(target) != len(plaintext) + cipher.tag_bytes:
        raise ValueError("what is sealed does not fit into its room")
    failed = cipher.seal(
        ffi.from_buffer(target, require_writable=True),
        ffi.NULL,
        ffi.from_buffer(plaintext),
        len(plaintext),
        place,
        len(place),
        ffi.NULL,
        nonce,
        key,
    )
    if failed:
        raise ValueError("libsodium refuses to encrypt")


def unseal_into(
    target: memoryview, sealed: Buffer, *, key: bytes, place: bytes, nonce: bytes, suite: Suite
) -> None:
    """Undo `seal_into` into `target`, which is shorter by the tag.

    Raises:
        NotAuthentic: Another key, another place, or altered bytes; `target` holds nothing then.
    """
    cipher = _CIPHERS[suite]
    _require_lengths(cipher, key, nonce)
    if len(target) != len(sealed) - cipher.tag_bytes:
        raise ValueError("what is opened does not fit into its room")
    failed = cipher.open(
        ffi.from_buffer(target, require_writable=True),
        ffi.NULL,
        ffi.NULL,
        ffi.from_buffer(sealed),
        len(sealed),
        place,
        len(place),
        nonce,
        key,
    )
    if failed:
        raise NotAuthentic


def _require_lengths(cipher: _Cipher, key: bytes, nonce: bytes) -> None:
    """It reads as many bytes as it needs, whether they are there or not."""
    if len(key) != KEY_BYTES or len(nonce) != cipher.nonce_bytes:
        raise ValueError("a key or nonce is of another length than the suite's")


def seal(plaintext: Buffer, *, key: bytes, place: bytes, nonce: bytes, suite: Suite) -> bytes:
    """Encrypt and authenticate.

    Args:
        plaintext: What to hide.
        key: 32 bytes.
        place: Where it belongs; opening it for another place fails.
        nonce: `nonce_bytes(suite)` bytes, never used before under this key.
        suite: Which cipher.

    Returns:
        Ciphertext and tag, without the nonce.
    """
    sealed = bytearray(len(plaintext) + _CIPHERS[suite].tag_bytes)
    seal_into(memoryview(sealed), plaintext, key=key, place=place, nonce=nonce, suite=suite)
    return bytes(sealed)


def unseal(sealed: Buffer, *, key: bytes, place: bytes, nonce: bytes, suite: Suite) -> bytes:
    """Undo `seal`.

    Raises:
        NotAuthentic: Another key, another place, or altered bytes.
    """
    cipher = _CIPHERS[suite]
    if len(nonce) != cipher.nonce_bytes or len(sealed) < cipher.tag_bytes:
        raise NotAuthentic
    plaintext = bytearray(len(sealed) - cipher.tag_bytes)
    unseal_into(memoryview(plaintext), sealed, key=key, place=place, nonce=nonce, suite=suite)
    return bytes(plaintext)


class Nonces:
    """Random nonces that stay apart even when a cloned machine's random source repeats.

    A delegate is a clone of a template, so its start-up randomness is suspect: the controller
    gives every job a `seed` of its own, and a counter is mixed in.
    """

    def __init__(self, seed: bytes | None = None) -> None:
        """Use `seed`, 32 bytes, or make one."""
        self._seed = seed or os.urandom(KEY_BYTES)
        self._count = itertools.count()

    def next(self, suite: Suite) -> bytes:
        """A nonce nobody has used; safe to call from many threads."""
        fresh = os.urandom(32) + next(self._count).to_bytes(8, "little")
        return blake3(fresh, key=self._seed).digest(length=nonce_bytes(suite))
