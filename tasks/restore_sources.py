"""Where a restore reads from, and which version it is of."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger

from blocks import Site
from catalog.locations_of_disk import locations_of_disk
from catalog.values import Verdict, VersionRow
from catalog.versions import list_versions
from likeness.clock import system_clock
from likeness.errors import BadInput, LikenessError, StoreMissing, UnknownVersion, UnknownVm
from likeness.model.choosing import ambiguous, called, offered, shown
from likeness.model.ids import DiskId, RunId, VmId, as_uuid
from likeness.model.points_in_time import EXAMPLE, vm_and_version, wanted_version
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.disk_view import DiskView, open_disk
from likeness.store.read.locating import DiskChunks, Locations, Locator
from likeness.store.read.versions import Version, find_version
from likeness.transport.base import Transport
from tasks.ages import age_limit
from tasks.claims import version_read
from tasks.retries import STEP, task
from tasks.transfer import scratch_folder

PROVED = (Verdict.GOOD, Verdict.STALE)
"""Read back whole once, and nothing bad is known of it since."""


class Notes:
    """Sentences for the log and for the end of a run, each once; from any thread."""

    def __init__(self, warn: Callable[[str, str], None]) -> None:
        """`warn` is the run's logger's; other threads know no run to ask for one."""
        self.said: dict[str, None] = {}
        self._warn = warn

    def __call__(self, text: str) -> None:
        """Say it, unless it was."""
        if text not in self.said:
            self.said[text] = None
            self._warn("%s", text)


@contextmanager
def sources(
    site: Site, *, from_vault: bool, say: Callable[[str], None]
) -> Generator[tuple[DataStore, ...], None, None]:
    """The data store, and the vault behind it; what cannot be opened is said and left out.

    Args:
        site: The installation.
        from_vault: The vault alone.
        say: Told of what cannot be opened.

    Raises:
        BadInput: The vault is asked for, and there is none.
        LikenessError: Neither can be opened; why the first one cannot.
    """
    places = _places(site, from_vault=from_vault)
    key_file = Path(site.data_store.key_file)
    stores: list[DataStore] = []
    problem: LikenessError | None = None
    with ExitStack() as held:
        for place, connect in places:
            try:
                transport = connect()
                held.callback(transport.close)
                stores.append(open_store_with_key_file(transport, key_file))
            except LikenessError as cause:
                problem = problem or cause
                if stores:  # of no matter, unless something turns out to be damaged
                    no_copy = "no copy of the data store lies there; the flow vault makes one"
                    why = no_copy if isinstance(cause, StoreMissing) else cause
                    get_run_logger().info("%s cannot stand in: %s", place, why)
                elif len(places) > 1:
                    say(f"{place} cannot be read, the vault is instead: {cause}")
        if not stores:
            raise problem or BadInput("this site has no place to restore from")
        yield tuple(stores)


def _places(site: Site, *, from_vault: bool) -> list[tuple[str, Callable[[], Transport]]]:
    if from_vault and site.vault is None:
        raise BadInput("this site has no vault to restore from; add a Vault block to its Site")
    places: list[tuple[str, Callable[[], Transport]]] = []
    if not from_vault:
        places.append(("the data store", site.data_store.connect))
    if site.place_of("vault"):
        places.append(("the vault", lambda: _vault_of(site)))
    return places


def _vault_of(site: Site) -> Transport:
    vault = site.vault
    if vault is None:
        raise BadInput("this site has no vault")
    return vault.connect()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The version that a person means.

    Attributes:
        version: Its id, or the beginning of it.
        vm: Name or uuid of its VM, where the catalog could not tell whether it is that one's.
    """

    version: str
    vm: str = ""


def version_in(stores: Sequence[DataStore], chosen: Chosen) -> Version:
    """A version from the first of the stores that has its record whole.

    Raises:
        UnknownVersion: None has; or several versions have an id that begins so.
        BadInput: It is another VM's.
    """
    version = _version_in(stores, chosen.version)
    its_vm = _Known(as_uuid(version.vm), version.record.vm_name)
    if chosen.vm and not called(chosen.vm, [its_vm]):
        raise BadInput(
            f"version {version.version[:12]} is none of VM {chosen.vm} but of {shown(its_vm)};"
            " give a version of that VM, or the VM's uuid"
        )
    return version


def _version_in(stores: Sequence[DataStore], version: str) -> Version:
    problem: LikenessError | None = None
    for store in stores:
        try:
            return find_version(store, version)
        except (UnknownVersion, *UNREADABLE) as cause:
            problem = problem or cause
    raise problem or UnknownVersion(f"no version begins with {version!r}")


def known_locations(
    site: Site, version: Version, disk: DiskRecord, *, from_vault: bool = False
) -> Locator | None:
    """Where the catalog has a disk's chunks; whatever it lacks, the store's index is asked for."""
    if from_vault:
        return None

    def located(chunks: DiskChunks) -> Locations | None:
        try:
            locations = locations_of_disk(site.catalog.file, version.version, DiskId(disk.disk))
        except LikenessError:
            return None  # it is a cache
        if not len(locations.positions):
            return None
        return Locations.known(
            chunks,
            locations.positions,
            locations.packs,
            locations.pack,
            locations.offset,
            locations.length,
        )

    return located


