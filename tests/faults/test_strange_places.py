"""What lies where an object should lie, and is none, stops nothing; so with odd file systems."""

import errno
import os
import stat
from pathlib import Path

import pytest

from likeness.errors import LikenessError, ObjectUnreadable, ShareRefused, ShareUnreachable
from likeness.model.ids import VersionId, random_name
from likeness.stopping import StopToken
from likeness.store.check.scrubbing import scrub_signatures
from likeness.store.format import layout
from likeness.store.format.opening import create_store
from likeness.store.prune.sweeping import sweep_inboxes
from likeness.store.read.disk_writers import FileDiskWriter
from likeness.store.read.restoring import restore_disk
from likeness.store.write.catalog_copies import fetch_newest, put_copy
from likeness.store.write.heads import FULL_EVERY, read_head_state, write_head
from likeness.transport.local import LocalTransport
from tests.audit.conftest import OBJECTS, SIZE, Filled, bad, fill
from tests.support.faulty import FaultyTransport
from tests.unit.workshop import TickingClock, changed, noise

NEXT = changed(noise("disk", SIZE), (5000, b"next"))


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path)


def put_folder(path: Path) -> None:
    path.mkdir()


def put_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


STRANGE = [put_folder, put_dangling_link, put_pipe]


@pytest.mark.parametrize("put", STRANGE)
def test_heads_go_on_past_what_lies_under_the_next_name(filled: Filled, put: object) -> None:
    number = read_head_state(filled.store).number
    put(filled.path(layout.numbered(layout.HEADS, number + 1)))  # type: ignore[operator]
    filled.workshop.back_up(NEXT)

    first = write_head(filled.store, clock=filled.workshop.clock)
    filled.workshop.back_up(changed(NEXT, (0, b"more")))
    second = write_head(filled.store, clock=filled.workshop.clock)

    assert first.number == FULL_EVERY + 1
    assert "head" in first.problem
    assert (second.number, second.problem) == (first.number + 1, "")
    assert read_head_state(filled.store).vms == second.vms


def test_heads_go_on_past_several_of_them(filled: Filled) -> None:
    number = read_head_state(filled.store).number
    for blocked in (number + 1, FULL_EVERY + 1, 2 * FULL_EVERY + 1):
        put_folder(filled.path(layout.numbered(layout.HEADS, blocked)))
    filled.workshop.back_up(NEXT)

    assert write_head(filled.store, clock=filled.workshop.clock).number == 3 * FULL_EVERY + 1


@pytest.mark.parametrize("put", STRANGE)
def test_the_newest_head_may_be_something_else(filled: Filled, put: object) -> None:
    path = filled.path(filled.names(layout.HEADS)[-1])
    path.unlink()
    put(path)  # type: ignore[operator]
    filled.workshop.back_up(NEXT)

    write_head(filled.store, clock=filled.workshop.clock)
    filled.workshop.back_up(changed(NEXT, (0, b"more")))

    assert write_head(filled.store, clock=filled.workshop.clock).problem == ""


@pytest.mark.parametrize("put", STRANGE)
def test_copies_of_the_catalog_go_on_past_what_lies_under_the_next_name(
    filled: Filled, put: object
) -> None:
    put(filled.path(layout.numbered(layout.CATALOG, 2)))  # type: ignore[operator]
    target = filled.workshop.folder / "fetched"
    target.mkdir()

    folder = filled.workshop.folder / "catalog"
    made = [put_copy(filled.store, folder, clock=filled.workshop.clock).number for _ in range(2)]

    assert made == [3, 4]
    assert not [name for name in filled.names(layout.CATALOG) if "2-" in name]
    assert fetch_newest(filled.store, target).number == 4


def test_a_folder_in_a_record_s_place_has_its_number(filled: Filled) -> None:
    last = filled.versions[-1]
    version = VersionId(random_name())
    put_folder(filled.path(layout.version_record(last.vm, last.sequence + 1, version)))

    assert filled.workshop.back_up(NEXT).sequence == last.sequence + 2


