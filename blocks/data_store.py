"""Where backups lie: the data store, and the vault."""

import copy
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from prefect.blocks.core import Block
from pydantic import BaseModel, Field, PrivateAttr, SecretStr

from blocks.schema import SchemaMadeOnce
from blocks.session import shared_opening, was_just_well
from likeness.errors import BadInput, LikenessError
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.owning import Fence, owner_of
from likeness.store.format.public_view import PublicStore
from likeness.store.format.turns import Pens
from likeness.store.format.vault_file import VaultFile, is_vault_file, read_vault_file
from likeness.store.format.vault_file import open_without_key as opened_without_key
from likeness.transport.base import Transport
from likeness.transport.place import BucketServer, open_place


class _Account(BaseModel):
    """A folder, or a share or bucket and the account for it."""

    place: str = Field(
        title="Place",
        description="A folder of this machine that exists, such as /backup/ads,"
        r" a share such as smb://server/share/folder or \\server\share\folder,"
        " or a bucket such as s3://bucket/folder.",
    )
    username: str = Field(
        default="",
        title="Account",
        description="The share's account, or the access key of a bucket; a folder needs none.",
    )
    password: SecretStr = Field(
        default=SecretStr(""),
        title="Password",
        description="The account's password, or the secret key of a bucket.",
    )
    encrypt: bool = Field(
        default=True,
        title="Encrypt the connection",
        description="Refuse a share that does not encrypt SMB, and a bucket's server without https;"
        " both are signed in any case.",
    )


class _WithKey(_Account):
    """The key comes before what was added to shares later: the order is part of a saved block."""

    key_file: str = Field(
        title="Key file",
        description="The file on this machine with the store's key, readable by its owner alone,"
        " such as /var/lib/likeness/store.key; on a machine that only fills a vault, the vault file"
        " that likeness vault-file made.",
        pattern="^/",
    )


class Share(_Account):
    """A folder, share or bucket that can be connected to."""

    endpoint: str = Field(
        default="",
        title="Bucket: endpoint",
        description="The server of a bucket, such as https://minio.example:9000; empty: AWS.",
    )
    region: str = Field(
        default="us-east-1",
        title="Bucket: region",
        description="The region that requests to a bucket are signed for.",
    )
    path_style: bool = Field(
        default=True,
        title="Bucket: name it in the path",
        description="As most servers want it; off: in the server's name.",
    )
    ca_file: str = Field(
        default="",
        title="Bucket: CA file",
        description="A file on this machine with the certificates to trust for a bucket's server;"
        " empty: those of the system.",
        pattern="^(|/.*)$",
    )

    def connect(self) -> Transport:
        """Connect to the place, without opening a store there.

        Raises:
            BadInput: The place is no folder, share or bucket, or its server cannot be.
            StoreMissing: There is no such folder or bucket.
        """
        return open_place(
            self.place,
            username=self.username,
            password=self.password.get_secret_value(),
            encrypt=self.encrypt,
            s3=BucketServer(self.endpoint, self.region, self.path_style, self.ca_file),
        )


