"""The fault matrix: every kind of object, every fault; no restore lies, no bad version is green."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.matrix import FAULTS, KINDS, Bench, Figures
from tests.figures import tell

SEED = 20_260_101
CELLS = [(kind, fault) for kind in KINDS for fault in FAULTS]
TIMES = 2
TORTURE_TIMES = 40


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("matrix"), SEED)


@pytest.fixture(scope="module")
def total() -> Iterator[Figures]:
    """Adds up over the whole matrix, and says so at its end."""
    figures = Figures()
    yield figures
    tell(f"fault matrix, seed {SEED}: {figures}")


@pytest.mark.parametrize(("kind", "fault"), CELLS, ids=[f"{f} of {k}" for k, f in CELLS])
def test_a_fault_never_gives_wrong_bytes_nor_a_version_that_is_wrongly_called_good(
    bench: Bench, total: Figures, kind: str, fault: str
) -> None:
    figures = Figures()
    for number in range(TIMES):
        figures.add(bench.spoil(kind, fault, number))
    total.add(figures)

    assert figures.wrong == []
    assert figures.unmarked == []
    assert figures.undeclared == []


def test_the_matrix_is_as_big_as_was_promised() -> None:
    assert len(CELLS) * TIMES >= 200
    assert len(CELLS) * TORTURE_TIMES >= 2000


MENDED_BY_COPIES = {"map", "index segment", "head", "public keys", "owner", "format document"}


@pytest.mark.parametrize("kind", sorted(MENDED_BY_COPIES | {"catalog copy", "catalog part"}))
@pytest.mark.parametrize("fault", ["bit flip", "truncation", "deletion"])
def test_one_fault_of_what_is_there_twice_or_can_be_made_again_costs_no_version(
    bench: Bench, kind: str, fault: str
) -> None:
    figures = bench.spoil(kind, fault, 0)

    assert figures.outcomes["restored"] == len(bench.told)


@pytest.mark.parametrize("fault", ["bit flip", "truncation", "deletion", "swap", "zero fill"])
def test_a_fault_of_a_version_record_costs_that_version_alone(bench: Bench, fault: str) -> None:
    figures = bench.spoil("version record", fault, 0)

    # Two records in each other's place are found by what they say of themselves.
    assert figures.outcomes["refused"] == (0 if fault == "swap" else 1)
    assert figures.outcomes["restored"] == len(bench.told) - figures.outcomes["refused"]


@pytest.mark.torture
def test_thousands_of_faults_give_no_wrong_bytes(
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("LIKENESS_SEED") or secrets.randbelow(1 << 32))
    bench, figures = Bench(tmp_path, seed), Figures()
    for number in range(TORTURE_TIMES):
        for kind, fault in CELLS:
            figures.add(bench.spoil(kind, fault, number))
    tell(f"fault matrix, LIKENESS_SEED={seed}: {figures}")

    assert figures.faults >= 2000
    assert figures.wrong == []
    assert figures.unmarked == []
    assert figures.undeclared == []
