"""A disk by position: any range, every byte proved, taken from wherever it is whole."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from likeness.model.ids import VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.chunk_source import DataLost
from likeness.store.read.disk_view import DiskView, open_disk
from likeness.store.read.versions import Version
from likeness.store.repair.copying import copy_to_vault
from tests.support.memory import MemoryTransport
from tests.unit.workshop import CHUNK, KIB, MIB, Workshop, flipped, noise, text


@contextmanager
def viewed(
    made: Workshop, version: Version, *stores: DataStore, said: list[str] | None = None
) -> Iterator[DiskView]:
    disk = version.record.disks[0]
    say = (said if said is not None else []).append
    with open_disk(
        stores or [made.store], disk, made.folder, cache_bytes=8 * CHUNK, say=say
    ) as view:
        yield view


def image() -> bytes:
    zeros = bytes(3 * CHUNK)
    return noise(1, 2 * MIB) + zeros + text(2, MIB) + zeros + noise(1, 300 * KIB) + b"end"


def test_any_range_is_what_the_disk_had(workshop: Workshop) -> None:
    made, data = workshop, image()
    version = made.back_up(data)
    dice = random.Random(7)
    with viewed(made, version) as view:
        assert view.size_bytes == len(data)
        assert view.read(0, len(data)) == data
        for _ in range(200):
            offset = dice.randrange(len(data))
            length = dice.randrange(1, 300 * KIB)
            assert view.read(offset, length) == data[offset : offset + length]
        assert view.read(len(data), 10) == b""
        assert view.is_zero(2 * MIB, 3 * CHUNK)
        assert not view.is_zero(0, CHUNK)


def test_threads_read_at_once(workshop: Workshop) -> None:
    made, data = workshop, image()
    version = made.back_up(data)
    wrong: list[int] = []

    def read(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(50):
            offset = dice.randrange(len(data))
            if view.read(offset, 100 * KIB) != data[offset : offset + 100 * KIB]:
                wrong.append(offset)

    with viewed(made, version) as view:
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_damaged_chunk_is_taken_from_another_pack_and_that_is_said(workshop: Workshop) -> None:
    made, data, said = workshop, noise(1, MIB), list[str]()
    version = made.back_up(data)
    ours = made.pack_names()
    made.back_up(data, vm=VmId(random_name()), vm_name="db")
    for damaged in (ours, sorted({*made.pack_names()} - {*ours})):
        whole = {name: made.objects[name] for name in damaged}
        made.objects.update({name: flipped(data, 4000) for name, data in whole.items()})
        with viewed(made, version, said=said) as view:
            assert view.read(0, len(data)) == data
        made.objects.update(whole)
    assert len(said) == len(ours)
    assert all("another pack" in each for each in said)


def test_what_is_nowhere_is_said_with_its_range_and_the_rest_is_read(workshop: Workshop) -> None:
    made, data = workshop, noise(5, MIB)
    version = made.back_up(data)
    path = made.pack_names()[0]
    made.objects[path] = flipped(made.objects[path], 4000)
    lost = []
    with viewed(made, version) as view:
        for offset in range(0, MIB, CHUNK):
            try:
                assert view.read(offset, CHUNK) == data[offset : offset + CHUNK]
            except DataLost as cause:
                lost.append((offset, [(each.offset, each.length) for each in cause.extents]))
    assert len(lost) == 1
    assert lost[0][1] == [(lost[0][0], CHUNK)]


def test_the_vault_gives_what_the_store_lost(workshop: Workshop) -> None:
    made, data, said = workshop, image(), list[str]()
    version = made.back_up(data)
    vault = MemoryTransport()
    assert not any(each.problem for each in copy_to_vault(made.store, vault, stop=StopToken()))
    second = open_store_with_key_file(vault, made.key_file)
    for path in [name for name in made.objects if name.startswith(("packs/", "maps/"))]:
        del made.objects[path]
    with viewed(made, version, made.store, second, said=said) as view:
        assert view.read(0, len(data)) == data
    assert said
