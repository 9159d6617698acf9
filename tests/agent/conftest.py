"""A store in a folder, and agents that are processes of their own."""

from pathlib import Path

import pytest

from likeness.transport.local import LocalTransport
from tests.unit.workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    (tmp_path / "store").mkdir()
    return Workshop(tmp_path, transport=LocalTransport(tmp_path / "store"))