@dataclass(frozen=True, slots=True)
class OpenedDisk:
    """A disk of a version, open to be read.

    Attributes:
        stores: Where from: the first one, or where that is damaged the next.
        scratch: A folder of the run, gone afterwards.
        view: Its bytes, proved.
    """

    stores: tuple[DataStore, ...]
    scratch: Path
    view: DiskView


@contextmanager
def opened_disk(
    site: Site,
    version: Version,
    disk: DiskRecord,
    *,
    run: RunId,
    from_vault: bool,
    say: Callable[[str], None],
) -> Generator[OpenedDisk, None, None]:
    """Open a disk to be restored; nobody forgets its version meanwhile.

    Raises:
        LikenessError: See `sources` and `open_disk`.
    """
    locator = known_locations(site, version, disk, from_vault=from_vault)
    with (
        version_read(site, version.version),
        sources(site, from_vault=from_vault, say=say) as stores,
        scratch_folder(site, run) as scratch,
        open_disk(stores, disk, scratch, say=say, locator=locator) as view,
    ):
        yield OpenedDisk(stores, scratch, view)


@dataclass(frozen=True, slots=True)
class _Known:
    """A VM that has versions, as `likeness.model.choosing` wants it."""

    uuid: str
    name: str


@task(task_run_name="choose the version of {vm}", **STEP)
def choose_version(vm: str, version: str, *, site: Site) -> Chosen:
    """The version that is meant, see `likeness.model.points_in_time`.

    Without a VM it must be an id, which then need not be in the catalog.

    Args:
        vm: Name or uuid.
        version: Id or words.
        site: The installation.

    Raises:
        BadInput: It is not clear what is meant.
        UnknownVm, UnknownVersion: There is no such VM or version.
    """
    if not vm.strip():
        vm, version = vm_and_version(version)
    wanted = wanted_version(version)
    if not vm.strip():
        if not wanted.digits:
            raise BadInput(
                f"{version!r} is of which VM? name it, such as 'web, {EXAMPLE}', or give an id"
            )
        return Chosen(wanted.digits)
    rows = _listed(site, needed=not wanted.digits)
    if wanted.digits:
        return _of_digits(vm, wanted.digits, rows)
    its = _vm_called(vm, rows)
    within = [
        row
        for row in rows
        if row.vm == its and (wanted.before is None or row.taken_at < wanted.before)
    ]
    good = [row for row in within if row.verdict in PROVED]
    if good:
        return Chosen(good[0].version)
    raise UnknownVersion(
        f"VM {vm} has no version{_when(version)} that was proved good{_near(within)}"
    )


def versions_of(vm: str, *, site: Site) -> tuple[Chosen, ...]:
    """Every version of a VM that the catalog knows, the newest first.

    Raises:
        BadInput, UnknownVm: It is not clear which VM is meant, or there is none.
    """
    rows = _listed(site, needed=True)
    its = _vm_called(vm, rows)
    return tuple(Chosen(row.version) for row in rows if row.vm == its)


def _of_digits(vm: str, wanted: str, rows: Sequence[VersionRow]) -> Chosen:
    """A VM's version by the beginning of its id."""
    digits = wanted.lower().replace("-", "")
    if not any(row.version.startswith(digits) for row in rows):
        return Chosen(wanted, vm)  # what the catalog lacks a store may have
    its = _vm_called(vm, rows)
    found = [row for row in rows if row.vm == its and row.version.startswith(digits)]
    if len(found) != 1:
        many = "several versions" if found else "no version"
        raise UnknownVersion(f"VM {vm} has {many} that begin with {digits!r}; give another id")
    return Chosen(found[0].version)


def _listed(site: Site, *, needed: bool) -> Sequence[VersionRow]:
    """What the catalog knows; nothing where it cannot be read, and an id will do."""
    try:
        green_for = age_limit(site.revalidate_after).green_for
        return list_versions(site.catalog.file, system_clock(), green_for)
    except LikenessError as problem:
        if needed:
            raise
        get_run_logger().info("the catalog does not say of which VM the id is: %s", problem)
        return ()


def _when(version: str) -> str:
    _, before, moment = version.lower().partition("before")
    return f" before {moment.strip()}" if before else ""


def _near(rows: Sequence[VersionRow]) -> str:
    if not rows:
        return "; give a later moment"
    newest = rows[0]
    return (
        f"; the newest is {newest.version[:8]} of {newest.taken_at:%Y-%m-%d %H:%M}"
        f" ({newest.verdict}): validate it, or give its id"
    )


def _vm_called(wanted: str, rows: Sequence[VersionRow]) -> VmId:
    """The VM of that uuid or name; names of now first, then those of earlier versions."""
    now: dict[VmId, str] = {}
    for row in rows:
        now.setdefault(row.vm, row.vm_name)  # newest first
    current = [_Known(as_uuid(vm), name) for vm, name in now.items()]
    ever = [_Known(*each) for each in dict.fromkeys((as_uuid(r.vm), r.vm_name) for r in rows)]
    found = called(wanted, current) or called(wanted, ever)
    uuids = {each.uuid for each in found}
    if len(uuids) == 1:
        return VmId(found[0].uuid.replace("-", ""))
    if uuids:
        raise BadInput(ambiguous(wanted, "VMs with versions", found))
    raise UnknownVm(f"no VM {wanted!r} has a version; {offered(wanted, current) or 'list them'}")
