"""Reading the vault back: what is whole there is written down, and what is not makes room."""

from collections.abc import Generator
from dataclasses import dataclass

from prefect import get_run_logger

from blocks import Site, Vault
from catalog import vault_reading
from catalog.vaulting import note_vaulting, versions_not_whole
from likeness.clock import stopwatch, system_clock
from likeness.errors import LikenessError, ObjectMissing
from likeness.stopping import StopToken
from likeness.store.check.reading_back import ReadBack, read_back
from likeness.store.format import layout
from likeness.store.format.data_store import set_aside
from likeness.store.format.public_view import SignedView
from likeness.store.format.vaults import vault_at
from tasks.ages import age_limit, is_hour
from tasks.retries import STEP, task
from tasks.vault import cap_of, vault_of
from tasks.vault_without_key import vault_as_seen

_WRITTEN_EVERY = 20.0
"""Seconds; what was read back until a crash is not read again."""


@dataclass(frozen=True, slots=True)
class CheckedVault:
    """What reading a vault back showed.

    Attributes:
        objects: How many were read and are whole.
        read_bytes: Their length together.
        lost: What is surely not whole there; it was set aside, so that it is copied again.
        problems: What is lost or could not be read, in words.
        left: How many are due still.
    """

    objects: int
    read_bytes: int
    lost: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    left: int = 0


@task(task_run_name="read the vault back", **STEP)
def check_contents(
    *, site: Site, stop: StopToken, max_bytes: int | None = None, prove: bool = False
) -> CheckedVault:
    """Read what is due at the vault, compare it with what was signed, and write down what is whole.

    Args:
        site: The installation.
        stop: Looked at before every object.
        max_bytes: How much to read at most; all that is due if none.
        prove: Open every data block with the store's key, too; what was never, or too long ago, is
            due.

    Raises:
        BadInput: The site has no vault.
        ShareUnreachable: The vault does not answer; tried again.
    """
    block = vault_of(site)
    transport = block.connect()
    try:
        if site.data_store.without_key:
            seen = vault_as_seen(transport, site=site)
            return _Check(site, block, seen, stop, prove=prove).run(max_bytes)
        with site.data_store.open() as store:
            vault = vault_at(store, transport)
            return _Check(site, block, vault, stop, prove=prove).run(max_bytes)
    finally:
        transport.close()


class _Check:
    def __init__(
        self, site: Site, block: Vault, vault: SignedView, stop: StopToken, *, prove: bool
    ) -> None:
        self._prove = prove
        self._catalog, self._block, self._vault, self._stop = (
            site.catalog.file,
            block,
            vault,
            stop,
        )
        self._whole: list[tuple[str, int]] = []
        self._lost: list[ReadBack] = []
        self._spoilt: set[str] = set()
        self._unread: list[str] = []
        self._sizes: dict[str, int] = {}

    def run(self, max_bytes: int | None) -> CheckedVault:
        """See `check_contents`."""
        due = self._due()
        now = _within(due, max_bytes)
        objects = read = 0
        written = stopwatch()
        looked = self._looked([name for name, _ in now])
        for at, each in enumerate(looked, start=1):
            if not each.problem:
                objects += 1
                read += each.size_bytes
            if stopwatch() - written > _WRITTEN_EVERY:
                self._write()
                written = stopwatch()
            if not self._may_go_on():
                now = now[:at]
                break
        self._write()
        self._put_aside()
        said = [f"{each.name}: {each.problem}" for each in self._lost]
        said += [f"{name}: one of two copies of a block map" for name in sorted(self._spoilt)]
        lost = (*(each.name for each in self._lost), *sorted(self._spoilt))
        return CheckedVault(objects, read, lost, (*said, *self._unread), len(due) - len(now))

    def _due(self) -> list[tuple[str, int]]:
        there = [
            (entry.name, entry.size_bytes)
            for folder in (layout.VERSIONS, layout.PACKS, layout.NEEDS)
            for entry in self._vault.transport.entries(folder)
            if layout.is_known(entry.name)
        ]
        self._sizes = dict(there)
        vault_reading.forget_vault_objects(self._catalog, self._block.place, there)
        limit = age_limit(self._block.read_back_after).due_after
        return vault_reading.objects_to_read(
            self._catalog, self._block.place, there, system_clock(), limit, prove=self._prove
        )

    def _looked(self, names: list[str]) -> Generator[ReadBack, None, None]:
        cap = cap_of(self._block)
        for each in read_back(self._vault, names, stop=self._stop, cap=cap, prove=self._prove):
            self._spoilt.update(each.spoilt)
            if not each.problem:
                self._whole.append((each.name, self._sizes[each.name]))
            elif each.lost:
                get_run_logger().error("vault: %s: %s", each.name, each.problem)
                self._lost.append(each)
            else:
                get_run_logger().warning("vault: %s: %s", each.name, each.problem)
                self._unread.append(f"{each.name} could not be read: {each.problem}")
            yield each

    def _may_go_on(self) -> bool:
        return is_hour(self._block.at_hours, system_clock())

    def _write(self) -> None:
        lost = [each.name for each in self._lost]
        whole, self._whole = self._whole, []
        vault_reading.record_read_back(
            self._catalog, self._block.place, whole, lost, system_clock(), proved=self._prove
        )

    def _put_aside(self) -> None:
        """What is lost makes room for a copy; until then no version that needs it counts."""
        names = [each.name for each in self._lost]
        versions_not_whole(self._catalog, self._block.place, names)
        names += sorted(self._spoilt)
        if names:
            note_vaulting(self._catalog, self._block.place, system_clock(), whole=False)
        for name in names:
            try:
                set_aside(self._vault, name)
            except (ObjectMissing, LikenessError) as cause:
                get_run_logger().warning("vault: %s stays where it is: %s", name, cause)


def _within(due: list[tuple[str, int]], max_bytes: int | None) -> list[tuple[str, int]]:
    if max_bytes is None:
        return due
    taken: list[tuple[str, int]] = []
    left = max_bytes
    for name, size in due:
        if taken and size > left:
            break
        taken.append((name, size))
        left -= size
    return taken
