"""Records, block maps, keys, heads, index: looked for, looked at twice, told, healed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.audits import AuditTrouble, audit_is_due, open_troubles, untold_troubles
from catalog.incidents import note_incidents, untold_incidents
from catalog.messages import Message, write_message
from catalog.values import Verdict
from likeness.clock import system_clock
from likeness.codec.slots import SlotKind
from likeness.model.ids import RunId, random_name
from likeness.store.format import layout
from likeness.store.keys.keyring import list_slots
from likeness.store.prune.sweeping import state_swept
from likeness.store.read.versions import Version
from likeness.store.repair.healing_documents import STATEMENTS
from likeness.store.write.condemning import say_condemned
from likeness.store.write.forgetting import forget_versions, whole_forgotten
from likeness.store.write.heads import write_head
from likeness.store.write.holding import pin, unpin
from tasks.auditing import EVERYTHING_EVERY, look_at_everything
from tasks.letters import damage_letter, healed_letter, trouble_letter
from tasks.page import trouble_lines
from tests.support.catalog_rows import verdict_history
from tests.unit.workshop import CHUNK, SecondLook, changed, flipped, noise
from tests.validation.house import DAY, House
from tests.validation.test_healing import heal

GOOD, BAD, STALE = Verdict.GOOD, Verdict.BAD, Verdict.STALE
Harm = Callable[[Path], object]


def flip(path: Path) -> None:
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2))


def lose(path: Path) -> None:
    path.unlink()


def two_vms(house: House, *, vaulted: bool = True) -> tuple[Version, Version]:
    """Two versions of web, the second on the first one's block map, and one of db; all green."""
    house.clock.now = system_clock()
    content = noise("web", 8 * CHUNK)
    first = house.back_up("web", content)
    second = house.back_up("web", changed(content, (0, b"new")))
    house.back_up("db", noise("db", 4 * CHUNK))
    house.validate()
    write_head(house.workshop.store, clock=house.clock)
    if vaulted:
        house.vault()
    assert house.verdicts() == {"web": [GOOD, GOOD], "db": [GOOD]}
    return first, second


def path_of(house: House, name: str) -> Path:
    return house.folder / "store" / name


def maps_of(version: Version) -> list[tuple[str, ...]]:
    return [part.copies for disk in version.record.disks for part in disk.parts]


def looked(house: House) -> None:
    """The daily look, some time later."""
    house.clock.now = system_clock()
    with house.prover() as prover:
        house.look(prover, everything=True)


def told(house: House) -> tuple[str, Message]:
    """What people are told now."""
    note_incidents(house.catalog, house.clock())
    ((incident, about),) = untold_incidents(house.catalog)
    if about == "healed":
        return about, healed_letter(incident)
    return about, damage_letter(incident, newest_good={}, vault=True)


@pytest.mark.parametrize("harm", [flip, lose])
def test_a_record_is_red_and_put_back_from_the_vault_and_green_after_the_proof(
    house: House, harm: Harm
) -> None:
    first, _ = two_vms(house)
    before = path_of(house, first.name).read_bytes()
    harm(path_of(house, first.name))

    looked(house)

    assert house.verdicts() == {"web": [BAD, GOOD], "db": [GOOD]}
    about, letter = told(house)
    assert about == "damage"
    assert "records or block maps" in letter.body
    assert first.version[:8] in letter.body
    assert "without the vault they stay damaged" in letter.body
    kept = house.workshop.names("quarantine")
    healed = heal(house)

    assert (healed.broken, healed.documents) == (1, 1)
    assert house.verdicts() == {"web": [GOOD, GOOD], "db": [GOOD]}
    assert path_of(house, first.name).read_bytes() == before
    aside = set(house.workshop.names("quarantine")) - set(kept)
    assert len(aside) == (0 if harm is lose else 1)  # nothing was overwritten
    assert house.whole(first)
    history = [verdict for _, verdict, _ in verdict_history(house.catalog, first.version)]
    assert history[-3:] == [GOOD, BAD, GOOD]
    looked(house)
    assert house.verdicts() == {"web": [GOOD, GOOD], "db": [GOOD]}
    assert heal(house).documents == 0


