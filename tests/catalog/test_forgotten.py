"""What was forgotten long ago leaves the catalog; what is kept is as it was."""

import random
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.connection import CatalogLocation, reading
from catalog.forgotten import REMEMBERED, drop_forgotten
from catalog.reconciling import highest_sequence, known_records
from catalog.recording import record_version
from catalog.serving import STILL
from catalog.space import forget_versions
from catalog.vaulting import record_version_vaulted
from likeness.model.ids import VersionId
from tests.catalog.history import POSITIONS, History
from tests.catalog.scenes import NOW, chunk, disk, vm, whole_map
from tests.support.catalog_rows import map_of_version, packs_of_version

LATER = NOW + REMEMBERED + timedelta(days=1)


def history_of(empty: CatalogLocation, folder: Path, seed: int, versions: int = 12) -> History:
    """Two VMs of which a few chunks change from version to version."""
    dice, history = random.Random(seed), History.beside(empty, folder)
    maps = {
        which: {0: {p: chunk(which, p) for p in range(POSITIONS)}, 1: {0: chunk(which, "small")}}
        for which in ("web", "db")
    }
    for turn in range(versions):
        which = dice.choice(["web", "db"]) if turn > 3 else ("web", "db")[turn % 2]
        for position in dice.sample(range(POSITIONS), 2):
            maps[which][0][position] = chunk(which, turn, position)
        history.back_up(which, {at: dict(told) for at, told in maps[which].items()})
    return history


def told(history: History, version: VersionId) -> tuple[object, ...]:
    """All that the catalog says a version is made of."""
    mine = history.versions[version]
    maps = [map_of_version(history.catalog, version, disk(mine.vm, at)) for at in range(2)]
    return *maps, sorted(packs_of_version(history.catalog, version))


def rows(history: History) -> list[tuple[int, int, int]]:
    with reading(history.catalog) as connection:
        return connection.execute(
            "SELECT vm_no, since, until FROM maps JOIN disks USING (disk_no)"
        ).fetchall()


@pytest.mark.parametrize("seed", range(2))
def test_what_is_kept_stays_and_nothing_else_does(
    empty: CatalogLocation, tmp_path: Path, seed: int
) -> None:
    history = history_of(empty, tmp_path / "c", seed)
    newest = {mine.record.version for mine in history.last.values()}
    older = [each for each in history.versions if each not in newest]
    going = random.Random(seed).sample(older, len(older) * 2 // 3)
    before = {each: told(history, each) for each in history.versions if each not in going}
    forget_versions(history.catalog, going, NOW)

    assert drop_forgotten(history.catalog, NOW + REMEMBERED) == 0, "not yet"
    assert len(known_records(history.catalog)) == len(history.versions)
    many = len(rows(history))
    assert drop_forgotten(history.catalog, LATER) == many - len(rows(history)) > 0
    assert drop_forgotten(history.catalog, LATER) == 0

    assert {each: told(history, each) for each in before} == before
    assert {each.version for each in known_records(history.catalog)} == set(before)
    turns = kept_turns(history)
    for vm_no, since, until in rows(history):
        assert until == STILL or any(since <= turn < until for turn in turns[vm_no])


def kept_turns(history: History) -> dict[int, list[int]]:
    with reading(history.catalog) as connection:
        return dict(
            connection.execute(
                "SELECT vm_no, list(turn) FROM versions WHERE record <> '' GROUP BY vm_no"
            ).fetchall()
        )


def test_one_that_is_killed_in_the_middle_is_made_up_for(
    empty: CatalogLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = history_of(empty, tmp_path / "c", 7)
    newest = {mine.record.version for mine in history.last.values()}
    going = [each for each in history.versions if each not in newest]
    kept = {each: told(history, each) for each in newest}
    forget_versions(history.catalog, going, NOW)
    many = len(rows(history))

    with monkeypatch.context() as killed:
        killed.setattr("catalog.forgotten._drop_maps", _dies)
        with pytest.raises(KeyboardInterrupt):
            drop_forgotten(history.catalog, LATER)
    assert (len(rows(history)), len(known_records(history.catalog))) == (many, len(newest))
    assert {each: told(history, each) for each in newest} == kept

    assert drop_forgotten(history.catalog, LATER) == many - len(rows(history)) > 0
    assert {each: told(history, each) for each in newest} == kept
    assert drop_forgotten(history.catalog, LATER) == 0


def _dies(*_told: object) -> int:
    raise KeyboardInterrupt


def test_the_next_version_goes_on_and_one_that_comes_back_is_recorded_anew(
    empty: CatalogLocation, tmp_path: Path
) -> None:
    history = history_of(empty, tmp_path / "c", 5)
    first = next(each for each, mine in history.versions.items() if mine.vm == "web")
    as_it_was, number = told(history, first), highest_sequence(history.catalog, vm("web"))
    forget_versions(history.catalog, [first], NOW)
    assert drop_forgotten(history.catalog, LATER) > 0

    last = history.last["web"]
    history.back_up("web", {0: {**last.maps[0], 3: chunk("web", "next")}, 1: last.maps[1]})
    assert highest_sequence(history.catalog, vm("web")) == number + 1

    mine = history.versions[first]
    whole = [whole_map("web", chunks, at) for at, chunks in mine.maps.items()]
    assert record_version(history.catalog, mine.record, whole, mine.brought, LATER).new
    assert told(history, first) == as_it_was
    assert drop_forgotten(history.catalog, LATER) == 0


def test_the_newest_of_a_vm_and_what_a_vault_has_stay(
    empty: CatalogLocation, tmp_path: Path
) -> None:
    history = history_of(empty, tmp_path / "c", 6)
    vaulted = next(iter(history.versions))
    record_version_vaulted(history.catalog, "vault", [vaulted], NOW)
    forget_versions(history.catalog, history.versions, NOW)

    drop_forgotten(history.catalog, LATER)

    newest = {mine.record.version for mine in history.last.values()}
    assert {each.version for each in known_records(history.catalog)} == {vaulted, *newest}
