"""What the store has already is not sent, and is looked for once more before it is relied on."""

import array
import random
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from likeness.agent.known_ids import KnownIds, UnsortedIds
from likeness.errors import SharedDataGone
from likeness.model.ids import RunId, VmId, random_name
from likeness.store.format import layout
from likeness.store.prune.sweeping import delete_redundant_packs
from likeness.store.read.index import known_packs
from likeness.store.read.versions import Version
from likeness.store.write.condemning import say_condemned
from likeness.store.write.receipts import TransferReceipt
from likeness.transport.passing import PassingTransport
from tests.unit.workshop import CHUNK, Workshop, changed, noise

DISK = noise("system", 6 * CHUNK) + bytes(CHUNK)
SMALL = noise("small", 2 * CHUNK)
"""Fits into one pack."""


def known_file(path: Path, ids: Collection[bytes]) -> Path:
    halves = sorted(tuple(int.from_bytes(i[at : at + 8], "big") for at in (0, 8)) for i in ids)
    columns = (array.array("Q", column) for column in zip(*halves, strict=True))
    path.write_bytes(b"".join(column.tobytes() for column in columns))
    return path


def known_of(workshop: Workshop, version: Version) -> Path:
    return known_file(workshop.folder / random_name(), workshop.chunks_of(version))


def test_a_file_of_ids_is_exact(tmp_path: Path) -> None:
    dice = random.Random(1)
    there = [dice.randbytes(8) + dice.randbytes(8) for _ in range(500)]
    there += [there[0][:8] + dice.randbytes(8) for _ in range(3)]
    there += [bytes(15) + b"\1", b"\xff" * 16]
    ids = KnownIds(known_file(tmp_path / "ids", there))

    assert len(ids) == len(there)
    assert all(each in ids and each + dice.randbytes(16) in ids for each in there)
    assert not any(each[:8] + dice.randbytes(8) in ids for each in there)
    assert not any(dice.randbytes(32) in ids for _ in range(500))
    ids.close()
    ids.close()

    (tmp_path / "none").touch()
    none = KnownIds(tmp_path / "none")
    assert dice.randbytes(32) not in none
    none.close()


def test_ids_in_any_order_become_such_a_file(tmp_path: Path) -> None:
    dice = random.Random(2)
    there = [dice.randbytes(32) for _ in range(3000)]
    unsorted = UnsortedIds(tmp_path / "unsorted")
    for first in range(0, len(there), 700):
        unsorted.add(there[first : first + 800])
    ids = unsorted.sorted()

    assert len(ids) == len(there)
    assert all(each in ids for each in there)
    assert not any(dice.randbytes(32) in ids for _ in range(500))
    ids.close()
    assert list(tmp_path.iterdir()) == []


ASKING = """
import random, sys
from pathlib import Path
from likeness.agent.known_ids import KnownIds

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) << 12

before, ids = resident(), KnownIds(Path(sys.argv[1]))
assert not any(random.randbytes(32) in ids for _ in range(20000))
print(resident() - before)
"""


def test_to_ask_a_long_file_takes_no_memory(tmp_path: Path) -> None:
    dice = np.random.default_rng(1)
    firsts, seconds = (dice.integers(0, 1 << 64, 1 << 21, np.uint64) for _ in range(2))
    (tmp_path / "ids").write_bytes(np.sort(firsts).tobytes() + seconds.tobytes())
    command = [sys.executable, "-c", ASKING, str(tmp_path / "ids")]
    took = int(subprocess.run(command, check=True, capture_output=True).stdout)

    assert took < 4 << 20 < (tmp_path / "ids").stat().st_size


def test_what_the_store_has_is_not_sent(workshop: Workshop) -> None:
    known = KnownIds(known_of(workshop, workshop.back_up(DISK)))
    clone = changed(DISK, (CHUNK, noise("own", CHUNK)))
    before = set(workshop.pack_names())

    receipt = workshop.transfer(clone, vm=VmId(random_name()), known=known)

    require_only_own_sent(workshop, receipt, clone)
    assert len(set(workshop.pack_names()) - before) == 1


