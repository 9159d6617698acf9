"""Healing: from the vault, proved before anything turns green; or it stays red."""

from typing import Any

import pytest
from prefect.logging import disable_run_logger

from catalog.values import Verdict
from likeness.clock import system_clock
from likeness.model.ids import RunId, random_name
from likeness.store.read.index import known_packs
from tasks.ages import age_limit
from tasks.heal import Healed, heal_damage
from tests.support.catalog_rows import verdict_history
from tests.unit.workshop import CHUNK, changed, noise
from tests.validation.house import DAY, House

GOOD, BAD = Verdict.GOOD, Verdict.BAD


def heal(house: House) -> Healed:
    with disable_run_logger():
        run = RunId(random_name())
        healed: Healed = heal_damage.fn(run, site=house.site, stop=house.stop)
    return healed


def vaulted_and_damaged(house: House, *, lost: bool) -> Any:
    """Two versions of two VMs, vaulted, then hit."""
    house.clock.now = system_clock()
    content = noise("web", 8 * CHUNK)
    first = house.back_up("web", content)
    house.back_up("web", changed(content, (0, b"new")))
    house.back_up("db", noise("db", 4 * CHUNK))
    house.validate()
    house.vault()
    pack = house.pack_of(first, 5)
    if lost:
        house.lose(pack)
    else:
        house.spoil(pack)
    with house.prover() as prover:
        prover.prove([pack])
    assert house.verdicts() == {"web": [BAD, BAD], "db": [GOOD]}
    return first


@pytest.mark.parametrize("lost", [False, True])
def test_what_the_vault_has_whole_is_put_back_and_proved_and_turns_green(
    house: House, *, lost: bool
) -> None:
    first = vaulted_and_damaged(house, lost=lost)
    before = {pack.pack for pack in known_packs(house.workshop.store)}

    healed = heal(house)

    assert healed.wanted == healed.found > 0
    assert {change.version for change in healed.validated.healed} == {
        row.version for row in house.rows("web")
    }
    assert house.verdicts() == {"web": [GOOD, GOOD], "db": [GOOD]}
    new = {pack.pack for pack in known_packs(house.workshop.store)} - before
    assert len(new) == 1  # nothing was overwritten
    assert house.whole(first)
    told = [verdict for _, verdict, _ in verdict_history(house.catalog, first.version)]
    assert told[-3:] == [GOOD, BAD, GOOD]
    assert heal(house) == Healed()
    assert house.workshop.names("in") == []


def test_nothing_turns_green_before_the_new_pack_was_read_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    vaulted_and_damaged(house, lost=False)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.proving.Prover.prove", lambda *_a, **_k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            heal(house)  # it died between writing and proving

    assert house.verdicts()["web"] == [BAD, BAD]
    house.limit = age_limit("30 days")
    house.clock.now += DAY
    house.validate()  # the new pack is new, so it is read
    assert house.verdicts()["web"] == [GOOD, GOOD]


def test_what_is_damaged_in_the_vault_too_stays_red(house: House) -> None:
    first = vaulted_and_damaged(house, lost=False)
    packs = [path for path in (house.folder / "vault" / "packs").rglob("*") if path.is_file()]
    for path in packs:
        data = bytearray(path.read_bytes())
        for at in range(300, len(data) - 300, CHUNK // 2):
            data[at] ^= 0xFF
        path.write_bytes(bytes(data))

    healed = heal(house)

    assert (healed.wanted > 0, healed.found) == (True, 0)
    assert house.verdicts()["web"] == [BAD, BAD]
    assert not list(house.workshop.names("in"))
    del first


def test_an_empty_vault_heals_nothing_and_breaks_nothing(house: House) -> None:
    content = noise("web", 4 * CHUNK)
    first = house.back_up("web", content)
    house.validate()
    house.spoil(house.pack_of(first))
    with house.prover() as prover:
        prover.prove([house.pack_of(first)])

    healed = heal(house)

    assert healed.found == 0
    assert healed.problem
    assert house.verdicts() == {"web": [BAD]}


def test_another_copy_in_the_store_serves_and_nobody_turns_red(house: House) -> None:
    content = noise("same", 4 * CHUNK)
    first = house.back_up("web", content)
    second = house.back_up("db", content)
    house.validate()
    house.spoil(house.pack_of(first))
    hit = house.pack_of(first)

    with house.prover() as prover:
        found = prover.prove([hit])

    assert found.damaged_chunks > 0
    assert house.verdicts() == {"web": [GOOD], "db": [GOOD]}
    assert house.whole(first)
    assert house.whole(second)


def test_a_heal_does_not_make_green_what_a_dead_validation_never_read(house: House) -> None:
    house.clock.now = system_clock()
    first = house.back_up("web", noise("web", 8 * CHUNK))
    house.vault()
    with house.prover() as prover:
        prover.prove(house.all_packs())  # and here it dies: record and block maps were not read
        pack = house.pack_of(first, 5)
        house.spoil(pack)
        prover.prove([pack])
    assert house.verdicts() == {"web": [BAD]}

    assert heal(house).found > 0

    assert house.verdicts() == {"web": [Verdict.UNCHECKED]}
    assert "never read back" in house.rows("web")[0].reason
    house.clock.now = system_clock()
    house.validate()
    assert house.verdicts() == {"web": [GOOD]}
