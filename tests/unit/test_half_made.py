"""Trying a place out leaves it as it was."""

from pathlib import Path

from likeness.store.format import layout
from likeness.store.keys.half_made import try_out
from likeness.transport.local import LocalTransport


def test_an_inbox_that_was_there_stays_with_its_rights(tmp_path: Path) -> None:
    place = LocalTransport(tmp_path)
    try_out(place)
    assert list(tmp_path.iterdir()) == []
    inbox = tmp_path / layout.INBOX
    inbox.mkdir()
    inbox.chmod(0o731)

    try_out(place)

    assert list(tmp_path.rglob("*")) == [inbox]
    assert inbox.stat().st_mode & 0o777 == 0o731
