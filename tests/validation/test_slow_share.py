"""V5 over a line that is really slow: the page moves all the time, also inside one pack."""

import contextvars
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from pydantic import SecretStr

from catalog.values import Verdict
from flows.validate import validate
from tests.flows.scene import Scene, noise
from tests.smb.server import SmbServer
from tests.smb.wire import Frame, Wire

pytestmark = [pytest.mark.prefect, pytest.mark.lab, pytest.mark.smb]
MIB = 1 << 20
DISK_BYTES = 4 * MIB
BYTES_A_SECOND = 0.35 * MIB
MAX_PAUSE_SECONDS = 10.0
_PERCENT = re.compile(r"\| validate \| .* \| reading \| .* \| ([0-9.]+) % of ")


def newest_artifact(key: str) -> Any:
    """What an artifact holds now; none if there is none."""
    named = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=named, sort=ArtifactSort.UPDATED_DESC, limit=1
        )
    return found[0].data if found else None


@pytest.fixture
def server() -> Generator[SmbServer, None, None]:
    made = SmbServer()
    try:
        yield made
    finally:
        made.remove()


def slow(frame: Frame) -> Frame:
    time.sleep(len(frame) / BYTES_A_SECOND)
    return frame


def percents(page: str, until: Callable[[], bool]) -> list[tuple[float, float]]:
    """Each new percentage that the page shows, and when it was seen."""
    seen: list[tuple[float, float]] = []
    while not until():
        found = _PERCENT.search(str(newest_artifact(page)))
        if found and (not seen or seen[-1][1] != float(found[1])):
            seen.append((time.monotonic(), float(found[1])))
        time.sleep(0.2)
    return seen


def test_v5_the_page_moves_while_one_pack_comes_over_a_slow_line(
    new_site: Callable[..., Scene], server: SmbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.progress.EVERY_SECONDS", 1.5)
    scene = new_site({"web": [noise("slow", DISK_BYTES)]})
    scene.back_up("web")
    (pack,) = scene.packs()
    assert pack.stat().st_size >= DISK_BYTES
    server.use_folder("ads", scene.place)
    server.start()
    with Wire(server.port, change=slow) as wire:
        scene.save(
            data_store={
                "place": f"smb://127.0.0.1:{wire.port}/ads",
                "username": server.username,
                "password": SecretStr(server.password),
            }
        )
        ended: list[Any] = []
        context = contextvars.copy_context()

        def run() -> None:
            ended.append(context.run(validate, site=scene.name, return_state=True))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        seen = percents(f"dashboard-{scene.name}", lambda: not thread.is_alive())
        thread.join()

    assert ended[0].is_completed(), ended[0].message
    assert scene.verdicts() == [Verdict.GOOD]
    shown = [percent for _, percent in seen]
    inside = [at for at, percent in seen if 0 < percent < 99]
    assert len(inside) >= 3, seen
    assert shown == sorted(shown)
    pauses = [later - earlier for earlier, later in itertools.pairwise(inside)]
    assert max(pauses) <= MAX_PAUSE_SECONDS, seen
    assert "| validate | nothing |" in newest_artifact(f"dashboard-{scene.name}")
    table = json.loads(newest_artifact(f"versions-{scene.name}"))
    assert [row["verdict"] for row in table] == ["✅"]
