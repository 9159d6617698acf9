"""Workshops for the tests of faults."""

from collections.abc import Generator
from functools import cache
from pathlib import Path

import pytest

from likeness.cli.arguments import parser
from tests.unit.workshop import Maker, Workshop


@pytest.fixture(scope="session", autouse=True)
def _one_parser() -> Generator[None, None, None]:
    """What can be typed is put together once, and not for each of hundreds of command lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("likeness.cli.running.parser", cache(parser))
        yield


@pytest.fixture
def make_workshop(tmp_path: Path) -> Maker:
    """Makes workshops, each with an empty store of its own."""

    def make(**options: object) -> Workshop:
        return Workshop(tmp_path, **options)  # type: ignore[arg-type]  # handed on

    return make
