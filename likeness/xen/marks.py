"""How our objects in a pool are told from everybody else's.

Nothing may be deleted that is not certainly ours. A mark in `other_config` alone would not do:
XenServer copies `other_config` when somebody clones, copies or reverts, so a person's own VM or
snapshot can come to carry our mark. Each mark therefore names the object it was put on, and
counts on that object alone.

A snapshot can be made and the program die before it is marked; for that moment its name, which
is given with the very call that makes it, carries the same facts.
"""

from collections.abc import Mapping
from typing import Any

from likeness.model.ids import RunId, is_name
from likeness.xen.failures import Refusal
from likeness.xen.owner import Owner, label_of, owner_in_label
from likeness.xen.session import XenSession

INSTALLATION, RUN, KIND, SELF = (
    "likeness:installation",
    "likeness:run",
    "likeness:kind",
    "likeness:self",
)
VM = "likeness:vm"
START_AGAIN = "likeness:start-again"

SNAPSHOT = "snapshot"
"""For one run; to be deleted at its end."""

REFERENCE = "reference"
"""What a later run compares with: a record of changes without data."""

RESTORED = "restored"
"""A VM or disk that a restore is still filling."""

DRILL = "drill"
"""A restored VM that runs for a trial, and is taken away at its end."""

STANDBY = "standby"
"""A VM that is kept like another VM's newest version, to stand in for it."""

DELEGATE = "delegate"
"""A VM of ours that reads another VM's frozen disks for one run."""

DELEGATE_NAME = "ABD for "
"""How a delegate's name begins."""


def owner_in_marks(record: Mapping[str, Any], kind: str) -> Owner | None:
    """Whose an object is by its marks; nothing unless they were put on this very object."""
    marks: Mapping[str, str] = record.get("other_config") or {}
    if marks.get(SELF) != record.get("uuid") or marks.get(KIND) != kind:
        return None
    installation, run = marks.get(INSTALLATION, ""), marks.get(RUN, "")
    return Owner(installation, RunId(run)) if is_name(installation) and is_name(run) else None


def marks_to_be_made_with(owner: Owner) -> dict[str, str]:
    """What an object of a restore carries from its creation on, before its uuid is known."""
    return {INSTALLATION: owner.installation, RUN: owner.run, KIND: RESTORED}


def owner_of_restore(record: Mapping[str, Any]) -> Owner | None:
    """Whose unfinished restore an object belongs to; nothing if it belongs to none."""
    marks: Mapping[str, str] = record.get("other_config") or {}
    if SELF not in marks:  # it died between its creation and the mark that names it
        marks = {**marks, SELF: str(record.get("uuid"))}
    return owner_in_marks({**record, "other_config": marks}, RESTORED)


def owner_of_delegate(record: Mapping[str, Any]) -> Owner | None:
    """Whose delegate a VM is; by its name if it died between its making and its mark.

    A clone that somebody made of a delegate carries that one's mark, and is theirs.
    """
    if record.get("is_a_snapshot"):
        return None
    name, own = str(record.get("name_label")), record.get("other_config") or {}
    if SELF in own:
        return owner_in_marks(record, DELEGATE)
    return owner_in_label(name) if name.startswith(DELEGATE_NAME) else None


def put_marks(
    xen: XenSession,
    class_name: str,
    ref: str,
    *,
    owner: Owner,
    kind: str,
    uuid: str = "",
    vm: str = "",
    there: Mapping[str, str] | None = None,
) -> Mapping[str, str]:
    """Mark an object that we have made as ours; safe to repeat, and to change its kind.

    All marks are written at once, so that at no moment one that was there is missing.

    Args:
        xen: The session.
        class_name: ``VM`` or ``VDI``.
        ref: The object.
        owner: Whose it shall be.
        kind: What it is, such as `SNAPSHOT`.
        uuid: Its uuid, when known already.
        vm: The VM it belongs to, if that shall be told too.
        there: What its `other_config` holds, when known already.

    Returns:
        What it holds now.

    Raises:
        Refusal: The pool refused; the object may be gone.
    """
    own_uuid = uuid or str(xen.call(f"{class_name}.get_uuid", ref))
    marks = {INSTALLATION: owner.installation, RUN: owner.run, SELF: own_uuid, KIND: kind}
    if vm:
        marks[VM] = vm
    if there is None:
        there = xen.call(f"{class_name}.get_other_config", ref)
    if wrong := {key: value for key, value in marks.items() if there.get(key) != value}:
        xen.call(f"{class_name}.set_other_config", ref, {**there, **wrong})
    return {**there, **wrong}


def set_mark(xen: XenSession, class_name: str, ref: str, key: str, value: str) -> None:
    """Set one key of `other_config`, whatever it was.

    Raises:
        Refusal: The pool refused.
    """
    for attempt in range(3):
        if key in xen.call(f"{class_name}.get_other_config", ref):
            xen.call(f"{class_name}.remove_from_other_config", ref, key)
        try:
            xen.call(f"{class_name}.add_to_other_config", ref, key, value)
        except Refusal as refusal:
            if refusal.code != "MAP_DUPLICATE_KEY" or attempt == 2:
                raise
        else:
            return


def drop_marks(xen: XenSession, class_name: str, ref: str) -> None:
    """Take our marks off an object that is to stay.

    Raises:
        Refusal: The pool refused.
    """
    for key in (KIND, SELF, RUN, INSTALLATION):
        xen.call(f"{class_name}.remove_from_other_config", ref, key)


def without_marks(other_config: Mapping[str, str]) -> dict[str, str]:
    """`other_config` as its owner left it."""
    return {key: value for key, value in other_config.items() if not key.startswith("likeness:")}


__all__ = [
    "Owner",
    "drop_marks",
    "label_of",
    "marks_to_be_made_with",
    "owner_in_label",
    "owner_in_marks",
    "owner_of_delegate",
    "owner_of_restore",
    "put_marks",
    "set_mark",
    "without_marks",
]
