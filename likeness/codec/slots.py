"""Ways of opening a store: each slot holds the master key, wrapped for one of them.

A slot is opened before anything else can be checked, so its own authenticity comes from the
wrapping; limits on what it may ask of the machine are checked first. An escrow slot is a sealed
box, which anybody could have made: its master key is believed once the store's format document
bears it out.

Source:
    argon2id, RFC 9106, through libsodium; recovery words, BIP-39.
"""

import os
import re
import secrets
from enum import StrEnum
from pathlib import Path

import msgspec
from mnemonic import Mnemonic
from nacl import pwhash
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from likeness.codec.aead import KEY_BYTES, NotAuthentic, Suite, nonce_bytes, seal, unseal
from likeness.codec.hashing import DIGEST_BYTES, derived_key, digest
from likeness.codec.secret_files import read_secret
from likeness.codec.typed import each_word
from likeness.errors import BadInput, WrongKey

WORDS = 24
_TELLING_LETTERS = 4
"""By so many first letters any two words differ."""
_SUITE = Suite.XCHACHA20_POLY1305
_SALT_BYTES = 16
_MAX_OPERATIONS = 10
_MAX_MEMORY = 4 << 30
_KEY_FILE = re.compile(r"likeness-key-1:([0-9a-f]{64})\n\Z")


