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


def test_threads_and_packs_become_fewer_and_smaller_until_they_fit(workshop: Workshop) -> None:
    ordered = Ordered.of(workshop, noise(1, MIB))

    def fits(memory: int, workers: int = 4) -> tuple[int, int]:
        order = ordered.attempt(
            memory_mib=memory, workers=workers, pack_bytes=AGENT_PACK_BYTES
        ).order
        found = fitting(order.header)
        return found.workers, found.pack_bytes

    assert fits(0) == (4, AGENT_PACK_BYTES)
    assert fits(1000, workers=16) == (16, AGENT_PACK_BYTES)
    assert fits(150) == (3, AGENT_PACK_BYTES)
    assert fits(100) == (1, 3 * MIB + MIB // 2)
    assert fits(1) == (1, MIB)
