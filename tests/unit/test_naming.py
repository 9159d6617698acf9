"""Names of restored files fit every file system, whatever people call their VMs."""

from datetime import UTC, datetime

import pytest

from likeness.model.naming import disk_file_name, disk_label

AT = datetime(2030, 1, 31, 22, 0, 1, tzinfo=UTC)


def test_a_restored_file_is_named_by_vm_date_and_position() -> None:
    assert disk_file_name("web", AT, "0") == "web-2030-01-31-220001-disk0.raw"
    assert disk_label("0", "system") == "disk 0 (system)"
    assert disk_label("1", "") == "disk 1"


@pytest.mark.parametrize(
    "vm",
    ["../../etc/passwd", "a\0b", "  ", ".", "web\n", "Büro/1", "x" * 4000, "機" * 90, "\ud800"],
)
def test_no_name_of_a_vm_leads_out_of_the_folder_or_is_too_long(vm: str) -> None:
    name = disk_file_name(vm, AT, "0")

    assert "/" not in name
    assert "\0" not in name
    assert len(name.encode()) <= 255
    assert not name.startswith((".", "-"))
    assert name.endswith("-2030-01-31-220001-disk0.raw")
