"""Brakes: what must hold before anything is deleted from a store.

A store of which a part does not answer looks like one with less in it. So nothing is deleted while
versions are missing that nobody gave up, while heads cannot be read, or while this machine's clock
stands before what was written last.
"""

from datetime import datetime, timedelta

from likeness.codec.documents import Kind
from likeness.errors import ReclaimStopped
from likeness.model.ids import as_uuid
from likeness.store.format import layout
from likeness.store.format.believing import exists_surely
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import HeadDocument
from likeness.store.format.observations import UNREADABLE
from likeness.store.read.versions import record_names
from likeness.store.write.forgetting import read_forgotten
from likeness.store.write.heads import read_head_state, versions_digest
from likeness.store.write.holding import lost_holds

MAX_SHARE = 0.10
"""Of all packs, how many one run may condemn without a person saying so."""
_SLACK = timedelta(minutes=5)


def require_all_in_order(store: DataStore, now: datetime) -> None:
    """Return, if the store holds every version it must, and the clock is not behind it.

    Raises:
        ReclaimStopped: Something is not as it should be.
        StoreTakenOver: Another installation owns the store now.
        ShareUnreachable: The store is not where it was.
    """
    store.require_writable()
    store.require_unchanged()
    try:
        head_state = read_head_state(store)
        if head_state.number:
            name = layout.numbered(layout.HEADS, head_state.number)
            head, _ = store.read_surely(name, Kind.HEAD, HeadDocument)
            _require_clock(datetime.fromisoformat(head.made_at), now)
    except UNREADABLE as cause:
        raise ReclaimStopped(
            f"nothing is deleted, since the store's history cannot be read ({cause}); back up once,"
            " which begins it anew, and look into what is missing"
        ) from cause
    forgotten = read_forgotten(store)
    for vm, (count, digest) in sorted(head_state.vms.items()):
        names = forgotten.as_told(record_names(store, vm), vm, head_state.objects)
        if versions_digest(names[:count]) != digest:
            raise ReclaimStopped(
                f"nothing is deleted, since versions of VM {as_uuid(vm)} are gone that nobody"
                " forgot; see"
                " what became of them, then back up once and run this again"
            )


def require_few(going: int, of: int, *, most_share: float, before: int = 0) -> None:
    """Return, if what is to be condemned is no more than people expect.

    Args:
        going: How many packs go, with those that this run condemned before.
        of: How many there are.
        most_share: How many of them are expected at most, 0 to 1.
        before: How many this run condemned before.

    Raises:
        ReclaimStopped: It is more; a person must say that this is meant.
    """
    if going > most_share * of:
        what = f"no pack but the {before} so far is condemned" if before else "nothing is condemned"
        raise ReclaimStopped(
            f"{what}: {going} of {of} packs are needed by no version, more than"
            f" {most_share:.0%} of all; if versions were forgotten on purpose, run it once with a"
            " higher limit"
        )


def pins_that_are_gone(store: DataStore) -> list[str]:
    """Statements of pins that the newest head tells of, and that nobody has given up."""
    try:
        known = [n for n in read_head_state(store).objects if n.startswith(f"{layout.HOLDS}/")]
    except UNREADABLE:
        return []  # a reclaim stops then
    there = {entry.name for entry in store.transport.entries(layout.HOLDS)} if known else set()
    missing = [name for name in known if name not in there and not exists_surely(store, name)]
    return sorted(lost_holds(store, missing))


def require_all_pins(store: DataStore) -> None:
    """Return, if no pin or lock is gone: what it kept nobody knows.

    Raises:
        ReclaimStopped: One is.
    """
    if gone := pins_that_are_gone(store):
        raise ReclaimStopped(
            f"nothing is forgotten, since a pin or a lock is gone from the store ({gone[0]}): put"
            " that object back, from the vault if it is there, or pin once more what must stay,"
            " which makes up for it"
        )


def _require_clock(written: datetime, now: datetime) -> None:
    if now + _SLACK < written:
        raise ReclaimStopped(
            f"nothing is deleted, since this machine's clock ({now:%Y-%m-%d %H:%M}) is behind what"
            f" was written last ({written:%Y-%m-%d %H:%M}); set it right, then run again"
        )
