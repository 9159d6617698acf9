"""Protect the installation: a copy of the catalog in the store, and a head that vouches for it."""

from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from prefect import get_run_logger

from blocks import Site
from catalog.copies import LARGE_BYTES, export_copy
from likeness.clock import stopwatch, system_clock
from likeness.codec.hashing import digest
from likeness.model.ids import RunId
from likeness.model.sizes import readable_size
from likeness.store.format.data_store import DataStore
from likeness.store.write.catalog_copies import put_copy
from likeness.store.write.heads import write_head
from likeness.store.write.kept_installation import FILE, seal_installation
from tasks.claims import store_claimed
from tasks.installation import installation_of
from tasks.needs_lists import write_needs_lists
from tasks.retries import STEP, task
from tasks.transfer import scratch_folder

REST = 50
"""For so many times what a copy of a large catalog took no other one is made."""
_LONGEST = timedelta(hours=12)


class _LastCopy(msgspec.Struct, frozen=True):
    """The last copy, as noted beside the catalog."""

    store: str
    installation: str
    made_at: datetime
    seconds: float


@task(task_run_name="copy the catalog to the store", **STEP)
def copy_catalog(run: RunId, *, site: Site, always: bool = False) -> str:
    """Put a copy of the catalog into the store, and write a head.

    A large catalog is copied less often: what the last copy lacks is in the store, but for proofs,
    which are made again.

    Args:
        run: Whose scratch folder to use.
        site: The installation.
        always: However large it is.

    Returns:
        The head, such as ``head 4711 a1b2c3d4``: kept elsewhere, it bears witness against a store
        that was set back as a whole.
    """
    with (
        store_claimed(site),
        site.data_store.open() as store,
        scratch_folder(site, run) as scratch,
    ):
        said = installation_of(site).model_dump_json().encode()
        copied = "the catalog is large and was copied lately, so it is not copied now"
        if always or _is_due(site, store, said):
            copied = _copy(store, scratch / "catalog", said, site=site)
        head_state = write_head(store, clock=system_clock)
        write_needs_lists(store, site=site)
    if head_state.problem:
        get_run_logger().error("the data store lost something: %s; validate it", head_state.problem)
    get_run_logger().info("%s; %s", copied, head_state.short)
    return head_state.short


def _copy(store: DataStore, folder: Path, said: bytes, *, site: Site) -> str:
    begun = stopwatch()
    export_copy(site.catalog.file, folder, system_clock())
    (folder / FILE).write_bytes(seal_installation(store, said))
    copy = put_copy(store, folder, clock=system_clock)
    note = _LastCopy(store.store_id, digest([said]).hex(), copy.made_at, stopwatch() - begun)
    path = _noted(site)
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.encode(note))
    return f"catalog copy {copy.number}, {readable_size(copy.size_bytes)}"


def _is_due(site: Site, store: DataStore, said: bytes) -> bool:
    """Whether another copy is to be made: always, unless the catalog is large."""
    if site.catalog.file.path.stat().st_size < LARGE_BYTES:
        return True
    try:
        last = msgspec.json.decode(_noted(site).read_bytes(), type=_LastCopy)
    except (OSError, msgspec.MsgspecError):
        return True
    pause = min(timedelta(seconds=REST * last.seconds), _LONGEST)
    same = (last.store, last.installation) == (store.store_id, digest([said]).hex())
    return not same or not last.made_at <= system_clock() <= last.made_at + pause


def _noted(site: Site) -> Path:
    path = site.catalog.file.path
    return path.with_name(f"{path.name}.copied")
