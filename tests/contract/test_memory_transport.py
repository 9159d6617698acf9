"""What the memory transport promises beyond the contract."""

import pytest

from likeness.errors import ShareFull
from likeness.transport.base import Space
from tests.support.memory import MemoryTransport


def test_it_is_full_when_its_capacity_is_used_up() -> None:
    transport = MemoryTransport(capacity_bytes=100)
    transport.create("a", [bytes(60)])

    with pytest.raises(ShareFull, match="no room left for b"):
        transport.create("b", [bytes(41)])

    assert transport.space() == Space(100, 40)
    transport.create("c", [bytes(40)])
    assert set(transport.objects) == {"a", "c"}


def test_its_objects_can_be_damaged_from_outside() -> None:
    transport = MemoryTransport()
    transport.create("a", [b"good"])

    transport.objects["a"] = b"evil"

    assert transport.read("a") == b"evil"
