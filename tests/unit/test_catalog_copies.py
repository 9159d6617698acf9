"""Copies of the catalog in the store: the newest whole one comes back."""

from pathlib import Path

import pytest

from likeness.errors import ObjectMissing, ShareUnreachable
from likeness.store.write.catalog_copies import KEPT, fetch_newest, put_copy
from tests.support.faulty import CHANGING, Fault, FaultyTransport
from tests.unit.workshop import MIB, Workshop, flipped, noise, sha256_of


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    folder = tmp_path / "catalog"
    folder.mkdir()
    return folder


@pytest.fixture
def back(tmp_path: Path) -> Path:
    folder = tmp_path / "back"
    folder.mkdir()
    return folder


def put(workshop: Workshop, catalog: Path, content: bytes) -> int:
    (catalog / "versions.parquet").write_bytes(content)
    return put_copy(workshop.store, catalog, clock=workshop.clock).number


def test_what_was_put_comes_back(workshop: Workshop, catalog: Path, back: Path) -> None:
    (catalog / "empty.parquet").write_bytes(b"")
    (catalog / "big.parquet").write_bytes(noise(1, 20 * MIB))
    put(workshop, catalog, b"rows")

    found = fetch_newest(workshop.store, back)

    assert (found.number, found.passed_over) == (1, ())
    assert {p.name: sha256_of(p) for p in back.iterdir()} == {
        p.name: sha256_of(p) for p in catalog.iterdir()
    }
    assert len(workshop.names("catalog")) == 3, "two parts and their document"
    assert not list(catalog.parent.glob("*.tar"))


def test_nothing_of_a_catalog_can_be_read_on_the_share(workshop: Workshop, catalog: Path) -> None:
    put(workshop, catalog, b"a very secret name of a vm")

    assert not any(b"secret" in data or b"parquet" in data for data in workshop.objects.values())


def test_the_newest_fourteen_copies_are_kept(workshop: Workshop, catalog: Path, back: Path) -> None:
    for at in range(KEPT + 3):
        put(workshop, catalog, b"%d" % at)

    assert len(workshop.names("catalog")) == 2 * KEPT
    assert fetch_newest(workshop.store, back).number == KEPT + 3
    assert (back / "versions.parquet").read_bytes() == b"%d" % (KEPT + 2)


@pytest.mark.parametrize("part", [True, False])
@pytest.mark.parametrize("how", ["flip", "cut", "delete"])
def test_a_damaged_copy_is_passed_over(
    workshop: Workshop, catalog: Path, back: Path, *, part: bool, how: str
) -> None:
    put(workshop, catalog, b"older")
    put(workshop, catalog, b"newer")
    name = [n for n in workshop.names("catalog") if ("-" in n) is part][-1]
    good = workshop.objects.pop(name)
    if how != "delete":
        workshop.objects[name] = flipped(good, 60) if how == "flip" else good[:-9]

    found = fetch_newest(workshop.store, back)

    assert found.number == 1
    assert (back / "versions.parquet").read_bytes() == b"older"
    assert len(found.passed_over) == (0 if how == "delete" and not part else 1)


def test_a_part_of_another_copy_is_refused(workshop: Workshop, catalog: Path, back: Path) -> None:
    put(workshop, catalog, b"older")
    put(workshop, catalog, b"newer")
    older, newer = (n for n in workshop.names("catalog") if "-" in n)
    workshop.objects[newer] = workshop.objects[older]

    assert fetch_newest(workshop.store, back).number == 1


def test_a_part_that_an_attempt_before_left_is_not_taken_for_this_ones(
    workshop: Workshop, catalog: Path, back: Path
) -> None:
    """Both were sealed for the same place; only the digest tells them apart."""
    put(workshop, catalog, b"older")
    healthy = workshop.store.transport
    workshop.store.transport = FaultyTransport(healthy, at=2, counting={"create"})
    with pytest.raises(ShareUnreachable):
        put(workshop, catalog, b"given up")
    workshop.store.transport = healthy
    put(workshop, catalog, b"newer")
    left, named = (
        n for n in workshop.names("catalog") if n.startswith("catalog/0000000000000002-")
    )
    workshop.objects[named] = workshop.objects[left]

    assert fetch_newest(workshop.store, back).number == 1
    assert (back / "versions.parquet").read_bytes() == b"older"


def test_without_any_copy_there_is_nothing_to_fetch(workshop: Workshop, back: Path) -> None:
    with pytest.raises(ObjectMissing, match="a whole copy of the catalog"):
        fetch_newest(workshop.store, back)


@pytest.mark.parametrize("fault", [Fault.RAISE_BEFORE, Fault.RAISE_AFTER, Fault.TORN_WRITE])
def test_a_copy_that_failed_anywhere_leaves_an_older_one_and_the_next_one_works(
    workshop: Workshop, catalog: Path, back: Path, fault: Fault
) -> None:
    for at in range(KEPT):
        put(workshop, catalog, b"%d" % at)
    before = dict(workshop.objects)
    healthy = workshop.store.transport
    watched = FaultyTransport(healthy, counting=CHANGING)
    workshop.store.transport = watched
    put(workshop, catalog, b"last")
    count = len(watched.operations)
    assert count == 4

    for at in range(1, count + 1):
        workshop.objects.clear()
        workshop.objects.update(before)
        workshop.store.transport = FaultyTransport(healthy, at=at, fault=fault, counting=CHANGING)
        with pytest.raises(ShareUnreachable):
            put(workshop, catalog, b"failed")
        workshop.store.transport = healthy
        fetch_newest(workshop.store, back)
        assert (back / "versions.parquet").read_bytes() in (b"failed", b"%d" % (KEPT - 1))

        put(workshop, catalog, b"again")
        fetch_newest(workshop.store, back)
        assert (back / "versions.parquet").read_bytes() == b"again"

        for _ in range(KEPT):
            put(workshop, catalog, b"more")
        assert len(workshop.names("catalog")) == 2 * KEPT, "nothing is left behind for ever"