class DataStoreShare(SchemaMadeOnce, Share, _WithKey, Block):
    """The data store (ADS): a folder, share or bucket, its account, and the key that opens it.

    Example:
        ```python
        from blocks import DataStoreShare

        share = DataStoreShare.load("BLOCK_NAME")
        with share.open() as store:
            print(store.store_id)
        ```
    """

    _block_type_name: ClassVar[str] = "Data Store Share"
    _block_type_slug: ClassVar[str] = "likeness-data-store"

    drop_box_username: str = Field(
        default="",
        title="Account of delegates",
        description="An account of the share that may add files below in/ and nothing else; jobs"
        " with source enhanced need it.",
    )
    drop_box_password: SecretStr = Field(
        default=SecretStr(""),
        title="Password of delegates' account",
        description="It is handed to each delegate for the time of its transfer.",
    )
    read_only: bool = Field(
        default=False,
        title="Only read from here",
        description="For the machine of a vault that fetches its copies itself, with an account"
        " that may only read: nothing is ever written to this data store from there.",
    )
    _user: Callable[[], str] | None = PrivateAttr(default=None)
    _pens: Pens | None = PrivateAttr(default=None)

    def used_by(self, installation: Callable[[], str], pens: Pens | None = None) -> Self:
        """The same block; an installation that does not own the store may not change it.

        With `pens`, nor may a copy of it.
        """
        self._user, self._pens = installation, pens
        return self

    @contextmanager
    def open(self) -> Generator[DataStore, None, None]:
        """Open the store for as long as the `with` lasts; within a session it is shared.

        Raises:
            StoreMissing: There is none.
            WrongKey: The key file opens another store.
            ShareUnreachable: The server does not answer.
        """
        shared = shared_opening(self)
        if shared is None:
            with self._opened() as store:
                yield store
            return
        with shared.use(self._opened, DataStore.require_unchanged) as store:
            yield copy.copy(store)  # what one does to it is not another's

    @contextmanager
    def _opened(self) -> Generator[DataStore, None, None]:
        if self.without_key:
            raise BadInput(
                f"this machine holds no key of the data store at {self.place}, only a vault file:"
                " it fills a vault and checks it; do this where the jobs run"
            )
        transport = self.connect()
        try:
            store = open_store_with_key_file(transport, Path(self.key_file))
            if store.facts.vault:
                raise BadInput(
                    f"{self.place} holds a vault, and no data store; restore from it as the vault,"
                    " or make it the data store with likeness recover"
                )
            store.read_only = self.read_only
            if self._user is not None and not self.read_only:
                store.fence = Fence(self._user, self._pens)
            yield store
        finally:
            transport.close()

    @property
    def without_key(self) -> bool:
        """Whether this machine has a vault file in place of a key."""
        return is_vault_file(Path(self.key_file))

    def vault_file(self) -> VaultFile:
        """What the vault file says.

        Raises:
            BadInput: There is none.
        """
        return read_vault_file(Path(self.key_file))

    @contextmanager
    def open_without_key(self) -> Generator[PublicStore, None, None]:
        """The store as seen without any secret, under the keys that the vault file pins.

        Raises:
            StoreMissing: There is none.
            WrongFingerprint: It has other keys, or is another store.
            ShareUnreachable: The server does not answer.
        """
        transport = self.connect()
        try:
            yield opened_without_key(transport, self.vault_file())
        finally:
            transport.close()

    def look(self) -> AbstractContextManager[DataStore | PublicStore]:
        """Open it with whatever this machine has: its key, or public keys alone."""
        return self.open_without_key() if self.without_key else self.open()

    def was_just_well(self) -> bool:
        """Whether the session right before this one had it open to its end."""
        return was_just_well(self)

    def owner(self) -> str:
        """The installation that the store says it belongs to; empty if it does not say."""
        with self.look() as store:
            return owner_of(store)


class Vault(SchemaMadeOnce, Share, Block):
    """The second place, where versions are copied to: a share, folder or bucket, and its account.

    A vault opens with the same keys as the data store it was filled from.
    Give it an account of its own: whoever gets hold of the data store's must not reach it.

    Example:
        ```python
        from blocks import Vault

        vault = Vault.load("BLOCK_NAME")
        transport = vault.connect()
        ```
    """

    _block_type_name: ClassVar[str] = "Vault"
    _block_type_slug: ClassVar[str] = "likeness-vault"

    most_mib_a_second: float = Field(
        default=0,
        ge=0,
        title="At most, MiB a second",
        description="How fast is copied to the vault, and read back there; 0: as fast as it goes.",
    )
    at_hours: str = Field(
        default="",
        title="At these hours only",
        description="Hours in UTC such as 22-6; empty: at any hour. What is under way then stops"
        " after the pack at hand, and the next vaulting goes on there.",
        pattern=r"^(|([01]?[0-9]|2[0-3])-([01]?[0-9]|2[0-3]))$",
    )
    read_back_after: str = Field(
        default="30 days",
        title="Read back again after",
        description="What was read back at the vault longer ago than this is read again by the flow"
        " check-vault: a number of hours, days or weeks, always, or never.",
        pattern=r"^(always|never|[1-9][0-9]{0,4} (hours?|days?|weeks?))$",
    )

    locked_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        title="Bucket: keep undeletable, days",
        description="What a version needs cannot be deleted by anybody for so long after it was"
        " vaulted; the bucket must have been made with object lock. 0: no locks.",
    )

    keep: str = Field(
        default="",
        title="Keep there",
        description="Which versions the vault keeps of each VM, such as last 2, monthly 12; only"
        " these are copied, and others given up there. Empty: all that the data store ever had.",
    )

    def connect(self) -> Transport:
        """See `Share.connect`; what goes wrong there names the vault's block."""
        with _said_of_the_vault():
            return cast(Transport, _VaultTransport(super().connect()))


class _VaultTransport:
    """A transport whose sentences send people to the block that it was made from."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __str__(self) -> str:
        return str(self._transport)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._transport, name)
        if not callable(found):
            return found

        @wraps(found)
        def said(*args: Any, **kwargs: Any) -> Any:
            with _said_of_the_vault():
                answer = found(*args, **kwargs)
            return _iterated(answer) if isinstance(answer, Generator) else answer

        return said


def _iterated(items: Iterator[Any]) -> Iterator[Any]:
    with _said_of_the_vault():
        yield from items


@contextmanager
def _said_of_the_vault() -> Generator[None, None, None]:
    try:
        yield
    except LikenessError as problem:
        said = [
            str(each).replace("the data store's block", "the vault's block")
            for each in problem.args
        ]
        problem.args = tuple(said)
        raise
