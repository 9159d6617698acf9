"""A job: what shall be protected, and how. Its fields are the form in the Prefect UI."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

Consistency = Literal["standard", "quiesced", "memory", "offline"]
PowerState = Literal["Running", "Halted", "Suspended", "Paused"]
Word = Annotated[str, StringConstraints(min_length=1)]


class BackupJob(BaseModel):
    """What to back up, how many VMs at once, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        title="Name",
        description="What you call this job; it stands in every version it makes.",
        min_length=1,
        max_length=200,
    )
    vms: list[Word] = Field(
        default=[],
        title="VMs",
        description="Names or uuids of the VMs to back up, in the order to start them.",
    )
    tags: list[Word] = Field(
        default=[],
        title="VMs with a tag",
        description="Also back up every VM that has one of these XenServer tags when the job runs.",
    )
    hosts: list[Word] = Field(
        default=[],
        title="Hosts",
        description="Also every VM that runs on one of these hosts, by name or uuid, when the job"
        " runs.",
    )
    pools: list[Word] = Field(
        default=[],
        title="Pools",
        description="Also every VM of the site's pool, if this is its name or uuid.",
    )
    concurrency: int = Field(
        default=1,
        ge=1,
        le=64,
        title="VMs at once",
        description="How many VMs are in flight at any moment; as one ends the next begins.",
    )
    consistency: Consistency = Field(
        default="standard",
        title="Snapshot",
        description="standard: as after a power cut; quiesced: the guest writes out first; memory:"
        " with the running VM's memory; offline: shut down and started again. What was obtained is"
        " recorded with the version.",
    )
    vault: bool = Field(
        default=False,
        title="Vault afterwards",
        description="Copy what this job brought in to the site's vault when the job is done.",
    )
    power_states: list[PowerState] = Field(
        default=[],
        title="Only VMs that are",
        description="Of all these only VMs in one of these states when the job runs; none: in any.",
    )
    excluded_tag: str = Field(
        default="likeness-ignore",
        title="Never VMs with the tag",
        description="A VM with this XenServer tag is left out, whatever else is said.",
    )
    exclude_disks: dict[str, list[str]] = Field(
        default={},
        title="Disks to leave out",
        description="Name or uuid of a VM, to positions, names or uuids of its disks, such as"
        ' {"db": ["2"]}.',
    )
    only_disks: dict[str, list[str]] = Field(
        default={},
        title="Only these disks",
        description="Name or uuid of a VM, to positions, names or uuids of the disks to back up,"
        ' such as {"db": ["0"]}; a VM that is not named here is backed up with all.',
    )
    strict: bool = Field(
        default=False,
        title="Fail instead of falling back",
        description="When the snapshot asked for cannot be had, fail the VM instead of taking a"
        " standard one.",
    )
    changed_blocks: bool = Field(
        default=True,
        title="Read only changed blocks where the pool knows them",
        description="Switches XenServer's changed block tracking on for the VM's disks. Where it"
        " cannot be had the disk is read whole, and the reason stands in the report.",
    )
    bandwidth_mib: int = Field(
        default=0,
        ge=0,
        title="Reading speed, MiB/s at most",
        description="For the whole job; 0 is as fast as it goes.",
    )

    @property
    def means_something(self) -> bool:
        """Whether it could select a VM at all."""
        return bool(self.vms or self.tags or self.hosts or self.pools)

    @field_validator("vms", "tags", "hosts", "pools")
    @classmethod
    def _no_blanks(cls, values: list[str]) -> list[str]:
        if any(not value.strip() for value in values):
            raise ValueError("an empty name selects nothing; remove the row")
        return values
