"""Workshops for the tests of faults."""

from pathlib import Path

import pytest

from tests.unit.workshop import Maker, Workshop


@pytest.fixture
def make_workshop(tmp_path: Path) -> Maker:
    """Makes workshops, each with an empty store of its own."""

    def make(**options: object) -> Workshop:
        return Workshop(tmp_path, **options)  # type: ignore[arg-type]  # handed on

    return make
