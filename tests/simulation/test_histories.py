"""Weeks of jobs, forgetting and reclaim in no time: no version is lost, whatever happens when.

With a rule switched off versions are lost: so the histories would find it. For each rule there is
one such history written out in `tests/unit/test_rules_of_reclaim.py`, too.
"""

import hashlib
import random
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from likeness.codec.documents import Kind
from likeness.codec.keys import PublicKeys, StoreKeys
from likeness.model.ids import PackId
from likeness.store.format import data_store
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import VersionClear
from likeness.store.format.opening import create_store
from likeness.store.prune.marking import Mark
from likeness.store.read import versions
from likeness.store.write.condemning import Condemned, owner_number, read_condemned
from tests.simulation.parts import BEGIN, Rules
from tests.simulation.world import World
from tests.support.memory import MemoryTransport

SEEDS = 500
"""A twentieth of a second each; `make torture` goes through twenty thousand, and further."""
DAYS, MORE_DAYS = 5, 7
HAPPENS = ("made", "deleted", "rewritten", "relied_on", "kills")
"""What must happen now and then, or they show nothing."""
by_others = Condemned.by_others


def condemned_by_me(store: DataStore) -> frozenset[PackId]:
    """As `condemned_packs` would be, if it did not matter what earlier owners condemned."""
    known = read_condemned(store)
    return frozenset(known.packs.keys() - by_others(known, owner_number(store)))


WITHOUT: dict[str, dict[str, Any]] = {
    "recheck": {
        "likeness.store.write.commit.require_still_there": lambda *_: None,
        "likeness.store.write.commit.look_for_shared": lambda *_: None,
        "likeness.store.write.commit.look_again_for_shared": lambda *_: None,
    },
    "remark": {
        "likeness.store.prune.reclaiming.marked_again": lambda work, _: Mark(
            work.store, work.scratch, work.stop
        ),
        "likeness.store.prune.reclaiming.look_again": lambda _: None,
    },
    "taint": {
        "likeness.store.prune.sweeping.condemned_packs": condemned_by_me,
        "likeness.store.prune.sweeping.said_lately": lambda _: set(),
        "likeness.store.write.doomed.condemned_packs": condemned_by_me,
        "likeness.store.write.doomed.said_lately": lambda _: set(),
        "likeness.store.write.condemning.Condemned.by_others": lambda *_: set(),
    },
}
"""What is put out of work where a rule is off; the world itself does the others."""


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataStore, dict[str, bytes]]:
    transport = MemoryTransport()
    with pytest.MonkeyPatch.context() as patch:
        _signed_cheaply(patch)
        made = create_store(
            transport,
            key_file=tmp_path_factory.mktemp("keys") / "key",
            clock=lambda: BEGIN,
            chunk_bytes=1 << 16,
        )
    return made.store, dict(transport.objects)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def serial(work, items, *, workers, name):  # type: ignore[no-untyped-def]
        return map(work, items)

    monkeypatch.setattr("likeness.store.write.commit.bounded_map", serial)
    _signed_cheaply(monkeypatch)
    _verified_once(monkeypatch)


def _signed_cheaply(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature costs more than all else that a simulated step does; nobody forges one here."""

    def sign(_keys: StoreKeys, message: bytes, *, vault: str = "") -> bytes:
        return hashlib.sha512(message).digest()

    def verifies(_keys: PublicKeys, signature: bytes, message: bytes) -> bool:
        return signature == hashlib.sha512(message).digest()

    monkeypatch.setattr(StoreKeys, "sign", sign)
    monkeypatch.setattr(PublicKeys, "verifies", verifies)


def _verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes under the same name mean the same: no signature is checked twice."""
    documents: dict[tuple[str, bytes], Any] = {}
    read, version = data_store.signed_document, versions._version

    def signed(data, name, kind, clear, verifier):  # type: ignore[no-untyped-def]
        if (name, data) not in documents:
            documents[name, data] = read(data, name, kind, clear, verifier)
        else:
            verifier(documents[name, data][1])  # who had lost the store when it was written
        return documents[name, data]

    def of_version(store, name, data):  # type: ignore[no-untyped-def]
        data_store.signed_document(data, name, Kind.VERSION, VersionClear, store.verifier)
        if (f"of {name}", data) not in documents:
            documents[f"of {name}", data] = version(store, name, data)
        return documents[f"of {name}", data]

    monkeypatch.setattr(data_store, "signed_document", signed)
    monkeypatch.setattr(versions, "signed_document", signed)
    monkeypatch.setattr(versions, "_version", of_version)


def history(
    seed: int,
    empty: tuple[DataStore, dict[str, bytes]],
    folder: Path,
    rules: Rules = Rules(),  # noqa: B008
    days: int = MORE_DAYS,
) -> World:
    store, objects = empty
    world = World(seed, store, objects, folder, rules)
    names = random.Random(f"names {seed}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_hex", lambda size: names.randbytes(size).hex())
        for rule, hooks in WITHOUT.items():
            for place, instead in hooks.items() if not getattr(rules, rule) else ():
                patch.setattr(place, instead)
        world.run(days)
    return world


def test_no_version_is_lost(empty: tuple[DataStore, dict[str, bytes]], tmp_path: Path) -> None:
    done: Counter[str] = Counter()
    lost: dict[int, list[str]] = {}
    for seed in range(SEEDS):
        world = history(seed, empty, tmp_path, days=DAYS)
        if world.losses:
            lost[seed] = world.losses
        done.update({each: getattr(world, each) for each in HAPPENS})

    assert lost == {}
    assert {each: done[each] for each in HAPPENS if done[each] < SEEDS / 5} == {}


@pytest.mark.torture
@pytest.mark.parametrize("rule", [each.name for each in fields(Rules)])
def test_without_one_of_the_rules_versions_are_lost(
    rule: str,
    empty: tuple[DataStore, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    rules = replace(Rules(), **{rule: False})

    found = next((s for s in range(2000) if history(s, empty, tmp_path, rules).losses), None)

    assert found is not None


@pytest.mark.torture
@pytest.mark.parametrize("start", range(0, 20_000, 500))
def test_twenty_thousand_histories(
    start: int, empty: tuple[DataStore, dict[str, bytes]], tmp_path: Path
) -> None:
    lost = {
        seed: world.losses
        for seed in range(start, start + 500)
        if (world := history(seed, empty, tmp_path)).losses
    }
    assert lost == {}
