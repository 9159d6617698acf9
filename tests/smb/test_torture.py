"""Long random abuse of a server under load: nothing hangs, leaks, or is lost once acknowledged."""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from likeness.errors import NameTaken, ObjectMissing, ShareUnreachable
from tests.smb.server import SmbServer

pytestmark = [pytest.mark.smb, pytest.mark.torture, pytest.mark.timeout(900)]

SECONDS = float(os.environ.get("LIKENESS_SMB_TORTURE_SECONDS", "90"))
DEADLINE = 3.0
MARGIN = 15.0


class Load:
    """Many threads that write, read and list through one transport."""

    def __init__(self, server: SmbServer, seed: int) -> None:
        self.transport = server.transport(connections=4, deadline_seconds=DEADLINE, idle_seconds=1)
        self.kept: dict[str, bytes] = {}
        self.counts = {"created": 0, "unknown": 0, "read": 0, "unread": 0}
        self.slowest = 0.0
        self.wrong: list[str] = []
        self._seed = seed
        self._lock = threading.Lock()
        self._end = time.monotonic() + SECONDS

    def work(self, number: int) -> None:
        chance = random.Random(self._seed + number)
        turn = 0
        while time.monotonic() < self._end:
            begun = time.monotonic()
            if chance.random() < 0.6:
                self._create(f"packs/{chance.randrange(8)}/{number:02d}-{turn:05d}", chance)
            else:
                self._read_back(chance)
            turn += 1
            with self._lock:
                self.slowest = max(self.slowest, time.monotonic() - begun)

    def _create(self, name: str, chance: random.Random) -> None:
        data = os.urandom(1000) * chance.choice([1, 50, 3000])
        try:
            self.transport.create(name, [data[:500], data[500:]])
        except ShareUnreachable:
            self._count("unknown")
        else:
            with self._lock:
                self.kept[name] = data
            self._count("created")

    def _read_back(self, chance: random.Random) -> None:
        with self._lock:
            name = chance.choice(list(self.kept)) if self.kept else ""
        if not name:
            return
        try:
            if self.transport.read(name) != self.kept[name]:
                self.wrong.append(name)
            self._count("read")
        except ShareUnreachable:
            self._count("unread")
        except (ObjectMissing, NameTaken) as told:
            self.wrong.append(f"{name}: {told}")

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


def abuse(server: SmbServer, load: Load, chance: random.Random) -> None:
    while time.monotonic() < load._end - 5:
        time.sleep(chance.uniform(0.1, 1.5))
        match chance.randrange(5):
            case 0 | 1:
                server.kill_connections()
            case 2:
                with server.frozen():
                    time.sleep(chance.uniform(0.1, DEADLINE + 1))
            case 3:
                server.restart()
            case 4:
                server.kill()
                time.sleep(chance.uniform(0, 1))
                server.start()


@pytest.mark.parametrize("seed", [1, 2])
def test_under_abuse_nothing_hangs_leaks_or_is_lost(own_smb_server: SmbServer, seed: int) -> None:
    load = Load(own_smb_server, seed)
    descriptors, others = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    with ThreadPoolExecutor(12) as threads:
        done = [threads.submit(load.work, number) for number in range(11)]
        abuse(own_smb_server, load, random.Random(seed))
        for future in done:
            future.result()

    print(f"seed {seed}: {load.counts}, slowest call {load.slowest:.1f} s")
    assert load.wrong == []
    assert load.counts["created"] > 20
    assert load.slowest < 3 * DEADLINE + MARGIN
    found = {entry.name: entry.size_bytes for entry in load.transport.entries("")}
    for name, data in load.kept.items():
        assert found[name] == len(data)
        assert load.transport.read(name) == data
    load.transport.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 2
    assert threading.active_count() <= others