class SlotKind(StrEnum):
    """What a person or machine must have to open it."""

    PASSPHRASE = "passphrase"  # noqa: S105  # the name of a kind
    RECOVERY_WORDS = "recovery words"
    KEY_FILE = "key file"
    ESCROW = "escrow key"


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The master key, wrapped.

    Attributes:
        kind: What opens it.
        salt: 16 bytes, hex.
        operations: argon2id's time cost; 0 where the opener is random and needs no stretching.
        memory_bytes: argon2id's memory cost; 0 likewise.
        wrapped: Nonce and sealed master key, hex; for an escrow key a sealed box with BLAKE3 of
            the slot's place and the master key.
    """

    kind: SlotKind
    salt: str
    operations: int
    memory_bytes: int
    wrapped: str


def fresh_secret() -> bytes:
    """32 random bytes, for a key file or for recovery words."""
    return secrets.token_bytes(KEY_BYTES)


def wrap(master: bytes, opener: bytes, kind: SlotKind, *, store: str) -> Slot:
    """Make a slot that `opener` opens.

    Args:
        master: The store's master key, 32 bytes.
        opener: A passphrase as `typed.passphrase_bytes` gives it, or 32 random bytes.
        kind: Which of them.
        store: The store's id; the slot opens in no other.
    """
    salt = secrets.token_bytes(_SALT_BYTES)
    stretched = kind is SlotKind.PASSPHRASE
    operations = pwhash.argon2id.OPSLIMIT_MODERATE if stretched else 0
    memory = pwhash.argon2id.MEMLIMIT_MODERATE if stretched else 0
    key = _wrapping_key(opener, salt, operations, memory)
    nonce = secrets.token_bytes(nonce_bytes(_SUITE))
    sealed = seal(master, key=key, place=_place(store, kind), nonce=nonce, suite=_SUITE)
    return Slot(kind, salt.hex(), operations, memory, (nonce + sealed).hex())


def wrap_in_escrow(master: bytes, public: bytes, *, store: str) -> Slot:
    """Make a slot that only the holder of the private half of `public`, 32 bytes, opens.

    A company keeps one such pair in a safe, for the stores of all its installations.
    """
    plain = digest([_place(store, SlotKind.ESCROW)]) + master
    sealed = bytes(SealedBox(PublicKey(public)).encrypt(plain))
    return Slot(SlotKind.ESCROW, "", 0, 0, sealed.hex())


def escrow_public_key(private: bytes) -> bytes:
    """The half of an escrow key that may be known to everybody; 32 bytes."""
    return bytes(PrivateKey(private).public_key)


def unwrap(slot: Slot, opener: bytes, *, store: str) -> bytes:
    """The master key in a slot; 32 bytes.

    Raises:
        WrongKey: The slot does not open with this, or asks more than any slot of ours does.
    """
    if not 0 <= slot.operations <= _MAX_OPERATIONS or not 0 <= slot.memory_bytes <= _MAX_MEMORY:
        raise WrongKey("a key slot asks for more memory or time than any slot made here does")
    if slot.kind is SlotKind.ESCROW:
        return _out_of_escrow(slot, opener, store)
    try:
        salt, wrapped = bytes.fromhex(slot.salt), bytes.fromhex(slot.wrapped)
        key = _wrapping_key(opener, salt, slot.operations, slot.memory_bytes)
        nonce, sealed = wrapped[: nonce_bytes(_SUITE)], wrapped[nonce_bytes(_SUITE) :]
        return unseal(sealed, key=key, place=_place(store, slot.kind), nonce=nonce, suite=_SUITE)
    except (NotAuthentic, ValueError, RuntimeError) as cause:  # the last: no memory to stretch it
        raise WrongKey(f"the {slot.kind} does not open this store") from cause


def as_words(secret: bytes) -> str:
    """32 secret bytes as 24 words with a checksum, to be written on paper."""
    return Mnemonic("english").to_mnemonic(secret)


def from_words(words: str) -> bytes:
    """The secret behind 24 words; case, numbers, commas and line ends do not matter.

    The first four letters of a word are enough.

    Raises:
        BadInput: A word is mistyped, missing or out of order.
    """
    english = Mnemonic("english")
    given = each_word(words)
    meant = [_meant(word, number, english) for number, word in enumerate(given, 1)]
    if len(meant) != WORDS:
        raise BadInput(
            f"these are not {WORDS} recovery words but {len(meant)}; compare them with the recovery"
            " sheet"
        )
    plain = " ".join(meant)
    if not english.check(plain):
        raise BadInput(
            f"these are not {WORDS} recovery words in their order; the checksum does not match,"
            " so compare them with the recovery sheet"
        )
    return bytes(english.to_entropy(plain))


def write_key_file(path: Path, secret: bytes) -> None:
    """Put a secret into a new file that only its owner can read.

    Raises:
        BadInput: There is such a file already.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with open(path, "x", encoding="ascii", opener=_private_opener) as file:
            file.write(f"likeness-key-1:{secret.hex()}\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as cause:
        raise BadInput(
            f"the key file {path} exists already; it may open another store, so it is kept"
        ) from cause


def read_key_file(path: Path) -> bytes:
    """The secret in a key file; 32 bytes.

    Raises:
        BadInput: No such file, not a key file, or other users may read it.
    """
    text = read_secret(
        path,
        "the key file",
        otherwise="without it the store opens with the recovery words or a passphrase only",
    )
    match = _KEY_FILE.match(text)
    if match is None:
        raise BadInput(f"{path} is not a key file of this program")
    return bytes.fromhex(match.group(1))


def _meant(word: str, number: int, english: Mnemonic) -> str:
    if word in english.wordlist:
        return word
    if len(word) >= _TELLING_LETTERS:
        for known in english.wordlist:
            if known.startswith(word):
                return str(known)
    raise BadInput(
        f"word {number}, {word!r} is not one of the recovery words; look for a slip in it"
    )


def _out_of_escrow(slot: Slot, private: bytes, store: str) -> bytes:
    try:
        plain = SealedBox(PrivateKey(private)).decrypt(bytes.fromhex(slot.wrapped))
    except (CryptoError, ValueError, TypeError) as cause:
        raise WrongKey(f"the {slot.kind} does not open this store") from cause
    bound, master = plain[:DIGEST_BYTES], plain[DIGEST_BYTES:]
    if bound != digest([_place(store, SlotKind.ESCROW)]) or len(master) != KEY_BYTES:
        raise WrongKey(f"the {slot.kind} opens a slot of another store only")
    return master


def _wrapping_key(opener: bytes, salt: bytes, operations: int, memory: int) -> bytes:
    if operations:
        opener = pwhash.argon2id.kdf(KEY_BYTES, opener, salt, opslimit=operations, memlimit=memory)
    elif len(opener) != KEY_BYTES:
        raise WrongKey("that is not the kind of key this slot opens with")
    return derived_key(opener, "slot", salt)


def _place(store: str, kind: SlotKind) -> bytes:
    return b"likeness slot v1" + bytes.fromhex(store) + kind.value.encode()


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
