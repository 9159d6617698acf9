"""A step back in time of the store, the catalog or both has a defined end, and stops no VM."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from blocks import CatalogFile, DataStoreShare
from catalog.audits import open_troubles
from catalog.dedup import drop_duplicates, record_deleted_packs
from catalog.incidents import note_incidents, untold_incidents
from catalog.messages import undelivered
from catalog.reconciling import highest_sequence, known_records, store_of
from catalog.session import catalog_session
from catalog.values import Verdict
from likeness.clock import system_clock
from likeness.errors import WrongKey
from likeness.model.ids import RunId, random_name
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.read.versions import Version, record_names, vms
from tasks.catch_up import catch_up
from tasks.heal import heal_damage
from tests.support.catalog_rows import verdict_history
from tests.unit.workshop import CHUNK, changed, noise
from tests.validation.house import House, settings_of

GOOD, BAD, UNCHECKED = Verdict.GOOD, Verdict.BAD, Verdict.UNCHECKED
WEB, DB = noise("web", 6 * CHUNK), noise("db", 4 * CHUNK)


@pytest.fixture(autouse=True)
def _no_logger() -> Generator[None, None, None]:
    with disable_run_logger():
        yield


class Past:
    """What a storage snapshot keeps: the store, the catalog, or both, as they were."""

    def __init__(self, house: House, name: str) -> None:
        self.house, self.folder = house, house.folder / name
        for part in ("store", "here"):
            shutil.copytree(house.folder / part, self.folder / part)

    def back(self, *parts: str) -> None:
        for part in parts:
            shutil.rmtree(self.house.folder / part)
            shutil.copytree(self.folder / part, self.house.folder / part)


def caught_up(house: House) -> int:
    with catalog_session(house.catalog):  # as every run has one
        return catch_up.fn(site=house.site)


def next_version(house: House, vm: str, content: bytes) -> Version:
    """A backup as the flows do it: committed in the store, then taken over from there."""
    above = highest_sequence(house.catalog, house.vms[vm])
    version = house.workshop.back_up(content, vm=house.vms[vm], vm_name=vm, above=above)
    caught_up(house)
    house.disks[vm][version.version] = (content,)
    return version


def ends_well(house: House) -> None:
    """Whatever happened, the next night is like any other, and all that is listed is whole."""
    caught_up(house)
    before = {name for vm in vms(house.workshop.store) for name in names(house, vm)}
    new = [next_version(house, vm, noise(f"{vm} next", 6 * CHUNK)) for vm in ("web", "db")]
    assert caught_up(house) == 0
    house.clock.now = system_clock()
    house.validate()
    rows = {row.record: row.verdict for row in house.rows()}
    assert rows == dict.fromkeys({*before, *(each.name for each in new)}, GOOD)
    for each in new:
        assert house.whole(each)


def names(house: House, vm: object) -> list[str]:
    return record_names(house.workshop.store, vm)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory: pytest.TempPathFactory) -> House:
    house = House(tmp_path_factory.mktemp("lived") / "house")
    house.clock.now = system_clock()
    with disable_run_logger(), catalog_session(house.catalog):
        for turn in range(2):
            for vm, content in (("web", WEB), ("db", DB)):
                house.back_up(vm, changed(content, (0, noise(f"{vm} {turn}", CHUNK))))
        house.validate()
        caught_up(house)
        assert set(house.verdicts()["web"]) == {GOOD}
    return house


@pytest.fixture
def lived(two_nights: House, tmp_path: Path) -> House:
    """Two VMs with two validated versions each, in a house whose clock is the real one."""
    return two_nights.copied(tmp_path / "house")


def live_on(house: House) -> list[Version]:
    """Two more nights of web alone."""
    made = [house.back_up("web", changed(WEB, (CHUNK, noise(n, CHUNK)))) for n in (8, 9)]
    house.clock.now = system_clock()
    house.validate()
    return made


def test_a_store_that_is_older_loses_versions_that_are_red_and_told_once(lived: House) -> None:
    past = Past(lived, "past")
    lost = live_on(lived)
    past.back("store")

    assert caught_up(lived) == 0

    assert lived.verdicts() == {"web": [GOOD, GOOD], "db": [GOOD, GOOD]}
    for each in lost:
        assert verdict_history(lived.catalog, each.version)[-1][1:] == (
            *(BAD, "the data store does not have its record any more"),
        )
    note_incidents(lived.catalog, system_clock())
    ((incident, about),) = untold_incidents(lived.catalog)
    assert (about, {each.version for each in incident.versions}) == (
        *("damage", {each.version for each in lost}),
    )
    assert all(each.lost for each in incident.versions)
    ends_well(lived)
    note_incidents(lived.catalog, system_clock())
    assert len(untold_incidents(lived.catalog)) == 1  # nothing else, and no "healed"
    newest = max(lived.rows("web"), key=lambda row: row.sequence)
    assert newest.sequence == 5  # 3 and 4 were given to what is lost


def test_what_an_older_store_lost_comes_back_from_the_vault(lived: House) -> None:
    past = Past(lived, "past")
    lost = live_on(lived)
    lived.vault()
    past.back("store")
    caught_up(lived)
    assert len(lived.rows("web")) == 2
    for _ in range(2):  # the records first, and then what they are found to lack
        heal_damage.fn(RunId(random_name()), site=lived.site, stop=StopToken())
        caught_up(lived)
        lived.clock.now = system_clock()
        lived.validate()
    assert lived.verdicts() == {"web": [GOOD] * 4, "db": [GOOD] * 2}
    for each in lost:
        assert lived.whole(each)
    ends_well(lived)


def test_a_record_that_is_removed_expires_and_comes_back_with_it(lived: House) -> None:
    (newest, *_) = lived.rows("web")
    record = lived.folder / "store" / newest.record
    kept = record.read_bytes()
    record.unlink()
    caught_up(lived)
    assert len(lived.rows("web")) == 1
    record.write_bytes(kept)
    caught_up(lived)
    assert [row.verdict for row in lived.rows("web")] == [UNCHECKED, GOOD]
    ends_well(lived)


def test_a_record_that_one_listing_leaves_out_does_not_expire(
    lived: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a share does whose list of a folder is an older one, kept by a server in between."""
    folder = lived.folder / "store" / layout.versions_of(lived.vms["web"])
    scandir, listed = os.scandir, []

    def forgetful(path: str) -> Any:
        if Path(path) != folder:
            return scandir(path)
        listed.append(path)
        there = sorted(scandir(path), key=lambda entry: entry.name)
        return nullcontext(there[:-1] if len(listed) == 1 else there)

    monkeypatch.setattr(os, "scandir", forgetful)
    caught_up(lived)
    assert len(listed) == 2
    assert lived.verdicts() == {"web": [GOOD, GOOD], "db": [GOOD, GOOD]}


