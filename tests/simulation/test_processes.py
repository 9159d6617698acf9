"""Reclaim beside a backup as processes of their own, killed at random: what is kept restores."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from likeness.errors import Damaged
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.format.observations import Weight
from likeness.store.read.versions import read_version, record_names
from likeness.store.write.forgetting import finish_moves, read_forgotten
from likeness.store.write.heads import write_head
from likeness.transport.local import LocalTransport
from tests.simulation.beside import VM, WORK, Attached
from tests.unit.workshop import Workshop, sha256_of


def started(folder: Path, work: str, seed: object) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.simulation.beside", work, str(folder), str(seed)]
    return subprocess.Popen(words, stderr=subprocess.PIPE)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def interleaved(folder: Path, kills: int, seed: int, seconds: float) -> int:
    """Both at work, one of them killed after a random while, again and again."""
    dice = random.Random(seed)
    at_work = {work: started(folder, work, f"{seed} {work}") for work in WORK}
    for nth in range(kills):
        before = len(lines(folder / "acknowledged"))
        deadline = time.monotonic() + 60
        while len(lines(folder / "acknowledged")) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(dice.random() * seconds)
        hit = dice.choice(sorted(at_work))
        assert at_work[hit].poll() is None, at_work[hit].communicate()[1].decode()
        at_work[hit].kill()
        at_work[hit].communicate()
        at_work[hit] = started(folder, hit, f"{seed} {hit} {nth}")
    for process in at_work.values():
        process.kill()
        process.communicate()
    return len(lines(folder / "deleted"))


def require_all_restores(folder: Path) -> int:
    """Every version that is there holds what its disk held, and no other has vanished."""
    here = Attached(folder)
    finish_moves(here.store)
    held = dict(line.split() for line in lines(folder / "journal"))
    acknowledged = set(lines(folder / "acknowledged"))
    names = record_names(here.store, VM)
    for name in names:
        try:
            version = read_version(here.store, name)
        except Damaged:  # somebody was writing it when killed
            assert name not in acknowledged
            continue
        assert sha256_of(here.restore_file(version)) == held[version.record.run]
    assert acknowledged - set(names) <= read_forgotten(here.store).now
    write_head(here.store, clock=here.clock)
    found = [
        str(each)
        for each in audit_presence(here.store, stop=StopToken())
        if each.weight is not Weight.NOTICE
        and not (each.cause == "not a document" and each.name not in acknowledged)
    ]
    assert found == []
    return len(names)


def a_store(folder: Path) -> None:
    (folder / "work").mkdir()
    made = Workshop(folder / "work", transport=LocalTransport(folder / "store", make=True))
    made.key_file.rename(folder / "key")


def test_what_is_kept_restores_whoever_is_killed(tmp_path: Path) -> None:
    a_store(tmp_path)

    deleted = interleaved(tmp_path, kills=3, seed=1, seconds=0.5)

    assert require_all_restores(tmp_path) >= 2
    assert deleted > 0


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(50))
def test_fifty_interleavings(tmp_path: Path, seed: int) -> None:
    a_store(tmp_path)

    interleaved(tmp_path, kills=12, seed=seed, seconds=1.0)

    assert require_all_restores(tmp_path) >= 2
