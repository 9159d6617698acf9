"""How a vaulting goes about it: how much it asks, how fast, when, of what, and after a kill."""

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from likeness.codec.records import Sealer
from likeness.model.ids import ChunkId, VmId, random_name
from likeness.pacing import BandwidthCap
from likeness.stopping import StopToken
from likeness.store.check.reading_back import read_back
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.vault_file import write_vault_file
from likeness.store.read.versions import Version, read_version
from likeness.store.repair.copying import Manner, PauseHours, copy_to_vault
from likeness.store.repair.vault_mending import Copied
from likeness.store.write.needs_listing import make_vault_file
from likeness.transport.base import Transport
from likeness.transport.local import LocalTransport
from tests.support.faulty import FaultyTransport
from tests.support.memory import MemoryTransport
from tests.unit.test_vault_without_key import write_lists
from tests.unit.workshop import CHUNK, Workshop, flipped, noise

HERE = Path(__file__).parent.parent.parent


def vaulted(workshop: Workshop, vault: Transport, manner: Manner) -> list[Copied]:
    return list(copy_to_vault(workshop.store, vault, stop=StopToken(), manner=manner))


def restored(workshop: Workshop, vault: Transport, name: str) -> bytes:
    opened = open_store_with_key_file(vault, workshop.key_file)
    return workshop.restore(read_version(opened, name), store=opened)


def test_what_is_asked_grows_with_what_is_new_and_not_with_the_store(workshop: Workshop) -> None:
    vault = MemoryTransport()
    here = FaultyTransport(workshop.transport, counting={"read", "size", "entries", "create"})
    far = FaultyTransport(vault, counting={"read", "size", "entries", "create"})

    def asked() -> int:
        """Requests of a vaulting that relies on the one before."""
        before = len(here.operations) + len(far.operations)
        with_counting = DataStore(here, workshop.store.facts, workshop.store.keys)
        copied = copy_to_vault(with_counting, far, stop=StopToken(), manner=Manner(trusted=True))
        moved.append(sum(not each.problem for each in copied))
        return len(here.operations) + len(far.operations) - before

    moved: list[int] = []
    workshop.back_up(noise(0, 3 * CHUNK))
    vaulted(workshop, vault, Manner())
    of_one = asked()
    for each in range(1, 7):
        workshop.back_up(noise(each, 3 * CHUNK), vm=VmId(random_name()))
    vaulted(workshop, vault, Manner())
    of_seven = asked()
    workshop.back_up(noise(7, 3 * CHUNK), vm=VmId(random_name()))
    first_new = asked()
    for each in range(8, 14):
        workshop.back_up(noise(each, 3 * CHUNK), vm=VmId(random_name()))
    vaulted(workshop, vault, Manner())
    name = workshop.back_up(noise(14, 3 * CHUNK), vm=VmId(random_name())).name
    second_new = asked()

    assert moved[:2] == [0, 0]
    assert of_one == of_seven
    assert first_new == second_new
    assert restored(workshop, vault, name) == noise(14, 3 * CHUNK)


def test_one_version_is_copied_with_what_it_needs_and_nothing_else(workshop: Workshop) -> None:
    disk = noise("one", 4 * CHUNK)
    shared = workshop.back_up(disk)
    other = workshop.back_up(noise("two", 4 * CHUNK), vm=VmId(random_name()))
    wanted = workshop.back_up(disk[: 2 * CHUNK] + noise("new", 2 * CHUNK))
    vault = MemoryTransport()

    copied = vaulted(workshop, vault, Manner(only=frozenset([wanted.version])))

    assert not [each for each in copied if each.problem]
    assert restored(workshop, vault, wanted.name) == disk[: 2 * CHUNK] + noise("new", 2 * CHUNK)
    there = {name.rpartition("-")[2] for name in vault.objects if name.startswith("versions/")}
    assert there == {wanted.version}
    assert not {layout.pack(pack) for pack in workshop.packs_of(other)} & set(vault.objects)
    vaulted(workshop, vault, Manner())
    for version in (shared, other):
        assert restored(workshop, vault, version.name) == workshop.restore(version)