def test_folders_that_cannot_be_listed_end_no_validation_and_turn_nothing_red(
    lived: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scandir = lived.folder / "store", os.scandir
    pack = next((store / layout.PACKS).glob("*/*")).parent
    closed = {pack, store / layout.versions_of(lived.vms["web"]), store / layout.SWEPT}

    def on_a_bad_disk(path: Any) -> Any:
        if not isinstance(path, int) and Path(path) in closed:  # a folder by its number is not one
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return scandir(path)

    before = lived.verdicts()
    monkeypatch.setattr(os, "scandir", on_a_bad_disk)
    with lived.prover() as prover:
        lived.look(prover)
        lived.look(prover, everything=True)
    caught_up(lived)
    lived.validate()

    assert lived.verdicts() == before
    told = {trouble.name for trouble in open_troubles(lived.catalog)}
    assert {str(each.relative_to(store)) for each in closed} <= told


def test_a_store_that_is_newer_is_caught_up_with(lived: House) -> None:
    past = Past(lived, "past")
    made = live_on(lived)
    future = Past(lived, "future")
    past.back("store", "here")
    caught_up(lived)
    future.back("store")
    assert caught_up(lived) == len(made)
    assert lived.verdicts()["web"] == [GOOD, GOOD, UNCHECKED, UNCHECKED]
    ends_well(lived)


def test_a_catalog_that_is_older_is_caught_up(lived: House) -> None:
    past = Past(lived, "past")
    live_on(lived)
    past.back("here")
    assert caught_up(lived) == 2
    ends_well(lived)


def test_a_catalog_that_is_newer_lets_versions_expire(lived: House) -> None:
    past = Past(lived, "past")
    live_on(lived)
    future = Past(lived, "future")
    past.back("store", "here")
    next_version(lived, "web", noise("another line", 6 * CHUNK))
    future.back("here")
    assert caught_up(lived) == 1  # the number 3 is in both, and the ids tell them apart
    assert [row.sequence for row in lived.rows("web")].count(3) == 1
    ends_well(lived)


@pytest.mark.parametrize("when", ["older", "newer"])
def test_both_at_once_are_as_they_were(lived: House, when: str) -> None:
    past = Past(lived, "past")
    live_on(lived)
    future = Past(lived, "future")
    past.back("store", "here")
    if when == "newer":
        future.back("store", "here")
    assert caught_up(lived) == 0
    ends_well(lived)


def test_another_stores_catalog_is_set_aside(lived: House, tmp_path: Path) -> None:
    other = House(tmp_path / "other")
    other.clock.now = system_clock()
    other.back_up("mail", noise("mail", CHUNK))
    caught_up(other)
    theirs, ours = (store_of(each.catalog) for each in (other, lived))
    assert theirs != ours
    Past(other, "past")
    shutil.copyfile(other.catalog.path, lived.catalog.path)

    assert caught_up(lived) == 4

    assert store_of(lived.catalog) == ours
    assert set(lived.verdicts()) == {"web", "db"}
    assert set(lived.verdicts()["web"]) == {UNCHECKED}
    (kept,) = lived.catalog.path.parent.glob("*.set-aside-*")
    assert kept.stat().st_size == other.catalog.path.stat().st_size
    assert [each.name for each in open_troubles(lived.catalog)] == [f"catalog: {kept.name}"]
    ends_well(lived)


def test_another_installations_store_changes_nothing(lived: House, tmp_path: Path) -> None:
    other = House(tmp_path / "other")
    lived.site = settings_of(
        lived.site,
        data_store=DataStoreShare(
            place=str(other.folder / "store"), key_file=lived.site.data_store.key_file
        ),
    )
    before = known_records(lived.catalog)
    with pytest.raises(WrongKey):
        caught_up(lived)
    assert known_records(lived.catalog) == before


def test_both_of_another_installation_are_that_installation(lived: House, tmp_path: Path) -> None:
    other = House(tmp_path / "other")
    other.clock.now = system_clock()
    other.back_up("mail", noise("mail", CHUNK))
    lived.site = settings_of(
        lived.site,
        data_store=other.site.data_store,
        catalog=CatalogFile(folder=str(other.folder / "here")),
    )
    assert caught_up(lived) == 0
    assert set(other.verdicts()) == {"mail"}


def test_what_was_given_back_serves_again_when_it_is_there_again(house: House) -> None:
    house.clock.now = system_clock()
    first = house.back_up("web", WEB)
    house.validate()
    caught_up(house)
    past = Past(house, "past")
    second = house.back_up("db", WEB + noise("more", CHUNK))
    house.validate()
    with_both = {*house.workshop.packs_of(first)}
    for pack in with_both:  # as if db's copy had been the one to keep
        record_deleted_packs(house.catalog, [pack], system_clock())
    house.validate(second)
    past.back("store")

    caught_up(house)

    house.clock.now = system_clock()
    house.validate()
    assert house.verdicts() == {"web": [GOOD]}
    assert house.whole(first)
    assert drop_duplicates(house.catalog, system_clock()).redundant == ()


def test_one_record_that_does_not_read_is_left_out_alone(lived: House) -> None:
    past = Past(lived, "past")
    made = live_on(lived)
    lived.back_up("db", noise("db again", 2 * CHUNK))
    past.back("here")
    spoilt = lived.folder / "store" / made[0].name
    spoilt.write_bytes(spoilt.read_bytes()[:-40])
    assert caught_up(lived) == 2
    (trouble,) = open_troubles(lived.catalog)
    assert "is damaged" in trouble.cause
    assert [row.sequence for row in lived.rows("web")] == [4, 2, 1]
    assert [row.sequence for row in lived.rows("db")] == [3, 2, 1]


def test_a_vm_whose_folder_is_a_file_stops_no_other(lived: House) -> None:
    folder = lived.folder / "store" / layout.versions_of(lived.vms["web"])
    folder.rename(folder.with_name("aside"))
    folder.write_bytes(b"not a folder")
    lived.workshop.back_up(noise("db again", 2 * CHUNK), vm=lived.vms["db"], vm_name="db")
    caught_up(lived)
    assert len(lived.rows("db")) == 3


def test_nothing_waits_to_be_told_of_a_step_that_was_none(lived: House) -> None:
    caught_up(lived)
    note_incidents(lived.catalog, system_clock())
    assert untold_incidents(lived.catalog) == []
    assert undelivered(lived.catalog) == []
    assert open_troubles(lived.catalog) == []
