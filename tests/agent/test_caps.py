"""What an agent may take of its machine: threads, memory, speed, and its place in the queue."""

import asyncio
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from likeness.agent.limits import fitting
from likeness.agent.protocol import AGENT_PACK_BYTES
from likeness.transport.local import LocalTransport
from tests.agent.orders import Ordered
from tests.smb.server import SmbServer
from tests.unit.workshop import MIB, Workshop, noise


@pytest.mark.needs("ionice")
def test_an_agent_stays_within_what_it_was_told(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    shop = Workshop(tmp_path, transport=LocalTransport(tmp_path / "large"), chunk_bytes=256 << 10)
    ordered = Ordered.of(shop, noise(1, 40 * MIB))
    seen: dict[str, str] = {}

    def look(process: asyncio.subprocess.Process) -> None:
        def soon() -> None:
            while ordered.log.packs < 1:
                time.sleep(0.01)
            stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            seen["nice"] = stat[16]
            seen["threads"] = stat[17]
            asked = ["ionice", "-p", str(process.pid)]
            seen["io"] = subprocess.run(asked, capture_output=True, text=True, check=True).stdout

        threading.Thread(target=soon, daemon=True).start()

    caps: dict[str, Any] = {
        "nice": 7,
        "io_class": "idle",
        "memory_mib": 100,
        "bytes_per_second": 20 * MIB,
    }
    begun = time.monotonic()
    done = ordered.attempt(**caps, pack_bytes=AGENT_PACK_BYTES, workers=16).run(look)

    assert time.monotonic() - begun > 1.5
    assert done.peak_bytes < 100 * MIB
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert (int(seen["nice"]), seen["io"].strip()) == (min(here + 7, 19), "idle")
    assert int(seen["threads"]) < 12


@pytest.mark.smb
def test_an_agent_of_whom_nothing_is_said_needs_little_memory_over_a_share(tmp_path: Path) -> None:
    server = SmbServer()
    server.start()
    try:
        store = server.home / "shares" / "ads" / "store"
        store.mkdir()
        shop = Workshop(tmp_path, transport=LocalTransport(store), chunk_bytes=256 << 10)
        disk = tmp_path / "disk.raw"
        with disk.open("wb") as file:
            for seed in range(2):
                file.write(noise(seed, 64 * MIB))
        attempt = Ordered.of(shop, disk).attempt(
            place=f"smb://127.0.0.1:{server.port}/ads/store",
            username=server.username,
            password=server.password,
            pack_bytes=AGENT_PACK_BYTES,
            workers=0,
        )
        done = attempt.run()
    finally:
        server.remove()
    print(f"peak {done.peak_bytes / 1e6:.0f} MB")
    assert done.counts.sent_bytes > 128 * MIB
    assert done.peak_bytes < 150_000_000


def test_threads_and_packs_become_fewer_and_smaller_until_they_fit(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = Ordered.of(workshop, noise(1, MIB))

    def fits(memory: int, workers: int = 4) -> tuple[int, int]:
        order = ordered.attempt(
            memory_mib=memory, workers=workers, pack_bytes=AGENT_PACK_BYTES
        ).order
        found = fitting(order.header)
        return found.workers, found.pack_bytes

    assert fits(0) == (4, AGENT_PACK_BYTES)
    assert fits(1000, workers=16) == (16, AGENT_PACK_BYTES)
    assert fits(150) == (2, AGENT_PACK_BYTES)
    assert fits(100) == (1, 3 * MIB)
    assert fits(1) == (1, MIB)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert fits(0, workers=0) == (2, AGENT_PACK_BYTES)
    assert fits(1000, workers=0) == (4, AGENT_PACK_BYTES)
