"""A VM is backed up whatever it and its disks are called; the log keeps what is cut."""

import logging
from collections.abc import Callable

import pytest

from likeness.store.format.documents import MAX_TEXT
from tests.flows.scene import MIB, Scene

pytestmark = [pytest.mark.prefect, pytest.mark.lab]

NAME = "the VM of the third floor, " * 200 + "the end"


def test_a_vm_with_an_endless_name_is_backed_up_and_its_name_stands_in_the_log(
    new_site: Callable[..., Scene], caplog: pytest.LogCaptureFixture
) -> None:
    site = new_site({NAME: [MIB]})

    with caplog.at_level(logging.WARNING):
        ended = site.back_up(site.pool.db.get("VM", site.pool.vm(NAME), "uuid"))

    assert ended.name == "Completed", ended.message
    (version,) = site.stored()
    assert version.record.vm_name[:50] == NAME[:50]
    assert len(version.record.vm_name) == MAX_TEXT
    assert any(NAME in record.getMessage() for record in caplog.records)
    assert site.read_back(version) == site.disks(NAME)