@pytest.mark.parametrize("harm", [flip, lose])
def test_both_copies_of_a_block_map_turn_every_version_on_it_red_and_are_put_back(
    house: House, harm: Harm
) -> None:
    first, second = two_vms(house)
    shared = maps_of(first)[0]
    assert shared in maps_of(second)
    for copy in shared:
        harm(path_of(house, copy))
    if harm is flip:  # of the same length, so only reading it shows; the first one is due
        house.clock.now = system_clock()
        with house.prover() as prover:
            due = [first.version]
            checks = prover.documents(due, house.folder / "work", all_of_them=True)
            prover.judge(due, checks)
    else:
        looked(house)

    assert house.verdicts() == {"web": [BAD, BAD], "db": [GOOD]}
    at = {verdict_history(house.catalog, v.version)[-1][0] for v in (first, second)}
    assert len(at) == 1  # in one transaction
    assert told(house)[0] == "damage"
    healed = heal(house)

    assert (healed.broken, healed.documents) == (2, 2)
    assert {change.version for change in healed.validated.healed} == {
        first.version,
        second.version,
    }
    assert house.verdicts() == {"web": [GOOD, GOOD], "db": [GOOD]}
    assert house.whole(first)
    assert house.whole(second)


def test_the_mail_tells_of_the_damage_and_of_its_healing(house: House) -> None:
    first, _ = two_vms(house)
    lose(path_of(house, first.name))
    looked(house)
    about, letter = told(house)
    write_message(house.catalog, letter, (), house.clock())
    heal(house)

    about, letter = told(house)

    assert about == "healed"
    assert letter.subject == "Likeness: healed: 1 version of 1 VM (web)"
    assert first.version[:8] in letter.body


def test_without_a_vault_that_has_it_a_record_stays_red(house: House) -> None:
    first, _ = two_vms(house, vaulted=False)
    lose(path_of(house, first.name))
    looked(house)

    healed = heal(house)

    assert healed.documents == 0
    assert healed.problem
    assert house.verdicts() == {"web": [BAD, GOOD], "db": [GOOD]}


def test_what_the_vault_has_altered_is_not_put_back(house: House) -> None:
    first, _ = two_vms(house)
    lose(path_of(house, first.name))
    flip(house.folder / "vault" / first.name)
    looked(house)

    assert heal(house).documents == 0
    assert not path_of(house, first.name).exists()
    assert house.verdicts()["web"] == [BAD, GOOD]


