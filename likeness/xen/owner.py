"""Who makes something in a pool, and how its name tells."""

import re
from dataclasses import dataclass

from likeness.errors import BadInput
from likeness.model.ids import RunId, is_name

_LABEL = re.compile(r" ?\[likeness ([0-9a-f]{32}) ([0-9a-f]{32})\]\Z")


@dataclass(frozen=True, slots=True)
class Owner:
    """Who makes something in a pool, and for what.

    Attributes:
        installation: 32 hex digits, the same for the life of an installation.
        run: The run it is made for; 32 hex digits.
    """

    installation: str
    run: RunId

    def __post_init__(self) -> None:
        if not (is_name(self.installation) and is_name(self.run)):
            raise BadInput("installation and run are 32 lower-case hex digits each")


def label_of(owner: Owner, text: str) -> str:
    """A name label that tells people what it is and the sweep whose it is."""
    return f"{text} [likeness {owner.installation} {owner.run}]"


def owner_in_label(label: str) -> Owner | None:
    """The owner that a name label tells, if it was made by `label_of`."""
    found = _LABEL.search(label)
    return Owner(found[1], RunId(found[2])) if found else None


def without_owner(label: str) -> str:
    """A name label as it was before `label_of`."""
    return _LABEL.sub("", label)
