"""The pool whose VMs are protected."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

from blocks.schema import SchemaMadeOnce
from blocks.session import shared_opening
from likeness.model.addresses import AddressGroup, StaticAddress, all_addresses
from likeness.stopping import StopToken
from likeness.xen.delegates import BOOT_SECONDS, DEFAULT_TAG
from likeness.xen.owner import Owner
from likeness.xen.session import XenSession


class XenPool(SchemaMadeOnce, Block):
    """Address and login of one XenServer or XCP-ng pool.

    Example:
        ```python
        from blocks import XenPool

        pool = XenPool.load("BLOCK_NAME")
        with pool.open() as xen:
            print(xen.url)
        ```
    """

    _block_type_name: ClassVar[str] = "Xen Pool"
    _block_type_slug: ClassVar[str] = "likeness-xen-pool"

    url: str = Field(
        title="Address",
        description="The pool's coordinator, such as https://xen1.example.",
    )
    username: str = Field(
        default="root",
        title="Account",
        description="An account with the role vm-power-admin, or the local root.",
    )
    password: SecretStr = Field(title="Password", description="The account's password.")
    fingerprint: str = Field(
        default="",
        title="Certificate fingerprint",
        description="SHA-256 of the hosts' certificates, separated by commas; needed unless a"
        " trusted authority signed them. A wrong one is refused with the one that was seen.",
    )
    patience_seconds: int = Field(
        default=30,
        ge=1,
        le=3600,
        title="Patience, seconds",
        description="How long to go on trying to reach a pool that does not answer.",
    )
    operation_seconds: int = Field(
        default=600,
        ge=1,
        le=86400,
        title="Longest operation, seconds",
        description="Whatever the pool is asked to do, such as a snapshot, and has not done after"
        " so long is cancelled, and its VM fails.",
    )
    silence_seconds: int = Field(
        default=300,
        ge=1,
        le=86400,
        title="Longest silence of a transfer, seconds",
        description="When a disk gives no data for so long the connection is given up, and the"
        " disk is read again from the same snapshot.",
    )
    delegate_template: str = Field(
        default=DEFAULT_TAG,
        min_length=1,
        title="Template of delegates",
        description="Uuid of a template in the pool, or a tag that one template has: delegates of"
        " jobs with source enhanced are cloned from it.",
    )
    delegate_network: str = Field(
        default="",
        title="Network of delegates",
        description="Name or uuid of the network a delegate is on, such as a VLAN that reaches the"
        " data store; empty: the template's.",
    )
    delegate_addresses: list[AddressGroup] = Field(
        default=[],
        title="Addresses of delegates",
        description="Static addresses for delegates in this pool, each for one at a time; a VM for"
        " which none is free waits before anything is frozen. None: addresses come by DHCP.",
    )
    delegate_boot_seconds: int = Field(
        default=int(BOOT_SECONDS),
        ge=1,
        le=86400,
        title="Longest start of a delegate, seconds",
        description="A delegate that has not told its address after so long is removed, and its VM"
        " fails.",
    )
    delegate_idle_seconds: int = Field(
        default=0,
        ge=0,
        le=86400,
        title="Keep a delegate for the job's next VM, seconds",
        description="0: every VM gets a new one. Otherwise a delegate goes on with the next VM of"
        " its job, and is removed when none came for so long, or the job ends.",
    )
    delegate_wait_minutes: int = Field(
        default=720,
        ge=1,
        le=10_080,
        title="Longest wait for an address, minutes",
        description="A VM that has waited for a delegate's address for so long fails.",
    )

    @field_validator("delegate_addresses")
    @classmethod
    def _each_once(cls, groups: list[AddressGroup]) -> list[AddressGroup]:
        all_addresses(groups)
        return groups

    @property
    def static_addresses(self) -> tuple[StaticAddress, ...]:
        """Every static address of delegates; none: DHCP."""
        return all_addresses(self.delegate_addresses)

    @contextmanager
    def open(
        self, *, stop: StopToken | None = None, owner: Owner | None = None
    ) -> Generator[XenSession, None, None]:
        """Log in for as long as the `with` lasts; within a session the login is shared.

        Args:
            stop: Ends waiting early.
            owner: Installation and run; what the session begins in the pool is marked with them.

        Raises:
            HostUnreachable: Nobody answers at the address.
            LoginRefused: The account or its password is wrong.
        """
        shared = shared_opening(self)
        if shared is None:
            with self._opened(stop, owner) as session:
                yield session
            return
        with shared.use(lambda: self._opened(stop, owner), lambda _: None) as session:
            yield session.like(stop=stop, owner=owner)

    def _opened(self, stop: StopToken | None, owner: Owner | None) -> XenSession:
        return XenSession.login(
            self.url,
            username=self.username,
            password=self.password.get_secret_value(),
            fingerprint=self.fingerprint or None,
            patience_seconds=self.patience_seconds,
            stop=stop,
            owner=owner,
            task_seconds=self.operation_seconds,
            idle_seconds=self.silence_seconds,
        )