def test_it_stops_when_its_hours_are_over_and_goes_on_in_the_next(workshop: Workshop) -> None:
    for each in range(10):  # more than are under way at once when its hours are over
        workshop.back_up(noise(each, CHUNK), vm=VmId(random_name()))
    vault = MemoryTransport()
    planned: list[int] = []

    def is_time() -> bool:
        return sum(name.startswith("packs/") for name in vault.objects) < 2

    with pytest.raises(PauseHours):
        vaulted(workshop, vault, Manner(may_go_on=is_time, planned=planned.append))
    before = {name for name in vault.objects if name.startswith("packs/")}
    assert before
    copied = vaulted(workshop, vault, Manner(planned=planned.append))

    assert planned[0] > planned[1] > 0
    assert not before & {each.name for each in copied}
    assert {*workshop.pack_names()} == {name for name in vault.objects if name[:6] == "packs/"}


@pytest.mark.parametrize(
    ("seconds", "least"), [(3, 0.5), pytest.param(12, 0.9, marks=pytest.mark.torture)]
)
def test_the_cap_holds_within_a_tenth(workshop: Workshop, seconds: int, least: float) -> None:
    """From below in the long run alone: a busy machine may be slower for a moment."""
    for each in range(6):
        workshop.back_up(noise(each, 40 * CHUNK), vm=VmId(random_name()))
    size = sum(entry.size_bytes for entry in workshop.transport.entries(layout.PACKS))
    rate = size / seconds

    begun = time.monotonic()
    copied = vaulted(workshop, MemoryTransport(), Manner(cap=BandwidthCap(rate)))
    took = time.monotonic() - begun

    moved = sum(each.size_bytes for each in copied)
    assert moved / (took + 0.25) >= rate * least
    assert moved / (took + 0.25) <= rate * 1.1, "a quarter of a second's worth passes at once"


_COPYING = """
import sys
from pathlib import Path
from likeness.pacing import BandwidthCap
from likeness.stopping import StopToken
from likeness.store.repair.copying import Manner, copy_to_vault
from likeness.store.format.opening import open_store_with_key_file
from likeness.transport.local import LocalTransport
store = open_store_with_key_file(LocalTransport(Path(sys.argv[1])), Path(sys.argv[2]))
manner = Manner(cap=BandwidthCap(float(sys.argv[4])))
vault = LocalTransport(Path(sys.argv[3]))
for each in copy_to_vault(store, vault, stop=StopToken(), manner=manner):
    assert not each.problem
print("done")
"""


_COPYING_WITHOUT_KEY = """
import sys
from pathlib import Path
from likeness.pacing import BandwidthCap
from likeness.stopping import StopToken
from likeness.store.format.vault_file import open_without_key, read_vault_file
from likeness.store.repair.copying import Manner
from likeness.store.repair.copying_without_key import copy_without_key
from likeness.transport.local import LocalTransport
said = read_vault_file(Path(sys.argv[2]))
store = open_without_key(LocalTransport(Path(sys.argv[1])), said)
manner = Manner(cap=BandwidthCap(float(sys.argv[4])))
vault = LocalTransport(Path(sys.argv[3]))
for each in copy_without_key(store, vault, said, stop=StopToken(), manner=manner):
    assert not each.problem
print("done")
"""


def opener_for(program: str, workshop: Workshop, versions: Iterable[Version]) -> Path:
    """The key file, or a vault file and needs lists."""
    if program == _COPYING:
        return workshop.key_file
    path = workshop.folder / "vault-file"
    for version in versions:
        write_lists(workshop, version.vm)
    write_vault_file(path, make_vault_file(workshop.store, clock=workshop.clock))
    return path