def test_a_version_made_while_the_one_before_could_not_be_read_is_no_forgery(
    filled: Filled,
) -> None:
    last = filled.versions[-1]
    faulty = FaultyTransport(filled.workshop.transport)
    filled.workshop.transport = filled.store.transport = faulty
    faulty.unreadable[last.name] = ObjectUnreadable(f"{last.name}: Input/output error")
    version = filled.workshop.back_up(NEXT)
    faulty.unreadable.clear()

    found = list(scrub_signatures(filled.store, stop=StopToken()))

    assert filled.workshop.restore(version) == NEXT
    assert bad(found) == {}
    assert ["it could not be read when that one was made" in each.meaning for each in found] == [
        True
    ]


def test_an_inbox_with_something_that_cannot_be_deleted_does_not_stop_the_sweep(
    filled: Filled,
) -> None:
    class InUse(FaultyTransport):
        def delete(self, name: str) -> None:
            if name == kept:
                raise ObjectUnreadable(f"{name}: somebody else has it open")
            super().delete(name)

    first, second = (f"{n * 32}" for n in "ab")
    kept = f"in/{first}/{'1' * 32}"
    for name in (kept, f"in/{first}/{'2' * 32}", f"in/{second}/{'3' * 32}"):
        filled.workshop.transport.create(name, [b"left behind"])
    filled.store.transport = InUse(filled.workshop.transport)

    assert sweep_inboxes(filled.store, lambda _: False).objects == 2
    assert filled.names(layout.INBOX) == [kept]


# --- file systems that cannot do everything ---

CANNOT = [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS]


@pytest.fixture
def without_fsync_of_folders(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fsync = os.fsync

    def refusing(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refusing)


@pytest.mark.parametrize("code", CANNOT)
@pytest.mark.usefixtures("without_fsync_of_folders")
def test_set_up_refuses_a_file_system_that_cannot_keep_names_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    place, key_file = tmp_path / "place", tmp_path / "store.key"

    with pytest.raises(ShareRefused, match="cannot make file names durable") as refused:
        create_store(LocalTransport(place, make=True), key_file=key_file, clock=TickingClock())

    assert "disk well" not in str(refused.value)
    assert not key_file.exists()
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("code", CANNOT)
def test_a_disk_is_restored_onto_such_a_file_system(
    filled: Filled, code: int, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("without_fsync_of_folders")
    disk = filled.versions[0].record.disks[0]
    target = filled.workshop.folder / f"disk-{code}.raw"

    restore_disk(
        filled.store,
        disk,
        FileDiskWriter(target, disk.size_bytes),
        scratch=filled.workshop.folder,
        stop=StopToken(),
    )

    assert target.read_bytes() == noise("disk", SIZE)


MEANINGS: dict[int, tuple[type[LikenessError], str]] = {
    errno.EIO: (ObjectUnreadable, "disk well"),
    errno.EBUSY: (ObjectUnreadable, "somebody else has it open"),
    errno.ETXTBSY: (ObjectUnreadable, "somebody else has it open"),
    errno.EINVAL: (ShareRefused, "its file system cannot do this"),
    errno.ENOTSUP: (ShareRefused, "its file system cannot do this"),
    errno.ESTALE: (ShareUnreachable, "mounted"),
    errno.ETIMEDOUT: (ShareUnreachable, "mounted"),
}


@pytest.mark.parametrize("code", MEANINGS)
def test_only_a_broken_disk_is_asked_after(
    filled: Filled, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, said = MEANINGS[code]

    def refusing(*_: object) -> bytes:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pread", refusing)
    with pytest.raises(kind, match=said) as told:
        filled.workshop.transport.read(OBJECTS["pack"](filled))

    assert type(told.value) is kind
    assert ("disk well" in str(told.value)) is (code == errno.EIO)


def test_a_place_that_cannot_rename_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    class NoRename(FaultyTransport):
        def rename(self, name: str, new_name: str) -> None:
            raise ShareRefused(f"{name}: the account may not do this")

    place = tmp_path / "place"
    with pytest.raises(ShareRefused, match="may not do this"):
        create_store(
            NoRename(LocalTransport(place, make=True)),
            key_file=tmp_path / "store.key",
            clock=TickingClock(),
        )

    assert not (tmp_path / "store.key").exists()
    assert list(place.iterdir()) == []
