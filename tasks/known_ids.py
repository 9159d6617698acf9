"""What a job's sources need not send: chunks that the store has already, proved.

They stand in a file that every VM's transfer looks into; without it all is sent. It is written when
proofs were made or packs went, so no job waits for it: what is in it and is gone since shows at the
commit, and what is new since is sent and dropped again.
"""

import os
from collections.abc import Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from prefect import get_run_logger

from blocks import Site
from catalog.dedup import PROOF_COUNTS_FOR
from catalog.known_ids import write_known_ids
from catalog.space import served_by_proved
from likeness.agent.known_ids import KEY_BYTES, KnownIds
from likeness.clock import system_clock
from likeness.errors import LikenessError
from likeness.model.ids import ChunkId, RunId
from likeness.store.format.copies import Copy
from likeness.store.format.relied_on import ReliedOn
from tasks.ages import age_limit

MAX_TOLD_BYTES = 128 << 20
"""Of a file that a delegate is given: 8 million ids, 2 TiB of data blocks of 256 KiB."""
_COUNTS_FOR = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Sharing:
    """What a transfer may leave out because the store has it.

    Attributes:
        allowed: Whether anything at all.
        gone: Ids that are not there any more, as an attempt before has found.
    """

    allowed: bool = True
    gone: frozenset[bytes] = field(default_factory=frozenset)


@contextmanager
def known_ids_kept(run: RunId, *, site: Site) -> Generator[None, None, None]:
    """Have the file there, as it is now, while a job's VMs are transferred."""
    path = _path(site, run)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_recent(site):
            renew_known_ids(run, site=site)
        os.link(_kept(site), path)
        count = path.stat().st_size // KEY_BYTES
        get_run_logger().info("%d data blocks in the store are proved, and need not be sent", count)
    except (LikenessError, OSError) as cause:
        get_run_logger().warning("what the store has is sent all the same: %s", cause)
        path.unlink(missing_ok=True)
    try:
        yield
    finally:
        for left in path.parent.glob(f"{path.name}*"):
            left.unlink(missing_ok=True)


def renew_known_ids(run: RunId, *, site: Site) -> None:
    """Write the file anew; jobs that are under way go on with the one they have.

    Raises:
        CatalogBusy: Another process holds the catalog.
        OSError: No room.
    """
    kept = _kept(site)
    draft = kept.with_name(f"{kept.name} {run}")
    try:
        write_known_ids(site.catalog.file, draft, system_clock(), proof_counts_for(site))
        draft.replace(kept)
    except BaseException:
        kept.unlink(missing_ok=True)  # the next job asks, then
        raise
    finally:
        for left in kept.parent.glob(f"{draft.name}*"):
            left.unlink(missing_ok=True)


def _is_recent(site: Site) -> bool:
    """Whether there is a file that was written lately, by this machine's clock."""
    with suppress(FileNotFoundError):
        age = system_clock().timestamp() - _kept(site).stat().st_mtime
        return 0 <= age < _COUNTS_FOR.total_seconds()
    return False


def _kept(site: Site) -> Path:
    return site.catalog.scratch.with_name("known ids")


@dataclass(frozen=True, slots=True)
class SharedIds:
    """The file, and where is noted what was left out because of it.

    Attributes:
        path: Of the file; none if there is none, or it must not be used.
        ids: What is in it.
        relied_on: What was left out.
    """

    path: Path | None
    ids: KnownIds | tuple[()]
    relied_on: ReliedOn

    def told_to_delegate(self, *, first: bool) -> Path | None:
        """The file, where it pays to send it: for a VM's first version, if it is not too long."""
        if not first or self.path is None or self.path.stat().st_size > MAX_TOLD_BYTES:
            return None
        return self.path


@contextmanager
def shared_with(
    run: RunId, attempt: Path, sharing: Sharing, *, site: Site
) -> Generator[SharedIds, None, None]:
    """What one attempt to transfer a VM may leave out."""
    path = _path(site, run)
    relied_on = ReliedOn(attempt / "relied on")
    if not sharing.allowed or not path.exists():
        yield SharedIds(None, (), relied_on)
        return
    with ExitStack() as held:
        ids = KnownIds(path)
        held.callback(ids.close)
        yield SharedIds(path, ids, relied_on)


def proof_counts_for(site: Site) -> timedelta:
    """How old the proof of a copy may be that others rely on."""
    return age_limit(site.revalidate_after).green_for or PROOF_COUNTS_FOR


def copies_of(site: Site, chunks: Collection[ChunkId]) -> Mapping[ChunkId, Copy]:
    """Where the catalog says that these are, proved within the age limit; see `Copies`."""
    found = served_by_proved(site.catalog.file, chunks, system_clock(), proof_counts_for(site))
    return {chunk: Copy(pack, size) for chunk, (pack, size) in found.items()}


def _path(site: Site, run: RunId) -> Path:
    return site.catalog.scratch / run / "known ids"
