"""Authenticated encryption, by suite number.

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
from nacl import bindings
from nacl.exceptions import CryptoError

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
    seal: Callable[[bytes, bytes, bytes, bytes], bytes]
    open: Callable[[bytes, bytes, bytes, bytes], bytes]


_CIPHERS = {
    Suite.XCHACHA20_POLY1305: _Cipher(
        24,
        16,
        bindings.crypto_aead_xchacha20poly1305_ietf_encrypt,
        bindings.crypto_aead_xchacha20poly1305_ietf_decrypt,
    ),
    Suite.AEGIS_256: _Cipher(
        32, 32, bindings.crypto_aead_aegis256_encrypt, bindings.crypto_aead_aegis256_decrypt
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


def overhead_bytes(suite: Suite) -> int:
    """How much longer sealed bytes are than the plaintext: nonce and tag."""
    return _CIPHERS[suite].nonce_bytes + _CIPHERS[suite].tag_bytes


def seal(plaintext: bytes, *, key: bytes, place: bytes, nonce: bytes, suite: Suite) -> bytes:
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
    return _CIPHERS[suite].seal(plaintext, place, nonce, key)


def unseal(sealed: bytes, *, key: bytes, place: bytes, nonce: bytes, suite: Suite) -> bytes:
    """Undo `seal`.

    Raises:
        NotAuthentic: Another key, another place, or altered bytes.
    """
    cipher = _CIPHERS[suite]
    if len(nonce) != cipher.nonce_bytes or len(sealed) < cipher.tag_bytes:
        raise NotAuthentic
    try:
        return cipher.open(sealed, place, nonce, key)
    except CryptoError as cause:
        raise NotAuthentic from cause


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