@pytest.mark.parametrize(
    ("kills", "program"),
    [
        (3, _COPYING),
        pytest.param(20, _COPYING, marks=pytest.mark.torture),
        pytest.param(20, _COPYING_WITHOUT_KEY, marks=pytest.mark.torture),
    ],
    ids=["3", "20", "20 without key"],
)
def test_a_killed_vaulting_goes_on_without_sending_finished_packs_again(
    tmp_path: Path, kills: int, program: str
) -> None:
    workshop = Workshop(tmp_path, transport=LocalTransport(tmp_path / "store", make=True))
    (tmp_path / "vault").mkdir()
    versions = {
        workshop.back_up(disk, vm=VmId(random_name())): disk
        for disk in (noise(each, 8 * CHUNK) for each in range(2 * kills))
    }
    size = {e.name: e.size_bytes for e in workshop.transport.entries(layout.PACKS)}
    rate = sum(size.values()) / kills / 1.2
    opener = opener_for(program, workshop, versions)
    command = [sys.executable, "-c", program, str(tmp_path / "store"), str(opener)]
    command += [str(tmp_path / "vault")]

    def finished() -> dict[Path, int]:
        found = {}
        for path in (tmp_path / "vault" / "packs").glob("*/*"):
            facts = path.stat()
            if facts.st_size == size[f"packs/{path.parent.name}/{path.name}"]:
                found[path] = facts.st_ino
        return found

    seen: dict[Path, int] = {}
    for _ in range(kills):
        process = subprocess.Popen([*command, str(rate)], cwd=HERE, stdout=subprocess.DEVNULL)
        began = len(seen)
        while process.poll() is None and len(finished()) <= began:
            time.sleep(0.02)
        process.kill()
        process.wait()
        now = finished()
        assert {path: now.get(path) for path in seen} == seen
        seen = now
    subprocess.run([*command, "1e9"], cwd=HERE, check=True, stdout=subprocess.DEVNULL)

    last = finished()
    assert {path: last.get(path) for path in seen} == seen
    assert len(last) == len(size)
    vault = LocalTransport(tmp_path / "vault")
    for version, disk in versions.items():
        assert restored(workshop, vault, version.name) == disk


@pytest.mark.parametrize("how", ["equal length", "shorter", "gone", "record", "map", "both"])
def test_reading_back_finds_what_is_not_whole_and_the_next_vaulting_puts_it_right(
    workshop: Workshop, how: str
) -> None:
    versions = [workshop.back_up(noise(n, 3 * CHUNK), vm=VmId(random_name())) for n in range(3)]
    vault = MemoryTransport()
    vaulted(workshop, vault, Manner())
    opened = DataStore(vault, workshop.store.facts, workshop.store.keys, unfinished=True)
    (pack,) = map(layout.pack, workshop.packs_of(versions[1]))
    maps = [name for part in versions[1].record.disks[0].parts for name in part.copies]
    hit = {"record": [versions[1].name], "map": maps[1:], "both": maps}.get(how, [pack])
    names = [versions[n].name for n in range(3)] + workshop.pack_names()

    def found() -> set[str]:
        looked = list(read_back(opened, names, stop=StopToken(), prove=how == "shorter"))
        assert {each.name for each in looked} == set(names)
        spoilt = {name for each in looked for name in each.spoilt}
        return {each.name for each in looked if each.problem and each.lost} | spoilt

    assert found() == set()
    for name in hit:
        data = vault.objects.pop(name)
        if how != "gone":
            vault.objects[name] = data[:-9] if how == "shorter" else flipped(data, len(data) // 2)
    lost = {*hit, *([versions[1].name] if how == "both" else [])}
    assert found() == lost
    for name in lost:
        vault.objects.pop(name, None)  # as the check sets them aside

    copied = vaulted(workshop, vault, Manner())

    assert not [each for each in copied if each.problem]
    assert found() == set()
    for version in versions:
        assert restored(workshop, vault, version.name) == workshop.restore(version)


def test_what_was_sealed_wrong_at_its_source_shows_at_the_vault_only_to_the_key(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that lost a bit after the id was made: everything is as it was signed."""
    seal = Sealer.seal

    def unwell(self: Sealer, chunk: ChunkId, plaintext: bytes) -> bytearray:
        return seal(self, chunk, flipped(bytes(plaintext), 7))

    monkeypatch.setattr(Sealer, "seal", unwell)
    workshop.back_up(noise(1, 3 * CHUNK))
    vault = MemoryTransport()
    vaulted(workshop, vault, Manner())
    opened = DataStore(vault, workshop.store.facts, workshop.store.keys, unfinished=True)

    def found(*, prove: bool) -> list[str]:
        looked = read_back(opened, workshop.pack_names(), stop=StopToken(), prove=prove)
        return [each.problem for each in looked if each.lost]

    assert found(prove=False) == []
    (said,) = found(prove=True)
    assert "as signed, and yet a data block is not what its id says" in said
