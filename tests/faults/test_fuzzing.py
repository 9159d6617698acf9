"""Fuzzing: whatever is stored, parsers give an answer or an error they declare, and stay small."""

import random
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.torture.targets import TARGETS, harmless

ACCEPTS_NOTHING_MADE_UP = {
    "raw_pack",
    "raw_document",
    "raw_document_text",
    "raw_sealed_object",
    "slot",
}


@pytest.mark.parametrize("name", TARGETS)
def test_stored_bytes_give_declared_errors_only(name: str) -> None:
    answers: set[bool] = set()

    @settings(max_examples=300, suppress_health_check=list(HealthCheck), database=None)
    @given(st.binary(max_size=600))
    def fuzz(data: bytes) -> None:
        answers.add(harmless(TARGETS[name], data))

    fuzz()

    rng = random.Random(name)
    answers.update(harmless(TARGETS[name], rng.randbytes(rng.randint(0, 900))) for _ in range(700))
    assert False in answers, "nothing was refused: the target tries nothing"
    if name not in ACCEPTS_NOTHING_MADE_UP:
        assert True in answers, "nothing was accepted: the target is never got through"


MEMORY = """
import random
from pathlib import Path
from tests.torture.targets import TARGETS, harmless
def most():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
before, rng = most(), random.Random(4)
for target in TARGETS.values():
    for _ in range(400):
        harmless(target, rng.randbytes(rng.randint(0, 900)))
print(most() - before)
"""


def test_no_input_takes_much_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=200, check=False
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100, "megabytes"
