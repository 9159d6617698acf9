"""What a job's sources need not send: chunks that the store has already, proved.

They stand in files that every VM's transfer looks into; without them all is sent. They are brought
up to date when proofs were made or packs went, so no job waits for it: what is in them and is gone
since shows at the commit, and what is new since is sent and dropped again.
"""

import os
import shutil
from collections.abc import Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from prefect import get_run_logger

from blocks import Site
from catalog.connection import CatalogLocation
from catalog.dedup import PROOF_COUNTS_FOR
from catalog.keeping_parts import keep_parts
from catalog.known_ids import files_of, one_file, write_known_ids
from catalog.space import served_by_proved
from catalog.staging import private_folder
from likeness.agent.known_ids import KEY_BYTES, SeveralKnownIds
from likeness.clock import system_clock
from likeness.errors import LikenessError
from likeness.model.ids import ChunkId, RunId
from likeness.store.format.copies import Copy
from likeness.store.format.relied_on import ReliedOn
from tasks.ages import age_limit

MAX_TOLD_BYTES = 128 << 20
"""Of a file that a delegate is given: 8 million ids, 2 TiB of data blocks of 256 KiB."""
_COUNTS_FOR = timedelta(days=2)
_TURNS = 3
_AS_ONE = "as one"


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
    """Have the files there, as they are now, while a job's VMs are transferred."""
    path = _path(site, run)
    try:
        if not _is_recent(site):
            renew_known_ids(run, site=site)
        _link_files(_kept(site), path)
        count = sum(each.stat().st_size for each in files_of(path)) // KEY_BYTES
        get_run_logger().info("%d data blocks in the store are proved, and need not be sent", count)
    except (LikenessError, OSError) as cause:
        get_run_logger().warning("what the store has is sent all the same: %s", cause)
        shutil.rmtree(path, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _link_files(kept: Path, path: Path) -> None:
    """Have the files under another name too; again from the start, if some are merged meanwhile."""
    for turn in range(_TURNS):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            for each in files_of(kept):
                os.link(each, path / each.name)
        except FileNotFoundError:
            shutil.rmtree(path)
            if turn + 1 == _TURNS:
                raise
        else:
            return


def renew_known_ids(run: RunId, *, site: Site) -> None:  # an attempt names its run
    """Bring the files up to date; jobs that are under way go on with those they have.

    Raises:
        CatalogBusy: Another process holds the catalog.
        OSError: No room.
    """
    kept = _kept(site)
    try:
        keep_parts(site.catalog.file, merge=True)
        write_known_ids(site.catalog.file, kept, system_clock(), proof_counts_for(site))
        os.utime(kept)
    except BaseException:
        with suppress(FileNotFoundError):
            os.utime(kept, (0, 0))  # the next job asks, then
        raise


def _is_recent(site: Site) -> bool:
    """Whether there are files that were renewed lately, by this machine's clock."""
    with suppress(FileNotFoundError):
        age = system_clock().timestamp() - _kept(site).stat().st_mtime
        return 0 <= age < _COUNTS_FOR.total_seconds()
    return False


def _kept(site: Site) -> Path:
    return site.catalog.scratch.with_name("known ids")


@dataclass(frozen=True, slots=True)
class SharedIds:
    """The files, and where is noted what was left out because of them.

    Attributes:
        catalog: Beside which they are.
        folder: Of the files; none if there are none, or they must not be used.
        ids: What is in them.
        relied_on: What was left out.
    """

    catalog: CatalogLocation
    folder: Path | None
    ids: SeveralKnownIds | tuple[()]
    relied_on: ReliedOn

    def told_to_delegate(self, *, first: bool) -> Path | None:
        """One file, where it pays to send it: for a VM's first version, if it is not too long."""
        if not first or self.folder is None or len(self.ids) * KEY_BYTES > MAX_TOLD_BYTES:
            return None
        files = files_of(self.folder)
        if len(files) == 1:
            return files[0]
        path = self.folder / _AS_ONE
        if not path.exists():
            with private_folder(self.catalog) as scratch:
                one_file(files, scratch / _AS_ONE, scratch)
                (scratch / _AS_ONE).replace(path)
        return path


@contextmanager
def shared_with(
    run: RunId, attempt: Path, sharing: Sharing, *, site: Site
) -> Generator[SharedIds, None, None]:
    """What one attempt to transfer a VM may leave out."""
    folder, catalog = _path(site, run), site.catalog.file
    relied_on = ReliedOn(attempt / "relied on")
    if not sharing.allowed or not files_of(folder):
        yield SharedIds(catalog, None, (), relied_on)
        return
    with ExitStack() as held:
        ids = SeveralKnownIds(files_of(folder))
        held.callback(ids.close)
        yield SharedIds(catalog, folder, ids, relied_on)


def proof_counts_for(site: Site) -> timedelta:
    """How old the proof of a copy may be that others rely on."""
    return age_limit(site.revalidate_after).green_for or PROOF_COUNTS_FOR


def copies_of(site: Site, chunks: Collection[ChunkId]) -> Mapping[ChunkId, Copy]:
    """Where the catalog says that these are, proved within the age limit; see `Copies`."""
    found = served_by_proved(site.catalog.file, chunks, system_clock(), proof_counts_for(site))
    return {chunk: Copy(pack, size) for chunk, (pack, size) in found.items()}


def _path(site: Site, run: RunId) -> Path:
    return site.catalog.scratch / run / "known ids"