def test_nothing_is_green_between_putting_back_and_the_proof(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = two_vms(house)
    lose(path_of(house, first.name))
    looked(house)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.proving.Prover.documents", lambda *_a, **_k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            heal(house)  # it died in between

    assert path_of(house, first.name).exists()
    assert house.verdicts()["web"] == [BAD, GOOD]
    house.clock.now = system_clock()
    house.validate()
    assert house.verdicts()["web"] == [GOOD, GOOD]


def test_a_record_that_seems_missing_once_is_not_red(house: House) -> None:
    first, _ = two_vms(house)
    path = path_of(house, first.name)
    content = path.read_bytes()

    def mend() -> None:
        path.write_bytes(content)  # what the first connection said was not so

    lose(path)
    house.clock.now = system_clock()
    with house.prover() as prover:
        prover.store.transport = SecondLook(prover.store.transport, mend)
        house.look(prover)

    assert house.verdicts()["web"] == [GOOD, GOOD]


OTHERS: dict[str, Callable[[House], str]] = {
    "a key slot": lambda h: next(
        slot.name for slot in list_slots(h.workshop.store) if slot.kind is not SlotKind.KEY_FILE
    ),
    "the newest head": lambda h: h.workshop.names("heads")[-1],
    "an index segment": lambda h: h.workshop.names("index")[0],
    "public keys": lambda _: layout.public_keys(1),
    "a copy of the format": lambda _: layout.FORMAT_COPIES[1],
    "one copy of a block map": lambda h: h.workshop.names("maps")[0],
}


def serious(house: House) -> list[AuditTrouble]:
    return [each for each in open_troubles(house.catalog) if each.weight != "notice"]


def test_what_every_version_can_do_without_is_told_and_turns_nothing_red(house: House) -> None:
    two_vms(house, vaulted=False)
    write_head(house.workshop.store, clock=house.clock)
    for which, choose in OTHERS.items():
        name = choose(house)
        kept = path_of(house, name).read_bytes()
        (flip if which == "the newest head" else lose)(path_of(house, name))

        looked(house)

        assert set(house.verdicts()["web"]) == {GOOD}, which
        (found,) = serious(house)
        assert (found.name, found.weight) == (name, "spare lost")
        assert untold_troubles(house.catalog) == [found]
        letter = trouble_letter([found])
        assert name in letter.body
        assert found.meaning in letter.body
        assert next(iter(trouble_lines([found]))).startswith(f"- 🟠 `{name}`")
        path_of(house, name).write_bytes(kept)
    looked(house)
    assert serious(house) == []


def test_an_index_segment_and_a_spare_block_map_are_put_back_too(house: House) -> None:
    two_vms(house)
    lost = [OTHERS[which](house) for which in ("an index segment", "one copy of a block map")]
    for name in lost:
        lose(path_of(house, name))
    looked(house)
    assert {each.name for each in serious(house)} == set(lost)

    assert heal(house).documents == 2

    assert all(path_of(house, name).exists() for name in lost)
    assert serious(house) == []
    assert set(house.verdicts()["web"]) == {GOOD}


def test_damaged_statements_are_told_and_put_back_as_the_heads_know_them(house: House) -> None:
    first, _ = two_vms(house, vaulted=False)
    store, clock = house.workshop.store, house.clock
    pin(store, first.name, note="a test", until=None, clock=clock)
    unpin(store, first.name, note="a test", clock=clock)
    forget_versions(store, [first.name], reason="a test", clock=clock)
    state_swept(store, (), ("index/" + "0" * 32,), "a test", clock)
    say_condemned(store, (), (), run=RunId(random_name()), clock=clock)
    write_head(store, clock=clock)
    house.vault()
    names = [n for each in STATEMENTS for n in house.workshop.names(each)]
    assert len(names) == 4
    before = [path_of(house, name).read_bytes() for name in names]
    (condemned,) = house.workshop.names(layout.CONDEMNED)
    for name in (*names, condemned):
        flip(path_of(house, name))
    begun = path_of(house, layout.numbered(layout.FORGETS, 2))
    begun.write_bytes(b"")  # somebody was killed

    looked(house)
    begun.unlink()

    assert {each.name for each in serious(house)} == {*names, condemned}
    assert {each.weight for each in untold_troubles(house.catalog)} == {"spare lost"}
    assert heal(house).documents == 4
    assert [path_of(house, name).read_bytes() for name in names] == before
    assert whole_forgotten(store).now == {first.name}
    looked(house)
    (left,) = serious(house)
    assert left.name == condemned
    assert "moved out of the store" in left.meaning
    path_of(house, names[0]).unlink()  # killed between setting it aside and writing it anew
    looked(house)
    assert heal(house).documents == 1
    assert path_of(house, names[0]).read_bytes() == before[0]
    flip(path_of(house, names[0]))
    (house.folder / "vault" / names[0]).write_bytes(path_of(house, names[1]).read_bytes())
    looked(house)
    assert heal(house).documents == 0, "what the vault has is another one"


def test_a_trouble_that_shows_once_is_none(house: House) -> None:
    two_vms(house)
    name = OTHERS["an index segment"](house)
    content = path_of(house, name).read_bytes()

    lose(path_of(house, name))
    with house.prover() as prover:
        prover.store.transport = SecondLook(
            prover.store.transport, lambda: path_of(house, name).write_bytes(content)
        )
        look_at_everything(prover)

    assert serious(house) == []


def test_everything_is_looked_at_once_a_day_and_clocks_that_jump_put_it_off_never(
    house: House,
) -> None:
    two_vms(house)
    assert audit_is_due(house.catalog, house.clock(), EVERYTHING_EVERY)
    looked(house)
    now = house.clock()
    assert not audit_is_due(house.catalog, now, EVERYTHING_EVERY)
    assert audit_is_due(house.catalog, now + DAY, EVERYTHING_EVERY)
    assert audit_is_due(house.catalog, now - 40 * DAY, EVERYTHING_EVERY)
