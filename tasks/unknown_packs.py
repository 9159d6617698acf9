"""Packs that lie in the store and that nobody knows: a run died before it could say so.

A commit that is under way has such packs, too, for seconds or minutes; so they are noted beside the
catalog, and named when a run of a day later finds them still there, and still unknown. Losing that
note costs a day.
"""

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from prefect import get_run_logger

from blocks import Site
from catalog.reconciling import unknown_packs
from likeness.model.ids import PackId

_FILE = "unknown-packs.json"
_LEAST_AGE = timedelta(hours=20)
"""A night and a bit less: a run may begin earlier than the one before."""


def unknown_for_long(site: Site, there: Collection[PackId], now: datetime) -> list[PackId]:
    """Which of the packs in the store nobody has known since the day before.

    Args:
        site: Whose catalog is asked.
        there: What lies in the store.
        now: The present.
    """
    path = site.catalog.file.path.with_name(_FILE)
    before = _noted(path)
    seen = {pack: before.get(pack, now) for pack in unknown_packs(site.catalog.file, there)}
    draft = path.with_name(f"{_FILE}.new")
    try:
        draft.write_bytes(msgspec.json.encode(seen))
        draft.replace(path)
    except OSError as cause:
        told = "which packs nobody knows cannot be noted at %s (%s), so none goes now; make room"
        get_run_logger().warning(told, path, cause.strerror)
    return [pack for pack, first in seen.items() if now - first >= _LEAST_AGE]


def _noted(path: Path) -> dict[PackId, datetime]:
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=dict[PackId, datetime])
    return {}
