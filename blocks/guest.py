"""A VM that is backed up from inside (Q-Hybrid)."""

from pathlib import Path
from typing import ClassVar, Literal

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

import likeness
from blocks.schema import SchemaMadeOnce
from likeness.agent.remote import Address
from likeness.model.choosing import uuid_in
from likeness.model.ids import VmId

MADE_HERE = Path(likeness.__file__).parents[1] / "dist" / "likeness-agent"
"""Where `make agent` leaves the executable."""
_INSTALLED = "likeness-agent"


class Guest(SchemaMadeOnce, Block):
    """Where the agent is started inside one VM, and how its disks are frozen there.

    Example:
        ```python
        from blocks import Guest

        guest = Guest.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str] = "Guest"
    _block_type_slug: ClassVar[str] = "likeness-guest"

    vm: str = Field(
        title="VM's uuid",
        description="As the pool shows it, or xenstore-read vm in the guest: versions made from"
        " inside and from outside belong to the same VM.",
    )
    vm_name: str = Field(
        title="VM's name", description="For reports.", min_length=1, max_length=200
    )
    address: str = Field(title="Address", description="Where its SSH server listens.", min_length=1)
    port: int = Field(default=22, ge=1, le=65535, title="Port", description="Of its SSH server.")
    host_key: str = Field(
        title="Host key",
        description="The SSH server's public key, such as ssh-ed25519 AAAA...; no other machine is"
        " talked to. In the guest: cat /etc/ssh/ssh_host_ed25519_key.pub.",
    )
    username: str = Field(
        default="root", min_length=1, title="Account", description="One that may read disks."
    )
    private_key: SecretStr = Field(
        title="Private key", description="To log in with, in OpenSSH's form, without passphrase."
    )
    with_sudo: bool = Field(
        default=False,
        title="With sudo",
        description="Whether the account needs sudo, without password, to read disks.",
    )
    agent: Literal["copied", "installed"] = Field(
        default="copied",
        title="Agent",
        description="copied: put there for each job and removed after it; installed:"
        f" {_INSTALLED} is a command of the guest.",
    )
    agent_file: str = Field(
        default="",
        title="Executable to copy",
        description="Empty: dist/likeness-agent of this installation, which make agent makes.",
    )
    folder: str = Field(
        default="/var/tmp",  # noqa: S108  # in the guest, a private folder below it
        pattern=r"^/[A-Za-z0-9/._-]+$",
        title="Folder for the agent",
        description="Where there is room in the guest, and programs may be run.",
    )
    disks: list[str] = Field(
        default=[],
        title="Disks",
        description="Paths of the disks to read, such as /dev/xvda; none: all the guest has.",
    )
    before: str = Field(
        default="",
        max_length=1000,
        title="Command before",
        description="Run in the guest before its disks are frozen, such as one that quiesces a"
        " database. If it fails nothing is read.",
    )
    after: str = Field(
        default="",
        max_length=1000,
        title="Command after",
        description="Run once they are frozen, whatever happened; reading goes on meanwhile.",
    )
    script_seconds: int = Field(
        default=60, ge=1, le=3600, title="Time for each command, seconds", description="At most."
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=64,
        title="Threads",
        description="How many compress and encrypt; 0: as many as have room, four at most.",
    )
    memory_mib: int = Field(
        default=0,
        ge=0,
        le=65536,
        title="Memory, MiB",
        description="0: below 150, or what the threads you ask for need; below 96 it is slow.",
    )
    nice: int = Field(
        default=10, ge=0, le=19, title="Niceness", description="19 lets everybody else go first."
    )
    io_class: Literal["idle", "best-effort"] = Field(
        default="best-effort",
        title="I/O class",
        description="idle: reads when nobody else does.",
    )

    @field_validator("vm")
    @classmethod
    def _a_uuid(cls, vm: str) -> str:
        if not uuid_in(vm):
            raise ValueError("no uuid")
        return vm

    @property
    def vm_id(self) -> VmId:
        """Which VM it is."""
        return VmId(uuid_in(self.vm))

    @property
    def executable(self) -> Path:
        """What is copied."""
        return Path(self.agent_file) if self.agent_file else MADE_HERE

    def ssh(self) -> Address:
        """Where its agent is started, as if it were installed."""
        return Address(
            self.address,
            self.port,
            self.host_key.strip(),
            self.private_key.get_secret_value(),
            username=self.username,
            command=f"sudo -n {_INSTALLED}" if self.with_sudo else _INSTALLED,
            what="guest",
        )
