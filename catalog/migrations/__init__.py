"""The steps from one schema to the next, as SQL, in the order of their numbers."""

import re
from functools import cache
from pathlib import Path

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql\Z")


@cache
def migrations() -> dict[int, Path]:
    """Every migration this release knows, by number, in order."""
    folder = Path(__file__).parent
    found = {int(m[1]): p for p in sorted(folder.iterdir()) if (m := _NAME.match(p.name))}
    if sorted(found) != list(range(1, len(found) + 1)):
        raise RuntimeError(f"migrations are not numbered without gaps: {sorted(found)}")
    return found


def newest() -> int:
    """The schema this release works with."""
    return max(migrations())
