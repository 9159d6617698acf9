"""kill -9 in the middle: the next run goes on where it was, no verdict is lost or invented."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from catalog.at_work import list_work
from catalog.progress import list_validations
from catalog.validation import packs_to_prove
from catalog.values import Verdict
from likeness.clock import system_clock
from likeness.model.ids import random_name
from tests.flows.waiting import wait_until
from tests.unit.workshop import CHUNK, noise
from tests.validation.house import MONTH, House

ROOT = Path(__file__).parents[2]


def start(house: House, seconds_a_pack: float) -> subprocess.Popen[str]:
    site = house.folder / "site.json"
    store, catalog = house.site.data_store, house.site.catalog
    places = {"place": store.place, "key_file": store.key_file, "folder": catalog.folder}
    site.write_text(json.dumps(places))
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.validation.killed"),
            *(str(site), random_name(), str(seconds_a_pack)),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def unproved(house: House) -> int:
    return len(packs_to_prove(house.catalog, system_clock(), MONTH))


def test_a_killed_validation_is_taken_up_where_it_was(house: House) -> None:
    house.clock.now = system_clock()
    house.back_up("web", noise("web", 40 * CHUNK))
    second = house.back_up("db", noise("db", 12 * CHUNK))
    all_packs = unproved(house)
    house.spoil(house.pack_of(second))
    assert all_packs >= 12
    process = start(house, 1.6)
    try:
        wait_until(lambda: unproved(house) <= all_packs - 3, "some packs are proved", pause=0.2)
        wait_until(
            lambda: any(work.percent > 0 for work in list_work(house.catalog)),
            "the page was told of it",
            pause=0.2,
        )
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    left = unproved(house)
    (stopped,) = list_validations(house.catalog)
    assert 0 < left < all_packs
    assert stopped.finished_at is None
    assert 0 < stopped.percent < 100
    assert house.rows("web")[0].verdict is Verdict.UNCHECKED  # nothing is invented
    at_the_kill = house.verdicts()
    (shown,) = list_work(house.catalog)
    assert 0 < shown.percent < 100

    again = start(house, 0.3)
    went_on: list[float] = []
    while again.poll() is None:
        went_on += [work.percent for work in list_work(house.catalog) if work.run != shown.run]
        time.sleep(0.25)
    said, problem = again.communicate(timeout=120)

    assert again.returncode == 0, problem
    assert went_on[0] >= shown.percent  # it begins where the page was
    assert went_on == sorted(went_on)
    assert list_work(house.catalog) == []
    read, good = map(int, said.split())
    assert read <= left + 1  # what was proved is not read again; the damaged pack may be
    assert good == 1
    assert house.verdicts() == {"web": [Verdict.GOOD], "db": [Verdict.BAD]}
    (done,) = list_validations(house.catalog)
    assert done.begun_at == stopped.begun_at
    assert done.todo_bytes >= stopped.done_bytes
    assert (done.finished_at is not None, round(done.percent)) == (True, 100)
    assert at_the_kill["db"][0] in (Verdict.UNCHECKED, Verdict.BAD)
