"""Months of jobs, forgetting and reclaim in one second: no version is lost, whatever happens when.

With a rule switched off versions are lost: so the histories would find it. For each rule there is
one such history written out in `tests/unit/test_rules_of_reclaim.py`, too.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from likeness.codec.documents import Kind
from likeness.store.format import data_store
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import VersionClear
from likeness.store.format.opening import create_store
from likeness.store.read import versions
from tests.simulation.parts import BEGIN, Rules
from tests.simulation.world import World
from tests.support.memory import MemoryTransport

SEEDS = 4
"""Two seconds each; `make torture` goes through twenty thousand."""
FOUND_BY_CHANCE = ("flush", "mutex")
LOOKS = ("require_still_there", "look_for_shared", "look_again_for_shared")
DAYS = 25


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataStore, dict[str, bytes]]:
    transport = MemoryTransport()
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
    _verified_once(monkeypatch)


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
) -> World:
    store, objects = empty
    world = World(seed, store, objects, folder, rules)
    names = random.Random(f"names {seed}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_hex", lambda size: names.randbytes(size).hex())
        for look in () if rules.recheck else LOOKS:
            patch.setattr(f"likeness.store.write.commit.{look}", lambda *_: None)
        world.run(DAYS)
    return world


def test_no_version_is_lost(empty: tuple[DataStore, dict[str, bytes]], tmp_path: Path) -> None:
    worlds = [history(seed, empty, tmp_path) for seed in range(SEEDS)]

    assert {seed: world.losses for seed, world in enumerate(worlds) if world.losses} == {}
    assert sum(world.made for world in worlds) > 5 * SEEDS
    assert sum(world.deleted for world in worlds) > 0
    assert sum(world.rewritten for world in worlds) > 0
    assert sum(world.relied_on for world in worlds) > 0
    assert sum(world.kills for world in worlds) > SEEDS


@pytest.mark.torture
@pytest.mark.parametrize("rule", FOUND_BY_CHANCE)
def test_without_one_of_the_rules_versions_are_lost(
    rule: str,
    empty: tuple[DataStore, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    rules = Rules(flush=rule != "flush", recheck=rule != "recheck", mutex=rule != "mutex")

    found = next((s for s in range(100) if history(s, empty, tmp_path, rules).losses), None)

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
