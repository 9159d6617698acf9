"""`site.yaml`: what one site is, read and looked at before anything is changed."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prefect.blocks.core import Block
from prefect_email import EmailServerCredentials  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from blocks import CatalogFile, DataStoreShare, Mail, Vault, XenPool
from blocks.site import SiteSettings
from likeness.codec.secret_files import read_secret
from likeness.errors import BadInput
from likeness.model.job import BackupJob

_SOURCES = ("env", "file", "prompt")
_MAX_BYTES = 1 << 20


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Schedule(_Part):
    """When something starts by itself."""

    cron: str
    timezone: str = "UTC"
    active: bool = True


class WorkPool(_Part):
    """Where runs are carried out."""

    concurrency: int | None = Field(default=None, ge=1)
    queues: dict[str, int] = Field(default_factory=dict)
    """Names of queues to their priorities; 1 comes first."""


class DeployedFlow(_Part):
    """How a flow of ours is deployed."""

    schedule: Schedule | None = None
    work_pool: str = ""
    queue: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)


class Job(DeployedFlow):
    """A backup job: the fields of its form, and when it starts."""

    model_config = ConfigDict(extra="allow")
    name: str
    by_hand: bool = False


class SiteFile(_Part):
    """All that a site file can say; each block's fields are those of its form in the UI."""

    site: str = "main"
    pool: dict[str, Any]
    store: dict[str, Any]
    catalog: dict[str, Any]
    vault: dict[str, Any] | None = None
    mail: dict[str, Any] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    work_pools: dict[str, WorkPool] = Field(default_factory=lambda: {"here": WorkPool()})
    limits: dict[str, int] = Field(default_factory=dict)
    jobs: list[Job] = Field(default_factory=list)
    flows: dict[str, DeployedFlow | bool] = Field(default_factory=dict)


@dataclass
class Secrets:
    """Gets secrets from where the file says they are; never from the file itself.

    Attributes:
        ask: Asks a person; none where nobody is to be asked.
        wanted: The fields to ask for; of others whatever is saved stays.
        unknown: Fields whose secret a person would have to be asked for.
    """

    ask: Callable[[str], str] | None = None
    wanted: frozenset[str] = frozenset()
    unknown: set[str] = field(default_factory=set)
    _answers: dict[str, SecretStr] = field(default_factory=dict, repr=False)

    def get(self, where: str, source: Mapping[str, Any]) -> SecretStr | None:
        """One secret; none if a person would have to be asked and may not be.

        Raises:
            BadInput: It is not there.
        """
        if "env" in source:
            name = str(source["env"])
            if not os.environ.get(name):
                raise BadInput(f"{where}: the environment has no {name}; set it and run again")
            return SecretStr(os.environ[name])
        if "file" in source:
            path = Path(str(source["file"]))
            text = read_secret(path, "the file", otherwise="name a file with the secret in it")
            return SecretStr(text.rstrip("\n"))
        if self.ask is None or where not in self.wanted:
            self.unknown.add(where)
            return None
        if where not in self._answers:
            self._answers[where] = SecretStr(self.ask(where))
        return self._answers[where]


def read_site_file(path: Path) -> SiteFile:
    """Read a site file.

    Raises:
        BadInput: It cannot be read, or says something that cannot be.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise BadInput(f"{path} is larger than any site file; name another")
        said = yaml.safe_load(text)
    except (OSError, ValueError) as cause:
        why = getattr(cause, "strerror", None) or cause
        raise BadInput(f"{path} cannot be read: {why}; name a site file") from cause
    except yaml.YAMLError as cause:
        mark = getattr(cause, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{line} is no YAML; correct it") from cause
    if not isinstance(said, dict):
        raise BadInput(f"{path} says nothing of a site; docs/install.md has an example")
    try:
        found = SiteFile.model_validate(said)
    except ValidationError as cause:
        raise BadInput(f"{path} cannot be: {_wrong(cause)}; correct it") from cause
    _jobs(found, path)
    return found


def _jobs(found: SiteFile, path: Path) -> None:
    names = [job.name for job in found.jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"{path}: job {twice[0]!r} stands there twice; give one another name")
    for job in found.jobs:
        backup_job_of(job)


def backup_job_of(job: Job) -> BackupJob:
    """The job as flows are given it.

    Raises:
        BadInput: It cannot be.
    """
    fields = {**(job.model_extra or {}), "name": job.name}
    try:
        return BackupJob.model_validate(fields)
    except ValidationError as cause:
        raise BadInput(f"job {job.name!r} cannot be: {_wrong(cause)}; correct it") from cause


def blocks_of(said: SiteFile, secrets: Secrets) -> dict[str, Block]:
    """The blocks of a site by the names they are saved under, each before who names it.

    Raises:
        BadInput: One cannot be, or its secret is not there.
    """
    name, made = said.site, dict[str, Block]()
    made[f"{name}-xen-pool"] = _block(XenPool, "pool", said.pool, secrets)
    made[f"{name}-data-store"] = _block(DataStoreShare, "store", said.store, secrets)
    made[f"{name}-catalog"] = _block(CatalogFile, "catalog", said.catalog, secrets)
    if said.vault is not None:
        made[f"{name}-vault"] = _block(Vault, "vault", said.vault, secrets)
    if said.mail is not None:
        mail = dict(said.mail)
        server = mail.pop("server", None)
        if isinstance(server, dict):
            made[f"{name}-mail-server"] = _block(
                EmailServerCredentials, "mail.server", server, secrets
            )
            server = f"{name}-mail-server"
        made[f"{name}-mail"] = _block(Mail, "mail", {**mail, "server": server}, secrets)
    _known(said.settings, SiteSettings, "settings")
    return made


def _block(kind: type[Block], where: str, fields: Mapping[str, Any], secrets: Secrets) -> Block:
    _known(fields, kind, where)
    given: dict[str, Any] = {}
    for name, value in fields.items():
        secret = _is_secret(kind, name)
        if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in _SOURCES:
            found = secrets.get(f"{where}.{name}", value)
            given[name] = found if found is not None else SecretStr(UNKNOWN)
        elif secret and value:
            raise BadInput(
                f"{where}.{name} is a secret and must not stand in the file; write {{env: NAME}},"
                " {file: PATH} or {prompt: true} instead"
            )
        else:
            given[name] = value
    try:
        return kind(**given)
    except ValidationError as cause:
        raise BadInput(f"{where} cannot be: {_wrong(cause)}; correct it") from cause


UNKNOWN = "\0 not asked for"
"""Stands for a secret that nobody was asked for: whatever is saved stays."""


def _is_secret(kind: type[BaseModel], name: str) -> bool:
    return "SecretStr" in str(kind.model_fields[name].annotation)


def _known(fields: Mapping[str, Any], kind: type[BaseModel], where: str) -> None:
    known = [each for each in kind.model_fields if not each.startswith("_")]
    if other := sorted(set(fields) - set(known)):
        raise BadInput(f"{where} has no {other[0]!r}; it has {', '.join(known)}")


def _wrong(cause: ValidationError) -> str:
    """What is wrong, without repeating what was given: it may be a secret."""
    told = [f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in cause.errors()]
    return "; ".join(told[:3])
