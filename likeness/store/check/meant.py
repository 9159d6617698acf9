"""Which version a person means where there is no catalog: by an id, or by a VM and a moment."""

from dataclasses import dataclass

from likeness.errors import BadInput, UnknownVersion, UnknownVm
from likeness.model.choosing import ambiguous, called, offered
from likeness.model.ids import VmId, as_uuid
from likeness.model.points_in_time import WantedVersion, vm_and_version, wanted_version
from likeness.store.check.recorded import recorded_versions
from likeness.store.format.data_store import DataStore
from likeness.store.read.versions import Version, find_version, read_version_at


@dataclass(frozen=True, slots=True)
class _Known:
    uuid: str
    name: str


def version_meant(store: DataStore, text: str) -> Version:
    """The version that `text` means: the beginning of an id, or such as "web, last good".

    A store does not keep what was proved when, so the last good one is the last whose record is
    whole; whatever reads it proves every chunk.

    Raises:
        UnknownVersion: None, or several.
        UnknownVm: No VM is called so.
        BadInput: Several VMs are, or no VM is named.
    """
    vm, words = vm_and_version(text)
    if not vm:
        _require_id(text)
        return find_version(store, text)
    wanted = wanted_version(words)
    its = versions_of(store, vm)
    if wanted.digits:
        digits = wanted.digits.lower().replace("-", "")
        found = [each for each in its if each.version.startswith(digits)]
    else:
        found = _before(its, wanted)[-1:]
    if len(found) != 1:
        many = "several versions" if found else "no version"
        raise UnknownVersion(f"VM {vm} has {many} that {words!r} could mean; list its versions")
    return found[0]


def _require_id(text: str) -> None:
    try:
        wanted = wanted_version(text)
    except BadInput:
        return  # whoever looks for it says so
    if not wanted.digits:
        raise BadInput(
            f"{text.strip() or 'the last good version'!r} is of which VM? name it, such"
            " as 'web, last good before 2026-11-20'"
        )


def _before(versions: list[Version], wanted: WantedVersion) -> list[Version]:
    return [each for each in versions if wanted.before is None or each.taken_at < wanted.before]


def versions_of(store: DataStore, vm: str) -> list[Version]:
    """A VM's versions, oldest first; by a name it has now before one it had once.

    Raises:
        UnknownVm: No VM is called so.
        BadInput: Several are.
    """
    recorded = recorded_versions(store).versions
    versions = [read_version_at(store, name, lies_at) for name, lies_at in recorded.items()]
    versions.sort(key=lambda version: version.taken_at)
    now: dict[VmId, str] = {each.vm: each.record.vm_name for each in versions}
    current = [_Known(as_uuid(each), name) for each, name in now.items()]
    ever = [_Known(as_uuid(each.vm), each.record.vm_name) for each in versions]
    found = called(vm, current) or called(vm, ever)
    if not found:
        raise UnknownVm(f"no VM {vm!r} has a version; {offered(vm, current) or 'list them'}")
    if len({each.uuid for each in found}) > 1:
        raise BadInput(ambiguous(vm, "VMs with versions", list(dict.fromkeys(found))))
    return [each for each in versions if as_uuid(each.vm) == found[0].uuid]
