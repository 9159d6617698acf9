"""A job: what shall be protected, and how. Its fields are the form in the Prefect UI."""

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from likeness.model.retention import POLICY_RULE, parse_policy
from likeness.model.sizes import shortened

Consistency = Literal["standard", "quiesced", "memory", "offline"]
Source = Literal["direct", "enhanced", "qhybrid", "qhybrid else enhanced"]
CheckBeforeSending = Literal["all", "sampled", "off"]
PowerState = Literal["Running", "Halted", "Suspended", "Paused"]
MAX_MIB = 1 << 20
_MAX_WORD = 1024
_UNSAYABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""What no name in a XenServer can have, since its messages cannot carry it."""


def _sayable(text: str) -> str:
    if not text.strip() or _UNSAYABLE.search(text):
        raise ValueError("no name")
    return text


Name = Annotated[str, AfterValidator(_sayable)]
Word = Annotated[Name, StringConstraints(min_length=1, max_length=_MAX_WORD)]


def _policy(text: str) -> str:
    return str(parse_policy(text)) if text.strip() else ""


Policy = Annotated[str, AfterValidator(_policy)]
"""How many versions to keep, in words; empty: nothing is said."""


class BackupJob(BaseModel):
    """What to back up, how many VMs at once, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(
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
    source: Source = Field(
        default="direct",
        title="Source",
        description="direct: this machine reads the disks; enhanced: for each VM in flight a small"
        " delegate VM (ABD), cloned from the Xen Pool block's template, reads its disks and sends"
        " them straight to the data store; qhybrid: each guest named below does so itself, and the"
        " pool is asked nothing; qhybrid else enhanced: a guest that cannot is read by a delegate.",
    )
    guests: list[Word] = Field(
        default=[],
        title="Guests",
        description="For the sources qhybrid: names of Guest blocks, in the order to start them;"
        " VMs, tags, hosts and pools stay empty then.",
    )
    trust_guests: bool = Field(
        default=False,
        title="Trust these guests",
        description="Let guests share deduplication with all other VMs: who owns such a guest can"
        " then test whether the store holds a block he knows. Changing it sends everything anew.",
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
    exclude_disks: dict[Word, list[Word]] = Field(
        default={},
        title="Disks to leave out",
        description="Name or uuid of a VM, to positions, names or uuids of its disks, such as"
        ' {"db": ["2"]}.',
    )
    only_disks: dict[Word, list[Word]] = Field(
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
        le=MAX_MIB,
        title="Reading speed, MiB/s at most",
        description="For the whole job; 0 is as fast as it goes.",
    )
    check_before_sending: CheckBeforeSending = Field(
        default="sampled",
        title="Open again before sending",
        description="Which data blocks are opened and compared with the disk before they leave:"
        " all, for a quarter to a third more processor time; sampled, one of 16; off, none."
        " Whatever is chosen, validation opens every one of them afterwards.",
    )

    keep: Policy = Field(
        default="",
        title="Versions to keep",
        description="Such as: last 5, daily 7, weekly 4, monthly 12, yearly 3; or everything."
        " Empty: what the site says. It counts from the next backup on.",
    )
    lock_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        title="Lock each version for days",
        description="Before that time nobody can forget it, whatever is asked; 0: no lock.",
    )

    @property
    def means_something(self) -> bool:
        """Whether it could select a VM at all."""
        return bool(self.vms or self.tags or self.hosts or self.pools or self.guests)

    @property
    def from_inside(self) -> bool:
        """Whether agents in the guests read, as far as they can."""
        return self.source.startswith("qhybrid")

    @field_validator("only_disks")
    @classmethod
    def _some_disk(cls, disks: dict[str, list[str]]) -> dict[str, list[str]]:
        if not all(disks.values()):
            raise ValueError("a VM without disks")
        return disks

    @model_validator(mode="after")
    def _guests_or_vms(self) -> Self:
        if self.from_inside and (self.vms or self.tags or self.hosts or self.pools):
            raise PydanticCustomError("guests", "{said}", {"said": _NO_VMS})
        if self.from_inside and (self.exclude_disks or self.only_disks or self.power_states):
            raise PydanticCustomError("guests", "{said}", {"said": _NO_DISKS})
        if self.from_inside and self.consistency != "standard":
            raise PydanticCustomError("guests", "{said}", {"said": _NO_KINDS})
        if self.guests and not self.from_inside:
            raise PydanticCustomError("guests", "{said}", {"said": _NO_GUESTS})
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _refused_in_words(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as refused:
            said = "; ".join(dict.fromkeys(cls._sentences(refused.errors())))
            raise PydanticCustomError("job", "{said}", {"said": said}) from None

    @classmethod
    def _sentences(cls, problems: Iterable[ErrorDetails]) -> Iterable[str]:
        for problem in problems:
            field = str(problem["loc"][0]) if problem["loc"] else ""
            if problem["type"] == "guests":
                yield problem["msg"]
            elif problem["type"] == "extra_forbidden":
                near = difflib.get_close_matches(field, cls.model_fields, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "; remove it"
                yield f"a job has no setting {shortened(field)}{hint}"
            elif field not in cls.model_fields:
                yield f"{shortened(value_of(problem))} is no job: give its settings by name"
            elif problem["type"] == "missing":
                yield f"the job has no {field!r}: {RULES[field]}"
            else:
                yield f"{field!r} cannot be {shortened(value_of(problem))}: {RULES[field]}"


_NO_VMS = (
    "a job with source qhybrid asks the pool nothing, so it cannot have VMs, tags, hosts or pools;"
    " name Guest blocks in 'guests'"
)
_NO_DISKS = (
    "a job with source qhybrid cannot choose by disks or power states; name the disks in the Guest"
    " block"
)
_NO_KINDS = (
    "a guest freezes itself, so with source qhybrid the snapshot is standard; quiesce databases"
    " with the Guest block's commands"
)
_NO_GUESTS = "only the sources qhybrid have 'guests'; choose one, or name VMs instead"
_NAMES = "give a list of names or uuids, none of them empty"
_TRUTH = "give true or false"
RULES = {
    "name": "give 1 to 200 characters, not all blank",
    "vms": _NAMES,
    "tags": "give a list of tags, none of them empty",
    "hosts": _NAMES,
    "pools": _NAMES,
    "concurrency": "give a whole number from 1 to 64",
    "consistency": "choose standard, quiesced, memory or offline",
    "source": "choose direct, enhanced, qhybrid or qhybrid else enhanced",
    "guests": "give a list of names of Guest blocks, none of them empty",
    "trust_guests": _TRUTH,
    "vault": _TRUTH,
    "power_states": "choose of Running, Halted, Suspended and Paused",
    "excluded_tag": "give one tag, or nothing",
    "exclude_disks": 'give VMs, each with a list of disks, such as {"db": ["2"]}',
    "only_disks": 'give VMs, each with a list of at least one disk, such as {"db": ["0"]}',
    "strict": _TRUTH,
    "changed_blocks": _TRUTH,
    "keep": POLICY_RULE,
    "lock_days": "give a whole number from 0 to 36500",
    "check_before_sending": "choose all, sampled or off",
    "bandwidth_mib": f"give a whole number from 0 to {MAX_MIB}",
}
"""What can be said of each field of a job."""


def value_of(problem: ErrorDetails) -> Any:
    """What was given where a problem is."""
    return problem["input"]
