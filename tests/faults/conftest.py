"""Workshops for the tests of faults."""

from pathlib import Path

import pytest

from tests.faults.matrix import REPORTS
from tests.unit.workshop import Maker, Workshop


@pytest.fixture
def make_workshop(tmp_path: Path) -> Maker:
    """Makes workshops, each with an empty store of its own."""

    def make(**options: object) -> Workshop:
        return Workshop(tmp_path, **options)  # type: ignore[arg-type]  # handed on

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what was counted over all faults."""
    for line in REPORTS:
        terminalreporter.write_line(line)
