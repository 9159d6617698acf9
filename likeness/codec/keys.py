"""The keys of a store, all made from one master key.

| key          | who has it               | for                                             |
|--------------|--------------------------|-------------------------------------------------|
| master       | the controller           | making the others                               |
| chunk id     | controller and sources   | naming chunks                                   |
| meta         | the controller           | sealing maps, records and catalog copies        |
| box, private | the controller           | opening the session keys of sources             |
| box, public  | everybody                | sealing a session key for the controller        |
| sign         | the controller           | signing documents                               |
| verify       | everybody                | checking signatures, without any secret         |
| session      | one source, for one run  | sealing the chunks of that run                  |
| vault sign   | a vault, and no source   | signing what a vault writes itself              |

Chunk ids have a *scope*: the store's own, or that of one VM whose guest is not trusted with the
store's. Equal chunks of two scopes have different names, so nothing is shared between them and
nobody can test with the one key what is named with the other.

Meta, box and sign keys belong to an *epoch*; a new epoch is begun when somebody who may have known
them leaves. The chunk id key never changes inside a store, else nothing would match any more.
"""

import hashlib
import secrets
from dataclasses import dataclass, field

from nacl.exceptions import BadSignatureError, CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox
from nacl.signing import SigningKey, VerifyKey

from likeness.codec.aead import KEY_BYTES, NotAuthentic
from likeness.codec.hashing import derived_key
from likeness.model.ids import StoreId, VmId

SIGNATURE_BYTES = 64
SESSION_ID_BYTES = 16
SCOPE_BYTES = 16
STORE_SCOPE = bytes(SCOPE_BYTES)
"""The scope of all whom the controller trusts: itself, and delegates."""
BOXED_KEY_BYTES = KEY_BYTES + 48
FIRST_EPOCH = 1


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """What may be known to everybody about one epoch of a store."""

    store: StoreId
    epoch: int
    box: bytes
    verify: bytes

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the holder of this epoch's sign key signed `message`."""
        try:
            VerifyKey(self.verify).verify(message, signature)
        except (BadSignatureError, ValueError):
            return False
        return True

    @property
    def fingerprint(self) -> str:
        """What a person compares with the recovery sheet: 32 hex digits in groups of four."""
        digits = hashlib.sha256(self.verify).hexdigest()[:32]
        return " ".join(digits[at : at + 4] for at in range(0, 32, 4))


@dataclass(frozen=True, slots=True)
class SessionKey:
    """The key one source seals one run's chunks with.

    Attributes:
        session: 16 random bytes that name it.
        key: 32 bytes.
        boxed: The key sealed to the store's public box key; stands in every pack, so that whoever
            can open the box can open the pack.
        scope: Whose chunk id key names the chunks.
    """

    session: bytes
    key: bytes = field(repr=False)
    boxed: bytes
    scope: bytes = STORE_SCOPE

    @classmethod
    def fresh(cls, box: bytes, *, scope: bytes = STORE_SCOPE) -> "SessionKey":
        """Make one for the holder of the private half of `box`; the maker need not be it."""
        key = secrets.token_bytes(KEY_BYTES)
        boxed = bytes(SealedBox(PublicKey(box)).encrypt(key))
        return cls(secrets.token_bytes(SESSION_ID_BYTES), key, boxed, scope)


class StoreKeys:
    """Everything the controller derives from the master key of one store."""

    def __init__(self, store: StoreId, master: bytes, *, epoch: int = FIRST_EPOCH) -> None:
        """Derive the keys; `epoch` is the newest, the one that new documents are written in."""
        self.store = store
        self.epoch = epoch
        self.master = master
        self.chunk_id_key = derived_key(master, "chunk id")
        self._metas: dict[int, bytes] = {}
        self._boxes: dict[int, SealedBox[PrivateKey]] = {}
        self._signs: dict[tuple[int, str], SigningKey] = {}
        self._publics: dict[tuple[int, str], PublicKeys] = {}

    def __repr__(self) -> str:
        return f"StoreKeys(store={self.store}, epoch={self.epoch})"

    def scope_of(self, vm: VmId) -> bytes:
        """The scope of one VM that shares no chunks with others; does not tell which VM it is."""
        return derived_key(self.master, "scope of one vm", bytes.fromhex(vm))[:SCOPE_BYTES]

    def chunk_id_key_in(self, scope: bytes) -> bytes:
        """The chunk id key of a scope; 32 bytes."""
        if scope == STORE_SCOPE:
            return self.chunk_id_key
        return derived_key(self.master, "chunk id in a scope", scope)

    def meta_key(self, epoch: int) -> bytes:
        """32 bytes.

        Raises:
            NotAuthentic: No document of this store can be of that epoch.
        """
        if not FIRST_EPOCH <= epoch <= self.epoch:
            raise NotAuthentic
        if epoch not in self._metas:
            self._metas[epoch] = derived_key(self.master, "meta", _number(epoch))
        return self._metas[epoch]

    def public(self, epoch: int | None = None, *, vault: str = "") -> PublicKeys:
        """The public halves of an epoch; of the newest if none is named.

        Args:
            epoch: Which.
            vault: With the sign key of this vault instead of the store's.
        """
        epoch = self.epoch if epoch is None else epoch
        which = (epoch, vault)
        if which not in self._publics:  # asked for with every document that is read
            private = self._box_private(epoch)
            verify = self._sign_key(epoch, vault).verify_key
            self._publics[which] = PublicKeys(
                self.store, epoch, bytes(private.public_key), bytes(verify)
            )
        return self._publics[which]

    def sign(self, message: bytes, *, vault: str = "") -> bytes:
        """64 bytes, in the newest epoch; as a vault if one is named."""
        return self._sign_key(self.epoch, vault).sign(message).signature

    def open_session(self, boxed: bytes) -> bytes:
        """The session key in a box; 32 bytes.

        Raises:
            NotAuthentic: It was sealed for another store, or altered.
        """
        for epoch in range(self.epoch, 0, -1):
            if epoch not in self._boxes:
                self._boxes[epoch] = SealedBox(self._box_private(epoch))
            try:
                return self._boxes[epoch].decrypt(boxed)
            except CryptoError:
                continue
        raise NotAuthentic

    def _box_private(self, epoch: int) -> PrivateKey:
        return PrivateKey(derived_key(self.master, "box", _number(epoch)))

    def _sign_key(self, epoch: int, vault: str = "") -> SigningKey:
        which = (epoch, vault)
        if which not in self._signs:
            of_vault = [bytes.fromhex(vault)] if vault else []
            purpose = "vault sign" if vault else "sign"
            seed = derived_key(self.master, purpose, _number(epoch), *of_vault)
            self._signs[which] = SigningKey(seed)
        return self._signs[which]


def _number(epoch: int) -> bytes:
    return epoch.to_bytes(4, "little")