def require_only_own_sent(workshop: Workshop, receipt: TransferReceipt, clone: bytes) -> None:
    assert receipt.counts.known_bytes == 5 * CHUNK
    assert receipt.counts.new_bytes == CHUNK
    assert receipt.relied_on is not None
    assert len(set(receipt.relied_on)) == receipt.relied_on.chunks == 5
    made = workshop.commit(receipt, copies=workshop.copies)
    assert workshop.restore(made) == clone
    assert made.record.counts.known_bytes == 5 * CHUNK


@pytest.mark.parametrize("how", ["lost", "cut short", "condemned", "given back"])
def test_what_is_gone_meanwhile_is_read_and_sent_again(workshop: Workshop, how: str) -> None:
    first = workshop.back_up(SMALL)
    known = KnownIds(known_of(workshop, first))
    (pack,) = workshop.packs_of(first)
    clone, vm, run = SMALL, VmId(random_name()), RunId(random_name())
    receipt = workshop.transfer(clone, vm=vm, known=known)
    assert receipt.counts.sent_bytes == 0
    name = layout.pack(pack)
    if how in ("lost", "cut short"):
        data = workshop.transport.read(name)
        workshop.transport.delete(name)
        if how == "cut short":
            workshop.transport.create(name, [data[:-1]])
    elif how == "condemned":
        say_condemned(workshop.store, [pack], (), run=run, clock=workshop.clock)
    else:
        twin = workshop.back_up(SMALL, vm=VmId(random_name()))
        (other,) = workshop.packs_of(twin) - {pack}
        held = {pack: {other: workshop.transport.size(layout.pack(other))}}
        delete_redundant_packs(workshop.store, lambda: held, reason="", clock=workshop.clock)
        workshop.transport.delete(layout.pack(other))

    before = workshop.names(layout.INDEX)
    with pytest.raises(SharedDataGone, match="2 data blocks") as told:
        workshop.commit(receipt, copies=workshop.copies)
    assert len(told.value.chunks) == 2
    assert workshop.names(layout.INDEX) == before, "it left something behind"

    gone = frozenset(chunk[:16] for chunk in told.value.chunks)
    again = workshop.transfer(clone, vm=vm, known=known, distrusted=gone)
    made = workshop.commit(again, copies=workshop.copies)
    assert again.counts.new_bytes == 2 * CHUNK
    assert workshop.restore(made) == clone


@pytest.mark.parametrize("off", [False, True])
def test_behind_the_gate_it_is_looked_for_once_more(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, *, off: bool
) -> None:
    """Condemned between the first look and the record: without the second it is lost."""
    first = workshop.back_up(SMALL)
    (pack,) = workshop.packs_of(first)
    receipt = workshop.transfer(
        SMALL, vm=VmId(random_name()), known=KnownIds(known_of(workshop, first))
    )

    class Meanwhile(PassingTransport):
        def create(self, name: str, parts) -> None:  # type: ignore[no-untyped-def]
            if name.startswith(layout.MAPS) and workshop.transport.size(layout.pack(pack)):
                say_condemned(
                    workshop.store, [pack], (), run=RunId(random_name()), clock=workshop.clock
                )
            super().create(name, parts)

    if off:
        monkeypatch.setattr("likeness.store.write.commit.look_again_for_shared", lambda *_: None)
    plain, workshop.store = workshop.store, workshop.store.over(Meanwhile(workshop.transport))
    if off:
        made = workshop.commit(receipt, copies=workshop.copies)
        workshop.transport.delete(layout.pack(pack))
        assert {each.pack for each in known_packs(plain)} == {pack}
        with pytest.raises(Exception, match="not in the store"):
            workshop.restore(made)
    else:
        with pytest.raises(SharedDataGone):
            workshop.commit(receipt, copies=workshop.copies)
