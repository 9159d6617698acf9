"""The black box: nothing wrong restored, nothing harmful unreported, nothing whole refused."""

import os
import secrets
from collections.abc import Iterator

import pytest

from tests.faults.black_box import Figures, ready_house, spoil
from tests.faults.black_box_store import House
from tests.figures import tell

SEED = 20_260_108
FAULTS = 150
TORTURE_FAULTS = 2_000
IN_ONE = 30


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    house = ready_house(SEED)
    yield house
    house.close()


@pytest.fixture(scope="module")
def total() -> Iterator[Figures]:
    figures = Figures()
    yield figures
    tell(f"black box, seed {SEED}: {figures}")


@pytest.mark.parametrize("first", range(0, FAULTS, IN_ONE))
def test_whatever_happens_to_a_file_is_reported_and_costs_nothing_that_is_whole(
    house: House, total: Figures, first: int
) -> None:
    before = len(total.bad())
    for number in range(first, first + IN_ONE):
        spoil(house, number, total)

    assert total.bad()[before:] == []


@pytest.mark.torture
def test_black_box_of_two_thousand_faults() -> None:
    seed = int(os.environ.get("LIKENESS_SEED") or secrets.randbelow(1 << 32))
    house, figures = ready_house(seed), Figures()
    try:
        for number in range(TORTURE_FAULTS):
            spoil(house, number, figures)
    finally:
        house.close()
    tell(f"black box, LIKENESS_SEED={seed}: {figures}")

    assert figures.bad() == []
