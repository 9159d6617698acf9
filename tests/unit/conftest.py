"""What the engine's tests are given to work with."""

from pathlib import Path

import pytest

from likeness.codec.aead import Suite
from tests.unit.workshop import Maker, Workshop


@pytest.fixture
def make_workshop(tmp_path: Path) -> Maker:
    """Makes workshops, each with an empty store of its own."""

    def make(**options: object) -> Workshop:
        return Workshop(tmp_path, **options)  # type: ignore[arg-type]  # handed on

    return make


@pytest.fixture
def workshop(make_workshop: Maker) -> Workshop:
    """A workshop with an empty store in memory."""
    return make_workshop()


@pytest.fixture(params=list(Suite), ids=lambda suite: suite.name)
def suite(request: pytest.FixtureRequest) -> Suite:
    """Each way of sealing in turn."""
    chosen: Suite = request.param
    return chosen
