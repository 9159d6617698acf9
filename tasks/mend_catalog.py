"""Mend the catalog: one that is torn, or another store's, is set aside, and the work goes on.

The catalog is a cache of the store. The best copy there is takes its place: its own file as it was
before its log was written, the newest copy in the store, or an empty one; catching up with the
store adds what that does not know, as unchecked.
"""

from pathlib import Path

from blocks import Site
from catalog import audits, mending, messages, runs
from catalog.audits import OF_THE_CATALOG, AuditTrouble
from catalog.connection import CatalogLocation
from catalog.copies import import_copy
from catalog.messages import message_id
from catalog.reconciling import note_store, store_of
from catalog.staging import private_folder
from likeness.clock import system_clock
from likeness.errors import BadInput, Damaged, ObjectMissing, ObjectUnreadable, StoreTooNew
from likeness.store.format.data_store import DataStore
from likeness.store.format.observations import Weight
from likeness.store.format.public_view import SignedView
from likeness.store.write.catalog_copies import fetch_newest
from tasks.claims import is_live
from tasks.logs import step_logger
from tasks.reports import letter

WHAT_THE_STORE_SAYS = "what the data store says"
_ANOTHERS = "it belongs to another data store"
_MEANING = (
    "versions that its replacement did not know are recorded from the data store as unchecked;"
    " nothing is lost there, and the old file may be deleted"
)


def ready_catalog(site: Site) -> CatalogLocation:
    """The catalog, made if there is none, mended if it is damaged, brought up to this release.

    Raises:
        BadInput: A later release made it.
        CatalogBusy: Another process holds it.
        ShareUnreachable: It is damaged, and the store with its copies does not answer.
    """
    file = site.catalog.file
    try:
        if mending.is_in_doubt(file) and (problem := mending.what_is_wrong(file)):
            raise Damaged(str(file.path), problem)
        return site.catalog.ready(system_clock)
    except Damaged as cause:
        with site.data_store.look() as store:
            _replace(site, store, str(cause), damaged=True)
        return site.catalog.ready(system_clock)


def require_catalog_of(site: Site, store: SignedView) -> None:
    """Make sure that the catalog is the store's; another store's is set aside."""
    file = site.catalog.file
    known = store_of(file)
    if not known:
        note_store(file, store.store_id)
    elif known != store.store_id:
        under_way = [run for run in runs.live_runs(file) if is_live(site, run.run)]
        _replace(site, store, _ANOTHERS, damaged=False)
        site.catalog.ready(system_clock)
        for run in under_way:
            runs.begin_run(file, run.run, run.job, system_clock())
        note_store(file, store.store_id)


def _replace(site: Site, store: SignedView, cause: str, *, damaged: bool) -> None:
    file, now = site.catalog.file, system_clock()
    with private_folder(file) as folder:
        draft = mending.draft_in(folder, file)
        draft.path.parent.mkdir(mode=0o700)
        if damaged and mending.without_its_log(file, draft, now):
            source = "the file without the log that it was torn in"
        else:
            copy = newest_copy(store, folder, draft) if isinstance(store, DataStore) else ""
            source = copy or WHAT_THE_STORE_SAYS
        kept = mending.replace_with(file, draft, now, store=store.store_id)
    if kept is not None:
        _say(site, cause, source, kept)


def newest_copy(store: DataStore, folder: Path, draft: CatalogLocation) -> str:
    """Make the draft of the newest copy in the store that is sound; one that is not is passed over.

    Args:
        store: Where the copies are.
        folder: For their files, private and gone afterwards.
        draft: Where there is no catalog yet.

    Returns:
        In words which copy it is; empty if none is of use.
    """
    before = 0
    while True:
        files = folder / f"copy-{before}"
        try:
            copy = fetch_newest(store, files, before=before)
        except (ObjectMissing, Damaged, ObjectUnreadable, StoreTooNew) as cause:
            step_logger().warning("no copy of the catalog is of use: %s", cause)
            return ""
        for each in copy.passed_over:
            step_logger().warning("%s; the copy before it is taken", each)
        try:
            import_copy(files, draft, system_clock())
        except (Damaged, StoreTooNew, BadInput) as cause:
            step_logger().warning("%s; the copy before it is taken", cause)
            before = copy.number
        else:
            return f"copy {copy.number} of {copy.made_at:%Y-%m-%d %H:%M} from the data store"


def _say(site: Site, cause: str, source: str, kept: Path) -> None:
    """In the log, on the page and by message; the new catalog has all of it before it is sent."""
    from tasks.notify import channels  # which asks for the catalog itself

    said = f"the catalog was set aside as {kept}: {cause}; it goes on with {source}"
    step_logger().error("%s", said)
    file, now = site.catalog.file, system_clock()
    site.catalog.ready(system_clock)
    why = f"{cause}; it goes on with {source}"
    name = f"{OF_THE_CATALOG}{kept.name}"
    audits.note_told_trouble(file, AuditTrouble(name, Weight.SPARE_LOST.value, why, _MEANING, now))
    told_of = letter(
        message_id("catalog", kept.name),
        "catalog",
        "Likeness: the catalog was set aside and replaced",
        (
            f"{said}.",
            *("", "WHAT IT MEANS", f"{_MEANING[0].upper()}{_MEANING[1:]}."),
            *("", "WHAT HAPPENS NEXT"),
            "The next validation reads back what is unchecked. See whether the disk of this"
            " machine is well.",
        ),
    )
    messages.write_message(file, told_of, channels(site), now)
